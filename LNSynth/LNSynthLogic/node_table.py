"""The table of nodes: size and nearest organ of each, measured on crops, and only where something has changed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from LNSynthLib.images.boxes import box_at

from . import anatomy as organs
from . import nodes_in_ct
from .grids import affine_of, ct_in, shape_of, to_world
from .segments import BINARY, need_labelmap, node_crop, node_ids
from .terminology import structure
from .words import _

NEAR_MM, FAR_MM = 10.0, 40.0  # an organ is looked for this far around a node: exactly, then on every other voxel or so
COARSE_MM = 2.0
ORGANS = (*range(1, 25), *range(51, 69))  # TotalSegmentator's organs and vessels; bones and muscles are poor landmarks


@dataclass(frozen=True)
class Row:
    """One node. Measures are None until they are known, `nearest` is empty where no organ is known within 40 mm."""

    segment_id: str
    name: str
    color: tuple[float, float, float]     # RGB 0..1
    in_ct: bool | None                    # False: it is new; None: not compared yet
    volume_ml: float | None = None
    short_axis_mm: float | None = None    # as in RECIST 1.1
    nearest: str = ""
    distance_mm: float | None = None      # between voxel centres; beyond NEAR_MM to about 2 mm
    center_mm: tuple[float, float, float] | None = None  # world RAS

    def texts(self) -> tuple[str, str, str, str, str]:
        """What stands in the table's columns: node, volume, short axis, nearest organ, in the CT."""
        number = _("{number:.1f}")
        organ = _("{organ}, {mm:.0f} mm").format(organ=self.nearest, mm=self.distance_mm) if self.nearest else ""
        return (self.name, "" if self.volume_ml is None else _("{number:.2f}").format(number=self.volume_ml),
                "" if self.short_axis_mm is None else number.format(number=self.short_axis_mm), organ,
                {True: _("yes"), False: _("new"), None: ""}[self.in_ct])


class NodeTable:
    """Remembers what was measured, by the state of each segment and of the anatomy."""

    def __init__(self):
        self._sizes: dict[str, tuple] = {}     # segment id -> (place, start, mask, measures)
        self._nearest: dict[str, tuple] = {}   # segment id -> (mask, state of the anatomy, organ and distance)
        self._in_ct: tuple = (None, {})        # (state, crops) of the nodes in the CT

    def forget(self) -> None:
        self._sizes.clear()
        self._nearest.clear()
        self._in_ct = (None, {})

    def rows(self, segmentation, ct, anatomy) -> list[Row]:
        """A row for each segment, with the measures that are known: after a change the last ones, until `measure`."""
        found, kept = [], nodes_in_ct.kept_of(segmentation)
        place = _place(segmentation, ct) if ct is not None else None
        organs_state = state_of(anatomy, ct) if ct is not None else None
        compared = kept is not None and ct is not None and self._in_ct[0] == state_of(kept, ct)
        for segment_id in node_ids(segmentation):
            segment = segmentation.GetSegmentation().GetSegment(segment_id)
            measures, in_ct = {}, False if kept is None else None
            known = self._sizes.get(segment_id)
            if place is not None and known and known[0][1:] == place[1:]:
                measures = dict(known[3])
                if compared:
                    in_ct = nodes_in_ct.is_among(known[1:3], self._in_ct[1])
                organ = self._nearest.get(segment_id)
                if organ and organ[0] is known[2] and organ[1] == organs_state and organ[2]:
                    measures.update(nearest=organ[2][0], distance_mm=organ[2][1])
            found.append(Row(segment_id, segment.GetName(), tuple(segment.GetColor()),
                             in_ct, **measures))
        return found

    def measure(self, segmentation, ct, anatomy, budget_s: float = 0.1) -> bool:
        """Measures what has changed since the last time, for about `budget_s`; True when nothing is left to do."""
        end = time.perf_counter() + budget_s
        ids = node_ids(segmentation)
        for known in (self._sizes, self._nearest):
            for gone in set(known) - set(ids):
                del known[gone]
        if ids:
            need_labelmap(segmentation)
        place, kept = _place(segmentation, ct), nodes_in_ct.kept_of(segmentation)
        if kept is not None and self._in_ct[0] != (now := state_of(kept, ct)):
            self._in_ct = now, nodes_in_ct.crops(kept, ct)
        for segment_id in ids:
            if self._size(segmentation, segment_id, ct, place) and time.perf_counter() > end:
                return False
        if anatomy is None:
            return True
        state = state_of(anatomy, ct)
        for segment_id in ids:
            _, start, mask, measures = self._sizes[segment_id]
            known = self._nearest.get(segment_id)
            if not measures or (known and known[0] is mask and known[1] == state):
                continue
            self._nearest[segment_id] = mask, state, nearest_organ(anatomy, ct, start, mask)
            if time.perf_counter() > end:
                return False
        return True

    def _size(self, segmentation, segment_id, ct, place) -> bool:
        """Measures one node where it has changed; True where that was work."""
        known = self._sizes.get(segment_id)
        if known and known[0] == place:
            return False
        start, mask = node_crop(segmentation, segment_id, ct)
        if known and known[0][1:] == place[1:] and known[1] == start and np.array_equal(known[2], mask):
            self._sizes[segment_id] = place, *known[1:]  # another node has changed, this one has not
        else:
            self._sizes[segment_id] = place, start, mask, _measure(ct, start, mask)
        return True


def nearest_organ(anatomy, ct, start, mask: np.ndarray) -> tuple[str, float] | None:
    """(name, mm) of the organ or vessel nearest to a node (a crop on the CT's grid), None without one within FAR_MM."""
    from scipy import ndimage

    from LNSynthLib.images.boxes import grow

    spacing = np.linalg.norm(affine_of(ct)[:3, :3], axis=0)
    inside = box_at(start, mask.shape)
    voxels = np.argwhere(mask) + start
    for reach, coarse in ((NEAR_MM, 0.0), (FAR_MM, COARSE_MM)):
        step = np.maximum(1, np.floor(coarse / spacing)).astype(int)
        box = grow(inside, reach, spacing, shape_of(ct))
        labels = organs.labels(anatomy, ct, box)[tuple(slice(None, None, s) for s in step)]
        organ = np.isin(labels, ORGANS)
        if not organ.any():
            continue
        outside = np.ones(labels.shape, bool)
        outside[tuple(np.minimum((voxels - [b.start for b in box]) // step, np.array(labels.shape) - 1).T)] = False
        distance = np.where(organ, ndimage.distance_transform_edt(outside, sampling=spacing * step), np.inf)
        at = np.unravel_index(int(distance.argmin()), distance.shape)
        if distance[at] <= reach:
            return structure(int(labels[at])).name.replace("_", " "), float(distance[at])
    return None


def jump(scene, point_mm) -> None:
    """All slice views and 3D cameras centred on a point (world RAS mm); cameras keep their direction and distance."""
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")):
        scene.GetNthNodeByClass(index, "vtkMRMLSliceNode").JumpSliceByCentering(*(float(mm) for mm in point_mm))
    cameras = scene.GetNodesByClass("vtkMRMLCameraNode")
    cameras.UnRegister(None)
    for index in range(cameras.GetNumberOfItems()):
        camera = cameras.GetItemAsObject(index)
        position = np.add(camera.GetPosition(), np.subtract(point_mm, camera.GetFocalPoint()))
        camera.SetFocalPoint(*point_mm)
        camera.SetPosition(*position)


def missing(ct, nodes) -> str:
    """What has to be chosen before nodes can be edited, in words; empty where nothing is."""
    if ct is None:
        return _("Choose a CT first (Input).")
    if nodes is None:
        return _("Choose or make a node segmentation first (Input).")
    return ""


def _measure(ct, start, mask: np.ndarray) -> dict:
    """The measures of a row, empty for a node without voxels in the CT."""
    from LNSynthLib.masks.nodes import axes_mm

    if not mask.any():
        return {}
    affine = affine_of(ct)
    place = to_world(ct) @ affine
    center = place[:3, :3] @ (np.argwhere(mask).mean(0) + start) + place[:3, 3]
    measures = {"volume_ml": float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000),
                "center_mm": tuple(float(v) for v in center)}
    axial = int(np.argmax(np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)))
    return {**measures, "short_axis_mm": axes_mm(mask, affine[:3, :3], axial)[1]}


def _place(segmentation, ct) -> tuple:
    """What the crops of all nodes depend on: when a segment changed last, and how the grids lie."""
    return (_changed(segmentation.GetSegmentation()), shape_of(ct), ct_in(segmentation, ct).tobytes(),
            (to_world(ct) @ affine_of(ct)).tobytes())


def state_of(segmentation, ct) -> tuple | None:
    """Another one after each change of a segmentation or of where it lies in the CT; None for None.

    vtkSegmentation's own time stamp stays as it is when a segment is drawn on. Raises LNSynthError for a warp.
    """
    if segmentation is None:
        return None
    inner = segmentation.GetSegmentation()
    return segmentation.GetID(), inner.GetNumberOfSegments(), _changed(inner), ct_in(segmentation, ct).tobytes()


def _changed(inner) -> int:
    """When any segment of a segmentation or its labelmap changed last: a time stamp that VTK gives once only."""
    stamps = [0]
    for segment_id in inner.GetSegmentIDs():
        segment = inner.GetSegment(segment_id)
        image = segment.GetRepresentation(BINARY)
        stamps += [segment.GetMTime(), 0 if image is None else image.GetMTime()]
    return max(stamps)
