"""NIfTI files (.nii, .nii.gz): what nibabel would silently mend or ignore is refused here.

nibabel stops reading at the last voxel, before gzip's checksum; takes 1 mm for a voxel size of 0; drops units. Here
the bytes are read once, to the end, and nibabel interprets the header.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import LNSynthError
from ..runtime.stream import GZIP, Stream, unreadable
from .affine import furthest_apart, nearly_orthonormal, spacing_of, straightened

MAGIC = {348: b"n+1", 540: b"n+2"}  # by size of the header: NIfTI-1 and NIfTI-2, one file
LONGEST_START = 1 << 28  # bytes of header and extensions
UNITS = {1: "metres", 3: "micrometres"}  # of xyzt_units; 0 (not said) and 2 are mm


@dataclass(frozen=True, eq=False)
class Nifti:
    """What a header says.

    header  nibabel's view of it
    start   the file's bytes before the first voxel: header and extensions
    dtype   of the stored numbers, in the file's byte order; value = slope * number + inter
    """

    header: Any  # nibabel's
    start: bytes
    shape: tuple[int, int, int]
    dtype: np.dtype
    slope: float
    inter: float
    affine: np.ndarray

    def extensions(self) -> list[bytes]:
        """The contents of the header's extensions, up to one that is damaged."""
        at = self.header.structarr.dtype.itemsize
        order, found = self.header.endianness, []
        if self.start[at:at + 1] in (b"", b"\0"):
            return []
        at += 4
        while at + 8 <= len(self.start):
            size = int(np.frombuffer(self.start, order + "i4", 1, at)[0])
            if size < 8 or at + size > len(self.start):
                break
            found.append(self.start[at + 8:at + size])
            at += size
        return found

    @property
    def scaled(self) -> bool:
        return (self.slope, self.inter) != (1.0, 0.0)


def read_header(path: Path) -> Nifti:
    """The header alone; the rest of the file is not read. Raises LNSynthError unless it is a placed 3D volume."""
    with _open(path) as file:
        return _interpret(path, _stream(path, file))


def read_stored(path: Path) -> tuple[Nifti, np.ndarray]:
    """The header and the stored numbers (X, Y, Z), unscaled, once the checksum is seen to be right."""
    with _open(path) as file:
        stream = _stream(path, file)
        nifti = _interpret(path, stream)
        return nifti, stream.voxels(nifti.shape, nifti.dtype)


def read_values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(voxels (X, Y, Z): integers as stored, everything else float32; affine)."""
    nifti, stored = read_stored(path)
    if not nifti.scaled:
        return (stored.astype(np.float32, copy=False) if stored.dtype.kind == "f" else stored), nifti.affine
    values = np.empty(nifti.shape, np.float32, order="F")
    for k in range(nifti.shape[2]):  # double precision a slice at a time
        with np.errstate(over="ignore"):
            values[:, :, k] = stored[:, :, k].astype(np.float64) * nifti.slope + nifti.inter
    return values, nifti.affine


def description(path: Path) -> str:
    """The header's description field."""
    with _open(path) as file:
        header, _ = _header(path, _stream(path, file))
    return bytes(header["descrip"]).split(b"\0")[0].decode(errors="replace")


def save(path: Path, array: np.ndarray, affine: np.ndarray, description: str) -> None:
    """Writes NIfTI-1 in mm. description: at most 79 bytes.

    Programs that use ITK place the volume by the qform, which cannot say shear. It gets the nearest rotation where that
    moves no voxel noticeably, and is left out where it would.
    """
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(straightened(affine), code=1 if nearly_orthonormal(affine, array.shape) else 0)
    image.header.set_xyzt_units("mm")
    text = description.encode()
    if len(text) > 79:
        raise ValueError(f"a NIfTI description holds 79 bytes, not {len(text)}: {description!r}")
    image.header["descrip"] = text
    nibabel.save(image, path)


def _open(path: Path):
    try:
        return open(path, "rb")
    except OSError as error:
        raise unreadable(path) from error


def _stream(path: Path, file) -> Stream:
    return Stream(path, file, GZIP if path.name.lower().endswith(".gz") else None)


def _header(path: Path, stream: Stream) -> tuple[Any, bytes]:
    """nibabel's view of the header, and its bytes."""
    import nibabel

    start = stream.read(4)
    for order in ("<", ">"):
        size = int(np.frombuffer(start, order + "i4")[0])
        if size in MAGIC:
            start += stream.read(size - 4)
            kind = nibabel.Nifti1Header if size == 348 else nibabel.Nifti2Header
            header = kind(start, endianness=order, check=False)
            if header["magic"].item() != MAGIC[size]:
                raise LNSynthError(f"{path}: this is not a NIfTI file that holds its own voxels (.hdr/.img pairs and "
                                   "Analyze are not read); convert it to .nii.gz.")
            return header, start
    raise unreadable(path)


def _interpret(path: Path, stream: Stream) -> Nifti:
    header, start = _header(path, stream)
    shape, dtype = _shape(path, header), _type(path, header)
    slope, inter = _scaling(path, header)
    unit = int(header["xyzt_units"]) & 7
    if unit not in (0, 2):
        raise LNSynthError(f"{path}: its lengths are in {UNITS.get(unit, 'an unknown unit')} (xyzt_units), which many "
                           "programs take for mm; save it with lengths in mm.")
    affine = _affine(path, header, shape)
    offset = float(header["vox_offset"])
    if not len(start) + 4 <= offset <= LONGEST_START or offset != int(offset):
        raise LNSynthError(f"{path}: its header says that the voxels begin at byte {offset:g} (vox_offset), which "
                           "cannot be; export it again.")
    start += stream.read(int(offset) - len(start))
    return Nifti(header, start, shape, dtype, slope, inter, affine)


def _shape(path: Path, header) -> tuple[int, int, int]:
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise unreadable(path)
    shape = tuple(int(n) for n in header["dim"][1:count + 1])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise LNSynthError(f"{path}: the image has {len(shape)} dimensions {shape}; give one 3D volume.")
    if min(shape) < 1:
        raise LNSynthError(f"{path}: the volume has no voxels (shape {shape}); export it again.")
    return shape


def _type(path: Path, header) -> np.dtype:
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise unreadable(path) from error
    if dtype.names:
        raise LNSynthError(f"{path}: this is a colour (RGB) image; give the CT itself, one number a voxel.")
    if dtype.kind == "c":
        raise LNSynthError(f"{path}: the voxels are complex numbers; give a CT or a mask.")
    if dtype.kind not in "iuf" or int(header["bitpix"]) != 8 * dtype.itemsize:
        raise unreadable(path)
    return dtype


def _scaling(path: Path, header) -> tuple[float, float]:
    """(slope, intercept); a slope of 0 or NaN means that there is none, and then there may be no intercept either."""
    slope, inter = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    if (slope == 0 or np.isnan(slope)) and (inter == 0 or np.isnan(inter)):
        return 1.0, 0.0
    if slope == 0 or not np.isfinite([slope, inter]).all():
        raise LNSynthError(f"{path}: its scaling is meaningless (slope {slope:g}, intercept {inter:g}), so its values "
                           "are unknown; export it again.")
    return slope, inter


def _affine(path: Path, header, shape: tuple) -> np.ndarray:
    """The affine of sform or qform. Where both are given they must agree: programs differ in which one they follow."""
    import nibabel

    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    if not any(codes.values()):
        raise LNSynthError(
            f"{path}: the header does not say where the volume lies (sform and qform codes are 0); "
            "export it again with its geometry."
        )
    size = np.asarray(header["pixdim"][1:4], float)
    if not all(0 <= code <= 5 for code in codes.values()):
        raise unreadable(path)
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise LNSynthError(f"{path}: its voxels measure {' x '.join(f'{s:g}' for s in size)} mm (pixdim), which cannot "
                           "be; export it again with its geometry.")
    sform = np.asarray(header.get_sform(), float) if codes["sform"] else None
    if sform is not None and (not np.isfinite(sform).all() or abs(np.linalg.det(sform[:3, :3])) < 1e-9):
        raise _singular(path)
    if codes["qform"]:
        placed = header.copy()
        if placed["pixdim"][0] == 0:  # the standard's default
            placed["pixdim"][0] = 1
        try:
            qform = np.asarray(placed.get_qform(), float)
        except (nibabel.spatialimages.HeaderDataError, ValueError):
            qform = np.full((4, 4), np.nan)
        if not np.isfinite(qform).all():
            raise LNSynthError(f"{path}: its qform is damaged, so programs that follow it show the volume elsewhere; "
                               "export it again with its geometry.")
        if sform is None:
            return qform
        apart = furthest_apart(straightened(sform), qform, shape)
        if apart > 0.5 * size.min():
            raise LNSynthError(f"{path}: its sform and qform place voxels up to {apart:.3g} mm apart, and programs "
                               "differ in which they follow; save it with one geometry.")
    assert sform is not None  # one of the two is there
    # Some programs take directions from the sform and sizes from pixdim; of a sheared axis, its length or its height.
    heights = 1 / np.linalg.norm(np.linalg.inv(sform[:3, :3]), axis=1)
    off = np.minimum(abs(spacing_of(sform) - size), abs(heights - size)) * (np.array(shape) - 1)
    if (off > size).any():
        raise LNSynthError(f"{path}: its sform and its voxel size (pixdim) differ, so programs differ in where voxels "
                           "lie; save it with one geometry.")
    return sform


def _singular(path: Path) -> LNSynthError:
    return LNSynthError(f"{path}: its affine is singular, so no voxel has a place; export it with its geometry.")
