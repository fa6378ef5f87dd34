"""Training runs: what they learn and leave behind, and that a killed one goes on as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from made_prepared import write_case
from safetensors.torch import load_file

from LNSynthLib.generators import model_folder as generators
from LNSynthLib.runtime import temporary
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import write_json
from LNSynthLib.runtime.locks import alone_in
from LNSynthLib.runtime.seeds import derive, torch_rng
from LNSynthLib.training import checkpoints, data
from LNSynthLib.training.log import read as read_log
from LNSynthLib.training.loop import train
from LNSynthLib.training.settings import Preset, TrainSettings, make_generator

TINY = {
    "about": "a network for tests",
    "generator": {"kind": "lnddpm", "form": {"patch": [16, 16, 16]}, "timesteps": 20, "denoiser": {
        "channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8}},
    "training": {"steps": 7, "batch": 2, "checkpoint_every": 2, "sample_every": 0, "learning_rate": 1e-3,
                 "node_probability": 0.5},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number, split in enumerate(("train", "train", "val")):
        write_case(folder, number, split)
    return folder


def tiny(**training) -> Preset:
    return Preset(TINY["generator"], TrainSettings(**{**TINY["training"], **training}), TINY["about"])


@pytest.fixture(scope="module")
def whole_run(dataset, tmp_path_factory):
    """A run of all seven steps at one go."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = train(tiny(), [dataset], run, device="cpu")
    assert result["step"] == 7
    return run


def same_run(one, other):
    """Losses, weights, averages and moments equal to the last bit."""
    losses = [[(r["step"], r["loss"]) for r in read_log(run / "log.jsonl")] for run in (one, other)]
    assert losses[0] == losses[1] and len(losses[0]) == 7
    for name in ("model", "ema", "optimizer"):
        a, b = (load_file(checkpoints.latest(run) / f"{name}.safetensors") for run in (one, other))
        assert a.keys() == b.keys() and a
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_a_run_is_self_contained_and_its_generator_is_the_average(whole_run):
    assert [p.name for p in sorted((whole_run / "checkpoints").iterdir())] == ["step-00000006", "step-00000007"]
    kept = json.loads((whole_run / "settings.json").read_text())
    assert kept["preset"]["generator"] == TINY["generator"] and [id for id, _ in kept["cases"]] == ["case0", "case1"]
    generator, about = generators.load(whole_run)
    averaged = load_file(checkpoints.latest(whole_run) / "ema.safetensors")
    weights = load_file(checkpoints.latest(whole_run) / "model.safetensors")
    assert all(torch.equal(value, averaged[name]) for name, value in generator.state_dict().items())
    assert any(not torch.equal(averaged[name], weights[name]) for name in weights)
    assert about["training"]["step"] == 7 and about["training"]["cases"] == {"phantom": 2}
    kinds = {p.suffix for p in whole_run.rglob("*") if p.is_file()}
    assert kinds == {".json", ".jsonl", ".npz", ".safetensors", ".yaml"}


def test_two_sessions_equal_one(dataset, whole_run, tmp_path):
    run = tmp_path / "run"
    assert train(tiny(steps=3), [dataset], run, device="cpu")["step"] == 3
    result = train(tiny(), [dataset], run, resume=True, device="cpu")
    assert result["step"] == 7 and result["stopped"] == "all steps done"
    same_run(run, whole_run)


def test_a_run_begun_by_an_older_version_goes_on_and_says_so(dataset, whole_run, tmp_path):
    run, messages = tmp_path / "run", []
    train(tiny(steps=3), [dataset], run, device="cpu")
    settings = json.loads((run / "settings.json").read_text())
    del settings["draws"]
    write_json(run / "settings.json", settings)
    for steps, said in ((5, True), (7, False)):
        messages.clear()
        train(tiny(steps=steps), [dataset], run, resume=True, device="cpu",
              callback=lambda event: messages.append(event.message))
        assert any("begun by an older version" in message for message in messages) == said
    same_run(run, whole_run)  # of micro-batches of one sample both versions make the same


def test_a_generator_that_a_kill_left_behind_its_checkpoint_is_made_again(dataset, whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    about = generators.facts(whole_run)
    for spoil in (lambda: shutil.rmtree(run / "generator"),
                  lambda: write_json(run / "generator" / "model.json", {**about, "training": {"step": 6}})):
        spoil()
        assert train(tiny(), [dataset], run, resume=True, device="cpu") == {
            "run": str(run), "step": 7, "stopped": "all steps done", "loss": read_log(run / "log.jsonl")[-1]["loss"]}
        made, whole = generators.load(run)[0].state_dict(), generators.load(whole_run)[0].state_dict()
        assert generators.facts(run)["training"]["step"] == 7
        assert all(torch.equal(made[name], whole[name]) for name in whole)


def test_leftovers_of_a_killed_process_do_no_harm(dataset, whole_run, tmp_path):
    """Steps logged after the last checkpoint, a torn last line and a half-written checkpoint."""
    run = tmp_path / "run"
    train(tiny(steps=4), [dataset], run, device="cpu")
    with open(run / "log.jsonl", "a") as log:
        log.write('{"step": 5, "loss": 123.0, "seconds": 1.0}\n{"step": 6, "lo')
    mark = temporary.mark().replace(f"-{os.getpid()}-", "-4999999-")  # of a process that is no more
    (run / "checkpoints" / f".step-00000006{mark}").mkdir()
    (run / "checkpoints" / f".step-00000006{mark}" / "model.safetensors").write_bytes(b"torn")
    train(tiny(), [dataset], run, resume=True, device="cpu")
    same_run(run, whole_run)
    assert not list((run / "checkpoints").glob(".*"))


def test_kill_minus_nine_and_resume_repeat_the_run_bit_for_bit(dataset, whole_run, tmp_path, repository):
    run, preset = tmp_path / "run", tmp_path / "tiny.yaml"
    preset.write_text(yaml.safe_dump(TINY))
    command = [sys.executable, "-m", "LNSynthLib", "train", "--preset", str(preset), "--data", str(dataset),
               "--out", str(run), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             cwd=repository)
    try:
        deadline = time.monotonic() + 240
        while not (run / "log.jsonl").is_file() or len(read_log(run / "log.jsonl")) < 3:
            assert child.poll() is None and time.monotonic() < deadline, "the child ended before it was killed"
            time.sleep(0.005)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert (run / "settings.json").is_file() and checkpoints.latest(run) is not None
    assert train(tiny(), [dataset], run, resume=True, device="cpu")["step"] == 7
    same_run(run, whole_run)


def test_weights_that_never_had_a_gradient_resume_too(dataset, tmp_path):
    """Without a node in any patch the transformer of local detail conditioning is never used."""
    folder = tmp_path / "data"
    write_case(folder, 7, node=False)
    runs = [tmp_path / "whole", tmp_path / "parts"]
    train(tiny(), [folder], runs[0], device="cpu")
    train(tiny(steps=2), [folder], runs[1], device="cpu")
    train(tiny(), [folder], runs[1], resume=True, device="cpu")
    same_run(*runs)
    moments = load_file(checkpoints.latest(runs[0]) / "optimizer.safetensors")
    unused = [name for name in moments if "transformer" in name and name.endswith("/step")]
    assert unused and all(float(moments[name]) == 0 for name in unused)
    assert float(moments["denoiser.conv_in.weight/step"]) == 7


def test_accumulated_gradients_are_those_of_the_batch(dataset, tmp_path):
    """Through Adam's first moment: after one step it is 0.1 of the mean gradient."""
    settings = tiny().training
    train(tiny(steps=1), [dataset], tmp_path / "run", device="cpu")
    moments = load_file(checkpoints.latest(tmp_path / "run") / "optimizer.safetensors")
    form = make_generator(tiny()).form
    patches = data.Patches(data.collect([dataset], "default", form, "train"), form, settings)
    torch.manual_seed(derive(settings.seed, "weights"))
    generator = make_generator(tiny())
    for place in range(2):
        batch = {name: value[None] for name, value in patches[place].items()}
        (generator(batch, [torch_rng(settings.seed, "noise", 0, place)])["loss"] / 2).backward()
    for name, parameter in generator.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(moments[f"{name}/exp_avg"], 0.1 * parameter.grad, rtol=1e-4, atol=1e-8)


def test_training_learns(dataset, tmp_path):
    run = tmp_path / "run"
    train(tiny(steps=50, checkpoint_every=50, learning_rate=5e-3), [dataset], run, device="cpu")
    losses = [record["loss"] for record in read_log(run / "log.jsonl")]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_time_budget_stops_cleanly_and_montage_is_written(dataset, whole_run, tmp_path):
    from PIL import Image

    run = tmp_path / "run"
    result = train(tiny(max_minutes=1e-6, sample_every=7, sample_steps=2), [dataset], run, device="cpu")
    assert result["step"] == 1 and "time budget" in result["stopped"]
    train(tiny(sample_every=7, sample_steps=2, tensorboard=True), [dataset], run, resume=True, device="cpu")
    same_run(run, whole_run)
    picture = np.asarray(Image.open(run / "samples" / "step-00000007.png"))
    assert picture.shape[1] > 4 * 240 and picture.std() > 5
    assert list((run / "tensorboard").glob("events*"))


def test_a_loss_that_is_not_finite_stops_the_run(dataset, tmp_path):
    with pytest.raises(LNSynthError, match="lower training.learning_rate"):
        train(tiny(learning_rate=1e30), [dataset], tmp_path / "run", device="cpu")


def test_runs_are_not_mixed_up(dataset, whole_run, tmp_path):
    with pytest.raises(LNSynthError, match="already holds a training run; add --resume"):
        train(tiny(), [dataset], whole_run, device="cpu")
    with pytest.raises(LNSynthError, match="another training.seed"):
        train(tiny(seed=1), [dataset], whole_run, resume=True, device="cpu")
    other = {**TINY["generator"], "timesteps": 30}
    with pytest.raises(LNSynthError, match="another generator"):
        train(replace(tiny(), generator=other), [dataset], whole_run, resume=True, device="cpu")
    write_case(tmp_path, 9)
    with pytest.raises(LNSynthError, match="another set of training cases"):
        train(tiny(), [dataset, tmp_path], whole_run, resume=True, device="cpu")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(LNSynthError, match="holds no training run"):
        train(tiny(), [dataset], tmp_path / "mine", device="cpu")


def flip(path):
    """One bit of a file's middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def state(**changes):
    def spoil(folder):
        (folder / "sha256.json").unlink()  # as in a run of an earlier version: what cannot be is refused all the same
        write_json(folder / "state.json", {"step": 7, "seconds": 1.0, **changes})
    return spoil


@pytest.mark.parametrize("spoil, why", [
    (lambda f: flip(f / "ema.safetensors"), "ema.safetensors is damaged"),
    (lambda f: flip(f / "optimizer.safetensors"), "optimizer.safetensors is damaged"),
    (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    (lambda f: write_json(f / "state.json", {"step": 5, "seconds": 1.0}), "state.json is damaged"),
    (state(step=10**12), "step is 1000000000000"), (state(step=-4), "step is -4"), (state(step=7.0), "step is 7.0"),
    (state(step=True), "step is True"), (state(step="7"), "step is '7'"), (state(step=float("nan")), "step is nan"),
    (state(seconds=float("nan")), "seconds of training are nan"), (state(seconds=-1), "seconds of training are -1"),
    (state(seconds=None), "seconds of training are None")])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_taken(dataset, whole_run, tmp_path, spoil, why):
    run, told = tmp_path / "run", []
    shutil.copytree(whole_run, run)
    spoil(run / "checkpoints" / "step-00000007")
    train(tiny(), [dataset], run, resume=True, device="cpu", callback=lambda event: told.append(event.message))
    assert any(why in message and "The checkpoint before it is used instead." in message for message in told)
    assert "resuming after step 6" in told
    same_run(run, whole_run)


def test_where_every_checkpoint_is_damaged_the_run_is_refused(dataset, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        flip(folder / "ema.safetensors")
    with pytest.raises(LNSynthError, match="ema.safetensors is damaged.* No checkpoint before it is left"):
        train(tiny(), [dataset], tmp_path / "run", resume=True, device="cpu")


def test_a_checkpoint_without_hashes_is_resumed_from(dataset, whole_run, tmp_path):
    """As earlier versions wrote them."""
    shutil.copytree(whole_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000007")
    (tmp_path / "run" / "checkpoints" / "step-00000006" / "sha256.json").unlink()
    train(tiny(), [dataset], tmp_path / "run", resume=True, device="cpu")
    same_run(tmp_path / "run", whole_run)


def test_a_run_from_before_some_settings_existed_is_resumed(dataset, whole_run, tmp_path):
    """The first versions wrote neither rate_factors nor rate_hold: their defaults are what those versions did."""
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    shutil.rmtree(run / "checkpoints" / "step-00000007")
    kept = json.loads((run / "settings.json").read_text())
    del kept["preset"]["training"]["rate_factors"], kept["preset"]["training"]["rate_hold"]
    write_json(run / "settings.json", kept)
    with pytest.raises(LNSynthError, match="another training.rate_hold"):
        train(tiny(rate_hold=0.5), [dataset], run, resume=True, device="cpu")
    train(tiny(), [dataset], run, resume=True, device="cpu")
    same_run(run, whole_run)


def test_two_trainings_do_not_share_a_folder(dataset, whole_run, tmp_path):
    with alone_in(whole_run, 1, ""), pytest.raises(LNSynthError, match="another program trains in this folder"):
        train(tiny(), [dataset], whole_run, resume=True, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_bf16_without_a_gpu_is_refused(dataset, tmp_path):
    with pytest.raises(LNSynthError, match="bf16 needs a GPU"):
        train(tiny(precision="bf16"), [dataset], tmp_path / "run")


@pytest.mark.slow
def test_two_processes_train_what_one_trains(dataset, whole_run, tmp_path, repository):
    run, preset = tmp_path / "run", tmp_path / "tiny.yaml"
    preset.write_text(yaml.safe_dump(TINY))
    arguments = ["train", "--preset", str(preset), "--data", str(dataset), "--out", str(run), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                           "LNSynthLib", *arguments], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"},
                          cwd=repository)
    assert done.returncode == 0, done.stderr[-2000:]
    ours, theirs = ([r["loss"] for r in read_log(folder / "log.jsonl")] for folder in (run, whole_run))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    a, b = (load_file(checkpoints.latest(folder) / "ema.safetensors") for folder in (run, whole_run))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


SHARDED = """
import sys
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from LNSynthLib.training.checkpoints import gather, restore, write
from LNSynthLib.training.ema import MovingAverage
from pathlib import Path

def fresh(sharded):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.SiLU(), torch.nn.Linear(8, 2))
    if sharded:
        for layer in (model[0], model[2]):
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    return model, {"network": optimizer}, MovingAverage(model.parameters(), 0.9)

def step(model, optimizers, ema, number):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(number))
    model(x).square().mean().backward()
    optimizers["network"].step()
    optimizers["network"].zero_grad()
    ema.update(number)

def same(a, b):
    assert {k: v.keys() for k, v in a.items()} == {k: v.keys() for k, v in b.items()}
    for part in a:
        for name in a[part]:
            torch.testing.assert_close(a[part][name], b[part][name])

dist.init_process_group("gloo")
first, run = dist.get_rank() == 0, Path(sys.argv[1])
plain, sharded = fresh(False), fresh(True)
for number in range(3):
    step(*plain, number), step(*sharded, number)
tensors = gather(*sharded)
if first:
    same(tensors, gather(*plain))
    write(run, tensors, {"step": 3, "seconds": 1.0})
dist.barrier()
again = fresh(True)
restore(run / "checkpoints" / "step-00000003", *again)
step(*plain, 3), step(*again, 3)
tensors = gather(*again)
if first:
    same(tensors, gather(*plain))
    print("sharded and whole agree")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_checkpoints_of_a_sharded_model_are_those_of_a_whole_one(tmp_path, repository):
    """FSDP on two CPU processes: what is gathered, written, restored and trained further equals one process."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           str(tmp_path / "sharded.py"), str(tmp_path / "run")], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)})
    assert done.returncode == 0 and "sharded and whole agree" in done.stdout, done.stderr[-3000:]
