"""Which nodes a CT shows: those that are, voxel for voxel, as in the copy that was kept (`segments.original_of`)."""

from __future__ import annotations

import numpy as np

from .segments import node_crop, node_ids

Crop = tuple[tuple, np.ndarray]  # index of the first voxel on the CT's grid, bool (X, Y, Z)


def crops(segmentation, ct) -> dict[str, Crop]:
    """{segment id: crop} of all nodes that have voxels in the CT."""
    found = {segment_id: node_crop(segmentation, segment_id, ct) for segment_id in node_ids(segmentation)}
    return {segment_id: crop for segment_id, crop in found.items() if crop[1].size}


def is_among(crop: Crop, others: dict[str, Crop]) -> bool:
    """Whether one of them has the same voxels, whatever its name."""
    start, mask = crop
    return any(tuple(other) == tuple(start) and np.array_equal(there, mask) for other, there in others.values())


def sizes_mm(nodes, original, ct, remake: bool = False, vary: bool = False) -> tuple[list[tuple], list[tuple]]:
    """(made, removed): extents (mm) of the nodes that a synthesis in place makes at most, and removes at most.

    original  the nodes that the CT shows, None for none; those of them that `nodes` has stay unless they are to be made
              anew (remake) or changed at random (vary)
    """
    mine = crops(nodes, ct)
    there = crops(original, ct) if original is not None else {}
    made = mine if remake or vary else {i: crop for i, crop in mine.items() if not is_among(crop, there)}
    gone = there if vary else {i: crop for i, crop in there.items() if not is_among(crop, mine)}
    spacing = ct.GetSpacing()
    return tuple([tuple(n * mm for n, mm in zip(mask.shape, spacing, strict=True)) for _start, mask in found.values()]
                 for found in (made, gone))
