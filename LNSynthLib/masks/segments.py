"""Masks whose file names its segments: DICOM SEG, Slicer's .seg.nrrd, NIfTI with a label table in its header."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..images import itk_files, nifti
from ..images.boxes import Box, box_of, shifted
from ..images.checks import check_labels
from ..images.dicom_files import read_header
from ..images.volume import NIFTI, Volume, is_volume_file
from ..runtime.errors import LNSynthError
from .alignment import on_grid, paste
from .segment_names import is_lymph_node

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation
LABEL = re.compile(r'<Label\s[^>]*?Key="(\d+)"[^>]*>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))\s*</Label>', re.DOTALL)
Codes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Segment:
    """One named segment. mask: bool, of a box of the segmentation's grid; codes: (scheme, value), the type's first."""

    name: str
    meaning: str
    codes: Codes
    box: Box
    mask: np.ndarray

    @property
    def is_node(self) -> bool:
        return is_lymph_node(self.name, self.meaning, self.codes)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Named segments on a grid of their own; partial: it may cover a part of the CT alone."""

    path: Path
    affine: np.ndarray
    shape: tuple[int, int, int]
    segments: list[Segment]
    partial: bool = True
    patient: str = ""  # of a DICOM SEG: PatientID and FrameOfReferenceUID
    frame: str = ""

    def joined(self, chosen: list[tuple[int, Segment]]) -> tuple[Volume, list[str]]:
        """Some segments as one mask (uint16) on the segmentation's grid, each with its number, and what to tell.

        A voxel of several goes to the smallest of them, so that a node that lies in another is not lost.
        """
        result, notes = np.zeros(self.shape, np.uint16), []
        names = {number: segment.name for number, segment in chosen}
        voxel_ml = abs(np.linalg.det(self.affine[:3, :3])) / 1000
        for number, segment in sorted(chosen, key=lambda pair: -np.count_nonzero(pair[1].mask)):
            part = result[segment.box]
            under, size = np.unique(part[segment.mask & (part > 0)], return_counts=True)
            notes += [f"the segments {names[int(other)]!r} and {segment.name!r} overlap in {count} voxels "
                      f"({count * voxel_ml:.2g} mL), which count to {segment.name!r}, the smaller of the two"
                      for other, count in zip(under, size, strict=True) if int(other) != number]
            part[segment.mask] = number
        left = set(np.unique(result).tolist())
        for number, segment in chosen:
            if number not in left:
                why = "lies under others" if segment.mask.any() else "is empty"
                notes.append(f"the segment {segment.name!r} {why} and gives no node")
        return Volume(result, self.affine), notes

    def onto(self, mask: Volume, ct: Volume) -> Volume:
        """A mask on this segmentation's grid, on the CT's. Raises LNSynthError where its voxels are not the CT's."""
        if not self.partial:
            return on_grid(ct, mask, str(self.path))
        return Volume(paste(mask, ct.affine, ct.shape, str(self.path)), ct.affine)


def is_seg(path: Path) -> bool:
    """True for a DICOM file whose modality is SEG."""
    if not Path(path).is_file() or is_volume_file(path):
        return False
    header = read_header(Path(path), ("Modality", "SOPClassUID"))
    return header is not None and (header.get("Modality") == "SEG" or header.get("SOPClassUID") in SEG_CLASSES)


def label_table(path: Path) -> dict[int, str]:
    """{value: name} of the label table in a NIfTI's header, as Connectome Workbench and TotalSegmentator write it; {}
    where it has none."""
    path = Path(path)
    if not path.name.lower().endswith(NIFTI):
        return {}
    try:
        extensions = nifti.read_header(path).extensions()
    except LNSynthError:  # `read` says it too
        return {}
    found: dict[int, str] = {}
    for content in extensions:
        text = content.decode("utf-8", "replace")
        if "<LabelTable" in text:
            found |= {int(key): (cdata or plain).strip() for key, cdata, plain in LABEL.findall(text)}
    return {value: name for value, name in found.items() if value > 0 and name}


def by_value(array: np.ndarray, first: tuple = (0, 0, 0)) -> Iterator[tuple[int, Box, np.ndarray]]:
    """(value, box, mask) of each value above 0 of an array that begins at index `first` of its grid."""
    from scipy import ndimage

    for value, box in enumerate(ndimage.find_objects(array), 1):
        if box is not None:
            place = shifted(box, first)
            yield value, place, array[box] == value


def labelled(path: Path, volume: Volume, table: dict[int, str]) -> Segmentation:
    """A mask of numbers whose names a table gives."""
    check_labels(volume, str(path), highest=65535)
    segments = [Segment(table.get(value, f"label {value}"), "", (), box, mask)
                for value, box, mask in by_value(volume.array.astype(np.uint16))]
    return Segmentation(path, volume.affine, volume.shape, segments, partial=False)


def slicer_fields(path: Path) -> dict[str, str] | None:
    """The header's fields of a .nrrd that Slicer's Segmentations wrote; None for any other file."""
    if not path.name.lower().endswith(".nrrd") or not path.is_file():
        return None
    try:
        fields = itk_files.nrrd_texts(path)
    except LNSynthError:  # `read` says it too
        return None
    return fields if "Segment0_ID" in fields or "Segment0_Name" in fields else None


def slicer_segmentation(path: Path) -> Segmentation | None:
    """A .nrrd that Slicer's Segmentations wrote: layers of labels, and fields Segment0_Name and so on."""
    fields = slicer_fields(path)
    if fields is None:
        return None
    layers, affine = itk_files.read_layers(path)
    shape, segments, n = layers[0].shape, [], 0
    there = []
    for layer in layers:
        check_labels(Volume(layer, affine), str(path), highest=65535)
        there.append({value: (box, mask) for value, box, mask in by_value(layer.astype(np.uint16))})
    while f"Segment{n}_ID" in fields or f"Segment{n}_Name" in fields:
        layer = _whole(path, fields, f"Segment{n}_Layer", n if len(layers) > 1 else 0)
        value = _whole(path, fields, f"Segment{n}_LabelValue", 1 if len(layers) > 1 else n + 1)
        if not 0 <= layer < len(layers):
            raise LNSynthError(f"{path}: segment {n} lies in layer {layer}, and the file has {len(layers)}; export the "
                               "segmentation again.")
        box, mask = there[layer].pop(value, (box_of((0, 0, 0)), np.zeros((0, 0, 0), bool)))
        meaning, codes = _terminology(fields.get(f"Segment{n}_Tags", ""))
        segments.append(Segment(fields.get(f"Segment{n}_Name", f"segment {n + 1}"), meaning, codes, box, mask))
        n += 1
    segments += [Segment(f"label {value}", "", (), *where) for layer in there for value, where in layer.items()]
    return Segmentation(path, affine, shape, segments)


def _whole(path: Path, fields: dict[str, str], name: str, default: int) -> int:
    text = fields.get(name, str(default)).strip()
    if not text.isdecimal() or len(text) > 9:
        raise LNSynthError(f"{path}: its {name} is {text[:40]!r}, no number; export the segmentation again.")
    return int(text)


def _terminology(tags: str) -> tuple[str, Codes]:
    """What Slicer's terminology entry among a segment's tags says: meanings in words, and codes."""
    entry = re.search(r"TerminologyEntry:([^|]*)", tags)
    if entry is None:
        return "", ()
    fields = [field.split("^") for field in entry[1].split("~")]
    codes = [field for field in fields[2:] if len(field) == 3 and field[1]]  # after context and category
    return " ".join(code[2] for code in codes), tuple((code[0], code[1]) for code in codes)
