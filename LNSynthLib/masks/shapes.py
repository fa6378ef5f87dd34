"""Put node masks on another grid, or change them, without changing their volume: how full each voxel is decides.

Cutting an interpolated mask at one half takes the corners off, and more of small nodes than of large ones. Here the
volume decides: as many voxels are kept as it fills, the fullest first.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..images.volume import Volume
from .nodes import TOUCHING

SHEET = 1e-3  # of the distance from the middle that is taken off the distance to the surface
MARGIN = 3  # voxels around a node's grid, so that its distance field has an outside


def signed_distance(mask: np.ndarray, spacing) -> np.ndarray:
    """Distance (mm, float32) to the node's surface, positive inside, on the mask's grid and MARGIN voxels around it."""
    from scipy import ndimage

    source = np.pad(mask, MARGIN)
    return (ndimage.distance_transform_edt(source, sampling=spacing)
            - ndimage.distance_transform_edt(~source, sampling=spacing)).astype(np.float32)


def on_grid(nodes: Volume, affine: np.ndarray, shape: tuple[int, int, int], least: float = 0.5) -> np.ndarray:
    """The instances of a mask (integers) on another grid, (X, Y, Z) of their own type. Each keeps its number and the
    volume of each of its pieces, to the nearest voxel.

    Where two want the same voxel the smaller has it, and the other grows elsewhere. What fills less than `least` voxels
    of the grid, or does not lie on it, is gone. Work is in proportion to the nodes.
    """
    step = np.linalg.inv(nodes.affine) @ affine  # from voxels of the grid to those of the mask
    result = np.zeros(shape, nodes.array.dtype)
    for number, mask, start in sorted(_pieces(nodes.array), key=lambda piece: np.count_nonzero(piece[1])):
        volume = np.count_nonzero(mask) / abs(np.linalg.det(step[:3, :3]))
        field, low = _distance_on(mask, start, nodes.spacing, step)
        here = tuple(slice(max(0, a), max(0, min(n, a + m))) for a, m, n in zip(low, field.shape, shape, strict=True))
        if volume < least or not result[here].size:
            continue
        there = tuple(slice(h.start - a, h.stop - a) for h, a in zip(here, low, strict=True))
        field[there][result[here] > 0] = -np.inf
        result[here][(fullest(field, whole_voxels(volume)) & (field > -np.inf))[there]] = number
    return result


def _pieces(nodes: np.ndarray) -> Iterator[tuple[int, np.ndarray, list[int]]]:
    """Each connected piece of each instance: its number, its mask in its box, and the voxel where that starts."""
    from scipy import ndimage

    for number, box in enumerate(ndimage.find_objects(nodes), 1):
        if box is not None:
            pieces, _ = ndimage.label(nodes[box] == number, TOUCHING)
            for piece, part in enumerate(ndimage.find_objects(pieces), 1):
                yield number, pieces[part] == piece, [b.start + p.start for b, p in zip(box, part, strict=True)]


def _distance_on(mask: np.ndarray, start, spacing, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`signed_distance` at the voxels of another grid around the node, and which of its voxels the array starts at.

    A sheet is equally far from its surface all over: towards its middle it counts as a little fuller.

    mask: the node in its box, which starts at voxel `start`; step: 4x4, voxels of the other grid to voxels of this one
    """
    from scipy import ndimage

    start, spacing, back = np.asarray(start, float), np.asarray(spacing, float), np.linalg.inv(step)
    ends = np.stack([start - 0.5, start + mask.shape - 0.5])
    corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), -1).reshape(-1, 3) @ back[:3, :3].T + back[:3, 3]
    low = np.floor(corners.min(0)).astype(int) - 1
    shape = np.ceil(corners.max(0)).astype(int) + 2 - low
    distance, center = signed_distance(mask, spacing), np.argwhere(mask).mean(0) + MARGIN
    axes = np.indices(distance.shape, sparse=True)
    away = np.sqrt(sum(((axes[n] - center[n]) * spacing[n]) ** 2 for n in range(3)))
    first = step[:3, :3] @ low + step[:3, 3] - start + MARGIN
    return ndimage.affine_transform(distance - SHEET * away, step[:3, :3], first, tuple(shape), order=1,
                                    mode="nearest"), low


def whole_voxels(volume: float, rounding: float = 0.5) -> int:
    """A volume in voxels as a whole number, at least 1.

    rounding: 0..1. Drawn uniformly it makes the mean logarithm of the result that of the volume, so that ratios of
    volumes stay unbiased however small the node; 0.5 takes the nearer one (by ratio).
    """
    below = max(1, int(volume))
    return below + bool(volume > below and rounding < np.log(volume / below) / np.log1p(1 / below))


def fullest(field: np.ndarray, count: int) -> np.ndarray:
    """The `count` voxels (fewer where the array has fewer) of the highest values that make one piece (26 neighbours).

    field: (X, Y, Z) float, the higher the more of the node is in a voxel; of equal ones the first in memory are taken.
    Where the highest are in pieces, the largest piece grows instead by what is highest beside it.
    """
    from scipy import ndimage

    count = min(count, field.size)
    inside = _highest(field, count)
    pieces, found = ndimage.label(inside, TOUCHING)
    if found > 1:
        inside = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
        while missing := count - np.count_nonzero(inside):
            beside = ndimage.binary_dilation(inside, TOUCHING) & ~inside
            # A few at a time: what lies beyond the first of them may be fuller than the last beside the node now.
            few = min(-(-int(missing) // 4), int(np.count_nonzero(beside)))
            inside |= _highest(np.where(beside, field, -np.inf), few)
    return inside


def _highest(field: np.ndarray, count: int) -> np.ndarray:
    flat = field.ravel()
    least = np.partition(flat, -count)[-count]
    chosen = flat > least
    chosen[np.flatnonzero(flat == least)[:count - np.count_nonzero(chosen)]] = True
    return chosen.reshape(field.shape)
