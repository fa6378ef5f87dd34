"""The numbers of a plan's tables: each row's means with intervals, and its tests against the table's reference.

With several seeds, every (seed, case) counts once and patients are resampled with all that is theirs: the means and
intervals are those of cases averaged over seeds, where a measure is defined for all seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...evaluation.generation import interval_of
from ...evaluation.images import RANGE
from ...evaluation.segmentation import METRICS, CaseScore, intervals, pool
from ...evaluation.statistics import Comparison, Interval, compare, mean_interval
from ...runtime.content import check
from ...runtime.files import read_json
from ..cells import Outcome
from ..plan import Row
from .results import Results, Scored

TITLES = {"dsc": "DSC", "iou": "IOU", "recall": "Recall", "precision": "Precision", "assd_mm": "ASSD, mm",
          "node_recall": "NodeRecall", "false_positives": "FP a case"}
LOWER_IS_BETTER = ("assd_mm", "false_positives")
FEW = 10  # patients below which an interval is shown with its points
STRATEGIES = {"real": "Real cases alone", "synthetic": "Synthetic pairs alone",
              "both": "Real cases and synthetic pairs"}


@dataclass(frozen=True)
class Line:
    """A row of a table of segmentations. Without scores, nothing of it is done yet."""

    row: Row
    scores: list[Scored]
    pooled: dict                       # `pool`
    intervals: dict[str, Interval]     # by measure
    versus: dict[str, Comparison]      # by measure, reference - this row; empty for the reference itself

    @property
    def seeds(self) -> int:
        return len({s.seed for s in self.scores})


def lines(results: Results, name: str) -> list[Line]:
    """The rows of the plan's table of that name (measure: segmentation)."""
    outcomes, settings = results.layout.tables[name], results.plan.score
    scores = {outcome.row.label: results.scored(outcome) for outcome in outcomes}
    reference = results.plan.tables[name].reference
    tests = _tests(scores, reference) if reference else {}
    return [Line(outcome.row, mine, pool([s.score for s in mine], settings) if mine else {},
                 intervals([s.score for s in mine], [s.patient for s in mine], settings) if mine else {},
                 {metric: found[outcome.row.label] for metric, found in tests.items() if outcome.row.label in found})
            for outcome in outcomes for mine in [scores[outcome.row.label]]]


def _tests(scores: dict[str, list[Scored]], reference: str) -> dict[str, dict[str, Comparison]]:
    """By measure and label: every row that is done against the reference, case by case."""
    base = scores[reference]
    others = {label: _matched(base, mine) for label, mine in scores.items() if mine and label != reference}
    if not base or not others:
        return {}
    patients = [s.patient for s in base]
    return {metric: compare([getattr(s.score, metric) for s in base],
                            {label: [s and getattr(s, metric) for s in mine] for label, mine in others.items()},
                            patients) for metric in METRICS}


def _matched(base: Sequence[Scored], other: Sequence[Scored]) -> list[CaseScore | None]:
    """The scores of `other` for the seeds and cases of `base`."""
    known = {(s.seed, s.case): s.score for s in other}
    return [known.get((s.seed, s.case)) for s in base]


def difference(a: Line, b: Line, metric: str) -> Interval:
    """a - b, case by case, with its interval over patients."""
    pairs = zip(a.scores, _matched(a.scores, b.scores), strict=True)
    values = [None if other is None or None in (mine := (getattr(s.score, metric), getattr(other, metric)))
              else mine[0] - mine[1] for s, other in pairs]
    return mean_interval(values, patients=[s.patient for s in a.scores])


def mean_of_patient(line: Line, patient: str, metric: str) -> float | None:
    """Over that patient's cases and all seeds; None where the measure is not defined."""
    values = [getattr(s.score, metric) for s in line.scores if s.patient == patient]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def subset(line: Line, keep: Callable[[Scored], bool], results: Results) -> Line:
    """The row over some of its test cases, without tests."""
    some = [s for s in line.scores if keep(s)]
    settings = results.plan.score
    return Line(line.row, some, pool([s.score for s in some], settings) if some else {},
                intervals([s.score for s in some], [s.patient for s in some], settings) if some else {}, {})


def best(values: Sequence[float | None], digits: int, lower: bool = False) -> set[int]:
    """Places of the best of values that are shown with so many digits; none where no two of them differ."""
    shown = [None if value is None else round(value, digits) for value in values]
    known = {value for value in shown if value is not None}
    if len(known) < 2:
        return set()
    top = min(known) if lower else max(known)
    return {i for i, value in enumerate(shown) if value == top}


@dataclass(frozen=True)
class Measure:
    """A column of a table of images: where it is found, and whether more of it is better (None: neither)."""

    title: str
    name: str
    digits: int
    higher: bool | None


IMAGE_MEASURES = (
    Measure("MSE, images in [0, 1]", "mse_01", 4, False), Measure("MSE, images in [-1, 1]", "mse", 4, False),
    Measure("PSNR, dB", "psnr", 2, True),
    Measure("MS-SSIM", "ms_ssim", 3, True), Measure("LPIPS", "lpips", 4, False), Measure("FID", "fid", 3, False),
    Measure("MMD", "mmd", 4, False), Measure("organs: HU error", "organ_error_hu", 1, False),
    Measure("organ cores: HU error", "core_error_hu", 1, False),
    Measure("node contrast, HU", "contrast_hu", 1, None), Measure("NodeRecall_synt", "node_recall_synt", 3, True))
OF_SETS = ("fid", "mmd")  # of all samples as a set: no interval


@dataclass(frozen=True)
class ImageLine:
    """A row of a table of images. Without samples, nothing of it is done yet."""

    row: Row
    samples: list[dict]                # rows of `evaluation.generation.evaluate_samples`, of all seeds
    intervals: dict[str, Interval]     # by name of `IMAGE_MEASURES`
    seeds: int


def image_lines(results: Results, name: str) -> list[ImageLine]:
    """The rows of the plan's table of that name (measure: images)."""
    return [_image_line(results, outcome) for outcome in results.layout.tables[name]]


def _rows(path: Path) -> list[dict]:
    return check(read_json(path), {"samples": [{"sample": str, "case": str, "patient": str}]}, path)["samples"]


def _image_line(results: Results, outcome: Outcome) -> ImageLine:
    cells = [cell for cell in outcome.images if results.result(cell)]
    if not cells:
        return ImageLine(outcome.row, [], {}, 0)
    made, owner = [results.result(cell) for cell in cells], results.patients()
    samples = [{"mse_01": row["mse"] / RANGE**2, **row}  # earlier versions gave that on [-1, 1] alone
               for cell in cells for row in _rows(cell.folder(results.out) / "images.json")]
    found = {}
    for measure in IMAGE_MEASURES:
        if measure.name in OF_SETS:
            values = [result["summary"][measure.name] for result in made]
            found[measure.name] = Interval(None if None in values else float(np.mean(values)), None, None, 0)
        elif measure.name == "node_recall_synt":
            nodes = [node for result in made for node in result["nodes"]]
            scores = [CaseScore.from_dict(node["score"]) for node in nodes]
            found[measure.name] = intervals(scores, [owner[node["case"]] for node in nodes],
                                            results.plan.score)["node_recall"]
        else:
            found[measure.name] = mean_of(samples, measure.name)
    return ImageLine(outcome.row, samples, found, len(cells))


def mean_of(samples: Sequence[dict], name: str) -> Interval:
    """The mean of a sample's measure where it is defined, with its interval over patients."""
    known = [row for row in samples if row[name] is not None]
    return interval_of(name, [row[name] for row in known], [row["patient"] for row in known])
