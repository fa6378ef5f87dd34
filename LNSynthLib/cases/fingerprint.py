"""Fingerprints of CTs: small enough to compare hundreds in seconds, and alike however a copy was cropped or resampled.

A fingerprint is the CT in RAS order, clipped to soft tissue, averaged over cells of 8 mm and cropped to the body. Two
CTs are compared by normalised cross-correlation over shifts and the 8 flips, in two steps: all pairs on cells of 16 mm,
shifted along z alone, with the bodies' centres on top of each other; then those alike on cells of 8 mm. Both leave out
the slow variation that all abdomens share. File type, storage order, voxel size, noise, windowing, painted nodes and
moderate cropping leave the same CT alike (`Testing/Benchmarks/near_duplicates.py` measures it).

    DATASET/cases/ID/fingerprint.npz   the cells, and the SHA-256 of the CT file that they are of and of its voxels
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..images.boxes import bounding_box
from ..images.volume import Volume, canonical, read
from ..runtime.errors import LNSynthError
from ..runtime.files import atomic_path
from ..runtime.npz import read_npz
from .dataset import Dataset, voxels_sha256

NAME = "fingerprint.npz"  # beside a case's CT
CELL_MM = 8.0
WINDOW = (-120.0, 240.0)      # HU
BODY_HU = -90.0               # a cell's mean above which it is body
BAND_MM = (4.0, 20.0)         # standard deviations of the Gaussians whose difference is compared on 8 mm ...
COARSE_BAND_MM = (0.0, 40.0)  # ... and on 16 mm
CANVAS = (28, 22)             # cells of 16 mm in x and y on which all CTs are laid for the first step
COARSE = 0.6                  # likeness on 16 mm above which a pair is looked at more closely
ALIKE = 0.7                   # likeness on 8 mm above which two CTs are one; the benchmark shows the margin
LEAST_SHARE = 0.4             # of the smaller CT that both must show
MOST_CELLS = 10_000_000       # a body of 5 m3
LEAST_CELLS = 2000            # in common (a litre), below which likeness says nothing
FLIPS = tuple((x, y, z) for x, y, z in itertools.product((1, -1), repeat=3))


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """cells: (X, Y, Z) int8, the mean HU of each cell, WINDOW as -127..127; voxels: `cases.dataset.voxels_sha256`."""

    cells: np.ndarray
    voxels: str

    @cached_property
    def fine(self) -> np.ndarray:
        """(X, Y, Z) float32, what is compared on 8 mm."""
        return _band(self.cells.astype(np.float32), BAND_MM, CELL_MM)

    @cached_property
    def coarse(self) -> np.ndarray:
        """(*CANVAS, Z) float32, what is compared on 16 mm: the body's centre in the canvas' middle."""
        low = -127.0
        weight = self.cells - low
        laid = np.full((2 * CANVAS[0], 2 * CANVAS[1], self.cells.shape[2] + self.cells.shape[2] % 2), low, np.float32)
        here, there = [], []
        for axis in (0, 1):
            across = weight.sum(tuple(a for a in range(3) if a != axis))
            centre = float(across @ np.arange(len(across))) / max(float(across.sum()), 1.0)
            first = round(CANVAS[axis] - 0.5 - centre)
            here.append(slice(max(0, -first), min(len(across), 2 * CANVAS[axis] - first)))
            there.append(slice(here[-1].start + first, here[-1].stop + first))
        laid[there[0], there[1], :self.cells.shape[2]] = self.cells[here[0], here[1]]
        laid[..., self.cells.shape[2]:] = laid[..., self.cells.shape[2] - 1:self.cells.shape[2]]
        x, y, z = (n // 2 for n in laid.shape)
        return _band(laid.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5)), COARSE_BAND_MM, 2 * CELL_MM)


def fingerprint(ct: Volume) -> Fingerprint:
    """Of a CT in HU of any geometry, along its own axes where it is oblique."""
    upright, (low, high) = canonical(ct), WINDOW
    cells = np.clip(upright.array, low, high).astype(np.float32)
    for axis, mm in enumerate(upright.spacing):
        cells = np.moveaxis(np.tensordot(_means(cells.shape[axis], mm), cells, (1, axis)), 0, axis)
    body = bounding_box(cells > BODY_HU) or (slice(0, 1),) * 3
    scaled = (cells[body] - low) * (254 / (high - low)) - 127
    return Fingerprint(np.clip(np.rint(scaled), -127, 127).astype(np.int8), voxels_sha256(ct))


def _means(count: int, mm: float) -> np.ndarray:
    """(cells, count) float32 that takes an axis of `count` voxels of `mm` to its means over cells, centred on it."""
    cells = max(1, round(count * mm / CELL_MM))
    edges = np.arange(count + 1) * mm - (count * mm - cells * CELL_MM) / 2
    starts = np.arange(cells)[:, None] * CELL_MM
    shares = np.minimum(edges[1:], starts + CELL_MM) - np.maximum(edges[:-1], starts)
    shares = np.maximum(shares, 0) + 1e-9  # cells that reach beyond the voxels mean those they have
    return (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def _band(cells: np.ndarray, band_mm: tuple[float, float], cell_mm: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    fine = gaussian_filter(cells, band_mm[0] / cell_mm) if band_mm[0] else cells
    return fine - gaussian_filter(fine, band_mm[1] / cell_mm)


def of_case(dataset: Dataset, id: str) -> Fingerprint:
    """The fingerprint of a case's CT: that kept beside it, where it is of this very file, else made now and kept."""
    path, ct = _place(dataset, id), dataset.entry(id)["sha256"]["ct"]
    try:
        kept = read_npz(path, ("ct", "cells", "voxels"))
        if str(kept["ct"]) == ct:
            return _checked(kept["cells"], str(kept["voxels"]), path)
    except LNSynthError:
        pass  # absent, or of no use
    found = fingerprint(read(dataset.ct_path(id)))
    keep(dataset, id, found)
    return found


def keep(dataset: Dataset, id: str, found: Fingerprint) -> None:
    """Puts a fingerprint beside the case's CT; where that cannot be written to, it is made again when needed."""
    try:
        dataset.check_cases()
        with atomic_path(_place(dataset, id)) as beside, open(beside, "wb") as stream:
            np.savez_compressed(stream, cells=found.cells, voxels=found.voxels, ct=dataset.entry(id)["sha256"]["ct"])
    except (OSError, LNSynthError):
        pass


def _place(dataset: Dataset, id: str) -> Path:
    return dataset.ct_path(id).with_name(NAME)


def save(path: Path, prints: Sequence[Fingerprint]) -> None:
    """Fingerprints in one file, an array each, named by the SHA-256 of its voxels."""
    with atomic_path(path) as beside, open(beside, "wb") as stream:
        cells: dict[str, Any] = {found.voxels: found.cells for found in prints}
        np.savez_compressed(stream, **cells)


def load(path: Path) -> list[Fingerprint]:
    """What `save` wrote. Raises LNSynthError for a file that cannot be read."""
    return [_checked(cells, voxels, path) for voxels, cells in read_npz(path).items()]


def _checked(cells: np.ndarray, voxels: str, path: Path) -> Fingerprint:
    if cells.ndim != 3 or cells.dtype != np.int8 or not 0 < cells.size <= MOST_CELLS or len(voxels) != 64:
        raise LNSynthError(f"{path}: this is not a CT fingerprint; copy the folder again.")
    return Fingerprint(cells, voxels)


def near_duplicates(ours: Sequence[Fingerprint], theirs: Sequence[Fingerprint]) -> list[tuple[int, int, float]]:
    """(i, j, likeness) of each of ours that shows what one of theirs shows, likeness from ALIKE to 1."""
    if not ours or not theirs:
        return []
    found: dict[tuple[int, int], float] = {(i, j): 1.0 for i, a in enumerate(ours) for j, b in enumerate(theirs)
                                           if a.voxels == b.voxels}
    for flip, alike in zip(FLIPS, _coarse_likeness(ours, theirs), strict=True):
        for i, j in zip(*np.nonzero(alike > COARSE), strict=True):
            if found.get((i, j), 0.0) < 1.0:
                found[i, j] = max(found.get((i, j), -1.0), likeness(ours[i].fine, _flipped(theirs[j].fine, flip)))
    return [(int(i), int(j), value) for (i, j), value in sorted(found.items()) if value > ALIKE]


def _flipped(array: np.ndarray, flip: tuple[int, int, int]) -> np.ndarray:
    return array[::flip[0], ::flip[1], ::flip[2]]


def _coarse_likeness(ours: Sequence[Fingerprint], theirs: Sequence[Fingerprint]):
    """For each of FLIPS: (ours, theirs) float, the highest normalised cross-correlation over shifts along z.

    A shift lays slices of all of ours on slices of all of theirs, so that one matrix product serves all pairs.
    """
    a, in_a = _stacked([found.coarse for found in ours])
    energy_a, deep = (a * a).sum(2), in_a.sum(1)
    least = np.maximum(LEAST_SHARE * np.minimum(deep[:, None], [found.coarse.shape[2] for found in theirs]), 1)
    for flip in FLIPS:
        b, in_b = _stacked([_flipped(found.coarse, flip) for found in theirs])
        energy_b, best = (b * b).sum(2), np.full((len(a), len(b)), -1.0, np.float32)
        for shift in range(1 - b.shape[1], a.shape[1]):
            here = slice(max(shift, 0), min(a.shape[1], b.shape[1] + shift))
            there = slice(here.start - shift, here.stop - shift)
            if here.stop - here.start < least.min():
                continue
            common = in_a[:, here] @ in_b[:, there].T
            product = a[:, here].reshape(len(a), -1) @ b[:, there].reshape(len(b), -1).T
            energy = (energy_a[:, here] @ in_b[:, there].T) * (in_a[:, here] @ energy_b[:, there].T)
            np.maximum(best, np.where(common >= least, product / np.sqrt(np.maximum(energy, 1e-6)), -1), out=best)
        yield best


def _stacked(coarse: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(n, Z, cells of a slice) float32, zero above each CT's end, and (n, Z), 1 where it has a slice."""
    deepest = max(array.shape[2] for array in coarse)
    stack = np.zeros((len(coarse), deepest, CANVAS[0] * CANVAS[1]), np.float32)
    there = np.zeros((len(coarse), deepest), np.float32)
    for n, array in enumerate(coarse):
        stack[n, :array.shape[2]] = array.transpose(2, 0, 1).reshape(array.shape[2], -1)
        there[n, :array.shape[2]] = 1
    return stack, there


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised cross-correlation of two arrays (3D) at the shift of the highest cross-correlation; -1 where they
    have too little in common there."""
    from scipy import fft

    shape = [fft.next_fast_len(m + n - 1, real=True) for m, n in zip(a.shape, b.shape, strict=True)]
    product = fft.irfftn(fft.rfftn(a, shape) * np.conj(fft.rfftn(b, shape)), shape)
    peak = np.unravel_index(int(product.argmax()), product.shape)
    here, there = [], []
    for at, size, m, n in zip(peak, shape, a.shape, b.shape, strict=True):
        shift = int(at) if at < m else int(at) - size
        here.append(slice(max(shift, 0), min(m, n + shift)))
        there.append(slice(here[-1].start - shift, here[-1].stop - shift))
    one, other = (array[tuple(box)].ravel() for array, box in ((a, here), (b, there)))
    if one.size < max(LEAST_CELLS, LEAST_SHARE * min(a.size, b.size)):
        return -1.0
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other / max(np.sqrt(float(one @ one) * float(other @ other)), 1e-6))
