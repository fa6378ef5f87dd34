"""A mask on the CT's own grid, voxel by voxel, whatever the order and direction of axes in its file."""

from __future__ import annotations

import itertools

import numpy as np

from ..images.checks import check_pair
from ..images.volume import Volume
from ..runtime.errors import LNSynthError

TOLERANCE = 0.1  # of a voxel: so far may a mask's voxels lie beside the CT's


def on_grid(ct: Volume, mask: Volume, name: str) -> Volume:
    """The mask with its axes as the CT has them and exactly the CT's affine; voxels are only reordered.

    Raises LNSynthError, naming `name`, where the mask does not cover the CT's grid.
    """
    mask = ordered_as(mask, ct.affine)
    check_pair(ct, mask, name)
    return Volume(mask.array, ct.affine)


def ordered_as(mask: Volume, affine: np.ndarray) -> Volume:
    """A view of the mask with its axes in the order and direction of another affine's, as nearly as they have one."""
    along = np.linalg.inv(affine[:3, :3]) @ mask.affine[:3, :3]
    along = along / np.linalg.norm(along, axis=0)
    order = max(itertools.permutations(range(3)), key=lambda axes: sum(abs(along[i, a]) for i, a in enumerate(axes)))
    array, turned = mask.array.transpose(order), mask.affine[:, [*order, 3]]
    for axis, source in enumerate(order):
        if along[axis, source] < 0:
            array = np.flip(array, axis)
            turned = turned @ _reversed(axis, array.shape[axis])
    return Volume(array, turned)


def around(a: Volume, b: Volume) -> Volume:
    """An empty mask on the grid of `a`, as large as it takes to hold `b` too."""
    b = ordered_as(b, a.affine)
    first = np.rint(np.linalg.inv(a.affine) @ b.affine[:, 3])[:3].astype(int)
    low, high = np.minimum(0, first), np.maximum(a.shape, first + b.shape)
    affine = a.affine.copy()
    affine[:3, 3] = (a.affine @ [*low, 1.0])[:3]
    return Volume(np.broadcast_to(np.uint8(0), tuple(high - low)), affine)


def paste(mask: Volume, affine: np.ndarray, shape: tuple, name: str) -> np.ndarray:
    """A mask that covers only a part of the CT's grid, or skips slices of it, on the whole grid; its own dtype.

    Raises LNSynthError, naming `name`, unless each marked voxel is one of the CT's.
    """
    steps = np.linalg.inv(affine) @ mask.affine
    for axis, size in enumerate(mask.shape):
        if size == 1:  # a SEG of one slice often takes the slice thickness for the distance of slices
            steps[:3, axis] /= np.abs(steps[:3, axis]).max()
    whole = np.rint(steps).astype(int)
    drift = np.abs(steps - whole)[:3] @ [*(n - 1 for n in mask.shape), 1]
    if drift.max() > TOLERANCE or not round(np.linalg.det(whole)):
        raise LNSynthError(f"{name}: the mask's voxels are not the CT's; give the CT series that it was drawn on.")
    marked = np.argwhere(mask.array)
    place = marked @ whole[:3, :3].T + whole[:3, 3]
    if ((place < 0) | (place >= shape)).any():
        raise LNSynthError(f"{name}: a part of the mask lies outside the CT; give the CT series that it was drawn on.")
    result = np.zeros(shape, mask.array.dtype)
    result[tuple(place.T)] = mask.array[tuple(marked.T)]
    return result


def _reversed(axis: int, size: int) -> np.ndarray:
    """Index to index of an axis that runs the other way."""
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, size - 1
    return flip
