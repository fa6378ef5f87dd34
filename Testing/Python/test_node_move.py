"""A node moved by hand, on real MRML: what the handles say is what is written, and nothing is left behind."""

import time

import mrml
import numpy as np
import pytest
from LNSynthLogic import anatomy, grids, node_move, nodes_in_ct, segments, volumes
from LNSynthLogic.node_move import Overlap
from mrml import slicer
from test_node_edits import Editor, centre, state

from LNSynthLib.conditions.transforms import deform
from LNSynthLib.runtime.errors import LNSynthError


@pytest.fixture
def case(scene):
    return make_case(scene)


def make_case(scene, transform=None):
    ct = mrml.add_ct(scene)
    if transform is not None:
        mrml.move(ct, mrml.add_transform(scene, transform))
    return ct, mrml.add_nodes(scene, ct, in_ct=True), mrml.add_anatomy(scene, ct)


def begin(case, index=1, organs=True):
    return node_move.begin(case[1], segments.node_ids(case[1])[index], case[0], case[1].GetScene(),
                             case[2] if organs else None)


def drag(session, matrix):
    """What vtkMRMLTransformHandleWidget::ApplyTransform does with a change in world coordinates."""
    node, parent = session.transform, session.transform.GetParentTransformNode()
    world = np.eye(4) if parent is None else slicer.util.arrayFromTransformMatrix(parent, toWorld=True)
    now = slicer.util.arrayFromTransformMatrix(node)
    slicer.util.updateTransformMatrixFromArray(node, np.linalg.inv(world) @ matrix @ world @ now)


def shift(x, y, z):
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def about(point, linear):
    """4x4 that applies a 3x3 about a point."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = point - linear @ point
    return matrix


def node_ids(scene):
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}


def items(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    return hierarchy.GetNumberOfItems()


def test_handles_are_shown_at_the_node_and_the_node_is_hidden(case, scene):
    session = begin(case)
    display = session.transform.GetDisplayNode()
    for part in ("Visibility", "Visibility3D", "SliceIntersectionVisibility", "TranslationEnabled", "RotationEnabled",
                 "ScalingEnabled", "TranslationSliceEnabled", "RotationSliceEnabled", "ScalingSliceEnabled"):
        assert getattr(display, f"GetEditor{part}")()
    node = session.segment_id
    center = (np.linalg.inv(grids.to_world(case[0])) @ [*centre(case[1], node, case[0]), 1.0])[:3]
    assert session.transform.GetCenterOfTransformation() == pytest.approx(center)
    assert not case[1].GetDisplayNode().GetSegmentVisibility(node)
    assert session.preview.GetParentTransformNode() is session.transform
    (shown,) = segments.node_ids(session.preview)
    start, mask = segments.node_crop(session.preview, shown, case[0])
    assert (start, mask.tolist()) == (segments.node_crop(case[1], node, case[0])[0],
                                      segments.node_crop(case[1], node, case[0])[1].tolist())
    for helper in (session.transform, session.preview):
        assert helper.GetHideFromEditors() and not helper.GetSaveWithScene()
    session.cancel()


@pytest.mark.parametrize("end", ["apply", "cancel", "apply unmoved"])
def test_nothing_is_left_behind(case, scene, end):
    ct, nodes, _organs = case
    before, counted, look = node_ids(scene), items(scene), state(nodes, ct)
    editor, session = Editor(nodes), begin(case)
    if end != "apply unmoved":
        drag(session, shift(0, 2, 4))
    if end == "cancel":
        session.cancel()
    else:
        assert session.apply(editor.save)
    assert node_ids(scene) == before and items(scene) == counted and not session.alive
    assert nodes.GetDisplayNode().GetSegmentVisibility(session.segment_id)
    assert editor.saved == (end == "apply") and (state(nodes, ct) == look) == (end != "apply")
    session.cancel()  # once more does no harm


def test_a_hidden_node_stays_hidden(case):
    display, node = case[1].GetDisplayNode(), segments.node_ids(case[1])[1]
    display.SetSegmentVisibility(node, False)
    begin(case).cancel()
    assert not display.GetSegmentVisibility(node)


@pytest.mark.parametrize("transform", [None, mrml.rigid()])
def test_a_drag_by_whole_voxels_is_exact_and_one_undo_step(scene, transform):
    case = make_case(scene, transform)
    ct, nodes, _organs = case
    session, editor, before = begin(case), Editor(nodes), state(nodes, ct)
    start, mask = segments.node_crop(nodes, session.segment_id, ct)
    step = (grids.to_world(ct) @ grids.affine_of(ct))[:3, :3] @ [2, -1, 1]
    drag(session, shift(*(step / 2)))
    drag(session, shift(*(step / 2)))
    session.apply(editor.save)
    after = state(nodes, ct)
    moved, now = segments.node_crop(nodes, session.segment_id, ct)
    assert tuple(np.subtract(moved, start)) == (2, -1, 1) and np.array_equal(now, mask)
    assert editor.saved == 1 and not nodes_in_ct.are_in_ct(nodes, ct)[session.segment_id]
    for _ in range(2):
        editor.undo()
        assert state(nodes, ct) == before
        editor.redo()
        assert state(nodes, ct) == after


@pytest.mark.parametrize("flip", [(1, 1, 1), (1, -1, 1)])
@pytest.mark.parametrize("transform", [None, mrml.rigid()])
def test_turning_and_scaling_on_an_oblique_grid(scene, flip, transform):
    """An ellipsoid under handles becomes the ellipsoid that the handles say, in the patient's millimetres."""
    spacing, shape = (0.9, 1.1, 1.6), (100, 90, 60)
    affine = mrml.oblique_affine(spacing, flip=flip)
    ct = mrml.add_ct(scene, np.full(shape, -100, np.int16), affine)
    if transform is not None:
        mrml.move(ct, mrml.add_transform(scene, transform))
    world = grids.to_world(ct) @ affine
    points = (np.indices(shape).reshape(3, -1).T @ world[:3, :3].T + world[:3, 3])
    middle = (world @ [50, 45, 30, 1.0])[:3]

    def ellipsoid(linear, center):
        local = (points - center) @ np.linalg.inv(linear @ np.diag([14.0, 8.0, 6.0])).T
        return ((local**2).sum(1) <= 1).reshape(shape)

    nodes = mrml.add_nodes(scene, ct, ellipsoid(np.eye(3), middle).astype(np.uint16))
    session = node_move.begin(nodes, segments.node_ids(nodes)[0], ct, scene)
    linear = mrml.rotation(20, -35, 10) @ np.diag([1.3, 0.9, 1.2])
    drag(session, about(middle, linear))
    drag(session, shift(5, -4, 3))
    session.apply(lambda: None)
    start, mask = segments.node_crop(nodes, segments.node_ids(nodes)[0], ct)
    found = np.zeros(shape, bool)
    found[tuple(slice(s, s + n) for s, n in zip(start, mask.shape, strict=True))] = mask
    wanted = ellipsoid(linear, middle + [5, -4, 3])
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.95


def test_what_is_written_is_the_librarys_affine_change(case):
    """On the phantom's grid, whose axes are the patient's: the same numbers as `deform` with the same matrix."""
    ct, nodes, _organs = case
    volume = volumes.volume_of(ct)
    assert np.allclose(volume.affine[:3, :3], np.diag(volume.spacing))
    session = begin(case)
    start, mask = segments.node_crop(nodes, session.segment_id, ct)
    linear = mrml.rotation(0, 0, 25) @ np.diag([1.2, 1.1, 0.9])
    drag(session, about(centre(nodes, session.segment_id, ct), linear))
    drag(session, shift(1, 2, 3))
    change = {"kind": "affine", "matrix": linear, "translation_mm": [1, 2, 3]}
    expected, at = deform(mask, start, volume.spacing, change)
    session.apply(lambda: None)
    first, now = segments.node_crop(nodes, session.segment_id, ct)
    assert tuple(first) == tuple(at) and np.array_equal(now, expected)


def test_the_overlap_is_what_lies_under_the_node(case):
    ct, nodes, organs = case
    labels, hu = anatomy.labels(organs, ct), volumes.volume_of(ct).array
    array, ids = segments.instances(nodes, ct)
    session = begin(case)
    value = next(v for v, i in ids.items() if i == session.segment_id)
    seen = set()
    for step in np.random.default_rng(0).uniform(-80, 80, (40, 3)):
        slicer.util.updateTransformMatrixFromArray(session.transform, shift(*step))
        start, mask = session.moved()
        overlap = session.overlap()
        inside = [(s, i) for s, i in zip(np.argwhere(mask) + start, range(mask.sum()), strict=True)
                  if (s >= 0).all() and (s < labels.shape).all()]
        under = np.array([s for s, _ in inside]).reshape(-1, 3)
        found = labels[tuple(under.T)]
        names = dict(overlap.organs)
        for label in np.unique(found[found > 0]):
            name = anatomy.structure(int(label)).name.replace("_", " ")
            assert names.pop(name) == (found == label).sum()
            seen.add(name)
        assert set(names) <= {"bone or contrast", "air or gas"}
        others = array[tuple(under.T)]
        counted = {ids[v]: int((others == v).sum()) for v in np.unique(others) if v not in (0, value)}
        shown = {nodes.GetSegmentation().GetSegment(i).GetName(): n for i, n in counted.items()}
        assert dict(overlap.nodes) == shown
        assert overlap.voxels == mask.sum() and overlap.outside >= mask.sum() - len(inside)
        if overlap.outside > mask.sum() - len(inside):
            assert (hu[tuple(under.T)] < -300).any()
        assert bool(overlap) == bool(overlap.text())
    session.cancel()
    assert len(seen) >= 3


def test_the_warning_is_in_words(case):
    session = begin(case)
    slicer.util.updateTransformMatrixFromArray(session.transform, shift(0, 0, 5000))
    assert session.warning() == "100% lies outside the patient."
    with pytest.raises(LNSynthError, match="outside the CT"):
        session.apply(lambda: None)
    assert session.alive
    slicer.util.updateTransformMatrixFromArray(session.transform, np.diag([20.0, 20, 20, 1]))
    assert "too small or too large" in session.warning()
    slicer.util.updateTransformMatrixFromArray(session.transform, np.diag([0.01, 0.01, 0.01, 1]))
    assert "too small or too large" in session.warning()
    with pytest.raises(LNSynthError, match="too small"):
        session.apply(lambda: None)
    session.cancel()
    words = Overlap((("liver", 30), ("aorta", 10)), (("Node 2", 5),), 20, 100).text()
    assert words == "Covers liver (30%), aorta (10%), Node 2 (5%). 20% lies outside the patient."
    assert Overlap((), (), 0, 10).text() == "" and not Overlap((), (), 0, 10)


def test_an_organ_may_be_covered_but_another_node_never(case):
    ct, nodes, _organs = case
    editor, ids = Editor(nodes), segments.node_ids(nodes)
    session = begin(case, 1)
    drag(session, shift(*(centre(nodes, ids[0], ct) - centre(nodes, ids[1], ct))))
    before = state(nodes, ct)
    with pytest.raises(LNSynthError, match="no voxel can belong to two"):
        session.apply(editor.save)
    assert session.alive and editor.saved == 0 and state(nodes, ct) == before
    labels = anatomy.labels(case[2], ct)
    liver = np.argwhere(labels == 5).mean(0)
    place = (grids.affine_of(ct) @ [*liver, 1.0])[:3]
    slicer.util.updateTransformMatrixFromArray(session.transform, shift(*(place - centre(nodes, ids[1], ct))))
    assert "liver" in session.warning()
    assert "liver" in session.apply(editor.save) and editor.saved == 1


def test_a_node_that_sticks_out_of_the_ct_is_cut_at_its_edge(case):
    ct, nodes, _organs = case
    session = begin(case)
    start, mask = segments.node_crop(nodes, session.segment_id, ct)
    slices = mask.shape[2] // 2
    step = grids.affine_of(ct)[:3, :3] @ [0, 0, -(start[2] + slices)]
    drag(session, shift(*step))
    session.apply(lambda: None)
    first, now = segments.node_crop(nodes, session.segment_id, ct)
    assert first[2] == 0 and now.shape[2] == mask.shape[2] - slices


@pytest.mark.parametrize("gone", ["scene", "segment", "segmentation", "transform"])
def test_what_vanishes_meanwhile_ends_the_session_quietly(scene, gone):
    case = make_case(scene)
    session = begin(case)
    if gone == "scene":
        scene.Clear(0)
    elif gone == "segment":
        segments.remove_node(case[1], session.segment_id)
    else:
        scene.RemoveNode(case[1] if gone == "segmentation" else session.transform)
    assert not session.alive
    with pytest.raises(LNSynthError, match="no longer there"):
        session.apply(lambda: pytest.fail("nothing may be saved"))
    session.cancel()
    assert not [i for i in node_ids(scene) if "LinearTransform" in i]


def test_a_transform_that_scales_is_refused(scene):
    case = make_case(scene)
    mrml.move(case[0], mrml.add_transform(scene, np.diag([2.0, 1, 1, 1])))
    before = node_ids(scene)
    with pytest.raises(LNSynthError, match="harden"):
        begin(case)
    assert node_ids(scene) == before


def test_the_overlap_follows_the_hand(scene, shared_data):
    """On a real CT, one step of a drag takes no longer than a picture in a film, but for the first look around."""
    volume = mrml.read_real(shared_data)
    ct = mrml.add_ct(scene, volume.array, volume.affine)
    organs = mrml.add_anatomy(scene, ct, mrml.read_real(shared_data, "r01142_abd_coarse_anatomy.nii.gz").array)
    nodes = segments.new_segmentation(scene, ct, "Nodes")
    node = segments.add_node(nodes, ct, (100, 60, 80), mrml.ball((13, 13, 13), (6, 6, 6), 12.0, volume.spacing))
    session = node_move.begin(nodes, node, ct, scene, organs)
    session.overlap()
    times = []
    for _ in range(30):
        drag(session, shift(0.4, 0.2, -0.1))
        began = time.perf_counter()
        session.overlap()
        times.append(time.perf_counter() - began)
    session.cancel()
    assert np.median(times) < 0.04


def test_a_scene_that_was_saved_during_a_move_shows_the_node_again(scene, case):
    session = begin(case)
    hidden = session.segment_id
    scene.SetSaveToXMLString(1)
    scene.Commit()
    other = mrml.new_scene()
    other.SetLoadFromXMLString(1)
    other.SetSceneXMLString(scene.GetSceneXMLString())
    other.Import()
    loaded = other.GetFirstNodeByName(case[1].GetName())
    loaded.GetSegmentation().DeepCopy(case[1].GetSegmentation())  # its file
    assert not loaded.GetDisplayNode().GetSegmentVisibility(hidden)
    for again in (loaded, loaded):
        node_move.show_again(again)
        assert loaded.GetDisplayNode().GetSegmentVisibility(hidden)
    assert loaded.GetDisplayNode().GetAttribute(node_move.MOVING) is None
    session.cancel()
    assert case[1].GetDisplayNode().GetSegmentVisibility(hidden)
    assert case[1].GetDisplayNode().GetAttribute(node_move.MOVING) is None


def test_a_node_that_was_hidden_before_the_move_stays_hidden(case):
    display, segment_id = case[1].GetDisplayNode(), segments.node_ids(case[1])[1]
    display.SetSegmentVisibility(segment_id, False)
    session = begin(case)
    session.cancel()
    assert not display.GetSegmentVisibility(segment_id)
