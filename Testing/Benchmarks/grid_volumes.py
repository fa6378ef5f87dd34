"""What becomes of the volume of a node when its mask is put on another grid, by spacing and size.

    python Testing/Benchmarks/grid_volumes.py [--nodes 200]

Ellipsoids (as in transform_volumes.py), of sizes up to SPREAD around those named, so that not all are rounded to the
same number of voxels, go from five spacings to 1 mm and 2.5 mm as `prepare` does it (`masks.shapes.on_grid`), to the
1 mm patch of in-place synthesis, and from there back: geometric mean of the volume after over the volume before, with
its standard error, and how many nodes were lost. Exit status 1 where a ratio is more than 2 % from 1, or by more than
the half voxel that rounding may leave, beyond three standard errors; or where a node of half a voxel or more is lost.
"""

import argparse
import sys

import numpy as np
from transform_volumes import SPACINGS, ellipsoid

from LNSynthLib.images.volume import Volume
from LNSynthLib.masks.shapes import on_grid

SIZES_MM, SPREAD = (4, 6, 8, 12), 0.2
ROUTES = {"prepare, 1 mm": ((1.0, 0.5),), "prepare, 2.5 mm": ((2.5, 0.5),), "patch, 1 mm": ((1.0, 0.0),),
          "patch and back": ((1.0, 0.0), (None, 0.0))}  # spacing (None: the first one) and on_grid's `least`


def along(mask: np.ndarray, spacing, route, rng) -> tuple[float | None, bool]:
    """The logarithm of the ratio of volumes (None where the node is lost), and whether it may be lost."""
    pad = np.ceil(8 / np.asarray(spacing)).astype(int)
    first = volume = Volume(np.pad(mask.astype(np.uint8), [(n, n) for n in pad]), np.diag([*spacing, 1.0]))
    for side, least in route:
        affine, shape = first.affine, first.shape
        if side is not None:
            affine = np.diag([side, side, side, 1.0])
            affine[:3, 3] = rng.uniform(-side, 0, 3)
            shape = tuple(int(n) for n in np.ceil(np.array(first.shape) * spacing / side) + 2)
        volume = Volume(on_grid(volume, affine, shape, least), affine)
    before, after = (v.array.astype(bool).sum() * abs(np.linalg.det(v.affine[:3, :3])) for v in (first, volume))
    return (np.log(after / before) if after else None), before < 0.5 * abs(np.linalg.det(volume.affine[:3, :3]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200, help="of each size")
    args, wrong = parser.parse_args(), 0
    print(f"{'spacing mm':>16} {'size mm':>8}" + "".join(f"{name:>27}" for name in ROUTES))
    for spacing in SPACINGS:
        for size in SIZES_MM:
            line = f"{' x '.join(f'{mm:g}' for mm in spacing):>16} {size:>8}"
            for route in ROUTES.values():
                rng = np.random.default_rng(size)
                nodes = [ellipsoid(size * (1 + SPREAD * rng.uniform(-1, 1)), spacing, rng) for _ in range(args.nodes)]
                found = [along(node, spacing, route, rng) for node in nodes]
                logs = np.array([ratio for ratio, _ in found if ratio is not None])
                lost, error = len(found) - len(logs), logs.std(ddof=1) / np.sqrt(len(logs))
                line += f"{np.exp(logs.mean()):>12.3f} +-{error:.3f} lost{lost:>3}"
                half = 0.5 * max(side**3 if side else np.prod(spacing) for side, _ in route) / (np.pi / 6 * size**3)
                wrong += abs(logs.mean()) > max(0.02, half) + 3 * error
                wrong += any(ratio is None and not small for ratio, small in found)
            print(line, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
