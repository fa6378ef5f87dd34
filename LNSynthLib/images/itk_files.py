"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd): the voxels are read and checked here; ITK interprets NRRD's geometry.

ITK ignores MetaImage's checksum, NRRD's units and whatever follows the voxels, and follows a header to any file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import LNSynthError
from ..runtime.stream import GZIP, ZLIB_OR_GZIP, Stream, unreadable
from .affine import LPS

LONGEST_HEADER = 1 << 24
NRRD = (".nrrd", ".nhdr")
NRRD_TYPES = {name: kind for kind, names in {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}.items() for name in names.split("|")}
META_TYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
              "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
              "MET_FLOAT": "f4", "MET_DOUBLE": "f8"}
# What ITK takes for 0 or 1 where it is absent or not a number: MetaImage's names, and to which power of the dimensions
# it counts.
PLACE = ((("offset", "position", "origin"), 1), (("transformmatrix", "rotation", "orientation"), 2),
         (("elementspacing",), 1))
SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "lps", "ras", "las")


@dataclass(frozen=True)
class Storage:
    """Where a header says that its voxels lie, and how. data: a file of their own; None: right behind the header."""

    sizes: tuple[int, ...]  # fastest axis first
    dtype: np.dtype
    packing: int | None     # for `Stream`
    data: Path | None
    start: int              # bytes before the voxels, in whichever file holds them


def read_stored(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(numbers as stored (X, Y, Z), affine). Raises LNSynthError unless it is a complete scalar volume with a place."""
    storage = _storage(path)
    shape, affine = _geometry(path)
    if storage.sizes != shape:
        raise unreadable(path)
    return _voxels(path, storage), affine


def _voxels(path: Path, storage: Storage) -> np.ndarray:
    try:
        with open(storage.data or path, "rb") as file:
            file.seek(storage.start)
            return Stream(path, file, storage.packing).voxels(storage.sizes, storage.dtype)
    except OSError as error:
        raise unreadable(path) from error


def read_values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(voxels (X, Y, Z): integers as stored, floating point as float32; affine)."""
    stored, affine = read_stored(path)
    with np.errstate(over="ignore"):
        return (stored.astype(np.float32, copy=False) if stored.dtype.kind == "f" else stored), affine


def read_layers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(labels (layer, X, Y, Z) of a .nrrd, affine): as `read_stored`, with one number a voxel or several."""
    storage, reader = _storage(path), read_information(path)
    shape, count = tuple(reader.GetSize()), reader.GetNumberOfComponents()
    if reader.GetDimension() != 3 or storage.dtype.kind == "f":
        raise LNSynthError(f"{path}: its voxels are not labels on one 3D grid; export the segmentation again.")
    if storage.sizes != (shape if count == 1 else (count, *shape)):
        raise unreadable(path)
    layers = _voxels(path, storage)
    return layers if layers.ndim == 4 else layers[None], _affine(path, reader)


def read_information(path: Path):
    """SimpleITK's reader with the header read, for geometry and metadata; no voxel is touched."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise unreadable(path) from error
    return reader


def affine_of(image) -> np.ndarray:
    """The affine (RAS+ mm) of a 3D SimpleITK image, or of a reader that has read its header."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


def description(path: Path) -> str:
    """The header's description field."""
    if path.suffix.lower() in NRRD:
        return next((text for key, text in nrrd_texts(path).items() if key.lower() == "description"), "")
    return _meta_fields(path)[0].get("description", "")


def nrrd_texts(path: Path) -> dict[str, str]:
    """The texts (KEY:=VALUE) of a NRRD's header."""
    pairs = (line.partition(":=") for line in _lines(path, lambda line: not line)[0] if not line.startswith("#"))
    return {key: re.sub(r"\\(n|\\)", lambda found: "\n" if found[1] == "n" else "\\", value)
            for key, equals, value in pairs if equals}


def _geometry(path: Path) -> tuple[tuple[int, int, int], np.ndarray]:
    if path.suffix.lower() not in NRRD:
        return _meta_geometry(path)
    reader = read_information(path)
    if reader.GetNumberOfComponents() > 1:
        raise LNSynthError(
            f"{path}: each voxel has {reader.GetNumberOfComponents()} values (colour, or overlapping segments); "
            "give one number a voxel."
        )
    if reader.GetDimension() != 3:
        raise LNSynthError(
            f"{path}: the image has {reader.GetDimension()} dimensions {reader.GetSize()}; give one 3D volume."
        )
    return tuple(reader.GetSize()), _affine(path, reader)


def _meta_geometry(path: Path) -> tuple[tuple[int, int, int], np.ndarray]:
    """As ITK interprets it, which a damaged header can make crash."""
    fields, _ = _meta_fields(path)
    with _as_unreadable(path):
        sizes = tuple(int(n) for n in fields["dimsize"].split())
        channels, dimensions = int(fields.get("elementnumberofchannels", 1)), int(fields["ndims"])
        offset, matrix, spacing = ([float(x) for x in next(fields[name] for name in names if name in fields).split()]
                                   for names, _ in PLACE)
    if channels != 1:
        raise LNSynthError(f"{path}: each voxel has {channels} values (colour, or overlapping segments); give one "
                           "number a voxel.")
    if dimensions != 3 or len(sizes) != 3:
        raise LNSynthError(f"{path}: the image has {dimensions} dimensions {sizes}; give one 3D volume.")
    if min(spacing) <= 0:
        raise LNSynthError(f"{path}: its voxels measure {' x '.join(f'{s:g}' for s in spacing)} mm, which cannot be; "
                           "export it again with its geometry.")
    affine = np.eye(4)
    axes = np.array(matrix).reshape(3, 3).T
    length = np.linalg.norm(axes, axis=0)
    if not (abs(length - 1) < 0.1).all():
        raise unreadable(path)
    affine[:3, :3], affine[:3, 3] = axes * spacing, offset
    return sizes, LPS @ affine


def _affine(path: Path, reader) -> np.ndarray:
    if min(reader.GetSpacing()) <= 0:
        raise LNSynthError(f"{path}: its voxels measure {' x '.join(f'{s:g}' for s in reader.GetSpacing())} mm, which "
                           "cannot be; export it again with its geometry.")
    return affine_of(reader)


def _storage(path: Path) -> Storage:
    return _nrrd(path) if path.suffix.lower() in NRRD else _meta(path)


def _nrrd(path: Path) -> Storage:
    lines, start = _lines(path, lambda line: not line)
    fields = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon and not value.startswith("=") and not line.startswith("#"):
            fields[key.strip().lower()] = value.strip()
    if fields.get("space", "").lower() not in SPACES:
        raise LNSynthError(
            f"{path}: the header names no space (such as left-posterior-superior), so left and right are unknown; "
            "export it again with its geometry."
        )
    if not {"space directions", "space origin"} <= set(fields):
        raise _nowhere(path, "space directions and space origin")
    for key in ("space units", "units"):
        if other := set(fields.get(key, "").replace('"', " ").split()) - {"mm", "millimeter", "millimeters"}:
            raise LNSynthError(f"{path}: its lengths are in {', '.join(sorted(other))} ({key}), which many programs "
                               "take for mm; save it with lengths in mm.")
    for key in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(key, "0") != "0":
            raise LNSynthError(f"{path}: its header skips a part of its data ({key}), which is not read; save it as "
                               "one .nrrd file.")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise LNSynthError(f"{path}: its encoding {encoding!r} is not read; save it with encoding gzip or raw.")
    with _as_unreadable(path):
        kind = NRRD_TYPES[fields["type"].lower()]
        order = {"little": "<", "big": ">"}[fields["endian"].lower()] if kind[1] != "1" else ""
        sizes = tuple(int(n) for n in fields["sizes"].split())
    data = fields.get("data file", fields.get("datafile"))
    return Storage(sizes, np.dtype(order + kind), GZIP if encoding != "raw" else None,
                   _beside(path, data) if data is not None else None, start if data is None else 0)


def _meta(path: Path) -> Storage:
    fields, start = _meta_fields(path)

    def said(key: str) -> bool:
        return fields.get(key, "").lower()[:1] in ("t", "1")

    if fields.get("distanceunits", "mm").lower() not in ("mm", "?"):
        raise LNSynthError(f"{path}: its lengths are in {fields['distanceunits']} (DistanceUnits), which many programs "
                           "take for mm; save it with lengths in mm.")
    with _as_unreadable(path):
        kind = META_TYPES[fields["elementtype"].upper()]
        sizes = tuple(int(n) for n in fields["dimsize"].split())
        scaling = (float(fields.get("elementtointensityfunctionslope", 1)),
                   float(fields.get("elementtointensityfunctionoffset", 0)))
        skip, packed_size = int(fields.get("headersize", 0)), int(fields.get("compresseddatasize", 0))
        data = fields["elementdatafile"]
    for names, power in PLACE:
        with _as_unreadable(path):
            values = [float(x) for name in names for x in fields.get(name, "").split()]
        if not values:
            raise _nowhere(path, "Offset, TransformMatrix and ElementSpacing")
        if len(values) != len(sizes) ** power or not np.isfinite(values).all():
            raise unreadable(path)
    if scaling != (1.0, 0.0) or skip or ("binarydata" in fields and not said("binarydata")):
        raise LNSynthError(f"{path}: its header asks for a scaling, for skipped bytes or for text instead of binary "
                           "data, which are not read; save it as .mha without them.")
    order = ">" if said("binarydatabyteordermsb") or said("elementbyteordermsb") else "<"
    local = data.lower() == "local"
    where = path if local else _beside(path, data)
    start = start if local else 0
    packed = said("compresseddata")
    if packed and packed_size and where.is_file() and where.stat().st_size != start + packed_size:
        raise unreadable(path)
    return Storage(sizes, np.dtype(order + kind), ZLIB_OR_GZIP if packed else None, None if local else where, start)


def _meta_fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields of a MetaImage's header by lower-case name, and the number of bytes that it takes."""
    lines, start = _lines(path, lambda line: line.lower().startswith("elementdatafile"))
    return {key.strip().lower(): value.strip() for key, _, value in (line.partition("=") for line in lines)}, start


def _nowhere(path: Path, fields: str) -> LNSynthError:
    return LNSynthError(f"{path}: the header does not say where the volume lies ({fields}); export it again with its "
                        "geometry.")


def _lines(path: Path, is_last: Callable[[str], bool]) -> tuple[list[str], int]:
    """The lines of a header up to its last one, and the number of bytes that they take."""
    lines = []
    try:
        with open(path, "rb") as file:
            while file.tell() < LONGEST_HEADER and (line := file.readline(LONGEST_HEADER)):
                lines.append(line.decode("utf-8", "replace").strip())
                if is_last(lines[-1]):
                    return lines, file.tell()
    except OSError as error:
        raise unreadable(path) from error
    raise unreadable(path)


def _beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names: in the header's own folder, wherever links lead."""
    folder = path.resolve().parent
    try:
        data = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name that cannot be
        raise unreadable(path) from error
    if "%" in name or name.upper().startswith("LIST") or not data.is_relative_to(folder):
        raise LNSynthError(f"{path}: its header takes voxels from {name!r}; only a single file in the header's own "
                           "folder is read; save it as one .nrrd or .mha file.")
    if not data.is_file():
        raise LNSynthError(f"{path}: there is no {name!r} beside it, which holds its voxels; copy both files.")
    return data


@contextmanager
def _as_unreadable(path: Path):
    """Whatever a damaged field of the header raises is told as a damaged file."""
    try:
        yield
    except (KeyError, ValueError, OverflowError) as error:
        raise unreadable(path) from error
