"""Checks of input before any work is done: a wrong input must never produce a plausible output."""

from __future__ import annotations

import numpy as np

from ..runtime.errors import LNSynthError
from .volume import Volume, same_grid

# Measured on real abdominal CTs: > 35 % of the voxels are air; of the rest, > 80 % are soft and < 2 % dense (< 15 % in
# crops of an eighth of each side). Without their intercept (air 0, water 1024), > 34 % of the same voxels are dense.
# As dense is a head with a skull of 15 mm, but bone has all densities (28 % of it within PEAK_HU), and tissue that is
# taken for bone has its own two or three (> 64 %; at a slope of 2, > 42 %).
PADDING_HU = -1024       # the highest that scanners write where they measured nothing; others are -2000, -3024
AIR_HU = (-1100, -500)   # air with its noise, lungs, bowel gas
SOFT_HU = (-200, 300)    # fat, organs, enhanced blood
DENSE_HU = 500           # above: cortical bone and metal
LEAST_AIR = 1e-4         # of all voxels: a crop of the abdomen may hold a little bowel gas alone
LEAST_SOFT = 0.3         # of the voxels denser than air
FEW_DENSE = 0.25         # of the voxels denser than air: so many may be anything
MOST_DENSE = 0.5         # of the voxels denser than air: so many may be bone
PEAK_HU = 200
MOST_PEAKED = 0.38       # of the dense voxels, within PEAK_HU
MOST_BELOW_AIR = 0.1     # of all voxels, the two commonest values (padding) aside


def check_ct(ct: Volume, name: str) -> None:
    """Raises LNSynthError unless the volume is finite and looks like Hounsfield units: some air, mostly soft tissue."""
    check_finite(ct, name)
    hu = ct.array
    low, high = hu.min(), hu.max()
    # Padding of -1024 looks like air, but air is noisy: a lowest value that padding can have is not counted.
    air = np.count_nonzero((hu > min(low, PADDING_HU)) & (hu >= AIR_HU[0]) & (hu <= AIR_HU[1])) / hu.size
    if air < LEAST_AIR:
        raise LNSynthError(
            f"{name}: the CT shows no air (its values run from {low:.0f} to {high:.0f}; padding aside, {air:.2%} "
            f"lie between {AIR_HU[0]} and {AIR_HU[1]}), so it is not in Hounsfield units; "
            "export it in whole slices with its rescale slope and intercept applied."
        )
    if _below_air(hu) > MOST_BELOW_AIR:
        raise LNSynthError(
            f"{name}: {_below_air(hu):.0%} of its values lie below {AIR_HU[0]}, where there is nothing (they run from "
            f"{low:.0f}), so the CT is not in Hounsfield units; export it with its rescale slope and intercept "
            "applied, once."
        )
    denser = max(1, int(np.count_nonzero(hu > AIR_HU[1])))
    soft = np.count_nonzero((hu >= SOFT_HU[0]) & (hu <= SOFT_HU[1])) / denser
    dense = np.count_nonzero(hu > DENSE_HU) / denser
    if soft < LEAST_SOFT or dense > MOST_DENSE or dense > FEW_DENSE and _peaked(hu) > MOST_PEAKED:
        raise LNSynthError(
            f"{name}: of what is denser than air, {soft:.0%} has values of soft tissue ({SOFT_HU[0]} to {SOFT_HU[1]}) "
            f"and {dense:.0%} those of dense bone (above {DENSE_HU}), so the CT is not in Hounsfield units; "
            "export it with its rescale slope and intercept applied, once."
        )


def _below_air(hu: np.ndarray) -> float:
    """The share of values below air that are not padding, which has one value or two."""
    below = hu[hu < AIR_HU[0]]
    if below.size <= MOST_BELOW_AIR * hu.size:
        return 0.0
    counts = np.sort(np.bincount(AIR_HU[0] - np.maximum(below, -9999).astype(np.int16)))
    return float(counts[:-2].sum() / hu.size)


def _peaked(hu: np.ndarray) -> float:
    """The largest share of the dense values that lie within PEAK_HU of each other."""
    dense = hu[hu > DENSE_HU].astype(np.float32)
    step = PEAK_HU / 8
    counts = np.bincount(((dense - DENSE_HU) / step).astype(np.int64).clip(0, 1000))
    return float(np.convolve(counts, np.ones(8)).max() / dense.size)


def check_pair(ct: Volume, mask: Volume, name: str) -> None:
    """Raises LNSynthError unless the mask lies on the CT's grid (to a tenth of a voxel)."""
    same, why = same_grid(ct, mask)
    if not same:
        raise LNSynthError(
            f"{name}: the mask does not lie on the CT's grid ({why}); resample it onto the CT with nearest neighbour."
        )


def check_nodes(nodes: Volume, name: str) -> None:
    """Raises LNSynthError unless the mask holds whole numbers 0..65535 and at least one node."""
    check_labels(nodes, name, highest=65535)
    if not nodes.array.any():
        raise LNSynthError(f"{name}: the node mask is empty; draw at least one node or leave this case out.")


def check_labels(mask: Volume, name: str, highest: int = 255) -> None:
    """Raises LNSynthError unless every voxel is a whole number from 0 to `highest`."""
    check_finite(mask, name)
    array = mask.array
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise LNSynthError(
            f"{name}: the mask holds fractions, so it was interpolated; resample it again with nearest neighbour."
        )
    low, high = array.min(), array.max()
    if low < 0 or high > highest:
        raise LNSynthError(f"{name}: values run from {low} to {high}, not 0 to {highest}; check that it is a mask.")


def check_finite(volume: Volume, name: str) -> None:
    """Raises LNSynthError where a voxel is NaN or infinite."""
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        count = int(np.size(volume.array) - np.isfinite(volume.array).sum())
        raise LNSynthError(f"{name}: {count} voxels are NaN or infinite; export the volume again without them.")
