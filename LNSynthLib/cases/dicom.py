"""DICOM SEG to a node mask on the CT's grid, and back (highdicom)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..runtime.errors import LNSynthError
from ..runtime.files import atomic_path
from . import synthetic
from .series import ct_grid
from .volume import LPS, Volume

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation
REFERRED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "SOPInstanceUID")
NODE_RGB = (68, 172, 100)  # Slicer's colour of lymph nodes


def is_seg(path: Path) -> bool:
    """True for a DICOM file whose modality is SEG."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality", "SOPClassUID"])
    except (InvalidDicomError, EOFError, OSError):
        return False
    return header.get("Modality") == "SEG" or header.get("SOPClassUID") in SEG_CLASSES


def find_seg(folder: Path) -> Path:
    """The one DICOM SEG file directly in a folder. Raises LNSynthError where there is none, or several."""
    found = [path for path in sorted(Path(folder).iterdir()) if path.is_file() and is_seg(path)]
    if len(found) != 1:
        raise LNSynthError(f"{folder}: the folder holds {len(found)} DICOM SEG files; give the path of one.")
    return found[0]


def read_seg(path: Path, ct: Volume, all_segments: bool = False) -> Volume:
    """The lymph nodes of a DICOM SEG as a mask on the CT's grid (uint16): segment n of those taken becomes n.

    path          a SEG file (binary or label map), or a folder that holds one
    ct            the CT it was drawn on; the SEG may cover only some of its slices
    all_segments  False: only segments that name a lymph node in label or type; True: every segment is a node
    Where segments overlap, the higher number wins. Raises LNSynthError when the SEG cannot be read, names no lymph
    node, or its voxels are not the CT's.
    """
    import highdicom

    path = find_seg(path) if Path(path).is_dir() else Path(path)
    try:
        seg = highdicom.seg.segread(path)
        numbers = [n for n in seg.segment_numbers if all_segments or _is_node(seg.get_segment_description(n))]
        if not numbers:
            labels = ", ".join(seg.get_segment_description(n).segment_label for n in seg.segment_numbers)
            raise LNSynthError(f"{path}: no segment is called a lymph node (but {labels}); rename it in the SEG.")
        if seg.segmentation_type == highdicom.seg.SegmentationTypeValues.FRACTIONAL:
            raise LNSynthError(f"{path}: the SEG holds probabilities; export it as a binary segmentation.")
        volume = seg.get_volume(
            segment_numbers=numbers, combine_segments=True, relabel=True, skip_overlap_checks=True, dtype=np.uint16
        )
    except LNSynthError:
        raise
    except Exception as error:  # highdicom and pydicom raise whatever a malformed file makes them stumble over
        raise LNSynthError(f"{path}: the DICOM SEG cannot be read ({_first_line(error)}); export it again.") from error
    mask = Volume(volume.array.transpose(2, 1, 0), LPS @ volume.affine[:, [2, 1, 0, 3]])
    return _onto(mask, ct.affine, ct.shape, path)


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
    on_ct = _onto(nodes, affine, shape, path)
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
        np.ascontiguousarray(number[on_ct.array].transpose(2, 1, 0)),
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


def _onto(mask: Volume, affine: np.ndarray, shape: tuple, path: Path) -> Volume:
    """The mask on the CT's grid, voxel by voxel: only order, direction and the slices covered may differ."""
    steps = np.linalg.inv(affine) @ mask.affine
    for axis, size in enumerate(mask.shape):
        if size == 1:  # a SEG of one slice often takes the slice thickness for the distance of slices
            steps[:3, axis] /= np.abs(steps[:3, axis]).max()
    whole = np.rint(steps).astype(int)
    drift = np.abs(steps - whole)[:3] @ [*(n - 1 for n in mask.shape), 1]
    if drift.max() > 0.1 or not round(np.linalg.det(whole)):
        raise LNSynthError(f"{path}: the mask's voxels are not the CT's; give the CT series that it was drawn on.")
    marked = np.argwhere(mask.array)
    place = marked @ whole[:3, :3].T + whole[:3, 3]
    if ((place < 0) | (place >= shape)).any():
        raise LNSynthError(f"{path}: a part of the mask lies outside the CT; give the CT series that it was drawn on.")
    result = np.zeros(shape, np.uint16)
    result[tuple(place.T)] = mask.array[tuple(marked.T)]
    return Volume(result, affine)


def _is_node(description) -> bool:
    """Whether a segment is called a lymph node: by its code (SNOMED CT 59441001), its type's meaning or its label."""
    kind = description.segmented_property_type
    words = f"{description.segment_label} {kind.meaning}".lower()
    return kind.value == "59441001" or "lymph" in words or "node" in words


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
