"""What random changes do to the volume of a node, by spacing and size.

    python Testing/Benchmarks/transform_volumes.py [--nodes 200] [--sizes 6 8 ...] [--only NAME ...]

Ellipsoids of four sizes (axes 1.25 : 1 : 0.8, turned at random, anywhere between voxels) on five grids change by
`conditions.transforms.vary_one` with all the room they need: geometric mean of the volume after over the volume before,
with its standard error, for one affine change, one elastic one, one of either kind, ten of either kind in a row, and
one affine change with an organ all around at NEAR_MM. What chance drew is taken off: the logarithm of each change's
first draw, whose mean is 0, so that the same nodes tell of a bias several times as small; what that draw became, by
rounding or by being refused, is what is left. Exit status 1 where a ratio is more than 2 % from 1 and that is no
chance (beyond three standard errors).
"""

import argparse
import copy
import sys

import numpy as np
from scipy import ndimage

from LNSynthLib.conditions.transforms import VarySettings, _affine, vary_one
from LNSynthLib.masks.labels import LabelTable

SPACINGS = ((1, 1, 1), (2.5, 2.5, 2.5), (0.7, 0.7, 5), (0.98, 0.98, 2), (3, 3, 3))
SIZES_MM = (6, 8, 14, 27)
ROOM_MM, NEAR_MM = 22.0, 4.0  # around a node: all it needs to move and grow, and little
CHANGES = {"affine": (0.0, 1, ROOM_MM), "elastic": (1.0, 1, ROOM_MM), "either": (0.5, 1, ROOM_MM),
           "ten of either": (0.5, 10, ROOM_MM), "little room": (0.0, 1, NEAR_MM)}
TABLE = LabelTable.load("abdomen17")


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


def changed(mask, spacing, share_elastic, rng, room_mm) -> tuple[np.ndarray, float]:
    """The node after one change, and the logarithm of the ratio of volumes that was drawn first."""
    room = np.ceil(room_mm / np.asarray(spacing)).astype(int)
    labels = np.full(mask.shape + 2 * room, TABLE.index("fat"), np.uint8)
    settings, ahead = VarySettings(elastic=share_elastic), copy.deepcopy(rng)
    elastic = ahead.random() < share_elastic
    drawn = 0.0 if elastic else np.log(np.linalg.det(_affine(ahead, settings, 1.0, mask.sum())[0]["matrix"]))
    after, _, _ = vary_one(mask, room, np.zeros(labels.shape, np.uint16), labels, spacing, rng, settings, TABLE)
    return after, drawn


def log_ratios(spacing, size_mm, share_elastic, times, room_mm, nodes, seed=0) -> np.ndarray:
    """Logarithm of the volume after `times` changes over that before, less what was drawn, of each node."""
    found = []
    for number in range(nodes):
        rng = np.random.default_rng([seed, number])
        mask = first = ellipsoid(size_mm, spacing, rng)
        total = 0.0
        for _ in range(times):
            mask, drawn = changed(mask, spacing, share_elastic, rng, room_mm)
            total += drawn
        found.append(np.log(mask.sum() / first.sum()) - total)
    return np.array(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200, help="of each size; a fifth of them for ten in a row")
    parser.add_argument("--only", nargs="*", choices=CHANGES, default=list(CHANGES), help="changes to measure")
    parser.add_argument("--sizes", nargs="*", type=float, default=SIZES_MM, help="mm")
    args, wrong = parser.parse_args(), 0
    print(f"{'spacing mm':>16} {'size mm':>8}" + "".join(f"{name:>22}" for name in args.only))
    for spacing in SPACINGS:
        for size in args.sizes:
            line = f"{' x '.join(f'{mm:g}' for mm in spacing):>16} {size:>8g}"
            for share, times, room_mm in (CHANGES[name] for name in args.only):
                nodes = max(2, args.nodes * (2 if times > 1 else 10) // 10)
                logs = log_ratios(spacing, size, share, times, room_mm, nodes)
                error = logs.std(ddof=1) / np.sqrt(len(logs))
                line += f"{np.exp(logs.mean()):>14.3f} +-{error:.3f}"
                wrong += abs(logs.mean()) > 0.02 + 3 * error
            print(line, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
