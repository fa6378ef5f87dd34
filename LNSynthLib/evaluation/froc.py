"""FROC: the share of nodes found against false alarms a case, as the score that a candidate needs is lowered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from .segmentation import CaseScore

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives a case at which sensitivities are usually told


@dataclass(frozen=True)
class Froc:
    """One point a threshold, from none of the candidates to all of them."""

    thresholds: tuple[float | None, ...]  # candidates of at least this score count; None: no candidate counts
    false_positives: tuple[float, ...]    # a case
    sensitivity: tuple[float, ...]        # share of all cases' nodes that are found

    def at(self, rate: float) -> float:
        """Sensitivity with at most `rate` false positives a case."""
        return max(s for s, f in zip(self.sensitivity, self.false_positives, strict=True) if f <= rate)

    def to_dict(self) -> dict:
        return asdict(self)


def froc(scores: Sequence[CaseScore]) -> Froc | None:
    """The curve of a method over all its cases; None where no case has a node.

    A node counts as found at the highest score of the candidates that find it; candidates of equal score come in
    together. The candidates are the components of the prediction, so the curve ends at that prediction's sensitivity.
    Raises ValueError for candidates without a score (`score_case` was given no probability).
    """
    nodes = sum(len(score.nodes) for score in scores)
    if not nodes:
        return None
    candidates = [candidate for score in scores for candidate in score.candidates]
    if any(candidate.score is None for candidate in candidates):
        raise ValueError("FROC needs a score for every candidate: give score_case the probability")
    hits = np.sort([max(c.score for c in score.candidates if node.id in c.finds)
                    for score in scores for node in score.nodes if node.found])
    alarms = np.sort([candidate.score for candidate in candidates if candidate.false_positive])
    thresholds = sorted({candidate.score for candidate in candidates}, reverse=True)

    def share_from(sorted_scores, whole):
        return (0.0, *((len(sorted_scores) - np.searchsorted(sorted_scores, thresholds)) / whole).tolist())

    return Froc((None, *thresholds), share_from(alarms, len(scores)), share_from(hits, nodes))
