"""How a batch is shared out, over forward passes or processes, changes nothing of what any generator learns."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from made_prepared import write_case
from safetensors.torch import load_file

from LNSynthLib.generators import model_folder as generators
from LNSynthLib.generators.model_folder import create
from LNSynthLib.generators.pix2pix import Pix2pix
from LNSynthLib.runtime.seeds import torch_rng
from LNSynthLib.training import checkpoints
from LNSynthLib.training.log import read as read_log
from LNSynthLib.training.loop import train
from LNSynthLib.training.settings import FREE, Preset, TrainSettings

SDM = {"timesteps": 20, "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "hidden": 4, "attention": [1],
                                     "head_width": 8}}
DISCRIMINATOR = {"receptive_field": 16, "width": 4}
TINY = {
    "lnddpm": {"timesteps": 20, "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8,
                                             "token_width": 8}},
    "pix2pix": {"unet": {"channels": [4, 8, 8], "dropout_layers": 2}, "discriminator": DISCRIMINATOR},
    "spade": {"network": {"channels": [8, 8, 4], "hidden": 4}, "discriminator": {**DISCRIMINATOR, "scales": 2},
              "initial_gain": 1.0},
    # Of four steps the autoencoder has two, the second against its discriminator.
    "brainldm": {"timesteps": 20, "autoencoder_share": 0.5, "adversarial_start": 0.5,
                 "autoencoder": {"channels": [8, 16], "blocks": 1, "groups": 4, "discriminator_channels": 4,
                                 "discriminator_layers": 2},
                 "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "attention": [False, True], "heads": 2,
                              "token_width": 8}},
    "medddpm": {"timesteps": 20, "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "attention": [1]}},
    "nasdm": {**SDM, "drop": 0.5}, "echo": SDM,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        write_case(folder, number, side=20)
    return folder


def preset(kind, micro_batch) -> Preset:
    return Preset({"kind": kind, "form": {"patch": [16, 16, 16]}, **TINY[kind]},
                  TrainSettings(steps=4, batch=4, micro_batch=micro_batch, checkpoint_every=1, sample_every=0,
                                learning_rate=1e-4, node_probability=0.5))


def learned(run) -> tuple[list[dict], dict]:
    """What was logged of each step, and what the first two left in Adam's moments, the means of all gradients."""
    records = [{name: value for name, value in record.items() if name != "seconds"}
               for record in read_log(run / "log.jsonl")]
    return records, load_file(checkpoints.latest(run) / "optimizer.safetensors")


def assert_equal(one, other):
    (records, moments), (other_records, other_moments) = one, other
    assert [r.keys() for r in records] == [r.keys() for r in other_records] and len(records) == 4
    for ours, theirs in zip(records, other_records, strict=True):
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-5, abs=1e-6), (ours["step"], name)
    assert moments.keys() == other_moments.keys()
    # As one vector: instance norms of nearly constant maps (SPADE's coarsest level) divide last bits by sqrt(1e-5).
    ours, theirs = (torch.cat([tensor.flatten() for name, tensor in sorted(those.items()) if name.endswith("/exp_avg")])
                    for those in (moments, other_moments))
    assert (ours - theirs).norm() <= 2e-3 * theirs.norm()


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """Each kind's run with the whole batch in one forward pass, made when it is asked for."""
    made = {}

    def run(kind):
        if kind not in made:
            out = tmp_path_factory.mktemp(kind) / "run"
            train(preset(kind, 4), [dataset], out, device="cpu")
            made[kind] = learned(out)
        return made[kind]
    return run


@pytest.mark.parametrize("kind", TINY)
def test_accumulated_batches_train_what_whole_ones_train(kind, dataset, whole, tmp_path):
    assert set(TINY) == set(generators.KINDS)
    for micro_batch in (2, 1):
        run = tmp_path / str(micro_batch)
        train(preset(kind, micro_batch), [dataset], run, device="cpu")
        assert_equal(learned(run), whole(kind))


def test_a_run_may_be_resumed_with_other_micro_batches(dataset, whole, tmp_path):
    assert "micro_batch" in FREE
    run = tmp_path / "run"
    first = preset("lnddpm", 1)
    train(Preset(first.generator, TrainSettings(**{**first.plain()["training"], "steps": 2, "betas": (0.9, 0.999),
                                                   "augment": first.training.augment})), [dataset], run, device="cpu")
    train(preset("lnddpm", 4), [dataset], run, resume=True, device="cpu")
    assert_equal(learned(run), whole("lnddpm"))


def test_each_sample_of_each_step_has_a_stream_of_its_own(dataset, tmp_path, monkeypatch):
    seen = []

    def loss(self, batch, streams, player, plain=Pix2pix.loss):
        seen.append((player, [stream.initial_seed() for stream in streams]))
        return plain(self, batch, streams, player)

    monkeypatch.setattr(Pix2pix, "loss", loss)
    found = {}
    for micro_batch in (4, 1):
        seen.clear()
        train(preset("pix2pix", micro_batch), [dataset], tmp_path / str(micro_batch), device="cpu")
        found[micro_batch] = [[seed for who, seeds in seen if who == player for seed in seeds]
                              for player in ("discriminator", "generator")]
        assert found[micro_batch][0] == found[micro_batch][1]  # they start alike for every player
        assert len(set(found[micro_batch][0])) == 4 * 4  # four steps of four samples
    assert found[4] == found[1]


@pytest.mark.parametrize("kind", TINY)
def test_a_sample_s_loss_is_its_own(kind):
    """The loss of a batch is the mean of the losses of its samples, each from its own stream."""
    torch.manual_seed(0)
    generator = create(kind, {"form": {"patch": [16, 16, 16]}, **TINY[kind]})
    for module in generator.modules():
        if isinstance(module, torch.nn.utils.parametrize.ParametrizationList):
            module.eval()  # what the training loop sees to: one step of power iteration a turn
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    image = torch.rand(3, 1, 16, 16, 16) * 2 - 1
    condition = (torch.rand(3, 15, 16, 16, 16) < 0.1).float()

    def loss(chosen, player):
        batch = {"image": image[chosen], "condition": condition[chosen]}
        return generator.loss(batch, [torch_rng(0, "noise", i) for i in chosen], player)["loss"].item()

    for player in generator.players:
        one_by_one = [loss([i], player) for i in range(3)]
        assert len(set(one_by_one)) == 3, player
        assert loss([2, 0, 1], player) == pytest.approx(np.mean(one_by_one), rel=1e-4), player


TWO = """
import json, sys
from LNSynthLib.training.loop import train
from LNSynthLib.training.settings import make_preset
for kind, values in json.loads(sys.argv[3]).items():
    train(make_preset(values, kind), [sys.argv[1]], f"{sys.argv[2]}/{kind}", device="cpu")
"""


@pytest.mark.slow
def test_two_processes_train_what_one_trains(dataset, whole, tmp_path, repository):
    (tmp_path / "two.py").write_text(TWO)
    presets = json.dumps({kind: preset(kind, 1).plain() for kind in TINY})
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           str(tmp_path / "two.py"), str(dataset), str(tmp_path), presets], capture_output=True,
                          text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)})
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in TINY:
        assert_equal(learned(tmp_path / kind), whole(kind))
