"""The cases that a model was trained on, kept with its weights and its samples: nobody tests it on those.

    "trained_on": {"parts": [{"salt", "cases", "patients", "voxels"}], "unknown": [text]}

in the model's JSON file (a generator's model.json; "lnsynth" in a segmenter's dataset.json), and trained_on.npz beside
it (`fingerprint.save`). A part is the CTs of one training: 32 hex digits of the HMAC-SHA-256, with the part's salt, of
each case's and patient's id, and SHA-256 of each CT's voxels. The salt follows from the voxels, so that the same
training tells the same. Hashing hides ids from a glance; whoever can guess an id can test the guess. A fingerprint
shows a CT in cells of 8 mm: who may not pass that on removes trained_on.npz, and copies are then known by their voxels
alone.
"unknown" says what else the model has seen that left no such record.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.content import check
from ..runtime.errors import LNSynthError
from .fingerprint import Fingerprint, load, near_duplicates, save
from .sides import Member, person

PRINTS = "trained_on.npz"
PART = {"salt": str, "cases": [str], "patients": [str], "voxels": [str]}
RECORD: dict[str, Any] = {"parts": [PART], "unknown": [str]}


@dataclass(frozen=True)
class TrainedOn:
    """parts and unknown as in the JSON file; prints: the fingerprints, as far as they came along."""

    parts: tuple[dict, ...] = ()
    prints: tuple[Fingerprint, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(cls, members: Sequence[Member]) -> TrainedOn:
        """The record of a training on these CTs."""
        if not members:
            return cls()
        prints = {member.fingerprint.voxels: member.fingerprint for member in members}
        salt = hashlib.sha256("".join(sorted(prints)).encode()).hexdigest()[:32]
        part = {"salt": salt, "cases": sorted({_hash(salt, m.case) for m in members}),
                "patients": sorted({_hash(salt, m.person) for m in members}), "voxels": sorted(prints)}
        return cls((part,), tuple(prints.values()))

    @classmethod
    def read(cls, said: dict | None, folder: Path | None, what: str) -> TrainedOn:
        """What a model's JSON file says, with the fingerprints in its folder where there are some.

        said: its "trained_on", None where it has none: then `what`, the model, is what is unknown.
        Raises LNSynthError for a record that is damaged.
        """
        if said is None:
            return cls(unknown=(f"{what} does not say what it was trained on",))
        check(said, RECORD, f"{what}: its record of what it was trained on is damaged")
        parts = tuple({name: part[name] for name in PART} for part in said["parts"])
        unknown = tuple(said["unknown"])
        path = Path(folder) / PRINTS if folder is not None else None
        return cls(parts, tuple(load(path)) if path is not None and path.is_file() else (), unknown)

    def __add__(self, other: TrainedOn) -> TrainedOn:
        """Both, each thing once."""
        parts = {repr(part): part for part in (*self.parts, *other.parts)}
        prints = {found.voxels: found for found in (*self.prints, *other.prints)}
        return TrainedOn(tuple(parts.values()), tuple(prints.values()),
                         tuple(dict.fromkeys((*self.unknown, *other.unknown))))

    def plain(self) -> dict:
        return {"parts": list(self.parts), "unknown": list(self.unknown)}

    def save_prints(self, folder: Path) -> None:
        if self.prints:
            save(Path(folder) / PRINTS, self.prints)

    def seen(self, members: Sequence[Member]) -> list[tuple[Member, str]]:
        """Each member whose patient or CT the model has seen, and how that is known, in words that hold no id."""
        if not self.parts:
            return []
        found = {}
        voxels = {one for part in self.parts for one in part["voxels"]}
        for n, member in enumerate(members):
            if any(member.patient and _hash(part["salt"], who) in part["patients"]
                   for part in self.parts for who in member.people):
                found[n] = "this patient"
            elif member.fingerprint.voxels in voxels:
                found[n] = "this CT"
        rest = [n for n in range(len(members)) if n not in found]
        for i, _, likeness in near_duplicates([members[n].fingerprint for n in rest], self.prints):
            found.setdefault(rest[i], f"this CT in another form (likeness {likeness:.2f})")
        return [(members[n], how) for n, how in sorted(found.items())]

    def check(self, held: Sequence[Member], what: str) -> None:
        """Raises LNSynthError where the model, `what`, has seen a CT that is held out of training."""
        for member, how in self.seen(held):
            raise LNSynthError(f"{what} was trained on {how}: {member.name} (patient {member.patient}) is of split "
                               f"{member.side}; train another one without it, or give that case the split train.")


def _hash(salt: str, id: str) -> str:
    return hmac.new(salt.encode(), person(id).encode(), "sha256").hexdigest()[:32]


def held_out(everyone: Sequence[Member]) -> list[Member]:
    return [member for member in everyone if member.side != "train"]
