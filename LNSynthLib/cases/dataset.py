"""A data set is one folder with a manifest: dataset.json, and cases/<id>/{ct,nodes,anatomy}.nii.gz beside it."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..images import synthetic
from ..images.synthetic import marked
from ..images.volume import Volume, canonical, read, stem, write
from ..runtime.content import NONE, check, check_format
from ..runtime.errors import LNSynthError
from ..runtime.files import atomic_path, read_json, sha256, sha256_array, sha256_once, write_json
from ..runtime.locks import turn
from ..runtime.names import check_id, check_name, check_own_link, inside

SPLITS = ("train", "val", "test")
KINDS = ("real", "phantom", "pseudo")
FORMAT = 1
ROLES = ("ct", "nodes", "anatomy")
LINKED = ("cases", "prepared")  # folders of a data set that may be links to another disk
WRITTEN = (*(f"*/{role}.nii.gz" for role in ROLES), "*/fingerprint.npz")  # what lies in `cases`
ENTRY = {"id": check_name, "patient": str, "split": set(SPLITS), "source": str, "anatomy_version": {1, 2, None},
         "files": {"ct": str, "nodes?": (str, NONE), "anatomy?": (str, NONE)}, "sha256": {"ct": str},
         "synthetic?": set(synthetic.KINDS)}
MANIFEST = {"name": str, "kind": set(KINDS), "cases": [ENTRY]}


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

    def node_count(self) -> int:
        return int(self.nodes.array.max()) if self.nodes is not None else 0


class Dataset:
    """The folder and its manifest. `create` makes one, `open` finds one, `add` writes a case, `load` reads one.

    Several processes may add to one data set at once: see `changing`.
    """

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest = Path(folder), manifest
        self._known, self._mine = copy.deepcopy(manifest), False  # as it is on the disk; whether we have the lock

    @classmethod
    def create(cls, folder: Path, name: str = "", kind: str = "real", note: str = "") -> Dataset:
        """A new, empty data set. Raises LNSynthError where the folder already holds one."""
        folder = Path(folder)
        if kind not in KINDS:
            raise ValueError(f"kind is one of {KINDS}, not {kind!r}")
        folder.mkdir(parents=True, exist_ok=True)
        with turn(folder / "dataset.json"):
            if (folder / "dataset.json").exists():
                raise LNSynthError(f"{folder}: there already is a data set here; choose another folder or remove this "
                                   "one.")
            return cls._new(folder, name, kind, note)

    @classmethod
    def open_or_create(cls, folder: Path, name: str = "", kind: str = "real", note: str = "") -> Dataset:
        """The data set in a folder, a new one where there is none. Raises LNSynthError where it is of another kind."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with turn(folder / "dataset.json"):
            if not (folder / "dataset.json").exists():
                return cls._new(folder, name, kind, note)
        dataset = cls.open(folder)
        if dataset.kind != kind:
            raise LNSynthError(f"{folder}: this data set holds {dataset.kind} cases; choose another folder for {kind} "
                               "ones.")
        return dataset

    @classmethod
    def _new(cls, folder: Path, name: str, kind: str, note: str) -> Dataset:
        manifest = {"format": FORMAT, "name": name or folder.name, "kind": kind, "note": note, "cases": []}
        write_json(folder / "dataset.json", manifest)
        return cls(folder, manifest)

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        folder = Path(folder)
        if not (folder / "dataset.json").is_file():
            raise LNSynthError(
                f"{folder}: there is no data set here (no dataset.json); make one with `lnsynth import`, fetch or "
                "phantom."
            )
        manifest = read_json(folder / "dataset.json")
        check_format(manifest, FORMAT, folder / "dataset.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "cases" not in manifest:
            raise LNSynthError(f"{folder}: its dataset.json is not a manifest of format {FORMAT}; restore the file "
                               "from a copy.")
        _check_manifest(folder, manifest)
        return cls(folder, manifest)

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def kind(self) -> str:
        """real, phantom (everything is made up) or pseudo (a real CT with painted nodes)."""
        return self.manifest["kind"]

    @contextmanager
    def changing(self) -> Iterator[None]:
        """While this block changes the manifest, no other process does; it is read again before and written after.

        What others added, changed or took out since stays so, except for entries that were changed here before.
        """
        if self._mine:
            yield
            return
        path = self.folder / "dataset.json"
        with turn(path):
            if path.exists():
                self.manifest = _merged(self._known, self.manifest, Dataset.open(self.folder).manifest)
            self._mine = True
            try:
                yield
                write_json(path, self.manifest)
                self._known = copy.deepcopy(self.manifest)
            finally:
                self._mine = False

    def save(self) -> None:
        """Writes what was changed in `manifest`; see `changing`."""
        with self.changing():
            pass

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
        """Where the case's ct, nodes or anatomy lies, None where it has none; it always has a CT."""
        relative = self.entry(id)["files"].get(role)
        return self.folder / relative if relative else None

    def ct_path(self, id: str) -> Path:
        """Where the case's CT lies."""
        return self.folder / self.entry(id)["files"]["ct"]

    def add(self, case: Case) -> dict:
        """Write a case's files and its manifest entry, which is returned; a case of the same id is replaced.

        case.entry may say patient (default: the id), split (train), source, anatomy_version (2), synthetic (the kind,
        where the CT is not a scanner's own) and whatever else the manifest should keep; files and hashes are filled in
        here. The CT is stored as int16 where it holds whole HU, else float32; nodes as uint16, anatomy as uint8.
        """
        check_id(case.id, self.folder)
        entry = {"patient": case.id, "split": "train", "source": "", "anatomy_version": 2, **case.entry}
        if entry["split"] not in SPLITS:
            raise LNSynthError(f"Case {case.id}: the split is one of {', '.join(SPLITS)}, not {entry['split']!r}.")
        entry |= {"id": case.id, "files": {}, "sha256": {}}
        if self.kind == "phantom":  # of a pseudo one only the painted slices, which `pseudo` knows
            synthetic.remember(case.ct, "phantom")
        marking = synthetic.mark_of(entry.get("synthetic") or self.kind)
        with ExitStack() as written:  # whole beside, and then in their places while nobody else changes the manifest
            self._write(entry, "ct", case.ct, written, _ct_type(case.ct.array), marking)
            if case.nodes is not None:
                self._write(entry, "nodes", case.nodes, written, np.uint16, marking)
            if case.anatomy is not None:
                self._write(entry, "anatomy", case.anatomy, written, np.uint8, marking)
            else:
                entry["anatomy_version"] = None
            with self.changing():
                written.close()
                others = [e for e in self.manifest["cases"] if e["id"] != case.id]
                self.manifest["cases"] = sorted([*others, entry], key=lambda e: e["id"])  # whoever was first
        return entry

    def attach_anatomy(self, id: str, anatomy: Volume, version: int = 2) -> None:
        """Give an existing case its anatomy mask (TotalSegmentator `total` ids of that version)."""
        new = {"id": self.entry(id)["id"], "files": {}, "sha256": {}}
        with ExitStack() as written:
            self._write(new, "anatomy", anatomy, written, np.uint8)
            with self.changing():
                written.close()
                entry = self.entry(id)
                entry["files"] |= new["files"]
                entry["sha256"] |= new["sha256"]
                entry["anatomy_version"] = version

    def accept_changes(self, id: str) -> list[str]:
        """Records the case's files as they are now, one that a person corrected, say; returns the roles that changed.
        """
        with self.changing():
            entry = self.entry(id)
            now = {role: sha256(path) for role in ROLES if (path := self.path(id, role)) and path.is_file()}
            changed = [role for role in now if entry["sha256"].get(role) != now[role]]
            entry["sha256"] |= now
        return changed

    def checked_path(self, id: str, role: str) -> Path | None:
        """`path`, of a file that is as the manifest records it; raises LNSynthError where it is not.

        A file is read for this once a process, and again when its time of change or size is another. One whose hash
        is not recorded is taken as it is.
        """
        path = self.path(id, role)
        if path is None or not path.is_file():
            return path
        recorded = self.entry(id).get("sha256", {}).get(role)
        if recorded and sha256_once(path) != recorded:
            entry = Dataset.open(self.folder).entry(id)  # another process may have replaced the case since
            if sha256_once(path) != entry.get("sha256", {}).get(role):
                raise LNSynthError(
                    f"{path}: the file is damaged, or was changed after it was added (its SHA-256 is not that in "
                    "dataset.json); copy or add it again or, if you corrected it, run `lnsynth prepare "
                    "--accept-changes`.")
        return path

    def check_cases(self) -> None:
        """Raises LNSynthError where `cases` is a link to a folder in which there is more than cases."""
        check_own_link(self.folder / "cases", WRITTEN)

    def load(self, id: str) -> Case:
        """Read a case whole. Raises LNSynthError where a file is gone, damaged or not that of the manifest."""
        volumes = {role: read(path) for role in ROLES if (path := self.checked_path(id, role))}
        return Case(id, volumes["ct"], volumes.get("nodes"), volumes.get("anatomy"), self.entry(id))

    def _write(self, entry: dict, role: str, volume: Volume, written: ExitStack, dtype, description: str = "") -> None:
        """A file of the case, in its place when `written` closes, and gone when that ends in an error."""
        relative = f"cases/{entry['id']}/{role}.nii.gz"
        path = inside(self.folder, relative, self.folder / "dataset.json", linked=LINKED)
        self.check_cases()
        beside = written.enter_context(atomic_path(path))
        write(beside, volume, description, dtype)
        entry["files"][role] = relative
        entry["sha256"][role] = sha256(beside)


def _check_manifest(folder: Path, manifest: dict) -> None:
    """Raises LNSynthError where an entry is not what `Dataset.cases` describes, or a path leads out of the folder."""
    where, ids = folder / "dataset.json", set()
    check(manifest, MANIFEST, where)
    for entry in manifest["cases"]:
        if entry["id"] in ids:
            raise LNSynthError(f"{where}: the id {entry['id']!r} appears twice; give each case its own.")
        ids.add(entry["id"])
        for role, path in entry["files"].items():
            if path is not None:
                inside(folder, path, where, f"the {role} of case {entry['id']}", LINKED)


def _merged(known: dict, ours: dict, theirs: dict) -> dict:
    """A manifest that two programs changed, each from what it had known: ours where we changed it, else theirs."""
    before, mine, now = ({entry["id"]: entry for entry in manifest["cases"]} for manifest in (known, ours, theirs))
    changed = {id for id in before | mine if before.get(id) != mine.get(id)}
    cases = {id: entry for id, entry in now.items() if id not in changed or id in mine}
    cases |= {id: entry for id, entry in mine.items() if id in changed}
    about = {key: value for key, value in ours.items() if key not in known or known[key] != value}
    return {**theirs, **about, "cases": list(cases.values())}


def home_of(ct: Path) -> tuple[Dataset, dict] | None:
    """(data set, entry) of the case whose CT file this is; None for a file that lies in no data set."""
    real = Path(ct).resolve()
    for path in dict.fromkeys((real, Path(os.path.abspath(ct)))):  # by its own folders too, where `cases` is a link
        home = path.parents[2] if len(path.parents) > 2 else path.parent
        if path.is_file() and (home / "dataset.json").is_file():
            dataset = Dataset.open(home)
            for entry in dataset.cases():
                if (home / entry["files"]["ct"]).resolve() == real:
                    return dataset, entry
    return None


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


def origin(ct: Path, case: str | None = None, otherwise: str | None = None) -> tuple[str, str]:
    """(id, kind) of a CT's case: of the data set that the file lies in; else by its name and its header's mark.

    case: the id whatever else is known; otherwise: of a CT outside data sets, before its file's name. kind is one of
    `cases.dataset.KINDS`, or "synthetic" for a CT that a generator made.
    """
    if home := home_of(ct):
        dataset, entry = home
        return case or entry["id"], entry.get("synthetic") or dataset.kind
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", case or otherwise or stem(ct)).strip("-.") or "ct"
    return name, marked(ct) or "real"
