"""Training, validation and test are apart: no patient and no CT is on two sides, under whatever name and form.

One function, `check_sides`, for everything that divides cases: import, prepare, pseudo, train, synthesize, segment
train and experiments. The manifest of a data set alone says on which side a case is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress, ignore
from .dataset import SPLITS, Dataset
from .fingerprint import Fingerprint, near_duplicates, of_case


@dataclass(frozen=True)
class Member:
    """One CT on one side.

    name     for messages, with its data set
    case     its id; empty where it is no case
    side     train, val or test
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


def person(patient: str) -> str:
    """A patient's id as it is compared: capitals, spaces, dashes, underscores and dots make no other person."""
    return re.sub(r"[\s_.\-]+", "-", str(patient).casefold().strip()).strip("-")


def members(folders: Sequence[str | Path | Dataset]) -> list[Member]:
    """Every case of some data sets, whether or not it has nodes or was prepared."""
    found = []
    for folder in folders:
        dataset = folder if isinstance(folder, Dataset) else Dataset.open(folder)
        for entry in dataset.cases():
            id = entry["id"]
            found.append(Member(f"case {id} in {dataset.folder}", id, entry["split"], entry["patient"],
                                entry["sha256"]["ct"], lambda d=dataset, id=id: of_case(d, id)))
    return found


def check_new(new: Member, others: Sequence[Member]) -> None:
    """Raises LNSynthError, naming both CTs, where one that is to come shares its patient or what it shows with one of
    another side."""
    others = [member for member in others if member.side != new.side]
    _check_names([new], others)
    for _, j, likeness in near_duplicates([new.fingerprint], [m.fingerprint for m in others]):
        raise _same(new, others[j], likeness)


def check_sides(everyone: Sequence[Member], callback: Callback = ignore) -> None:
    """Raises LNSynthError, naming both CTs, where two sides share a patient, a CT, or a CT that shows the same.

    Fingerprints that are missing are made first, and kept beside their cases.
    """
    sides = {side: [member for member in everyone if member.side == side] for side in SPLITS}
    for one, other in combinations([side for side in SPLITS if sides[side]], 2):
        _check_names(sides[one], sides[other])
    present = [side for side in SPLITS if sides[side]]
    if len(present) < 2:
        return
    _look(everyone, callback)
    for one, other in combinations(present, 2):
        alike = near_duplicates([m.fingerprint for m in sides[one]], [m.fingerprint for m in sides[other]])
        for i, j, likeness in alike:
            raise _same(sides[one][i], sides[other][j], likeness)


def _check_names(ours: Sequence[Member], theirs: Sequence[Member]) -> None:
    people, files = {m.person: m for m in theirs}, {m.sha256: m for m in theirs if m.sha256}
    for member in ours:
        if (other := people.get(member.person)) is not None:
            spelt = "" if other.patient == member.patient else f" (also spelt {other.patient!r})"
            raise LNSynthError(f"patient {member.patient}{spelt} is on both sides: {member.name} is of split "
                               f"{member.side}, {other.name} of split {other.side}; give all images of a patient one "
                               "split.")
        if (other := files.get(member.sha256)) is not None:
            raise _same(member, other, 1.0)


def _same(one: Member, other: Member, likeness: float) -> LNSynthError:
    how = "are one CT" if likeness > 0.999 else f"show the same CT (likeness {likeness:.2f})"
    return LNSynthError(f"{one.name} (patient {one.patient}, split {one.side}) and {other.name} (patient "
                        f"{other.patient}, split {other.side}) {how}, so one CT is on both sides; give both one "
                        "patient and one split.")


def _look(everyone: Sequence[Member], callback: Callback) -> None:
    with Progress("comparing CTs", len(everyone), callback) as progress:
        for member in everyone:
            member.fingerprint  # noqa: B018 (made, and kept)
            progress.step()
