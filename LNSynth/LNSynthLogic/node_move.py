"""One node moved by hand: handles that translate, turn and scale it, a preview, and what it would cover meanwhile.

`begin` hides the node and puts a preview under a transform with handles; `Session.apply` writes the changed node as one
undo step, `Session.cancel` leaves it as it was. Either way nothing of the session stays in the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer

from LNSynthLib.runtime.errors import LNSynthError

from . import segments
from .grids import affine_of, shape_of
from .node_edits import crop_of, name_of
from .surroundings import around
from .volumes import check_transform, place_beside, take_out
from .words import _

AROUND_MM = 15.0     # more of the surroundings than the node covers, so that not every step has to read them again
LEAST, MOST = 0.02, 50.0  # a node's volume changes by no more than these factors
MOVING = "LNSynth.Moving"  # attribute of a display node: the segment that is hidden while its preview is moved


@dataclass(frozen=True)
class Overlap:
    """What the node would cover where the handles have it; true where that is anything. Most voxels first."""

    organs: tuple[tuple[str, int], ...]  # name and voxels of each organ, bone or gas
    nodes: tuple[tuple[str, int], ...]   # name and voxels of each other node
    outside: int                         # voxels outside the patient or the CT
    voxels: int                          # of the node there

    def __bool__(self) -> bool:
        return bool(self.organs or self.nodes or self.outside)

    def text(self) -> str:
        """One line, empty where nothing is covered."""
        parts = [_("{name} ({share:.0%})").format(name=name, share=count / self.voxels)
                 for name, count in (*self.organs, *self.nodes)]
        said = [_("Covers {what}.").format(what=", ".join(parts))] if parts else []
        if self.outside:
            said.append(_("{share:.0%} lies outside the patient.").format(share=self.outside / self.voxels))
        return " ".join(said)


def begin(segmentation, segment_id: str, ct, scene, anatomy=None) -> Session:
    """Starts to move one node. Raises LNSynthError for a node without voxels and a CT under a transform that scales."""
    check_transform(ct)
    return Session(segmentation, segment_id, ct, scene, anatomy, *crop_of(segmentation, segment_id, ct))


def show_again(segmentation) -> None:
    """Shows the node that a move had hidden when the scene was saved: Slicer tells nobody before it saves."""
    display = segmentation.GetDisplayNode()
    hidden = display.GetAttribute(MOVING) if display is not None else None
    if hidden:
        if segmentation.GetSegmentation().GetSegment(hidden) is not None:
            display.SetSegmentVisibility(hidden, True)
        display.RemoveAttribute(MOVING)


class Session:
    """A node under handles, from `begin` to `apply` or `cancel`; a closed scene ends it as well (`alive` is False)."""

    def __init__(self, segmentation, segment_id, ct, scene, anatomy, start, mask):
        from LNSynthLib.masks.shapes import signed_distance

        self.segmentation, self.segment_id, self.ct = segmentation, segment_id, ct
        self.scene, self.anatomy = scene, anatomy
        self._start, self._mask, self._affine = np.array(start), mask, affine_of(ct)
        self._spacing = np.linalg.norm(self._affine[:3, :3], axis=0)
        self._distance = signed_distance(mask, self._spacing)
        self._center = self._affine[:3, :3] @ (np.argwhere(mask).mean(0) + start) + self._affine[:3, 3]
        self._place = self._seen = None
        self.transform = self._make_transform()
        self.preview = self._make_preview()
        display = segmentation.GetDisplayNode()
        if display.GetSegmentVisibility(segment_id):
            display.SetAttribute(MOVING, segment_id)
            display.SetSegmentVisibility(segment_id, False)

    @property
    def alive(self) -> bool:
        """False once the session has ended, or its nodes or the moved one have gone with their scene or by hand."""
        return (all(node is not None and node.GetScene() is not None
                    for node in (self.transform, self.preview, self.segmentation, self.ct))
                and self.segmentation.GetSegmentation().GetSegment(self.segment_id) is not None)

    def moved(self) -> tuple[np.ndarray, np.ndarray]:
        """(start, mask) on the CT's grid, where the handles have the node; it may stick out of the CT.

        Raises LNSynthError where the handles have shrunk or grown it beyond use.
        """
        from LNSynthLib.conditions.transforms import deform

        matrix = slicer.util.arrayFromTransformMatrix(self.transform)
        if self._seen is not None and np.array_equal(self._seen[0], matrix):
            return self._seen[1]
        if not LEAST <= np.linalg.det(matrix[:3, :3]) <= MOST:
            raise LNSynthError(_("The node has become too small or too large; scale it back, or cancel."))
        steps = self._affine[:3, :3] / self._spacing  # mm along the CT's axes to RAS mm
        change = {"kind": "affine", "matrix": np.linalg.solve(steps, matrix[:3, :3] @ steps),
                  "translation_mm": np.linalg.solve(steps, matrix[:3] @ [*self._center, 1.0] - self._center)}
        mask, start = deform(self._mask, self._start, self._spacing, change, self._distance)
        self._seen = matrix.copy(), (start, mask)
        return start, mask

    def overlap(self) -> Overlap:
        """What the node would cover there. Raises LNSynthError as `moved` does."""
        from LNSynthLib.images.boxes import grow

        start, mask = self.moved()
        shape = shape_of(self.ct)
        inside = tuple(slice(max(0, s), min(s + n, size)) for s, n, size in zip(start, mask.shape, shape, strict=True))
        if any(b.start >= b.stop for b in inside):
            return Overlap((), (), int(mask.sum()), int(mask.sum()))
        if self._place is None or any(b.start < p.start or b.stop > p.stop
                                      for b, p in zip(inside, self._place.box, strict=True)):
            box = grow(inside, AROUND_MM, self._spacing, shape)
            self._place = around(self.segmentation, self.ct, self.anatomy, box, without=self.segment_id)
        organs, nodes, outside = self._place.covered(start, mask)
        return Overlap(tuple(organs), tuple((name_of(self.segmentation, node), count) for node, count in nodes),
                       outside, int(mask.sum()))

    def warning(self) -> str:
        """What is wrong with the place, in words; empty where nothing is."""
        try:
            return self.overlap().text()
        except LNSynthError as error:
            return str(error)

    def apply(self, save_state) -> str:
        """Writes the node as it is now, in one undo step, and ends the session; returns what was done.

        Covering an organ is for people to decide. LNSynthError, and the session goes on, where nothing of the node is
        left in the CT or it covers another node, since no voxel can belong to two.
        """
        if not self.alive:
            self.cancel()
            raise LNSynthError(_("The node is no longer there; choose another one."))
        name = name_of(self.segmentation, self.segment_id)
        self._place = None  # nodes may have been drawn meanwhile
        covers = self.overlap()
        start, mask = self.moved()
        if covers.nodes:
            raise LNSynthError(_("{name} covers {what}; move it off, no voxel can belong to two nodes.").format(
                name=name, what=", ".join(node for node, _count in covers.nodes)))
        first = np.maximum(start, 0)
        last = np.minimum(start + mask.shape, shape_of(self.ct))
        inside = mask[tuple(slice(a, b) for a, b in zip(first - start, np.maximum(last, first) - start, strict=True))]
        if not inside.any():
            raise LNSynthError(_("{name} lies outside the CT; move it back, or cancel.").format(name=name))
        self.cancel()
        if np.array_equal(first, self._start) and np.array_equal(inside, self._mask):
            return _("{name} stays where it was.").format(name=name)
        save_state()
        segments.set_node(self.segmentation, self.segment_id, self.ct, first, inside)
        return " ".join([_("{name} changed by hand.").format(name=name), covers.text()]).strip()

    def cancel(self) -> None:
        """Ends the session: the node is shown again as it was. Does nothing where it has ended already."""
        for node in (self.preview, self.transform):
            if node is not None:
                take_out(node)
        if self.preview is not None and self.segmentation.GetScene() is not None:
            show_again(self.segmentation)
        self.preview = self.transform = self._place = None

    def _make_transform(self):
        node = _hidden_node(self.scene, "vtkMRMLLinearTransformNode", _("Move node"))
        node.SetAndObserveTransformNodeID(self.ct.GetTransformNodeID())
        node.SetCenterOfTransformation(*self._center)
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetSaveWithScene(False)
        display.SetEditorTranslationEnabled(True)
        display.SetEditorTranslationSliceEnabled(True)
        display.SetEditorRotationEnabled(True)
        display.SetEditorRotationSliceEnabled(True)
        display.SetEditorScalingEnabled(True)
        display.SetEditorScalingSliceEnabled(True)
        display.SetEditorVisibility3D(True)
        display.SetEditorSliceIntersectionVisibility(True)
        display.SetEditorVisibility(True)
        return node

    def _make_preview(self):
        node = _hidden_node(self.scene, "vtkMRMLSegmentationNode", _("Moved node"))
        place_beside(node, self.ct)  # of segments of a node without an item the subject hierarchy complains
        node.SetAndObserveTransformNodeID(self.ct.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(self.ct)
        segment_id = segments.add_node(node, self.ct, self._start, self._mask,
                                       name_of(self.segmentation, self.segment_id))
        original = self.segmentation.GetSegmentation().GetSegment(self.segment_id)
        node.GetSegmentation().GetSegment(segment_id).SetColor(original.GetColor())
        if self.segmentation.GetSegmentation().ContainsRepresentation("Closed surface"):
            node.CreateClosedSurfaceRepresentation()
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetSaveWithScene(False)
        node.SetAndObserveTransformNodeID(self.transform.GetID())
        return node


def _hidden_node(scene, class_name: str, name: str):
    """A node that no list shows and no scene file keeps."""
    node = scene.CreateNodeByClass(class_name)
    node.UnRegister(None)  # CreateNodeByClass hands over a reference
    node.SetName(name)
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    return scene.AddNode(node)
