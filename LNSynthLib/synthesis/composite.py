"""Composite a generated patch into the CT, on the CT's grid and in HU: no seam, and the CT's own noise."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage, signal

from ..images.boxes import box_at

Composite = Literal["residual", "replace"]
GRAIN_MM = 12.0  # large enough for the longest wave of a CT's fine noise, small enough to fit between organs


def feather(distance_mm: np.ndarray, solid_mm: float, reach_mm: float) -> np.ndarray:
    """Weight of the generated image: 1 up to `solid_mm` from the nodes, smoothly down to exactly 0 at `reach_mm`."""
    ramp = np.clip((reach_mm - distance_mm) / (reach_mm - solid_mm), 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def grain(native: np.ndarray, known: np.ndarray, shape, window, spacing, rng: np.random.Generator) -> np.ndarray:
    """Noise (HU, float32) of a given shape as fine as the CT's own, without any outline of what is in the CT.

    native   (X, Y, Z) HU of the CT around a node; known: the same as a generator's grid and window can hold it
    spacing  mm of both

    The difference of the two is noise where the CT is even. The calmest block of GRAIN_MM gives its spectrum and
    strength: white noise convolved with the tapered block is Gaussian with the block's autocovariance (Galerne,
    Gousseau and Morel 2011, "Random phase textures", asymptotic discrete spot noise).
    """
    size = [max(1, min(n, round(GRAIN_MM / mm))) for n, mm in zip(native.shape, spacing, strict=True)]
    slopes = [np.gradient(known, mm, axis=axis) for axis, mm in enumerate(spacing) if known.shape[axis] > 1]
    unrest = np.sqrt(sum(s * s for s in slopes)) + np.abs(native - np.clip(native, *window)) / 10
    mean = ndimage.uniform_filter(unrest, size)
    whole = tuple(slice(n // 2, m - (n - 1) // 2) for n, m in zip(size, native.shape, strict=True))
    start = [int(i) for i in np.unravel_index(int(mean[whole].argmin()), mean[whole].shape)]
    block = box_at(start, size)
    fine = native[block] - known[block]
    strength = fine.std()
    for axis, n in enumerate(size):
        taper = np.sin(np.pi * (np.arange(n) + 0.5) / n)
        fine = (fine - fine.mean()) * taper.reshape([-1 if a == axis else 1 for a in range(3)])
    fine *= strength / max(np.sqrt((fine**2).sum()), 1e-6)
    white = rng.standard_normal([m + n - 1 for m, n in zip(shape, size, strict=True)], dtype=np.float32)
    return signal.oaconvolve(white, fine, mode="valid").astype(np.float32)


def blend(native: np.ndarray, known: np.ndarray, made: np.ndarray, distance_mm: np.ndarray, noise: np.ndarray,
          margin_mm: float, detail_mm: float, window) -> np.ndarray:
    """The CT with the generated image in it, HU, (X, Y, Z) like every array.

    native       HU of the CT
    known, made  the real and the generated patch on the CT's grid, both within the generator's window
    distance_mm  from the nodes, 0 inside; nothing changes at margin_mm and beyond
    noise        the CT's `grain`
    detail_mm    the generator's voxel side: as far as the outline of what was there shows in `native - known`

    The change `made - known` fades in. What the patch cannot hold stays as it is: the CT's own fine structure, and bone
    and gas beyond the window; but in the nodes, where it is the outline of what was there before, the noise takes its
    place. The two are of equal strength and independent, so their squared weights add up to 1.
    """
    beyond = native - np.clip(native, *window)
    fine = native - beyond - known
    new = feather(distance_mm, margin_mm / 3, margin_mm)
    own = 1 - feather(distance_mm, detail_mm / 2, min(2 * detail_mm, margin_mm))
    inside = (distance_mm <= 0)
    return known + new * (made - known) + np.sqrt(own) * fine + np.sqrt(1 - own) * noise + np.where(inside, 0, beyond)


def replace(native: np.ndarray, made: np.ndarray, distance_mm: np.ndarray, margin_mm: float) -> np.ndarray:
    """The CT faded into the generated image, which is as smooth as the generator's grid."""
    return native + feather(distance_mm, margin_mm / 3, margin_mm) * (made - native)
