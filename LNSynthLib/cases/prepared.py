"""Prepared cases on disk: CT, anatomy and nodes, chunked and compressed (blosc2) so that reading a crop is fast."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..images.boxes import Box, box_of, clipped, extent, within
from ..runtime.content import NONE, NUMBER, check, check_format, count, positive
from ..runtime.errors import LNSynthError
from ..runtime.files import read_json, sha256, sha256_once, write_json
from ..runtime.names import check_name
from ..runtime.stream import check_room
from .dataset import Dataset

LARGEST_CHUNK = 512  # voxels a side, of what is read: a chunk is unpacked whole
log = logging.getLogger(__name__)

CHUNK, BLOCK = 64, 16  # voxels a side: larger blocks read more around a crop, smaller ones cost more each
ARRAYS = {"ct": np.float16, "anatomy": np.uint8, "nodes": np.uint16}
OUTSIDE = {"ct": -1.0, "anatomy": 0, "nodes": 0}  # what a box finds beyond the volume: air, no node
FILES = (*(f"{name}.b2nd" for name in ARRAYS), "case.json", "report.png")  # all that a prepared case's folder holds
FORMAT = 1
WHOLE_NODES = 3  # the version of `prepare` from which nodes of a few voxels keep their volume
INFO = {"format": int, "id": check_name, "patient?": str, "split": str, "kind": str, "shape": [count] * 3,
        "spacing_mm": [positive] * 3, "affine": [[NUMBER] * 4] * 4, "window?": [NUMBER] * 2, "labels?": str,
        "settings?": dict,
        "version?": int, "sha256?": {str: str}, "files?": {str: str}, "key?": str,
        "organ_hu?": [(*NUMBER, NONE)], "node_hu?": (*NUMBER, NONE),
        "nodes?": [{"id": int, "bbox?": [[int] * 2] * 3, "centroid?": [NUMBER] * 3, "volume_ml?": NUMBER,
                    "short_axis_mm?": NUMBER}]}


@dataclass(frozen=True)
class PreparedCase:
    """One prepared case. Holds no open file, so it can be sent to worker processes.

    info  case.json: id, patient, split, kind (real, phantom, pseudo), source, shape, spacing_mm, affine, window
          [lo, hi] HU, labels (table name), organ_hu (mean HU per label id, None where absent), node_hu (of the
          nodes' cores, None without), nodes (each with id,
          bbox [[start, stop] x 3], centroid (voxels), centroid_mm (RAS), volume_ml, short_axis_mm), settings, sha256
          (of the source files), key, files {name: SHA-256} of the stored arrays (absent in old ones)
    """

    folder: Path
    info: dict = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> PreparedCase:
        """Raises LNSynthError when the folder holds no complete prepared case."""
        folder = Path(folder)
        if not (folder / "case.json").is_file():
            raise LNSynthError(f"{folder}: there is no prepared case here (no case.json); run `lnsynth prepare` first.")
        info = read_json(folder / "case.json")
        check_format(info, FORMAT, folder / "case.json")
        if not isinstance(info, dict):
            raise LNSynthError(f"{folder / 'case.json'}: it does not describe a case; run `lnsynth prepare` again.")
        missing = [f"{name}.b2nd" for name in ARRAYS if not (folder / f"{name}.b2nd").is_file()]
        if missing or info.get("format") != FORMAT:
            what = f"{', '.join(missing)} missing" if missing else f"format {info.get('format')}, not {FORMAT}"
            raise LNSynthError(f"{folder}: the prepared case cannot be used ({what}); run `lnsynth prepare` again.")
        return cls(folder, check(info, INFO, folder / "case.json"))

    @property
    def id(self) -> str:
        return self.info["id"]

    @property
    def split(self) -> str:
        return self.info["split"]

    @property
    def kind(self) -> str:
        return self.info["kind"]

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.info["shape"])

    @property
    def spacing(self) -> tuple[float, float, float]:
        return tuple(self.info["spacing_mm"])

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel to RAS+ mm."""
        return np.array(self.info["affine"], dtype=np.float64)

    def ct(self, box: Box | None = None) -> np.ndarray:
        """float32 in [-1, 1] (stored in half precision: at most 0.1 HU off); -1 beyond the volume."""
        return self._read("ct", box).astype(np.float32)

    def anatomy(self, box: Box | None = None) -> np.ndarray:
        """uint8 ids of the label table; 0, air, beyond the volume."""
        return self._read("anatomy", box)

    def nodes(self, box: Box | None = None) -> np.ndarray:
        """uint16 instances 1..n, 0 elsewhere."""
        return self._read("nodes", box)

    def check_intact(self) -> None:
        """Raises LNSynthError where a stored array is damaged; each is read for this once a process."""
        for name in ARRAYS:
            self._check(name)

    def _check(self, name: str) -> None:
        path = self.folder / f"{name}.b2nd"
        recorded = self.info.get("files", {}).get(path.name)
        if recorded and sha256_once(path) != recorded:
            raise LNSynthError(f"{path} is damaged (its SHA-256 is not that in case.json); run `lnsynth prepare` "
                               "again.")

    def _read(self, name: str, box: Box | None) -> np.ndarray:
        """The box, whose start and stop may lie outside the volume, or everything."""
        stored = self._open(name)
        if box is None:
            check_room(self.folder, math.prod(self.shape) * stored.dtype.itemsize)
            return _part(self.folder / f"{name}.b2nd", stored, box_of(self.shape))
        inside = clipped(box, self.shape)
        wanted = extent(box)
        if all(b == i for b, i in zip(box, inside, strict=True)):
            return _part(self.folder / f"{name}.b2nd", stored, inside)
        result = np.full(wanted, OUTSIDE[name], ARRAYS[name])
        if all(i.stop > i.start for i in inside):
            place = within(inside, box)
            result[place] = _part(self.folder / f"{name}.b2nd", stored, inside)
        return result

    def _open(self, name: str):
        """The stored array, once it is seen to be what case.json says: blosc2 unpacks whatever a file announces."""
        import blosc2

        self._check(name)
        path = self.folder / f"{name}.b2nd"
        try:
            # One thread: a data loader already runs one process a core.
            stored = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
            fits = isinstance(stored, blosc2.NDArray) and (stored.shape == self.shape and stored.dtype == ARRAYS[name]
                                                           and max(stored.chunks) <= LARGEST_CHUNK)
        except Exception as error:  # blosc2 raises whatever a malformed file makes it stumble over
            raise _damaged(path) from error
        if not fits:
            raise _damaged(path)
        return stored


def _part(path: Path, stored, box: Box) -> np.ndarray:
    try:
        return stored[box]
    except Exception as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> LNSynthError:
    return LNSynthError(f"{path} is damaged or not the array that case.json describes; run `lnsynth prepare` again, "
                        "which makes it again.")


def write_prepared(folder: Path, ct: np.ndarray, anatomy: np.ndarray, nodes: np.ndarray, info: dict) -> PreparedCase:
    """Write one prepared case into a folder; case.json comes last, so a folder that has it is complete.

    ct       (X, Y, Z) in [-1, 1]
    anatomy  (X, Y, Z) label table ids
    nodes    (X, Y, Z) instances, 0 where there is none
    info     what PreparedCase describes; format, shape and files are added here
    """
    import blosc2

    if not ct.shape == anatomy.shape == nodes.shape:
        raise ValueError(f"ct, anatomy and nodes differ in shape: {ct.shape}, {anatomy.shape}, {nodes.shape}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    packing = blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=5, filters=[blosc2.Filter.BITSHUFFLE], nthreads=1)
    for name, array in {"ct": ct, "anatomy": anatomy, "nodes": nodes}.items():
        blosc2.asarray(
            np.ascontiguousarray(array, dtype=ARRAYS[name]),
            urlpath=str(folder / f"{name}.b2nd"),
            mode="w",
            chunks=tuple(min(CHUNK, n) for n in ct.shape),
            blocks=tuple(min(BLOCK, n) for n in ct.shape),
            cparams=packing,
        )
    files = {f"{name}.b2nd": sha256(folder / f"{name}.b2nd") for name in ARRAYS}
    write_json(folder / "case.json", {**info, "format": FORMAT, "shape": list(ct.shape), "files": files})
    return PreparedCase.open(folder)


def list_prepared(folder: Path, split: str | None = None) -> list[PreparedCase]:
    """The prepared cases in a folder (DATASET/prepared/NAME), ordered by id; of one split where one is named.

    Split and patient are those that DATASET/dataset.json tells now, whatever they were when the cases were prepared;
    cases that have left the data set are not listed. Raises LNSynthError when there is none, where there is no
    dataset.json, and for a case whose CT has been replaced since.
    """
    folder = Path(folder)
    found = [PreparedCase.open(path.parent) for path in sorted(folder.glob("[!.]*/case.json"))]
    dataset = Dataset.open(folder.parents[1]) if found else None
    entries = {entry["id"]: entry for entry in dataset.cases()} if dataset else {}
    cases = [_current(case, entries[case.id]) for case in found if case.id in entries]
    chosen = sorted((c for c in cases if split in (None, c.split)), key=lambda c: c.id)
    if not chosen:
        of = f" of split {split}" if split and cases else ""
        raise LNSynthError(f"{folder}: there is no prepared case{of} here; run `lnsynth prepare` first.")
    older = [case.id for case in chosen if case.info.get("nodes") and case.info.get("version", 2) < WHOLE_NODES]
    if older:
        log.warning("%s: %d cases were prepared by an earlier version, which lost part of the smallest nodes (from "
                    "5 mm slices, 3 in 10 of those of 4 mm); they are used as they are, and `lnsynth prepare` remakes "
                    "them.", folder, len(older))
    return chosen


def _current(case: PreparedCase, entry: dict) -> PreparedCase:
    before, now = case.info.get("sha256", {}).get("ct"), entry["sha256"].get("ct")
    if before and now and before != now:
        raise LNSynthError(f"{case.folder}: it was prepared from another CT than the data set now has for case "
                           f"{case.id}; run `lnsynth prepare` again.")
    return replace(case, info={**case.info, "split": entry["split"], "patient": entry["patient"]})
