"""Organs of a CT as one segmentation with TotalSegmentator's structures, read back as TotalSegmentator v2 ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer

from LNSynthLib.images.boxes import box_at, box_of, extent
from LNSynthLib.runtime.errors import LNSynthError

from .grids import Box, affine_of, boxes, ct_in, on_grid, oriented_image, shape_of, to_world, voxels
from .segments import BINARY, need_labelmap
from .terminology import LAST_ID, id_of, structure, wanted
from .volumes import check_transform, place_beside, volume_of
from .words import _


def labels(segmentation, ct, box: Box | None = None) -> np.ndarray:
    """TotalSegmentator v2 ids (uint8, X, Y, Z) on the CT's grid, or in a box of it (3 slices); 0 where nothing is.

    Segments that are no structure of TotalSegmentator's task `total` are left out (`unknown` names them). Where
    segments overlap the last wins. Work in proportion to the box.
    """
    shape = shape_of(ct)
    box = box or box_of(shape)
    result = np.zeros(extent(box)[::-1], np.uint8).T
    if not segmentation.GetSegmentation().GetNumberOfSegments():
        return result
    need_labelmap(segmentation)
    target = ct_in(segmentation, ct)
    for image, ids in _layers(segmentation):
        first, array = voxels(image)
        whole = box_at(first, array.shape)
        start, piece = on_grid(image, whole, target, shape, box)
        if piece.size:
            part = result[tuple(slice(s - b.start, s - b.start + n)
                                for s, b, n in zip(start, box, piece.shape, strict=True))]
            known = _looked_up(piece, ids)
            np.copyto(part, known, where=known > 0)
    return result


def structure_ids(segmentation) -> dict[str, int]:
    """{segment id: TotalSegmentator v2 id} of the segments that are one of its structures, by name or terminology."""
    inner = segmentation.GetSegmentation()
    found = {}
    for segment_id in inner.GetSegmentIDs():
        segment = inner.GetSegment(segment_id)
        id = id_of((segment_id, segment.GetName()), segment.GetTerminology())
        if id is not None:
            found[segment_id] = id
    return found


def unknown(segmentation) -> list[str]:
    """Names of the segments that are no structure of TotalSegmentator, and are ignored."""
    known, inner = structure_ids(segmentation), segmentation.GetSegmentation()
    return [inner.GetSegment(segment_id).GetName() for segment_id in inner.GetSegmentIDs() if segment_id not in known]


def absent(segmentation) -> list[str]:
    """Names of the generators' organs that the segmentation has no segment of."""
    here = set(structure_ids(segmentation).values())
    return [structure(id).name for id in wanted() if id not in here]


def missing_for_conditions(segmentation) -> str:
    """Why the segmentation (or None) cannot tell a generator where the organs are; empty where it can."""
    if segmentation is None:
        return _("Choose the organs of this CT, or run the anatomy step.")
    if not segmentation.GetSegmentation().GetNumberOfSegments():
        return _("{name} has no segment; choose the organs of this CT, or run the anatomy step.").format(
            name=segmentation.GetName())
    if len(absent(segmentation)) == len(wanted()):
        return _("{name} has none of the organs that the generator knows ({organs}); choose the organs of this CT, or "
                 "run the anatomy step.").format(name=segmentation.GetName(),
                                                 organs=", ".join(structure(id).name for id in wanted()[:5]) + ", …")
    return ""


def load(scene, ct, path: Path, name: str):
    """The labels that `lnsynth anatomy` wrote for this CT, as a segmentation."""
    from LNSynthLib.images.volume import read

    return add_anatomy(scene, ct, read(Path(path)), name)


def add_anatomy(scene, ct, labels_volume, name: str):
    """A segmentation from a LNSynthLib Volume of TotalSegmentator v2 ids on the CT's grid; returns the node.

    One labelmap for all structures, cropped to them. Under the CT's transform, patient and study. Raises LNSynthError
    where the voxels are not such ids or the grid is not the CT's.
    """
    check_transform(ct)
    if labels_volume.shape != shape_of(ct):
        raise LNSynthError(f"The organ labels have {labels_volume.shape} voxels and {ct.GetName()} has {shape_of(ct)}; "
                           "choose the CT that they were made for.")
    return _add(scene, ct, labels_volume.array, affine_of(ct), ct.GetTransformNodeID(), name)


def from_labelmap(scene, labelmap, ct):
    """A segmentation from a labelmap node of TotalSegmentator v2 ids that covers the CT, on the labelmap's own grid.

    Raises LNSynthError where the voxels are not such ids, or none of them lies in the CT.
    """
    to_world(labelmap)
    check_transform(ct)
    volume = volume_of(labelmap)
    node = _add(scene, ct, volume.array, volume.affine, labelmap.GetTransformNodeID(),
                _("Anatomy of {name}").format(name=ct.GetName()))
    target, shape = ct_in(node, ct), shape_of(ct)
    image = node.GetSegmentation().GetNthSegment(0).GetRepresentation(BINARY)
    first, array = voxels(image)
    whole = box_at(first, array.shape)
    if not on_grid(image, whole, target, shape)[1].size:
        scene.RemoveNode(node)
        raise LNSynthError(f"No organ of {labelmap.GetName()} lies in {ct.GetName()}; choose the labelmap of this CT.")
    return node


def _add(scene, ct, array: np.ndarray, affine: np.ndarray, transform_id, name: str):
    array = _as_ids(array, name)
    found = boxes(array)
    if not found:
        raise LNSynthError(f"{name}: there is no organ in these labels; check the CT and run the anatomy step again.")
    crop = tuple(slice(min(b[a].start for b in found.values()), max(b[a].stop for b in found.values()))
                 for a in range(3))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    node.SetAndObserveTransformNodeID(transform_id)
    node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    image = oriented_image(array[crop], [c.start for c in crop], affine)
    inner = node.GetSegmentation()
    for id in found:
        known, segment = structure(id), slicer.vtkSegment()
        segment.SetName(known.name)
        segment.SetNameAutoGenerated(False)
        segment.SetColorAutoGenerated(False)
        segment.SetColor([c / 255 for c in known.color])
        segment.SetTerminology(known.entry)
        segment.SetLabelValue(id)
        segment.AddRepresentation(BINARY, image)
        inner.AddSegment(segment, known.name)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetOpacity2DFill(0.2)  # the CT and its nodes are what is looked at
    display.SetOpacity2DOutline(0.6)
    place_beside(node, ct)
    return node


def _as_ids(array: np.ndarray, name: str) -> np.ndarray:
    """uint8; LNSynthError for what cannot be TotalSegmentator v2 ids."""
    low, high = array.min(), array.max()
    if not low >= 0 or not high <= LAST_ID:
        raise LNSynthError(f"{name}: the values run from {low} to {high}, but ids of TotalSegmentator v2's task "
                           f"`total` are 0 to {LAST_ID}; choose a labelmap with such ids.")
    ids = array.astype(np.uint8, copy=False)
    if array.dtype.kind == "f" and not np.array_equal(ids, array):
        raise LNSynthError(f"{name}: the values are not whole numbers: they were interpolated; resample the labels "
                           "with nearest neighbour.")
    return ids


def _layers(segmentation) -> list[tuple]:
    """(labelmap, {value: TotalSegmentator id}) of each labelmap that holds known structures, in the segments' order."""
    inner, found = segmentation.GetSegmentation(), {}
    for segment_id, id in structure_ids(segmentation).items():
        segment = inner.GetSegment(segment_id)
        image = segment.GetRepresentation(BINARY)
        if image is not None:
            found.setdefault(image, {})[segment.GetLabelValue()] = id
    return list(found.items())


def _looked_up(piece: np.ndarray, ids: dict[int, int]) -> np.ndarray:
    """Values of a labelmap as ids (uint8), 0 for values of other segments."""
    table = np.zeros(max(ids) + 2, np.uint8)
    for value, id in ids.items():
        table[value] = id
    if piece.dtype.kind == "i":
        piece = np.maximum(piece, 0)
    return table[np.minimum(piece, len(table) - 1)]
