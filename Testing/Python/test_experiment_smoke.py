"""The smoke plan from data to report with everything real: seven generators, three strategies, two processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from LNSynthLib.experiment.cells import layout
from LNSynthLib.experiment.plan import load_plan
from LNSynthLib.experiment.run import is_done, result
from LNSynthLib.generators import model_folder
from LNSynthLib.runtime.files import sha256

pytestmark = pytest.mark.slow

# A part of the smoke plan: its rows are the same cells as in the whole one.
PART = ["tables={table2: {title: T, rows: [{label: Real, strategy: real}, {label: LN-DDPM, method: lnddpm}]}}",
        "filter_methods=[]"]


def command(out, repository, *arguments):
    path = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "LNSynthLib", "experiment", *arguments, "--out", str(out)],
                            env=path, cwd=out.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)


def finish(process):
    said, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, said[-3000:]
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory, repository):
    """The smoke plan, run by two processes, with its report."""
    out = tmp_path_factory.mktemp("experiment") / "smoke"
    finish(command(out, repository, "run", "--plan", "smoke", "--workers", "2"))
    finish(command(out, repository, "report"))
    return out


def test_the_smoke_plan_runs_whole(whole):
    cells = layout(load_plan("smoke"), whole).cells
    assert all(is_done(cell, whole) for cell in cells)
    kinds = {cell.settings["generator"]["kind"] for cell in cells if cell.kind == "generator"}
    assert kinds == set(model_folder.KINDS)
    strategies = {cell.settings["strategy"] for cell in cells if cell.kind == "segmenter"}
    assert strategies == {"real", "synthetic", "both"}
    for cell in cells:
        if cell.kind == "scores":
            assert len(result(cell, whole)["cases"]) == 2
        if cell.kind == "images":
            summary = result(cell, whole)["summary"]
            assert summary["samples"] == 2 and summary["metrics"]["psnr"]["mean"] > 0


def test_its_report_has_every_row(whole):
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "PHANTOM" in page.upper() and "not yet" not in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page
    plan = load_plan("smoke")
    tables = {path.stem: list(csv.DictReader(path.open(encoding="utf-8"))) for path in (whole / "report").glob("*.csv")}
    for name, table in plan.tables.items():
        assert name in tables, sorted(tables)
        labels = {value for row in tables[name] for value in row.values()}
        assert {row.label for row in table.rows} <= labels


def same(cell, one, other):
    """Whether two runs of a cell came to the same weights, samples or scores."""
    a, b = cell.folder(one), cell.folder(other)
    if cell.kind == "generator":
        return sha256(a / "run/generator/model.safetensors") == sha256(b / "run/generator/model.safetensors")
    if cell.kind == "pairs":
        names = sorted(path.name for path in (b / "samples").iterdir() if path.is_dir())
        return names and all(
            json.loads((a / "samples" / name / "provenance.json").read_text())["outputs"]["ct.nii.gz"]
            == sha256(b / "samples" / name / "ct.nii.gz") for name in names)
    return result(cell, one) == result(cell, other)


def test_one_process_killed_on_its_way_comes_to_the_same_as_two(whole, tmp_path, repository):
    out = tmp_path / "part"
    arguments = ["run", "--plan", "smoke", "--set", *PART]
    cells = layout(load_plan("smoke", PART), tmp_path).cells
    known = {cell.key for cell in layout(load_plan("smoke"), tmp_path).cells}
    assert all(cell.key in known for cell in cells)
    process = command(out, repository, *arguments)
    (generator,) = [cell for cell in cells if cell.kind == "generator"]
    log = generator.folder(out) / "run" / "log.jsonl"
    for _ in range(3000):
        if log.exists() and log.stat().st_size:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)  # in the middle of training
    process.wait()
    assert not is_done(generator, out)
    finish(command(out, repository, *arguments))
    for kind in ("generator", "pairs", "scores"):
        for cell in cells:
            if cell.kind == kind:
                assert same(cell, whole, out), (kind, cell.name)
