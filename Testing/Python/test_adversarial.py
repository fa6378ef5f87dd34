"""Pix2pix and SPADE as generators: turns that leave the other network alone, runs that resume, one pass to a volume."""

import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
import yaml
from made_prepared import write_case
from safetensors.torch import load_file
from streams import streams
from torch.utils.flop_counter import FlopCounterMode

from LNSynthLib.generators import model_folder as generators
from LNSynthLib.generators.protocol import Generator
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import read_json, write_json
from LNSynthLib.synthesis.insert import InsertSettings
from LNSynthLib.synthesis.insert_file import insert_file
from LNSynthLib.synthesis.synthesize import SynthesizeSettings, synthesize
from LNSynthLib.training import checkpoints
from LNSynthLib.training.cost import describe, training_bytes, turn_flops
from LNSynthLib.training.log import read as read_log
from LNSynthLib.training.loop import train
from LNSynthLib.training.settings import Preset, TrainSettings, load_preset, make_generator

NETWORKS = {
    "pix2pix": {"unet": {"channels": [8, 16, 16], "dropout_layers": 1},
                "discriminator": {"receptive_field": 16, "width": 8}},
    "spade": {"network": {"channels": [16, 16, 8], "hidden": 8},
              "discriminator": {"receptive_field": 16, "width": 8, "scales": 2}},
}
both = pytest.mark.parametrize("kind", list(NETWORKS))


def preset(kind, **training) -> Preset:
    return Preset({"kind": kind, "form": {"patch": [16, 16, 16]}, **NETWORKS[kind]}, TrainSettings(**{
        "steps": 5, "batch": 2, "checkpoint_every": 2, "sample_every": 0, "learning_rate": 2e-3, "betas": (0.5, 0.999),
        "rate_factors": {"discriminator": 0.5}, "rate_schedule": "linear", "rate_hold": 0.5, **training}))


def tiny(kind):
    torch.manual_seed(0)
    return make_generator(preset(kind))


def batch(seed=0, size=1):
    random = torch.Generator().manual_seed(seed)
    return {"image": torch.rand(size, 1, 16, 16, 16, generator=random) * 2 - 1,
            "condition": torch.randint(0, 2, (size, 15, 16, 16, 16), generator=random).float()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Bodies with noise, a liver in each and a node."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "prepared" / "default").mkdir(parents=True)
    write_json(folder / "prepared" / "default" / "prepare.json", {
        "settings": {"spacing_mm": 1.0, "window": [-120.0, 240.0], "labels": "abdomen14"}})
    for number in range(2):
        write_case(folder, number, liver=True)
    return folder


@pytest.fixture(scope="module", params=list(NETWORKS))
def whole_run(request, dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp(request.param) / "run"
    train(preset(request.param), [dataset], run, device="cpu")
    return request.param, run


@both
def test_it_is_a_generator(kind):
    generator = tiny(kind)
    assert isinstance(generator, Generator) and generator.kind == kind and generator.samplers == ()
    assert set(generator.turns(0.0)) == set(generator.players)
    owned = [id(p) for network in generator.players.values() for p in network.parameters()]
    assert sorted(owned) == sorted(id(p) for p in generator.parameters())  # each weight has one player


@both
@pytest.mark.parametrize("player, other", [("generator", "discriminator"), ("discriminator", "generator")])
def test_a_turn_reaches_no_weight_of_the_other_network(kind, player, other):
    generator = tiny(kind).train()
    aside = {name: value.clone() for name, value in generator.players[other].state_dict().items()}
    for p in generator.players[other].parameters():
        p.grad = torch.full_like(p, 7.0)
    optimizer = torch.optim.Adam(generator.players[player].parameters(), 1e-2)
    generator.loss(batch(), streams(1), player)["loss"].backward()
    before = {name: value.clone() for name, value in generator.players[player].named_parameters()}
    optimizer.step()
    # Spectral norm's vectors are among the state that stays.
    assert all(torch.equal(value, aside[name]) for name, value in generator.players[other].state_dict().items())
    assert all((p.grad == 7).all() and p.requires_grad for p in generator.players[other].parameters())
    moved = [not torch.equal(value, before[name]) for name, value in generator.players[player].named_parameters()]
    # A bias before an instance norm has no gradient but rounding, so not all of them move.
    assert np.mean(moved) > 0.6 and generator.training and generator.players[other].training


@both
def test_the_generators_turn_computes_no_weight_gradient_of_the_discriminator(kind):
    generator, reached = tiny(kind), []
    for name, p in generator.named_parameters():
        p.register_hook(lambda gradient, name=name: reached.append(name))
    generator.loss(batch(), streams(1), "generator")["loss"].backward()
    assert reached and all(name.startswith("generator.") for name in reached)
    # And it is not paid for: the backward pass through the discriminator costs less than two forward passes.
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        generator.discriminator(torch.zeros(1, 16, 16, 16, 16))
    with FlopCounterMode(display=False) as own:
        generator.generate(batch()["condition"], torch.rand).mean().backward()
    seen = {"pix2pix": 1, "spade": 2}[kind]  # forward passes: of the fake, and for its features of the real volume
    through = turn_flops(generator, (16, 16, 16))["generator"] - own.get_total_flops()
    assert through < (seen + 1.01) * forward.get_total_flops()


@both
def test_a_sample_depends_on_its_own_seed_and_condition_alone(kind):
    generator, c = tiny(kind), batch(size=3)["condition"]
    together = generator.sample(c, seeds=[5, 6, 7], steps=9, sampler="ddpm")
    assert together.shape == (3, 1, 16, 16, 16) and together.abs().max() <= 1
    assert torch.allclose(together[1:2], generator.sample(c[1:2], seeds=[6]), atol=1e-5)
    assert not torch.allclose(together[1], together[0], atol=1e-3)
    assert torch.equal(generator.sample(c[:1], seeds=[5]), generator.sample(c[:1], seeds=[5]))


@both
def test_kept_voxels_come_back_as_they_were_after_one_step(kind):
    generator, c, told = tiny(kind), batch()["condition"], []
    known, keep = torch.rand(1, 1, 16, 16, 16) * 2 - 1, torch.ones(1, 1, 16, 16, 16)
    keep[..., 4:12, 4:12, 4:12] = 0
    made = generator.sample(c, seeds=[1], known=known, keep=keep, callback=lambda *done: told.append(done))
    assert torch.equal(made[keep > 0], known[keep > 0]) and told == [(1, 1)]
    assert torch.equal(made[keep == 0], generator.sample(c, seeds=[1])[keep == 0])


@both
def test_weights_that_are_no_numbers_make_no_image(kind):
    generator = tiny(kind)
    with torch.no_grad():
        next(generator.generator.parameters()).fill_(float("nan"))
    with pytest.raises(LNSynthError, match="not finite"):
        generator.sample(batch()["condition"], seeds=[1])


@both
def test_presets_build_and_cost_what_they_say(kind):
    mini, paper = (load_preset(name, kind=kind) for name in ("mini", "paper"))
    assert mini.generator["form"] == load_preset("mini").generator["form"]
    assert describe(mini)["flops_training"] < 3e13
    with torch.device("meta"):
        generator = make_generator(paper)
    assert generator.form.patch == (128, 128, 128) and generator.settings.discriminator.receptive_field == 70
    assert training_bytes(generator, generator.form.patch) < {"pix2pix": 12e9, "spade": 24e9}[kind]


def test_two_sessions_equal_one(whole_run, dataset, tmp_path):
    """Weights, spectral norm's vectors, averages and both players' moments, to the last bit."""
    kind, whole = whole_run
    run = tmp_path / "run"
    assert train(preset(kind, max_minutes=1e-6), [dataset], run, device="cpu")["step"] == 1
    assert train(preset(kind), [dataset], run, resume=True, device="cpu")["step"] == 5
    records = [[{**record, "seconds": 0} for record in read_log(r / "log.jsonl")] for r in (run, whole)]
    assert records[0] == records[1] and len(records[0]) == 5 and "discriminator.loss" in records[0][0]
    for name in ("model", "ema", "optimizer"):
        a, b = (load_file(checkpoints.latest(r) / f"{name}.safetensors") for r in (run, whole))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name
        assert {key.split(".")[0] for key in a} == {"discriminator", "generator"}
    if kind == "spade":
        vectors = [key for key in load_file(checkpoints.latest(run) / "model.safetensors") if key.endswith("._u")]
        assert {key.split(".")[0] for key in vectors} == {"discriminator", "generator"}


def test_checkpoint_round_trip(whole_run, tmp_path):
    """From a run with an average: what is loaded makes what was saved, spectral norm's state and all."""
    kind, run = whole_run
    generator, facts = generators.load(run)
    assert facts["kind"] == kind and not generator.training
    averaged = load_file(checkpoints.latest(run) / "ema.safetensors")
    assert generator.state_dict().keys() == averaged.keys()
    assert all(torch.equal(value, averaged[name]) for name, value in generator.state_dict().items())
    again, _ = generators.load(generators.save(tmp_path / "g", generator))
    c = batch()["condition"]
    assert torch.equal(generator.sample(c, seeds=[1]), again.sample(c, seeds=[1]))


@both
def test_training_learns(kind, dataset, tmp_path):
    """The generator's distance from the real volume falls."""
    run, what = tmp_path / "run", {"pix2pix": "l1", "spade": "matching"}[kind]
    train(preset(kind, steps=30, checkpoint_every=30), [dataset], run, device="cpu")
    values = [record[what] for record in read_log(run / "log.jsonl")]
    assert np.mean(values[-6:]) < 0.7 * np.mean(values[:6])


def test_samples_of_a_data_set(whole_run, dataset, tmp_path):
    kind, run = whole_run
    events = []
    made = synthesize(run, [dataset], tmp_path / "out", SynthesizeSettings(), "cpu", events.append)["made"]
    assert made == ["case0-000", "case1-000"]
    sampling = read_json(tmp_path / "out" / made[0] / "provenance.json")["sampling"]
    assert (sampling["sampler"], sampling["steps"]) == ("none", 1)
    assert (events[-1].done, events[-1].total) == (2, 2)
    again = synthesize(run, [dataset], tmp_path / "out", SynthesizeSettings(steps=50, sampler="ddim"), "cpu")
    assert again["made"] == []  # neither matters


@both
def test_nodes_in_place(kind, tmp_path):
    events, random, affine = [], np.random.default_rng(0), np.eye(4)
    ct = (40 + 10 * random.standard_normal((40, 40, 40))).astype(np.int16)
    ct[:, :4] -= 1000
    nodes = np.zeros(ct.shape, np.uint8)
    nodes[18:24, 18:24, 18:24] = 1
    for name, array in (("ct", ct), ("nodes", nodes)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    weights = generators.save(tmp_path / "g", tiny(kind), {"training": {"step": 0}})
    record = insert_file(weights, tmp_path / "ct.nii.gz", tmp_path / "nodes.nii.gz", tmp_path / "out.nii.gz",
                         InsertSettings(), device="cpu", callback=events.append)
    assert (record["sampling"]["sampler"], record["sampling"]["steps"]) == ("none", 1)
    steps = [event for event in events if event.total]  # the file is written after the last
    assert (steps[-1].done, steps[-1].total) == (1, 1)
    made = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    assert np.array_equal(made[:10], ct[:10]) and not np.array_equal(made, ct)


@pytest.mark.slow
@both
def test_two_processes_train_what_one_trains(kind, dataset, tmp_path, repository):
    """Under DDP each player's weights get the gradient of the whole batch, and those aside get none. One step: spectral
    norm's vectors move once for each forward pass of a process, and so differ afterwards."""
    plan = preset(kind, steps=1)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(plan.plain()))
    train(plan, [dataset], tmp_path / "one", device="cpu")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                           "LNSynthLib", "train", "--preset", str(tmp_path / "tiny.yaml"), "--data", str(dataset),
                           "--out", str(tmp_path / "two"), "--device", "cpu"], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=repository)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (load_file(checkpoints.latest(tmp_path / name) / "optimizer.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in (name for name in one if name.endswith("/exp_avg")):
        # A bias before a norm has a gradient of rounding errors alone.
        torch.testing.assert_close(two[name], one[name], rtol=0.05, atol=0.02 * one[name].abs().max().item() + 1e-7)
