"""The mark SYNTHETIC: how it is written into a file, and how a marked volume is recognised.

A header's text is lost when another program converts a file, so there are three signs, and one is enough:

1. the text in the header (NIfTI `descrip`, `description` in NRRD and MetaImage; in DICOM Synthetic Data (0008,001C),
   or the word in a description)
2. the provenance file beside the file, or the data set's dataset.json above it
3. the voxels: for every axial slice (of a mask: its whole) that this installation made, a hash is kept in
   synthetic.txt of `runtime.home`, one a line. It is of whole HU in RAS order, so that another file type, voxel type,
   order of axes or crop along the patient's axis changes nothing. Slices in which nothing was changed are never kept:
   they are the patient's. Another grid, or a crop within the slice, is not known again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..runtime.errors import LNSynthError
from ..runtime.home import home
from ..runtime.locks import turn
from .boxes import bounding_box
from .dicom_files import read_header
from .volume import Volume, canonical, description, is_volume_file, read

WORD = "SYNTHETIC"
BANNER = f"{WORD} - not a patient's image"  # over pictures
KINDS = ("phantom", "pseudo", "synthetic")  # all made up, a real CT with painted nodes, made by a generator
LEAST_VOXELS = 64  # of a slice: fewer could be like another by chance
LEAST_MASK = 8     # voxels of a mask, whose place is in its hash too
DICOM_TEXTS = ("SeriesDescription", "ImageComments", "DerivationDescription")

log = logging.getLogger(__name__)


def mark(about: str = "LNSynth sample") -> str:
    """The text for a header. about: at most 45 ASCII characters, so that it fits a NIfTI's 79 bytes."""
    return f"{WORD}: {about[:45]}, not a patient's image"


def mark_of(kind: str) -> str:
    """The text for the header of a file of a data set of that kind; empty for real."""
    return "" if kind == "real" else mark() if kind == "synthetic" else f"{WORD} ({kind}), not a patient's image"


def kind_of(text: str) -> str:
    """What a header's text says: "phantom", "pseudo", "synthetic", or "" where it does not say that."""
    if WORD not in text.upper():
        return ""
    said = re.search(rf"{WORD} \((phantom|pseudo)\)", text)
    return said[1] if said else "synthetic"


def sidecar(path: Path) -> Path:
    """The provenance file of a volume file: beside it, ct.nii.gz -> ct.nii.gz.provenance.json."""
    return Path(path).with_name(f"{Path(path).name}.provenance.json")


def kind(path: Path, volume: Volume | None = None) -> str:
    """"phantom", "pseudo" or "synthetic" for a file or DICOM folder that is one by any of the signs, "" for another.

    volume  what the file holds (a CT in HU, or a mask); None: it is read for its voxels' hashes if need be
    """
    path = Path(path)
    if said := marked(path):
        return said
    if not _registered(registry()):
        return ""
    return known(volume if volume is not None else read(path))


def marked(path: Path) -> str:
    """As `kind`, by headers and the files beside alone: quick."""
    path = Path(path)
    if path.is_dir():
        return _dicom(path)
    if is_volume_file(path) and (said := kind_of(description(path))):
        return said
    return _beside(path)


def check_real(path: Path, volume: Volume | None = None, cure: str = "give the patient's own CT") -> None:
    """Raises LNSynthError, with the cure, for a file that is synthetic by any sign."""
    if kind(path, volume):
        raise LNSynthError(f"{path}: it is {WORD} (made by LNSynth or so marked), not a patient's image; {cure}.")


def registry() -> Path:
    return home() / "synthetic.txt"


def remember(made: Volume, kind: str = "synthetic", before: Volume | None = None) -> int:
    """Keeps the hashes of a CT's (HU) slices; with `before`, on the same grid, only of those that differ from it.

    Returns how many are new. Where they cannot be kept, it warns: the other signs remain.
    """
    old = canonical(before).array if before is not None else None
    return _append(kind, _slices(canonical(made).array, old))


def remember_mask(mask: Volume, before: Volume | None = None) -> int:
    """Keeps the hash of a mask's place and shape, unless `before` (the patient's own) has the same."""
    made = _mask(mask)
    return _append("synthetic", [made] if made and (before is None or made != _mask(before)) else [])


def known(volume: Volume) -> str:
    """The kind of a CT (HU) or mask that this installation made, by its voxels; "" for any other."""
    kept = _registered(registry())
    if not kept:
        return ""
    found = (kept.get(digest) for digest in _slices(canonical(volume).array))
    return next(filter(None, found), "") or kept.get(_mask(volume), "")


def _slices(array: np.ndarray, before: np.ndarray | None = None):
    """A hash of each axial slice of a canonical CT that is not even and not as `before`."""
    limits = np.iinfo(np.int16)
    for z in range(array.shape[2] if array[:, :, 0].size >= LEAST_VOXELS else 0):
        plane = array[:, :, z]
        if before is not None and np.array_equal(plane, before[:, :, z]) or plane.min() == plane.max():
            continue
        if array.dtype.kind == "f":
            plane = np.rint(np.nan_to_num(plane))
        plane = np.ascontiguousarray(np.clip(plane, limits.min, limits.max), "<i2")
        yield hashlib.sha256(f"{plane.shape}".encode() + plane.tobytes()).hexdigest()[:32]


def _mask(mask: Volume) -> str:
    """A hash of where the voxels of a mask lie in the patient (to .1 mm); "" for an image, or too few voxels."""
    upright = canonical(mask)
    array = upright.array
    low = float(array.min())
    if low < 0 or array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        return ""
    box = bounding_box(array)
    if box is None or np.count_nonzero(inside := array[box] > 0) < LEAST_MASK:
        return ""
    corner = (upright.affine @ [*(b.start for b in box), 1])[:3]
    place = [int(v) for v in np.rint(np.concatenate([corner, upright.spacing]) * 10)]
    return hashlib.sha256(f"mask{inside.shape}{place}".encode() + np.packbits(inside).tobytes()).hexdigest()[:32]


def _append(kind: str, digests) -> int:
    path = registry()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _registered(path)
        lines = [f"{digest} {kind}\n" for digest in dict.fromkeys(digests) if digest not in kept]
        if lines:
            with turn(path), open(path, "a+b") as stream:
                torn = stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n"
                stream.write(("\n" * torn + "".join(lines)).encode())
                stream.flush()
                os.fsync(stream.fileno())
        return len(lines)
    except (OSError, LNSynthError) as error:
        log.warning(f"{path}: the hashes of what was made cannot be kept ({error}), so a copy without its header's "
                    "mark will not be known as SYNTHETIC; set LNSYNTH_HOME to a folder that can be written to.")
        return 0


def _registered(path: Path) -> dict[str, str]:
    try:
        about = path.stat()
    except OSError:
        return {}
    return _read(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=2)
def _read(path: Path, _time: int, _size: int) -> dict[str, str]:
    """{hash: kind}; lines that a crash tore are passed over."""
    lines = (line.split() for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    return {line[0]: line[1] for line in lines if len(line) == 2 and len(line[0]) == 32 and line[1] in KINDS}


def _beside(path: Path) -> str:
    """What the files around one say of it."""
    if _json(sidecar(path)).get("synthetic") is True:
        return "synthetic"
    about = _json(path.with_name("provenance.json"))
    if about.get("synthetic") is True and path.name in (about.get("outputs") or ()):
        return "synthetic"
    above = _json(path.parent.parent / "dataset.json")  # images/x.nii.gz of a set that `review export` wrote
    return "synthetic" if above.get("synthetic") is True else ""


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _dicom(folder: Path) -> str:
    """What the slices of a DICOM folder say, in Synthetic Data or a description."""
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        header = read_header(file, ("SyntheticData", *DICOM_TEXTS))
        if header is None:
            continue
        if str(header.get("SyntheticData", "")).strip().upper() == "YES":
            return "synthetic"
        if said := kind_of(" ".join(str(header.get(name, "")) for name in DICOM_TEXTS)):
            return said
    return ""
