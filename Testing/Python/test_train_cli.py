"""`lnsynth train` and the loose script: what they print, refuse and leave behind."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from made_prepared import write_case

from LNSynthLib.cases.dataset import Dataset
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


@pytest.mark.slow
def test_a_refusal_under_torchrun_ends_all_processes(repository, tiny, tmp_path):
    """The first of two processes finds one patient on both sides; the other waits for it."""
    write_case(tmp_path / "data", 0)
    write_case(tmp_path / "data", 1, split="test")
    changing = Dataset.open(tmp_path / "data")
    with changing.changing():
        changing.entry("case1")["patient"] = "p0"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "LNSynthLib",
         "train", "--preset", tiny, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--anyway",
         "--set", "training.steps=2", "training.batch=2", "training.precision=fp32"], capture_output=True, text=True,
        timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "1",
                          "PYTHONPATH": str(repository)})
    assert done.returncode != 0 and done.stderr.count("patient p0 is on both sides") == 1, done.stderr[-3000:]
    assert "AssertionError" not in done.stderr and not (tmp_path / "run" / "generator").exists()


def test_the_loose_script_is_the_same_command(repository, tiny, tmp_path):
    script = [sys.executable, str(repository / "LNSynthLib" / "train.py"), "--"]
    done = subprocess.run([*script, "--preset", tiny, "--dry-run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "parameters" in done.stdout, done.stderr
    refused = subprocess.run([*script, "--preset", "huge", "--dry-run"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "'huge'" in refused.stderr


# What Slicer does with --python-script FILE -- ARGUMENTS (v5.10.0, v5.12.3: qSlicerCoreApplication.cxx and
# qSlicerApplication.cxx, handleCommandLineArguments; CTK's executeFile): the script runs in the main module with its
# folder on the path; then --exit-after-startup ends the application with 1 after an error and else 0, whatever status
# was asked for before, and without it the application stays open unless it was asked to go.
SLICER = """
import sys, traceback, types
exits, option = [], sys.argv.pop(1) == "--exit-after-startup"
slicer = sys.modules["slicer"] = types.ModuleType("slicer")
slicer.util = types.SimpleNamespace(exit=exits.append)
slicer.app = types.SimpleNamespace(commandOptions=lambda: types.SimpleNamespace(exitAfterStartup=option))
sys.argv = sys.argv[1:]
folder, failed = sys.argv[0].rpartition("/")[0], False
sys.path.insert(0, folder)
try:
    exec(open(sys.argv[0]).read(), {"__name__": "__main__", "__file__": sys.argv[0]})
except SystemExit as end:
    exits.append(end.code or 0)
except BaseException:
    failed = True
    traceback.print_exc()
assert folder not in sys.path and sys.path[0] == folder.rpartition("/")[0], sys.path
if option:
    exits.append(1 if failed else 0)
sys.exit(exits[-1] if exits else "Slicer stays open")
"""


@pytest.mark.parametrize("option, preset, wanted", [
    ("--exit-after-startup", "", 0), ("--exit-after-startup", "huge", 1), ("", "huge", 2)])
def test_the_loose_script_ends_slicer_with_a_status(repository, tiny, tmp_path, option, preset, wanted):
    script = str(repository / "LNSynthLib" / "train.py")
    done = subprocess.run([sys.executable, "-c", SLICER, option, script, "--preset", preset or tiny, "--dry-run"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == wanted, done.stderr
    assert ("parameters" in done.stdout) is (wanted == 0) and ("'huge'" in done.stderr) is (preset == "huge")


def test_slicer_loads_no_data_in_copies_of_itself(repository, tiny, tmp_path):
    """Loader processes would be copies of the application: 0 of them, whatever the preset or the caller says."""
    said = []
    code = SLICER.replace("exec(", "import LNSynthLib.cli; LNSynthLib.cli.main = lambda a: print(a) or 0; exec(")
    for slicer in (code, code.replace('sys.modules["slicer"] = ', "")):
        done = subprocess.run([sys.executable, "-c", slicer, "", str(repository / "LNSynthLib" / "train.py"), "--set",
                               "training.workers=4"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.strip().splitlines()[-1])
    assert said == ["['train', '--set', 'training.workers=4', '--set', 'training.workers=0']",
                    "['train', '--set', 'training.workers=4']"]
