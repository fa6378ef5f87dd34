"""What is refused before any work is done: a wrong input must never produce a plausible output."""

from __future__ import annotations

import numpy as np

from ..runtime.errors import LNSynthError
from .volume import Volume, same_grid

AIR_HU = -500.0  # every CT of a patient shows air around or inside the body; raw scanner numbers and MR do not go below
TISSUE_HU = -200.0


def check_ct(ct: Volume, name: str) -> None:
    """Raises LNSynthError unless the volume is finite and looks like Hounsfield units: some air and some tissue."""
    check_finite(ct, name)
    low, high = float(ct.array.min()), float(ct.array.max())
    if low > AIR_HU:
        raise LNSynthError(
            f"{name}: the CT has no value below {AIR_HU:.0f} (lowest {low:.0f}), so it is not in Hounsfield units; "
            "export it with its rescale slope and intercept applied."
        )
    if high < TISSUE_HU:
        raise LNSynthError(
            f"{name}: the CT has no value above {TISSUE_HU:.0f} (highest {high:.0f}), so it shows no tissue; "
            "check its rescale intercept."
        )


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
