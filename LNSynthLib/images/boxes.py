"""Boxes of voxels: slices along i, j, k."""

import numpy as np

Box = tuple[slice, slice, slice]  # start and stop along i, j and k, in voxels


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box around the non-zero voxels, or None where there are none."""
    box = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(hit):
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def grow(box: Box, margin_mm: float, spacing: tuple, shape: tuple) -> Box:
    """The box with a margin in mm on each side of each axis, clipped to the volume."""
    margins = [int(np.ceil(margin_mm / s)) for s in spacing]
    return tuple(
        slice(max(0, b.start - m), min(n, b.stop + m)) for b, m, n in zip(box, margins, shape, strict=True)
    )


def union(boxes: list[Box]) -> Box:
    """The smallest box around all of them."""
    return tuple(slice(min(b.start for b in axis), max(b.stop for b in axis)) for axis in zip(*boxes, strict=True))


def size_mm(box: Box, spacing: tuple) -> list[float]:
    """Sides of a box in mm, along i, j and k."""
    return [(b.stop - b.start) * mm for b, mm in zip(box, spacing, strict=True)]


def meet(a: Box, b: Box) -> bool:
    """Whether two boxes share a voxel."""
    return all(x.start < y.stop and y.start < x.stop for x, y in zip(a, b, strict=True))


def padded(array: np.ndarray, box: Box) -> np.ndarray:
    """A box that may reach beyond the array, where it is 0."""
    inside = tuple(slice(max(0, b.start), min(n, b.stop)) for b, n in zip(box, array.shape, strict=True))
    result = np.zeros([b.stop - b.start for b in box], array.dtype)
    result[tuple(slice(i.start - b.start, i.stop - b.start) for b, i in zip(box, inside, strict=True))] = array[inside]
    return result
