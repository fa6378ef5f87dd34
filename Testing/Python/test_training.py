"""Training: what is drawn, what is learned from it, and that a killed run goes on as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from LNSynthLib.cases.labels import LabelTable
from LNSynthLib.cases.store import list_prepared, write_prepared
from LNSynthLib.generators import checkpoint as generators
from LNSynthLib.generators.protocol import DataForm
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.seeds import derive, torch_rng
from LNSynthLib.training import checkpoints, cost, data
from LNSynthLib.training.ema import MovingAverage
from LNSynthLib.training.log import read as read_log
from LNSynthLib.training.loop import train
from LNSynthLib.training.settings import AugmentSettings, Preset, TrainSettings, load_preset, make_generator

WINDOW = (-120.0, 240.0)
FORM = DataForm(patch=(16, 16, 16))
NODE_BOXES = ([[3, 9], [12, 16], [10, 14]], [[20, 23], [4, 8], [15, 18]])
TINY = {
    "about": "a network for tests",
    "generator": {"kind": "lnddpm", "form": {"patch": [16, 16, 16]}, "timesteps": 20, "denoiser": {
        "channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8}},
    "training": {"steps": 7, "batch": 2, "checkpoint_every": 2, "sample_every": 0, "learning_rate": 1e-3,
                 "node_probability": 0.5},
}


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
    return write_prepared(place, data.scale_hu(hu, WINDOW), anatomy, nodes, {
        "id": f"case{number}", "patient": f"p{number}", "split": split, "kind": kind, "spacing_mm": [1.0, 1.0, 1.0],
        "affine": np.eye(4).tolist(), "window": list(WINDOW), "labels": "abdomen14", "key": f"key{number}",
        "organ_hu": [None] * 6 + [111.0] + [None] * 7, "node_hu": None,
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


# --- settings ---------------------------------------------------------------------------------------------------------

def test_learning_rate_schedules():
    settings = TrainSettings(steps=110, learning_rate=1.0, warmup=10, rate_schedule="cosine")
    assert settings.rate(0) == pytest.approx(0.1) and settings.rate(9) == settings.rate(10) == 1.0
    assert settings.rate(60) == pytest.approx(0.5)
    assert 0 < settings.rate(109) < 1e-3
    assert replace(settings, rate_schedule="linear").rate(85) == pytest.approx(0.25)
    assert replace(settings, rate_schedule="constant").rate(109) == 1.0


@pytest.mark.parametrize("wrong", [{"batch": 3, "micro_batch": 2}, {"ema": 1.0}, {"node_probability": 1.5},
                                   {"steps": 0}, {"shares": {"real": 0.0}}, {"learning_rate": 0.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(LNSynthError, match="training: "):
        TrainSettings(**wrong)


def test_paper_preset_is_the_paper():
    preset = load_preset("paper")
    training, generator = preset.training, make_generator(preset)
    assert (training.steps, training.batch, training.learning_rate, training.betas, training.ema) == (
        45_000, 1, 1e-4, (0.9, 0.999), 0.995)
    settings = generator.settings
    assert (settings.timesteps, settings.schedule, settings.prediction, settings.loss) == (300, "cosine", "noise", "l1")
    assert (settings.form.patch, settings.form.spacing_mm, settings.form.window) == ((128,) * 3, 1.0, (-120.0, 240.0))
    assert 1 + settings.form.condition_channels == 16 and settings.denoiser.local_detail == "LD"
    assert training.augment == AugmentSettings() and not training.shares


# --- patches ----------------------------------------------------------------------------------------------------------

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
    form = replace(FORM, expected_hu=True)
    table = LabelTable.load("abdomen14")
    sample = data.patch(cases[0], (6, 6, 2), form)
    liver = sample["condition"][table.index("liver")] == 1
    body = sample["condition"][1] == 1
    assert sample["condition"].shape[0] == 16
    for where, hu in ((liver, 111.0), (body, table.labels[1].hu)):
        assert sample["condition"][15][where].unique().item() == pytest.approx((hu + 120) / 180 - 1, abs=1e-6)


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


# --- moving average ---------------------------------------------------------------------------------------------------

def test_moving_average_is_its_closed_form():
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    plain, warm = MovingAverage([weight], 0.9), MovingAverage([weight], 0.9, warmup=True)
    with torch.no_grad():
        weight.fill_(5.0)
    for step in range(4):
        plain.update(step)
        warm.update(step)
    assert float(plain.shadow[0]) == pytest.approx(5 - 3 * 0.9**4)
    assert float(warm.shadow[0]) == pytest.approx(5 - 3 * (1 / 10) * (2 / 11) * (3 / 12) * (4 / 13))
    kept = float(plain.shadow[0])
    with plain.applied():
        assert weight.item() == kept
    assert weight.item() == 5.0 and float(plain.shadow[0]) == kept


# --- runs -------------------------------------------------------------------------------------------------------------

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
    assert {p.suffix for p in whole_run.rglob("*") if p.is_file()} == {".json", ".jsonl", ".safetensors"}


def test_two_sessions_equal_one(dataset, whole_run, tmp_path):
    run = tmp_path / "run"
    assert train(tiny(steps=3), [dataset], run, device="cpu")["step"] == 3
    result = train(tiny(), [dataset], run, resume=True, device="cpu")
    assert result["step"] == 7 and result["stopped"] == "all steps done"
    same_run(run, whole_run)


def test_leftovers_of_a_killed_process_do_no_harm(dataset, whole_run, tmp_path):
    """Steps logged after the last checkpoint, a torn last line and a half-written checkpoint."""
    run = tmp_path / "run"
    train(tiny(steps=4), [dataset], run, device="cpu")
    with open(run / "log.jsonl", "a") as log:
        log.write('{"step": 5, "loss": 123.0, "seconds": 1.0}\n{"step": 6, "lo')
    (run / "checkpoints" / ".step-00000006.abc").mkdir()
    (run / "checkpoints" / ".step-00000006.abc" / "model.safetensors").write_bytes(b"torn")
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
    case = write_case(folder, 7)
    write_prepared(case.folder, case.ct(), case.anatomy(), np.zeros(case.shape, np.uint16), {**case.info, "nodes": []})
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
    patches = data.Patches(data.collect([dataset], "default", FORM, "train"), FORM, settings)
    torch.manual_seed(derive(settings.seed, "weights"))
    generator = make_generator(tiny())
    for place in range(2):
        batch = {name: value[None] for name, value in patches[place].items()}
        (generator(batch, torch_rng(settings.seed, "noise", 0, place))["loss"] / 2).backward()
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


def test_a_damaged_checkpoint_is_named(dataset, tmp_path):
    run = tmp_path / "run"
    train(tiny(steps=2), [dataset], run, device="cpu")
    (checkpoints.latest(run) / "ema.safetensors").write_bytes(b"torn")
    with pytest.raises(LNSynthError, match="step-00000002 cannot be read"):
        train(tiny(), [dataset], run, resume=True, device="cpu")


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
    return model, optimizer, MovingAverage(model.parameters(), 0.9)

def step(model, optimizer, ema, number):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(number))
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
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
    write(run, tensors, {"step": 3})
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


# --- cost -------------------------------------------------------------------------------------------------------------

def test_counted_flops_are_those_of_a_real_forward_pass():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    generator = make_generator(tiny()).eval()
    batch = {"image": torch.zeros(1, 1, 16, 16, 16), "condition": torch.ones(1, 15, 16, 16, 16)}
    # The counter does not know the CPU's fused attention, so here it is written out in matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        generator.loss(batch, torch.Generator())
    by_hand = 2 * 8 * (16 * 27) * 16**3  # the first convolution: 16 channels to 8
    counts = counter.get_flop_counts()["Global"]
    assert counter.get_total_flops() > by_hand and sum(counts.values()) == counter.get_total_flops()
    assert cost.forward_flops(make_generator(tiny()), (16, 16, 16)) == counter.get_total_flops()


def test_counted_memory_is_that_of_the_tensors_alive():
    """A chain of n convolutions of equal width: their outputs are kept, and two more live at the backward pass."""
    class Chain(torch.nn.Module):
        form = DataForm()

        def __init__(self, length):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Conv3d(15, 15, 1, bias=False) for _ in range(length))

        def loss(self, batch, rng):
            h = batch["condition"]
            for layer in self.layers:
                h = layer(h)
            return {"loss": h.mean()}

    volume = 15 * 16**3 * 4
    counted = [cost.training_bytes(Chain(length), (16, 16, 16)) for length in (4, 8)]
    assert (counted[1] - counted[0]) / volume == pytest.approx(4, rel=0.05)  # one more kept a layer
    assert 6 * volume < counted[0] < 9 * volume  # image, condition, 4 outputs, and the gradient of one or two


def test_activation_checkpointing_saves_memory():
    def counted(saving):
        denoiser = {"channels": [16, 16], "blocks": 2, "groups": 4, "local_detail": None,
                    "activation_checkpointing": saving}
        generator = make_generator(replace(tiny(), generator={**TINY["generator"], "denoiser": denoiser}))
        return cost.training_bytes(generator, (16, 16, 16))

    assert counted(True) < 0.65 * counted(False)


def test_small_preset_is_the_paper_s_within_12_gb():
    small, paper = load_preset("small"), load_preset("paper")
    described = cost.describe(small)
    assert described["training_bytes"] < 8e9 and described["flops_per_forward_128"] == cost.describe(paper)[
        "flops_per_forward_128"]
    small.generator["denoiser"]["activation_checkpointing"] = False
    assert small.generator == paper.generator
    assert replace(small.training, workers=paper.training.workers) == paper.training


def test_cost_of_a_preset_is_described():
    described = cost.describe(tiny())
    assert described["parameters"] == sum(p.numel() for p in make_generator(tiny()).parameters())
    assert described["flops_training"] == 3 * 2 * 7 * described["flops_per_forward_patch"]
    assert 400 < described["flops_per_forward_128"] / described["flops_per_forward_patch"]  # 512 x the convolutions
    assert re.fullmatch(r"\d+", str(described["flops_per_forward_128"]))
