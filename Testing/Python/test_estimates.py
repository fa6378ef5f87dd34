"""Time and memory of a synthesis before it starts, against the library's own counting and a real run."""

import json
import math
import time
from pathlib import Path

import pytest
from LNSynthLogic.jobs import estimates, process
from LNSynthLogic.jobs.estimates import Speeds, Stopwatch

from LNSynthLib.generators.model_folder import generator_path
from LNSynthLib.runtime.events import Event

DEMO = estimates.read_generator(generator_path())
NODE = (14.0, 18.0, 15.0)  # mm


@pytest.mark.parametrize("preset", ["demo", "paper", "mini"])
def test_the_formula_is_what_torch_counts(preset):
    """Convolutions and narrow attention: all that a forward pass with few node positions computes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from LNSynthLib.training import cost
    from LNSynthLib.training.settings import load_preset, make_generator
    chosen = load_preset(preset, [])
    generator = make_generator(chosen)
    patch = (32, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, cost._Answers(0.02):
        cost._loss(generator.to("meta").eval(), patch, "denoiser" if "denoiser" in generator.players
                   else generator.players[-1])
    formula = estimates.denoiser_flops(chosen.generator["denoiser"], generator.form.condition_channels)
    assert formula * math.prod(patch) == pytest.approx(counter.get_total_flops(), rel=0.1)
    assert formula * math.prod(patch) < counter.get_total_flops()


def test_what_a_generator_tells():
    about = json.loads((generator_path() / "model.json").read_text())
    assert DEMO.key == about["weights_sha256"] and DEMO.patch == (64, 64, 64) and DEMO.spacing_mm == 2.0
    assert DEMO.width == 16 and DEMO.stride == 4 and not DEMO.one_pass


@pytest.mark.parametrize("kind", ["brainldm", "echo", "lnddpm", "medddpm", "nasdm", "pix2pix", "spade"])
def test_every_kind_of_generator_is_read(kind, tmp_path):
    from LNSynthLib.generators import model_folder
    from LNSynthLib.training.settings import load_preset
    settings = load_preset("mini", [], kind).generator
    generator = model_folder.create(settings["kind"], {k: v for k, v in settings.items() if k != "kind"})
    read = estimates.read_generator(model_folder.save(tmp_path / kind, generator))
    assert read.patch == tuple(generator.form.patch) and read.one_pass == (not generator.samplers)
    assert all(side % read.stride == 0 for side in read.patch)
    assert estimates.estimate(read, "in-place", [NODE], 25, 1, "cpu", Speeds()).memory_gb > 1


def test_no_generator_is_told(tmp_path):
    with pytest.raises(estimates.LNSynthError, match="model.json"):
        estimates.read_generator(tmp_path)
    (tmp_path / "model.json").write_text('{"kind": "x"}')
    with pytest.raises(estimates.LNSynthError, match="does not describe"):
        estimates.read_generator(tmp_path)


@pytest.mark.parametrize("size", [(3.0, 3.0, 3.0), NODE, (40.0, 30.0, 90.0), (200.0, 10.0, 10.0)])
def test_patches_are_those_of_the_library(size):
    from LNSynthLib.generators import model_folder
    from LNSynthLib.synthesis.insert import InsertSettings
    from LNSynthLib.synthesis.patches import LEAST_CONTEXT_MM, patch_shape
    assert (InsertSettings().context_mm, LEAST_CONTEXT_MM) == (estimates.CONTEXT_MM, estimates.LEAST_CONTEXT_MM)
    generator, _ = model_folder.load(generator_path())
    assert estimates.node_voxels(size, DEMO) == math.prod(
        patch_shape(size, generator.form, generator.stride, InsertSettings().context_mm))


def test_work_grows_with_what_is_asked():
    one = estimates.work(DEMO, "in-place", [NODE], 25, 1)
    assert estimates.work(DEMO, "in-place", [NODE] * 3, 25, 2) == 6 * one
    assert estimates.work(DEMO, "in-place", [NODE], 50, 1) == 2 * one
    assert estimates.work(DEMO, "patch", [NODE] * 3, 10, 2) == 64 ** 3 * 20


def test_removals_are_work_too():
    one = estimates.work(DEMO, "in-place", [NODE], 25, 1)
    assert estimates.work(DEMO, "in-place", [NODE], 25, 3, [NODE, NODE]) == (3 + 2) * one, "removed once for all"
    assert estimates.work(DEMO, "in-place", [NODE], 25, 3, [NODE, NODE], vary=True) == (3 + 6) * one
    assert estimates.work(DEMO, "patch", [], 25, 1, [NODE]) == estimates.work(DEMO, "patch", [], 25, 1)
    large = (40.0, 40.0, 40.0)
    alone, both = (estimates.estimate(DEMO, "in-place", [NODE], 25, 1, "cpu", Speeds(), removed_mm=removed)
                   for removed in ((), [large]))
    assert both.memory_gb > alone.memory_gb and both.seconds > alone.seconds


def test_devices(monkeypatch):
    assert [estimates.device_kind(d) for d in ("cpu", "cuda:1", "mps")] == ["cpu", "cuda", "mps"]
    monkeypatch.setattr(estimates.shutil, "which", lambda name: "/usr/bin/" + name)
    assert estimates.device_kind("auto") == "cuda"
    monkeypatch.setattr(estimates.shutil, "which", lambda name: None)
    monkeypatch.setattr(estimates.sys, "platform", "linux")
    assert estimates.device_kind("auto") == "cpu"


def test_a_guess_becomes_a_measure():
    speeds = Speeds.from_text("")
    guess = estimates.estimate(DEMO, "in-place", [NODE], 25, 1, "cpu", speeds, cores=2)
    assert not guess.measured and "guess" in estimates.words(guess)
    speeds.note(DEMO, "cpu", 10.0, estimates.work(DEMO, "in-place", [NODE], 25, 1))
    known = estimates.estimate(DEMO, "in-place", [NODE] * 4, 25, 1, "cpu", Speeds.from_text(speeds.to_text()))
    assert known.measured and known.seconds == pytest.approx(estimates.START_S + 40) and "last run" in \
        estimates.words(known)
    assert not estimates.estimate(DEMO, "in-place", [NODE], 25, 1, "cuda", speeds).measured
    for broken in ("[", "[1]", '{"a": "b"}', "null"):
        assert Speeds.from_text(broken).known == {}


def test_a_slow_run_is_warned_of():
    paper = estimates.Generator("k", 1.0, (128, 128, 128), 8, 32, 1.1e6, False)
    slow = estimates.estimate(paper, "patch", [], 300, 1, "cpu", Speeds(), cores=2)
    assert estimates.is_slow(slow) and "slow on the CPU" in estimates.words(slow) and slow.memory_gb > 5
    quick = estimates.estimate(paper, "patch", [], 300, 1, "cuda", Speeds())
    assert not estimates.is_slow(quick) and "slow" not in estimates.words(quick)
    unknown = estimates.Generator("k", 1.0, (128, 128, 128), 8, 32, None, False)
    never = estimates.estimate(unknown, "patch", [], 300, 1, "cpu", Speeds())
    assert never.seconds is None and estimates.is_slow(never) and "first run" in estimates.words(never)


def test_the_stopwatch_times_what_was_made_now():
    watch, there, made = Stopwatch(), Event("sample", 1, 3, result={}), Event("sample", 2, 3, result={})
    assert watch.event(there, 1.0) is None         # it was there before
    assert watch.event(Event("synthesising", 0, 2000), 5.0) is None
    assert watch.event(Event("synthesising", 500, 2000), 9.0) is None
    assert watch.event(made, 12.0) == 7.0 and watch.event(made, 20.0) == 8.0


def test_samples_that_are_made_together_are_measured_together():
    """Two patches at once come one right after the other; nodes that both lack were removed once."""
    watch = Stopwatch()
    patch = {"what": "patch", "sampling": {"steps": 5}, "condition": {"shape": [8, 8, 8]}}
    for seconds in (10.0, 0.1):
        watch.add(seconds, patch)
    assert (watch.seconds, watch.voxel_steps) == (10.1, 2 * 5 * 512)
    at = {"patch": {"shape": [4, 4, 4]}}
    condition = {"patches": [at], "removed": [3], "removal": {"patches": [at, at]}}
    watch = Stopwatch()
    for _ in range(2):
        watch.add(1.0, {"what": "insertion", "sampling": {"steps": 2}, "condition": condition})
    watch.add(1.0, {"what": "insertion", "sampling": {"steps": 2},
                    "condition": {"patches": [at], "removed": [], "removal": None}})
    assert watch.voxel_steps == 2 * 64 * (3 + 1 + 1)


def test_what_is_made_and_what_is_removed(scene):
    """Of three nodes that the CT shows one stays, one is moved, one is deleted; another is new."""
    import mrml
    import numpy as np
    from LNSynthLogic import nodes_in_ct, segments
    ct = mrml.add_ct(scene, np.zeros((40, 40, 40), np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))
    array = np.zeros((40, 40, 40), np.uint16)
    array[2:5, 2:5, 2:5], array[10:14, 10:14, 10:14], array[20:25, 20:25, 20:25] = 1, 2, 3
    nodes = mrml.add_nodes(scene, ct, array, in_ct=True)
    stays, moved, deleted = segments.node_ids(nodes)
    three, four, five, six = ((float(n), float(n), 2.0 * n) for n in (3, 4, 5, 6))
    assert nodes_in_ct.sizes_mm(nodes, None, ct) == ([three, four, five], [])
    original = nodes_in_ct.keep(nodes, ct)
    assert nodes_in_ct.sizes_mm(nodes, original, ct) == ([], [])
    segments.set_node(nodes, moved, ct, (11, 10, 10), np.ones((4, 4, 4), bool))
    segments.remove_node(nodes, deleted)
    segments.add_node(nodes, ct, (30, 30, 30), np.ones((6, 6, 6), bool))
    assert nodes_in_ct.sizes_mm(nodes, original, ct) == ([four, six], [four, five])
    assert nodes_in_ct.sizes_mm(nodes, original, ct, remake=True) == ([three, four, six], [four, five])
    assert nodes_in_ct.sizes_mm(nodes, original, ct, vary=True) == ([three, four, six], [three, four, five])


@pytest.mark.parametrize("mode", ["in-place", "patch"])
def test_a_real_run_is_measured(tmp_path, mode):
    """A phantom with one node; the second estimate is that of the run."""
    from LNSynthLib.images.volume import write
    from LNSynthLib.phantom.phantom import phantom
    drawn = phantom(5, (3.0, 3.0, 4.0), 1)
    for name in ("ct", "nodes", "anatomy"):
        write(tmp_path / f"{name}.nii", getattr(drawn, name))
    watch, timed = Stopwatch(), []

    def event(told):
        took = watch.event(told, time.monotonic())
        if took is not None:
            timed.append((took, Path(told.result["sample"])))
    job = process.Job(process.library_command(
        "variants", "--ct", tmp_path / "ct.nii", "--nodes", tmp_path / "nodes.nii", "--anatomy",
        tmp_path / "anatomy.nii", "--out", tmp_path / "out", "--mode", mode, "--steps", "5", "--device", "cpu"),
        on_event=event)
    job.start()
    while not job.ended:
        job.poll()
        time.sleep(0.05)
    assert job.state is process.State.DONE, job.error
    (took, folder), = timed
    done = estimates.work_done(json.loads((folder / "provenance.json").read_text()))
    sizes = [tuple((b.stop - b.start) * mm for b, mm in zip(box, drawn.ct.spacing, strict=True))
             for box in boxes(drawn.nodes.array)]
    assert done == estimates.work(DEMO, mode, sizes, 5, 1)
    speeds = Speeds()
    guess = estimates.estimate(DEMO, mode, sizes, 5, 1, "cpu", speeds)
    speeds.note(DEMO, "cpu", took, done)
    known = estimates.estimate(DEMO, mode, sizes, 5, 1, "cpu", speeds)
    assert known.seconds == pytest.approx(estimates.START_S + took) and known.measured
    print(f"guessed {guess.seconds:.1f} s, took {took:.1f} s and the start")


def boxes(array):
    from LNSynthLib.masks.nodes import boxes as found
    return found(array).values()
