"""What random changes do to the volume of a node, by spacing and size.

    python Testing/Benchmarks/transform_volumes.py [--nodes 200]

Ellipsoids of four sizes (axes 1.25 : 1 : 0.8, turned at random, anywhere between voxels) on five grids change by
`conditions.transforms.vary_one` with all the room they need: geometric mean of the volume after over the volume before,
with its standard error, for one affine change, one elastic one, one of either kind, and ten of either kind in a row.
Exit status 1 where one of them is more than 2 % from 1 and that is no chance (beyond three standard errors).
"""

import argparse
import sys

import numpy as np
from scipy import ndimage

from LNSynthLib.cases.labels import LabelTable
from LNSynthLib.conditions.transforms import VarySettings, vary_one

SPACINGS = ((1, 1, 1), (2.5, 2.5, 2.5), (0.7, 0.7, 5), (0.98, 0.98, 2), (3, 3, 3))
SIZES_MM = (6, 8, 14, 27)
CHANGES = {"affine": (0.0, 1), "elastic": (1.0, 1), "either": (0.5, 1), "ten of either": (0.5, 10)}
TABLE = LabelTable.load("abdomen17")
ROOM_MM = 22.0  # around a node, for translation and growth


def ellipsoid(size_mm, spacing, rng) -> np.ndarray:
    """A node in its bounding box, bool; drawn again where it lies between the slices."""
    spacing, mask = np.asarray(spacing, float), np.zeros(1, bool)
    radii = size_mm / 2 * np.array([1.25, 1.0, 0.8])
    half = np.ceil(radii.max() / spacing).astype(int) + 1
    grid = np.stack(np.meshgrid(*[np.arange(-h, h + 1) for h in half], indexing="ij"), -1)
    while not mask.any():
        axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        points = (grid + rng.uniform(-0.5, 0.5, 3)) * spacing @ axes / radii
        mask = (points**2).sum(-1) <= 1
    return mask[ndimage.find_objects(mask.astype(np.uint8))[0]]


def changed(mask, spacing, share_elastic, rng) -> tuple[np.ndarray, str]:
    """The node after one change, and the operation."""
    room = np.ceil(ROOM_MM / np.asarray(spacing)).astype(int)
    labels = np.full(mask.shape + 2 * room, TABLE.index("fat"), np.uint8)
    after, _, record = vary_one(mask, room, np.zeros(labels.shape, np.uint16), labels, spacing, rng,
                                VarySettings(elastic=share_elastic), TABLE)
    return after, record["operation"]


def log_ratios(spacing, size_mm, share_elastic, times, nodes, seed=0) -> np.ndarray:
    """Logarithm of the volume after `times` changes over that before, of each node."""
    found = []
    for number in range(nodes):
        rng = np.random.default_rng([seed, number])
        mask = first = ellipsoid(size_mm, spacing, rng)
        for _ in range(times):
            mask, _ = changed(mask, spacing, share_elastic, rng)
        found.append(np.log(mask.sum() / first.sum()))
    return np.array(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200, help="of each size; a fifth of them for ten in a row")
    args, wrong = parser.parse_args(), 0
    print(f"{'spacing mm':>16} {'size mm':>8}" + "".join(f"{name:>22}" for name in CHANGES))
    for spacing in SPACINGS:
        for size in SIZES_MM:
            line = f"{' x '.join(f'{mm:g}' for mm in spacing):>16} {size:>8}"
            for share, times in CHANGES.values():
                logs = log_ratios(spacing, size, share, times, max(2, args.nodes * (2 if times > 1 else 10) // 10))
                error = logs.std(ddof=1) / np.sqrt(len(logs))
                line += f"{np.exp(logs.mean()):>14.3f} +-{error:.3f}"
                wrong += abs(logs.mean()) > 0.02 + 3 * error
            print(line, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
