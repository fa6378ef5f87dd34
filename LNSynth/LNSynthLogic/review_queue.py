"""A reviewer's way through a folder of samples: what is next, where each stands, verdicts that are on the disk at once.

The folder is read again at every step, since samples may still be streaming into it and others may be reviewing it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from LNSynthLib.review import verdicts
from LNSynthLib.review.samples import pair_id, samples
from LNSynthLib.review.verdicts import Decision
from LNSynthLib.runtime.errors import LNSynthError

from .words import _

WAIT_S = 2.0  # for another reviewer's write; the window stands still meanwhile


@dataclass(frozen=True)
class Item:
    """A sample and what was said about it as it is now."""

    name: str
    pair: str                            # what it is (`samples.pair_id`); empty where `problem` says why not
    mine: Decision | None = None         # this reviewer's verdict
    others: tuple[Decision, ...] = ()    # the latest of every other reviewer, in order of time
    stale: Decision | None = None        # this reviewer's, on an earlier sample of this name: it no longer holds
    problem: str = ""

    @property
    def waits(self) -> bool:
        """For this reviewer's verdict."""
        return self.mine is None and not self.problem


    def texts(self) -> tuple[str, str, str, str]:
        """Sample, own verdict, notes and reviewers, as the table shows them."""
        said = {"accept": _("accepted"), "reject": _("rejected")}
        verdict = said[self.mine.verdict] if self.mine else ""
        if self.problem:
            verdict = _("damaged")
        elif self.stale and not self.mine:
            verdict = _("regenerated")  # since this reviewer's verdict
        notes = [self.mine.note] if self.mine and self.mine.note else []
        notes += [f"{decision.reviewer}: {decision.note}" for decision in self.others if decision.note]
        who = [self.mine.reviewer] if self.mine else []
        who += [f"{decision.reviewer} ({said[decision.verdict]})" for decision in self.others]
        return self.name, verdict, self.problem or "; ".join(notes), ", ".join(who)


@dataclass(frozen=True)
class Progress:
    total: int
    accepted: int
    rejected: int

    @property
    def decided(self) -> int:
        return self.accepted + self.rejected

    @property
    def sentence(self) -> str:
        if self.decided == self.total:
            return _("All {total} samples are decided: {accepted} accepted, {rejected} rejected.").format(
                total=self.total, accepted=self.accepted, rejected=self.rejected)
        return _("{left} of {total} samples wait for you; {accepted} accepted, {rejected} rejected.").format(
            left=self.total - self.decided, total=self.total, accepted=self.accepted, rejected=self.rejected)


def what_is_missing(folder: str, reviewer: str) -> str:
    """Why nothing can be decided yet; empty when it can."""
    if not folder:
        return _("Choose a folder of synthetic samples.")
    if not reviewer.strip():
        return _("Enter your name as the reviewer.")
    return ""


def what_export_misses(queue: ReviewQueue | None) -> str:
    """Why there is nothing to export; empty when there is."""
    if queue is None:
        return _("Choose a folder of synthetic samples.")
    said = [[item.mine] * bool(item.mine) + list(item.others) for item in queue.items]
    if not any(found and all(decision.verdict == "accept" for decision in found) for found in said):
        return _("No sample is accepted yet.")
    return ""


def what_seg_misses(ct, nodes) -> str:
    """Why nodes (a segmentation or None) on a CT (a volume or None) cannot be a DICOM SEG; empty when they can."""
    from .synthetic import is_synthetic

    if ct is None or ct.GetImageData() is None:
        return _("Choose a CT (section Input).")
    if is_synthetic(ct):
        return _("This CT is synthetic: a DICOM segmentation belongs to a patient's CT.")
    if nodes is None or not nodes.GetSegmentation().GetNumberOfSegments():
        return _("There are no nodes to save (section Nodes).")
    if is_synthetic(nodes):
        return _("These nodes belong to a synthetic CT: a DICOM segmentation is of what was drawn on a patient's CT.")
    return ""


class ReviewQueue:
    """The samples of a folder in natural order, as one reviewer goes through them.

    `items` is as of the last `refresh`; `current` is the name of the sample that it is at, "" before the first step.
    """

    def __init__(self, folder: Path, reviewer: str = ""):
        """Raises LNSynthError where the folder holds no samples or its review.csv cannot be read."""
        self.folder, self.reviewer = Path(folder), reviewer.strip()
        self.items: tuple[Item, ...] = ()
        self.current = ""
        self._seen = ("", "")  # name and pair of the sample that is on the screen
        self._pairs: dict[str, tuple] = {}  # name: (state of its provenance.json, pair, problem)
        self.refresh()

    def refresh(self) -> bool:
        """Reads the folder again. True where anything is other than before.

        Where the current sample is gone, the one that took its place in the order becomes current.
        """
        place, before = self.place, (self.items, self.current)
        self.items = self._read()
        if self.current and self.place < 0:
            self.current = self.items[min(max(place, 0), len(self.items) - 1)].name
        return (self.items, self.current) != before

    @property
    def place(self) -> int:
        """Index of the current sample in `items`, -1 for none."""
        return next((index for index, item in enumerate(self.items) if item.name == self.current), -1)

    @property
    def item(self) -> Item | None:
        """The current sample."""
        return self.items[self.place] if self.place >= 0 else None

    @property
    def progress(self) -> Progress:
        said = [item.mine.verdict for item in self.items if item.mine]
        return Progress(len(self.items), said.count("accept"), said.count("reject"))

    def first(self) -> str:
        """Goes to the first sample that waits for this reviewer, or the first of all where none waits."""
        self.refresh()
        waiting = [item.name for item in self.items if item.waits]
        self.current = (waiting or [self.items[0].name])[0]
        return self.current

    def step(self, by: int) -> str:
        """Goes `by` samples on (or back), no further than the last (or the first); returns its name."""
        self.refresh()
        if self.place < 0:
            return self.first()
        self.current = self.items[min(max(self.place + by, 0), len(self.items) - 1)].name
        return self.current

    def go(self, name: str) -> str:
        """Goes to a sample. Raises LNSynthError where it is gone."""
        self.refresh()
        if name not in [item.name for item in self.items]:
            raise LNSynthError(f"{self.folder}: there is no sample {name!r} any more; choose another.")
        self.current = name
        return name

    def look(self) -> Path:
        """The folder of the current sample, which is on the screen from now on: the next verdict is about it."""
        self.go(self.current)
        if self.item.problem:
            raise LNSynthError(self.item.problem)
        self._seen = (self.current, self.item.pair)
        return self.folder / self.current

    def decide(self, verdict: str, note: str = "") -> str:
        """Writes the verdict ("accept", "reject") on the current sample to the disk and goes on to the next that waits.

        That is the first one after it, else the first of all, else this one again; returns its name. Raises
        LNSynthError and stays where the verdict was not written, and where it would be about another sample than the
        one last looked at.
        """
        self._check_seen()
        verdicts.record(self.folder, self.current, verdict, note, self.reviewer, WAIT_S)
        self.refresh()
        following = self.following
        self.current = following.name if following is not None else self.current
        return self.current

    @property
    def following(self) -> Item | None:
        """The next sample that waits: the first one after the current one, else the first of all others, else None."""
        after = self.place + 1
        waiting = [item for item in (*self.items[after:], *self.items[:max(after - 1, 0)]) if item.waits]
        return waiting[0] if waiting else None

    def comment(self, note: str) -> None:
        """Writes another note to the current sample; the verdict stays. LNSynthError where there is none yet."""
        self._check_seen()
        if self.item.mine is None:
            raise LNSynthError(_("A note is kept with a verdict: accept or reject {name} with it.").format(
                name=self.current))
        verdicts.record(self.folder, self.current, self.item.mine.verdict, note, self.reviewer, WAIT_S)
        self.refresh()

    def _check_seen(self) -> None:
        if not self.reviewer:
            raise LNSynthError(_("Enter your name as the reviewer, so that the verdict says whose it is."))
        if not self.current or self._seen[0] != self.current:
            raise LNSynthError(_("Look at a sample before you decide about it."))
        self.go(self.current)
        if self.item.pair != self._seen[1]:
            raise LNSynthError(_("{name} was regenerated while you looked at it; look at it again.").format(
                name=self.current))

    def _read(self) -> tuple[Item, ...]:
        """As `verdicts.review` does for each reviewer, but from one reading of the table and of what is new."""
        now = {path.name: self._pair(path) for path in samples(self.folder)}
        holding: dict[str, dict[str, Decision]] = {name: {} for name in now}
        outdated: dict[str, Decision] = {}
        for decision in verdicts.history(self.folder):  # in order of time
            name, who = decision.sample, decision.reviewer
            if name not in now:
                continue
            if decision.pair in ("", now[name][0]):
                holding[name].pop(who, None)
                holding[name][who] = decision
            elif who == self.reviewer:
                outdated[name] = decision
        items = []
        for name, (pair, problem) in now.items():
            mine = holding[name].pop(self.reviewer, None)
            items.append(Item(name, pair, mine, tuple(holding[name].values()),
                              outdated.get(name) if mine is None else None, problem))
        return tuple(items)

    def _pair(self, path: Path) -> tuple[str, str]:
        """(pair, problem) of a sample, read anew only where its provenance.json is another file."""
        try:
            stat = (path / "provenance.json").stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if path.name not in self._pairs or self._pairs[path.name][0] != state:
                self._pairs[path.name] = (state, pair_id(path), "")
        except (OSError, LNSynthError) as error:
            return "", str(error)
        return self._pairs[path.name][1:]
