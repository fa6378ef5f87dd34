"""DICOM SEG to a node mask on the CT's grid, and back (highdicom)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..images import synthetic
from ..images.affine import LPS
from ..images.dicom_files import DEFLATED, check_inflated, read_header
from ..images.dicom_series import PLAIN, ct_grid
from ..images.volume import Volume
from ..runtime.errors import LNSynthError
from ..runtime.files import atomic_path
from ..runtime.stream import RATIO, check_room
from .alignment import paste
from .segments import Segment, Segmentation, by_value, is_seg

REFERRED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "SOPInstanceUID")
NODE_RGB = (68, 172, 100)  # Slicer's colour of lymph nodes


def find_seg(folder: Path) -> Path:
    """The one DICOM SEG file directly in a folder. Raises LNSynthError where there is none, or several."""
    found = [path for path in sorted(Path(folder).iterdir()) if path.is_file() and is_seg(path)]
    if len(found) != 1:
        raise LNSynthError(f"{folder}: the folder holds {len(found)} DICOM SEG files; give the path of one.")
    return found[0]


def seg_segmentation(path: Path) -> Segmentation:
    """The segments of a DICOM SEG (binary or label map), or of the one in a folder, on a grid of the SEG's own.

    Raises LNSynthError for a SEG that cannot be read, or that holds probabilities.
    """
    import highdicom
    import pydicom

    path = find_seg(path) if Path(path).is_dir() else Path(path)
    check_inflated(path)
    try:
        data = pydicom.dcmread(path)
        _check_frames(path, data)
        seg = highdicom.seg.Segmentation.from_dataset(data, copy=False)
        if seg.segmentation_type == highdicom.seg.SegmentationTypeValues.FRACTIONAL:
            raise LNSynthError(f"{path}: the SEG holds probabilities; export it as a binary segmentation.")
        _check_volume(path, seg)
        described = [_described(seg.get_segment_description(n)) for n in seg.segment_numbers]
        volume, masks = _masks(seg)
        patient, frame = str(seg.get("PatientID", "")).strip(), str(seg.get("FrameOfReferenceUID", "")).strip()
    except LNSynthError:
        raise
    except Exception as error:  # highdicom and pydicom raise whatever a malformed file makes them stumble over
        raise LNSynthError(f"{path}: the DICOM SEG cannot be read ({_first_line(error)}); export it again.") from error
    segments = [Segment(*about, *where) for about, where in zip(described, masks, strict=True)]
    return Segmentation(path, LPS @ volume.affine[:, [2, 1, 0, 3]], tuple(reversed(volume.array.shape)), segments,
                        patient=patient, frame=frame)


def _check_frames(path: Path, data) -> None:
    """Raises LNSynthError where a SEG announces more than its file can hold."""
    frames, rows, columns, bits = (int(data.get(name) or 0) for name in
                                   ("NumberOfFrames", "Rows", "Columns", "BitsAllocated"))
    announced = frames * rows * columns * bits // 8
    if min(frames, rows, columns, bits) < 1 or frames != len(data.get("PerFrameFunctionalGroupsSequence") or ()):
        raise LNSynthError(f"{path}: the DICOM SEG does not describe all of its {frames} frames of {rows} x {columns} "
                           "voxels; export it again.")
    plain = str(data.file_meta.get("TransferSyntaxUID")) in (*PLAIN, DEFLATED)
    if plain and not 0 <= len(data.get("PixelData") or b"") - -(-frames * rows * columns * bits // 8) <= 1:
        raise LNSynthError(f"{path}: the DICOM SEG does not hold the {frames} frames of {rows} x {columns} voxels that "
                           "its header describes; export it again.")
    if announced > path.stat().st_size * RATIO:
        raise LNSynthError(f"{path}: the DICOM SEG announces {announced / 1e9:.1f} GB, more than its file can hold; "
                           "export it again.")


def _check_volume(path: Path, seg) -> None:
    """Raises LNSynthError where the volume of a SEG is larger than the memory."""
    geometry = seg.get_volume_geometry()
    if geometry is None:
        raise LNSynthError(f"{path}: the frames of the DICOM SEG lie on no regular grid; export it again.")
    check_room(path, 4 * math.prod(geometry.spatial_shape))


def check_same_patient(seg: Segmentation, series: Path) -> None:
    """Raises LNSynthError, naming both, where a SEG and a DICOM series tell another patient or frame of reference."""
    header = _first_slice(series)
    for what, mine, keyword in (("patient", seg.patient, "PatientID"),
                                ("frame of reference", seg.frame, "FrameOfReferenceUID")):
        theirs = str(header.get(keyword, "")).strip() if header is not None else ""
        if mine and theirs and mine != theirs:
            raise LNSynthError(f"{seg.path}: the SEG was drawn on another CT (its {what} is {mine}, and that of "
                               f"{series} is {theirs}); give the series that it belongs to.")


def _first_slice(series: Path):
    for file in sorted(p for p in Path(series).iterdir() if p.is_file()):
        header = read_header(file, ("Modality", "PatientID", "FrameOfReferenceUID"))
        if header is not None and header.get("Modality") == "CT":
            return header
    return None


def _masks(seg) -> tuple:
    """(highdicom volume, [(box, mask) of each segment in order of number]), axes as in `Segmentation`."""
    how = {"combine_segments": True, "relabel": True, "dtype": np.uint16}
    empty = tuple(slice(0, 0) for _ in range(3)), np.zeros((0, 0, 0), bool)
    try:
        volume = seg.get_volume(**how)
        found = {value: where for value, *where in by_value(volume.array.transpose(2, 1, 0))}
        return volume, [tuple(found.get(n, empty)) for n in range(1, len(seg.segment_numbers) + 1)]
    except RuntimeError as error:
        if "overlap" not in str(error):
            raise
    masks = []
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], **how)
        masks.append(next((where for _, *where in by_value(volume.array.transpose(2, 1, 0))), empty))
    return volume, [tuple(where) for where in masks]


def _described(description) -> tuple[str, str, tuple]:
    """(label, what its codes mean in words, the codes) of a segment."""
    codes = [*description.SegmentedPropertyTypeCodeSequence,
             *description.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence", ()),
             *description.get("AnatomicRegionSequence", ()), *description.get("PrimaryAnatomicStructureSequence", ())]
    return (description.segment_label, " ".join(str(code.get("CodeMeaning", "")) for code in codes),
            tuple((str(code.get("CodingSchemeDesignator", "")), str(code.get("CodeValue", ""))) for code in codes))


def write_seg(path: Path, nodes: Volume, ct_folder: Path, description: str = "Lymph nodes") -> None:
    """Write a node mask (instances) as a binary DICOM SEG, one segment a node, that refers to the CT series it lies on.

    nodes may have its axes in another order than the series, but must lie on its voxels. Raises LNSynthError when it
    does not, when it is empty, or when the series has no identifiers or says that it is SYNTHETIC: no SEG may make it
    look like a patient's.
    """
    import highdicom
    import pydicom
    from highdicom.color import CIELabColor

    from .. import __version__

    files, affine, shape = ct_grid(ct_folder)
    ids = np.unique(nodes.array[nodes.array > 0])
    if not len(ids):
        raise LNSynthError(f"{path}: the node mask is empty, so there is no segment to write; draw at least one node.")
    on_ct = paste(nodes, affine, shape, str(path))
    number = np.zeros(int(ids.max()) + 1, np.uint16)
    number[ids.astype(int)] = np.arange(1, len(ids) + 1)
    source = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    for name in REFERRED:
        if any(not header.get(name) for header in source):
            raise LNSynthError(f"{ct_folder}: the series' identifiers are blank ({name}), so that no SEG can refer to "
                               "it; export the series again with them, or keep the mask as NIfTI or NRRD.")
    if synthetic.marked(ct_folder):
        raise LNSynthError(f"{ct_folder}: the series is marked SYNTHETIC, and no DICOM SEG is written for such a CT; "
                           "keep its mask as NIfTI or NRRD.")
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=n,
            segment_label=f"lymph node {id}",
            segmented_property_category=highdicom.sr.CodedConcept("85756007", "SCT", "Tissue"),
            segmented_property_type=highdicom.sr.CodedConcept("59441001", "SCT", "Lymph node"),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
            display_color=CIELabColor.from_rgb(*NODE_RGB),
        )
        for n, id in enumerate(ids, start=1)
    ]
    volume = highdicom.Volume(
        np.ascontiguousarray(number[on_ct].transpose(2, 1, 0)),
        (LPS @ affine)[:, [2, 1, 0, 3]],
        coordinate_system="PATIENT",
        frame_of_reference_uid=source[0].FrameOfReferenceUID,
    )
    seg = highdicom.seg.Segmentation(
        source_images=source,
        pixel_array=volume,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=300,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="LNSynth",
        manufacturer_model_name="LNSynth",
        software_versions=__version__,
        device_serial_number="0",
        series_description=description,
    )
    with atomic_path(path) as beside:
        seg.save_as(beside)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
