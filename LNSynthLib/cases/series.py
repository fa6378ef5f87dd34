"""A folder of DICOM slices as one CT array in HU with its affine, or one sentence that says why it is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..runtime.errors import LNSynthError

PLACE = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
HEADER = [
    *("Modality", "PatientID", "SeriesInstanceUID", "SeriesDescription", "SOPInstanceUID", "SOPClassUID"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", *PLACE),
]


def read_ct_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The one CT series in a folder (subfolders are not searched) as (array (X, Y, Z) in HU, affine to RAS+ mm).

    Slices are ordered by position, each with its own rescale slope and intercept; a tilted gantry becomes a sheared
    affine. Raises LNSynthError when the folder holds no CT series or several, when slices are missing, doubled or
    differ in orientation, size or pixel spacing.
    """
    files, affine, _ = ct_grid(folder)
    import SimpleITK as sitk

    planes = []
    for file in files:
        try:
            plane = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))  # GDCM applies this slice's rescale
        except RuntimeError as error:
            raise LNSynthError(f"{file}: its pixels cannot be read; copy or export the series again.") from error
        planes.append(plane.reshape(plane.shape[-2:]).T)
    array = np.stack(planes, axis=2)
    return array.astype(np.float32) if array.dtype.kind == "f" else array, affine


def ct_grid(folder: Path) -> tuple[list[Path], np.ndarray, tuple[int, int, int]]:
    """(files in order of position, affine to RAS+ mm, shape) of the one CT series in a folder; reads headers only."""
    slices = ct_slices(Path(folder))
    files, affine = _stack(slices, Path(folder))
    first = slices[0][1]
    return files, affine, (int(first.Columns), int(first.Rows), len(files))


def ct_slices(folder: Path) -> list:
    """(file, header) of every slice of the one CT series in the folder; other modalities and files are passed over."""
    found: dict[str, list] = {}
    for file, header in dicom_headers(folder):
        if header.get("Modality") == "CT":
            found.setdefault(header.get("SeriesInstanceUID") or "(no UID)", []).append((file, header))
    if not found:
        raise LNSynthError(f"{folder}: the folder holds no DICOM CT slice; give the one with the slices of a CT.")
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


def dicom_headers(folder: Path) -> list:
    """(file, pydicom header) of every DICOM file directly in the folder, ordered by name."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    headers = []
    for file in sorted(p for p in Path(folder).iterdir() if p.is_file() and not p.name.startswith(".")):
        try:
            headers.append((file, pydicom.dcmread(file, stop_before_pixels=True, specific_tags=HEADER)))
        except (InvalidDicomError, EOFError):
            continue
    return headers


def _stack(slices: list, folder: Path) -> tuple[list[Path], np.ndarray]:
    """Files in order of position, and the affine; refuses whatever is not one regular stack."""
    for file, header in slices:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise LNSynthError(f"{file}: this is an enhanced multi-frame CT; convert it to single frames or NIfTI.")
        if int(header.get("SamplesPerPixel") or 1) > 1:
            raise LNSynthError(f"{file}: this is a colour image; give the CT itself, one number a voxel.")
        if any(header.get(name) is None for name in PLACE):
            raise LNSynthError(
                f"{file}: the slice does not say where it lies (a localizer?); keep only the slices of the CT series."
            )

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
        raise LNSynthError(f"{folder}: the CT series has a single slice, which is no volume; copy the whole series.")
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
    return files, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
