"""Has a generator memorised its training data? Two tests, for two ways of copying.

1. Anywhere: does it have the fine texture of any place of any training case, as it is or reversed? (`copies`)
   And by what a network sees: is it nearer to some training patch of another patient than training patches of different
   patients are to each other? (`nearest`, on features)
2. In its own place: does it have the fine texture of the very patch whose anatomy and nodes it was made from?
   (`detail`)

A synthetic patch resembles its own real patch by design: it has its anatomy. Their distance therefore proves nothing.
But noise and small vessels inside an organ do not follow from the condition, so whatever generator only knows the
condition is uncorrelated with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..images.boxes import grow
from ..masks.nodes import boxes
from .tissue import core

BLOCK = 256  # rows of a matrix of correlations held at once


@dataclass(frozen=True)
class MemorisationSettings:
    per_case: int = 8              # patches of a training case whose features are compared, drawn as training draws
    seed: int = 0                  # of that draw
    cells: int = 16                # a side: patches are averaged into about so many cells to find the likeliest places
    candidates: int = 8            # likeliest places, of all training cases, where the texture is compared
    points: int = 10_000           # at most so many voxels of texture are compared there
    planted: int = 6               # copies, and as many honest real patches, searched for to see what is found; 0: none
    percentile: float = 1.0        # of real-to-real distances of features, at or below which a patch is flagged
    detail_mm: float = 2.0         # standard deviation of the blur that is taken off to leave the fine texture
    core_mm: float = 3.0           # texture is compared this far inside organs or tissues
    least_voxels: int = 500        # of such cores in a patch, or its texture is not judged
    detail_limit: float = 0.5      # correlation of textures at or above which a synthetic patch is flagged


@dataclass(frozen=True)
class Neighbour:
    index: int                     # of the nearest training patch of another patient
    distance: float                # 1 - correlation: 0 for a copy in any brightness and contrast, 1 for nothing shared
    flagged: bool | None           # None where there is no limit to judge by


def direction(values: np.ndarray) -> np.ndarray:
    """Values as a vector of zero mean and unit length (zeros where all are equal): products are correlations."""
    centred = np.asarray(values, dtype=np.float64).ravel()
    centred = centred - centred.mean()
    length = np.linalg.norm(centred)
    return centred / length if length > 1e-9 * np.sqrt(centred.size) else np.zeros_like(centred)


def nearest(synthetic: np.ndarray, patients: Sequence[str], real: np.ndarray, real_patients: Sequence[str],
            percentile: float = 1.0) -> tuple[list[Neighbour | None], float | None]:
    """The nearest training patch of another patient of each synthetic one, and the limit below which that is too near.

    synthetic, real  (n, k) and (m, k) unit vectors (`direction`); real are training patches
    patients         whose anatomy each has
    The limit is the given percentile of the same distance of training patches: a generator that draws from the
    distribution of real patches has that share flagged, or about one in m + 1 where that is more. None for a patch with
    no other patient's to compare, and no limit where all training patches are of one patient.
    """
    owners = np.asarray(real_patients)
    among = [found for found in _nearest(real, owners, real, owners) if found is not None]
    limit = float(np.percentile([distance for _, distance in among], percentile)) if among else None
    found = _nearest(synthetic, np.asarray(patients), real, owners)
    return [pair and Neighbour(*pair, None if limit is None else pair[1] <= limit) for pair in found], limit


def detail(synthetic: np.ndarray, real: np.ndarray, organs: np.ndarray, spacing,
           settings: MemorisationSettings | None = None) -> float | None:
    """Correlation of the fine textures of a synthetic patch and the real one in its place, inside organs.

    synthetic, real  (X, Y, Z), any one scale
    organs           (X, Y, Z) ids, 0 where there is no organ or a node lies
    Near 1 for a copy, near 0 where the generator knows the condition alone. None where there is too little organ, or
    one of them is flat.
    """
    settings = settings or MemorisationSettings()
    a, b = (textures(volume, organs, spacing, settings)[0] for volume in (synthetic, real))
    if len(a) < settings.least_voxels:
        return None
    a, b = direction(a), direction(b)
    return float(a @ b) if a.any() and b.any() else None


def textures(volume: np.ndarray, tissues: np.ndarray, spacing,
             settings: MemorisationSettings) -> tuple[np.ndarray, np.ndarray]:
    """What a blur within each tissue takes away, in the tissues' cores; and where: (n,) and voxels (n, 3).

    tissues: ids, 0 where nothing is compared.
    """
    sigma, values, places = [settings.detail_mm / mm for mm in spacing], [np.empty(0)], [np.empty((0, 3), int)]
    for index, box in boxes(tissues).items():
        box = grow(box, min(spacing), spacing, tissues.shape)  # one voxel of what is around it, where there is any
        tissue = tissues[box] == index
        inside = core(tissue, spacing, settings.core_mm)
        # Blurred with the tissue's own voxels alone, so that what is around it leaves no trace in its texture.
        share = ndimage.gaussian_filter(tissue.astype(np.float64), sigma)[inside]
        smooth = ndimage.gaussian_filter(np.where(tissue, volume[box], 0.0), sigma)[inside] / share
        values.append(volume[box][inside] - smooth)
        places.append(np.argwhere(inside) + [b.start for b in box])
    return np.concatenate(values), np.concatenate(places)


def _nearest(vectors, owners, real, real_owners) -> list[tuple[int, float] | None]:
    """(index of the nearest real vector that has another owner, distance) of each vector, None where there is none."""
    found = []
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        apart = 1 - vectors[rows] @ real.T
        apart[owners[rows, None] == real_owners[None]] = np.inf
        for row in apart:
            index = int(row.argmin())
            found.append((index, float(row[index])) if np.isfinite(row[index]) else None)
    return found
