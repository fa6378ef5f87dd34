"""Search for copies: is a synthetic patch a piece of a training case, at any place and in any flip?

1. What is where: the patch is compared with every training case at every place, in eight flips, by normalised
   cross-correlation of both, averaged into cells (FFT). A copy's own place is among the best few.
2. Fine texture: at each of these, what a blur takes away (noise, small vessels) is compared voxel by voxel, inside
   tissues, at every shift that the cells left open. Anatomy that patients share, or that a sample was conditioned on,
   is not in it: a copy correlates, and nothing else does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from .memorisation import MemorisationSettings, textures

FLIPS = tuple(itertools.product((False, True), repeat=3))


@dataclass(frozen=True)
class Match:
    index: int                     # of the training volume
    start: tuple[int, int, int]    # voxel of it where the patch begins
    flips: tuple[bool, bool, bool]  # axes along which the patch is reversed
    structure: float               # correlation of what is where, of blurred voxels
    texture: float                 # correlation of fine textures


class Searched:
    """One training volume, (X, Y, Z) float with 0 outside, for patches of one shape."""

    def __init__(self, read, shape: Sequence[int], patch: Sequence[int], settings: MemorisationSettings):
        """read: box (which may reach beyond the volume) -> its voxels."""
        self.read, self.patch = read, np.array(patch)
        self.cell = np.maximum(1, self.patch // settings.cells)
        # A patch lies within the volume, or around one that is smaller; a cell more, for copies that are shifted.
        self.low = -np.maximum(0, self.patch - shape) - self.cell
        cells = -(-(np.maximum(shape, self.patch) + self.cell - self.low) // self.cell)
        whole = read(tuple(slice(int(a), int(a + n)) for a, n in zip(self.low, cells * self.cell, strict=True)))
        coarse = shrunk(whole, self.cell)
        self.size = [fft.next_fast_len(n, real=True) for n in coarse.shape]
        self.spectrum = fft.rfftn(coarse, self.size)
        self.places = tuple(slice(0, n - m + 1) for n, m in zip(coarse.shape, self.patch // self.cell, strict=True))
        count = np.prod(self.patch // self.cell)
        mean, square = (fft.irfftn(fft.rfftn(values, self.size) * np.conj(fft.rfftn(
            np.ones(self.patch // self.cell, np.float32), self.size)), self.size)[self.places] / count
            for values in (coarse, coarse**2))
        variance = square - mean**2
        self.spread = np.sqrt(np.maximum(variance, 1e-6 * max(float(coarse.var()), 1e-12)) * count)

    def likeliest(self, coarse: np.ndarray) -> list[tuple[float, tuple, np.ndarray]]:
        """The best place in each flip of a patch in cells: (correlation, flips, first voxel)."""
        found, template = [], coarse - coarse.mean()
        length = np.linalg.norm(template)
        for flips in FLIPS:
            product = self.spectrum * np.conj(fft.rfftn(flipped(template, flips), self.size))
            alike = fft.irfftn(product, self.size)[self.places] / (self.spread * max(length, 1e-9))
            best = np.unravel_index(int(alike.argmax()), alike.shape)
            start = np.array(best) * self.cell + self.low
            rest = self.patch % self.cell  # voxels in no cell lie at the end, and before a patch that is reversed
            found.append((float(alike[best]), flips, start - np.where(flips, rest, 0)))
        return found


class Sought:
    """A patch, (X, Y, Z) float with 0 for air, as it is looked for.

    tissues: ids of what its voxels are, 0 where none is to be compared (air, nodes, what was not synthesised).
    """

    def __init__(self, patch: np.ndarray, tissues: np.ndarray, spacing, settings: MemorisationSettings):
        random = np.random.default_rng(0)
        self.sigma = [settings.detail_mm / mm for mm in spacing]
        self.settings, self.shape = settings, patch.shape
        self.cell = np.maximum(1, np.array(patch.shape) // settings.cells)
        self.coarse = shrunk(patch, self.cell)
        smooth = ndimage.gaussian_filter(patch, self.sigma)
        at = random.choice(patch.size, min(patch.size, settings.points // 4), replace=False)
        self.structure = np.stack(np.unravel_index(at, patch.shape), 1).astype(np.int16), smooth.ravel()[at]
        sharp, where = textures(patch, tissues, spacing, settings)
        keep = random.permutation(len(where))[:settings.points]
        enough = len(where) >= settings.least_voxels and sharp.std() > 1e-6
        self.texture = (where[keep].astype(np.int16), sharp[keep].astype(np.float32)) if enough else None

    def best(self, volumes: Sequence[Searched], also: Sequence[tuple[int, tuple]] = ()) -> Match | None:
        """The place whose texture is most like the patch's. None where the patch has too little texture to tell.

        also: (index, start) of places that are compared in any case, such as where the patch's anatomy is from
        """
        if self.texture is None or not volumes:
            return None
        places = [(alike, index, flips, start) for index, volume in enumerate(volumes)
                  for alike, flips, start in volume.likeliest(self.coarse)]
        places = sorted(places, key=lambda place: -place[0])[:self.settings.candidates]
        places += [(0.0, index, FLIPS[0], np.array(start)) for index, start in also]
        return max((self._compared(volumes[index], index, flips, start) for _, index, flips, start in places),
                   key=lambda match: match.texture)

    def _compared(self, volume: Searched, index: int, flips, start) -> Match:
        reach, pad = self.cell + 3, int(np.ceil(3 * max(self.sigma)))
        low = start - reach - pad
        there = volume.read(tuple(slice(int(a), int(a + n + 2 * (r + pad)))
                                  for a, n, r in zip(low, self.shape, reach, strict=True)))
        smooth = ndimage.gaussian_filter(there, self.sigma, truncate=3)
        to_first, around = (self.shape, reach + pad), _grid([np.arange(-c, c + 1, min(2, c)) for c in self.cell])
        structure, shift = _alike(*self.structure, smooth, flips, *to_first, around)
        texture, shift = _alike(*self.texture, there - smooth, flips, *to_first, shift + _grid([np.arange(-2, 3)] * 3))
        return Match(index, tuple(int(v) for v in start + shift), tuple(flips), structure, texture)


def shrunk(volume: np.ndarray, cell: Sequence[int]) -> np.ndarray:
    """Means (float32) over cells of so many voxels; what does not fill one at the end is left out."""
    whole = [n // c for n, c in zip(volume.shape, cell, strict=True)]
    cut = volume[tuple(slice(0, n * int(c)) for n, c in zip(whole, cell, strict=True))].astype(np.float32)
    return cut.reshape([v for n, c in zip(whole, cell, strict=True) for v in (n, int(c))]).mean((1, 3, 5))


def flipped(volume: np.ndarray, flips: Sequence[bool]) -> np.ndarray:
    return volume[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]


def _grid(steps) -> np.ndarray:
    return np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)


def _alike(points, values, volume, flips, shape, margin, shifts) -> tuple[float, np.ndarray]:
    """The best correlation of a patch's values at some points with a volume, over shifts; and that shift.

    The patch, of `shape`, begins `margin` voxels inside the volume at no shift.
    """
    points = np.where(flips, np.array(shape) - 1 - points, points) + margin
    strides = np.array([volume.shape[1] * volume.shape[2], volume.shape[2], 1])
    there = volume.ravel()[(shifts @ strides)[:, None] + (points @ strides)[None]]
    there = there - there.mean(1, keepdims=True)
    here = values - values.mean()
    lengths = np.linalg.norm(there, axis=1) * np.linalg.norm(here)
    alike = there @ here / np.maximum(lengths, 1e-9)
    best = int(alike.argmax())
    return float(alike[best]), shifts[best]
