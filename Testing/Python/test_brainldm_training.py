"""BrainLDM in the training loop: two stages, each of which a killed run resumes, and what it ships of the first."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from made_prepared import write_case
from safetensors.torch import load_file

from LNSynthLib.generators import model_folder as generators
from LNSynthLib.training import checkpoints
from LNSynthLib.training.log import read as read_log
from LNSynthLib.training.loop import train
from LNSynthLib.training.settings import Preset, TrainSettings

TINY = {
    "about": "a network for tests",
    "generator": {"kind": "brainldm", "form": {"patch": [16, 16, 16]}, "timesteps": 20,
                  "autoencoder_share": 0.6, "adversarial_start": 0.3,
                  "autoencoder": {"channels": [8, 16], "blocks": 1, "groups": 4, "discriminator_channels": 4,
                                  "discriminator_layers": 2},
                  "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "attention": [False, True], "heads": 2,
                               "token_width": 8}},
    # Of ten steps the first two are the autoencoder's alone, the next four are its and its adversary's.
    "training": {"steps": 10, "batch": 2, "checkpoint_every": 100, "sample_every": 0, "learning_rate": 1e-3,
                 "node_probability": 0.5},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two prepared cases: noise and a brighter node."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        write_case(folder, number)
    return folder


def tiny(**training) -> Preset:
    return Preset(TINY["generator"], TrainSettings(**{**TINY["training"], **training}), TINY["about"])


@pytest.fixture(scope="module")
def whole_run(dataset, tmp_path_factory):
    """A run of all ten steps at one go."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(tiny(), [dataset], run, device="cpu")["step"] == 10
    return run


def files(run):
    return {name: load_file(checkpoints.latest(run) / f"{name}.safetensors") for name in ("model", "ema", "optimizer")}


def test_each_stage_is_logged(whole_run):
    records = read_log(whole_run / "log.jsonl")
    assert ["discriminator.loss" in record for record in records] == [False] * 2 + [True] * 4 + [False] * 4
    assert ["l1" in record for record in records] == [True] * 6 + [False] * 4
    assert [record["adversarial"] > 0 for record in records[:6]] == [False] * 2 + [True] * 4


def test_sessions_of_one_step_each_equal_one_of_all(dataset, whole_run, tmp_path):
    """One ends in each stage, at each switch, and while the latents' scale is being measured."""
    run = tmp_path / "run"
    for done in range(1, 11):
        result = train(tiny(max_minutes=1e-9), [dataset], run, resume=True, device="cpu")
        assert result["step"] == done
    losses = [[(r["step"], r["loss"]) for r in read_log(folder / "log.jsonl")] for folder in (run, whole_run)]
    assert losses[0] == losses[1] and len(losses[0]) == 10
    ours, theirs = files(run), files(whole_run)
    for name in theirs:
        assert ours[name].keys() == theirs[name].keys()
        assert all(torch.equal(ours[name][key], theirs[name][key]) for key in theirs[name]), name


def test_what_ships_is_the_autoencoder_in_whose_latents_the_denoiser_learned(whole_run):
    """Its average stands at the switch; that of the denoiser goes on from there."""
    weights, averaged = files(whole_run)["model"], files(whole_run)["ema"]
    for name in weights:
        if name.startswith(("autoencoder.", "scale.")):
            assert torch.equal(weights[name], averaged[name]), name
    assert any(not torch.equal(weights[name], averaged[name]) for name in weights if name.startswith("denoiser."))
    generator, _ = generators.load(whole_run)
    assert generator.scale.seen == 64 and generator.scale.deviation != 1


def test_training_learns(dataset, tmp_path):
    run = tmp_path / "run"
    train(tiny(steps=70, checkpoint_every=70, learning_rate=5e-3), [dataset], run, device="cpu")
    losses = [record["loss"] for record in read_log(run / "log.jsonl")]
    assert np.mean(losses[37:42]) < 0.5 * np.mean(losses[:5])
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[42:45])


@pytest.mark.slow
def test_two_processes_train_what_one_trains(dataset, whole_run, tmp_path, repository):
    run, preset = tmp_path / "run", tmp_path / "tiny.yaml"
    preset.write_text(yaml.safe_dump(TINY))
    arguments = ["train", "--preset", str(preset), "--data", str(dataset), "--out", str(run), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                           "LNSynthLib", *arguments], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=repository)
    assert done.returncode == 0, done.stderr[-2000:]
    ours, theirs = ([r["loss"] for r in read_log(folder / "log.jsonl")] for folder in (run, whole_run))
    np.testing.assert_allclose(ours[:6], theirs[:6], rtol=1e-4)
    # One process measures the scale on the first patch alone when it uses it first, two have both.
    np.testing.assert_allclose(ours[6:], theirs[6:], rtol=0.1)
    scales = [generators.load(folder)[0].scale for folder in (run, whole_run)]
    assert scales[0].seen == scales[1].seen
    torch.testing.assert_close(scales[0].deviation, scales[1].deviation, rtol=1e-4, atol=0)
