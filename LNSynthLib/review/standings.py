"""Which samples of a folder may be used for training: all but those that a person rejected or the filter dropped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..runtime.errors import LNSynthError
from ..runtime.tables import read_table
from .samples import damage, pair_id, samples
from .verdicts import Decision, Rule, review

FILTER_COLUMNS = ("sample", "kept", "least_coverage", "coverage", "threshold", "rule", "segmenter", "reason", "pair")


@dataclass(frozen=True)
class Verdict:
    """What a segmenter found of one sample's nodes, and what the filter made of it: a row of filter.csv."""

    sample: str
    kept: bool
    coverage: dict[int, float]  # node's number in nodes.nii.gz: share of its voxels that the segmenter covers
    threshold: float
    rule: str
    segmenter: str
    reason: str
    pair: str                   # what was judged (`samples.pair_id`)

    @property
    def least(self) -> float | None:
        """The least covered node's coverage; None where the sample has no node."""
        return min(self.coverage.values(), default=None)


@dataclass(frozen=True)
class Standing:
    """What is known about one sample, and whether it may be trained on."""

    sample: Path
    decision: Decision | None  # the one that counts
    stale: list[Decision]      # about the sample that stood here before it was regenerated
    verdict: Verdict | None    # of the filter, about this very sample
    damaged: str = ""          # what is wrong (`samples.damage`)

    @property
    def status(self) -> Literal["damaged", "rejected", "dropped", "accepted", "undecided"]:
        if self.damaged:
            return "damaged"
        if self.decision and self.decision.verdict == "reject":
            return "rejected"
        if self.verdict and not self.verdict.kept:
            return "dropped"
        return "accepted" if self.decision else "undecided"


def pairs(folder: Path, *, reviewed: bool = True, filtered: bool = True,
          rule: Rule = "any-reject") -> tuple[list[Path], list[dict]]:
    """(sample folders that may be trained on, [{"sample", "reason"}] of those left out), both in natural order.

    Left out are damaged samples, those rejected in review.csv (unless not `reviewed`; `rule` where reviewers disagree)
    and those dropped in filter.csv (unless not `filtered`), even where a person accepted them. A verdict about a sample
    that was regenerated since says nothing about the one here. Raises LNSynthError where the folder holds no samples, a
    table cannot be read, or the filter was interrupted, so that many of its verdicts are missing.
    """
    if filtered and filter_table(folder).exists() and not filter_table(folder).with_suffix(".json").exists():
        raise LNSynthError(f"{folder}: the filter was interrupted before it had judged every sample; go on with "
                           "`lnsynth review filter`, or remove filter.csv.")
    kept, left_out = [], []
    for standing in standings(folder, reviewed=reviewed, filtered=filtered, rule=rule):
        if standing.status in ("accepted", "undecided"):
            kept.append(standing.sample)
        else:
            left_out.append({"sample": standing.sample.name, "reason": reason(standing)})
    return kept, left_out


def standings(folder: Path, *, reviewed: bool = True, filtered: bool = True,
              rule: Rule = "any-reject") -> list[Standing]:
    """Where each sample of the folder stands, in natural order; `pairs` says what the arguments mean."""
    folder = Path(folder)
    here = samples(folder)
    said = review(folder, rule) if reviewed else None
    verdicts = read_filter(folder) if filtered else {}
    found = []
    for sample in here:
        verdict, damaged = verdicts.get(sample.name), damage(sample)
        if verdict and (damaged or verdict.pair != pair_id(sample)):
            verdict = None
        found.append(Standing(
            sample, said.decisions.get(sample.name) if said else None,
            [d for d in said.stale if d.sample == sample.name] if said else [], verdict, damaged))
    return found


def reason(standing: Standing) -> str:
    """Why a sample is left out, for people; empty where it is not."""
    if standing.status == "damaged":
        return f"damaged: {standing.damaged}"
    if standing.status == "rejected" and standing.decision:
        note = f": {standing.decision.note}" if standing.decision.note else ""
        return f"rejected by {standing.decision.reviewer or 'a reviewer'}{note}"
    if standing.status == "dropped" and standing.verdict:
        return f"dropped by the filter: {standing.verdict.reason}"
    return ""


def filter_table(folder: Path) -> Path:
    return Path(folder) / "filter.csv"


def read_filter(folder: Path) -> dict[str, Verdict]:
    """The filter's verdicts by sample, current or not; none where the folder was never filtered."""
    path = filter_table(folder)
    if not os.path.lexists(path):
        return {}
    try:
        found = [_verdict(row) for _, row in read_table(path, FILTER_COLUMNS).rows]
        verdicts = {verdict.sample: verdict for verdict in found}
        if len(verdicts) < len(found):
            raise ValueError("a sample has two rows")
        return verdicts
    except (LNSynthError, ValueError, KeyError) as error:
        raise LNSynthError(f"{path}: the filter's table is damaged ({type(error).__name__}: {error}); remove it and "
                           "run the filter again.") from None


def _verdict(row: dict) -> Verdict:
    if not row["pair"]:
        raise ValueError("a row is cut short")
    coverage = {int(node): float(share) for node, share in (part.split(":") for part in row["coverage"].split())}
    threshold = float(row["threshold"].replace(",", "."))  # a spreadsheet's decimal comma
    if not all(0 <= share <= 1 for share in (*coverage.values(), threshold)):
        raise ValueError("a coverage or the threshold is not from 0 to 1")
    return Verdict(row["sample"], {"yes": True, "no": False}[row["kept"]], coverage, threshold,
                   row["rule"], row["segmenter"], row["reason"], row["pair"])
