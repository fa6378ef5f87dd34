"""Masks of single nodes that are put on another grid or changed: how full each voxel is, and how many are kept.

Cutting an interpolated mask at one half takes the corners off, and more of small nodes than of large ones. Here the
volume decides: as many voxels are kept as it fills, the fullest first.
"""
from __future__ import annotations

import numpy as np

from .nodes import TOUCHING

MARGIN = 3  # voxels around a node's grid, so that its distance field has an outside


def signed_distance(mask: np.ndarray, spacing) -> np.ndarray:
    """Distance (mm, float32) to the node's surface, positive inside, on the mask's grid and MARGIN voxels around it."""
    from scipy import ndimage

    source = np.pad(mask, MARGIN)
    return (ndimage.distance_transform_edt(source, sampling=spacing)
            - ndimage.distance_transform_edt(~source, sampling=spacing)).astype(np.float32)


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
            few = min(-(-missing // 4), np.count_nonzero(beside))
            inside |= _highest(np.where(beside, field, -np.inf), few)
    return inside


def _highest(field: np.ndarray, count: int) -> np.ndarray:
    flat = field.ravel()
    least = np.partition(flat, -count)[-count]
    chosen = flat > least
    chosen[np.flatnonzero(flat == least)[:count - np.count_nonzero(chosen)]] = True
    return chosen.reshape(field.shape)
