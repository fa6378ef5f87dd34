"""How much two masks overlap: the four voxel measures of the paper's Table 2, from one count of voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """Voxels of both masks, of the prediction alone and of the truth alone. A ratio of nothing to nothing is None."""

    both: int
    predicted_only: int
    truth_only: int

    @property
    def dsc(self) -> float | None:
        """Dice similarity coefficient, 2 |P and T| / (|P| + |T|)."""
        return _ratio(2 * self.both, 2 * self.both + self.predicted_only + self.truth_only)

    @property
    def iou(self) -> float | None:
        """Intersection over union."""
        return _ratio(self.both, self.both + self.predicted_only + self.truth_only)

    @property
    def recall(self) -> float | None:
        """Share of the truth's voxels that are predicted."""
        return _ratio(self.both, self.both + self.truth_only)

    @property
    def precision(self) -> float | None:
        """Share of the predicted voxels that are true."""
        return _ratio(self.both, self.both + self.predicted_only)


def overlap(predicted: np.ndarray, truth: np.ndarray) -> Overlap:
    """Counts over two boolean masks of one shape."""
    both = int(np.count_nonzero(predicted & truth))
    return Overlap(both, int(np.count_nonzero(predicted)) - both, int(np.count_nonzero(truth)) - both)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
