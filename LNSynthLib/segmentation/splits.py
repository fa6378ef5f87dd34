"""Which images a segmenter is trained on and which it is validated on, and a check that the two do not share a patient.

Validation is always real. No patient is on both sides, and neither is a synthetic child of a validation or test
patient: the child shows that patient's anatomy.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..cases.dataset import Dataset
from ..cases.fingerprint import of_case
from ..cases.sides import Member, check_sides, members
from ..cases.trained_on import TrainedOn, held_out
from ..images.synthetic import WORD
from ..review.samples import natural, read_record
from ..review.standings import pairs
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, ignore
from ..runtime.pseudonyms import pseudonym
from .settings import SegmentSettings

SAME_SPACING = 0.01  # relative: what differs more, nnU-Net would resample without a word


@dataclass(frozen=True)
class Item:
    """One image with its nodes: a case of a data set, or a synthetic sample.

    name     nnU-Net's identifier, which tells the kind: "<case>-real", "<sample>-synthetic1"
    patient  whose anatomy it shows
    case     id of the case it is, or was made from
    folder   of the data set or of the sample
    sha256   of its CT file
    usable   False: without a node mask, or its CT is synthetic; it still keeps its patient on its side
    """

    name: str
    kind: str  # real, phantom, pseudo (`cases.dataset.KINDS`) or synthetic
    split: str
    patient: str
    case: str
    folder: Path
    sha256: str
    usable: bool = True


@dataclass(frozen=True)
class Division:
    """train and val are what nnU-Net sees; left_out says of every other image why it does not ({"name", "reason"}).

    trained_on: what the segmenter will have seen, the generators of its samples before it
    """

    train: list[Item]
    val: list[Item]
    left_out: list[dict] = field(default_factory=list)
    trained_on: TrainedOn = TrainedOn()

    def used(self) -> list[Item]:
        return [*self.train, *self.val]


def divide(real: Sequence[Path], synthetic: Sequence[Path], settings: SegmentSettings,
           callback: Callback = ignore) -> Division:
    """Divides data sets (by the split of their cases) and folders of samples as the strategy says.

    Every case of the data sets counts in keeping sides apart, with a node mask or without. Raises LNSynthError where
    training and validation cannot be kept apart, a sample's origin is unknown, a sample does not fit the settings, or
    one side is empty.
    """
    _check_strategy(synthetic, settings.strategy)
    everything, left_out = _cases(real)
    cases = [item for item in everything if item.usable]
    children, more = _samples(synthetic, everything, settings)
    left_out += more
    fathers = [item for item in cases if item.split == "train"]
    if settings.strategy == "synthetic":
        left_out += [{"name": item.name, "reason": "real, and the strategy is synthetic"} for item in fathers]
    train = [*(fathers if settings.strategy != "synthetic" else []), *children]
    division = Division(train, [item for item in cases if item.split == "val"], left_out)
    check(division)
    everyone = members(real)
    check_sides(everyone, callback)
    division = replace(division, trained_on=_trained_on(train, everyone))
    return _anonymous(division) if settings.anonymous else division


def _anonymous(division: Division) -> Division:
    """With pseudonyms for nnU-Net's identifiers, by which it names files; of what is left out only the number, since
    reasons hold ids and notes."""
    def renamed(item: Item) -> Item:
        own, _, kind = item.name.rpartition("-")
        return replace(item, name=f"{pseudonym('sample' if item.kind == 'synthetic' else 'case', own)}-{kind}")

    return replace(division, train=[*map(renamed, division.train)], val=[*map(renamed, division.val)],
                   left_out=[{"name": "", "reason": "anonymous"} for _ in division.left_out])


def _trained_on(train: Sequence[Item], everyone: Sequence[Member]) -> TrainedOn:
    """The record of a training on these images. Raises LNSynthError where a sample's generator has seen a case of
    split val or test."""
    held = held_out(everyone)
    shown = {item.case for item in train}
    record = TrainedOn.of([member for member in everyone if member.side == "train" and member.case in shown])
    generators = {}
    for item in train:
        if item.kind == "synthetic":
            about = read_record(item.folder)["generator"]
            generators.setdefault(json.dumps(about.get("trained_on")), (about, item.name))
    for about, sample in generators.values():
        said = TrainedOn.read(about.get("trained_on"), None, f"the generator of {sample}")
        said.check(held, f"The generator of {sample}")
        record += said
    return record


def _check_strategy(synthetic: Sequence[Path], strategy: str) -> None:
    if strategy == "real" and synthetic:
        raise LNSynthError("The strategy real takes no synthetic samples; leave them out, or choose both.")
    if strategy != "real" and not synthetic:
        raise LNSynthError(f"The strategy {strategy} needs a folder of synthetic samples (--synthetic); make some with "
                           "`lnsynth synthesize`, or choose real.")


def check(division: Division) -> None:
    """The rules for what is trained on and validated on, whoever made the division; `cases.sides.check_sides` keeps
    patients and CTs apart. Raises LNSynthError that names the image which breaks one."""
    if not division.train:
        raise LNSynthError("There is no image to train on; give data sets with cases of split train, or samples made "
                           "from such cases.")
    if not division.val:
        raise LNSynthError("There is no real case to validate on; give some cases of the data sets the split val (or "
                           "add a data set that has such cases).")
    twice = [name for name, count in Counter(item.name for item in division.used()).items() if count > 1]
    if twice:
        raise LNSynthError(f"The case {twice[0].rpartition('-')[0]} is in two of the data sets; rename it in one.")
    for item in division.val:
        if item.kind == "synthetic" or item.split != "val":
            raise LNSynthError(f"{item.name} cannot be validated on: it is {item.kind}, of split {item.split}; "
                               "validation takes real cases of split val.")
    for item in division.train:
        if item.split != "train":
            raise LNSynthError(f"{item.name} ({item.kind}) shows case {item.case} of split {item.split}, so it cannot "
                               "be trained on; make samples from cases of split train.")


def _cases(folders: Sequence[Path]) -> tuple[list[Item], list[dict]]:
    """Every case of some data sets, and why some are not used."""
    found, left_out = [], []
    for folder in folders:
        dataset = Dataset.open(folder)
        for entry in dataset.cases():
            why = ("no node mask" if "nodes" not in entry["files"] else
                   f"its CT is {WORD}" if entry.get("synthetic") else "")
            found.append(Item(f"{entry['id']}-real", dataset.kind, entry["split"], entry["patient"], entry["id"],
                              Path(folder), entry["sha256"]["ct"], usable=not why))
            if why:
                left_out.append({"name": entry["id"], "reason": why})
            elif entry["split"] == "test":
                left_out.append({"name": found[-1].name, "reason": "of split test"})
    return found, left_out


def _samples(folders: Sequence[Path], cases: list[Item], settings: SegmentSettings) -> tuple[list[Item], list[dict]]:
    """The samples to train on, at most `multiple` a case, those of the lowest numbers first; and what was left out."""
    fathers = {item.case: item for item in cases}
    found, left_out = [], []
    for number, folder in enumerate(folders, start=1):
        kept, dropped = pairs(folder, reviewed=settings.reviewed, filtered=settings.filtered)
        left_out += [{"name": f"{d['sample']}-synthetic{number}", "reason": d["reason"]} for d in dropped]
        for sample in kept:
            record = read_record(sample)
            father = _father(sample, record, fathers)
            try:
                if not in_place(record):  # a full CT, which is prepared as real ones are
                    _check_form(sample, record["generator"]["settings"]["form"], settings)
                item = Item(f"{sample.name}-synthetic{number}", "synthetic", father.split, father.patient, father.case,
                            sample, record["outputs"]["ct.nii.gz"])
                order = record["sampling"].get("sample", 0)
                order = order if isinstance(order, int) else 0  # the demo's variants have names
            except (KeyError, TypeError, AttributeError) as error:
                raise LNSynthError(f"{sample / 'provenance.json'}: it does not say how the sample was made "
                                   f"({error!r}); make the sample again, or leave it out.") from None
            found.append((order, number, natural(sample.name), item))
    taken, train = Counter(), []
    for *_, item in sorted(found, key=lambda row: row[:3]):
        if taken[item.case] < settings.multiple:
            taken[item.case] += 1
            train.append(item)
        else:
            left_out.append({"name": item.name, "reason": f"beyond {settings.multiple} samples of case {item.case}"})
    return train, left_out


def _father(sample: Path, record: dict, fathers: dict[str, Item]) -> Item:
    """The case that a sample was made from."""
    source = record.get("source", {})
    father, voxels = fathers.get(source.get("case")), source.get("voxels_sha256")
    for item in [father] if father is not None else fathers.values():  # an anonymous sample has a pseudonym for it
        if source.get("sha256", {}).get("ct") == item.sha256:
            return item
    # The same CT from another file, as viewers write, and perhaps by another name; the namesake is the likeliest.
    for item in sorted(fathers.values(), key=lambda item: item is not father):
        if voxels is not None and of_case(Dataset.open(item.folder), item.case).voxels == voxels:
            return item
    if father is None:
        raise LNSynthError(f"{sample}: it was made from case {source.get('case')}, which is in none of the data sets, "
                           "so its patient is unknown; give its data set too, or leave the sample out.")
    raise LNSynthError(f"{sample}: it was made from another CT than that of case {father.case} in {father.folder}, "
                       "and from none of the other cases; give the data set it was made from, or make it again.")


def in_place(record: dict) -> bool:
    """Whether a provenance is that of a full CT in which nodes were made or removed."""
    return record.get("what") in ("insertion", "removal")


def _check_form(sample: Path, form: dict, settings: SegmentSettings) -> None:
    """A sample must have the segmenter's spacing, and hold all HU of its window. form: of its generator, which made it
    in that spacing; the file itself is proved to be that one by its hash when it is exported."""
    if abs(form["spacing_mm"] / settings.spacing_mm - 1) > SAME_SPACING:
        raise LNSynthError(f"{sample}: its voxels are {form['spacing_mm']:.3g} mm, and the segmenter's "
                           f"{settings.spacing_mm:g} mm; set spacing_mm to theirs, or make samples with a generator of "
                           "that spacing.")
    low, high = form["window"]
    if low > settings.window[0] or high < settings.window[1]:
        raise LNSynthError(f"{sample}: it holds HU from {low:g} to {high:g}, less than the segmenter's window "
                           f"{settings.window[0]:g} to {settings.window[1]:g}; set window to theirs.")
