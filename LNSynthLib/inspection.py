"""Find what identifies people in a folder before you share it: header fields, names, ids, paths, hosts, dates.

Nothing is judged: a person reads the list and decides. Voxels are ignored; burnt-in text in pictures is not seen.
Nothing is unpickled: of archives and checkpoints (.zip, .npz, .pth) the names inside are read, of arrays what they
are, and what else they hold is named as not read.
"""

from __future__ import annotations

import csv
import getpass
import io
import json
import re
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cases.fingerprint import NAME as FINGERPRINT
from .cases.trained_on import PRINTS
from .runtime.errors import LNSynthError

KINDS = ("header", "id", "name", "path", "host", "date", "images", "unread")
LARGEST = 32 << 20  # bytes of a text that are read
TEXTS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".yaml", ".yml", ".html", ".log", ".xml", ".lock")
ARCHIVES = (".npz", ".pth", ".pt", ".zip", ".ckpt")
TENSOR = re.compile(r"(^|/)data/\d+$")  # in a checkpoint of torch: a number, no name
NOT_CELLS = ("voxels.npy", "ct.npy")   # the other arrays of a fingerprint
NO_MODALITY = "MET_MOD_UNKNOWN"  # which ITK writes into every MetaImage
SHOWN = 120  # characters of a text
SAYS_WHO = re.compile(r"(case|patient|reviewer|author|source|sample|subject|operator|physician|institution|"
                      r"(.*_)?(id|name|file|user|host|hostname))(_?(id|name)s?)?", re.IGNORECASE)
PATHS = re.compile(r"(?<![\w.:/<*])/(?:[\w.@ -]+/)+[\w.@-]+|(?<!\w)[A-Za-z]:[\\/][^\s\"'<>|]+|\\\\\w+\\[^\s\"'<>|]+"
                   r"|file://\S+")
DATES = re.compile(r"(?<!\d)(?:19|20)\d\d-[01]\d-[0-3]\d(?:[T ][\d:.Z+-]+)?|(?<![\da-fA-F.])(?:19|20)\d\d[01]\d[0-3]\d"
                   r"(?![\da-fA-F.])|(?<!\d)[0-3]?\d\.[01]?\d\.(?:19|20)\d\d(?!\d)")
DATA_URL = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")
DICOM_VRS = ("PN", "LO", "SH", "DA", "DT", "TM", "UI", "ST", "LT", "AS", "UT")


@dataclass(frozen=True)
class Found:
    """One thing that travels. kind: see KINDS; where: the field, key, column or part of the file."""

    kind: str
    file: str   # below the folder
    where: str
    text: str


def inspect(folder: Path) -> list[Found]:
    """Everything found in a folder's files, in order of kind and file. Raises LNSynthError where there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise LNSynthError(f"{folder}: there is no such folder; check the path.")
    known = {word for word in (socket.gethostname(), getpass_user(), Path.home().name) if len(word) > 1}
    found = {found: None for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink()
             for found in _file(path, path.relative_to(folder).as_posix(), known)}
    return sorted(found, key=lambda f: (KINDS.index(f.kind), f.file))


def getpass_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # nobody, as in some containers
        return ""


def _file(path: Path, name: str, known: set[str]) -> Iterator[Found]:
    yield Found("name", name, "file name", path.name)
    yield from _words(name, "file name", path.name, known)
    if path.is_symlink():
        yield Found("path", name, "link", str(path.readlink()))
    try:
        for where, text in _parts(path):
            text = " ".join(text.split())
            if not text:
                continue
            key = where.rpartition(".")[2]
            if where in ("images", "unread"):
                yield Found(where, name, "all", text[:SHOWN])
                continue
            if where.startswith("header "):
                yield Found("header", name, where[7:], text[:SHOWN])
            elif SAYS_WHO.fullmatch(key):
                yield Found("id", name, where, text[:SHOWN])
            yield from _words(name, where, text, known)
    except Exception as error:  # whatever a damaged file makes its reader raise: it is told, not passed over
        yield Found("unread", name, "all", f"{type(error).__name__}: {error}"[:SHOWN])


def _words(name: str, where: str, text: str, known: set[str]) -> Iterator[Found]:
    for path in PATHS.findall(text):
        yield Found("path", name, where, path[:SHOWN])
    for date in DATES.findall(text):
        yield Found("date", name, where, date)
    for word in known:
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", text):
            yield Found("host", name, where, word)


def _parts(path: Path) -> Iterator[tuple[str, str]]:
    """(where, text) of all that a file says in words; "header FIELD" for an image's header."""
    name = path.name.lower()
    if name.endswith(".gz"):
        yield from _gzip(path)
    readers: list[tuple[tuple, Callable]] = [
        ((".nii", ".nii.gz"), _nifti), ((".nrrd", ".mha", ".mhd"), _itk), ((".png", ".jpg", ".jpeg"), _picture),
        ((".safetensors",), _weights), (ARCHIVES, _archive),
        ((".b2nd",), _blosc), (TEXTS, _text)]
    for endings, reader in readers:
        if name.endswith(endings):
            yield from reader(path)
            return
    with open(path, "rb") as stream:
        start = stream.read(132)
    if start[128:] == b"DICM" or name.endswith(".dcm"):
        yield from _dicom(path)
    else:
        raise LNSynthError("this type of file is not read; look yourself")


def _gzip(path: Path) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as stream:
        head = stream.read(512)
    if head[:2] == b"\x1f\x8b" and head[3] & 8:  # the name of what was compressed
        start = 10 + (2 + struct.unpack("<H", head[10:12])[0] if head[3] & 4 else 0)
        yield "header gzip name", head[start:].split(b"\0")[0].decode("latin-1")


def _nifti(path: Path) -> Iterator[tuple[str, str]]:
    import nibabel

    header: Any = nibabel.load(path).header
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        if field in header:
            yield f"header {field}", bytes(header[field]).split(b"\0")[0].decode("utf-8", "replace")
    for number, extension in enumerate(getattr(header, "extensions", ())):
        content = extension.get_content()
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        yield f"header extension {number} (code {extension.get_code()})", text


def _itk(path: Path) -> Iterator[tuple[str, str]]:
    import SimpleITK as sitk

    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    header.ReadImageInformation()
    for key in header.GetMetaDataKeys():
        text = header.GetMetaData(key)
        if not key.startswith(("ITK_", "NRRD_space", "NRRD_kinds", "NRRD_measurement frame")) and text != NO_MODALITY:
            yield f"header {key}", text
    with open(path, "rb") as stream:  # comments, which ITK passes over
        for line in stream.read(1 << 16).split(b"\n\n")[0].splitlines():
            if line.startswith(b"#") and b"teem.sourceforge.net" not in line and b"Complete NRRD" not in line:
                yield "header comment", line[1:].decode("utf-8", "replace")


def _picture(path: Path) -> Iterator[tuple[str, str]]:
    from PIL import ExifTags, Image

    with Image.open(path) as image:
        for key, value in image.info.items():
            if isinstance(value, str) or key == "comment":  # that of a JPEG is bytes
                yield f"header {key}", value if isinstance(value, str) else value.decode("utf-8", "replace")
        exif = image.getexif()
        for tag, value in (*exif.items(), *exif.get_ifd(ExifTags.IFD.Exif).items(),
                           *exif.get_ifd(ExifTags.IFD.GPSInfo).items()):
            yield f"header {ExifTags.TAGS.get(tag, tag)}", str(value)


def _dicom(path: Path) -> Iterator[tuple[str, str]]:
    import pydicom

    data = pydicom.dcmread(path, stop_before_pixels=True)
    for element in data.iterall():
        if element.VR in DICOM_VRS and str(element.value) and not element.keyword.endswith("SOPClassUID"):
            yield f"header {element.keyword or element.tag}", str(element.value)


def _weights(path: Path) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as stream:
        size = struct.unpack("<Q", stream.read(8))[0]
        about = json.loads(stream.read(min(size, LARGEST)))
    for key, value in about.get("__metadata__", {}).items():
        yield f"header {key}", str(value)


def _archive(path: Path) -> Iterator[tuple[str, str]]:
    """Names inside a zip archive, which arrays of numpy and checkpoints of torch are too; nothing is unpacked."""
    if not zipfile.is_zipfile(path):
        raise LNSynthError("it is not a zip archive, so the names inside are not known; look yourself")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        yield "header archive comment", archive.comment.decode("utf-8", "replace")
    for member in members:
        yield "header comment of a file inside", member.comment.decode("utf-8", "replace")
        if not TENSOR.search(member.filename):
            when = "" if member.date_time[0] <= 1980 else " of {}-{:02}-{:02}".format(*member.date_time)
            yield "header name inside", member.filename + when
    if path.name in (FINGERPRINT, PRINTS):
        count = sum(member.filename not in NOT_CELLS for member in members)
        yield "images", f"a rough picture (cells of 8 mm) of each CT: {count}"
    elif path.suffix.lower() == ".npz":
        yield "images", f"{len(members)} arrays, which may be images"
    else:
        yield "unread", f"the contents of {len(members)} files inside; unpack it and look yourself"


def _blosc(path: Path) -> Iterator[tuple[str, str]]:
    import blosc2

    for key, value in blosc2.open(str(path), mode="r").schunk.vlmeta[:].items():
        yield f"header {key}", str(value)


def _text(path: Path) -> Iterator[tuple[str, str]]:
    if path.stat().st_size > LARGEST:
        raise LNSynthError(f"more than {LARGEST >> 20} MB of text; look yourself")
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    suffix = path.suffix.lower()
    if suffix == ".json":
        yield from _json("", json.loads(text))
    elif suffix == ".jsonl":
        for line in filter(str.strip, text.splitlines()):
            yield from _json("", json.loads(line))
    elif suffix in (".csv", ".tsv"):
        delimiter = max(",;\t", key=next(iter(text.splitlines()), "").count)
        for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter):
            yield from ((str(key), value) for key, value in row.items() if isinstance(value, str))
    else:
        for number, line in enumerate(DATA_URL.sub("", text).splitlines(), 1):
            yield f"line {number}", line


def _json(at: str, value) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _json(f"{at}.{key}" if at else str(key), inner)
            yield "key", str(key)
    elif isinstance(value, list):
        for inner in value:
            yield from _json(at, inner)
    elif isinstance(value, str):
        yield at, value
