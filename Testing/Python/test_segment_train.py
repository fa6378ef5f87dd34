"""Training for real, in miniature: what a run leaves behind, that nnU-Net runs it, that it resumes, that it learns."""

import json
import os
import shutil
import socket
import sys

import nibabel
import numpy as np
import pytest
import torch
import yaml
from scipy import ndimage

from LNSynthLib.cases.dataset import Case, Dataset
from LNSynthLib.cases.prepare import PrepareSettings, prepare
from LNSynthLib.cases.prepared import PreparedCase
from LNSynthLib.cli import main
from LNSynthLib.conditions.encode import unscale_hu
from LNSynthLib.generators import model_folder
from LNSynthLib.images.volume import Volume, read, write
from LNSynthLib.inspection import inspect
from LNSynthLib.phantom.phantom import phantom_dataset
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.files import sha256, write_json
from LNSynthLib.segmentation import model
from LNSynthLib.segmentation.export import export
from LNSynthLib.segmentation.model import DATASET
from LNSynthLib.segmentation.predict import Segmenter
from LNSynthLib.segmentation.settings import SegmentSettings, TrainerSettings
from LNSynthLib.segmentation.splits import Division, Item
from LNSynthLib.segmentation.train import train_segmenter
from LNSynthLib.synthesis.synthesize import SynthesizeSettings, synthesize

TINY = TrainerSettings(epochs=2, iterations=2, val_iterations=1, patch=(16, 16, 16), features=(4, 8, 8), batch=2,
                       convolutions=1, batch_dice=True, foreground=0.5, momentum=0.9, save_every=1)
SETTINGS = SegmentSettings(strategy="both", multiple=1, spacing_mm=4.0, margin_mm=40.0, labels="abdomen17", seed=5,
                           trainer=TINY)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three phantoms, one a split."""
    dataset = phantom_dataset(tmp_path_factory.mktemp("data") / "phantoms", 3, seed=1, spacing=4.0, nodes=3)
    for entry, split in zip(dataset.cases(), ("train", "val", "test"), strict=True):
        entry["split"] = split
    dataset.save()
    return dataset.folder


@pytest.fixture(scope="module")
def samples(data, tmp_path_factory):
    """Two samples of the training case, by a generator that knows nothing."""
    prepare(Dataset.open(data), PrepareSettings(spacing_mm=4.0, labels="abdomen17", name="coarse"))
    generator = model_folder.create("lnddpm", {
        "form": {"labels": "abdomen17", "anatomy_channels": 17, "expected_hu": True, "spacing_mm": 4.0,
                 "patch": [16, 16, 16]},
        "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8},
        "timesteps": 20})
    weights, out = tmp_path_factory.mktemp("weights") / "tiny", tmp_path_factory.mktemp("samples")
    model_folder.save(weights, generator)
    synthesize(weights, [data], out, SynthesizeSettings(per_case=2, steps=2), "cpu")
    return out


@pytest.fixture(scope="module")
def trained(data, samples, tmp_path_factory):
    out, events = tmp_path_factory.mktemp("runs") / "run", []
    before = dict(os.environ)
    record = train_segmenter([data], [samples], out, SETTINGS, device="cpu", callback=events.append)
    assert dict(os.environ) == before
    return out, record, events


def test_a_run_tells_what_it_was_trained_on(trained, data):
    out, record, _ = trained
    train, val, test = (entry["id"] for entry in Dataset.open(data).cases())
    assert json.loads((out / "segmenter.json").read_text()) == record
    assert [item["name"] for item in record["data"]["train"]] == [f"{train}-real", f"{train}-000-synthetic1"]
    assert [item["name"] for item in record["data"]["val"]] == [f"{val}-real"]
    assert {"name": f"{test}-real", "reason": "of split test"} in record["left_out"]
    assert {"name": f"{train}-001-synthetic1", "reason": f"beyond 1 samples of case {train}"} in record["left_out"]
    assert record["summary"]["synthetic_per_case"] == [1, 1] and record["versions"]["nnunetv2"]
    assert record["settings"] == SETTINGS.plain()
    plan = record["trained"]["plan"]
    assert (plan["patch_size"], plan["batch_size"], plan["spacing"]) == ([16] * 3, 2, [4.0] * 3)
    assert plan["normalization_schemes"] == ["CTNormalization"] and plan["batch_dice"] is True
    split = json.loads((out / "nnUNet_preprocessed" / model.DATASET / "splits_final.json").read_text())
    assert split == [{side: [item["name"] for item in record["data"][side]] for side in ("train", "val")}]


def test_a_run_tells_no_folder_and_no_name_of_this_computer(trained):
    out = trained[0]
    assert not list(out.rglob("debug.json")) and list(out.rglob("training_log*.txt"))
    found = [f for f in inspect(out) if f.kind in ("path", "host") and not f.file.startswith("nnUNet_preprocessed")]
    assert not [f for f in found if f.kind == "path"], found
    texts = [path.read_text(errors="replace") for path in out.rglob("*") if path.suffix in (".json", ".txt", ".log")]
    assert not [text for text in texts if str(out) in text or sys.prefix in text or f'"{socket.gethostname()}"' in text]


def test_the_optimiser_has_the_settings_own_momentum(trained):
    state = model.load(model.model_folder(trained[0]) / "fold_0" / "checkpoint_final.pth")
    assert [group["momentum"] for group in state["optimizer_state"]["param_groups"]] == [TINY.momentum] == [0.9]


def test_test_cases_are_not_in_a_run_at_all(trained, data):
    test = Dataset.open(data).cases("test")[0]["id"]
    assert not [path for path in trained[0].rglob("*") if test in path.name]
    assert not (data / "prepared" / "segment-4mm-40" / test).exists()


def test_exported_images_are_the_prepared_ones(trained, data):
    raw = trained[0] / "nnUNet_raw" / model.DATASET
    case = PreparedCase.open(data / "prepared" / "segment-4mm-40" / Dataset.open(data).cases("train")[0]["id"])
    image, label = nibabel.load(raw / f"imagesTr/{case.id}-real_0000.nii.gz"), read(
        raw / f"labelsTr/{case.id}-real.nii.gz")
    assert image.get_data_dtype() == np.int16 and b"SYNTHETIC" in bytes(image.header["descrip"])
    np.testing.assert_allclose(np.asarray(image.dataobj), unscale_hu(case.ct(), (-120, 240)), atol=0.51)
    np.testing.assert_array_equal(label.array, case.nodes() > 0)
    np.testing.assert_allclose(image.affine, case.affine, atol=1e-4)
    for path in raw.glob("imagesTr/*"):
        volume = read(path)
        assert volume.array.min() >= -120 and volume.array.max() <= 240
        assert volume.spacing == pytest.approx((4, 4, 4))


def test_every_image_is_exported_in_whole_hu_within_the_window(data, tmp_path):
    """Of a full CT with nodes made in place too, whose bone and gas lie beyond it."""
    case = Dataset.open(data).load(Dataset.open(data).cases("train")[0]["id"])
    folder = tmp_path / "made"
    write(folder / "ct.nii.gz", case.ct)
    write(folder / "nodes.nii.gz", case.nodes)
    write_json(folder / "provenance.json", {"what": "insertion"})
    item = Item("made-synthetic1", "synthetic", "train", case.id, case.id, folder, sha256(folder / "ct.nii.gz"))
    export(Division([item], []), SETTINGS, tmp_path)
    image = read(tmp_path / DATASET / "imagesTr" / "made-synthetic1_0000.nii.gz").array
    assert case.ct.array.min() < -900 and case.ct.array.max() > 300
    assert image.dtype == np.int16 and (image.min(), image.max()) == (-120, 240)


def test_each_epoch_is_logged_and_reported(trained):
    out, record, events = trained
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2] and log[-1] == record["trained"]["last_epoch"]
    assert all(np.isfinite([row["train_loss"], row["val_loss"]]).all() for row in log)
    assert log[0]["learning_rate"] == 0.01 and log[1]["learning_rate"] == pytest.approx(0.01 * 0.5**0.9, abs=1e-6)
    assert {event.stage for event in events} >= {"exporting", "planning", "preprocessing", "training"}
    training = [event for event in events if event.stage == "training"]
    assert training[-1].done == training[-1].total == 4 and "epoch 2 of 2: loss" in training[-1].message
    assert any(event.eta_s for event in training)


def test_nnunets_own_predictor_runs_the_model_and_says_the_same(trained, tmp_path):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    raw = trained[0] / "nnUNet_raw" / model.DATASET
    image = next(iter(raw.glob("imagesTr/*-synthetic1_0000.nii.gz")))
    stock = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(trained[0] / model.MODEL), None)
    assert stock.trainer_name == "nnUNetTrainer"
    stock.predict_from_files_sequential([[str(image)]], [str(tmp_path / "stock")])
    ours = Segmenter.open(trained[0], "cpu")
    np.testing.assert_array_equal(ours.predict(read(image)).instances > 0,
                                  read(tmp_path / "stock.nii.gz").array > 0)
    assert ours.identity == trained[1]["trained"]["weights"] and ours.spacing_mm == 4.0


def test_a_run_is_not_overwritten_and_only_its_own_settings_and_data_resume_it(trained, data, samples, tmp_path):
    out, record, _ = trained
    with pytest.raises(LNSynthError, match="holds a segmenter already; add --resume"):
        train_segmenter([data], [samples], out, SETTINGS, device="cpu")
    assert train_segmenter([data], [samples], out, SETTINGS, resume=True, device="cpu") == record
    with pytest.raises(LNSynthError, match="other settings.multiple"):
        changed = SegmentSettings(**{**vars(SETTINGS), "multiple": 2})
        train_segmenter([data], [samples], out, changed, resume=True, device="cpu")
    with pytest.raises(LNSynthError, match="other data.train"):
        rejected = tmp_path / "samples"
        rejected.mkdir()
        (rejected / "other-000").symlink_to(next(path for path in sorted(samples.iterdir()) if path.is_dir()))
        train_segmenter([data], [rejected], out, SETTINGS, resume=True, device="cpu")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(LNSynthError, match="not empty and holds no segmenter"):
        train_segmenter([data], [samples], tmp_path / "full", SETTINGS, device="cpu")


def test_a_run_killed_between_its_training_and_its_last_word_is_not_trained_again(trained, data, samples, tmp_path,
                                                                                  monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(trained[0], out)
    record = json.loads((out / "segmenter.json").read_text())
    (out / "segmenter.json").write_text(json.dumps({name: said for name, said in record.items() if name != "trained"}))
    monkeypatch.setattr("LNSynthLib.segmentation.train._run", lambda *_: pytest.fail("trained again"))
    assert train_segmenter([data], [samples], out, SETTINGS, resume=True, device="cpu") == record


def test_a_run_killed_at_its_first_word_can_be_begun_again(data, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".segmenter.json.abc.json").touch()
    monkeypatch.setattr("LNSynthLib.segmentation.train.export", lambda *_: pytest.fail("begun"))
    settings = SegmentSettings(**{**vars(SETTINGS), "strategy": "real"})
    with pytest.raises(pytest.fail.Exception, match="begun"):
        train_segmenter([data], [], tmp_path / "run", settings, device="cpu")


def test_the_command(trained, data, samples, tmp_path, capsys):
    preset = tmp_path / "tiny.yaml"
    preset.write_text(yaml.safe_dump({**SETTINGS.plain(), "strategy": "real"}))
    command = ["segment", "train", "--real", str(data), "--trainer-preset", str(preset), "--device", "cpu", "--out"]
    assert main([*command, str(trained[0]), "--synthetic", str(samples), "--strategy", "both", "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "trained on 1 phantom and 1 synthetic, validated on 1 phantom; 2 images left out" in printed
    assert str(trained[0] / model.MODEL) in printed
    assert main([*command, str(tmp_path / "new"), "--strategy", "both"]) == 2
    assert "both needs a folder of synthetic samples" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "new"), "--set", "spacing_mm=2.0", "multiple=3", "strategy=both",
                 "--synthetic", str(samples)]) == 2
    assert "its voxels are 4 mm, and the segmenter's 2 mm" in capsys.readouterr().err
    assert main([*command, str(data / "run")]) == 2
    assert "would change the input" in capsys.readouterr().err
    assert not (tmp_path / "new").exists() and not (data / "run").exists()


def test_what_nnunet_fails_at_is_told(data, tmp_path, monkeypatch):
    """The child's own last words, and where all of them are."""
    monkeypatch.setattr("LNSynthLib.segmentation.train.export", lambda *_: None)
    settings = SegmentSettings(**{**vars(SETTINGS), "strategy": "real"})
    with pytest.raises(LNSynthError, match="dataset.json does not exist"):
        train_segmenter([data], [], tmp_path / "run", settings, device="cpu")


def test_a_preparation_that_does_not_fit_is_refused(data, samples, tmp_path):
    settings = SegmentSettings(**{**vars(SETTINGS), "prepared": "coarse"})
    with pytest.raises(LNSynthError, match="was prepared with a margin of 100.0, not 40.0"):
        train_segmenter([data], [samples], tmp_path / "run", settings, device="cpu")


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(trained, data, samples, tmp_path):
    """Another run with the same seed, stopped after its first epoch, ends with the weights of the one before."""
    def stop(event):
        if event.message.startswith("epoch 1 of"):
            raise Cancelled("enough")

    out = tmp_path / "run"
    with pytest.raises(Cancelled):
        train_segmenter([data], [samples], out, SETTINGS, device="cpu", callback=stop)
    assert (out / model.MODEL / "fold_0" / "checkpoint_latest.pth").is_file()
    settings = SegmentSettings(**{**vars(SETTINGS), "trainer": TrainerSettings(**{**vars(TINY), "keep_data": False})})
    record = train_segmenter([data], [samples], out, settings, resume=True, device="cpu")
    assert record["trained"]["weights"] == trained[1]["trained"]["weights"]
    losses = [[json.loads(line)["train_loss"] for line in (run / "log.jsonl").read_text().splitlines()]
              for run in (out, trained[0])]
    assert losses[0] == losses[1]
    assert not (out / "nnUNet_raw").exists() and Segmenter.open(out, "cpu").spacing_mm == 4.0


def with_balls(folder, phantoms):
    """The phantoms with large balls for nodes, brighter than all else: a task that few steps can learn."""
    made = Dataset.create(folder, kind="phantom")
    for number, entry in enumerate(phantoms.cases()):
        case, rng = phantoms.load(entry["id"]), np.random.default_rng(number)
        inside = np.argwhere(ndimage.binary_erosion(ndimage.binary_closing(case.ct.array > -200), iterations=6))
        index = np.stack(np.meshgrid(*map(np.arange, case.ct.shape), indexing="ij"), -1)
        nodes = np.zeros(case.ct.shape, np.uint16)
        np.minimum(case.ct.array, 100, out=case.ct.array)  # bone too
        for centre in inside[rng.choice(len(inside), 12, replace=False)]:
            ball = np.linalg.norm((index - centre) * case.ct.spacing, axis=-1) < rng.uniform(14, 20)
            nodes[ball] = 1
            case.ct.array[ball] = np.clip(rng.normal(220, 10, ball.sum()), 190, 239)
        made.add(Case(entry["id"], case.ct, Volume(nodes, case.ct.affine), case.anatomy, {"split": entry["split"]}))
    return folder


@pytest.mark.slow
def test_it_learns(data, tmp_path):
    balls = with_balls(tmp_path / "balls", Dataset.open(data))
    trainer = TrainerSettings(epochs=8, iterations=20, val_iterations=4, patch=(24, 24, 24), features=(8, 16, 32),
                              batch=2, batch_dice=True, foreground=0.5, save_every=8, learning_rate=0.05, momentum=0.9,
                              augmentation="none", mirror=False, mirror_prediction=False)
    settings = SegmentSettings(spacing_mm=4.0, margin_mm=40.0, trainer=trainer)
    out = tmp_path / "run"
    record = train_segmenter([balls], [], out, settings, device="cpu")
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    case = Dataset.open(balls).load(Dataset.open(balls).cases("val")[0]["id"])
    found, truth = Segmenter.open(out, "cpu").predict(case.ct).instances > 0, case.nodes.array > 0
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    print(f"Dice {dice:.3f}, pseudo Dice {record['trained']['best_ema_dice']:.3f}, "
          f"losses {[round(row['train_loss'], 2) for row in log]}")
    assert log[-1]["train_loss"] < log[0]["train_loss"] - 0.5 and record["trained"]["best_ema_dice"] > 0.5
    assert dice > 0.9  # 0.98 on one thread as on two
