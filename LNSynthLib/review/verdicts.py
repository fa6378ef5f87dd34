"""Verdicts on the samples of a folder: review.csv, written by several reviewers, checked when it is read.

One row a decision, never changed once written: sample, verdict, note, time, reviewer, and the pair that was judged
(`samples.pair_id`). The standard library is all it needs, so that a viewer can use it before anything is installed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ..runtime.errors import LNSynthError
from ..runtime.files import atomic_path
from ..runtime.locks import alone
from ..runtime.tables import Table, csv_text, read_table
from .samples import pair_id, samples

COLUMNS = ("sample", "verdict", "note", "time", "reviewer", "pair")
VERDICTS = ("accept", "reject")
Rule = Literal["any-reject", "latest"]
LOCK_S = 30.0  # to wait for another reviewer's write, which takes milliseconds


@dataclass(frozen=True)
class Decision:
    sample: str
    verdict: str      # one of VERDICTS
    note: str
    time: str      # ISO 8601, UTC
    reviewer: str
    pair: str      # what was judged; empty where a hand wrote the row without it: then it holds for any


@dataclass(frozen=True)
class Review:
    """Where a folder's review stands."""

    decisions: dict[str, Decision] = field(default_factory=dict)  # by sample: the one that counts
    undecided: list[str] = field(default_factory=list)            # samples without one, in natural order
    stale: list[Decision] = field(default_factory=list)           # about samples that were regenerated since


def table(folder: Path) -> Path:
    return Path(folder) / "review.csv"


def record(folder: Path, sample: str, verdict: str, note: str = "", reviewer: str = "",
           wait_s: float = LOCK_S) -> Decision:
    """Adds a decision to FOLDER/review.csv; it is on the disk when this returns. Earlier rows stay as history.

    Waits up to `wait_s` seconds for another reviewer's write.
    Raises LNSynthError for an unknown sample or verdict, no reviewer, and a review.csv that cannot be added to.
    """
    names = [path.name for path in samples(folder)]
    if sample not in names:
        raise LNSynthError(f"{folder}: there is no sample {sample!r} here; its samples are {_some(names)}.")
    if verdict not in VERDICTS:
        raise LNSynthError(f"The verdict on {sample} is {' or '.join(VERDICTS)}, not {verdict!r}.")
    if not reviewer.strip():
        raise LNSynthError(f"The verdict on {sample} has no reviewer; say who decides.")
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    decision = Decision(sample, verdict, note.strip(), now, reviewer.strip(), pair_id(Path(folder) / sample))
    path = table(folder)
    try:
        with alone(path.with_name(f".{path.name}.lock"), wait_s):
            known = _Table.read(path) if os.path.lexists(path) else _Table(Table([*COLUMNS], []))
            known.append({name: getattr(decision, name) for name in COLUMNS})
            known.write(path)
    except OSError as error:
        raise LNSynthError(f"{path}: the decision cannot be saved ({error.strerror or error}); close the file in "
                           "other programs and check that you may write there.") from None
    return decision


def history(folder: Path) -> list[Decision]:
    """Every decision ever made, in the order of the file; none where there is no review.csv.

    Rows are only ever added at the end, so their order is that of the decisions, whatever the clocks of the reviewers'
    machines say; the times are for people. Raises LNSynthError, naming the line, for a verdict or a
    time that means nothing and for a sample that is not there: a rejection must not get lost in a slip of the pen.
    """
    path = table(folder)
    if not os.path.lexists(path):  # a broken link must not pass for a folder without verdicts
        return []
    here = {entry.name for entry in Path(folder).iterdir() if entry.is_dir()}
    found = []
    for line, row in _Table.read(path).rows:
        values = {name: (row.get(name) or "").strip() for name in COLUMNS}
        values["verdict"] = values["verdict"].lower()
        where = f"{path}, line {line}"
        if values["verdict"] not in VERDICTS:
            raise LNSynthError(f"{where}: the verdict is {' or '.join(VERDICTS)}, not {values['verdict']!r}; correct "
                               "it.")
        if values["sample"] not in here:
            raise LNSynthError(f"{where}: there is no sample {values['sample']!r} in {folder}; correct the name, or "
                               "take the line out if the sample was deleted.")
        if values["time"]:
            _check_time(values["time"], where)
        found.append(Decision(**values))
    return found


def judged(folder: Path) -> set[str]:
    """Names of the samples that review.csv says anything of."""
    path = table(folder)
    return {row["sample"].strip() for _, row in _Table.read(path).rows} if os.path.lexists(path) else set()


def _pair(sample: Path) -> str:
    """`samples.pair_id`, "" where the sample's record is damaged: then no verdict is about what is there."""
    try:
        return pair_id(sample)
    except LNSynthError:
        return ""


def review(folder: Path, rule: Rule = "any-reject", reviewer: str | None = None) -> Review:
    """Which decision counts for each sample, which samples have none, and which decisions no longer hold.

    Of one reviewer's decisions on a sample the latest counts. Where reviewers disagree, by rule:

    any-reject  one rejection excludes the sample
    latest      the last word counts, whoever spoke it

    reviewer    only this one's decisions, for a reviewer's own queue; None: everybody's
    """
    if rule not in RULES:
        raise LNSynthError(f"There is no rule {rule!r} for reviewers who disagree; known are {', '.join(RULES)}.")
    now = {path.name: _pair(path) for path in samples(folder)}
    standing: dict[str, dict[str, Decision]] = {}  # sample: reviewer: decision
    outdated: dict[tuple[str, str], Decision] = {}
    for decision in history(folder):
        if reviewer is not None and decision.reviewer != reviewer:
            continue
        sample = decision.sample
        if not now.get(sample) or decision.pair not in ("", now[sample]):
            outdated[sample, decision.reviewer] = decision
            continue
        mine = standing.setdefault(sample, {})
        mine.pop(decision.reviewer, None)  # so that the order stays that of the file
        mine[decision.reviewer] = decision
    stale = [d for (sample, who), d in outdated.items() if who not in standing.get(sample, ())]
    return Review({sample: RULES[rule](list(standing[sample].values())) for sample in now if sample in standing},
                  [sample for sample in now if sample not in standing], stale)


def _any_reject(decisions: list[Decision]) -> Decision:
    return next((d for d in decisions if d.verdict == "reject"), decisions[-1])


def _latest(decisions: list[Decision]) -> Decision:
    return decisions[-1]


RULES = {"any-reject": _any_reject, "latest": _latest}  # of one decision a reviewer, in the order of the file


def _check_time(text: str, where: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise LNSynthError(f"{where}: the time {text!r} is not ISO 8601 (such as 2025-01-31T16:05:00Z); correct it or "
                           "leave it empty.") from None


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


class _Table:
    """The file as it is, in its own dialect: what a spreadsheet made of it (BOM, semicolons, more columns) stays."""

    def __init__(self, table: Table):
        self.columns = [*table.columns, *(name for name in COLUMNS if name not in table.columns)]
        self.rows = list(table.rows)
        self.delimiter, self.encoding = table.delimiter, table.encoding

    @classmethod
    def read(cls, path: Path) -> _Table:
        return cls(read_table(path, ("sample", "verdict")))

    def append(self, row: dict) -> None:
        self.rows.append((0, row))

    def write(self, path: Path) -> None:
        """Whole or not at all: a crash leaves the decisions as they were, and never half a row."""
        text = csv_text(self.columns, (row for _, row in self.rows), self.delimiter, "\r\n")
        with atomic_path(path) as beside:
            beside.write_bytes(text.encode(self.encoding))
