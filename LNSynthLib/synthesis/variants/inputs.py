"""The input of variants: a CT with its masks of nodes and organs, read from files and checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...cases.dataset import voxels_sha256
from ...cases.fingerprint import fingerprint
from ...cases.sides import member_of
from ...conditions import anatomy as organs
from ...generators import model_folder
from ...images.checks import check_nodes
from ...images.ct_file import CTFile, open_ct
from ...images.volume import Volume
from ...masks.labels import LabelTable
from ...masks.nodes import numbered
from ...masks.plausibility import check_plausible, doubts
from ...masks.read import Tell, read_nodes
from ...runtime.files import digest


@dataclass(frozen=True)
class Files:
    """present: the nodes that the CT shows; anatomy: TotalSegmentator ids of `version`; case: id of the CT's case in
    a data set, None to find it out; segments: of a SEG or .seg.nrrd that are nodes (`masks.read.read_nodes`)."""

    ct: Path
    nodes: Path
    present: Path | None = None
    anatomy: Path | None = None
    version: int = 2
    case: str | None = None
    segments: tuple[str, ...] = ()

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
    def read(cls, files: Files, table: LabelTable, tell: Tell, anyway: bool = False) -> Given:
        """table: whose organs anatomy of version 1 is reduced to; masks come on the CT's grid as it is stored.

        Raises LNSynthError, naming the file, for what is no CT, no mask, or on another grid; the nodes may be empty
        where `present` is not. Nodes that are doubted (`masks.plausibility`) are refused too, unless `anyway`.
        """
        ct = open_ct(files.ct)
        how: dict[str, Any] = {"source": files.ct, "names": files.segments}
        nodes = read_nodes(files.nodes, ct.stored, tell, **how)
        present = read_nodes(files.present, ct.stored, tell, **how) if files.present is not None else None
        if present is None or not present.array.any():
            check_nodes(nodes, str(files.nodes))
        anatomy = None
        if files.anatomy is not None:
            anatomy = organs.load(files.anatomy, ct.stored, files.version, table, tell=tell, source=files.ct)
        for path, mask, shown in ((files.nodes, nodes, False), (files.present, present, True)):
            if mask is not None:
                found = doubts(numbered(mask), ct.stored, shown=shown, scaling=ct.scaling, organs=anatomy)
                check_plausible(found, str(path), anyway, tell)
        return cls(ct, nodes, present, anatomy, voxels_sha256(ct.hu()))


def seen(ct: CTFile, generator: Path, tell: Tell) -> dict[str, str]:
    """{"seen": how that is known} for a record's source where the generator was trained on this patient or CT, else {}.

    tell hears it, but for a case of split train, which is there to be trained on.
    """
    itself = member_of(ct.path, lambda: fingerprint(ct.hu()))
    how = next((how for _, how in model_folder.trained_on(generator).seen([itself])), "")
    if how and itself.side != "train":
        of = f", which is of split {itself.side}" if itself.side else ""
        tell(f"note: the generator was trained on {how}{of}: what it makes here is no example of what it makes of CTs "
             "that it has not seen")
    return {"seen": how} if how else {}


