"""Which nodes are in the CT: those that are, voxel by voxel, as in the copy that was kept of the nodes that it shows.

Nothing else says it: a node that was changed, by whatever tool, is not in the CT, and is again once it is changed back.
"""

from __future__ import annotations

import numpy as np

from .segments import node_crop, node_ids
from .volumes import place_beside, take_out
from .words import _

KEPT = "LNSynth.originalNodes"  # reference of a segmentation to its kept copy, in saved scenes too

Crop = tuple[tuple, np.ndarray]  # index of the first voxel on the CT's grid, bool (X, Y, Z)


def keep(segmentation, ct, of=None):
    """From now on the CT shows these nodes as they are: keeps and returns a hidden copy, in place of an earlier one.

    of: another segmentation, whose nodes the CT shows instead.
    """
    scene, former, of = segmentation.GetScene(), kept_of(segmentation), of or segmentation
    if former is not None:
        take_out(former)
    copy = scene.CreateNodeByClass("vtkMRMLSegmentationNode")
    copy.UnRegister(None)
    copy.SetHideFromEditors(True)
    copy.SetName(scene.GenerateUniqueName(_("{name} in the CT").format(name=segmentation.GetName())))
    copy.GetSegmentation().DeepCopy(of.GetSegmentation())
    scene.AddNode(copy)
    place_beside(copy, segmentation)  # of segments of a node without an item the subject hierarchy complains
    copy.SetAndObserveTransformNodeID(of.GetTransformNodeID())
    copy.SetNodeReferenceID(copy.GetReferenceImageGeometryReferenceRole(), ct.GetID())
    segmentation.SetNodeReferenceID(KEPT, copy.GetID())
    return copy


def forget(segmentation) -> None:
    """The CT shows none of these nodes: the kept copy goes."""
    copy = kept_of(segmentation)
    if copy is not None:
        take_out(copy)


def kept_of(segmentation):
    """The copy that `keep` made of this segmentation, or None."""
    return segmentation.GetNodeReference(KEPT) if segmentation is not None else None


def ct_of(copy):
    """The CT that a copy by `keep` tells of, or None where it has left the scene."""
    return copy.GetNodeReference(copy.GetReferenceImageGeometryReferenceRole())


def are_in_ct(segmentation, ct) -> dict[str, bool]:
    """{segment id: whether it is in the CT} of all nodes that have voxels there."""
    copy = kept_of(segmentation)
    there = crops(copy, ct) if copy is not None else {}
    return {segment_id: is_among(crop, there) for segment_id, crop in crops(segmentation, ct).items()}


def crops(segmentation, ct) -> dict[str, Crop]:
    """{segment id: crop} of all nodes that have voxels in the CT."""
    found = {segment_id: node_crop(segmentation, segment_id, ct) for segment_id in node_ids(segmentation)}
    return {segment_id: crop for segment_id, crop in found.items() if crop[1].size}


def is_among(crop: Crop, others: dict[str, Crop]) -> bool:
    """Whether one of them has the same voxels, whatever its name."""
    start, mask = crop
    return any(tuple(other) == tuple(start) and np.array_equal(there, mask) for other, there in others.values())


def sizes_mm(nodes, kept, ct, remake: bool = False, vary: bool = False) -> tuple[list[tuple], list[tuple]]:
    """(made, removed): extents (mm) of the nodes that a synthesis in place makes at most, and removes at most.

    kept  the nodes in the CT, None for none; those of them that `nodes` has stay unless they are to be regenerated
          (remake) or changed at random (vary)
    """
    mine = crops(nodes, ct)
    there = crops(kept, ct) if kept is not None else {}
    made = mine if remake or vary else {i: crop for i, crop in mine.items() if not is_among(crop, there)}
    gone = there if vary else {i: crop for i, crop in there.items() if not is_among(crop, mine)}
    spacing = ct.GetSpacing()
    return tuple([tuple(n * mm for n, mm in zip(mask.shape, spacing, strict=True)) for _start, mask in found.values()]
                 for found in (made, gone))
