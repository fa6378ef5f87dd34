"""The input step: checks in words on phantoms and real CTs, and the sample phantom made by its job."""

import time
from types import SimpleNamespace

import mrml
import numpy as np
import pytest
from LNSynthLogic import anatomy, inputs, nodes_in_ct, segments, synthetic, volumes
from LNSynthLogic.jobs import process

from LNSynthLib.images import checks
from LNSynthLib.runtime.errors import LNSynthError


def bad(ct) -> list[str]:
    return [check.text for check in inputs.checks(ct) if not check.ok]


def phantom_ct(scene, change=None, affine=None):
    ct = mrml.phantom().ct
    return mrml.add_ct(scene, change(ct.array) if change else ct.array, ct.affine if affine is None else affine)


def test_a_phantom_passes_and_is_described(scene):
    ct = phantom_ct(scene)
    texts = [check.text for check in inputs.checks(ct)]
    assert bad(ct) == []
    assert texts[0] == "Voxels of 3.00 x 3.00 x 4.00 mm."
    x, y, z = mrml.phantom().ct.shape
    assert texts[1].startswith(f"{x} x {y} x {z} voxels, {3 * x} x {3 * y} x {4 * z} mm")
    assert "HU" in texts[2] and "air" in texts[2]
    assert texts[3] == "Axes run to right, front and head."
    assert texts[4] == "No transform."


@pytest.mark.parametrize("name", mrml.REAL)
def test_real_cts_pass(scene, shared_data, name):
    ct = volumes.add_volume(scene, mrml.read_real(shared_data, name), "CT")
    assert bad(ct) == []


WRONG = {
    "no HU: water at 1024": (lambda a: a + 1024, "Hounsfield"),
    "no HU: eight bits": (lambda a: np.clip((a + 160) / 1.6, 0, 255).astype(np.uint8), "Hounsfield"),
    "not a number": (lambda a: np.where(a > 40, np.nan, a).astype(np.float32), "NaN"),
    "a thin slab": (lambda a: a[:, :, :6], "whole series"),
}


@pytest.mark.parametrize("change, words", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said(scene, change, words):
    texts = bad(phantom_ct(scene, change))
    assert len(texts) == 1 and words in texts[0]


def test_thick_slices_and_transforms_are_said(scene):
    assert "too thick" in bad(phantom_ct(scene, affine=np.diag([3.0, 3.0, 10.0, 1.0])))[0]
    ct = phantom_ct(scene)
    mrml.move(ct, mrml.add_transform(scene, mrml.rigid(), "Registration"))
    assert bad(ct) == [] and "Registration (rigid)" in inputs.checks(ct)[4].text
    mrml.move(ct, mrml.add_transform(scene, np.diag([1.5, 1, 1, 1]), "Zoom"))
    assert "Zoom" in bad(ct)[0] and "arden" in bad(ct)[0]
    mrml.move(ct, None)
    synthetic.mark_synthetic(ct, {})
    assert "synthetic" in bad(ct)[0]
    assert "no voxels" in bad(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))[0]


def test_the_orientation_is_said_in_words(scene):
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    ct = phantom_ct(scene, affine=lps @ np.diag([3.0, 3, 4, 1]))
    assert inputs.checks(ct)[3].text == "Axes run to left, back and head."
    ct = phantom_ct(scene, affine=mrml.oblique_affine(spacing=(3, 3, 4), degrees=(0, 0, 12)))
    assert "tilted by up to 12 degrees" in inputs.checks(ct)[3].text
    coronal = np.array([[0, 0, 3.0, 0], [3, 0, 0, 0], [0, -3, 0, 0], [0, 0, 0, 1]])
    assert inputs.checks(phantom_ct(scene, affine=coronal))[3].text == "Axes run to front, feet and right."


def test_checks_of_a_large_ct_look_at_no_more_voxels_than_those_of_a_small_one(scene, monkeypatch):
    looked_at = []
    rule = checks.check_ct
    monkeypatch.setattr(checks, "check_ct", lambda ct, name: looked_at.append(ct.array.size) or rule(ct, name))
    for ct in (phantom_ct(scene), mrml.add_ct(scene, np.tile(mrml.phantom().ct.array, (4, 4, 4)))):
        assert bad(ct) == []
    assert max(looked_at) <= inputs.SAMPLED * 1.2 < mrml.phantom().ct.array.size


def test_nodes_are_counted_and_their_transform_told(scene):
    ct = phantom_ct(scene)
    nodes = segments.new_segmentation(scene, ct, "Nodes")
    assert "No lymph node yet" in inputs.node_checks(nodes, ct)[0].text
    segments.add_node(nodes, ct, (20, 20, 20), np.ones((2, 2, 2)))
    assert [check.text for check in inputs.node_checks(nodes, ct)] == ["1 lymph node."]
    mrml.move(nodes, mrml.add_transform(scene, mrml.rigid()))
    counted, transform, elsewhere = inputs.node_checks(nodes, ct)
    assert counted.ok and transform.ok and "shows no lymph node here" in elsewhere.text  # it was moved into bone or air
    assert inputs.missing(ct) == "" and "CT" in inputs.missing(None)


def test_nodes_that_cannot_be_lymph_nodes_are_told(scene):
    ct = phantom_ct(scene)
    nodes = mrml.add_nodes(scene, ct, in_ct=True)
    assert [check.ok for check in inputs.node_checks(nodes, ct)] == [True]
    size = round((60_000 / (3 * 3 * 4)) ** (1 / 3)) + 1
    segments.add_node(nodes, ct, (30, 20, 20), np.ones((size, size, size)), name="liver?")
    segments.add_node(nodes, ct, (0, 0, 0), np.ones((2, 2, 2)), name="beside")
    told = [check.text for check in inputs.node_checks(nodes, ct) if not check.ok]
    assert len(told) == 2 and "liver? (" in told[0] and "mL)" in told[0] and "beside (-" in told[1]


def test_the_sample_phantom_comes_from_its_job(scene, tmp_path):
    ended = []
    command = inputs.phantom_command(tmp_path / "phantom", seed=3)
    command[command.index("--spacing") + 1] = "4"  # the sample's own takes longer
    job = process.Job(command, on_end=ended.append)
    job.start()
    while not ended:
        job.poll()
        time.sleep(0.02)
    assert job.state is process.State.DONE, job.error
    ct, nodes, organs = inputs.load_phantom(scene, tmp_path / "phantom")
    assert ct.GetName().startswith("PHANTOM")
    assert bad(ct) == []
    assert not ct.GetDisplayNode().GetAutoWindowLevel()
    from LNSynthLib.cases.dataset import Dataset

    dataset = Dataset.open(tmp_path / "phantom")
    case = dataset.load(dataset.cases()[0]["id"])
    assert np.array_equal(volumes.volume_of(ct).array, case.ct.array)
    assert ct.GetAttribute(synthetic.HEADER).startswith("SYNTHETIC (phantom)")
    assert np.array_equal(anatomy.labels(organs, ct), case.anatomy.array)
    array, ids = segments.instances(nodes, ct)
    assert np.array_equal(array, case.nodes.array) and len(ids) == case.nodes.array.max()
    assert nodes_in_ct.are_in_ct(nodes, ct) == dict.fromkeys(ids.values(), True)
    assert segments.node_ids(nodes_in_ct.kept_of(nodes)) == segments.node_ids(nodes)
    assert anatomy.missing_for_conditions(organs) == ""


def test_a_folder_without_a_phantom_is_refused(scene, tmp_path):
    with pytest.raises(LNSynthError, match="no data set"):
        inputs.load_phantom(scene, tmp_path)
    from LNSynthLib.cases.dataset import Dataset

    Dataset.create(tmp_path, kind="real")
    with pytest.raises(LNSynthError, match="no phantom"):
        inputs.load_phantom(scene, tmp_path)
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_saying_what_the_ct_shows_and_unsaying_it(scene):
    ct = mrml.add_ct(scene)
    nodes = mrml.add_nodes(scene, ct)
    ids = segments.node_ids(nodes)
    assert nodes_in_ct.kept_of(nodes) is None and nodes_in_ct.kept_of(None) is None
    first = nodes_in_ct.keep(nodes, ct)
    assert nodes_in_ct.kept_of(nodes) == first and all(nodes_in_ct.are_in_ct(nodes, ct).values())
    segments.remove_node(nodes, ids[0])
    second = nodes_in_ct.keep(nodes, ct)  # takes the first one's place
    assert first.GetScene() is None and segments.node_ids(second) == ids[1:]
    nodes_in_ct.forget(nodes)
    assert nodes_in_ct.kept_of(nodes) is None and second.GetScene() is None
    assert nodes_in_ct.are_in_ct(nodes, ct) == dict.fromkeys(ids[1:], False)


def test_the_box_nodes_are_in_the_ct_follows_the_chosen_segmentation(scene):
    ct = mrml.add_ct(scene)
    a, b = mrml.add_nodes(scene, ct, name="A"), mrml.add_nodes(scene, ct, name="B")
    p = SimpleNamespace(ct=ct, nodes=None, nodesInCT=False, keptNodes=None)
    seen = inputs.follow_nodes(p, inputs.UNSEEN)

    def step(**changes):
        nonlocal seen
        vars(p).update(changes)
        seen = inputs.follow_nodes(p, seen)
        return p.nodesInCT, p.keptNodes

    assert step(nodes=a) == (False, None)
    in_ct, original = step(nodesInCT=True)
    assert in_ct and original == nodes_in_ct.kept_of(a) is not None
    assert all(nodes_in_ct.are_in_ct(a, ct).values())
    assert step() == (True, original)  # nothing changed, no second copy
    assert step(nodes=b) == (False, None)  # nobody has said it of these
    assert not any(nodes_in_ct.are_in_ct(b, ct).values())
    assert step(nodes=a) == (True, original)
    assert step(nodes=None) == (False, None)
    assert step(nodes=b, nodesInCT=True)[1] == nodes_in_ct.kept_of(b) is not None  # a script sets both at once
    assert step(nodesInCT=False) == (False, None)
    assert nodes_in_ct.kept_of(b) is None and nodes_in_ct.kept_of(a) == original
    seen = inputs.UNSEEN  # the module is opened on a restored scene
    assert step(nodes=a, nodesInCT=True, keptNodes=original) == (True, original)


def test_what_the_ct_shows_is_saved_with_the_scene(scene, tmp_path):
    ct = mrml.add_ct(scene)
    nodes = mrml.add_nodes(scene, ct)
    before = segments.instances(nodes, ct)[0]
    nodes_in_ct.keep(nodes, ct)
    segments.remove_node(nodes, segments.node_ids(nodes)[0])
    (tmp_path / "saved").mkdir()
    assert scene.SaveSceneToSlicerDataBundleDirectory(str(tmp_path / "saved"), None)
    again = mrml.new_scene()
    again.SetURL(str(next((tmp_path / "saved").glob("*.mrml"))))
    assert again.Connect()
    loaded = again.GetFirstNodeByName("Nodes")
    original = nodes_in_ct.kept_of(loaded)
    assert original.GetHideFromEditors()
    ct = again.GetFirstNodeByName("CT")
    assert np.array_equal(segments.instances(original, ct)[0], before)
    assert len(segments.node_ids(loaded)) == len(segments.node_ids(original)) - 1
    assert nodes_in_ct.are_in_ct(loaded, ct) == dict.fromkeys(segments.node_ids(loaded), True)


def test_the_first_ct_is_an_image_that_a_scanner_made(scene):
    assert inputs.first_ct(scene) is None
    volume = mrml.phantom().ct
    volumes.add_volume(scene, volume, "labels", class_name="vtkMRMLLabelMapVolumeNode")
    synthetic.mark_synthetic(volumes.add_volume(scene, volume, "made"), {})
    assert inputs.first_ct(scene) is None
    first = volumes.add_volume(scene, volume, "CT")
    volumes.add_volume(scene, volume, "another CT")
    assert inputs.first_ct(scene) is first


def test_soft_tissue_is_shown_unless_somebody_has_set_a_window(scene):
    ct = volumes.add_volume(scene, mrml.phantom().ct, "CT")
    display = ct.GetDisplayNode()
    assert display.GetAutoWindowLevel()
    inputs.show_soft_tissue(ct)
    assert (display.GetWindow(), display.GetLevel()) == inputs.SOFT_TISSUE
    display.SetWindowLevel(1500, -500)
    inputs.show_soft_tissue(ct)
    assert (display.GetWindow(), display.GetLevel()) == (1500, -500)
