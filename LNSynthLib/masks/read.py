"""Read masks of nodes and organs from any kind of file, on the CT's grid; what is left out is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..images.checks import check_labels
from ..images.volume import NIFTI, Volume, read
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event
from .alignment import around, on_grid, ordered_as, paste
from .dicom_seg import check_same_patient, seg_segmentation
from .labels import LAST_ID
from .segment_names import fold, structure_id
from .segments import Segment, Segmentation, is_seg, label_table, labelled, slicer_fields, slicer_segmentation

Tell = Callable[[str], None]  # takes one sentence for a person
EVERY = ("all",)              # as names of segments: every one is a node


def telling(callback: Callback) -> Tell:
    """Sentences as messages of the event stream."""
    return lambda text: callback(Event("note", message=text))


def read_nodes(path: Path, ct: Volume | None, tell: Tell, *, source: Path | None = None,
               names: Sequence[str] = ()) -> Volume:
    """A node mask (uint16) from a file of plain numbers, a DICOM SEG (or the folder of one) or a .seg.nrrd.

    ct      the mask comes on its grid, whatever the order of axes in the file; None: on the mask's own
    tell    hears of segments that are ignored or overlap
    source  where the CT came from: a SEG must be of the same patient and frame of reference as a DICOM series
    names   of the segments that are nodes, or EVERY; default: those that are called lymph node
    Of named segments, those taken become 1, 2, ... in order. Raises LNSynthError for a file that is not a mask,
    lies on another grid, belongs to another patient, or names no node.
    """
    path, found = Path(path), read_segmentation(path)
    if found is None:
        mask = read(path)
        check_labels(mask, str(path), highest=65535)
        mask = Volume(mask.array.astype(np.uint16), mask.affine)
        return mask if ct is None else on_grid(ct, mask, str(path))
    _check_source(found, source)
    chosen = _chosen(found, names)
    mask, notes = found.joined(list(enumerate(chosen, 1)))
    ignored = [segment.name for segment in found.segments if segment not in chosen]
    if ignored and not names:
        taken = ", ".join(f"{number} {segment.name!r}" for number, segment in enumerate(chosen, 1))
        notes.append(f"{len(ignored)} of {len(found.segments)} segments are not called lymph nodes and are ignored "
                     f"({_listed(ignored)}); name those that are nodes with --segments. Taken: {taken}")
    for note in notes:
        tell(f"{path}: {note}")
    return mask if ct is None else found.onto(mask, ct)


def read_anatomy(path: Path, ct: Volume | None, version: int, tell: Tell, *,
                 source: Path | None = None) -> tuple[Volume, int]:
    """(organ labels, uint8 TotalSegmentator ids; their major version) from a file of ids, or of named segments.

    version  of the ids of a file that names nothing. A file that says what its labels are (a label table in a NIfTI's
             header, a .seg.nrrd, a DICOM SEG) is read by its names, into ids of version 2
    Other arguments as for `read_nodes`. Raises LNSynthError for what cannot be such labels, or names none of them.
    """
    path = Path(path)
    table = label_table(path)
    found = None if table else read_segmentation(path)
    if found is not None:
        _check_source(found, source)
        ids = [(structure_id(segment.name, segment.codes), segment) for segment in found.segments]
        labels, notes = found.joined([(id, segment) for id, segment in ids if id is not None])
        _check_known(path, [segment.name for id, segment in ids if id is None], len(ids), tell)
        for note in notes:
            tell(f"{path}: {note}")
        labels = Volume(labels.array.astype(np.uint8), labels.affine)
        return labels if ct is None else found.onto(labels, ct), 2
    labels = read(path)
    check_labels(labels, str(path), highest=65535 if table else LAST_ID.get(version, 255))
    if table:
        labels, version = _by_table(path, labels, table, version, tell), 2
    labels = Volume(labels.array.astype(np.uint8), labels.affine)
    return labels if ct is None else on_grid(ct, labels, str(path)), version


def read_two(first: Path, second: Path, tell: Tell, *, names: Sequence[str] = ()) -> tuple[Volume, Volume]:
    """Two node masks of one CT that is not at hand, on the second's grid; one that covers a part of the CT alone (a
    SEG, a .seg.nrrd) is brought onto the other's. Whether grids agree is for the caller to check."""
    a, b = (read_nodes(path, None, tell, names=names) for path in (first, second))
    partial = [covers_part(path) for path in (first, second)]
    if not any(partial):
        return ordered_as(a, b.affine), b
    grid = b if not partial[1] else ordered_as(a, b.affine) if not partial[0] else around(b, a)
    one, two = (Volume(paste(mask, grid.affine, grid.shape, str(path)), grid.affine)
                for mask, path in ((a, first), (b, second)))
    return one, two


def covers_part(path: Path) -> bool:
    """Whether a mask's file may cover a part of the CT alone."""
    path = Path(path)
    return path.is_dir() or is_seg(path) or slicer_fields(path) is not None


def _by_table(path: Path, labels: Volume, table: dict[int, str], version: int, tell: Tell) -> Volume:
    """Labels as v2 ids by the file's own names, which are told where its numbers mean something else."""
    values = [int(value) for value in np.unique(labels.array) if value > 0]
    ids = {value: structure_id(table.get(value, "")) for value in values}
    _check_known(path, [table.get(value, f"label {value}") for value in values if ids[value] is None], len(values),
                 tell)
    other = [f"{value} {table[value]}" for value in values if ids[value] not in (None, value)]
    if other or (version != 2 and values):
        tell(f"{path}: its labels are read by the names in its header, not as ids of TotalSegmentator v{version}"
             + (f" ({_listed(other)})" if other else ""))
    number = np.zeros(max(values, default=0) + 1, np.uint8)
    for value, id in ids.items():
        number[value] = id or 0
    return Volume(number[labels.array.astype(np.int64)], labels.affine)


def _check_known(path: Path, unknown: list[str], count: int, tell: Tell) -> None:
    if count and len(unknown) == count:
        raise LNSynthError(f"{path}: none of its names is a structure of TotalSegmentator ({_listed(unknown)}); name "
                           "them as TotalSegmentator does, e.g. liver, kidney_left, aorta.")
    if unknown:
        tell(f"{path}: {len(unknown)} of its {count} names are not structures of TotalSegmentator and are ignored "
             f"({_listed(unknown)})")


def _check_source(found: Segmentation, source: Path | None) -> None:
    if source is not None and Path(source).is_dir() and (found.patient or found.frame):
        check_same_patient(found, source)


def _chosen(found: Segmentation, names: Sequence[str]) -> list[Segment]:
    labels = [segment.name for segment in found.segments]
    if tuple(names) == EVERY:
        return found.segments
    if not names:
        chosen = [segment for segment in found.segments if segment.is_node]
        if not chosen:
            raise LNSynthError(f"{found.path}: no segment is called a lymph node (but {_listed(labels)}); name those "
                               "that are with --segments, or rename them.")
        return chosen
    wanted = {fold(name) for name in names}
    if missing := sorted(name for name in names if fold(name) not in {fold(label) for label in labels}):
        raise LNSynthError(f"{found.path}: there is no segment {missing[0]!r}; it has {_listed(labels)}.")
    return [segment for segment in found.segments if fold(segment.name) in wanted]


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def read_segmentation(path: Path) -> Segmentation | None:
    """The named segments of a file, or of the one DICOM SEG in a folder; None for a mask of plain numbers.

    Raises LNSynthError for a file that cannot be read.
    """
    path = Path(path)
    if path.is_dir() or is_seg(path):
        return seg_segmentation(path)
    if not path.name.lower().endswith(NIFTI) or not path.is_file():
        return slicer_segmentation(path)
    table = label_table(path)
    return labelled(path, read(path), table) if table else None
