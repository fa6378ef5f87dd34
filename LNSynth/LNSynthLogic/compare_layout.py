"""The compare layout: source CT left, synthetic CT right, each with its nodes as outlines, same slice and same window.

What it changes in the scene is written down in the scene (attributes of the layout and display nodes), so that
`close_layout` restores it even after the scene was saved and opened again.
"""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import slicer
import vtk

from LNSynthLib.runtime.errors import LNSynthError

from .words import _

LAYOUT = 7203  # number of the layout; Slicer's own, and what users add by hand, lie far below
GROUP = 7203   # view group: the slice links reach these views and no others
REAL = ("LNSynthSourceAxial", "LNSynthSourceCoronal")
SYNTHETIC = ("LNSynthSyntheticAxial", "LNSynthSyntheticCoronal")
VIEWS = REAL + SYNTHETIC

LAYOUT_BEFORE, DISPLAY_BEFORE = "LNSynth.LayoutBefore", "LNSynth.DisplayBefore"


def layout_xml() -> str:
    """The layout in Slicer's layout language: axial views above, coronal ones, smaller, below."""
    def view(name, orientation, label, color):
        return (f'<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
                f'<property name="orientation" action="default">{orientation}</property>'
                f'<property name="viewlabel" action="default">{label}</property>'
                f'<property name="viewcolor" action="default">{color}</property>'
                f'<property name="viewgroup">{GROUP}</property></view></item>')

    def row(index, orientation, size):
        return (f'<item splitSize="{size}"><layout type="horizontal">'
                f'{view(REAL[index], orientation, "CT", "#8C8C8C")}'
                f'{view(SYNTHETIC[index], orientation, "SYN", "#E0873C")}</layout></item>')

    return f'<layout type="vertical" split="true">{row(0, "Axial", 600)}{row(1, "Coronal", 400)}</layout>'


def register(layout_node) -> None:
    """Makes the layout known. To be called at startup, since scenes that were saved in it name it by number only."""
    if layout_node.IsLayoutDescription(LAYOUT):
        layout_node.SetLayoutDescription(LAYOUT, layout_xml())
    else:
        layout_node.AddLayoutDescription(LAYOUT, layout_xml())


def layout_node(scene):
    return scene.GetFirstNodeByClass("vtkMRMLLayoutNode")


def is_open(scene) -> bool:
    node = layout_node(scene)
    return node is not None and node.GetViewArrangement() == LAYOUT


def open_layout(scene) -> None:
    """Switches to the compare layout and remembers the one that was there."""
    node = layout_node(scene)
    register(node)
    if node.GetViewArrangement() != LAYOUT:
        node.SetAttribute(LAYOUT_BEFORE, str(node.GetViewArrangement()))
        node.RemoveAllMaximizedViewNodes()  # a double click on a view, which would hide all others
        node.SetViewArrangement(LAYOUT)


def close_layout(scene) -> None:
    """The layout that was there before, and all segmentations shown as they were.

    Where another layout was chosen meanwhile it stays, and only the segmentations are put back.
    """
    _restore_displays(scene)
    node = layout_node(scene)
    if node is None:
        return
    said = node.GetAttribute(LAYOUT_BEFORE) or ""
    before = int(said) if said.isdecimal() else slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    node.RemoveAttribute(LAYOUT_BEFORE)
    if node.GetViewArrangement() == LAYOUT:
        node.RemoveAllMaximizedViewNodes()
        node.SetViewArrangement(before if node.IsLayoutDescription(before)
                                else slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def was_left(scene) -> bool:
    """Whether another layout was chosen while this one was open: `close_layout` has something to put back."""
    node = layout_node(scene)
    return node is not None and node.GetViewArrangement() != LAYOUT and node.GetAttribute(LAYOUT_BEFORE) is not None


def compared(scene) -> tuple:
    """(source CT or None, synthetic CT or None): what the open layout shows."""
    composite = composite_node(scene, SYNTHETIC[0])
    below, above = (scene.GetNodeByID(volume_id or "") for volume_id in (
        composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()))
    return (below, above) if above is not None else (None, below)


def what_is_missing(real, synthetic) -> str:
    """Why two volumes (nodes or None) cannot be compared; empty when they can. `real` may be absent: see `show`."""
    if synthetic is None:
        return _("Choose a synthetic CT to compare.")
    if synthetic is real:
        return _("The synthetic CT and the source CT are the same volume: choose two.")
    if synthetic.GetImageData() is None:
        return _("The synthetic CT has no voxels yet.")
    return ""


def show(scene, real, synthetic, real_nodes=None, synthetic_nodes=None, blend: float = 100.0) -> None:
    """Puts two volumes and their node segmentations into the views of the compare layout, which must be open.

    real             the CT that the synthetic one was made from; None: the synthetic CT is on both sides, on the left
                     without outlines
    real_nodes, synthetic_nodes   segmentations whose outlines are drawn on the left and on the right
    blend            percent of the synthetic CT on the right
    Every other segmentation stays out of these views, until `close_layout`.
    """
    _restore_displays(scene)
    for name in VIEWS:
        composite = composite_node(scene, name)
        left = name in REAL or real is None
        composite.SetBackgroundVolumeID((real or synthetic).GetID())
        composite.SetForegroundVolumeID(None if left else synthetic.GetID())
        composite.SetLabelVolumeID(None)
        composite.SetForegroundOpacity(0.0 if left else _share(blend))
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)
    wanted = {}
    for segmentation, names in ((real_nodes if real is not None else None, REAL), (synthetic_nodes, SYNTHETIC)):
        if segmentation is not None:
            wanted.setdefault(segmentation, []).extend(names)
    others = [node.GetID() for node in _nodes(scene, "vtkMRMLAbstractViewNode") if node.GetLayoutName() not in VIEWS]
    for segmentation in _nodes(scene, "vtkMRMLSegmentationNode"):
        display = segmentation.GetDisplayNode()
        if segmentation in wanted:
            if display is None:
                segmentation.CreateDefaultDisplayNodes()
                display = segmentation.GetDisplayNode()
            _outline(display, [slice_node(scene, name).GetID() for name in wanted[segmentation]])
        elif display is not None and (not display.GetViewNodeIDs()
                                      or any(f"vtkMRMLSliceNode{name}" in display.GetViewNodeIDs() for name in VIEWS)):
            with slicer.util.NodeModify(display):  # one redraw, not one for each change
                _remember(display)
                display.SetViewNodeIDs(others)


def slice_node(scene, name: str):
    return scene.GetNodeByID(f"vtkMRMLSliceNode{name}")


def composite_node(scene, name: str):
    """What a slice view shows, made here where the view itself has not come to it yet."""
    for node in _nodes(scene, "vtkMRMLSliceCompositeNode"):
        if node.GetLayoutName() == name:
            return node
    node = scene.CreateNodeByClass("vtkMRMLSliceCompositeNode")
    node.UnRegister(None)  # the scene keeps it
    node.SetLayoutName(name)
    return scene.AddNode(node)


def set_blend(scene, percent: float) -> None:
    """How much of the synthetic CT is seen on the right: 0 the source CT alone, 100 the synthetic CT alone."""
    for name in SYNTHETIC:
        composite = composite_node(scene, name)
        if composite.GetForegroundVolumeID():
            composite.SetForegroundOpacity(_share(percent))


def blend(scene) -> float:
    """Percent of the synthetic CT on the right, also where it was changed in Slicer's own controls."""
    composite = composite_node(scene, SYNTHETIC[0])
    return 100.0 * composite.GetForegroundOpacity() if composite.GetForegroundVolumeID() else 100.0


def flicker(percent: float) -> float:
    """The other end of the blend: all source where the synthetic CT prevails, else all synthetic."""
    return 0.0 if percent > 50 else 100.0


def frame(logics, volume, most_mm: float = np.inf) -> None:
    """Fits every view to a volume, all with the same scale (mm a pixel), the widest showing at most `most_mm` mm.

    logics: vtkMRMLSliceLogic of the views
    """
    scales = []
    for logic in logics:
        node = logic.GetSliceNode()
        node.SetOrientationToDefault()
        width, height = node.GetDimensions()[:2]
        logic.FitSliceToVolume(volume, width, height)
        scales.append(node.GetFieldOfView()[0] / width)
    scale = min(max(scales), most_mm / max(logic.GetSliceNode().GetDimensions()[0] for logic in logics))
    for logic in logics:
        node = logic.GetSliceNode()
        width, height = node.GetDimensions()[:2]
        node.SetFieldOfView(scale * width, scale * height, node.GetFieldOfView()[2])


def center_of(segmentation, segment_id: str, volume) -> tuple[float, float, float]:
    """RAS (mm, world) of the voxel of a segment that lies nearest to its middle.

    volume: what the segmentation was drawn on. Raises LNSynthError for a segment that is gone or without voxels there.
    """
    from .grids import affine_of, to_world
    from .segments import node_crop

    start, mask = node_crop(segmentation, segment_id, volume)
    voxels = np.argwhere(mask)
    if not len(voxels):
        raise LNSynthError(_("This node has no voxel in {name}.").format(name=volume.GetName()))
    steps = affine_of(volume)[:3, :3]
    nearest = voxels[np.linalg.norm((voxels - voxels.mean(0)) @ steps.T, axis=1).argmin()] + start
    return tuple(float(v) for v in (to_world(volume) @ affine_of(volume) @ [*nearest, 1.0])[:3])


class EqualWindows:
    """Keeps window and level of two volumes equal, whichever is changed, from now until `close`."""

    def __init__(self, first, second):
        """second begins with first's."""
        self._volumes = (first, second)
        self._copying = False
        self._tags = [(volume, volume.AddObserver(slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent, self._changed))
                      for volume in self._volumes]
        self._changed(first, None)

    def close(self) -> None:
        for volume, tag in self._tags:
            volume.RemoveObserver(tag)
        self._tags = []

    def _changed(self, volume, event) -> None:
        source = volume.GetDisplayNode()
        other = self._volumes[volume is self._volumes[0]]
        target = other.GetDisplayNode()
        if self._copying or source is None or target is None:
            return
        wanted = (source.GetWindow(), source.GetLevel())
        if not target.GetAutoWindowLevel() and (target.GetWindow(), target.GetLevel()) == wanted:
            return
        self._copying = True  # the copy is itself a change
        try:
            target.SetAutoWindowLevel(False)  # which follows the voxels of one volume alone
            target.SetWindowLevel(*wanted)
        finally:
            self._copying = False


class Banner:
    """Words at the top of a slice view that say which CT it shows; SYNTHETIC must not depend on Slicer's settings."""

    def __init__(self, renderer):
        self.renderer, self._actor = renderer, vtk.vtkTextActor()
        self._actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
        self._actor.SetPosition(0.5, 0.97)
        text = self._actor.GetTextProperty()
        text.SetJustificationToCentered()
        text.SetVerticalJustificationToTop()
        text.SetFontSize(16)
        text.SetBold(True)
        text.SetBackgroundColor(0, 0, 0)
        text.SetBackgroundOpacity(0.6)
        renderer.AddViewProp(self._actor)

    def show(self, text: str, synthetic: bool) -> None:
        self._actor.SetInput(text)
        self._actor.GetTextProperty().SetColor(*((1.0, 0.6, 0.2) if synthetic else (0.8, 0.8, 0.8)))

    def close(self) -> None:
        self.renderer.RemoveViewProp(self._actor)


def banner_text(scene, name: str) -> tuple[str, bool]:
    """(what the banner of a view says, whether it shows anything synthetic)."""
    from .synthetic import is_synthetic

    composite = composite_node(scene, name)
    below = scene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
    above = scene.GetNodeByID(composite.GetForegroundVolumeID() or "")
    share = round(100 * composite.GetForegroundOpacity()) if above is not None else 0
    if share and share < 100:
        return _("SYNTHETIC {percent} %").format(percent=share), True
    if share or (below is not None and is_synthetic(below)):
        return "SYNTHETIC", True
    return (_("CT: {name}").format(name=below.GetName()), False) if below is not None else ("", False)


def _share(percent: float) -> float:
    return min(max(float(percent) / 100, 0.0), 1.0)


def _nodes(scene, class_name: str) -> list:
    return [scene.GetNthNodeByClass(index, class_name)
            for index in range(scene.GetNumberOfNodesByClass(class_name))]


def _remember(display) -> None:
    display.SetAttribute(DISPLAY_BEFORE, json.dumps({
        "views": list(display.GetViewNodeIDs()), "visible": display.GetVisibility(),
        "fill": display.GetVisibility2DFill(), "outline": display.GetVisibility2DOutline()}))


def _outline(display, views: list[str]) -> None:
    with slicer.util.NodeModify(display):
        _remember(display)
        display.SetViewNodeIDs(views)
        display.SetVisibility(True)
        display.SetVisibility2DFill(False)
        display.SetVisibility2DOutline(True)


def _restore_displays(scene) -> None:
    for display in _nodes(scene, "vtkMRMLSegmentationDisplayNode"):
        if not (said := display.GetAttribute(DISPLAY_BEFORE)):
            continue
        # What a hand has changed is left as it is
        with slicer.util.NodeModify(display), suppress(ValueError, KeyError, TypeError):
            display.RemoveAttribute(DISPLAY_BEFORE)
            before = json.loads(said)
            display.SetViewNodeIDs(before["views"])
            display.SetVisibility(before["visible"])
            display.SetVisibility2DFill(before["fill"])
            display.SetVisibility2DOutline(before["outline"])
