"""The data sets of an experiment: what is in each, by hash; and making, or finding, and preparing them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from ..cases.dataset import SPLITS, Dataset
from ..cases.fingerprint import fingerprint
from ..cases.prepare import PrepareSettings, prepare
from ..cases.sides import Member, check_sides, members
from ..conditions.pseudo_pairs import pseudo_dataset
from ..images.volume import read, stem
from ..phantom.phantom import phantom_dataset
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, ignore
from ..runtime.files import sha256
from ..runtime.names import below
from .plan import DataSource, Plan, Preparation


def known(plan: Plan, root: Path) -> dict:
    """What the files of a plan are, all that the keys of its cells need to know of them. root: where they lie.

    "data": of each source that is there its name, how it is made, and hashes of its files; "absent": names of optional
    sources that are not; "features": the hash of MedicalNet's weights, None without. Raises LNSynthError where a file
    is missing, and where no source is left.
    """
    found, absent = [], []
    for source in plan.data:
        missing = [path for path in _paths(source, root) if not path.exists()]
        if missing and not source.optional:
            raise LNSynthError(f"{missing[0]} of the plan's data {source.name!r} does not exist; give the folder of "
                               "the data with --data-root.")
        if missing:
            absent.append(source.name)
        else:
            about = {name: value for name, value in asdict(source).items() if name not in ("dataset", "optional")}
            found.append({**about, "content": _content(source, root)})
    if not found:
        raise LNSynthError("None of the plan's data are there; give their folder with --data-root.")
    if lacking := [split for split in SPLITS if not any(split in _splits(source) for source in found)]:
        raise LNSynthError(f"The plan's data have no case of split {' and '.join(lacking)}; training, validation and "
                           "test all need some.")
    weights = plan.images.features and _below(root, plan.images.features)
    if weights and not weights.is_file():
        raise LNSynthError(f"{weights}, the plan's weights of MedicalNet, do not exist; give their folder with "
                           "--data-root, or leave images.features out.")
    return {"data": found, "absent": absent, "features": sha256(weights) if weights else None}


def check_apart(plan: Plan, root: Path, callback: Callback = ignore) -> None:
    """Raises LNSynthError where two splits of the plan's data sets and CTs to be painted share a patient or a CT."""
    everyone = []
    for source in plan.data:
        if not all(path.exists() for path in _paths(source, root)):
            continue
        if source.dataset:
            everyone += members([_dataset(source, root)])
        for painted in source.painted:
            path = _below(root, painted.ct)
            everyone.append(Member(f"the CT {path}", stem(path), painted.split, stem(path), "",
                                   lambda path=path: fingerprint(read(path))))
    check_sides(everyone, callback)


def _paths(source: DataSource, root: Path) -> list[Path]:
    if source.dataset:
        return [_dataset(source, root) / "dataset.json"]
    return [_below(root, path) for painted in source.painted for path in (painted.ct, painted.anatomy)]


def _below(root: Path, path: str) -> Path:
    return below(root, path, "plan", "the file")


def _dataset(source: DataSource, root: Path) -> Path:
    """A data set's folder, below the data root unless absolute."""
    return Path(source.dataset) if Path(source.dataset).is_absolute() else _below(root, source.dataset)


def _content(source: DataSource, root: Path):
    if source.dataset:
        return [[e["id"], e["patient"], e["split"], e["sha256"]] for e in Dataset.open(_dataset(source, root)).cases()]
    return [_hash(path) for path in _paths(source, root)]


def _splits(source: dict) -> set[str]:
    """The splits of which a source, as `known` tells of it, has cases."""
    if source["phantoms"]:
        return {split for split, count in source["phantoms"].items() if count}
    return {painted["split"] for painted in source["painted"]} or {split for _, _, split, _ in source["content"]}


def _hash(path: Path) -> str:
    if path.is_file():
        return sha256(path)
    files = {file.name: sha256(file) for file in sorted(path.iterdir()) if file.is_file()}
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def obtain(source: DataSource, root: Path, folder: Path, prepared: Preparation, callback: Callback = ignore) -> Dataset:
    """The data set, made in `folder` unless it exists elsewhere, and prepared for training and for testing."""
    if source.dataset:
        dataset = Dataset.open(_dataset(source, root))
    elif source.phantoms:
        dataset = phantom_dataset(folder, sum(source.phantoms.values()), source.seed, source.spacing_mm, source.nodes,
                                  callback=callback)
        splits = [split for split in SPLITS for _ in range(source.phantoms.get(split, 0))]
        with dataset.changing():
            for entry, split in zip(dataset.cases(), splits, strict=True):
                entry["split"] = split
    else:
        for painted in source.painted:
            ct, anatomy = _below(root, painted.ct), _below(root, painted.anatomy)
            dataset = pseudo_dataset(folder, ct, anatomy, painted.variants, source.seed, split=painted.split,
                                     case=stem(ct), callback=callback)
    for settings in preparations(prepared):
        prepare(dataset, settings, callback=callback)
    return dataset


def preparations(p: Preparation) -> tuple[PrepareSettings, PrepareSettings]:
    """For training and for testing. Their names tell what they are, so that experiments can share a data set."""
    return tuple(PrepareSettings(p.spacing_mm, margin, p.window, p.labels, f"experiment-{_digest(p, margin)}")
                 for margin in (p.margin_mm, p.test_margin_mm))


def _digest(p: Preparation, margin: float) -> str:
    content = [p.spacing_mm, margin, list(p.window), p.labels]
    return f"{p.spacing_mm:g}mm-{margin:g}-" + hashlib.sha256(json.dumps(content).encode()).hexdigest()[:6]
