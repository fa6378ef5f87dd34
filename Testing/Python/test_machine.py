"""What a job takes is estimated and compared with the machine in a sentence, before the work."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from made_prepared import write_case

from LNSynthLib import cli
from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.runtime import machine
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import write_json
from LNSynthLib.runtime.machine import Machine, Need, check
from LNSynthLib.training.settings import load_preset

GB = 1e9
NEED = Need("Painting the moon", 10 * GB, 0, "take a smaller moon")
SMALL, LARGE = Machine(8 * GB, "8.0 GB of this machine's memory are free", 2), Machine(64 * GB, "64 GB are free", 16)


def test_a_job_that_fits_goes_on():
    check(NEED, LARGE)
    check(None, SMALL)
    check(NEED, SMALL, anyway=True)


def test_too_little_memory_is_one_sentence():
    with pytest.raises(LNSynthError) as refusal:
        check(NEED, SMALL)
    assert str(refusal.value) == ("Painting the moon needs about 14 GB of memory, and 8.0 GB of this machine's memory "
                                  "are free: take a smaller moon, or add --anyway to go on.")


@pytest.mark.parametrize("flop, limit_s, refused", [(1e15, 0, False), (1e17, 0, True), (1e17, 3600, False)])
def test_days_on_the_processor_are_asked_for_twice(flop, limit_s, refused):
    need = Need("It", 0, flop, "buy a GPU", limit_s)
    if refused:
        with pytest.raises(LNSynthError, match=r"^It needs about 23 days on the 2 cores of this processor: buy a GPU"):
            check(need, SMALL)
    else:
        check(need, SMALL)
    check(need, Machine(80 * GB, "a GPU"))  # nobody is stopped for the time there


def test_memory_of_a_container_counts(tmp_path, monkeypatch):
    limit, used = tmp_path / "limit", tmp_path / "used"
    limit.write_text("3000000000\n")
    used.write_text("1000000000\n")
    monkeypatch.setattr(machine, "LIMITS", ((str(limit), str(used)), (str(tmp_path / "none"), str(used))))
    assert machine.free_memory() == 2e9
    limit.write_text("max\n")
    assert machine.free_memory() > 0


@pytest.mark.parametrize("seconds, text", [(7200, "2 h 00 min"), (5 * 86400, "5 days"), (3e8, "10 years")])
def test_long_times_are_told_as_people_say_them(seconds, text):
    assert machine.days(seconds) == text


@pytest.mark.parametrize("kind", ["lnddpm", "pix2pix", "medddpm"])
def test_training_of_the_paper_s_size_is_refused_on_two_cores(kind):
    from LNSynthLib.training.cost import training_need
    need = training_need(load_preset("paper", [], kind), "Training paper", "take a GPU")
    with pytest.raises(LNSynthError, match="(days|years) on the 2 cores"):
        check(need, SMALL)
    check(replace(need, flop=0), Machine(80 * GB, "the H100 has 80 GB", bf16=True))


def test_small_presets_are_not_even_counted():
    from LNSynthLib.training.cost import training_need
    for name in ("demo", "mini"):
        assert training_need(load_preset(name), "", "") is None
    assert training_need(load_preset("mini", ["training.steps=1000000"]), "", "") is not None


def test_a_generator_is_counted_without_its_values():
    """Counting allocates none of the weights: those of BrainLDM and SPADE are gigabytes."""
    from LNSynthLib.training.cost import blank
    for kind in ("lnddpm", "echo"):
        assert all(p.is_meta for p in blank(load_preset("paper", [], kind)).parameters())


def test_the_paper_s_segmenter_needs_a_gpu_and_mini_does_not():
    from LNSynthLib.segmentation.cost import training_need
    from LNSynthLib.segmentation.settings import load_settings
    paper, mini = (training_need(load_settings(name), "It", "x") for name in ("paper", "mini"))
    assert 4 * GB < paper.memory < 14 * GB  # nnU-Net plans for 8 GB
    with pytest.raises(LNSynthError, match="days|years"):
        check(paper, LARGE)
    check(mini, SMALL)


def test_segmenter_is_counted_as_torch_counts_it():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from LNSynthLib.segmentation.cost import training_need
    from LNSynthLib.segmentation.settings import load_settings
    network = pytest.importorskip("dynamic_network_architectures.architectures.unet").PlainConvUNet
    settings = load_settings("mini")
    trainer = settings.trainer
    with torch.device("meta"):
        net = network(1, len(trainer.features), trainer.features, torch.nn.Conv3d, 3,
                      [1] + [2] * (len(trainer.features) - 1), trainer.convolutions, 2,
                      [trainer.convolutions] * (len(trainer.features) - 1), norm_op=torch.nn.InstanceNorm3d,
                      nonlin=torch.nn.LeakyReLU)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(trainer.batch, 1, *trainer.patch, device="meta"))
    passes = trainer.epochs * (3 * trainer.iterations + trainer.val_iterations)
    assert training_need(settings, "", "").flop / passes == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_train_is_refused_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "this_machine", lambda device: SMALL)
    Dataset.create(tmp_path / "data")
    arguments = ["train", "--preset", "paper", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"lnsynth: Training paper needs about 18 GB of memory, and 8.0 GB of this machine's memory are "
                        r"free; and about 70 days on the 2 cores of this processor: .*, or add --anyway to go on\.",
                        told)
    assert not (tmp_path / "run").exists()
    assert cli.main([*arguments, "--anyway"]) == 2
    assert "needs about" not in capsys.readouterr().err  # now it is the cases that are missing


def write_paper_generator(folder):
    """A generator of the paper's size without its weights."""
    settings = dict(load_preset("paper").generator)
    write_json(folder / "model.json", {"kind": settings.pop("kind"), "settings": settings, "weights_sha256": ""})
    (folder / "model.safetensors").touch()


def test_many_samples_of_a_large_generator_are_refused(tmp_path, capsys, monkeypatch):
    data, generator = tmp_path / "data", tmp_path / "paper"
    write_case(data, 0)
    write_json(data / "prepared/default/prepare.json",
               {"settings": {"spacing_mm": 1.0, "window": [-120.0, 240.0], "labels": "abdomen14"}})
    write_paper_generator(generator)
    arguments = ["synthesize", "--generator", str(generator), "--data", str(data), "--out", str(tmp_path / "out")]

    def told(free, *more):
        monkeypatch.setattr(machine, "this_machine", lambda device: replace(free, cores=2))
        assert cli.main([*arguments, *more]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert re.search(r"Making 1 samples with .*paper needs about \d+ GB of memory, and 1 GB is free: ",
                     told(Machine(GB, "1 GB is free")))
    assert re.search(r"Making 200 samples .* needs about 3 days on the 2 cores", told(LARGE, "--per-case", "200"))
    assert re.search(r"needs about 1\d GB of memory, and 9 GB", told(Machine(9 * GB, "9 GB"), "--workers", "3"))
    assert "needs about" not in told(SMALL) and "needs about" not in told(SMALL, "--per-case", "200", "--anyway")


@pytest.mark.parametrize("verb", [["insert", "--ct", "ct.nii.gz", "--nodes", "nodes.nii.gz", "--out", "out.nii.gz"],
                                  ["variants", "--ct", "ct.nii.gz", "--nodes", "nodes.nii.gz", "--out", "out"],
                                  ["demo", "--out", "out"]], ids=lambda verb: verb[0])
def test_a_large_generator_is_refused_before_it_is_read(tmp_path, capsys, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    write_paper_generator(tmp_path / "paper")

    def told(*more):
        monkeypatch.setattr(machine, "this_machine", lambda device: Machine(GB, "1 GB is free", 2))
        assert cli.main([*verb, "--generator", "paper", *more]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert re.search(r"^lnsynth: Sampling with paper needs about \d+ GB of memory, and 1 GB is free: ", told())
    assert "needs about" not in told("--anyway")  # now it is the weights that are damaged
    assert not any((tmp_path / name).exists() for name in ("out", "out.nii.gz"))


def test_the_paper_s_experiment_is_refused_on_a_small_machine(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "this_machine", lambda device: SMALL)
    phantoms = "data=[{name: phantoms, phantoms: {train: 2, val: 1, test: 1}, spacing_mm: 5}]"
    one = ["methods={lnddpm: {kind: lnddpm}, pix2pix: {kind: pix2pix}}", "filter_methods=[]",
           "tables={t: {title: T, rows: [{label: L, method: lnddpm}, {label: P, method: pix2pix}]}}"]
    arguments = ["experiment", "run", "--plan", "paper", "--out", str(tmp_path / "out"), "--set", phantoms, *one]
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"lnsynth: Plan paper needs about \d+ GB of memory, .* and about \d+ years on the 2 cores .*: "
                        r"run it on machines with GPUs .*, or add --anyway to go on\.", told)
    assert not (tmp_path / "out").exists()


def test_the_small_plans_are_not_refused(tmp_path):
    from LNSynthLib.experiment.cells import layout
    from LNSynthLib.experiment.cost import need
    from LNSynthLib.experiment.plan import load_plan
    for name in ("smoke", "mini"):
        check(need(layout(load_plan(name), tmp_path), tmp_path, name, workers=2), SMALL)


@pytest.mark.slow
def test_what_is_counted_is_what_a_step_takes():
    """Most resident memory of training steps of the demo's network in a process of its own, with the allocator's
    setting as in training."""
    code = """
import resource
from LNSynthLib.runtime import machine
from LNSynthLib.runtime.seeds import torch_rng
from LNSynthLib.training.cost import training_bytes, blank
from LNSynthLib.training.memory import keep_freed_memory
from LNSynthLib.training.settings import load_preset, make_generator
import torch
keep_freed_memory()
preset = load_preset('demo')
counted = training_bytes(blank(preset), (64,) * 3)
generator = make_generator(preset)
adam = torch.optim.Adam(generator.parameters())
channels = generator.form.condition_channels
batch = {'image': torch.randn(1, 1, 64, 64, 64), 'condition': torch.rand(1, channels, 64, 64, 64)}
for _ in range(3):
    generator.loss(batch, [torch_rng(0)])['loss'].backward()
    adam.step()
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
need = machine.Need('', counted, 0, '')
print(used, machine.memory_on(machine.Machine(0, '', 2), need))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    used, told = map(float, done.stdout.split())
    assert 0.7 * used < told < 1.5 * used
