"""Names and paths in the files that tools hand on: none leads out of its folder, whatever the file says."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_experiment import make_experiment
from test_names import SETTINGS, small_case

from LNSynthLib.cases.dataset import Dataset, home_of
from LNSynthLib.cases.fingerprint import of_case
from LNSynthLib.cases.importers import pair_by_table
from LNSynthLib.cases.prepare import prepare
from LNSynthLib.conditions.form import DataForm
from LNSynthLib.evaluation.generation import evaluate_samples
from LNSynthLib.experiment.data import known
from LNSynthLib.experiment.plan import DataSource, load_plan
from LNSynthLib.experiment.report.results import Results
from LNSynthLib.generators import model_folder
from LNSynthLib.images.volume import Volume, write
from LNSynthLib.review.export import export
from LNSynthLib.review.samples import pair_id, read_record
from LNSynthLib.review.standings import standings
from LNSynthLib.review.verdicts import record
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import read_json, sha256, write_json
from LNSynthLib.runtime.settings import preset_path
from LNSynthLib.segmentation import model as segmenter
from LNSynthLib.segmentation.settings import SegmentSettings
from LNSynthLib.segmentation.train import MADE, _claim
from LNSynthLib.synthesis.patch_draft import prepared_cases
from LNSynthLib.synthesis.write_sample import standing
from LNSynthLib.training import checkpoints
from LNSynthLib.training.settings import TrainSettings

HOSTILE = ["../../../precious", "/precious", "..", "a/../../precious", "C:\\precious", "\\\\host\\share", 7, None]
TEXTS = [name for name in HOSTILE if isinstance(name, str)]


@pytest.fixture
def precious(tmp_path) -> Path:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    return folder


def sample(folder: Path, **changes) -> Path:
    """A sample as `write_sample` leaves it, its provenance changed."""
    ct = Volume(np.zeros((4, 4, 4), np.int16), np.eye(4))
    write(folder / "ct.nii.gz", ct)
    write(folder / "nodes.nii.gz", ct)
    outputs = {path.name: sha256(path) for path in folder.iterdir()}
    settings = {"name": "default", "labels": "abdomen14"}
    source = {"case": "a", "prepared_key": "k", "prepared_settings": settings}
    write_json(folder / "provenance.json", {"key": "k", "what": "patch", "outputs": outputs, "source": source,
                                            "condition": {"start": [0] * 3, "shape": [4] * 3}} | changes)
    return folder


# A data set on another disk

@pytest.fixture
def linked(tmp_path) -> Dataset:
    """A data set whose cases and preparations a person keeps on another disk."""
    for name in ("cases", "prepared"):
        (tmp_path / "disk" / name).mkdir(parents=True)
        (tmp_path / "data").mkdir(exist_ok=True)
        os.symlink(tmp_path / "disk" / name, tmp_path / "data" / name)
    made = Dataset.create(tmp_path / "data")
    made.add(small_case("a"))
    return made


def test_cases_may_lie_on_another_disk(linked, tmp_path):
    again = Dataset.open(linked.folder)
    assert again.load("a").nodes.array.any() and (tmp_path / "disk" / "cases" / "a" / "ct.nii.gz").is_file()
    of_case(again, "a")
    again.add(small_case("b"))
    prepare(again, SETTINGS)
    assert prepare(Dataset.open(linked.folder), SETTINGS)["unchanged"] == ["a", "b"]
    assert (tmp_path / "disk" / "prepared" / "default" / "a" / "case.json").is_file()
    for ct in (linked.folder / "cases" / "a" / "ct.nii.gz", ):
        dataset, entry = home_of(ct)
        assert entry["id"] == "a" and dataset.folder == linked.folder


def test_nothing_is_written_where_a_link_leads_to_more_than_cases(linked, tmp_path):
    for name in ("cases", "prepared"):
        (tmp_path / "disk" / name / "thesis").mkdir()
        (tmp_path / "disk" / name / "thesis" / "ct.txt").write_text("years of work")
    with pytest.raises(LNSynthError, match="cases: it is a link to .* holds thesis/ct.txt"):
        linked.add(small_case("thesis"))
    of_case(linked, "a")  # without keeping it
    with pytest.raises(LNSynthError, match="prepared: it is a link to .* holds thesis/ct.txt"):
        prepare(linked, SETTINGS)
    assert sorted(p.name for p in (tmp_path / "disk").rglob("*") if p.is_file()) == [
        "anatomy.nii.gz", "ct.nii.gz", "ct.txt", "ct.txt", "nodes.nii.gz"]


def test_a_preparation_is_not_written_through_a_link(tmp_path, precious):
    dataset = Dataset.create(tmp_path / "data")
    dataset.add(small_case("a"))
    (dataset.folder / "prepared").mkdir()
    os.symlink(precious, dataset.folder / "prepared" / "default")
    with pytest.raises(LNSynthError, match="through a link"):
        prepare(dataset, SETTINGS)
    assert [p.name for p in precious.iterdir()] == ["thesis.txt"]


# Provenance of samples

@pytest.mark.parametrize("name", TEXTS)
def test_outputs_of_a_sample_lie_in_its_folder(tmp_path, precious, name):
    folder = sample(tmp_path / "home" / "samples" / "a-000")
    outputs = read_record(folder)["outputs"] | {name: sha256(precious / "thesis.txt")}
    sample(folder, outputs=outputs)
    for reader in (read_record, pair_id):
        with pytest.raises(LNSynthError, match="provenance.json: outputs: the file .* cannot name"):
            reader(folder)
    assert standing(folder, "k") == "other"
    with pytest.raises(LNSynthError, match="provenance.json: outputs"):
        record(folder.parent, "a-000", "accept", reviewer="one")
    assert "outputs: the file" in standings(folder.parent)[0].damaged
    with pytest.raises(LNSynthError, match="no sample is accepted .1 damaged."):
        export(folder.parent, tmp_path / "out", "nifti")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [
    {"outputs": None}, {"outputs": {"a": None}}, {"outputs": ["ct.nii.gz"]}, {"outputs": {"ct.nii.gz": 5}},
    {"source": "a"}, {"source": {"case": ["a"]}}, {"sampling": 3}, {"nodes": [{"id": "x"}]}, {"key": 5},
    {"generator": []},
    {"condition": {"start": ["a"]}}])
def test_a_wrong_provenance_is_one_sentence(tmp_path, changes):
    with pytest.raises(LNSynthError, match="provenance.json: ") as said:
        read_record(sample(tmp_path / "a-000", **changes))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("which", ["case", "name"])
def test_the_case_of_a_sample_lies_in_its_data_set(tmp_path, name, which):
    source = {"case": "a", "prepared_key": "k", "prepared_settings": {"name": "default", "labels": "abdomen14"}}
    if which == "case":
        source["case"] = name
    else:
        source["prepared_settings"]["name"] = name
    folder = sample(tmp_path / "samples" / "a-000", source=source)
    dataset = Dataset.create(tmp_path / "data")
    with pytest.raises(LNSynthError, match="provenance.json: "):
        evaluate_samples(folder.parent, [dataset.folder])


# Preparations, plans, presets

@pytest.mark.parametrize("content", [
    [1], {}, {"settings": 3}, {"settings": {"spacing_mm": "1", "labels": "t", "window": [0, 1]}},
    {"settings": {"spacing_mm": 1, "labels": 3, "window": [0, 1]}}])
def test_a_wrong_prepare_json_is_one_sentence(tmp_path, content):
    dataset = Dataset.create(tmp_path / "data")
    write_json(dataset.folder / "prepared" / "default" / "prepare.json", content)
    with pytest.raises(LNSynthError, match="prepare.json: "):
        prepared_cases([dataset.folder], DataForm(), "train")


@pytest.mark.parametrize("name", TEXTS)
def test_names_of_preparations_in_presets(name):
    for make in (lambda: TrainSettings(prepared=name), lambda: SegmentSettings(prepared=name)):
        with pytest.raises(LNSynthError, match="prepared .* cannot name a folder"):
            make()


def test_a_preset_is_called_by_its_name_or_is_a_yaml_file(tmp_path, precious, monkeypatch):
    monkeypatch.setattr("LNSynthLib.runtime.settings.resources", lambda: tmp_path / "a" / "Resources")
    (tmp_path / "a" / "Resources" / "presets").mkdir(parents=True)
    (precious / "mine.yaml").write_text("a: 1")
    with pytest.raises(LNSynthError, match="There is no"):
        preset_path("presets", "../../../precious/mine")
    assert preset_path("presets", precious / "mine.yaml") == precious / "mine.yaml"


@pytest.mark.parametrize("name", TEXTS)
def test_names_in_plans(name, tmp_path):
    with pytest.raises(LNSynthError, match="plan: the name of data .* cannot name a folder"):
        DataSource(name, phantoms={"train": 1})
    plan = load_plan("smoke")
    table = next(iter(plan.tables.values()))
    with pytest.raises(LNSynthError, match="plan: the table .* cannot name a folder"):
        replace(plan, tables={name: table})
    (tmp_path / "root").mkdir()
    for change in ({"painted": [{"ct": name, "anatomy": "b", "variants": 1}]}, {"dataset": name}):
        if name.startswith("/") and "dataset" in change:
            continue  # a data set may lie anywhere, if the plan says so
        with pytest.raises(LNSynthError, match="plan: the file .* is not a path below"):
            known(replace(plan, data=load_plan("smoke", [f"data=[{json.dumps({'name': 'x'} | change)}]"]).data),
                  tmp_path / "root")


# Tables of pairs

@pytest.mark.parametrize("name", ["../precious/ct.nii.gz", "/precious/ct.nii.gz", "a/../../precious/ct.nii.gz"])
def test_pairs_lie_in_their_folders(tmp_path, name):
    for place in ("images", "precious"):
        write(tmp_path / place / "ct.nii.gz", Volume(np.zeros((4, 4, 4), np.int16), np.eye(4)))
    table = tmp_path / "pairs.csv"
    name = str(tmp_path) + name if name.startswith("/") else name
    for row in (f"{name},ct.nii.gz", f"ct.nii.gz,{name}"):
        table.write_text(f"image,nodes\n{row}\n")
        with pytest.raises(LNSynthError, match="pairs.csv, line 2: (image|nodes) .* is not a path below"):
            pair_by_table(table, tmp_path / "images", tmp_path / "images")
    os.symlink(tmp_path / "precious" / "ct.nii.gz", tmp_path / "images" / "own.nii.gz")  # a person's own link
    table.write_text("image,nodes\nct.nii.gz,own.nii.gz\n")
    assert len(pair_by_table(table, tmp_path / "images", tmp_path / "images")) == 1


# Generators and segmenters

@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Path:
    made = model_folder.create("lnddpm", {"form": {"patch": [16] * 3}, "denoiser": {
        "channels": [4, 8], "blocks": 1, "groups": 2, "heads": 1, "head_width": 4, "token_width": 4}})
    return model_folder.save(tmp_path_factory.mktemp("generator") / "g", made)


def with_facts(generator: Path, folder: Path, change) -> Path:
    folder.mkdir()
    for path in generator.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    about = read_json(folder / "model.json")
    change(about)
    write_json(folder / "model.json", about)
    return folder


@pytest.mark.parametrize("labels", ["../../../precious.yaml", "../../../precious", "/precious.yaml",
                                    "\\\\host\\share\\t.yaml", "//host/t.yaml", 7])
def test_the_label_table_of_a_generator_is_its_own(generator, tmp_path, labels):
    def change(about):
        about["settings"]["form"]["labels"] = labels

    folder = with_facts(generator, tmp_path / "g", change)
    (folder / "labels.yaml").rename(tmp_path / "away.yaml")
    about = read_json(folder / "model.json")
    del about["labels_sha256"]  # as earlier versions wrote it
    write_json(folder / "model.json", about)
    for reader in (model_folder.facts, model_folder.load):
        with pytest.raises(LNSynthError, match=r"model.json: .*label table|there is no label table|form.labels must"):
            reader(folder)


def test_a_generator_keeps_its_own_table_where_another_is_named(generator, tmp_path):
    def change(about):
        about["settings"]["form"]["labels"] = str(tmp_path / "precious.yaml")

    folder = with_facts(generator, tmp_path / "g", change)
    (tmp_path / "precious.yaml").write_text("name: other\nlabels: []\n")
    model, about = model_folder.load(folder)
    assert model.form.labels == model_folder.facts(folder)["settings"]["form"]["labels"] == str(folder / "labels.yaml")


@pytest.mark.parametrize("change", [{"kind": 7}, {"kind": "other"}, {"settings": []}, {"settings": {"form": 3}},
                                    {"weights_sha256": None}, {"trained_on": 4}])
def test_a_wrong_model_json_is_one_sentence(generator, tmp_path, change):
    with pytest.raises(LNSynthError, match="model.json: "):
        model_folder.load(with_facts(generator, tmp_path / "g", lambda about: about.update(change)))


@pytest.mark.parametrize("name", HOSTILE)
def test_the_checkpoint_of_a_segmenter_lies_in_its_folder(tmp_path, name):
    write_json(tmp_path / "dataset.json", {"labels": {}, "lnsynth": {
        "window": [0, 1], "checkpoint": name, "mirror": False, "tiles": 1}})
    with pytest.raises(LNSynthError, match="dataset.json: lnsynth.checkpoint: the id .* cannot name a folder"):
        segmenter.read_dataset(tmp_path)


@pytest.mark.parametrize("name", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_a_segmenter_does_not_train_through_a_link(tmp_path, precious, name):
    run = tmp_path / "run"
    write_json(run / "segmenter.json", {"settings": {}, "data": {}})
    os.symlink(precious, run / name)
    with pytest.raises(LNSynthError, match=f"{name}: it is a link"):
        _claim(run, {"settings": {}, "data": {}}, resume=True)


def test_folders_of_nnunet_go_only_if_they_are_its_own(tmp_path):
    from LNSynthLib.runtime.names import remove_ours

    raw = tmp_path / "nnUNet_raw"
    for name in ("dataset.json", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "notes.txt"):
        (raw / segmenter.DATASET / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / segmenter.DATASET / name).write_text("")
    assert not remove_ours(raw, MADE["nnUNet_raw"]) and len([*raw.rglob("*.*")]) == 4
    (raw / segmenter.DATASET / "notes.txt").unlink()
    assert remove_ours(raw, MADE["nnUNet_raw"]) and not raw.exists()


def test_old_checkpoints_go_unless_they_hold_more(tmp_path):
    tensors = {name: {"w": torch.zeros(2)} for name in ("model", "ema", "optimizer")}
    for step in range(1, 4):
        checkpoints.write(tmp_path, tensors, {"step": step, "seconds": 0.0})
        (tmp_path / "checkpoints" / f"step-{step:08d}" / "notes.txt").write_text("mine") if step == 1 else None
    checkpoints.write(tmp_path, tensors, {"step": 4, "seconds": 0.0})
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-00000001", "step-00000003", "step-00000004"]


# Experiments

@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    return make_experiment(tmp_path_factory.mktemp("experiment")).out


@pytest.mark.parametrize("change, why", [
    *((lambda result, name=name: result.update(dataset=name), "the data set")
      for name in ("dataset/../../precious", "..", "//host/share", 7, None)),  # up alone: a set that was there before
    (lambda result: result["cases"][0].update(id="../../../precious"), "the case"),
    (lambda result: result["cases"][0].update(id="/precious"), "the case")])
def test_data_sets_and_cases_of_a_cell(experiment, change, why):
    path = Results(experiment).layout.data[0].folder(experiment) / "cell.json"
    before = path.read_text()
    content = json.loads(before)
    change(content["result"])
    write_json(path, content)
    try:
        with pytest.raises(LNSynthError, match=f"cell.json: {why}"):
            Results(experiment).tested()
    finally:
        path.write_text(before)
