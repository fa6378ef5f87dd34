"""The generator's input for in-place synthesis: the CT as it is, its anatomy, and the nodes as they are to be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from ..conditions.encode import encode, expected_hu, scale_hu
from ..conditions.form import DataForm
from ..images.boxes import Box, bounding_box, grow, meet, out_of, padded, within
from ..images.canvas import Canvas
from ..images.volume import Volume, crop, resample_to
from ..masks.body import LOWEST_HU, node_hu
from ..masks.labels import LabelTable
from ..masks.nodes import boxes, told_apart
from ..masks.shapes import on_grid
from ..runtime.errors import LNSynthError
from .body_survey import Survey, patch_labels, survey
from .patches import Grid, source_box

FATTY_HU = -40.0  # no node is so dark as a whole
AIR_HU = -1000.0  # beyond the CT, as in prepared cases


@dataclass(frozen=True, eq=False)
class Nodes:
    """The instances of a node mask. Only the region around them is held, whatever the size of the CT."""

    region: Box            # of the CT
    instances: Volume      # of that region
    boxes: dict[int, Box]  # of each instance, in the CT

    @classmethod
    def of(cls, mask: Volume, margin_mm: float) -> Nodes:
        """mask: canonical, on the CT's grid; the region reaches `margin_mm` beyond the nodes."""
        found = bounding_box(mask.array)
        if found is None:
            raise LNSynthError("The node mask is empty; draw at least one node.")
        region = grow(found, margin_mm, mask.spacing, mask.shape)
        part = crop(mask, region)
        return cls.within(region, Volume(told_apart(part.array), part.affine))

    @classmethod
    def within(cls, region: Box, instances: Volume) -> Nodes:
        """instances: of a region of the CT, told apart already; their numbers stay, whatever their number."""
        return cls(region, instances, {i: out_of(box, region) for i, box in boxes(instances.array).items()})

    def mask(self, ids, box: Box) -> np.ndarray:
        """Where some nodes are in a box of the CT, which may reach beyond the region, where none is; bool."""
        here = padded(self.instances.array, within(box, self.region))
        return np.isin(here, list(ids)) & (here > 0)

    def points_mm(self, index: int) -> np.ndarray:
        """The centres of a node's voxels, (n, 3), RAS+ mm."""
        first = [b.start - r.start for b, r in zip(self.boxes[index], self.region, strict=True)]
        at = np.argwhere(self.mask([index], self.boxes[index])) + first
        return at @ self.instances.affine[:3, :3].T + self.instances.affine[:3, 3]

    def on_grid(self, ids, grid: Grid) -> np.ndarray:
        """Some nodes on a patch's grid, as in training (`masks.shapes.on_grid`) but that the smallest has a voxel too:
        instances, 0 elsewhere."""
        chosen = Volume(np.where(np.isin(self.instances.array, list(ids)), self.instances.array, 0),
                        self.instances.affine)
        return on_grid(chosen, grid.affine, grid.shape, least=0)


@dataclass(frozen=True, eq=False)
class Patch:
    """What a generator is given, each (1, channels, X, Y, Z); see `Generator.sample`."""

    condition: torch.Tensor
    known: torch.Tensor
    keep: torch.Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """What one look at a CT tells, before anything in it is changed."""

    survey: Survey
    node_hu: float | None  # `masks.body.node_hu` of the nodes that are in the CT, as in training


def look(ct: Canvas, organs: Volume | None, version: int, nodes: Nodes, there: set[int], table: LabelTable,
         window) -> Seen:
    """there: instances that are in the CT already. Raises LNSynthError for one that, by its HU, is not."""
    inside = [ct.hu(nodes.boxes[i]).array[nodes.mask([i], nodes.boxes[i])] for i in sorted(there)]
    means = [float(np.clip(hu, *window).mean()) for hu in inside]
    if means and min(means) < FATTY_HU:
        absent = sorted(there)[int(np.argmin(means))]
        raise LNSynthError(f"Node {absent} is taken to be in the CT already, but its mean of {min(means):.0f} HU "
                           "is that of fat; leave it out of the mask, or have it made too.")
    every = np.concatenate([np.empty(0, np.float32), *inside])
    return Seen(survey(ct, organs, nodes.region, table, version), node_hu(every, np.ones(every.shape, bool)))


@dataclass(frozen=True, eq=False)
class Scene:
    """What all patches of one CT share. Volumes are canonical and on one grid; `ct` changes as patches are painted."""

    ct: Canvas
    organs: Volume | None  # TotalSegmentator ids of `version`
    version: int
    nodes: Nodes
    form: DataForm
    table: LabelTable
    seen: Seen
    stay: frozenset[int]   # nodes in the CT of which no voxel may change

    @classmethod
    def of(cls, ct: Canvas, organs: Volume | None, version: int, nodes: Nodes, stay: set[int], there: set[int],
           form: DataForm, seen: Seen | None = None) -> Scene:
        """there: instances that are in the CT already; seen: of an earlier look, None to look now."""
        table = LabelTable.load(form.labels)
        seen = seen or look(ct, organs, version, nodes, there, table, form.window)
        return cls(ct, organs, version, nodes, form, table, seen, frozenset(stay))

    def patch(self, grid: Grid, free_ids, present, margin_mm: float) -> Patch:
        """The patch on a grid, where the generator is free within `margin_mm` of the nodes `free_ids`.

        present  the nodes that the patch is to hold, those it holds already among them
        """
        box = source_box(grid, self.ct.affine, self.ct.shape)
        assert box is not None  # the patch lies around nodes of the CT
        native = self.ct.hu(box)
        padded = Volume(np.maximum(native.array, LOWEST_HU), native.affine)  # padding must not drag its neighbours down
        hu = resample_to(padded, grid.affine, grid.shape, order=1, cval=AIR_HU).array
        organs = None
        if self.organs is not None:
            organs = resample_to(crop(self.organs, box), grid.affine, grid.shape, order=0).array
        every = self.nodes.on_grid([i for i, at in self.nodes.boxes.items() if meet(at, box)], grid)
        # The anatomy never shows where nodes are or were, as in training.
        labels = patch_labels(hu, organs, every, grid, self.seen.survey, self.table, self.version)
        expected = None
        if self.form.expected_hu:
            expected = expected_hu(self.table, self.seen.survey.organ_hu, self.seen.node_hu, self.form.window)
        wanted = np.isin(every, list(present)) & (every > 0)
        condition = encode(labels, wanted, self.form.anatomy_channels, expected)
        # One voxel more than what is painted later, so that no border of what is kept shows through.
        distance = ndimage.distance_transform_edt(~np.isin(every, list(free_ids)))
        keep = (distance > margin_mm / self.form.spacing_mm + 1) | np.isin(every, list(self.stay))
        return Patch(condition[None], torch.from_numpy(scale_hu(hu, self.form.window))[None, None],
                     torch.from_numpy(keep.astype(np.float32))[None, None])


