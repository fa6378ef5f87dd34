"""The compare layout in real MRML: what is shown where, links, blending, equal windows, and the way back."""

import xml.etree.ElementTree as ElementTree

import mrml
import numpy as np
import pytest
import slicer
from LNSynthLogic import compare_layout, node_table, segments
from LNSynthLogic.synthetic import mark_synthetic
from slices import SliceViews

from LNSynthLib.runtime.errors import LNSynthError


@pytest.fixture
def shown(scene):
    """(views, source CT, synthetic CT, nodes of the source, nodes of the synthetic CT) in the compare layout."""
    return show(scene)


def show(scene):
    views = SliceViews(scene)
    ct = mrml.add_ct(scene)
    changed = mrml.phantom().ct.array.copy()
    changed[mrml.phantom().nodes.array > 0] = -100
    synthetic = mrml.add_ct(scene, changed, mrml.phantom().ct.affine, "sample-001")
    mark_synthetic(synthetic, {})
    nodes = mrml.add_nodes(scene, ct)
    mask = np.zeros(changed.shape, np.uint16)
    mask[40:46, 30:36, 20:24] = 1
    synthetic_nodes = mrml.add_nodes(scene, synthetic, mask, name="New nodes")
    compare_layout.open_layout(scene)
    compare_layout.show(scene, ct, synthetic, nodes, synthetic_nodes)
    return views, ct, synthetic, nodes, synthetic_nodes


def composites(scene, names):
    return [compare_layout.composite_node(scene, name) for name in names]


def test_the_layout_is_slicers_language_and_makes_four_linked_views(scene):
    root = ElementTree.fromstring(compare_layout.layout_xml())
    assert [view.get("singletontag") for view in root.iter("view")] == [
        compare_layout.REAL[0], compare_layout.SYNTHETIC[0], compare_layout.REAL[1], compare_layout.SYNTHETIC[1]]
    views = SliceViews(scene)
    assert compare_layout.slice_node(scene, compare_layout.REAL[0]) is None and not compare_layout.is_open(scene)
    compare_layout.open_layout(scene)
    assert compare_layout.is_open(scene)
    for name in compare_layout.VIEWS:
        node = compare_layout.slice_node(scene, name)
        assert node.GetLayoutName() == name and node.GetViewGroup() == compare_layout.GROUP
        assert node.GetOrientation() == ("Axial" if name.endswith("Axial") else "Coronal")
    seen = views.layout.GetViewNodes()
    assert [seen.GetItemAsObject(i).GetLayoutName() for i in range(seen.GetNumberOfItems())] == [
        view.get("singletontag") for view in root.iter("view")]
    red = scene.GetNodeByID("vtkMRMLSliceNodeRed")
    assert red.GetViewGroup() != compare_layout.GROUP
    compare_layout.register(views.layout_node)  # again, as a reloaded module does
    assert compare_layout.is_open(scene)


def test_each_side_shows_its_ct_and_its_nodes_and_nothing_else(shown, scene):
    views, ct, synthetic, nodes, synthetic_nodes = shown
    for composite in composites(scene, compare_layout.REAL):
        assert composite.GetBackgroundVolumeID() == ct.GetID() and composite.GetForegroundVolumeID() is None
    for composite in composites(scene, compare_layout.SYNTHETIC):
        assert composite.GetBackgroundVolumeID() == ct.GetID()
        assert composite.GetForegroundVolumeID() == synthetic.GetID() and composite.GetForegroundOpacity() == 1
    for composite in composites(scene, compare_layout.VIEWS):
        assert composite.GetLinkedControl() and composite.GetLabelVolumeID() is None
        assert views.view(composite.GetLayoutName()).composite is composite  # the view's own logic takes the same one
    for segmentation, names in ((nodes, compare_layout.REAL), (synthetic_nodes, compare_layout.SYNTHETIC)):
        display = segmentation.GetDisplayNode()
        for name in (*compare_layout.VIEWS, "Red"):
            assert display.IsDisplayableInView(f"vtkMRMLSliceNode{name}") == (name in names)
        assert display.GetVisibility2DOutline() and not display.GetVisibility2DFill()


def test_other_segmentations_stay_out_until_the_layout_is_closed(scene):
    views = SliceViews(scene)
    ct, synthetic = mrml.add_ct(scene), mrml.add_ct(scene, name="synthetic")
    hidden, other, picky = (mrml.add_nodes(scene, ct, name=name) for name in ("hidden", "other", "picky"))
    hidden.GetDisplayNode().SetVisibility(False)
    other.GetDisplayNode().SetVisibility2DOutline(False)
    picky.GetDisplayNode().SetViewNodeIDs(["vtkMRMLSliceNodeRed"])
    before = [looks(node) for node in (hidden, other, picky)]
    compare_layout.open_layout(scene)
    for _ in range(2):  # shown twice, still the first state comes back
        compare_layout.show(scene, ct, synthetic, hidden, None)
    assert hidden.GetDisplayNode().GetVisibility()
    for node in (other, picky):
        assert not any(node.GetDisplayNode().IsDisplayableInView(views.view(name).node.GetID())
                       for name in compare_layout.VIEWS)
        assert node.GetDisplayNode().IsDisplayableInView("vtkMRMLSliceNodeRed")
    compare_layout.show(scene, ct, synthetic, other, None)
    assert looks(hidden)["visible"] == 0 and looks(other)["outline"] == 1
    compare_layout.close_layout(scene)
    assert [looks(node) for node in (hidden, other, picky)] == before


def looks(segmentation) -> dict:
    display = segmentation.GetDisplayNode()
    return {"views": list(display.GetViewNodeIDs()), "visible": display.GetVisibility(),
            "fill": display.GetVisibility2DFill(), "outline": display.GetVisibility2DOutline()}


def test_the_layout_that_was_there_comes_back(scene):
    views = SliceViews(scene)
    views.layout_node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpGreenSliceView)
    for _ in range(2):  # opened twice, the compare layout is not taken for what was before
        compare_layout.open_layout(scene)
    compare_layout.close_layout(scene)
    assert views.layout_node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpGreenSliceView
    views.layout_node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    compare_layout.close_layout(scene)  # not open: nothing to do
    assert views.layout_node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


def test_a_layout_chosen_by_hand_stays_and_outlines_are_put_back(shown, scene):
    views, ct, synthetic, nodes, _ = shown
    assert compare_layout.compared(scene) == (ct, synthetic) and not compare_layout.was_left(scene)
    views.layout_node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    assert compare_layout.was_left(scene) and not nodes.GetDisplayNode().IsDisplayableInView("vtkMRMLSliceNodeRed")
    compare_layout.close_layout(scene)
    assert not compare_layout.was_left(scene) and nodes.GetDisplayNode().IsDisplayableInView("vtkMRMLSliceNodeRed")
    assert views.layout_node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    assert looks(nodes)["fill"] == 1


def test_a_view_that_was_maximised_hides_no_layout(shown, scene):
    views, *_ = shown
    views.layout_node.AddMaximizedViewNode(compare_layout.slice_node(scene, compare_layout.REAL[0]))
    compare_layout.close_layout(scene)
    assert views.layout_node.GetNumberOfMaximizedViewNodes() == 0
    views.layout_node.AddMaximizedViewNode(scene.GetNodeByID("vtkMRMLSliceNodeRed"))
    compare_layout.open_layout(scene)
    assert views.layout_node.GetNumberOfMaximizedViewNodes() == 0


def test_a_saved_scene_opens_in_the_layout_and_still_finds_the_way_back(tmp_path, scene):
    show(scene)
    compare_layout.set_blend(scene, 30)
    path = tmp_path / "scene.mrml"
    scene.SetURL(str(path))
    assert scene.Commit()
    restored = mrml.new_scene()
    views = SliceViews(restored)
    compare_layout.register(views.layout_node)
    restored.SetURL(str(path))
    restored.Import()
    assert compare_layout.is_open(restored)
    assert compare_layout.blend(restored) == pytest.approx(30)
    node = compare_layout.slice_node(restored, compare_layout.SYNTHETIC[1])
    assert node.GetOrientation() == "Coronal" and node.GetViewGroup() == compare_layout.GROUP
    nodes = restored.GetFirstNodeByName("Nodes")
    assert nodes.GetDisplayNode().IsDisplayableInView(f"vtkMRMLSliceNode{compare_layout.REAL[0]}")
    compare_layout.close_layout(restored)
    assert views.layout_node.GetViewArrangement() == 0  # as it was: none had been chosen
    assert nodes.GetDisplayNode().GetViewNodeIDs() == () and nodes.GetDisplayNode().GetVisibility2DFill()


def test_blending_is_the_opacity_of_the_synthetic_ct_on_the_right(shown, scene):
    for percent in (0, 25, 100, 250, -3):
        compare_layout.set_blend(scene, percent)
        assert compare_layout.blend(scene) == pytest.approx(min(max(percent, 0), 100))
        assert [c.GetForegroundOpacity() for c in composites(scene, compare_layout.SYNTHETIC)] == [
            pytest.approx(compare_layout.blend(scene) / 100)] * 2
        assert all(c.GetForegroundVolumeID() is None for c in composites(scene, compare_layout.REAL))
    assert [compare_layout.flicker(p) for p in (100, 60, 50, 0)] == [0, 0, 100, 100]


def test_without_a_source_ct_the_synthetic_one_is_on_both_sides(shown, scene):
    _, _, synthetic, nodes, synthetic_nodes = shown
    compare_layout.show(scene, None, synthetic, nodes, synthetic_nodes, blend=40)
    assert all(c.GetBackgroundVolumeID() == synthetic.GetID() and c.GetForegroundVolumeID() is None
               for c in composites(scene, compare_layout.VIEWS))
    left = [f"vtkMRMLSliceNode{name}" for name in compare_layout.REAL]
    assert not any(node.GetDisplayNode().IsDisplayableInView(view) for node in (nodes, synthetic_nodes)
                   for view in left)
    compare_layout.set_blend(scene, 0)  # nothing to blend with
    assert compare_layout.blend(scene) == 100
    assert compare_layout.compared(scene) == (None, synthetic)
    assert [compare_layout.banner_text(scene, name) for name in compare_layout.VIEWS] == [("SYNTHETIC", True)] * 4


def test_what_a_user_does_in_one_view_is_done_in_its_twin(shown, scene):
    """Through Slicer's own link logic, as the slider of a slice view does it."""
    views, ct, *_ = shown
    logics = [views.view(name, (240, 180)).logic for name in compare_layout.VIEWS]
    compare_layout.frame(logics, ct)
    scales = {logic.GetSliceNode().GetFieldOfView()[0] / 240 for logic in logics}
    assert len(scales) == 1
    compare_layout.frame(logics, ct, most_mm=60)
    assert {logic.GetSliceNode().GetFieldOfView()[:2] for logic in logics} == {(60, 45)}
    compare_layout.frame(logics, ct, most_mm=1e6)
    assert {logic.GetSliceNode().GetFieldOfView()[0] / 240 for logic in logics} == scales
    a, b = (views.view(side[0]).logic for side in (compare_layout.REAL, compare_layout.SYNTHETIC))
    c, d = (views.view(side[1]).logic for side in (compare_layout.REAL, compare_layout.SYNTHETIC))
    red = scene.GetNodeByID("vtkMRMLSliceNodeRed")
    before = red.GetSliceOffset(), c.GetSliceOffset()
    b.StartSliceOffsetInteraction()
    b.SetSliceOffset(a.GetSliceOffset() + 12)
    b.EndSliceOffsetInteraction()
    assert a.GetSliceOffset() == b.GetSliceOffset()
    assert (red.GetSliceOffset(), c.GetSliceOffset()) == before
    d.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.FieldOfViewFlag)
    d.GetSliceNode().SetFieldOfView(120, 90, 1)
    d.EndSliceNodeInteraction()
    assert {logic.GetSliceNode().GetFieldOfView()[0] for logic in logics} == {120}


def test_a_jump_brings_a_node_into_the_middle_of_every_view(shown, scene):
    views, ct, synthetic, nodes, _ = shown
    compare_layout.frame([views.view(name, (240, 180)).logic for name in compare_layout.VIEWS], ct)
    for segment_id in segments.node_ids(nodes):
        point = compare_layout.center_of(nodes, segment_id, ct)
        index = np.rint(np.linalg.inv(mrml.phantom().ct.affine) @ [*point, 1])[:3].astype(int)
        start, mask = segments.node_crop(nodes, segment_id, ct)
        assert mask[tuple(index - start)]  # in the node itself, however it is bent
        node_table.jump(scene, point)
        for name in compare_layout.VIEWS:
            view = views.view(name)
            row, column = view.pixel(point)
            assert abs(row - 90) <= 1 and abs(column - 120) <= 1
            normal = 2 if name.endswith("Axial") else 1
            assert view.logic.GetSliceOffset() == pytest.approx(point[normal])


def test_a_node_under_a_transform_is_found_where_it_is_seen(scene):
    ct = mrml.add_ct(scene)
    mrml.move(ct, mrml.add_transform(scene, mrml.rigid()))
    nodes = mrml.add_nodes(scene, ct)
    first = segments.node_ids(nodes)[0]
    there = compare_layout.center_of(nodes, first, ct)
    mrml.move(ct, None)
    mrml.move(nodes, None)
    here = compare_layout.center_of(nodes, first, ct)
    assert np.allclose((mrml.rigid() @ [*here, 1])[:3], there)
    segments.remove_node(nodes, first)
    with pytest.raises(LNSynthError, match="no segment"):
        compare_layout.center_of(nodes, first, ct)


def window(volume):
    display = volume.GetDisplayNode()
    return display.GetWindow(), display.GetLevel()


def test_window_and_level_are_kept_equal_both_ways_until_closed(scene):
    ct, synthetic = mrml.add_ct(scene), mrml.add_ct(scene, mrml.phantom().ct.array // 2, name="synthetic")
    ct.GetDisplayNode().SetAutoWindowLevel(False)
    ct.GetDisplayNode().SetWindowLevel(360, 60)
    changes = []
    for volume in (ct, synthetic):
        volume.AddObserver(slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent,
                           lambda caller, event: changes.append(caller))
    equal = compare_layout.EqualWindows(ct, synthetic)
    assert window(synthetic) == (360, 60)
    changes.clear()
    for volume, wanted in ((synthetic, (1500, -600)), (ct, (80, 40)), (synthetic, (81, 40))):
        volume.GetDisplayNode().SetWindowLevel(*wanted)
        assert window(ct) == window(synthetic) == wanted
    assert len(changes) <= 12  # each change is passed on once, not to and fro
    ct.GetDisplayNode().SetAutoWindowLevel(True)
    assert window(ct) == window(synthetic) and not synthetic.GetDisplayNode().GetAutoWindowLevel()
    ct.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    equal.close()
    ct.GetDisplayNode().SetAutoWindowLevel(False)
    ct.GetDisplayNode().SetWindowLevel(10, 10)
    assert window(synthetic) != (10, 10)


def test_equal_windows_follow_a_new_display_node(scene):
    ct, synthetic = mrml.add_ct(scene), mrml.add_ct(scene, name="synthetic")
    compare_layout.EqualWindows(ct, synthetic)
    display = scene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(123, 45)
    ct.SetAndObserveDisplayNodeID(display.GetID())
    display.SetWindowLevel(124, 46)
    assert window(synthetic) == (124, 46)


def test_what_cannot_be_compared_is_said(scene):
    ct, synthetic = mrml.add_ct(scene), mrml.add_ct(scene, name="synthetic")
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    assert compare_layout.what_is_missing(ct, synthetic) == "" == compare_layout.what_is_missing(None, synthetic)
    assert "Choose a synthetic" in compare_layout.what_is_missing(ct, None)
    assert "same volume" in compare_layout.what_is_missing(ct, ct)
    assert "no voxels" in compare_layout.what_is_missing(ct, empty)
