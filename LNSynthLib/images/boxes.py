"""Boxes of voxels: slices along i, j, k."""

from __future__ import annotations

from collections.abc import Iterable

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
    return _three(box)


def grow(box: Box, margin_mm: float, spacing: tuple, shape: tuple) -> Box:
    """The box with a margin in mm on each side of each axis, clipped to the volume."""
    margins = [int(np.ceil(margin_mm / s)) for s in spacing]
    return _three(slice(max(0, b.start - m), min(n, b.stop + m))
                  for b, m, n in zip(box, margins, shape, strict=True))


def box_at(start: Iterable[int], shape: Iterable[int]) -> Box:
    """The box of a shape that begins at an index."""
    return _three(slice(s, s + n) for s, n in zip(start, shape, strict=True))


def box_of(shape: Iterable[int]) -> Box:
    """The box of everything in an array of this shape."""
    return _three(slice(0, n) for n in shape)


def extent(box: Box) -> tuple[int, ...]:
    """Voxels along each axis."""
    return tuple(b.stop - b.start for b in box)


def shifted(box: Box, by: Iterable[int]) -> Box:
    """The box moved by a number of voxels along each axis."""
    return _three(slice(b.start + n, b.stop + n) for b, n in zip(box, by, strict=True))


def within(box: Box, outer: Box) -> Box:
    """The same voxels as counted from where another box begins."""
    return _three(slice(b.start - o.start, b.stop - o.start) for b, o in zip(box, outer, strict=True))


def out_of(box: Box, outer: Box) -> Box:
    """The opposite of `within`: a box counted from where another begins, as counted from where that one is."""
    return _three(slice(b.start + o.start, b.stop + o.start) for b, o in zip(box, outer, strict=True))


def clipped(box: Box, shape: Iterable[int]) -> Box:
    """What of the box lies in an array of this shape; a side of it is empty or turned where nothing does."""
    return _three(slice(max(0, b.start), min(n, b.stop)) for b, n in zip(box, shape, strict=True))


def common(a: Box, b: Box) -> Box:
    """What two boxes share; a side of it is empty or turned where they do not meet (`meet`)."""
    return _three(slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True))


def union(boxes: list[Box]) -> Box:
    """The smallest box around all of them."""
    return _three(slice(min(b.start for b in axis), max(b.stop for b in axis)) for axis in zip(*boxes, strict=True))


def size_mm(box: Box, spacing: tuple) -> list[float]:
    """Sides of a box in mm, along i, j and k."""
    return [(b.stop - b.start) * mm for b, mm in zip(box, spacing, strict=True)]


def meet(a: Box, b: Box) -> bool:
    """Whether two boxes share a voxel."""
    return all(x.start < y.stop and y.start < x.stop for x, y in zip(a, b, strict=True))


def padded(array: np.ndarray, box: Box) -> np.ndarray:
    """A box that may reach beyond the array, where it is 0."""
    inside = clipped(box, array.shape)
    result = np.zeros(extent(box), array.dtype)
    result[within(inside, box)] = array[inside]
    return result


def _three(sides: Iterable[slice]) -> Box:
    i, j, k = sides
    return i, j, k
