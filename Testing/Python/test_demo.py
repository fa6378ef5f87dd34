"""The demo: that it shows what it says, on a phantom and on a CT that is given, and owns up to what it is."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from LNSynthLib import cli
from LNSynthLib.demo import demo as demo_module
from LNSynthLib.demo.page import node_numbers
from LNSynthLib.generators import model_folder
from LNSynthLib.images.volume import read, write
from LNSynthLib.phantom.phantom import phantom
from LNSynthLib.runtime.files import sha256
from LNSynthLib.runtime.locks import alone_in

VARIANTS = {"as-they-are", "affine", "elastic", "one-gone-two-new"}


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    torch.manual_seed(0)
    model = model_folder.create("lnddpm", {
        "form": {"labels": "abdomen17", "anatomy_channels": 17, "expected_hu": True, "spacing_mm": 3.0,
                 "patch": [32, 32, 32]},
        "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8},
        "timesteps": 20})
    return model_folder.save(tmp_path_factory.mktemp("weights") / "tiny", model)


@pytest.fixture(scope="module")
def shown(generator, tmp_path_factory):
    """The demo's folder, on a coarse phantom."""
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "PHANTOM_MM", 3.0)
        assert cli.main(["demo", "--out", str(out), "--generator", str(generator), "--steps", "2"]) == 0
    return out


def test_the_page_stands_alone_and_says_what_it_shows(shown):
    text = (shown / "index.html").read_text()
    title = re.search("<title>(.*?)</title>", text)[1]
    assert "SYNTHETIC" in title and "phantom" in title
    assert "SYNTHETIC" in re.sub("base64,[^']*", "", text.split("<h1>")[0]), "no banner on top"
    sources = re.findall(r"src='([^']{0,30})", text)
    assert len(sources) == 2 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "http" not in re.sub("base64,[^']*", "", text)
    for name in VARIANTS:
        assert name.replace("-", " ").replace("gone two", "gone, two") in text
    assert (shown / "montage.png").stat().st_size > 10_000


def test_four_variants_of_one_anatomy(shown):
    assert {p.name for p in (shown / "variants").iterdir()} == VARIANTS
    anatomy = {sha256(p / "anatomy.nii.gz") for p in (shown / "variants").iterdir()}
    nodes = {p.name: read(p / "nodes.nii.gz").array for p in (shown / "variants").iterdir()}
    assert len(anatomy) == 1
    assert len({n.tobytes() for n in nodes.values()}) == 4
    record = json.loads((shown / "variants" / "one-gone-two-new" / "provenance.json").read_text())
    assert (record["sampling"]["run_seed"], record["sampling"]["sample"]) == (0, "one gone, two new")
    assert record["source"]["prepared_settings"]["spacing_mm"] == 3.0
    operations = [r["operation"] for r in record["condition"]["nodes"]]
    assert operations[0] == "removed" and set(operations[1:]) == {"added"}
    assert cli.main(["review", "list", str(shown / "variants")]) == 0  # samples like any other
    gone = record["condition"]["nodes"][0]["id"]
    assert (nodes["as-they-are"] == gone).any() and not (nodes["one-gone-two-new"] == gone).any()


def test_the_node_in_place_changes_its_surroundings_alone(shown):
    before = read(next((shown / "data" / "phantom" / "cases").iterdir()) / "ct.nii.gz")
    after, node = read(shown / "in-place" / "ct.nii.gz"), read(shown / "in-place" / "node.nii.gz").array
    differs = before.array != after.array
    distance = ndimage.distance_transform_edt(node == 0, sampling=before.spacing)
    assert node.any() and differs[node > 0].mean() > 0.9
    assert not differs[distance >= 6].any()
    assert json.loads((shown / "in-place" / "ct.nii.gz.provenance.json").read_text())["what"] == "insertion"


def test_a_ct_that_is_given(generator, tmp_path, monkeypatch, capsys):
    drawn = phantom(2, 4.0, nodes=0)
    write(tmp_path / "scan.nii.gz", drawn.ct)
    write(tmp_path / "organs.nii.gz", drawn.anatomy)
    arguments = ["demo", "--ct", str(tmp_path / "scan.nii.gz"), "--anatomy", str(tmp_path / "organs.nii.gz"),
                 "--generator", str(generator), "--steps", "1", "--seed", "4"]
    digests = []
    for run in "ab":
        assert cli.main([*arguments, "--out", str(tmp_path / run)]) == 0
        text = (tmp_path / run / "index.html").read_text()
        assert "your CT" in text and "PHANTOM" not in text
        digests.append({str(p.relative_to(tmp_path / run)): sha256(p) for p in (tmp_path / run).rglob("*.nii.gz")})
    assert digests[0] == digests[1] and len(digests[0]) == 2 + 4 * 3 + 2
    assert read(tmp_path / "a" / "variants" / "as-they-are" / "nodes.nii.gz").array.any()
    # A second run into the same folder takes the place of the first.
    assert cli.main([*arguments, "--out", str(tmp_path / "a")]) == 0


def test_refusals(generator, tmp_path, monkeypatch, capsys):
    assert cli.main(["demo", "--out", str(tmp_path / "o"), "--generator", str(generator), "--anatomy", "x.nii"]) == 2
    assert "--ct" in capsys.readouterr().err
    mine = tmp_path / "o" / "in-place" / "ct.nii.gz"  # of an earlier demo, say
    assert cli.main(["demo", "--out", str(tmp_path / "o"), "--generator", str(generator), "--ct", str(mine)]) == 2
    assert "choose another --out" in capsys.readouterr().err
    monkeypatch.setattr(model_folder, "resources", lambda: tmp_path)
    assert cli.main(["demo", "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert "demo weights are missing" in said and "--generator" in said
    assert not (tmp_path / "o").exists()


def test_two_demos_do_not_share_a_folder(generator, tmp_path, capsys):
    with alone_in(tmp_path / "o", 0, "busy"):
        assert cli.main(["demo", "--out", str(tmp_path / "o"), "--generator", str(generator)]) == 2
    assert "another demo is being made here" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_node_numbers_know_a_node_that_is_where_its_mask_is_from_one_that_is_not():
    nodes = np.zeros((30, 30, 30), np.uint16)
    nodes[10:17, 11:18, 12:19] = 1
    anatomy = np.full(nodes.shape, 14, np.uint8)
    draft = SimpleNamespace(form=SimpleNamespace(labels="abdomen17"), anatomy=anatomy, nodes=nodes,
                            affine=np.diag([2.0, 2.0, 2.0, 1.0]), case=SimpleNamespace(spacing=(2.0, 2.0, 2.0)))
    hu = np.where(nodes > 0, 60.0, -100.0)
    (there,) = node_numbers(hu, draft)
    assert there["hu"] == 60 and there["contrast"] == 160 and there["dice"] == 1
    assert there["volume_ml"] == pytest.approx(7**3 * 8 / 1000)
    (elsewhere,) = node_numbers(np.roll(hu, 4, axis=0), draft)
    assert elsewhere["dice"] < 0.75 and elsewhere["contrast"] < 60
    draft.anatomy = np.full(nodes.shape, 6, np.uint8)
    assert node_numbers(hu, draft)[0]["dice"] is None
