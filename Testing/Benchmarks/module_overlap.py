"""How long the edits of one node take in Slicer's own process, on a CT of full resolution (needs slicer-core).

    python Testing/Benchmarks/module_overlap.py [--spacing 0.8 0.8 1.0]

For nodes of three sizes: beginning a move by hand, the first look at what it covers, each further step of the drag,
the write at its end, a random affine and a random elastic change, and the table's measures. The CT is a phantom with
its organs. Medians of processor time, run it with OMP_NUM_THREADS=1. Exit status 1 when a step of a drag takes 40 ms or
more (25 pictures a second), or anything else 300 ms or more.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "LNSynth"), str(ROOT / "Testing" / "Python" / "fixtures")]

import mrml  # noqa: E402
from LNSynthLogic import grids, node_edits, node_move, node_table, segments  # noqa: E402
from mrml import slicer  # noqa: E402

from LNSynthLib.phantom.phantom import phantom  # noqa: E402
from LNSynthLib.runtime.errors import LNSynthError  # noqa: E402

STEP, EDIT = 0.040, 0.300


def timed(act) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def room(drawn, spacing) -> np.ndarray:
    """The voxel of fat that is farthest from everything else."""
    fat = (drawn.ct.array > -160) & (drawn.ct.array < -40) & (drawn.anatomy.array == 0) & (drawn.nodes.array == 0)
    few = fat[::3, ::3, ::3]
    return 3 * np.array(np.unravel_index(ndimage.distance_transform_edt(few, sampling=spacing).argmax(), few.shape))


def drag(session, steps: int) -> list[float]:
    times = []
    for i in range(1, steps + 1):
        matrix = np.eye(4)
        matrix[:3, :3] = mrml.rotation(2 * i, i, 0)
        matrix[:3, 3] = 0.3 * i, -0.2 * i, 0.1 * i
        slicer.util.updateTransformMatrixFromArray(session.transform, matrix)
        times.append(timed(session.overlap))
    return times


def change(nodes, node, ct, anatomy, kind: str, seed: int) -> None:
    try:
        node_edits.vary(nodes, node, ct, anatomy, kind, np.random.default_rng(seed), lambda: None)
    except LNSynthError:
        pass  # no draw fitted: that took the longest


def measure(nodes, ct, anatomy) -> None:
    table = node_table.NodeTable()
    while not table.measure(nodes, ct, anatomy):
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spacing", type=float, nargs=3, default=(0.8, 0.8, 1.0), help="of the phantom, mm")
    args = parser.parse_args()
    spacing = tuple(args.spacing)
    drawn, scene = phantom(0, spacing=spacing), mrml.new_scene()
    ct = mrml.add_ct(scene, drawn.ct.array, drawn.ct.affine)
    anatomy = mrml.add_anatomy(scene, ct, drawn.anatomy.array)
    print(f"CT {' x '.join(map(str, grids.shape_of(ct)))} voxels of {' x '.join(map(str, spacing))} mm")
    middle, worst_step, worst_edit = room(drawn, spacing), 0.0, 0.0
    for size in (10, 20, 30):
        reach = np.ceil(size / 2 / np.array(spacing)).astype(int)
        mask = mrml.ball(2 * reach + 1, reach, size / 2, spacing)
        nodes = segments.new_segmentation(scene, ct, "Nodes")
        node = segments.add_node(nodes, ct, middle - reach, mask)
        sessions, begin, first, steps, write = [], [], [], [], []
        for _ in range(5):
            begin.append(timed(lambda n=nodes, i=node, s=sessions: s.append(
                node_move.begin(n, i, ct, scene, anatomy))))
            first.append(timed(sessions[-1].overlap))
            steps += drag(sessions[-1], 20)
            write.append(timed(lambda s=sessions[-1]: s.apply(lambda: None)))
            segments.set_node(nodes, node, ct, middle - reach, mask)
        edits = {kind: [timed(lambda k=kind, s=s, n=nodes, i=node: change(n, i, ct, anatomy, k, s)) for s in range(10)]
                 for kind in ("affine", "elastic")}
        table = [timed(lambda n=nodes: measure(n, ct, anatomy)) for _ in range(5)]
        medians = [statistics.median(times) for times in (begin, first, steps, write, *edits.values(), table)]
        worst_step = max(worst_step, medians[2])
        worst_edit = max(worst_edit, *medians[:2], *medians[3:])
        print(f"node {size} mm: " + ", ".join(f"{name} {1e3 * t:.0f} ms" for name, t in zip(
            ("begin", "first look", "step of a drag", "write", "affine", "elastic", "table"), medians, strict=True)))
    return 0 if worst_step < STEP and worst_edit < EDIT else 1


if __name__ == "__main__":
    sys.exit(main())
