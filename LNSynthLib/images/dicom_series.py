"""A folder of DICOM slices as one CT array in HU with its affine, or one sentence that says what is wrong with it."""

from __future__ import annotations

import itertools
import logging
import math
import re
from pathlib import Path

import numpy as np

from ..runtime.errors import LNSynthError
from ..runtime.stream import RATIO, check_room
from .affine import LPS
from .dicom_files import DEFLATED, read_header

PLACE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}  # how many numbers each is
RESCALE = ("RescaleSlope", "RescaleIntercept")
HEADER = [
    *("Modality", "PatientID", "SeriesInstanceUID", "SeriesDescription", "SOPInstanceUID", "SOPClassUID"),
    *("Rows", "Columns", "BitsAllocated", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("InstanceNumber", "ImagesInAcquisition", "RescaleType", *RESCALE, *PLACE),
]
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")  # transfer syntaxes without compression
IN_HU = ("", "HU", "US", "HU_MOD")  # of RescaleType; US says nothing
MOST_SEARCHED = 2000                # files below a folder without slices

log = logging.getLogger(__name__)


def read_ct_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The one CT series in a folder (subfolders are not searched) as (array (X, Y, Z) in HU, affine to RAS+ mm).

    Slices are ordered by position, each with its own rescale slope and intercept; a tilted gantry becomes a sheared
    affine. Raises LNSynthError when the folder holds no CT series or several, when slices are missing, doubled or
    differ in orientation, size or pixel spacing. Slices that may be missing at the ends are logged as a warning, which
    verbs tell (`events.warnings_told`): only their numbers hint at it.
    """
    files, affine, shape = ct_grid(folder)
    check_room(Path(folder), 4 * math.prod(shape))
    planes = []
    for file in files:
        plane = _plane(file)
        if plane.shape != shape[:2]:
            raise _no_pixels(file)
        planes.append(plane)
    array = np.stack(planes, axis=2)
    return array.astype(np.float32) if array.dtype.kind == "f" else array, affine


def _plane(file: Path) -> np.ndarray:
    """A slice's (X, Y) HU by its own rescale. Uncompressed pixels are read here: GDCM, which unpacks the others, takes
    gigabytes for some damaged files, and cuts or shears what is not of the announced size."""
    import pydicom

    try:
        data = pydicom.dcmread(file)
        if str(data.file_meta.get("TransferSyntaxUID")) in PLAIN:
            return _stored(data).T
        import SimpleITK as sitk

        plane = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))  # GDCM applies the rescale
        return plane.reshape(plane.shape[-2:]).T
    except Exception as error:  # pydicom and GDCM raise whatever a malformed file makes them stumble over
        raise _no_pixels(file) from error


def _stored(data) -> np.ndarray:
    """The (rows, columns) HU of a slice that is not compressed."""
    rows, columns, bits = int(data.Rows), int(data.Columns), int(data.BitsAllocated)
    kept = int(data.get("BitsStored") or bits)
    high = int(data["HighBit"].value if "HighBit" in data else kept - 1)
    size, content = rows * columns * bits // 8, data.PixelData
    if not (bits in (8, 16, 32) and 1 <= kept == high + 1 <= bits and 0 <= len(content) - size <= size % 2):
        raise ValueError("not the pixels that the header describes")
    order = ">" if str(data.file_meta.TransferSyntaxUID) == PLAIN[2] else "<"
    kind = np.dtype(f"{order}{'i' if data.get('PixelRepresentation') else 'u'}{bits // 8}")
    numbers = np.frombuffer(content, kind, rows * columns).reshape(rows, columns).astype(kind.newbyteorder("="))
    numbers = np.right_shift(np.left_shift(numbers, bits - kept), bits - kept)  # without what lies in other bits
    slope, intercept = float(data.RescaleSlope), float(data.RescaleIntercept)
    hu = numbers * slope + intercept
    if slope.is_integer() and intercept.is_integer():
        fits = np.iinfo(np.int16).min <= hu.min() and hu.max() <= np.iinfo(np.int16).max
        return hu.astype(np.int16 if fits else np.int32)
    return hu


def ct_grid(folder: Path) -> tuple[list[Path], np.ndarray, tuple[int, int, int]]:
    """(files in order of position, affine to RAS+ mm, shape) of the one CT series in a folder; reads headers only."""
    slices = ct_slices(Path(folder))
    files, affine = _stack(slices, Path(folder))
    _tell_missing_ends(slices, Path(folder))
    first = slices[0][1]
    return files, affine, (int(first.Columns), int(first.Rows), len(files))


def _no_pixels(file: Path) -> LNSynthError:
    return LNSynthError(f"{file}: its pixels cannot be read; copy or export the series again.")


def ct_slices(folder: Path) -> list:
    """(file, header) of every slice of the one CT series in the folder; other modalities and files are passed over."""
    folder = Path(folder)
    found: dict[str, list] = {}
    headers, damaged = _read_headers(folder)
    for file, header in headers:
        if header.get("Modality") == "CT":
            found.setdefault(str(header.get("SeriesInstanceUID") or "(no UID)"), []).append((file, header))
    names = {_pattern(file) for members in found.values() for file, _ in members}
    for file in damaged:
        if _pattern(file) in names or _claims_dicom(file):
            raise LNSynthError(f"{file}: it cannot be read, although it is named like a slice or begins like one; copy "
                               "the series again, or take the file out of the folder.")
    if not found:
        below = _folders_with_slices(folder)
        where = (f"give one of its subfolders that do ({', '.join(below[:5])}{', ...' if len(below) > 5 else ''})"
                 if below else "give the one with the slices of a CT")
        raise LNSynthError(f"{folder}: the folder itself holds no DICOM CT slice; {where}.")
    if len(found) > 1:
        listed = "; ".join(
            f"{len(members)} slices of '{members[0][1].get('SeriesDescription', '')}' {uid}"
            for uid, members in sorted(found.items())
        )
        raise LNSynthError(
            f"{folder}: the folder holds {len(found)} CT series ({listed}); put the one you want into its own folder."
        )
    (slices,) = found.values()
    return slices


def _read_headers(folder: Path) -> tuple[list, list[Path]]:
    """([(file, header)] of the DICOM files directly in the folder, [the other files]), by name."""
    headers, others = [], []
    for file in sorted(p for p in Path(folder).iterdir() if p.is_file() and not p.name.startswith(".")):
        header = read_header(file, HEADER)
        if header is not None and header.get("Modality"):
            headers.append((file, header))
        else:
            others.append(file)
    return headers, others


def _pattern(file: Path) -> str:
    return re.sub(r"\d+", "#", file.name.lower())


def _claims_dicom(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            return stream.read(132)[128:] == b"DICM" and file.name.upper() != "DICOMDIR"
    except OSError:
        return True


def _folders_with_slices(folder: Path) -> list[str]:
    """Subfolders, at any depth, whose first DICOM file is a CT slice, relative to the folder."""
    found, known = [], set()
    for file in itertools.islice(sorted(folder.glob("*/**/*")), MOST_SEARCHED):
        if file.parent not in known and file.is_file() and not file.name.startswith("."):
            header = read_header(file, ("Modality",))
            if header is not None and header.get("Modality"):
                known.add(file.parent)
                found += [str(file.parent.relative_to(folder))] if header.Modality == "CT" else []
    return found


def _tell_missing_ends(slices: list, folder: Path) -> None:
    numbers = [header.get("InstanceNumber") for _, header in slices]
    if all(isinstance(n, int) for n in numbers) and len(set(numbers)) == len(numbers) and min(numbers) > 1:
        log.warning(f"{folder}: its slices are numbered {min(numbers)} to {max(numbers)}; where the series begins at "
                    "1, slices are missing at one end.")
    said = slices[0][1].get("ImagesInAcquisition")
    if isinstance(said, int) and said > len(slices):
        log.warning(f"{folder}: the acquisition is said to have {said} images, and {len(slices)} are here; slices may "
                    "be missing at the ends.")


def _numbers(file: Path, header, name: str, count: int = 1) -> np.ndarray:
    """A field's `count` finite numbers."""
    value = header.get(name)
    try:
        numbers = np.atleast_1d(np.array(value, dtype=float))
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        said = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) or hasattr(value, "append") else value
        raise LNSynthError(f"{file}: its {name} is {said!r}, not {count} number{'s' if count > 1 else ''}; export the "
                           "series again.")
    return numbers


def _check_slice(file: Path, header) -> None:
    """Raises LNSynthError unless the slice is a placed plane of numbers that its rescale turns into HU."""
    if header.get("NumberOfFrames") not in (None, "") and _numbers(file, header, "NumberOfFrames")[0] != 1:
        raise LNSynthError(f"{file}: this is an enhanced multi-frame CT; convert it to single frames or NIfTI.")
    if header.get("SamplesPerPixel") is not None and _numbers(file, header, "SamplesPerPixel")[0] != 1:
        raise LNSynthError(f"{file}: this is a colour image; give the CT itself, one number a voxel.")
    if any(header.get(name) is None for name in PLACE):
        raise LNSynthError(
            f"{file}: the slice does not say where it lies (a localizer?); keep only the slices of the CT series."
        )
    for name in RESCALE:
        if header.get(name) in (None, ""):
            raise LNSynthError(f"{file}: it has no {name}, so its numbers are not Hounsfield units; export it again.")
    slope = _numbers(file, header, "RescaleSlope")[0]
    _numbers(file, header, "RescaleIntercept")
    if not slope:
        raise LNSynthError(f"{file}: its RescaleSlope is 0, so all its voxels have one value; export it again.")
    kind = str(header.get("RescaleType") or "").strip().upper()
    if kind not in IN_HU:
        raise LNSynthError(f"{file}: its values are {kind} (RescaleType), not Hounsfield units; give the CT itself.")
    if str(header.get("PhotometricInterpretation") or "MONOCHROME2") != "MONOCHROME2":
        raise LNSynthError(f"{file}: it is stored as {header.PhotometricInterpretation}, not as the plain numbers of a "
                           "CT (MONOCHROME2); export it again.")
    spacing = _numbers(file, header, "PixelSpacing", 2)
    if spacing.min() <= 0:
        raise LNSynthError(f"{file}: its PixelSpacing is {spacing[0]:g} x {spacing[1]:g} mm; export it again.")
    _numbers(file, header, "ImagePositionPatient", 3)
    rows = _numbers(file, header, "ImageOrientationPatient", 6).reshape(2, 3)
    if np.abs(rows @ rows.T - np.eye(2)).max() > 0.01:
        raise LNSynthError(f"{file}: its ImageOrientationPatient is not a pair of directions; export it again.")
    size = [int(_numbers(file, header, name)[0]) for name in ("Rows", "Columns", "BitsAllocated")]
    syntax = str(header.file_meta.get("TransferSyntaxUID"))
    if syntax == DEFLATED:
        raise LNSynthError(f"{file}: it is stored deflated, which is not read; export it with another transfer syntax.")
    announced = math.prod(size) // 8
    if min(size) < 1 or syntax in PLAIN and announced > file.stat().st_size:
        raise _no_pixels(file)
    if announced > file.stat().st_size * RATIO:
        raise LNSynthError(f"{file}: its header announces {announced / 1e9:.2g} GB, more than the file can hold; copy "
                           "or export the series again.")


def _stack(slices: list, folder: Path) -> tuple[list[Path], np.ndarray]:
    """Files in order of position, and the affine; refuses whatever is not one regular stack."""
    for file, header in slices:
        _check_slice(file, header)

    first = slices[0][1]
    orientation = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    spacing = np.array(first.PixelSpacing, dtype=float)
    for file, header in slices:
        turned = np.abs(np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3) - orientation).max() > 1e-3
        scaled = np.abs(np.array(header.PixelSpacing, dtype=float) - spacing).max() > 1e-3 * spacing.min()
        resized = (header.Rows, header.Columns) != (first.Rows, first.Columns)
        for differs, what in ((turned, "orientation"), (scaled, "pixel spacing"), (resized, "size")):
            if differs:
                raise LNSynthError(
                    f"{file}: its {what} differs from {slices[0][0].name}'s; keep only the slices of one stack."
                )

    if len(slices) < 2:
        raise LNSynthError(f"{folder}: the CT series has a single slice, which is not a volume; copy the whole series.")
    normal = np.cross(*orientation)
    positions = np.array([header.ImagePositionPatient for _, header in slices], dtype=float)
    order = np.argsort(positions @ normal, kind="stable")
    files, positions = [slices[n][0] for n in order], positions[order]
    gaps = np.diff(positions @ normal)
    step = float(np.median(gaps))
    if gaps.min() < 0.01:
        n = int(gaps.argmin())
        raise LNSynthError(
            f"{folder}: {files[n].name} and {files[n + 1].name} lie at the same position "
            "(several phases, or copies?); keep one slice of each position."
        )
    if np.abs(gaps - step).max() > max(0.05 * step, 0.02):
        n = int(np.abs(gaps - step).argmax())
        raise LNSynthError(
            f"{folder}: slices are missing or irregular, {gaps[n]:.2f} mm lie between {files[n].name} and "
            f"{files[n + 1].name} where the series has {step:.2f} mm; copy the series again, complete."
        )

    column = (positions[-1] - positions[0]) / (len(positions) - 1)
    straight = positions[0] + np.arange(len(positions))[:, None] * column
    if np.abs(positions - straight).max() > max(0.05 * step, 0.05):
        raise LNSynthError(f"{folder}: the slices do not lie on one straight line; keep only slices of one stack.")
    affine = np.eye(4)
    affine[:3, 0] = orientation[0] * spacing[1]  # i counts columns, whose distance is the second PixelSpacing
    affine[:3, 1] = orientation[1] * spacing[0]
    affine[:3, 2] = column
    affine[:3, 3] = positions[0]
    return files, LPS @ affine
