"""The doctor tells the truth about what is here, what is not, and what to do."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from types import SimpleNamespace

import pytest

from LNSynthLib import doctor


def test_it_looks_for_what_the_project_asks_for(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]

    def names(lines):
        return {re.match(r"[\w-]+", line)[0] for line in lines}
    assert set(doctor.REQUIRED) == names(project["dependencies"])
    extras = project["optional-dependencies"]
    assert set(doctor.OPTIONAL) == names(extras["anatomy"] + extras["fetch"] + extras["segmentation"])


def test_packages():
    assert doctor.package("numpy") == doctor.Finding("numpy", "ok", metadata.version("numpy"))
    absent = doctor.package("lnsynth-absent-package", "`lnsynth fly`")
    assert (absent.state, absent.found, absent.cure) == (
        "missing", "needed by `lnsynth fly`", "pip install lnsynth-absent-package")


def test_a_torch_that_does_not_import_is_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    rows, gpu_gb = doctor.torch_devices()
    assert [row.state for row in rows] == ["missing"] and gpu_gb == 0


@pytest.mark.parametrize("driver, build, state, cure", [
    (False, None, "no", ""), (True, None, "missing", "CUDA build"), (True, "13.0", "missing", "driver")])
def test_a_gpu_that_cannot_be_used(monkeypatch, driver, build, state, cure):
    import torch
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    rows, gpu_gb = doctor.torch_devices()
    assert (rows[-1].what, rows[-1].state, gpu_gb) == ("GPU", state, 0) and cure in rows[-1].cure


def test_the_largest_gpu_counts(monkeypatch):
    import torch
    cards = [SimpleNamespace(name="small", total_memory=12 * doctor.GB),
             SimpleNamespace(name="large", total_memory=int(23.7 * doctor.GB))]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    rows, gpu_gb = doctor.torch_devices()
    assert [row.found for row in rows[1:]] == ["small, 12 GB", "large, 24 GB"]
    assert gpu_gb == pytest.approx(23.7, abs=.01)


@pytest.mark.parametrize("gpu_gb, states", [(0, ["no", "no", "slow"]), (8, ["no", "no", "ok"]),
                                            (11.6, ["no", "ok", "ok"]), (23.6, ["ok", "ok", "ok"])])
def test_what_a_gpu_is_good_for(gpu_gb, states):
    rows = doctor.jobs(gpu_gb)
    assert [row.state for row in rows] == states
    assert all(bool(row.cure) == (row.state != "ok") for row in rows)


@pytest.mark.parametrize("free_gb, state", [(3, "slow"), (300, "ok")])
def test_memory_and_disk(monkeypatch, tmp_path, free_gb, state):
    import psutil
    monkeypatch.setattr(psutil, "virtual_memory",
                        lambda: SimpleNamespace(available=free_gb * doctor.GB, total=512 * doctor.GB))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free_gb * doctor.GB))
    rows = doctor.memory_and_disk(tmp_path)
    assert [row.state for row in rows] == [state] * 3
    assert str(tmp_path) in rows[1].found


def test_imports_are_tried(tmp_path, monkeypatch):
    (tmp_path / "lnsynth_quits.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.imports("JSON", "json").state == "ok"
    assert doctor.imports("quits", "lnsynth_quits").state == "missing"
    absent = doctor.imports("absent", "lnsynth_absent")
    assert absent.state == "missing" and "No module named 'lnsynth_absent'" in absent.found


def test_weights_that_come_along(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "resources", lambda: tmp_path)
    assert doctor.generators()[0].state == "missing"
    (tmp_path / "generators" / "demo").mkdir(parents=True)
    (tmp_path / "generators" / "demo" / "model.json").write_text("{}")
    assert [(row.what, row.state) for row in doctor.generators()] == [("weights: demo", "ok")]


def test_anatomy_weights(tmp_path, monkeypatch):
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path))
    rows = doctor.anatomy_weights()
    assert [row.state for row in rows] == ["missing", "missing"]
    assert all(str(tmp_path) in row.found and "totalseg_download_weights" in row.cure for row in rows)
    for model in (297, 298):
        (tmp_path / TASK_ID_WEIGHTS_CONFIGS[model]["foldername"]).mkdir()
    assert [row.state for row in doctor.anatomy_weights()] == ["ok", "missing"]


def test_the_command_shows_the_same_as_a_table_and_as_a_result(tmp_path):
    done = subprocess.run([sys.executable, "-m", "LNSynthLib", "doctor", "--folder", str(tmp_path), "--events", "json"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])["result"]
    rows = [doctor.Finding(**row) for row in result["rows"]]
    assert result["ready"] is True
    assert done.stderr.rstrip("\n") == doctor.table(rows)
    found = {row.what: row.found for row in rows}
    assert found["torch"] == metadata.version("torch")
    assert {row.what for row in rows} >= {"Python", "LNSynth", "processor", "memory", "disk here", "nnU-Net",
                                         "anatomy weights, fast"}


def test_a_folder_that_does_not_exist():
    done = subprocess.run([sys.executable, "-m", "LNSynthLib", "doctor", "--folder", "no/such/folder"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and "no/such/folder" in done.stderr
