"""`lnsynth train` and the loose script: what they print, refuse and leave behind."""

import json
import subprocess
import sys
import types

import pytest
import yaml

from LNSynthLib.cli import main
from LNSynthLib.runtime.settings import resources

PRESETS = sorted(path.stem for path in (resources() / "presets").glob("*.yaml"))
TINY = {"generator": {"kind": "lnddpm", "form": {"patch": [16, 16, 16]}, "denoiser": {
    "channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8}}}


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


def test_the_three_presets_are_there():
    assert {"paper", "small", "demo"} <= set(PRESETS)


@pytest.mark.parametrize("name", ["paper", "small", "demo"])
def test_dry_run_tells_what_a_preset_costs(name, capsys):
    assert main(["train", "--preset", name, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "parameters" in printed and "TFLOP" in printed and "128x128x128" in printed


def test_dry_run_as_json_and_with_settings(tiny, capsys):
    def cost(*assignments):
        assert main(["--events", "json", "train", "--preset", tiny, "--dry-run", "--set", *assignments]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])["result"]

    one, two = cost("training.steps=10"), cost("training.steps=20", "generator.denoiser.channels=[16, 32]")
    assert (one["steps"], two["steps"]) == (10, 20)
    assert 3.5 < two["parameters"] / one["parameters"] < 4.5


@pytest.mark.parametrize("arguments, wanted", [
    (["--preset", "paper"], "needs --data and --out"),
    (["--out", "nowhere", "--resume"], "needs --preset"),
    (["--preset", "huge", "--dry-run"], "There is no 'huge'"),
    (["--preset", "paper", "--dry-run", "--set", "training.stepz=3"], "unknown setting 'stepz'"),
    (["--preset", "paper", "--dry-run", "--set", "generator.timestepz=3"], "unknown setting 'timestepz'"),
    (["--preset", "paper", "--dry-run", "--set", "training.steps=many"], "must be of type int"),
    (["--preset", "paper", "--dry-run", "--set", "generator.kind=gan"], "no generator 'gan'"),
    (["--preset", "paper", "--data", "nowhere", "--out", "nowhere/run"], "nowhere"),
])
def test_what_cannot_work_is_refused_in_one_sentence(arguments, wanted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert wanted in error and len(error.splitlines()) == 1


def test_the_loose_script_is_the_same_command(repository, tiny, tmp_path):
    script = [sys.executable, str(repository / "LNSynthLib" / "train.py"), "--"]
    done = subprocess.run([*script, "--preset", tiny, "--dry-run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "parameters" in done.stdout, done.stderr
    refused = subprocess.run([*script, "--preset", "huge", "--dry-run"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "'huge'" in refused.stderr


def test_the_loose_script_tells_slicer_to_leave(repository, tiny, tmp_path, monkeypatch, capsys):
    """As Slicer runs it: the file is executed in an interpreter that has a `slicer` module, and must end it."""
    left = []
    stand_in = types.ModuleType("slicer")
    stand_in.util = types.SimpleNamespace(exit=left.append)
    monkeypatch.setitem(sys.modules, "slicer", stand_in)
    monkeypatch.setattr(sys, "path", [str(repository / "LNSynthLib"), *sys.path])
    path = repository / "LNSynthLib" / "train.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--preset", tiny, "--dry-run"])
    exec(compile(path.read_text(), str(path), "exec"), {"__name__": "__main__", "__file__": str(path)})
    assert left == [0] and "parameters" in capsys.readouterr().out
    assert str(repository / "LNSynthLib") not in sys.path and sys.path[0] == str(repository)
