"""A CT that is read and painted in HU, box by box, while its voxels stay in their own numbers, type and orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .boxes import Box
from .volume import Volume, crop


@dataclass(eq=False)
class Canvas:
    """stored: canonical voxels of any number type; HU = slope * stored + intercept."""

    stored: Volume
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.stored.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        return self.stored.spacing

    @property
    def affine(self) -> np.ndarray:
        return self.stored.affine

    def to_hu(self, stored: np.ndarray) -> np.ndarray:
        return stored.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)

    def hu(self, box: Box) -> Volume:
        """float32 HU of a box."""
        part = crop(self.stored, box)
        return Volume(self.to_hu(part.array), part.affine)

    def paint(self, box: Box, hu: np.ndarray, where: np.ndarray) -> None:
        """Sets the voxels of a box where `where`, rounded and clipped to the stored type; no other bit changes."""
        values = (hu[where].astype(np.float64) - self.intercept) / self.slope
        kind = self.stored.array.dtype
        if kind.kind in "iu":
            values = np.clip(np.rint(values), np.iinfo(kind).min, np.iinfo(kind).max)
        self.stored.array[box][where] = values.astype(kind)
