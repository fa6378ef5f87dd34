"""What variants are made from: a CT with node masks and organs from files, read and checked once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..cases.checks import check_labels, check_nodes, check_pair
from ..cases.dataset import Dataset, voxels_sha256
from ..cases.labels import LabelTable
from ..cases.synthetic import marked
from ..cases.volume import Volume, read, stem
from ..conditions import anatomy as organs
from ..runtime.files import sha256
from .canvas import Canvas, canonical_view
from .ctfile import CTFile, open_ct


@dataclass(frozen=True)
class Files:
    """present: the nodes that the CT shows; anatomy: TotalSegmentator ids of `version`; case: id of the CT's case in
    a data set, None to find it out."""

    ct: Path
    nodes: Path
    present: Path | None = None
    anatomy: Path | None = None
    version: int = 2
    case: str | None = None

    def named(self) -> dict[str, Path]:
        files = {"ct": self.ct, "nodes": self.nodes, "present": self.present, "anatomy": self.anatomy}
        return {role: Path(path) for role, path in files.items() if path is not None}

    def digests(self) -> dict[str, str | dict]:
        return {role: digest(path) for role, path in self.named().items()}


@dataclass(frozen=True, eq=False)
class Given:
    """The files' volumes; `ct.stored` in its own numbers, anatomy in TotalSegmentator v2 ids.

    voxels: what the CT is whatever its file (`cases.dataset.voxels_sha256`)
    """

    ct: CTFile
    nodes: Volume
    present: Volume | None
    anatomy: Volume | None
    voxels: str

    @classmethod
    def read(cls, files: Files, table: LabelTable) -> Given:
        """table: whose organs anatomy of version 1 is reduced to. Raises LNSynthError, naming the file, for what is no
        CT, no mask, or on another grid; the nodes may be empty where `present` is not."""
        ct = open_ct(files.ct)
        nodes = read(files.nodes)
        present = read(files.present) if files.present is not None else None
        for path, mask in ((files.nodes, nodes), (files.present, present)):
            if mask is not None:
                check_grid(ct.stored, mask, path)
                check_labels(mask, str(path), highest=65535)
        if present is None or not present.array.any():
            check_nodes(nodes, str(files.nodes))
        anatomy = None
        if files.anatomy is not None:
            anatomy = organs.load(files.anatomy, None, files.version, table)
            check_grid(ct.stored, anatomy, files.anatomy)
        hu = Canvas(ct.stored, *ct.scaling).to_hu(ct.stored.array) if ct.scaling != (1.0, 0.0) else ct.stored.array
        return cls(ct, nodes, present, anatomy, voxels_sha256(Volume(hu, ct.stored.affine)))


def origin(ct: Path, case: str | None = None, otherwise: str | None = None) -> tuple[str, str]:
    """(id, kind) of a CT's case: of the data set that the file lies in; else by its name and its header's mark.

    case: the id whatever else is known; otherwise: of a CT outside data sets, before its file's name. kind is one of
    `cases.dataset.KINDS`, or "synthetic" for a CT that a generator made.
    """
    ct = Path(ct).resolve()
    home = ct.parents[2] if len(ct.parents) > 2 else ct.parent
    if ct.is_file() and (home / "dataset.json").is_file():
        dataset = Dataset.open(home)
        for entry in dataset.cases():
            if home / entry["files"]["ct"] == ct:
                return case or entry["id"], entry.get("synthetic") or dataset.kind
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", case or otherwise or stem(ct)).strip("-.") or "ct"
    return name, marked(ct) or "real"


def digest(path: Path) -> str | dict:
    """SHA-256 of a file, or of each file of a DICOM folder."""
    path = Path(path)
    return sha256(path) if path.is_file() else {p.name: sha256(p) for p in sorted(path.iterdir()) if p.is_file()}


def check_grid(ct: Volume, mask: Volume, path: Path) -> None:
    """Raises LNSynthError unless a mask lies on the CT's grid; its voxels may come in another order, as other programs
    write them."""
    check_pair(canonical_view(ct), canonical_view(mask), str(path))

