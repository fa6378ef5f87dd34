"""Commands that the library understands, and sentences about what is missing before one can start."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import mrml
import numpy as np
import pytest
from LNSynthLogic.jobs import commands
from LNSynthLogic.jobs.commands import Exported, what_is_missing
from LNSynthLogic.jobs.environment import Environment, Package

from LNSynthLib import cli

READY = Environment((), {})
BARE = Environment((Package("torch", "torch>=2.5", ("synthesis",), 860, "networks", False),), {"torch": ""})


@dataclass(frozen=True)
class Parameters:
    """The module's parameters with their defaults."""

    ct: object = None
    nodes: object = None
    nodesInCT: bool = False
    keptNodes: object = None
    anatomy: object = None
    device: str = "auto"
    generator: str = ""
    mode: str = "in-place"
    sampler: str = "dpmpp"
    steps: int = 25
    seed: int = 0
    variants: int = 1
    vary: bool = False
    remake: bool = False
    samplesFolder: str = "samples"
    segmenter: str = ""
    batchInput: str = ""
    batchOutput: str = ""
    batchWork: str = "synthesis"


def parsed(command):
    """What the library's own parser makes of a command."""
    assert command[1:3] == ["-m", "LNSynthLib"] and command[-2:] == ["--events", "json"]
    return cli.parse(command[3:], SimpleNamespace(events="bar", debug=False, verb="lnsynth"))


def test_variants_in_place():
    files = Exported(Path("ct.nii"), Path("nodes.nii"), Path("present.nii"), Path("anatomy.nii"))
    args = parsed(commands.variants(Parameters(steps=10, seed=7, variants=3, vary=True, remake=True, device="cpu",
                                               generator="run", sampler="ddim"), files, "case-1"))
    assert (args.verb, args.ct, args.nodes, args.present, args.anatomy) == (
        "variants", "ct.nii", "nodes.nii", "present.nii", "anatomy.nii")
    assert (args.steps, args.seed, args.count, args.vary, args.remake) == (10, 7, 3, True, True)
    assert (args.device, args.generator, args.sampler, args.mode) == ("cpu", "run", "ddim", "in-place")
    assert (args.out, args.prefix) == ("samples", "case-1")


def test_variants_with_the_least():
    args = parsed(commands.variants(Parameters(mode="patch"), Exported(Path("ct.nii"), Path("nodes.nii")), "ct"))
    assert args.present is None and args.anatomy is None and args.generator is None
    assert args.mode == "patch" and not args.vary and not args.remake


def test_the_other_jobs():
    args = parsed(commands.anatomy(Path("a b.nii"), Path("out.nii"), True, "cuda:1"))
    assert (args.verb, args.ct, args.out, args.fast, args.device) == ("anatomy", "a b.nii", "out.nii", True, "cuda:1")
    assert not parsed(commands.anatomy(Path("a.nii"), Path("out.nii"), False, "auto")).fast
    args = parsed(commands.add_nodes(Path("a.nii"), Path("b.nii"), Path("c.nii"), 4, 3))
    assert (args.verb, args.add, args.seed, args.anatomy, args.out) == ("nodes", 4, 3, "b.nii", "c.nii")
    args = parsed(commands.segment("model", Path("a.nii"), Path("c.nii"), "cpu"))
    assert (args.verb, args.way, args.model, args.out) == ("segment", "predict", "model", "c.nii")


@pytest.mark.parametrize("name, prefix", [
    ("CT Abdomen 5.0 mm", "CT-Abdomen-5.0-mm"), ("Müller/3", "M-ller-3"), ("..", "ct"), ("", "ct"), ("a_01", "a_01")])
def test_prefixes_of_samples_are_safe_names(name, prefix):
    assert commands.sample_prefix(name) == prefix
    assert commands.default_samples_folder("docs", name) == Path("docs", "LNSynth", prefix)


@pytest.fixture
def scene():
    return mrml.new_scene()


@pytest.fixture
def ready(scene):
    """Parameters with a CT and one node."""
    array = np.zeros((8, 8, 8), np.int16)
    ct = mrml.add_ct(scene, array)
    array[2:5, 2:5, 2:5] = 1
    return Parameters(ct=ct, nodes=mrml.add_nodes(scene, ct, array))


def test_synthesis_asks_for_one_thing_after_the_other(scene, ready):
    def missing(**changes):
        return what_is_missing("synthesis", replace(ready, **changes), READY)

    empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    assert missing() == ""
    assert "Choose a CT" in missing(ct=None, nodes=None)
    assert "no voxels" in missing(ct=scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))
    assert "segmentation for the nodes" in missing(nodes=None)
    assert "no nodes yet" in missing(nodes=empty)
    assert "anatomy" in missing(vary=True) and missing(vary=True, anatomy=empty) == ""
    assert what_is_missing("synthesis", None, READY)
    assert "Setup" in what_is_missing("synthesis", ready, BARE) and "torch" in what_is_missing("synthesis", ready, BARE)


def test_all_nodes_of_a_ct_may_be_removed_in_place(scene, ready):
    empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    removed = replace(ready, nodes=empty, nodesInCT=True, keptNodes=ready.nodes)
    assert what_is_missing("synthesis", removed, READY) == ""
    assert what_is_missing("synthesis", replace(removed, mode="patch"), READY)
    assert "varied" in what_is_missing("synthesis", replace(removed, vary=True, anatomy=empty), READY)


def test_nodes_that_another_ct_shows_are_refused(scene, ready):
    from LNSynthLogic import nodes_in_ct

    other = mrml.add_ct(scene, np.zeros((8, 8, 8), np.int16), name="other")
    marked = replace(ready, nodesInCT=True, keptNodes=nodes_in_ct.keep(ready.nodes, ready.ct))
    assert what_is_missing("synthesis", marked, READY) == ""
    assert "another CT" in what_is_missing("synthesis", replace(marked, ct=other), READY)
    assert what_is_missing("synthesis", replace(marked, ct=other, nodesInCT=False), READY) == ""
    nodes_in_ct.forget(ready.nodes)  # the cure
    cured = replace(marked, ct=other, keptNodes=nodes_in_ct.keep(ready.nodes, other))
    assert what_is_missing("synthesis", cured, READY) == ""
    scene.RemoveNode(other)
    assert "another CT" in what_is_missing("synthesis", replace(cured, ct=ready.ct), READY)


def test_more_steps_than_a_generator_has_are_refused(ready, tmp_path):
    def missing(**changes):
        return what_is_missing("synthesis", replace(ready, **changes), READY)

    assert missing(steps=300) == "" and "301 steps" in missing(steps=301) and "1 to 300" in missing(steps=301)
    assert "Setup" in what_is_missing("synthesis", replace(ready, steps=301), BARE)
    (tmp_path / "cts").mkdir()
    batch = replace(ready, batchInput=str(tmp_path / "cts"), batchOutput=str(tmp_path / "out"), steps=301)
    assert "301 steps" in what_is_missing("batch", batch, READY)
    assert what_is_missing("batch", replace(batch, batchWork="anatomy"), READY) == ""


@pytest.mark.parametrize("kind, most", [
    ("brainldm", 1000), ("echo", 1000), ("lnddpm", 300), ("medddpm", 250), ("nasdm", 1000), ("pix2pix", None),
    ("spade", None)])
def test_every_kind_of_generator_says_how_many_steps_it_has(ready, tmp_path, kind, most):
    from LNSynthLib.generators import model_folder
    from LNSynthLib.training.settings import load_preset

    settings = load_preset("mini", [], kind).generator
    generator = model_folder.create(settings["kind"], {k: v for k, v in settings.items() if k != "kind"})
    folder = str(model_folder.save(tmp_path / kind, generator))
    assert bool(generator.samplers) == (most is not None)
    refused = what_is_missing("synthesis", replace(ready, generator=folder, steps=(most or 999) + 1), READY)
    assert f"1 to {most}" in refused if most else refused == ""
    assert what_is_missing("synthesis", replace(ready, generator=folder, steps=most or 1), READY) == ""


def test_a_generator_is_a_folder_of_one_or_a_run(ready, tmp_path):
    from LNSynthLib.generators.model_folder import generator_path
    demo = generator_path()
    run = tmp_path / "run"
    (run / "generator").mkdir(parents=True)
    for name in ("model.json", "model.safetensors"):
        (run / "generator" / name).write_text("{}")
    for good in (demo, demo / "model.json", run):
        assert what_is_missing("synthesis", replace(ready, generator=str(good)), READY) == "", good
    for bad in (tmp_path, tmp_path / "gone"):
        assert str(bad) in what_is_missing("synthesis", replace(ready, generator=str(bad)), READY)


def test_anatomy_and_segmentation(ready, tmp_path):
    assert what_is_missing("anatomy", ready, READY) == ""
    assert "CT" in what_is_missing("anatomy", replace(ready, ct=None), READY)
    assert "torch" in what_is_missing("anatomy", ready, BARE)
    assert "Choose the folder" in what_is_missing("segmentation", ready, READY)
    chosen = replace(ready, segmenter=str(tmp_path))
    assert str(tmp_path) in what_is_missing("segmentation", chosen, READY)
    from LNSynthLib.segmentation.model import MODEL
    (tmp_path / MODEL).mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        (tmp_path / MODEL / name).touch()
    assert what_is_missing("segmentation", chosen, READY) == ""
    assert what_is_missing("segmentation", replace(chosen, segmenter=str(tmp_path / MODEL)), READY) == ""


def test_batch(tmp_path):
    cts, out = tmp_path / "cts", tmp_path / "out"
    cts.mkdir()

    def missing(**changes):
        return what_is_missing("batch", Parameters(**changes), READY)

    assert "CTs" in missing() and str(out) in missing(batchInput=str(out))
    assert "results" in missing(batchInput=str(cts))
    assert missing(batchInput=str(cts), batchOutput=str(out)) == ""
    assert "into" in missing(batchInput=str(cts), batchOutput=str(cts / "results"))
    assert "nnU-Net" in missing(batchInput=str(cts), batchOutput=str(out), batchWork="segmentation")
    assert "generator" in missing(batchInput=str(cts), batchOutput=str(out), generator=str(tmp_path))
    assert "torch" in what_is_missing("batch", Parameters(batchInput=str(cts), batchOutput=str(out)), BARE)
