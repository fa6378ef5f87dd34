"""Training, validation and test stay apart: no patient and no CT is in two of them, whatever its name or format.

`check_sides` is asked by all that uses data sets: prepare, train, synthesize, segment train, evaluate images, and
experiments before their first cell; `check_new` by all that adds a real CT to one: import, fetch, pseudo. The manifest
of a data set alone says on which side a case is. What lies in no data set is not known here, nor in two that are never
used together.

    HOME/apart/DIGEST   an empty file for each set of CTs and sides found apart, so that it is not compared again; HOME
                        is `runtime.home`
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress, ignore
from ..runtime.home import home
from ..runtime.pseudonyms import known
from .dataset import SPLITS, Case, Dataset, home_of
from .fingerprint import Fingerprint, fingerprint, keep, near_duplicates, of_case

RULE = 1  # raise it when CTs are compared otherwise: what was found apart is then compared again


@dataclass(frozen=True)
class Member:
    """One CT on one side.

    name     for messages, with its data set
    case     its id; empty where it is no case
    side     train, val or test; empty where it is in no data set
    patient  as the manifest spells it
    sha256   of the CT file; empty where unknown
    look     makes its fingerprint, or reads it
    """

    name: str
    case: str
    side: str
    patient: str
    sha256: str
    look: Callable[[], Fingerprint]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return self.look()

    @property
    def person(self) -> str:
        return person(self.patient)

    @property
    def people(self) -> list[str]:
        """`person` and, where it is a pseudonym that was given here or one was given for it, that of the other."""
        return [self.person, *filter(None, [known("patient", self.person)])]


def person(patient: str) -> str:
    """A patient's id as it is compared: capitals, spaces, dashes, underscores and dots make no other person."""
    return re.sub(r"[\s_.\-]+", "-", str(patient).casefold().strip()).strip("-")


def members(folders: Sequence[str | Path | Dataset]) -> list[Member]:
    """Every case of some data sets, whether or not it has nodes or was prepared."""
    found = []
    for folder in folders:
        dataset = folder if isinstance(folder, Dataset) else Dataset.open(Path(folder))
        for entry in dataset.cases():
            id = entry["id"]
            found.append(Member(f"case {id} in {dataset.folder}", id, entry["split"], entry["patient"],
                                entry["sha256"]["ct"], functools.partial(of_case, dataset, id)))
    return found


def member_of(ct: str | Path, look: Callable[[], Fingerprint]) -> Member:
    """The CT file as the case that it is in the data set it lies in; else by itself: no case, side or patient."""
    if found := home_of(Path(ct)):
        dataset, entry = found
        return next(member for member in members([dataset]) if member.case == entry["id"])
    return Member(str(ct), "", "", "", "", look)


def check_new(new: Member, others: Sequence[Member]) -> None:
    """Raises LNSynthError, naming both CTs, where one that is to come shares its patient or what it shows with one of
    another side."""
    others = [member for member in others if member.side != new.side]
    _check_names([new], others)
    for _, j, likeness in near_duplicates([new.fingerprint], [m.fingerprint for m in others]):
        raise _same(new, others[j], likeness)


def add_apart(dataset: Dataset, case: Case, source: str | Path, others: list[Member]) -> None:
    """Adds a case to a data set whose members are `others`, and to them; keeps its fingerprint. Errors as `check_new`.

    source: the file that it comes from, for messages
    """
    look = fingerprint(case.ct)
    new = Member(f"case {case.id} ({source})", case.id, case.entry["split"], case.entry["patient"], "", lambda: look)
    check_new(new, [member for member in others if member.case != case.id])
    dataset.add(case)
    keep(dataset, case.id, look)
    others.append(new)


def check_sides(everyone: Sequence[Member], callback: Callback = ignore, skip_damaged: bool = False) -> None:
    """Raises LNSynthError, naming both CTs, where two sides share a patient, a CT, or a CT that shows the same.

    Fingerprints that are missing are made first, and kept beside their cases. Sides that were found apart once are not
    compared again. skip_damaged: a CT that cannot be read is left out, for those who refuse it themselves.
    """
    sides = {side: [member for member in everyone if member.side == side] for side in SPLITS}
    for one, other in combinations([side for side in SPLITS if sides[side]], 2):
        _check_names(sides[one], sides[other])
    present = [side for side in SPLITS if sides[side]]
    if len(present) < 2 or (verdict := _found_apart(everyone)) and verdict.is_file():
        return
    looked_at = _look(everyone, callback, skip_damaged)
    for one, other in combinations(present, 2):
        ours, theirs = ([member for member in looked_at if member.side == side] for side in (one, other))
        for i, j, likeness in near_duplicates([m.fingerprint for m in ours], [m.fingerprint for m in theirs]):
            raise _same(ours[i], theirs[j], likeness)
    if verdict and len(looked_at) == len(everyone):
        with suppress(OSError):  # then they are compared again next time
            verdict.parent.mkdir(parents=True, exist_ok=True)
            verdict.touch()


def _found_apart(everyone: Sequence[Member]) -> Path | None:
    """The file that is there when these CTs were found apart on these sides; None where a CT's hash is unknown."""
    if not all(member.sha256 for member in everyone):
        return None
    said = "\n".join([str(RULE), *sorted(f"{member.side} {member.sha256}" for member in everyone)])
    return home() / "apart" / hashlib.sha256(said.encode()).hexdigest()


def _check_names(ours: Sequence[Member], theirs: Sequence[Member]) -> None:
    people, files = {who: m for m in theirs for who in m.people}, {m.sha256: m for m in theirs if m.sha256}
    for member in ours:
        if (other := next(filter(None, map(people.get, member.people)), None)) is not None:
            spelt = "" if other.patient == member.patient else f" (also spelt {other.patient!r})"
            raise LNSynthError(f"patient {member.patient}{spelt} is on both sides: {member.name} is of split "
                               f"{member.side}, {other.name} of split {other.side}; give all images of a patient one "
                               "split or, if these are two people with one id (of two hospitals, say), import one of "
                               "them with another id in the column patient of a CSV of pairs.")
        if (other := files.get(member.sha256)) is not None:
            raise _same(member, other, 1.0)


def _same(one: Member, other: Member, likeness: float) -> LNSynthError:
    how = "are one CT" if likeness > 0.999 else f"show the same CT (likeness {likeness:.2f})"
    return LNSynthError(f"{one.name} (patient {one.patient}, split {one.side}) and {other.name} (patient "
                        f"{other.patient}, split {other.side}) {how}, so one CT is on both sides; give both one "
                        "patient and one split.")


def _look(everyone: Sequence[Member], callback: Callback, skip_damaged: bool) -> list[Member]:
    """Those whose fingerprints are there now: all, or LNSynthError, unless damaged CTs are skipped."""
    found = []
    with Progress("comparing CTs", len(everyone), callback) as progress:
        for member in everyone:
            try:
                member.fingerprint  # noqa: B018 (made, and kept)
                found.append(member)
            except LNSynthError:
                if not skip_damaged:
                    raise
            progress.step()
    return found
