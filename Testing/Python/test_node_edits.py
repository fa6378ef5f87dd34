"""Edits of nodes on real MRML: one undo step each, back and forth bit for bit, and never over anything."""

import time

import numpy as np
import pytest
from LNSynthLogic import grids, node_edits, nodes_in_ct, segments, volumes
from LNSynthLogic.jobs.process import Job, State, library_command
from mrml import (
    add_anatomy,
    add_ct,
    add_nodes,
    add_transform,
    ball,
    move,
    oblique_affine,
    phantom,
    read_real,
    rigid,
    slicer,
)
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff
from scipy import ndimage

from LNSynthLib.masks.nodes import TOUCHING, axes_mm
from LNSynthLib.runtime.errors import LNSynthError


class Editor:
    """The undo history as the Segment Editor keeps it, and how often it was asked to save."""

    def __init__(self, segmentation):
        self.history, self.saved = slicer.vtkSegmentationHistory(), 0
        self.history.SetSegmentation(segmentation.GetSegmentation())
        self.history.SetMaximumNumberOfStates(20)

    def save(self):
        self.saved += 1
        assert self.history.SaveState()

    def undo(self):
        assert self.history.RestorePreviousState()

    def redo(self):
        assert self.history.RestoreNextState()


def state(segmentation, ct):
    """All that a person could see of a segmentation's nodes."""
    found = []
    for segment_id in segments.node_ids(segmentation):
        segment = segmentation.GetSegmentation().GetSegment(segment_id)
        tags = {tag: segment_tag(segment, tag) for tag in ("TerminologyEntry",)}
        start, mask = segments.node_crop(segmentation, segment_id, ct)
        found.append((segment_id, segment.GetName(), tuple(segment.GetColor()), tags, start, mask.tolist()))
    return found


def segment_tag(segment, tag):
    import vtk

    value = vtk.reference("")
    return value.get() if segment.GetTag(tag, value) else None


@pytest.fixture
def case(scene):
    return make_case(scene)


def make_case(scene, ornt=None, transform=None):
    """(ct, nodes, anatomy) of the phantom, with its axes in another order, under a transform."""
    drawn, turned = phantom(), []
    for volume in (drawn.ct, drawn.nodes, drawn.anatomy):
        array, affine = volume.array, volume.affine
        if ornt is not None:
            array, affine = apply_orientation(array, ornt), affine @ inv_ornt_aff(ornt, array.shape)
        turned.append((np.ascontiguousarray(array), affine))
    ct = add_ct(scene, *turned[0])
    if transform is not None:
        move(ct, add_transform(scene, transform))
    return ct, add_nodes(scene, ct, turned[1][0], in_ct=True), add_anatomy(scene, ct, turned[2][0])


def centre(segmentation, segment_id, ct):
    start, mask = segments.node_crop(segmentation, segment_id, ct)
    return (grids.to_world(ct) @ grids.affine_of(ct) @ [*(np.argwhere(mask).mean(0) + start), 1.0])[:3]


def clear(segmentation, ct, anatomy):
    """No node lies on an organ, in air or gas, or touches another."""
    array, ids = segments.instances(segmentation, ct)
    assert len(ids) == len(segments.node_ids(segmentation))
    assert ndimage.label(array, TOUCHING)[1] == len(ids)
    return array


ACTIONS = {
    "affine": lambda c, e: node_edits.vary(c[1], segments.node_ids(c[1])[1], c[0], c[2], "affine",
                                           np.random.default_rng(1), e.save),
    "elastic": lambda c, e: node_edits.vary(c[1], segments.node_ids(c[1])[0], c[0], c[2], "elastic",
                                            np.random.default_rng(2), e.save),
    "remove": lambda c, e: node_edits.remove(c[1], segments.node_ids(c[1])[2], e.save),
    "add": lambda c, e: node_edits.add_at(c[1], c[0], c[2], free_point(c), 9.0, np.random.default_rng(3), e.save),
}


def free_point(case, number=0):
    """A world point of the phantom's fat with 14 mm of room around it."""
    ct = case[0]
    array, _ids = segments.instances(case[1], ct)
    hu = volumes.volume_of(ct).array
    fat = (hu > -160) & (hu < -40) & (array == 0) & (whole_anatomy(case) == 0)
    depth = ndimage.distance_transform_edt(fat, sampling=np.linalg.norm(grids.affine_of(ct)[:3, :3], axis=0))
    places = np.argwhere(depth > 0.95 * depth.max())
    return tuple((grids.to_world(ct) @ grids.affine_of(ct) @ [*places[number], 1.0])[:3])


def whole_anatomy(case):
    from LNSynthLogic import anatomy

    return anatomy.labels(case[2], case[0])


@pytest.mark.parametrize("action", ACTIONS)
def test_each_edit_is_one_step_back_and_forth_bit_for_bit(case, action):
    ct, nodes, _organs = case
    editor = Editor(nodes)
    before = state(nodes, ct)
    said = ACTIONS[action](case, editor)
    after = state(nodes, ct)
    assert said and editor.saved == 1 and after != before
    for _ in range(2):
        editor.undo()
        assert state(nodes, ct) == before
        editor.redo()
        assert state(nodes, ct) == after
    editor.undo()
    assert not editor.history.IsRestorePreviousStateAvailable()


def test_several_edits_are_taken_back_in_turn(case):
    ct, nodes, _organs = case
    editor, states = Editor(nodes), [state(case[1], case[0])]
    for action in ("add", "remove", "affine", "add"):
        ACTIONS[action](case, editor)
        states.append(state(nodes, ct))
    for wanted in states[-2::-1]:
        editor.undo()
        assert state(nodes, ct) == wanted
    for wanted in states[1:]:
        editor.redo()
        assert state(nodes, ct) == wanted


@pytest.mark.parametrize("kind", ["affine", "elastic"])
def test_a_random_change_keeps_clear_of_everything(case, kind):
    ct, nodes, organs = case
    array, ids = segments.instances(nodes, ct)
    labels, hu = whole_anatomy(case), volumes.volume_of(ct).array
    changed = 0
    for seed in range(12):
        segment_id = list(ids.values())[seed % len(ids)]
        before = segments.node_crop(nodes, segment_id, ct)
        try:
            said = node_edits.vary(nodes, segment_id, ct, organs, kind, np.random.default_rng(seed), lambda: None)
        except LNSynthError as error:
            assert "stays as it was" in str(error)
            after = segments.node_crop(nodes, segment_id, ct)
            assert before[0] == after[0] and np.array_equal(before[1], after[1])
            continue
        changed += 1
        assert "mm" in said and not nodes_in_ct.are_in_ct(nodes, ct)[segment_id]
        start, mask = segments.node_crop(nodes, segment_id, ct)
        box = tuple(slice(s, s + n) for s, n in zip(start, mask.shape, strict=True))
        assert 0.5 <= mask.sum() / before[1].sum() <= 2
        assert not labels[box][mask].any()
        assert ((hu[box][mask] > -500) & (array[box][mask] == 0) | (array[box][mask] > 0)).all()
        clear(nodes, ct, organs)
    assert changed >= 6


ORIENTATIONS = ["LPS", "SAR", "PIL"]


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("action", ["affine", "elastic", "add"])
def test_the_order_of_the_axes_changes_nothing(scene, codes, action):
    """The same patient stored another way: the same edit at the same place."""
    ornt = axcodes2ornt(tuple(codes))
    plain, other = make_case(scene), make_case(scene, np.stack([np.argsort(ornt[:, 0]), ornt[:, 1]], 1))
    point = free_point(plain)
    results = []
    for case in (plain, other):
        rng = np.random.default_rng(7)
        if action == "add":
            node_edits.add_at(case[1], case[0], case[2], point, 9.0, rng, lambda: None)
            changed = segments.node_ids(case[1])[-1]
        else:
            changed = segments.node_ids(case[1])[1]
            node_edits.vary(case[1], changed, case[0], case[2], action, rng, lambda: None)
        start, mask = segments.node_crop(case[1], changed, case[0])
        affine = grids.affine_of(case[0])
        points = (np.argwhere(mask) + start) @ affine[:3, :3].T + affine[:3, 3]
        results.append({tuple(p) for p in np.round(points, 3) + 0.0})
    assert results[0] == results[1] and len(results[0]) > 8


def test_a_common_rigid_transform_changes_nothing_but_the_place(scene):
    plain, moved = make_case(scene), make_case(scene, transform=rigid())
    point = np.array(free_point(plain))
    there = (rigid() @ [*point, 1.0])[:3]
    node_edits.add_at(plain[1], plain[0], plain[2], point, 9.0, np.random.default_rng(3), lambda: None)
    node_edits.add_at(moved[1], moved[0], moved[2], there, 9.0, np.random.default_rng(3), lambda: None)
    for case in (plain, moved):
        node_edits.vary(case[1], segments.node_ids(case[1])[1], case[0], case[2], "affine", np.random.default_rng(4),
                        lambda: None)
    assert [s[4:] for s in state(plain[1], plain[0])] == [s[4:] for s in state(moved[1], moved[0])]
    new = segments.node_ids(moved[1])[-1]
    assert np.linalg.norm(centre(moved[1], new, moved[0]) - there) < 6


def test_an_oblique_anisotropic_grid(scene):
    """A node in a block of fat with an organ beside it, far from any axis of the patient."""
    affine = oblique_affine((0.9, 1.4, 2.5), flip=(1, -1, 1))
    spacing, shape = (0.9, 1.4, 2.5), (90, 70, 40)
    array = np.full(shape, -100, np.int16)
    node = ball(shape, (45, 35, 20), 7.0, spacing)
    array[node] = 60
    organs = np.zeros(shape, np.uint8)
    organs[62:] = 5
    ct = add_ct(scene, array, affine)
    case = ct, add_nodes(scene, ct, node.astype(np.uint16)), add_anatomy(scene, ct, organs)
    (segment_id,) = segments.node_ids(case[1])
    for seed in range(6):
        before = segments.node_crop(case[1], segment_id, ct)
        node_edits.vary(case[1], segment_id, ct, case[2], "affine", np.random.default_rng(seed), lambda: None)
        start, mask = segments.node_crop(case[1], segment_id, ct)
        assert (start, mask.tobytes()) != (before[0], before[1].tobytes())
        box = tuple(slice(s, s + n) for s, n in zip(start, mask.shape, strict=True))
        assert not organs[box][mask].any()
    point = (affine @ [20, 35, 20, 1.0])[:3]
    node_edits.add_at(case[1], ct, case[2], point, 10.0, np.random.default_rng(1), lambda: None)
    new = segments.node_ids(case[1])[-1]
    assert np.linalg.norm(centre(case[1], new, ct) - point) < 6
    start, mask = segments.node_crop(case[1], new, ct)
    axial = int(np.argmax(np.abs(affine[2, :3]) / spacing))
    assert axes_mm(mask, affine[:3, :3], axial)[1] == pytest.approx(10, abs=3)


def refused(case, point, **more):
    editor = Editor(case[1])
    before = state(case[1], case[0])
    with pytest.raises(LNSynthError) as error:
        node_edits.add_at(case[1], case[0], more.get("organs", case[2]), point, more.get("size", 9.0),
                          np.random.default_rng(0), editor.save)
    assert editor.saved == 0 and state(case[1], case[0]) == before
    return str(error.value)


def test_a_node_is_refused_where_it_cannot_lie_and_says_why(case):
    ct, nodes, _organs = case
    affine, labels = grids.affine_of(ct), whole_anatomy(case)
    deep = ndimage.distance_transform_edt(labels == 5, sampling=(3, 3, 4))
    liver = (affine @ [*np.unravel_index(deep.argmax(), deep.shape), 1.0])[:3]
    assert "liver" in refused(case, liver)
    node = segments.node_ids(nodes)[0]
    said = refused(case, centre(nodes, node, ct), size=20.0)
    assert nodes.GetSegmentation().GetSegment(node).GetName() in said
    assert "outside the CT" in refused(case, (affine @ [-5, 10, 10, 1.0])[:3])
    assert "outside of the patient" in refused(case, (affine @ [1, 1, 10, 1.0])[:3])
    hu = volumes.volume_of(ct).array
    bone = ndimage.distance_transform_edt((hu > 250) & (labels == 0), sampling=(3, 3, 4))
    assert "bone" in refused(case, (affine @ [*np.unravel_index(bone.argmax(), bone.shape), 1.0])[:3], size=25.0)
    assert "room" in refused(case, free_point(case), size=55.0)


def test_the_table_is_no_part_of_the_patient(scene):
    spacing, shape = (2.5, 2.5, 5.0), (120, 120, 30)
    x, y, _z = np.ogrid[:120, :120, :30]
    array = np.full(shape, -1000, np.int16)
    array[np.broadcast_to(((x - 60) / 45) ** 2 + ((y - 65) / 30) ** 2 <= 1, shape)] = 0
    array[10:110, 18:28] = 0  # 25 mm thick, 17 mm behind the patient
    ct = add_ct(scene, array, np.diag([*spacing, 1.0]))
    case = ct, segments.new_segmentation(scene, ct, "Nodes"), None
    inside, table = ((np.array(v) * spacing).tolist() for v in ((60, 65, 15), (60, 23, 15)))
    assert "added" in node_edits.add_at(case[1], ct, None, inside, 10.0, np.random.default_rng(0), lambda: None)
    assert "outside of the patient" in refused(case, table)


def test_without_anatomy_edits_work_and_say_that_organs_are_unknown(case):
    ct, nodes, _organs = case
    said = node_edits.add_at(nodes, ct, None, free_point(case), None, np.random.default_rng(5), lambda: None)
    assert "organs are unknown" in said
    said = node_edits.vary(nodes, segments.node_ids(nodes)[1], ct, None, "affine", np.random.default_rng(1),
                           lambda: None)
    assert "organs are unknown" in said
    assert "outside of the patient" in refused(case, (grids.affine_of(ct) @ [1, 1, 10, 1.0])[:3], organs=None)


def test_a_node_that_lies_on_an_organ_says_so(case):
    ct, nodes, organs = case
    labels = whole_anatomy(case)
    inside = ndimage.binary_erosion(labels == 5, iterations=2)
    at = np.argwhere(inside)[len(np.argwhere(inside)) // 2]
    segment_id = segments.add_node(nodes, ct, at, np.ones((3, 3, 3), bool))
    with pytest.raises(LNSynthError, match="liver"):
        node_edits.vary(nodes, segment_id, ct, organs, "elastic", np.random.default_rng(0), lambda: None)


def test_a_node_that_is_gone_or_empty_is_a_sentence(case):
    ct, nodes, organs = case
    for segment_id in ("", "gone"):
        with pytest.raises(LNSynthError, match="choose one in the table"):
            node_edits.vary(nodes, segment_id, ct, organs, "affine", np.random.default_rng(0), lambda: None)
    empty = nodes.GetSegmentation().AddEmptySegment("empty", "Empty")
    with pytest.raises(LNSynthError, match="no voxels"):
        node_edits.vary(nodes, empty, ct, organs, "affine", np.random.default_rng(0), lambda: None)


def test_the_crosshair(scene):
    scene.GetSingletonNode("default", "vtkMRMLCrosshairNode").SetCrosshairRAS(1.5, -2.0, 30.0)
    assert node_edits.crosshair(scene) == (1.5, -2.0, 30.0)
    with pytest.raises(LNSynthError, match="no crosshair"):
        node_edits.crosshair(slicer.vtkMRMLScene())


def run(arguments):
    ended = []
    job = Job(library_command("nodes", *arguments), on_event=lambda event: None, on_log=print, on_end=ended.append)
    job.start()
    while not ended:
        job.poll()
        time.sleep(0.02)
    assert job.state is State.DONE, job.error
    return job.result


def test_a_plausible_node_from_a_job_is_one_undo_step(case, tmp_path):
    ct, nodes, organs = case
    volumes.write_volume(ct, tmp_path / "ct.nii")
    node_edits.write_organs(organs, ct, tmp_path / "anatomy.nii")
    ids = segments.write_mask(nodes, ct, tmp_path / "nodes.nii")
    result = run(node_edits.plausible_arguments(tmp_path / "ct.nii", tmp_path / "anatomy.nii", tmp_path / "nodes.nii",
                                                tmp_path / "out.nii", 10.0, 3))
    editor, before = Editor(nodes), state(nodes, ct)
    said = node_edits.add_from_job(nodes, ct, result, editor.save)
    after = state(nodes, ct)
    assert "short axis" in said and editor.saved == 1
    assert after[:-1] == before and len(after) == len(ids) + 1
    start, mask = segments.node_crop(nodes, after[-1][0], ct)
    box = tuple(slice(s, s + n) for s, n in zip(start, mask.shape, strict=True))
    assert not whole_anatomy(case)[box][mask].any()
    assert axes_mm(mask, grids.affine_of(ct)[:3, :3])[1] == pytest.approx(10, abs=4)
    clear(nodes, ct, organs)
    editor.undo()
    assert state(nodes, ct) == before
    editor.redo()
    assert state(nodes, ct) == after
    with pytest.raises(LNSynthError, match="drawn meanwhile"):  # the same result once more: its place is taken now
        node_edits.add_from_job(nodes, ct, result, editor.save)
    assert state(nodes, ct) == after


def test_a_job_that_found_no_room_changes_nothing(case):
    editor = Editor(case[1])
    result = {"out": ["x.nii"], "results": [{"nodes": [], "changes": [
        {"operation": "added", "id": None, "placed": False, "reason": "no room"}]}]}
    with pytest.raises(LNSynthError, match="No room"):
        node_edits.add_from_job(case[1], case[0], result, editor.save)
    assert editor.saved == 0


def test_variants_are_segmentations_of_their_own(case, scene, tmp_path):
    ct, nodes, organs = case
    nodes.SetName("Nodes")
    volumes.write_volume(ct, tmp_path / "ct.nii")
    node_edits.write_organs(organs, ct, tmp_path / "anatomy.nii")
    ids = segments.write_mask(nodes, ct, tmp_path / "nodes.nii")
    before = state(nodes, ct)
    result = run(node_edits.vary_arguments(tmp_path / "ct.nii", tmp_path / "anatomy.nii", tmp_path / "nodes.nii",
                                           tmp_path / "out.nii", 3, 11))
    nodes_in_ct.forget(nodes)
    assert not any(map(nodes_in_ct.kept_of, node_edits.variants_from_job(scene, nodes, ct, ids, result)))
    shown = state(nodes_in_ct.keep(nodes, ct), ct)
    nodes.SetName("Set")
    made = node_edits.variants_from_job(scene, nodes, ct, ids, result)
    assert [node.GetName() for node in made] == [f"Set variant {i}" for i in (1, 2, 3)]
    originals = [nodes_in_ct.kept_of(node) for node in made]  # else what the CT shows would stay, unmarked
    assert [state(node, ct) for node in originals] == [shown] * 3
    assert len({node.GetID() for node in (nodes_in_ct.kept_of(nodes), *originals)}) == 4
    assert [bool(node.GetDisplayNode().GetVisibility()) for node in made] == [True, False, False]
    assert state(nodes, ct) == before
    names = [name for _id, name, *_ in before]
    different = 0
    for variant in made:
        found = state(variant, ct)
        assert 0 < len(found) <= len(before) and {f[1] for f in found} <= set(names)
        in_ct = nodes_in_ct.are_in_ct(variant, ct)
        for segment_id, name, _color, _tags, start, mask in found:
            was = next(b for b in before if b[1] == name)
            same = was[4] == start and was[5] == mask
            different += not same
            assert in_ct[segment_id] == same
        clear(variant, ct, organs)
    assert different > 3


def test_edits_of_a_real_ct_are_quick(scene, shared_data):
    """Portal venous abdomen, 2 mm: nothing is in proportion to the CT, and nothing takes as long as people notice."""
    volume, organs = read_real(shared_data), read_real(shared_data, "r01142_abd_coarse_anatomy.nii.gz")
    ct = add_ct(scene, volume.array, volume.affine)
    anatomy = add_anatomy(scene, ct, organs.array)
    case = ct, segments.new_segmentation(scene, ct, "Nodes"), anatomy
    editor = Editor(case[1])
    point = free_point((ct, case[1], anatomy))
    node_edits.add_at(case[1], ct, anatomy, point, 10.0, np.random.default_rng(1), editor.save)
    times = []
    for seed in range(6):
        began = time.perf_counter()
        node_edits.vary(case[1], segments.node_ids(case[1])[0], ct, anatomy, ("affine", "elastic")[seed % 2],
                        np.random.default_rng(seed), editor.save)
        times.append(time.perf_counter() - began)
    assert sorted(times)[3] < 0.3
    assert editor.saved == 7
