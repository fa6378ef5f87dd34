"""The table of nodes on real MRML: right measures, on crops, and only what has changed is measured again."""

import time

import mrml
import numpy as np
import pytest
from LNSynthLogic import anatomy, grids, node_table, nodes_in_ct, segments, volumes
from LNSynthLogic.node_table import NodeTable, Row
from mrml import slicer
from scipy import ndimage

from LNSynthLib.masks.nodes import measure


@pytest.fixture
def case(scene):
    ct = mrml.add_ct(scene)
    return ct, mrml.add_nodes(scene, ct, in_ct=True), mrml.add_anatomy(scene, ct)


def whole(table, case, organs=True):
    """All rows, measured to the end."""
    anatomy_node = case[2] if organs else None
    while not table.measure(case[1], case[0], anatomy_node):
        pass
    return table.rows(case[1], case[0], anatomy_node)


def test_measures_are_the_librarys(case):
    ct, nodes, organs = case
    volume = volumes.volume_of(ct)
    array, ids = segments.instances(nodes, ct)
    labels = anatomy.labels(organs, ct)
    rows = {row.segment_id: row for row in whole(NodeTable(), case)}
    assert list(rows) == segments.node_ids(nodes)
    for expected in measure(array, volume.affine):
        row = rows[ids[expected.id]]
        assert row.volume_ml == pytest.approx(expected.volume_ml)
        assert row.short_axis_mm == pytest.approx(expected.short_axis_mm)
        assert row.center_mm == pytest.approx(expected.centroid_mm)
        distance = np.where(np.isin(labels, node_table.ORGANS),
                            ndimage.distance_transform_edt(array != expected.id, sampling=volume.spacing), np.inf)
        at = np.unravel_index(distance.argmin(), distance.shape)
        assert distance[at] < 40
        assert row.distance_mm == pytest.approx(distance[at], abs=1e-6 if distance[at] <= 10 else 2.5)
        equal = np.unique(labels[distance <= distance[at] + (0 if distance[at] <= 10 else 2.5)])
        ties = {node_table.structure(int(value)).name.replace("_", " ") for value in equal}
        assert row.nearest in ties
        assert row.in_ct and row.color == nodes.GetSegmentation().GetSegment(row.segment_id).GetColor()
        assert all(row.texts()) and row.texts()[0] == row.name


def test_without_anatomy_or_ct_the_rest_is_known(case):
    ct, nodes, _organs = case
    rows = whole(NodeTable(), case, organs=False)
    assert all(row.nearest == "" and row.distance_mm is None and row.volume_ml > 0 for row in rows)
    rows = NodeTable().rows(nodes, None, None)
    assert [row.name for row in rows] == [nodes.GetSegmentation().GetSegment(i).GetName()
                                          for i in segments.node_ids(nodes)]
    assert all(row.volume_ml is None and row.texts()[1:4] == ("", "", "") for row in rows)


def test_only_what_has_changed_is_measured_again(case, monkeypatch):
    ct, nodes, organs = case
    seen = {"size": 0, "organ": 0}
    size, organ = node_table._measure, node_table.nearest_organ
    monkeypatch.setattr(node_table, "_measure", lambda *a: (seen.update(size=seen["size"] + 1), size(*a))[1])
    monkeypatch.setattr(node_table, "nearest_organ", lambda *a: (seen.update(organ=seen["organ"] + 1), organ(*a))[1])

    def spent(act):
        seen.update(size=0, organ=0)
        act()
        whole(table, case)
        return seen["size"], seen["organ"]

    table, count = NodeTable(), len(segments.node_ids(nodes))
    assert spent(lambda: None) == (count, count)
    assert spent(lambda: None) == (0, 0)
    first = segments.node_ids(nodes)[0]
    start, mask = segments.node_crop(nodes, first, ct)
    before = {row.segment_id: row for row in whole(table, case)}
    assert spent(lambda: segments.set_node(nodes, first, ct, start, ndimage.binary_erosion(mask))) == (1, 1)
    after = {row.segment_id: row for row in whole(table, case)}
    assert after[first].volume_ml < before[first].volume_ml
    assert all(after[i] == before[i] for i in before if i != first)
    assert spent(lambda: nodes.GetSegmentation().GetSegment(first).SetName("Coeliac")) == (0, 0)
    assert whole(table, case)[0].name == "Coeliac"
    liver = organs.GetSegmentation().GetSegmentIdBySegmentName("liver")
    assert spent(lambda: organs.GetSegmentation().RemoveSegment(liver)) == (0, count)
    assert spent(lambda: segments.remove_node(nodes, first)) == (0, 0)
    assert first not in [row.segment_id for row in whole(table, case)]
    assert spent(lambda: mrml.move(ct, mrml.add_transform(ct.GetScene(), mrml.rigid())) or mrml.move(
        nodes, ct.GetParentTransformNode()) or mrml.move(organs, ct.GetParentTransformNode())) == (count - 1, count - 1)


def test_nodes_that_share_a_labelmap(case, monkeypatch):
    """Slicer's own tools put many segments into one labelmap: painting one measures that one."""
    ct, nodes, _organs = case
    nodes.GetSegmentation().CollapseBinaryLabelmaps(False)
    ids = segments.node_ids(nodes)
    assert nodes.GetSegmentation().GetNumberOfLayers() == 1
    table = NodeTable()
    before = whole(table, case)
    count, size = [], node_table._measure
    monkeypatch.setattr(node_table, "_measure", lambda *a: (count.append(1), size(*a))[1])
    image = nodes.GetSegmentation().GetSegment(ids[1]).GetRepresentation("Binary labelmap")
    value = nodes.GetSegmentation().GetSegment(ids[1]).GetLabelValue()
    voxels = grids.voxels(image)[1]
    voxels[tuple(np.argwhere(voxels == value)[0])] = 0
    nodes.GetSegmentation().GetSegment(ids[1]).Modified()  # all that Slicer asks for after such a change
    after = whole(table, case)
    assert len(count) == 1
    assert [a == b for a, b in zip(after, before, strict=True)] == [i != 1 for i in range(len(ids))]


def test_the_ct_shows_a_node_as_long_as_it_is_as_it_was(case):
    """Whatever tool changed it."""
    ct, nodes, _organs = case
    nodes_in_ct.keep(nodes, ct)
    table, first = NodeTable(), segments.node_ids(nodes)[0]
    segment = nodes.GetSegmentation().GetSegment(first)

    def in_ct():
        return [row.in_ct for row in whole(table, case)]

    count = len(segments.node_ids(nodes))
    assert in_ct() == [True] * count
    image = segment.GetRepresentation("Binary labelmap")
    voxels = grids.voxels(image)[1]
    at = tuple(np.argwhere(voxels)[0])
    was, voxels[at] = voxels[at], 0  # as painted
    image.Modified()
    segment.Modified()
    assert in_ct() == [False] + [True] * (count - 1)
    voxels[at] = was  # as undone
    image.Modified()
    segment.Modified()
    assert in_ct() == [True] * count
    start, mask = segments.node_crop(nodes, first, ct)
    segments.remove_node(nodes, first)
    segments.add_node(nodes, ct, start, mask)  # drawn again, just as it was
    assert in_ct() == [True] * count
    nodes_in_ct.forget(nodes)
    assert in_ct() == [False] * count


def test_the_work_is_cut_into_short_pieces(case):
    table, calls, longest = NodeTable(), 0, 0.0
    whole(NodeTable(), case)  # what is imported at the first use
    done = False
    while not done:
        began = time.perf_counter()
        done = table.measure(case[1], case[0], case[2], budget_s=0.0)
        longest, calls = max(longest, time.perf_counter() - began), calls + 1
    assert calls == 2 * len(segments.node_ids(case[1])) + 1 and longest < 0.3


def test_a_common_rigid_transform_moves_the_centre_alone(case):
    ct, nodes, organs = case
    before = whole(NodeTable(), case)
    transform = mrml.add_transform(ct.GetScene(), mrml.rigid())
    for node in case:
        mrml.move(node, transform)
    after = whole(NodeTable(), case)
    for a, b in zip(before, after, strict=True):
        assert (a.volume_ml, a.short_axis_mm, a.nearest, a.distance_mm) == (
            b.volume_ml, b.short_axis_mm, b.nearest, b.distance_mm)
        assert b.center_mm == pytest.approx((mrml.rigid() @ [*a.center_mm, 1.0])[:3])


def test_an_empty_segment_is_a_row_without_measures(case):
    ct, nodes, _organs = case
    empty = nodes.GetSegmentation().AddEmptySegment("empty", "Empty")
    row = whole(NodeTable(), case)[-1]
    assert row.segment_id == empty and row.volume_ml is None and row.texts() == ("Empty", "", "", "", "new")


def test_no_organ_near(scene):
    array = np.zeros((120, 30, 30), np.int16)
    ct = mrml.add_ct(scene, array)
    organs, mask = np.zeros(array.shape, np.uint8), np.ones((4, 4, 4), bool)
    for first, distance in ((100, None), (45, 32.0), (20, 7.0)):
        organs[:] = 0
        organs[first:] = 5
        found = node_table.nearest_organ(mrml.add_anatomy(scene, ct, organs), ct, (10, 10, 10), mask)
        assert found is None if distance is None else found[0] == "liver" and found[1] == pytest.approx(distance, abs=2)
    organs[:] = 31  # a vertebra is no landmark
    assert node_table.nearest_organ(mrml.add_anatomy(scene, ct, organs), ct, (10, 10, 10), mask) is None


def test_jump_centres_slices_and_cameras(scene):
    views = [scene.AddNode(slicer.vtkMRMLSliceNode()) for _ in range(3)]
    for view, set_up in zip(views, ("SetOrientationToAxial", "SetOrientationToSagittal", "SetOrientationToCoronal"),
                            strict=True):
        getattr(view, set_up)()
    camera = scene.AddNewNodeByClass("vtkMRMLCameraNode")
    camera.SetPosition(0, 500, 0)
    camera.SetFocalPoint(0, 0, 0)
    node_table.jump(scene, (10.0, -20.0, 30.5))
    for view in views:
        origin = [view.GetSliceToRAS().GetElement(i, 3) for i in range(3)]
        assert origin == pytest.approx([10, -20, 30.5])
    assert camera.GetFocalPoint() == pytest.approx((10, -20, 30.5))
    assert camera.GetPosition() == pytest.approx((10, 480, 30.5))


def test_what_is_missing_is_said():
    assert "CT" in node_table.missing(None, None) and "segmentation" in node_table.missing(object(), None)
    assert node_table.missing(object(), object()) == ""
    assert Row("a", "Node 1", (0, 1, 0), False).texts() == ("Node 1", "", "", "", "new")
