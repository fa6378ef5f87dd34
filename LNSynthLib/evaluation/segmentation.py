"""A segmentation against the truth: the score of a case, and a method's row in the table."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from ..images.boxes import bounding_box
from ..runtime.errors import LNSynthError
from ..runtime.settings import build
from .nodewise import Candidate, NodeScore, match
from .overlap import overlap
from .statistics import Interval, mean_interval
from .surface import assd

METRICS = ("dsc", "iou", "recall", "precision", "assd_mm", "node_recall", "false_positives")


@dataclass(frozen=True)
class ScoreSettings:
    """What the paper leaves open. A case that is "excluded" counts in no mean of that measure."""

    connectivity: Literal[6, 18, 26] = 26            # neighbours that join predicted voxels to a component
    found_dsc: float = 0.1                           # NodeRecall: DSC of a component with a node that it finds
    found_strictly: bool = True                      # above that (the paper), or at least that
    node_recall: Literal["per_case", "pooled"] = "per_case"  # mean over cases that have nodes, or all nodes at once
    strata_mm: tuple[float, ...] = (8.0, 10.0, 15.0)  # bounds of short axes; NodeRecall by stratum is always pooled
    false_positive: Literal["finds_none", "touches_none"] = "finds_none"  # a component that finds (touches) no node
    candidate_score: Literal["mean", "max"] = "mean"  # FROC: a component's score, of the probabilities in it
    both_empty: Literal["exclude", "perfect"] = "exclude"       # no node, none predicted: perfect is 1, ASSD 0
    empty_truth: Literal["zero", "exclude"] = "zero"            # no node, some predicted: DSC, IOU, Precision, ASSD
    empty_prediction: Literal["zero", "exclude"] = "zero"       # Precision where nothing is predicted; the rest is 0
    one_empty_assd: Literal["diagonal", "exclude"] = "diagonal"  # ASSD where one is empty: the image's diagonal

    def __post_init__(self):
        if not 0 <= self.found_dsc < 1:
            raise LNSynthError(f"found_dsc must lie in [0, 1), not {self.found_dsc}.")
        if not self.strata_mm or list(self.strata_mm) != sorted(set(self.strata_mm)):
            raise LNSynthError(f"strata_mm must be bounds in ascending order, not {self.strata_mm}.")


@dataclass(frozen=True)
class CaseScore:
    """All that is measured on one case; None where a measure is not defined or excluded."""

    dsc: float | None
    iou: float | None
    recall: float | None
    precision: float | None
    assd_mm: float | None
    nodes: tuple[NodeScore, ...]
    candidates: tuple[Candidate, ...]

    @property
    def node_recall(self) -> float | None:
        """Share of the true nodes that are found; None where there are none."""
        return sum(node.found for node in self.nodes) / len(self.nodes) if self.nodes else None

    @property
    def false_positives(self) -> int:
        return sum(candidate.false_positive for candidate in self.candidates)

    def to_dict(self) -> dict:
        """As JSON knows it; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> CaseScore:
        return build(cls, values, "case score")


def score_case(predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float],
               settings: ScoreSettings = ScoreSettings(), probability: np.ndarray | None = None) -> CaseScore:
    """Scores the prediction of one case.

    predicted    (X, Y, Z) mask, any type: what is above 0 is node. Instances in it are not used: components are
                 separated by `settings.connectivity`
    truth        (X, Y, Z) instances 1..n; touching nodes stay apart. Both canonical (third axis across axial slices)
    spacing      mm along the axes
    probability  (X, Y, Z) of being node, for FROC
    Raises ValueError for shapes that differ or a truth that is not of integers. Apart from two passes over the volume,
    the work is in proportion to the box around all nodes.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    shapes = {a.shape for a in (predicted, truth, probability) if a is not None}
    if len(shapes) > 1 or truth.ndim != 3:
        raise ValueError(f"a prediction, its truth and its probability need one 3D shape, not {sorted(shapes)}")
    if truth.dtype.kind not in "biu":
        raise ValueError(f"the truth must hold integers, one a node, not {truth.dtype}")
    diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing)))
    foreground = predicted > 0
    box = bounding_box(foreground | (truth > 0)) or tuple(slice(0, 1) for _ in range(3))
    foreground, truth = foreground[box], truth[box].astype(np.int32)
    nodes, candidates = match(
        foreground, truth, spacing, connectivity=settings.connectivity, found_dsc=settings.found_dsc,
        strictly=settings.found_strictly, spare_touching=settings.false_positive == "touches_none",
        probability=None if probability is None else probability[box], score=settings.candidate_score)
    return CaseScore(**_whole(foreground, truth > 0, spacing, diagonal, settings), nodes=nodes, candidates=candidates)


def _whole(predicted, truth, spacing, diagonal: float, settings: ScoreSettings) -> dict[str, float | None]:
    """The five measures of all nodes together, and what stands for them where there is nothing to measure."""
    some_predicted, some_true = predicted.any(), truth.any()
    if not some_predicted and not some_true:
        perfect = settings.both_empty == "perfect"
        return dict.fromkeys(METRICS[:4], 1.0 if perfect else None) | {"assd_mm": 0.0 if perfect else None}
    if not some_true and settings.empty_truth == "exclude":
        return dict.fromkeys(METRICS[:5])
    counted = overlap(predicted, truth)
    values = {name: getattr(counted, name) for name in METRICS[:4]}
    values["assd_mm"] = assd(predicted, truth, spacing)
    if not some_predicted and settings.empty_prediction == "zero":
        values["precision"] = 0.0
    if values["assd_mm"] is None and settings.one_empty_assd == "diagonal":
        values["assd_mm"] = diagonal
    return values


def pool(scores: Sequence[CaseScore], settings: ScoreSettings = ScoreSettings()) -> dict:
    """A method's row: the mean of each of `METRICS` over the cases where it is defined (None if there are none).

    "node_recall" is as `settings.node_recall` says, "false_positives" a case; besides "cases", "nodes",
    "empty_predictions", "counted" (cases in each mean) and "node_recall_by_short_axis" (pooled over nodes): stratum ->
    {"nodes", "found", "node_recall"}.
    """
    columns = {name: _defined(scores, name, settings) for name in METRICS}
    row = {name: float(np.average(values, weights=weights)) if len(values) else None
           for name, (values, weights, _) in columns.items()}
    return row | {
        "cases": len(scores), "nodes": sum(len(score.nodes) for score in scores),
        "empty_predictions": sum(not score.candidates for score in scores),
        "counted": {name: len(values) for name, (values, _, _) in columns.items()},
        "node_recall_by_short_axis": _strata(scores, settings.strata_mm)}


def intervals(scores: Sequence[CaseScore], patients: Sequence[str] | None = None,
              settings: ScoreSettings = ScoreSettings()) -> dict[str, Interval]:
    """95 % intervals (`mean_interval`) of the means that `pool` gives. patients: whose each case is."""
    patients = np.arange(len(scores)) if patients is None else np.asarray(patients)
    found = {}
    for name in METRICS:
        values, weights, kept = _defined(scores, name, settings)
        scale = "positive" if name in ("assd_mm", "false_positives") else "unit"
        found[name] = mean_interval(values, scale, patients=patients[kept], weights=weights)
    return found


def _defined(scores, name: str, settings: ScoreSettings) -> tuple[list[float], list[float], list[int]]:
    """Values of a measure where it is defined, the weight of each in the mean, and the places of its cases."""
    kept = [i for i, score in enumerate(scores) if getattr(score, name) is not None]
    by_nodes = name == "node_recall" and settings.node_recall == "pooled"
    return ([float(getattr(scores[i], name)) for i in kept], [float(len(scores[i].nodes)) if by_nodes else 1.0
                                                             for i in kept], kept)


def _strata(scores, bounds: tuple[float, ...]) -> dict[str, dict]:
    """NodeRecall by short axis: "<8", "8-10", "10-15", ">15" for 8, 10, 15 (10 belongs to 10-15, and so does 15)."""
    names = [f"<{bounds[0]:g}", *(f"{a:g}-{b:g}" for a, b in zip(bounds, bounds[1:], strict=False)),
             f">{bounds[-1]:g}"]
    strata = {name: {"nodes": 0, "found": 0, "node_recall": None} for name in names}
    for node in (node for score in scores for node in score.nodes):
        place = len(bounds) if node.short_axis_mm > bounds[-1] else bisect_right(bounds[:-1], node.short_axis_mm)
        stratum = strata[names[place]]
        stratum["nodes"] += 1
        stratum["found"] += node.found
        stratum["node_recall"] = stratum["found"] / stratum["nodes"]
    return strata
