"""How long a random 128^3 crop of a prepared case takes to read, against loading the whole case, in one run.

    python Testing/Benchmarks/crop_read.py [--spacing 0.8] [--crops 40]

The case is a phantom drawn at 0.8 mm, which has the voxels of a large adult's abdomen at 1 mm. Both sides read CT,
anatomy and nodes through PreparedCase, with one thread, from a warm disk cache. Exit status 1 when the crop takes 5 %
or more of the whole.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from LNSynthLib.cases.prepared import PreparedCase, write_prepared
from LNSynthLib.masks.body import label_map
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.phantom.phantom import phantom

SIDE = 128
LIMIT = 0.05


def make_case(folder: Path, spacing: float) -> PreparedCase:
    drawn = phantom(0, spacing=spacing)
    hu = drawn.ct.array.astype(np.float32)
    labels = label_map(hu, drawn.anatomy.array, (spacing,) * 3, LabelTable.load("abdomen14"), drawn.nodes.array)
    info = {"id": "phantom", "split": "train", "kind": "phantom", "spacing_mm": [spacing] * 3,
            "affine": drawn.ct.affine.tolist()}
    return write_prepared(folder, np.clip((hu + 120) / 180 - 1, -1, 1), labels, drawn.nodes.array, info)


def read(folder: Path, box=None) -> float:
    """Seconds to open the case and read its three arrays."""
    began = time.perf_counter()
    case = PreparedCase.open(folder)
    case.ct(box), case.anatomy(box), case.nodes(box)
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spacing", type=float, default=0.8, help="of the phantom, mm")
    parser.add_argument("--crops", type=int, default=40)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(Path(folder) / "case", args.spacing)
        size = sum(f.stat().st_size for f in case.folder.glob("*.b2nd")) / 1e6
        read(case.folder)
        whole, crops = [], []
        for n in range(args.crops):  # interleaved, so that a busy machine slows both alike
            start = [int(rng.integers(0, max(1, length - SIDE + 1))) for length in case.shape]
            crops.append(read(case.folder, tuple(slice(s, s + SIDE) for s in start)))
            if n % 4 == 0:
                whole.append(read(case.folder))
    crop, all_of_it = statistics.median(crops), statistics.median(whole)
    voxels = np.prod(case.shape)
    print(f"case  {' x '.join(map(str, case.shape))} voxels ({voxels / 1e6:.0f} million), {size:.0f} MB on disk")
    print(f"whole {all_of_it * 1e3:7.1f} ms")
    print(f"crop  {crop * 1e3:7.1f} ms   {crop / all_of_it:.1%} of the whole ({SIDE**3 / voxels:.1%} of its voxels)")
    return 0 if crop / all_of_it < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
