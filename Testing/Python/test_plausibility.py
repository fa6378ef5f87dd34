"""A mask that cannot be lymph nodes is told before anything is made of it; real nodes, large ones too, pass."""

import json

import numpy as np
import pytest
from test_insert import body, grid
from test_provenance import generator  # noqa: F401

from LNSynthLib.cli import main
from LNSynthLib.conditions import pseudo_pairs
from LNSynthLib.conditions.shape_prior import ShapePrior
from LNSynthLib.images.volume import Volume, canonical, read, write
from LNSynthLib.masks.body import label_map
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.masks.nodes import numbered
from LNSynthLib.masks.plausibility import NodeLimits, check_plausible, doubts
from LNSynthLib.runtime.errors import LNSynthError

CTS = {"ts_example": "ts_example_labels", "crlm1004": "crlm1004_coarse_anatomy",
       "r01142_abd": "r01142_abd_coarse_anatomy"}


@pytest.fixture(scope="module")
def scene():
    """(CT, mask of three nodes of 140 HU more than fat) with axes as LAS."""
    shape, affine = grid(2.0, flips=(-1, 1, 1))
    ct, at = body(shape, affine)
    nodes = np.zeros(shape, np.uint8)
    for centre in ((-20, 20, 25), (-15, -25, -20), (-30, 10, 0)):
        nodes[np.linalg.norm(at - centre, axis=-1) <= 7] = 1
    ct.array[nodes > 0] += 140
    return ct, Volume(nodes, affine)


def ball(ct: Volume, centre, radius_mm) -> Volume:
    at = np.moveaxis(np.indices(ct.shape), 0, -1) @ ct.affine[:3, :3].T + ct.affine[:3, 3]
    return Volume((np.linalg.norm(at - centre, axis=-1) <= radius_mm).astype(np.uint8), ct.affine)


def spoiled(scene) -> dict[str, tuple[Volume, str]]:
    ct, nodes = scene
    return {
        "flipped": (Volume(nodes.array[::-1].copy(), nodes.affine), "as dark as fat, lung or air: node 1 (-"),
        "all ones": (Volume(np.ones_like(nodes.array), nodes.affine), "more than 50 mL: node 1 ("),
        "58 mL": (ball(ct, (0, 0, 0), 24), "more than 50 mL: node 1 (58 mL)"),
        "in air": (ball(ct, (72, 55, 0), 4), "as dark as fat, lung or air: node 1 (-10"),
        "noise": (Volume((np.indices(nodes.shape).sum(0) % 3 == 0).astype(np.uint8)
                         * (np.indices(nodes.shape) % 4 == 0).all(0), nodes.affine), "nodes, more than 150"),
    }


@pytest.mark.parametrize("what", ["flipped", "all ones", "58 mL", "in air", "noise"])
def test_what_is_no_node_is_told(scene, what):
    mask, why = spoiled(scene)[what]
    found = doubts(numbered(mask), scene[0])
    assert any(why in text for text in found), found
    with pytest.raises(LNSynthError, match="m.nii: this does not look like lymph nodes in this CT .*--anyway.$"):
        check_plausible(found, "m.nii", False, print)
    told = []
    check_plausible(found, "m.nii", True, told.append)
    assert len(told) == 1 and "--anyway" not in told[0]


def test_nodes_pass_and_so_do_places_for_new_ones(scene):
    ct, nodes = scene
    assert doubts(numbered(nodes), ct) == [] == doubts(numbered(nodes))
    place = numbered(ball(ct, (20, 0, 0), 6))
    assert doubts(place, ct, shown=False) == [] and "dark" in doubts(place, ct)[0] and doubts(place, ct, only=[2]) == []
    scaled = Volume((ct.array + 1024) * 2, ct.affine)
    assert doubts(numbered(nodes), scaled, scaling=(0.5, -1024.0)) == []


def test_an_organ_is_no_node(scene):
    ct, nodes = scene
    organs = ball(ct, (-20, 20, 25), 9)
    (found,) = doubts(numbered(nodes), ct, organs=organs)
    assert found.startswith("more than 50% in organs: node ") and "(100%)" in found
    assert doubts(numbered(nodes), ct, organs=organs, limits=NodeLimits(in_organ=1.0)) == []


def test_verbs_refuse_and_go_on_anyway(scene, tmp_path, generator, capsys):  # noqa: F811
    ct, _ = scene
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    write(tmp_path / "images" / "a.nii.gz", ct)
    write(tmp_path / "masks" / "a.nii.gz", spoiled(scene)["flipped"][0])
    where = ["--ct", str(tmp_path / "images" / "a.nii.gz"), "--nodes", str(tmp_path / "masks" / "a.nii.gz")]
    pairs = ["--images", str(tmp_path / "images"), "--nodes", str(tmp_path / "masks"), "--out", str(tmp_path / "data")]
    options = ["--generator", str(generator), "--steps", "1", "--device", "cpu", "--out", str(tmp_path / "out.nii.gz")]
    assert main(["import", *pairs]) == 2
    assert "does not look like lymph nodes" in capsys.readouterr().err
    assert main(["import", *pairs, "--anyway"]) == 0
    assert "does not look like lymph nodes" in capsys.readouterr().err
    assert main(["insert", *where, *options, "--remove"]) == 2
    assert not (tmp_path / "out.nii.gz").exists() and "--anyway" in capsys.readouterr().err
    assert main(["insert", *where, *options]) == 0, "fat is where new nodes may lie"
    capsys.readouterr()
    write(tmp_path / "masks" / "a.nii.gz", spoiled(scene)["58 mL"][0])
    assert main(["insert", *where, *options]) == 2
    assert main(["variants", *where, *options[:-1], str(tmp_path / "samples")]) == 2
    assert capsys.readouterr().err.count("node 1 (58 mL)") == 2
    assert main(["nodes", *where, "--measure", "--out", str(tmp_path / "table.json")]) == 0, "measuring makes nothing"
    assert len(json.loads((tmp_path / "table.json").read_text())["nodes"]) == 1
    assert main(["nodes", *where, "--remove", "1", "--out", str(tmp_path / "fewer.nii.gz")]) == 2
    assert capsys.readouterr().err.count("node 1 (58 mL)") == 2
    assert main(["nodes", *where, "--remove", "1", "--anyway", "--out", str(tmp_path / "fewer.nii.gz")]) == 0


@pytest.mark.parametrize("values", [[-1000, 400], [-1, 1]])
def test_a_ct_or_a_label_of_minus_one_is_no_prediction(tmp_path, capsys, values):
    array = np.resize(np.array(values, np.int16), (8, 8, 8))
    write(tmp_path / "guess.nii.gz", Volume(array, np.eye(4)))
    write(tmp_path / "truth.nii.gz", Volume((array > 0).astype(np.uint8), np.eye(4)))
    for guess, truth in (("guess", "truth"), ("truth", "guess")):
        assert main(["evaluate", "segmentation", "--predicted", str(tmp_path / f"{guess}.nii.gz"), "--truth",
                     str(tmp_path / f"{truth}.nii.gz")]) == 2
        assert f"guess.nii.gz: values run from {values[0]}" in capsys.readouterr().err


def test_real_masks_raise_no_false_alarm_but_for_the_largest(shared_data):
    """Of 417 real nodes, three of more than 50 mL are told."""
    about = json.loads((shared_data / "nih_abdominal_node_masks.json").read_text())
    masks, told = np.load(shared_data / "nih_abdominal_node_masks.npz"), {}
    for name in masks.files:
        mask = np.pad(masks[name] > 0, 1).astype(np.uint16)
        if found := doubts(Volume(mask, np.diag([*about[name]["spacing"], 1.0]))):
            told[name] = found[0]
    assert len(masks.files) == 417 and len(told) == 3, told
    assert all("more than 50 mL" in text for text in told.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", CTS)
def test_nodes_in_real_cts_pass_and_their_mirror_images_are_told(shared_data, name):
    ct, raw = (canonical(read(shared_data / f"{file}.nii.gz")) for file in (f"{name}_ct", CTS[name]))
    table, rng = LabelTable.load(pseudo_pairs.TABLE), np.random.default_rng(0)
    labels = label_map(ct.array, raw.array, ct.spacing, table)
    nodes, _ = pseudo_pairs.place(labels, ct.spacing, table, 12, rng, ShapePrior.load())
    look = pseudo_pairs.measure_look(ct.array, labels, ct.spacing, table)
    shown = Volume(pseudo_pairs.paint(ct.array, nodes, ct.spacing, rng, look), ct.affine)
    assert nodes.max() >= 6 and doubts(Volume(nodes, ct.affine), shown, organs=raw) == []
    for axis in range(3):
        assert doubts(Volume(np.flip(nodes, axis).copy(), ct.affine), shown, organs=raw), f"flipped along {axis}"
