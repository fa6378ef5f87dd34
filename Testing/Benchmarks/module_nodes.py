"""What one lymph node costs in the module on a large CT, against the way over the whole volume. Needs slicer-core.

    python Testing/Benchmarks/module_nodes.py

Both ways run in turn in one process; what counts is their ratio.
"""

import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "LNSynth"), str(ROOT / "Testing" / "Python" / "fixtures")]

import mrml  # noqa: E402
from LNSynthLogic import anatomy, grids, inputs, segments  # noqa: E402
from mrml import slicer  # noqa: E402

from LNSynthLib.images.volume import Volume  # noqa: E402

SHAPE, SPACING, NODES, REPEATS = (512, 512, 400), (0.8, 0.8, 1.0), 20, 5
LOGIC = slicer.vtkSlicerSegmentationsModuleLogic


def seconds(function) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return sorted(times)[REPEATS // 2]


def whole_write(scene, segmentation, segment_id, ct, start, mask):
    """As slicer.util.updateSegmentBinaryLabelmapFromArray does it."""
    array = np.zeros(SHAPE[::-1], np.uint8).T
    array[tuple(slice(s, s + n) for s, n in zip(start, mask.shape, strict=True))] = mask
    labelmap = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    labelmap.CopyOrientation(ct)
    slicer.util.updateVolumeFromArray(labelmap, array.T)
    ids = mrml.vtk.vtkStringArray()
    ids.InsertNextValue(segment_id)
    LOGIC.ImportLabelmapToSegmentationNode(labelmap, segmentation, ids)
    scene.RemoveNode(labelmap)


def whole_read(scene, segmentation, segment_id, ct):
    """As slicer.util.arrayFromSegmentBinaryLabelmap does it."""
    labelmap = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    LOGIC.ExportSegmentsToLabelmapNode(segmentation, [segment_id], labelmap, ct)
    found = grids.tight((0, 0, 0), slicer.util.arrayFromVolume(labelmap).T > 0)
    scene.RemoveNode(labelmap)
    return found


def main() -> None:
    scene = mrml.new_scene()
    ct = mrml.add_ct(scene, np.zeros(SHAPE, np.int16), np.diag([*SPACING, 1.0]))
    segmentation = segments.new_segmentation(scene, ct, "Nodes")
    mask = mrml.ball((31, 31, 25), (15, 15, 12), 11.0, SPACING)
    rng = np.random.default_rng(0)
    starts = [tuple(int(rng.integers(100, n - 140)) for n in SHAPE) for _ in range(NODES)]
    ids = [segments.add_node(segmentation, ct, start, mask) for start in starts]
    assert whole_read(scene, segmentation, ids[0], ct)[0] == segments.node_crop(segmentation, ids[0], ct)[0]

    def compare(name, crop, whole):
        a, b = seconds(crop), seconds(whole)
        print(f"{name:<44}{a * 1000:9.2f} ms {b * 1000:9.1f} ms   {b / a:8.0f} x")

    print(f"CT of {SHAPE}, {NODES} nodes of {int(mask.sum())} voxels; median of {REPEATS}")
    print(f"{'':<44}{'crop':>9}    {'whole':>9}")
    compare("set_node", lambda: segments.set_node(segmentation, ids[3], ct, starts[3], mask),
            lambda: whole_write(scene, segmentation, ids[3], ct, starts[3], mask))
    segments.set_node(segmentation, ids[3], ct, starts[3], mask)
    compare("node_crop", lambda: segments.node_crop(segmentation, ids[3], ct),
            lambda: whole_read(scene, segmentation, ids[3], ct))
    segmentation.GetSegmentation().CollapseBinaryLabelmaps(False)
    began = time.perf_counter()
    segments.node_crop(segmentation, ids[0], ct)
    print(f"node_crop, first of a shared labelmap       {(time.perf_counter() - began) * 1000:9.2f} ms")
    compare("node_crop, next of a shared labelmap", lambda: segments.node_crop(segmentation, ids[3], ct),
            lambda: whole_read(scene, segmentation, ids[3], ct))
    began = time.perf_counter()
    segments.set_node(segmentation, ids[3], ct, starts[3], mask)
    print(f"set_node, out of a shared labelmap          {(time.perf_counter() - began) * 1000:9.2f} ms")

    organs = np.zeros(SHAPE[::-1], np.uint8).T
    organs[60:450, 60:450, 10:390] = 5
    organs[200:300, 200:300, 50:350] = 52
    began = time.perf_counter()
    node = anatomy.add_anatomy(scene, ct, Volume(organs, grids.affine_of(ct)), "Anatomy")
    print(f"add_anatomy                                 {(time.perf_counter() - began) * 1000:9.1f} ms")
    box = tuple(slice(s, s + 80) for s in starts[3])
    compare("labels of 80^3 voxels", lambda: anatomy.labels(node, ct, box), lambda: anatomy.labels(node, ct))
    print(f"checks of the CT                            {seconds(lambda: inputs.checks(ct)) * 1000:9.2f} ms")


if __name__ == "__main__":
    main()
