"""What lies around a lymph node, on a crop of the CT: organs, bone, gas, other nodes, and where the patient ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from LNSynthLib.images.boxes import extent, within
from LNSynthLib.runtime.errors import LNSynthError

from . import anatomy as organs
from .grids import Box, shape_of
from .segments import node_crop, node_ids
from .terminology import structure
from .volumes import volume_of
from .words import _

OUTSIDE, BONE, GAS = 253, 254, 255  # values of `tissue` beside TotalSegmentator's ids
COARSE_MM = 6.0                     # grid on which patient and table are told apart

_patients: dict = {}  # state of a CT -> (its patient on a coarse grid, step); the last one only


@dataclass(frozen=True, eq=False)
class Surroundings:
    """A crop of the CT, in the CT's own axes; `canonical` and `back` go to the axes right, anterior, superior."""

    box: Box                  # where the crop lies in the CT
    affine: np.ndarray        # 4x4, (i, j, k, 1) of the crop to the CT's RAS mm
    tissue: np.ndarray        # uint8 (X, Y, Z): 0 where a node may lie, else a TotalSegmentator id, BONE, GAS, OUTSIDE
    nodes: np.ndarray         # uint16 (X, Y, Z): 1 + position in `ids`, 0 where no node is
    ids: tuple[str, ...]      # segment ids of the nodes that reach into the crop
    organs_known: bool        # False: there is no anatomy, so only bone, gas and the outside are kept clear

    @property
    def spacing(self) -> np.ndarray:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @cached_property
    def orientation(self) -> np.ndarray:
        from nibabel.orientations import io_orientation

        return io_orientation(self.affine).astype(int)

    @property
    def canonical_spacing(self) -> np.ndarray:
        return self.spacing[np.argsort(self.orientation[:, 0])]

    def canonical(self, array: np.ndarray) -> np.ndarray:
        """An array of the crop with its axes closest to right, anterior, superior."""
        from nibabel.orientations import apply_orientation

        return np.ascontiguousarray(apply_orientation(array, self.orientation))

    def canonical_index(self, index) -> np.ndarray:
        """A voxel of the CT as an index of the canonical crop."""
        inside = np.subtract(index, [b.start for b in self.box])
        found = np.empty(3, inside.dtype)
        for axis, (to, flip) in enumerate(self.orientation):
            found[to] = inside[axis] if flip > 0 else self.tissue.shape[axis] - 1 - inside[axis]
        return found

    def back(self, start, mask: np.ndarray) -> tuple[tuple, np.ndarray]:
        """A mask of the canonical crop that starts at `start`, as (start, mask) on the CT's grid."""
        from nibabel.orientations import apply_orientation, ornt_transform

        canonical = np.array([[0, 1], [1, 1], [2, 1]])
        first = []
        for axis, (to, flip) in enumerate(self.orientation):
            low = start[to] if flip > 0 else self.tissue.shape[axis] - start[to] - mask.shape[to]
            first.append(int(low) + self.box[axis].start)
        return tuple(first), apply_orientation(mask, ornt_transform(canonical, self.orientation))

    def covered(self, start, mask: np.ndarray) -> tuple[list[tuple[str, int]], list[tuple[str, int]], int]:
        """What a node at `start` (on the CT's grid) would cover: ((organ, voxels), ...), (segment id, voxels), outside.

        The mask may stick out of the CT, whose crop must hold the rest; most voxels first.
        """
        here = tuple(slice(max(s, b.start) - b.start, min(s + n, b.stop) - b.start)
                     for s, n, b in zip(start, mask.shape, self.box, strict=True))
        there = tuple(slice(h.start + b.start - s, h.stop + b.start - s)
                      for h, b, s in zip(here, self.box, start, strict=True))
        if any(h.start >= h.stop for h in here):
            return [], [], int(mask.sum())
        inside = mask[there]
        values = np.bincount(self.tissue[here][inside], minlength=256)
        nodes = np.bincount(self.nodes[here][inside], minlength=len(self.ids) + 1)
        outside = int(mask.sum() - inside.sum() + values[OUTSIDE])
        found = [(tissue_name(v), int(values[v])) for v in np.flatnonzero(values) if v not in (0, OUTSIDE)]
        others = [(self.ids[v - 1], int(nodes[v])) for v in np.flatnonzero(nodes) if v]
        return sorted(found, key=lambda f: -f[1]), sorted(others, key=lambda f: -f[1]), outside


def around(segmentation, ct, anatomy, box: Box, without: str | None = None) -> Surroundings:
    """The surroundings in a box of the CT's grid; `without` this node.

    HU under nodes are replaced by what is around them (they may be bright), under `without` as well. Raises
    LNSynthError where the anatomy cannot be read.
    """
    from LNSynthLib.images.volume import crop
    from LNSynthLib.masks.body import label_map

    image = crop(volume_of(ct), box)
    nodes, ids, whole = _nodes_in(segmentation, ct, box, without)
    raw = None if anatomy is None else organs.labels(anatomy, ct, box)
    table = label_table()
    labels = label_map(image.array, None, image.spacing, table, nodes=whole, body=np.ones(image.shape, bool))
    tissue = np.zeros(image.shape, np.uint8) if raw is None else raw.astype(np.uint8)
    free = tissue == 0
    tissue[free & (labels == table.index("bone"))] = BONE
    tissue[free & (labels == table.index("gas"))] = GAS
    tissue[~_patient(ct, box)] = OUTSIDE
    return Surroundings(box, image.affine, tissue, nodes, ids, raw is not None)


@cache
def label_table():
    """The label table that knows bone and gas by their HU."""
    from LNSynthLib.masks.labels import LabelTable

    return LabelTable.load("abdomen17")


def tissue_name(value: int) -> str:
    """What people call a value of `Surroundings.tissue`."""
    special = {BONE: _("bone or contrast"), GAS: _("air or gas"), OUTSIDE: _("the outside of the patient")}
    return special.get(int(value)) or structure(int(value)).name.replace("_", " ")


def _nodes_in(segmentation, ct, box: Box, without):
    """(instances without one node, their segment ids, all instances) in a box."""
    shape = extent(box)
    nodes, ids, whole = np.zeros(shape, np.uint16), [], np.zeros(shape, np.uint16)
    for number, segment_id in enumerate(node_ids(segmentation), start=1):
        start, mask = node_crop(segmentation, segment_id, ct)
        here = [slice(max(s, b.start), min(s + n, b.stop)) for s, n, b in zip(start, mask.shape, box, strict=True)]
        if any(h.start >= h.stop for h in here):
            continue
        inside = mask[tuple(slice(h.start - s, h.stop - s) for h, s in zip(here, start, strict=True))]
        target = within(here, box)
        whole[target][inside] = number
        if segment_id != without:
            ids.append(segment_id)
            nodes[target][inside] = len(ids)
    return nodes, tuple(ids), whole


def _patient(ct, box: Box) -> np.ndarray:
    """True in the patient, with a margin of a coarse voxel, in a box of the CT: without the table and its sheets."""
    coarse, step = _coarse_patient(ct)
    index = [np.minimum(np.arange(b.start, b.stop) // s, n - 1)
             for b, s, n in zip(box, step, coarse.shape, strict=True)]
    return coarse[np.ix_(*index)]


def _coarse_patient(ct) -> tuple[np.ndarray, tuple[int, int, int]]:
    image = ct.GetImageData()
    state = (image.GetAddressAsString("vtkImageData"), image.GetMTime(), shape_of(ct))
    if state not in _patients:
        from scipy import ndimage

        from LNSynthLib.images.volume import Volume, canonical
        from LNSynthLib.masks.body import body_mask

        whole = volume_of(ct)
        step = tuple(max(1, round(COARSE_MM / mm)) for mm in whole.spacing)
        affine = whole.affine.copy()
        affine[:3, :3] *= step
        few = Volume(whole.array[tuple(slice(s // 2, None, s) for s in step)], affine)
        upright = canonical(few)
        try:
            body = body_mask(upright.array, upright.spacing)
        except LNSynthError:  # no trunk in view: then nothing is known to be outside
            body = np.ones(upright.shape, bool)
        body = ndimage.binary_dilation(body, np.ones((3, 3, 3), bool))
        _patients.clear()
        _patients[state] = _reoriented(body, few.affine), step
    return _patients[state]


def _reoriented(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A canonical array in the axes of `affine`."""
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    canonical = np.array([[0, 1], [1, 1], [2, 1]])
    return np.ascontiguousarray(apply_orientation(array, ornt_transform(canonical, io_orientation(affine))))
