"""The MONAI bundle of a generator: MONAI's own command runs it, and makes the voxels that `lnsynth insert` makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import monai
import mrml
import numpy as np
import pytest
from monai.bundle import ConfigParser
from test_synthesize import make_generator

import LNSynthLib as ln
from LNSynthLib import bundle, cli
from LNSynthLib.cases.trained_on import TrainedOn
from LNSynthLib.generators import model_folder
from LNSynthLib.images.synthetic import kind

# What docs.monai.io's specification asks of metadata.json.
REQUIRED = {"version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
            "task", "description", "authors", "copyright", "network_data_format"}


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return make_generator(tmp_path_factory.mktemp("weights") / "tiny", spacing_mm=3.0)


@pytest.fixture(scope="module")
def exported(generator, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    assert cli.main(["export", "bundle", str(generator), "--out", str(out)]) == 0
    return out


def test_monai_runs_the_bundle(exported, generator, tmp_path):
    scene = mrml.phantom()
    for name in ("ct", "nodes", "anatomy"):
        ln.write(tmp_path / f"{name}.nii.gz", getattr(scene, name))
    arguments = [word for name in ("ct", "nodes", "anatomy")
                 for word in (f"--{name}", str(tmp_path / f"{name}.nii.gz"))]
    arguments += ["--steps", "2", "--seed", "3", "--device", "cpu"]
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--meta_file", "configs/metadata.json",
               "--config_file", "configs/inference.json", *arguments, "--out", str(tmp_path / "monai.nii.gz")]
    library = str(Path(ln.__file__).parents[1])
    done = subprocess.run(command, cwd=exported, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": library})
    assert done.returncode == 0, done.stderr
    assert cli.main(["insert", "--generator", str(generator), *arguments, "--out", str(tmp_path / "ours.nii.gz")]) == 0
    theirs, ours = (tmp_path / f"{name}.nii.gz" for name in ("monai", "ours"))
    assert np.array_equal(ln.read_ct(theirs).array, ln.read_ct(ours).array) and kind(theirs) == "synthetic"
    assert theirs.read_bytes() == ours.read_bytes()
    assert not np.array_equal(ln.read_ct(theirs).array, scene.ct.array)


def test_the_bundle_is_as_monai_specifies(exported, generator):
    parser = ConfigParser()
    parser.read_meta(str(exported / "configs" / "metadata.json"))
    parser.read_config(str(exported / "configs" / "inference.json"))
    meta = json.loads((exported / "configs" / "metadata.json").read_text())
    assert set(meta) >= REQUIRED and meta["monai_version"] == monai.__version__
    form = model_folder.form(generator)
    patch = meta["network_data_format"]["inputs"]["condition"]
    assert patch["num_channels"] == form.condition_channels == len(patch["channel_def"])
    assert patch["spatial_shape"] == list(form.patch)
    text = (exported / "configs" / "inference.json").read_text()
    assert "$" not in text and text.count("_target_") == 1  # no Python inside
    assert parser["inference"]["_target_"] == f"{bundle.infer.__module__}.{bundle.infer.__name__}"
    files = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert files >= {"LICENSE", "docs/README.md", "models/model.safetensors", "models/model.json", "models/labels.yaml"}
    assert not [name for name in files if name.endswith((".pt", ".pth", ".pkl", ".ts"))]
    for name in ("model.safetensors", "model.json", "labels.yaml"):
        assert (exported / "models" / name).read_bytes() == (generator / name).read_bytes()


def test_what_is_not_recorded_is_said(exported, generator, tmp_path):
    card = (exported / "docs" / "README.md").read_text()
    assert "| licence of the weights | not recorded |" in card and "| training | not recorded |" in card
    assert "not recorded" in (exported / "LICENSE").read_text()
    model, facts = model_folder.load(generator)
    told = {"licence": "CC BY 4.0", "training": {"step": 40, "cases": ["a", "b"]}}
    known = model_folder.save(tmp_path / "known", model, told, trained_on=TrainedOn())
    card = bundle.model_card(model.form, model_folder.facts(known))
    assert "| licence of the weights | CC BY 4.0 |" in card and "| training | 40 steps |" in card
    assert "| trained on | 2 cases |" in card and "hashes" in card


def test_nothing_is_overwritten_and_nothing_damaged_is_exported(exported, generator, tmp_path, capsys):
    assert cli.main(["export", "bundle", str(generator), "--out", str(exported)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["export", "bundle", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert "no generator" in capsys.readouterr().err
    with pytest.raises(ln.LNSynthError, match="--ct"):
        bundle.infer(str(exported), None, None, None, "out.nii.gz", "dpmpp", 2, 0, "cpu")
