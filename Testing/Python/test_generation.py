"""A folder of samples against its real patches: the table is right about good, bad and copied samples."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from made_prepared import enlist
from scipy import ndimage

from LNSynthLib import cli
from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.cases.prepared import PreparedCase, write_prepared
from LNSynthLib.cases.sides import members
from LNSynthLib.cases.trained_on import TrainedOn
from LNSynthLib.conditions.encode import scale_hu, unscale_hu
from LNSynthLib.conditions.form import DataForm
from LNSynthLib.evaluation import distribution, images
from LNSynthLib.evaluation.features import VARIABLE, FeatureNet, lpips, pooled
from LNSynthLib.evaluation.generation import FACTS, METRICS, ImageSettings, evaluate_samples, table
from LNSynthLib.evaluation.memorisation import MemorisationSettings
from LNSynthLib.generators import model_folder
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.masks.nodes import records
from LNSynthLib.review.provenance import Sampled, prepared_source, provenance
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import read_json, write_json
from LNSynthLib.synthesis.patch_draft import Draft
from LNSynthLib.synthesis.synthesize import SynthesizeSettings, synthesize
from LNSynthLib.synthesis.write_sample import to_hu, write_sample

WINDOW, SIDE = (-120.0, 240.0), 32
FORM = DataForm("abdomen17", 17, False, 2.0, WINDOW, (SIDE,) * 3)
TABLE = LabelTable.load("abdomen17")
LIVER, FAT = TABLE.index("liver"), TABLE.index("fat")
FACTS_OF_GENERATOR = {"kind": "lnddpm", "weights_sha256": "0" * 64, "settings": {}}


def scan(anatomy, nodes, seed):
    """A CT in [-1, 1] of that anatomy: liver 100 HU, fat -90, nodes 50, each with grain of 12 HU."""
    hu = np.select([nodes > 0, anatomy == LIVER], [50.0, 100.0], -90.0)
    return scale_hu(ndimage.gaussian_filter(hu, 0.5) + np.random.default_rng(seed).normal(0, 12, hu.shape), WINDOW)


def write_case(data, n, split="train", shape=(40, 38, 36)):
    """A prepared case: a lump of liver of a random shape in fat, and a node in the fat."""
    random = np.random.default_rng([n, 1])
    lump = ndimage.gaussian_filter(random.normal(size=shape), 5)
    anatomy = np.where(lump > np.quantile(lump, 0.5), LIVER, FAT).astype(np.uint8)
    nodes = np.zeros(shape, np.uint16)
    nodes[17:22, 16:21, 15:20] = 1
    around = ndimage.binary_dilation(nodes, iterations=4)
    anatomy[around] = FAT
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    settings = {"name": "p", "spacing_mm": 2.0, "labels": "abdomen17", "window": list(WINDOW)}
    info = {"id": f"case{n}", "patient": f"patient{n}", "split": split, "kind": "phantom", "window": list(WINDOW),
            "labels": "abdomen17", "settings": settings, "key": f"key{n}", "sha256": {}, "spacing_mm": [2.0] * 3,
            "affine": affine.tolist(), "nodes": records(nodes, affine), "organ_hu": [None] * 17, "node_hu": 50.0}
    scaled = scan(anatomy, nodes, [n, 2])
    enlist(data, info["id"], info["patient"], split, unscale_hu(scaled, WINDOW), affine=affine)
    case = write_prepared(data / "prepared" / "p" / info["id"], scaled, anatomy, nodes, info)
    write_json(data / "prepared" / "p" / "prepare.json", {"settings": settings})
    return case


def make_sample(out, name, case, scaled=None, start=(3, 2, 1), nodes=None):
    """A sample of a case's patch; `scaled` is what the generator made, None: a fresh scan of the same anatomy."""
    box = tuple(slice(s, s + SIDE) for s in start)
    anatomy, true = case.anatomy(box), case.nodes(box)
    nodes = true if nodes is None else nodes
    scaled = scan(anatomy, nodes, len(name) + 1000) if scaled is None else scaled
    draft = Draft(case, FORM, start, anatomy, nodes, [])

    def about(outputs):
        return provenance("patch", FACTS_OF_GENERATOR, Sampled(1, "dpmpp", 2, "cpu"), labels="abdomen17",
                          source=prepared_source(case), outputs=outputs,
                          condition={"start": list(start), "shape": [SIDE] * 3, "nodes": []})

    write_sample(out / name, draft, to_hu(scaled, WINDOW), FACTS_OF_GENERATOR, about)
    return draft


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for n in range(5):
        write_case(folder, n, "test" if n == 4 else "train")
    return folder


@pytest.fixture(scope="module")
def cases(data):
    return [PreparedCase.open(data / "prepared" / "p" / f"case{n}") for n in range(5)]


@pytest.fixture(scope="module")
def made(cases, tmp_path_factory):
    """Four samples: a good one, a copy of its own patch, one with a moved node, and one that is dull and too dark."""
    out = tmp_path_factory.mktemp("samples")
    box = tuple(slice(s, s + SIDE) for s in (3, 2, 1))
    make_sample(out, "a-good", cases[0])
    make_sample(out, "b-copy", cases[1], cases[1].ct(box))
    make_sample(out, "c-moved", cases[2], nodes=np.roll(cases[2].nodes(box), 1, axis=0))
    dull = ndimage.gaussian_filter(cases[4].ct(box), 1) - 20 * 2 / 360
    make_sample(out, "d-dull", cases[4], dull)
    return out


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small MedicalNet checkpoint with random weights."""
    from monai.networks.nets.resnet import ResNet, ResNetBlock

    torch.manual_seed(0)
    net = ResNet(ResNetBlock, [1, 1, 1, 1], [4, 8, 8, 16], n_input_channels=1, feed_forward=False,
                 bias_downsample=False)
    path = tmp_path_factory.mktemp("weights") / "resnet.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    return path


@pytest.fixture(scope="module")
def result(made, data, weights):
    return evaluate_samples(made, [data], features=FeatureNet.load(weights, "cpu"))


def by_name(result):
    return {row["sample"]: row for row in result["samples"]}


def test_each_row_is_what_its_functions_say(result, made, cases, weights):
    from LNSynthLib.images.volume import read

    net, rows = FeatureNet.load(weights, "cpu"), by_name(result)
    box = tuple(slice(s, s + SIDE) for s in (3, 2, 1))
    seen = []
    for name, case in {"a-good": cases[0], "b-copy": cases[1], "c-moved": cases[2], "d-dull": cases[4]}.items():
        synthetic, real = scale_hu(read(made / name / "ct.nii.gz").array, WINDOW), case.ct(box)
        row, maps = rows[name], (net.maps(synthetic), net.maps(real))
        seen.append([pooled(m) for m in maps])
        assert row["mse"] == pytest.approx(images.mse(synthetic, real), rel=1e-3, abs=1e-7)
        assert row["mse_01"] == row["mse"] / 4
        assert row["psnr"] == pytest.approx(images.psnr(synthetic, real), abs=0.01)
        assert row["ms_ssim"] == pytest.approx(images.ms_ssim(synthetic, real), abs=1e-4) and row["ssim_scales"] == 3
        assert row["lpips"] == pytest.approx(lpips(*maps), rel=0.01, abs=1e-6)
        assert (row["case"], row["patient"], row["kind"]) == (case.id, case.info["patient"], "phantom")
    synthetic, real = (np.array(part) for part in zip(*seen, strict=True))
    said = result["summary"]
    assert said["fid"] == pytest.approx(distribution.fid(synthetic, real), rel=0.01)
    assert said["mmd"] == pytest.approx(distribution.mmd(synthetic, real), rel=0.01)
    assert "4 patches are no more than the 16 features" in said["fid_caveat"]
    assert said["features"]["name"] == "MedicalNet resnet 1-1-1-1"


def test_the_table_tells_good_from_bad(result):
    good, copy, moved, dull = (by_name(result)[n] for n in ("a-good", "b-copy", "c-moved", "d-dull"))
    assert copy["mse"] < good["mse"] / 100 and copy["psnr"] > 45 and copy["ms_ssim"] > 0.999 and copy["lpips"] < 1e-3
    assert good["ms_ssim"] > dull["ms_ssim"]
    assert [row["nodes_changed"] for row in (good, copy, moved, dull)] == [False, False, True, False]
    assert good["organ_error_hu"] < 1 and good["core_error_hu"] < 1
    # 20 HU too dark, and blurred, which shows in the core least.
    assert dull["core_error_hu"] == pytest.approx(20, abs=4) and dull["organ_error_hu"] > dull["core_error_hu"] + 5
    assert good["contrast_hu"] == pytest.approx(good["real_contrast_hu"], abs=3)
    assert moved["contrast_hu"] == pytest.approx(moved["real_contrast_hu"], abs=15)
    assert 100 < good["real_contrast_hu"] < 150 and dull["contrast_hu"] < dull["real_contrast_hu"] - 10


def test_only_the_copy_is_flagged(result):
    rows = by_name(result)
    assert rows["b-copy"]["copied"] == ["pixels", "detail"] and rows["b-copy"]["detail"] > 0.99
    near = rows["b-copy"]["nearest"]["pixels"]
    assert (near["case"], near["start"], near["flips"]) == ("case1", [3, 2, 1], [False] * 3) and near["distance"] < 0.1
    assert abs(rows["a-good"]["detail"]) < 0.1
    assert [rows[n]["copied"] for n in ("a-good", "c-moved")] == [[], []]
    copies = result["summary"]["memorisation"]
    assert copies["flagged"] == ["b-copy"] and copies["judged"] == 4
    assert copies["training_patients"] == copies["training_cases"] == 4
    assert copies["planted"] == {"copies": 6, "found": 6, "honest": 6, "flagged": 0}
    assert set(copies["detail_by_split"]) == {"train", "test"}
    near = rows["a-good"]["nearest"]
    assert near["pixels"]["distance"] > copies["limits"]["pixels"] == 0.5
    assert near["features"]["case"] != "case0"


def test_copies_of_any_place_and_flip_are_flagged_of_ones_own_case_too(cases, data, tmp_path):
    def at(case, start):
        return case.ct(tuple(slice(s, s + SIDE) for s in start)).astype(float)

    noise = np.random.default_rng(0).normal(0, 10 / 360, (SIDE,) * 3)  # 5 HU
    wanted = {
        "another": (cases[3], (8, 6, 4), (0, 0, 0), at(cases[3], (8, 6, 4)) + noise),
        "mirrored": (cases[2], (4, 3, 2), (1, 0, 0), at(cases[2], (4, 3, 2))[::-1]),
        "turned": (cases[2], (0, 5, 2), (1, 1, 1), at(cases[2], (0, 5, 2))[::-1, ::-1, ::-1]),
        "blurred": (cases[1], (5, 5, 0), (0, 0, 0), ndimage.gaussian_filter(at(cases[1], (5, 5, 0)), 0.5)),
        "shifted": (cases[0], (4, 1, 1), (0, 0, 0), at(cases[0], (4, 1, 1)))}
    for name, (*_, made) in wanted.items():
        make_sample(tmp_path, name, cases[0], np.clip(made, -1, 1))
    make_sample(tmp_path, "honest", cases[0])
    found = evaluate_samples(tmp_path, [data], ImageSettings(memorisation=MemorisationSettings(planted=0)))
    rows = by_name(found)
    assert rows.pop("honest")["copied"] == [] and found["summary"]["memorisation"]["planted"] is None
    for name, (case, start, flips, _) in wanted.items():
        near = rows[name]["nearest"]["pixels"]
        assert "pixels" in rows[name]["copied"]
        assert (near["case"], tuple(near["start"]), tuple(near["flips"])) == (case.id, start, flips)


def test_without_weights_their_columns_are_empty_and_it_says_so(made, data):
    found = evaluate_samples(made, [data])
    said = found["summary"]
    assert all(row["lpips"] is None and row["nearest"]["features"] is None for row in found["samples"])
    assert said["fid"] is said["mmd"] is said["features"] is None and VARIABLE in said["features_absent"]
    assert said["metrics"]["lpips"]["n"] == 0 and said["metrics"]["mse"]["n"] == 4
    text = json.dumps(found, allow_nan=False)
    assert json.dumps(json.loads(text)) == text


def test_summary_and_table_are_means_of_the_rows(result):
    rows, said = result["samples"], result["summary"]
    for name in METRICS:
        values = [row[name] for row in rows if row[name] is not None]
        spread = said["metrics"][name]
        assert spread["mean"] == pytest.approx(np.mean(values)) and spread["n"] == len(values)
        assert spread["sd"] == pytest.approx(np.std(values, ddof=1))
        assert spread["low"] <= spread["mean"] <= spread["high"]
    liver = next(o for o in said["organs"] if (o["label"], o["part"]) == ("liver", "core"))
    errors = [o["error"] for row in rows for o in row["organs"] if (o["label"], o["part"]) == ("liver", "core")]
    assert liver["error"] == pytest.approx(np.mean(errors)) and liver["samples"] == 4
    assert liver["absolute_error"] == pytest.approx(np.mean(np.abs(errors)))
    flat = table(result)
    assert set(FACTS) | set(METRICS) <= set(flat[0]) and flat[-1]["copied"] == "1/4"
    assert flat[-1]["mse"] == pytest.approx(np.mean([row["mse"] for row in flat[:-1]]))


def test_command_line(made, data, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    out = tmp_path / "scores"
    arguments = ["evaluate", "images", "--samples", str(made), "--data", str(data), "--out", str(out)]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "4 SYNTHETIC samples, 4 from phantom cases" in said and "LPIPS, FID and MMD are empty" in said
    assert "1 of 4 look like copies" in said and "b-copy" in said
    with open(out / "images.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["sample"] for row in rows] == ["a-good", "b-copy", "c-moved", "d-dull", "all"]
    assert all(row["lpips"] == "" for row in rows) and float(rows[0]["mse"]) > 0
    assert read_json(out / "images.json")["summary"]["samples"] == 4
    monkeypatch.setenv(VARIABLE, str(weights))
    assert cli.main([*arguments, "--set", "memorisation.per_case=2", "ssim.window=5"]) == 0
    assert "MedicalNet resnet 1-1-1-1: FID" in capsys.readouterr().out
    settings = read_json(out / "images.json")["settings"]
    assert settings["memorisation"]["per_case"] == 2 and settings["ssim"]["window"] == 5 and settings["range"] == 2


def test_samples_of_a_generator_with_nodes_unchanged(data, tmp_path):
    torch.manual_seed(0)
    model = model_folder.create("lnddpm", {
        "form": {"labels": "abdomen17", "anatomy_channels": 17, "spacing_mm": 2.0, "patch": [SIDE] * 3},
        "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8},
        "timesteps": 20})
    weights = model_folder.save(tmp_path / "tiny", model)
    synthesize(weights, [data], tmp_path / "out", SynthesizeSettings(steps=1, split="test", vary=None), "cpu")
    (row,) = evaluate_samples(tmp_path / "out", [data])["samples"]
    assert row["case"] == "case4" and row["split"] == "test" and not row["nodes_changed"]
    assert row["psnr"] < 15 and row["copied"] == []


def test_samples_of_a_test_case_that_their_generator_was_trained_on_are_refused(data, cases, tmp_path):
    make_sample(tmp_path / "out", "of-4", cases[4])
    where = tmp_path / "out" / "of-4" / "provenance.json"
    record, told = read_json(where), []
    evaluate_samples(tmp_path / "out", [data], callback=lambda event: told.append(event.message or ""))
    assert any("does not say what it was trained on" in text for text in told)
    everyone = members([data])
    for trained, refused in ((everyone[:4], False), (everyone, True)):
        record["generator"]["trained_on"] = TrainedOn.of(trained).plain()
        write_json(where, record)
        if refused:
            with pytest.raises(LNSynthError, match="generator of of-4 was trained on this patient.*case4.*split test"):
                evaluate_samples(tmp_path / "out", [data])
        else:
            evaluate_samples(tmp_path / "out", [data])


def test_other_data_and_damaged_samples_are_refused(made, data, cases, tmp_path):
    Dataset.create(tmp_path / "empty")
    with pytest.raises(LNSynthError, match="case0 .*none of them has it"):
        evaluate_samples(made, [tmp_path / "empty"])
    shutil.copytree(data, tmp_path / "anew")
    path = tmp_path / "anew" / "prepared" / "p" / "case0" / "case.json"
    write_json(path, read_json(path) | {"key": "another"})
    with pytest.raises(LNSynthError, match="prepared anew since"):
        evaluate_samples(made, [tmp_path / "anew"])
    shutil.copytree(made, tmp_path / "made")
    sidecar = tmp_path / "made" / "a-good" / "provenance.json"
    record = read_json(sidecar)
    write_json(sidecar, record | {"condition": {"start": [3, 2, 1], "shape": [16, 16, 16]}})
    with pytest.raises(LNSynthError, match="differ in shape"):
        evaluate_samples(tmp_path / "made", [data])
    write_json(sidecar, record | {"condition": {}})
    with pytest.raises(LNSynthError, match="does not record which patch"):
        evaluate_samples(tmp_path / "made", [data])
    write_json(sidecar, record | {"what": "insertion"})
    with pytest.raises(LNSynthError, match="not a synthetic patch"):
        evaluate_samples(tmp_path / "made", [data])
