"""A data set is one folder with a manifest: dataset.json, and cases/<id>/{ct,nodes,anatomy}.nii.gz beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..runtime.errors import LNSynthError
from ..runtime.files import read_json, sha256, sha256_array, write_json
from .volume import Volume, canonical, read, write

SPLITS = ("train", "val", "test")
KINDS = ("real", "phantom", "pseudo")
FORMAT = 1
ROLES = ("ct", "nodes", "anatomy")


@dataclass(eq=False)
class Case:
    """One patient's CT and what is known about it, all on one grid.

    ct       HU
    nodes    instances 1..n, 0 background; None where the case has no node mask
    anatomy  TotalSegmentator `total` ids of version entry["anatomy_version"]; None where the case has none
    entry    its line of the manifest
    """

    id: str
    ct: Volume
    nodes: Volume | None = None
    anatomy: Volume | None = None
    entry: dict = field(default_factory=dict)


class Dataset:
    """The folder and its manifest. `create` makes one, `open` finds one, `add` writes a case, `load` reads one."""

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest = Path(folder), manifest

    @classmethod
    def create(cls, folder: Path, name: str = "", kind: str = "real", note: str = "") -> Dataset:
        """A new, empty data set. Raises LNSynthError where the folder already holds one."""
        folder = Path(folder)
        if kind not in KINDS:
            raise ValueError(f"kind is one of {KINDS}, not {kind!r}")
        if (folder / "dataset.json").exists():
            raise LNSynthError(f"{folder}: there already is a data set here; choose another folder or remove this one.")
        dataset = cls(folder, {"format": FORMAT, "name": name or folder.name, "kind": kind, "note": note, "cases": []})
        dataset.save()
        return dataset

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        folder = Path(folder)
        if not (folder / "dataset.json").is_file():
            raise LNSynthError(
                f"{folder}: there is no data set here (no dataset.json); make one with `lnsynth import`, fetch or "
                "phantom."
            )
        manifest = read_json(folder / "dataset.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "cases" not in manifest:
            raise LNSynthError(f"{folder}: its dataset.json is no manifest of format {FORMAT}; make it again.")
        return cls(folder, manifest)

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def kind(self) -> str:
        """real, phantom (everything is made up) or pseudo (a real CT with painted nodes)."""
        return self.manifest["kind"]

    def save(self) -> None:
        write_json(self.folder / "dataset.json", self.manifest)

    def cases(self, split: str | None = None) -> list[dict]:
        """Manifest entries in order of id, of one split where one is named.

        An entry has id, patient, split, files {role: path inside the folder}, sha256 {role: hash}, source,
        anatomy_version (1, 2 or None).
        """
        entries = (e for e in self.manifest["cases"] if split in (None, e["split"]))
        return sorted(entries, key=lambda e: e["id"])

    def summary(self) -> dict[str, int]:
        """The number of cases in all and in each split."""
        return {"cases": len(self.cases()), **{split: len(self.cases(split)) for split in SPLITS}}

    def entry(self, id: str) -> dict:
        for entry in self.manifest["cases"]:
            if entry["id"] == id:
                return entry
        known = ", ".join(e["id"] for e in self.cases()[:8])
        raise LNSynthError(f"{self.folder}: there is no case {id!r} in this data set; its cases are {known or 'none'}.")

    def path(self, id: str, role: str) -> Path | None:
        """Where the case's ct, nodes or anatomy lies, None where it has none."""
        inside = self.entry(id)["files"].get(role)
        return self.folder / inside if inside else None

    def add(self, case: Case) -> dict:
        """Write a case's files and its manifest entry, which is returned; a case of the same id is replaced.

        case.entry may say patient (default: the id), split (train), source, anatomy_version (2) and whatever else the
        manifest should keep; files and hashes are filled in here. The CT is stored as int16 where it holds whole HU,
        else float32; nodes as uint16, anatomy as uint8.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", case.id):
            raise LNSynthError(f"Case id {case.id!r} cannot name a folder; use letters, digits, dots and dashes.")
        entry = {"patient": case.id, "split": "train", "source": "", "anatomy_version": 2, **case.entry}
        if entry["split"] not in SPLITS:
            raise LNSynthError(f"Case {case.id}: the split is one of {', '.join(SPLITS)}, not {entry['split']!r}.")
        entry |= {"id": case.id, "files": {}, "sha256": {}}
        marking = "" if self.kind == "real" else f"SYNTHETIC ({self.kind}), not a patient's image"
        self._write(entry, "ct", case.ct, _ct_type(case.ct.array), marking)
        if case.nodes is not None:
            self._write(entry, "nodes", case.nodes, np.uint16, marking)
        if case.anatomy is not None:
            self._write(entry, "anatomy", case.anatomy, np.uint8)
        else:
            entry["anatomy_version"] = None
        self.manifest["cases"] = [e for e in self.manifest["cases"] if e["id"] != case.id] + [entry]
        self.save()
        return entry

    def attach_anatomy(self, id: str, anatomy: Volume, version: int = 2) -> None:
        """Give an existing case its anatomy mask (TotalSegmentator `total` ids of that version)."""
        entry = self.entry(id)
        self._write(entry, "anatomy", anatomy, np.uint8)
        entry["anatomy_version"] = version
        self.save()

    def load(self, id: str) -> Case:
        """Read a case whole. Raises LNSynthError where a file is gone or damaged."""
        volumes = {role: read(path) if (path := self.path(id, role)) else None for role in ROLES}
        return Case(id=id, entry=self.entry(id), **volumes)

    def _write(self, entry: dict, role: str, volume: Volume, dtype, description: str = "") -> None:
        inside = f"cases/{entry['id']}/{role}.nii.gz"
        write(self.folder / inside, volume, description, dtype)
        entry["files"][role] = inside
        entry["sha256"][role] = sha256(self.folder / inside)


def voxels_sha256(ct: Volume) -> str:
    """What identifies a CT (HU) whatever the file, type and order of axes it is stored in: a hash of its whole HU."""
    limits = np.iinfo(np.int16)
    return sha256_array(np.clip(np.rint(canonical(ct).array), limits.min, limits.max).astype(np.int16))


def _ct_type(array: np.ndarray) -> type:
    """int16 for whole numbers that fit (scanners give nothing else), float32 for the rest."""
    limits = np.iinfo(np.int16)
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        return np.float32
    return np.int16 if limits.min <= array.min() and array.max() <= limits.max else np.float32
