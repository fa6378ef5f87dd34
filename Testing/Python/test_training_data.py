"""Training patches: what is drawn, from where, and in which form."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_prepared import enlist

from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.cases.prepared import list_prepared, write_prepared
from LNSynthLib.conditions.encode import scale_hu
from LNSynthLib.conditions.form import DataForm
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import read_json, write_json
from LNSynthLib.training import data
from LNSynthLib.training.settings import AugmentSettings, TrainSettings

WINDOW = (-120.0, 240.0)
FORM = DataForm(patch=(16, 16, 16))
NODE_BOXES = ([[3, 9], [12, 16], [10, 14]], [[20, 23], [4, 8], [15, 18]])


def write_case(folder, number, split="train", kind="phantom", shape=(28, 26, 24)):
    """A prepared case: body with a liver, two nodes, tissue at its typical HU with noise."""
    table = LabelTable.load("abdomen14")
    random = np.random.default_rng(number)
    anatomy = np.zeros(shape, np.uint8)
    anatomy[1:-1] = 1
    anatomy[10:18, 10:20, 4:12] = table.index("liver")
    nodes = np.zeros(shape, np.uint16)
    for id, box in enumerate(NODE_BOXES, 1):
        nodes[tuple(slice(*side) for side in box)] = id
    hu = np.array([label.hu for label in table.labels])[anatomy] + 10 * random.standard_normal(shape)
    place = folder / "prepared" / "default" / f"case{number}"
    enlist(folder, f"case{number}", f"p{number}", split, hu)
    return write_prepared(place, scale_hu(hu, WINDOW), anatomy, nodes, {
        "id": f"case{number}", "patient": f"p{number}", "split": split, "kind": kind, "spacing_mm": [1.0, 1.0, 1.0],
        "affine": np.eye(4).tolist(), "window": list(WINDOW), "labels": "abdomen14", "key": f"key{number}",
        "organ_hu": [None] * 6 + [111.0] + [None] * 7, "node_hu": 81.0,
        "nodes": [{"id": id, "bbox": box} for id, box in enumerate(NODE_BOXES, 1)]})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number, split in enumerate(("train", "train", "val")):
        write_case(folder, number, split)
    return folder


@pytest.fixture(scope="module")
def cases(dataset):
    return list_prepared(dataset / "prepared" / "default")


def test_samples_depend_on_seed_and_number_alone(cases):
    settings = TrainSettings(steps=6, batch=4, seed=3)
    patches = data.Patches(cases, FORM, settings)
    one = list(data.loader(patches, 0, 0, 1, pin=False))
    again = {i: patches[i] for i in (5, 17)}
    torch.testing.assert_close(one[5]["image"][0], again[5]["image"], rtol=0, atol=0)
    torch.testing.assert_close(one[17]["condition"][0], again[17]["condition"], rtol=0, atol=0)
    assert not torch.equal(one[5]["image"], one[17]["image"])

    workers = data.Patches(cases, FORM, replace(settings, workers=2))
    for a, b in zip(one[8:], data.loader(workers, 2, 0, 1, pin=False), strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["condition"], b["condition"])
    other = data.Patches(cases, FORM, replace(settings, seed=4))
    assert not torch.equal(other[5]["image"], patches[5]["image"])


@pytest.mark.parametrize("processes, micro", [(1, 4), (2, 2), (2, 1), (4, 1)])
def test_processes_together_draw_what_one_draws(processes, micro):
    settings = TrainSettings(steps=5, batch=4, micro_batch=micro)
    shares = [list(data.micro_batches(settings, 2, p, processes)) for p in range(processes)]
    rounds = zip(*shares, strict=True)
    assert [i for turn in rounds for group in turn for i in group] == list(range(2 * 4, 5 * 4))


def test_patches_hold_a_node_as_often_as_wanted(cases):
    def share(probability):
        patches = data.Patches(cases, FORM, TrainSettings(node_probability=probability))
        whole = [bool(patches[i]["condition"][14].sum() >= 36) for i in range(200)]  # the smaller node has 36 voxels
        return sum(whole) / 200

    assert share(1.0) == 1.0
    assert share(0.0) < 0.8


def test_starts_stay_in_the_volume_and_cover_it(cases):
    random = np.random.default_rng(0)
    starts = np.array([data.random_start(cases[0], (16, 16, 16), random, at_node=False) for _ in range(500)])
    assert (starts.min(0) == 0).all() and (starts.max(0) == np.array(cases[0].shape) - 16).all()
    larger = np.array([data.random_start(cases[0], (32, 16, 16), random, at_node=True) for _ in range(50)])
    assert larger[:, 0].min() >= 28 - 32 and larger[:, 0].max() <= 0  # the volume lies whole in a larger patch
    inside = np.array([data.random_start(cases[0], (2, 2, 2), random, at_node=True) for _ in range(50)])
    for start in inside:
        assert any(all(a <= s and s + 2 <= b for s, (a, b) in zip(start, box, strict=True)) for box in NODE_BOXES)


def test_patch_is_the_case_and_air_beyond_it(cases):
    sample = data.patch(cases[0], (-4, 3, 2), FORM)
    assert sample["image"].shape == (1, 16, 16, 16) and sample["condition"].shape == (15, 16, 16, 16)
    ct, anatomy, nodes = cases[0].ct(), cases[0].anatomy(), cases[0].nodes()
    np.testing.assert_array_equal(sample["image"][0, 4:], ct[:12, 3:19, 2:18])
    assert (sample["image"][0, :4] == -1).all() and (sample["condition"][0, :4] == 1).all()
    np.testing.assert_array_equal(sample["condition"][:14].argmax(0)[4:], anatomy[:12, 3:19, 2:18])
    np.testing.assert_array_equal(sample["condition"][14, 4:], nodes[:12, 3:19, 2:18] > 0)


def test_expected_hu_is_the_case_s_or_the_table_s(cases):
    form, table = replace(FORM, expected_hu=True), LabelTable.load("abdomen14")
    condition = data.patch(cases[0], (2, 6, 2), form)["condition"]
    node = condition[14] == 1
    liver, body = (condition[id] == 1 for id in (table.index("liver"), 1))
    assert condition.shape[0] == 16
    for where, hu in ((node, 81.0), (liver & ~node, 111.0), (body & ~node, table.labels[1].hu)):
        assert condition[15][where].unique().item() == pytest.approx((hu + 120) / 180 - 1, abs=1e-6)


def test_geometric_augmentation_turns_image_and_labels_about_the_patch_s_centre(tmp_path):
    """A CT that is a linear ramp stays one, with the matrix's gradient; labels that threshold it follow it."""
    shape = (40, 40, 40)
    ramp = np.broadcast_to(np.linspace(-0.9, 0.9, 40)[:, None, None], shape)
    info = {"id": "ramp", "split": "train", "kind": "phantom", "spacing_mm": [1, 1, 1], "affine": np.eye(4).tolist(),
            "window": list(WINDOW), "labels": "abdomen14", "organ_hu": [None] * 14, "node_hu": None, "nodes": []}
    case = write_prepared(tmp_path, ramp, (ramp > 0).astype(np.uint8), np.zeros(shape, np.uint16), info)
    augment = AugmentSettings(rotate_deg=15, zoom=0.1)
    matrix = data._geometry(augment, np.random.default_rng(5))
    sample = data.patch(case, (12, 12, 12), FORM, augment, np.random.default_rng(5))
    offsets = np.stack(np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij"), -1)
    x = 12 + 7.5 + offsets @ matrix[0]
    np.testing.assert_allclose(sample["image"][0], -0.9 + 1.8 * x / 39, atol=2e-3)
    clear = np.abs(sample["image"][0].numpy()) > 0.05
    np.testing.assert_array_equal(sample["condition"][1].numpy()[clear] > 0, (sample["image"][0].numpy() > 0)[clear])
    assert np.linalg.det(matrix) > 0 and not np.allclose(matrix, np.eye(3))


def test_intensity_augmentation_moves_image_and_expected_hu_together(cases):
    form, augment = replace(FORM, expected_hu=True), AugmentSettings(shift_hu=40)
    plain = data.patch(cases[0], (6, 6, 2), form)
    moved = data.patch(cases[0], (6, 6, 2), form, augment, np.random.default_rng(1))
    shift = np.random.default_rng(1)
    shift.uniform(-0, 0)  # zoom
    shift.uniform(-0, 0, 3)  # rotations
    shift.uniform(-0, 0)  # gain
    expected = shift.uniform(-40, 40) / 180
    inside = (plain["image"].abs() < 0.7) & (plain["condition"][1:2] + plain["condition"][6:7] > 0)
    torch.testing.assert_close(moved["image"][inside], plain["image"][inside] + expected)
    torch.testing.assert_close(moved["condition"][15:][inside], plain["condition"][15:][inside] + expected)
    torch.testing.assert_close(moved["condition"][:15], plain["condition"][:15])


def test_shares_divide_draws_among_kinds(tmp_path):
    cases = [write_case(tmp_path, n, kind=kind) for n, kind in enumerate(["phantom"] * 3 + ["pseudo", "real"])]
    patches = data.Patches(cases, FORM, TrainSettings(shares={"phantom": 1, "pseudo": 3}))
    np.testing.assert_allclose(patches.weights, [1 / 12, 1 / 12, 1 / 12, 3 / 4, 0])
    np.testing.assert_allclose(data.Patches(cases, FORM, TrainSettings()).weights, 0.2)
    with pytest.raises(LNSynthError, match="leave no case to draw"):
        data.Patches(cases[:3], FORM, TrainSettings(shares={"real": 1.0}))


@pytest.mark.parametrize("wrong, named", [({"spacing_mm": 2.0}, "spacing"), ({"window": (-100.0, 240.0)}, "window"),
                                          ({"labels": "abdomen17", "anatomy_channels": 17}, "label table"),
                                          ({"anatomy_channels": 13}, "13 anatomy channels")])
def test_cases_in_another_form_are_refused(dataset, wrong, named):
    with pytest.raises(LNSynthError, match=named):
        data.collect([dataset], "default", replace(FORM, **wrong), "train")


def test_one_case_id_in_two_data_sets_is_refused(dataset):
    with pytest.raises(LNSynthError, match="case0 is in two"):
        data.collect([dataset, dataset], "default", FORM, "train")


def test_the_manifest_says_what_is_trained_on(tmp_path):
    """A case that moved to test without being prepared again is not drawn; one that left the data set neither."""
    for number in range(3):
        write_case(tmp_path, number)
    moved = Dataset.open(tmp_path)
    moved.entry("case1").update(split="test", patient="another")
    moved.manifest["cases"] = [e for e in moved.manifest["cases"] if e["id"] != "case2"]
    moved.save()
    assert [case.id for case in data.collect([tmp_path], "default", FORM, "train")] == ["case0"]
    [tested] = data.collect([tmp_path], "default", FORM, "test")
    assert (tested.id, tested.split, tested.info["patient"]) == ("case1", "test", "another")


def test_prepared_cases_without_a_manifest_or_of_another_ct_are_refused(tmp_path):
    write_case(tmp_path, 0)
    case_file = tmp_path / "prepared" / "default" / "case0" / "case.json"
    write_json(case_file, {**read_json(case_file), "sha256": {"ct": "0" * 64}})
    with pytest.raises(LNSynthError, match="prepared from another CT .* case case0; run `lnsynth prepare` again"):
        data.collect([tmp_path], "default", FORM, "train")
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(LNSynthError, match="there is no data set here"):
        data.collect([tmp_path], "default", FORM, "train")
