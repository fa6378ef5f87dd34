"""A coarse survey of the axial slices around the nodes: where the body is, and each organ's HU in this CT.

A patch alone cannot tell a bowel loop that its border cuts open from the air around the patient, nor the mean HU of a
liver of which it shows a corner. Blocks of about 3 mm can, at a thirtieth of the voxels of a CT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..images.boxes import Box, grow
from ..images.canvas import Canvas
from ..images.volume import Volume, resample_to
from ..masks.body import LOWEST_HU, body_mask, label_map, organ_hu
from ..masks.labels import AIR, BODY, LabelTable
from ..runtime.errors import LNSynthError

BLOCK_MM = 3.0
REACH_MM = 60.0  # above and below the nodes


@dataclass(frozen=True, eq=False)
class Survey:
    """body: Volume of uint8, 1 in the patient; organ_hu: each label's mean in this CT, None where there is none."""

    body: Volume
    organ_hu: list[float | None]

    def share_inside(self, points_mm: np.ndarray) -> float:
        """Share of some points (n, 3; RAS+ mm) in the patient; the outermost blocks count beyond their borders too."""
        affine = np.linalg.inv(self.body.affine)
        index = np.rint(points_mm @ affine[:3, :3].T + affine[:3, 3]).astype(int)
        return float(self.body.array[tuple(np.clip(index, 0, np.array(self.body.shape) - 1).T)].mean())


def survey(ct: Canvas, anatomy: Volume | None, region: Box, table: LabelTable, version: int = 2) -> Survey:
    """anatomy: canonical, on the CT's grid, or None; region: box of the nodes in it; table: the generator's labels."""
    slab = (slice(0, ct.shape[0]), slice(0, ct.shape[1]), grow(region, REACH_MM, ct.spacing, ct.shape)[2])
    step = [max(1, min(round(BLOCK_MM / mm), b.stop - b.start)) for mm, b in zip(ct.spacing, slab, strict=True)]
    hu, affine = _blocks(ct, slab, step)
    organs = None
    if anatomy is not None:
        organs = anatomy.array[tuple(slice(b.start + s // 2, b.start + n * s, s)
                                     for b, s, n in zip(slab, step, hu.shape, strict=True))]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    labels = label_map(hu, organs, spacing, table, version=version)
    return Survey(Volume((labels != AIR).astype(np.uint8), affine), organ_hu(hu, labels, table))


def _blocks(ct: Canvas, slab: Box, step) -> tuple[np.ndarray, np.ndarray]:
    """Block means (float32) of a slab and the affine of their centres; what does not fill a block is left out."""
    count = [(b.stop - b.start) // s for b, s in zip(slab, step, strict=True)]
    array = ct.stored.array[tuple(slice(b.start, b.start + n * s) for b, n, s in zip(slab, count, step, strict=True))]
    split = [size for n, s in zip(count, step, strict=True) for size in (n, s)]
    hu = np.maximum(ct.to_hu(array), LOWEST_HU)  # padding must not drag its neighbours down
    means = hu.reshape(split).mean(axis=(1, 3, 5), dtype=np.float32)
    affine = ct.affine.copy()
    affine[:3, :3] = ct.affine[:3, :3] * step
    affine[:3, 3] += ct.affine[:3, :3] @ [b.start + (s - 1) / 2 for b, s in zip(slab, step, strict=True)]
    return means, affine


def patch_labels(hu: np.ndarray, organs: np.ndarray | None, nodes: np.ndarray, grid, found: Survey, table: LabelTable,
                 version: int = 2) -> np.ndarray:
    """The label map of a patch, its air and cavities as the survey saw them in whole slices.

    hu, organs (TotalSegmentator ids or None) and nodes (instances): (X, Y, Z) on the patch's grid. Returns uint8.
    """
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
    try:
        seen = body_mask(hu, spacing)
    except LNSynthError:  # a single slice, or lung alone: too little to find the body in, but whole slices showed it
        seen = resample_to(found.body, grid.affine, grid.shape, order=0).array > 0
    labels = label_map(hu, organs, spacing, table, nodes, version, seen)
    cross = ndimage.generate_binary_structure(3, 1)
    body = found.body.array > 0
    # Half a block is the survey's uncertainty: it decides what lies deeper than that inside or outside.
    inside, outside = (Volume(m.astype(np.uint8), found.body.affine) for m in (
        ndimage.binary_erosion(body, cross, border_value=1), ~ndimage.binary_dilation(body, cross)))
    labels[resample_to(outside, grid.affine, grid.shape, order=0).array > 0] = AIR
    lost = (labels == AIR) & (resample_to(inside, grid.affine, grid.shape, order=0).array > 0)
    labels[lost] = BODY
    for label in table.thresholds:
        assert label.threshold is not None  # that is what they have
        low, high = label.threshold
        labels[lost & (hu >= low) & (hu < high)] = label.id
    return labels
