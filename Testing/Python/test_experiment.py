"""Plans, the keys of their cells, and the runner: each cell once, whoever comes, whatever is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest

from LNSynthLib.experiment import run as runner
from LNSynthLib.experiment.cells import layout, layout_of
from LNSynthLib.experiment.data import known, obtain, preparations
from LNSynthLib.experiment.plan import DataSource, Preparation, load_plan
from LNSynthLib.experiment.run import is_done, result, run, shard_of_environment
from LNSynthLib.experiment.work import WORK, Context
from LNSynthLib.phantom.phantom import phantom_dataset
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.events import Event

METHODS = ("pix2pix", "spade", "brainldm", "medddpm", "nasdm", "echo", "lnddpm")
FILES = {"data": [{"name": "ABD-LN", "content": "hashes"}], "absent": [], "features": None}
SMALL = ["methods={lnddpm: {kind: lnddpm, preset: mini, steps: 2}}", "filter_methods=[lnddpm]",
         "tables={t: {title: T, rows: [{label: R, strategy: real}, {label: S, method: lnddpm}, "
         "{label: B, method: lnddpm, strategy: both, multiple: 1}]}}"]


def small(*assignments):
    return load_plan("smoke", [*SMALL, *assignments])


def keys(plan, files=FILES):
    return {(cell.kind, cell.name): cell.key for cell in layout_of(plan, files).cells}


def changed(plan, other, **files):
    """Kinds of the cells whose keys differ."""
    before, after = keys(plan), keys(other, {**FILES, **files})
    assert before.keys() == after.keys()
    return {kind for (kind, name), key in before.items() if after[kind, name] != key}


def test_the_paper_s_plan_asks_for_all_its_tables():
    plan = load_plan("paper")
    assert tuple(plan.methods) == METHODS and len(plan.tables) == 6 and plan.multiple == 10
    assert all(method.preset == "paper" for method in plan.methods.values())
    rows = {row.label: row for row in plan.tables["table2"].rows}
    assert rows["Real"].published["dsc"] == .5273 and rows["Real + LN-DDPM"].published["node_recall"] == .7054
    assert {row.method for row in rows.values() if row.strategy == "synthetic"} == set(METHODS)
    whole = layout_of(plan, FILES)
    steps = {method: cells[0].settings["training"]["steps"] for method, cells in whole.generators.items()}
    assert steps["lnddpm"] == 45_000 and steps["brainldm"] == 90_000  # the presets' own
    cells = Counter(cell.kind for cell in whole.cells)
    # Seven methods; two changed conditions, and two other attentions. Rows that ask for the same share its cells.
    assert cells["generator"] == 7 + 2 + 2
    # real, 7 synthetic, 7 both, 2 conditions, 5x and 20x, unvaried nodes, 2 attentions
    assert cells["segmenter"] == cells["predictions"] == cells["scores"] == 1 + 14 + 2 + 2 + 1 + 2
    assert cells["images"] == cells["generator"] and cells["filter"] == 1 and cells["memorisation"] == 7


KEYS = {"GSCond nodes": "nodes", "GSCond nodes + anatomy": "nodes + anatomy",
        "GSCond nodes + anatomy + LDCond": "nodes + anatomy + local detail", "conditions as they are":
        "nodes as they are", "conditions transformed": "nodes transformed", "LD": "local detail (LD)",
        "LA": "local attention (LA)", "GA": "global attention (GA)"}  # the paper's rows -> ours


@pytest.mark.parametrize("name, tables", [("paper", ("1", "2", "3", "4a", "4b", "4c")), ("mini", ("1", "2"))])
def test_published_figures_are_those_of_the_papers_tables(name, tables, repository):
    plan = load_plan(name)
    assert list(plan.tables) == [f"table{number}" for number in tables]
    ours = {(number, row.label, row.strategy): row.published for number in tables
            for row in plan.tables[f"table{number}"].rows}
    with open(repository / "Resources" / "paper_tables.csv", newline="") as file:
        for told in csv.DictReader(file):
            number, label, strategy = told.pop("table"), told.pop("row"), told.pop("strategy") or "synthetic"
            if number in tables:
                label = f"Real + {label}" if number == "2" and strategy == "both" else KEYS.get(label, label)
                figures = {"mse_01" if measure == "mse" else measure: float(v) for measure, v in told.items() if v}
                assert ours.pop((number, label, strategy)) == figures and figures
    assert not ours
    for number in tables:
        assert plan.tables[f"table{number}"].title.startswith(f"Table {number}. ")


def test_mini_gives_every_generator_the_same_flops():
    from LNSynthLib.experiment.cells import preset_of
    from LNSynthLib.training.cost import training_flops
    from LNSynthLib.training.settings import make_generator

    plan = load_plan("mini")
    assert tuple(plan.methods) == METHODS
    assert {row.strategy for row in plan.tables["table2"].rows} == {"real", "synthetic", "both"}
    for cells in layout_of(plan, FILES).generators.values():
        preset = preset_of(cells[0])
        spent = training_flops(make_generator(preset), preset.training)
        assert spent == pytest.approx(plan.budget.tflop * 1e12, rel=0.01), preset.generator["kind"]
        assert preset.generator["form"]["patch"] == [32, 32, 32] and preset.generator["form"]["spacing_mm"] == 2.5


def test_a_changed_setting_touches_only_what_rests_on_it():
    plan = small()
    assert changed(plan, plan) == set()
    assert changed(plan, small("about=other", "threads=2", "examples=1")) == set()
    assert changed(plan, small("score.found_dsc=0.2")) == {"scores", "images"}
    assert changed(plan, small("filter_threshold=0.5")) == {"filter"}
    assert changed(plan, small("images.measures.ssim.window=5")) == {"images", "memorisation"}
    assert changed(plan, small("trainer_set=[epochs=2, iterations=2, val_iterations=1]")) == {
        "segmenter", "predictions", "scores", "filter", "images"}
    assert changed(plan, small("vary.remove=0.5")) == {
        "pairs", "segmenter", "predictions", "scores", "filter", "memorisation"}
    assert changed(plan, small("budget.steps=5")) == set(WORK) - {"data"}
    assert changed(plan, plan, features="hash") == {"images", "memorisation"}
    assert changed(plan, plan, data=[{"name": "ABD-LN", "content": "others"}]) == set(WORK)


def test_how_often_a_run_is_saved_is_kept_but_touches_nothing():
    from LNSynthLib.experiment.cells import preset_of

    often = small("methods.lnddpm.set=[training.checkpoint_every=7, training.workers=2]")
    assert changed(small(), often) == set()
    ((cell,),) = layout_of(often, FILES).generators.values()
    assert preset_of(cell).training.checkpoint_every == 7 and preset_of(cell).training.workers == 2
    assert preset_of(cell).training.steps == often.budget.steps


def test_rows_share_cells_and_pairs_grow():
    cells = layout_of(small(), FILES)
    (pairs,) = [cell for cell in cells.cells if cell.kind == "pairs"]
    assert pairs.amount == 2  # S wants the plan's two a case, B one of them
    more = layout_of(small("multiple=3"), FILES)
    (grown,) = [cell for cell in more.cells if cell.kind == "pairs"]
    assert grown.key == pairs.key and grown.amount == 3
    seen = set()
    for cell in cells.cells:  # inputs come first
        assert all(needed.key in seen for needed in cell.inputs.values())
        seen.add(cell.key)


@pytest.mark.parametrize("assignments, wanted", [
    (["tables.t.rows=[{label: A, method: gan}]"], "names the method 'gan'"),
    (["tables.t.rows=[{label: A, strategy: both}]"], "needs a method"),
    (["tables.t.rows=[{label: A, strategy: real}, {label: A, method: lnddpm}]"], "must differ"),
    (["budget={steps: 3, tflop: 1}"], "steps or tflop"),
    (["budget={steps: 3}", "methods.lnddpm.set=[training.steps=5]"], "its budget gives the steps"),
    (["data=[{name: x}]"], "needs one of dataset"),
    (["data=[{name: x, phantoms: {training: 3}}]"], "cases of train, val, test"),
    (["multiples=3"], "unknown setting 'multiples'"),
    (["data=[{name: x, painted: [{ct: a/ct.nii.gz, anatomy: a, variants: 1}, {ct: b/ct.nii, anatomy: b, "
      "variants: 1}]}]"], "names that differ"),
    (["methods={a/b: {kind: lnddpm}}"], "cannot name a method"),
    (["data=[{name: x, phantoms: {train: 1}}, {name: x, phantoms: {test: 1}}]"], "names of the data must differ"),
])
def test_plans_that_make_no_sense_are_refused(assignments, wanted):
    with pytest.raises(LNSynthError, match=wanted):
        small(*assignments)


def test_missing_data_are_named_and_optional_ones_left_out(tmp_path):
    with pytest.raises(LNSynthError, match="does not exist.*--data-root"):
        known(load_plan("paper"), tmp_path)
    found = known(load_plan("mini"), tmp_path)
    assert [source["name"] for source in found["data"]] == ["phantoms"] and found["absent"] == ["painted"]
    with pytest.raises(LNSynthError, match="None of the plan's data"):
        known(replace(load_plan("mini"), data=load_plan("mini").data[1:]), tmp_path)
    with pytest.raises(LNSynthError, match="no case of split val and test"):
        known(load_plan("smoke", ["data=[{name: x, phantoms: {train: 3, val: 0}}]"]), tmp_path)
    with pytest.raises(LNSynthError, match="weights of MedicalNet"):
        known(load_plan("smoke", ["images.features=none.pth"]), tmp_path)


def test_data_sets_are_made_split_and_prepared_twice(tmp_path):
    source = DataSource("p", phantoms={"train": 1, "test": 1}, spacing_mm=5.0, nodes=2)
    prepared = Preparation(spacing_mm=5.0, margin_mm=60, test_margin_mm=30)
    dataset = obtain(source, tmp_path, tmp_path / "data", prepared)
    assert [entry["split"] for entry in dataset.cases()] == ["train", "test"]
    train, test = preparations(prepared)
    assert {path.name for path in (dataset.folder / "prepared").iterdir()} == {train.name, test.name}
    assert (train.margin_mm, test.margin_mm) == (60, 30)


def test_a_data_set_s_identity_is_its_files(tmp_path):
    dataset = phantom_dataset(tmp_path / "mine", 3, seed=0, spacing=6.0, nodes=1)
    for entry, split in zip(dataset.cases(), ("train", "val", "test"), strict=True):
        entry["split"] = split
    dataset.save()
    plan = replace(small(), data=(DataSource("mine", dataset="mine"),))
    before = known(plan, tmp_path)
    assert known(plan, tmp_path) == before
    dataset.cases()[0]["sha256"]["ct"] = "another"
    dataset.save()
    assert layout_of(plan, before).cells[0].key != layout(plan, tmp_path).cells[0].key
    dataset.cases()[2]["split"] = "train"
    dataset.save()
    with pytest.raises(LNSynthError, match="no case of split test"):
        known(plan, tmp_path)


# The runner itself, with cells whose work is to write down that they were made.

def note(cell, inputs, folder, context, callback):
    assert all((path / "cell.json").is_file() for path in inputs.values())
    with open(context.root / "made.txt", "a") as stream:
        stream.write(f"{cell.kind} {cell.name}\n")
    callback(Event("noting", 1, 1))
    return {"answer": cell.name}


@pytest.fixture
def noting(monkeypatch):
    for kind in WORK:
        monkeypatch.setitem(runner.WORK, kind, note)


def made(folder):
    path = folder / "made.txt"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_every_cell_is_made_once_and_a_change_remakes_its_own(noting, tmp_path):
    events = []
    plan, out = small(), tmp_path / "out"
    whole = layout(plan, tmp_path)
    done = run(plan, out, tmp_path, callback=events.append)
    assert len(made(tmp_path)) == len(set(made(tmp_path))) == len(whole.cells) == len(done["made"])
    assert (events[-1].stage, events[-1].done, events[-1].total) == ("experiment", len(whole.cells), len(whole.cells))
    assert result(whole.cells[0], out) == {"answer": whole.cells[0].name}
    assert run(plan, out, tmp_path)["made"] == []
    run(small("score.found_dsc=0.2"), out, tmp_path)
    assert Counter(line.split()[0] for line in made(tmp_path)[len(whole.cells):]) == {"scores": 3, "images": 1}
    assert all(is_done(cell, out) for cell in whole.cells)  # the old ones are still there
    run(small("multiple=3"), out, tmp_path)
    added = [line.split()[0] for line in made(tmp_path)[len(whole.cells) + 4:]]
    assert "generator" not in added and "pairs" in added


def test_a_failure_stops_only_what_rests_on_it(noting, tmp_path, monkeypatch):
    def fail(cell, inputs, folder, context, callback):
        raise LNSynthError("the disk is full; make room.")

    monkeypatch.setitem(runner.WORK, "pairs", fail)
    with pytest.raises(LNSynthError, match="1 cell.* failed and 8 could not be begun.*the disk is full"):
        run(small(), tmp_path / "out", tmp_path)
    assert Counter(line.split()[0] for line in made(tmp_path)) == {
        "data": 1, "generator": 1, "segmenter": 1, "predictions": 1, "scores": 1, "twins": 1, "images": 1}
    monkeypatch.setitem(runner.WORK, "pairs", note)
    before = len(made(tmp_path))
    assert len(run(small(), tmp_path / "out", tmp_path)["made"]) == 9 == len(made(tmp_path)) - before


def test_what_failed_here_and_was_done_elsewhere_has_not_failed(noting, tmp_path, monkeypatch):
    def fail(cell, inputs, folder, context, callback):
        record = {"key": cell.key, "amount": cell.amount, "seconds": 1.0, "result": {}}
        (folder / "cell.json").write_text(json.dumps(record))  # by a process that came after this one
        raise LNSynthError("the device has no memory left.")

    monkeypatch.setitem(runner.WORK, "pairs", fail)
    cells = layout(small(), tmp_path).cells
    assert len(run(small(), tmp_path / "out", tmp_path)["made"]) == len(cells) - 1
    assert all(is_done(cell, tmp_path / "out") for cell in cells)


SCRIPT = """
import sys, time
from pathlib import Path
from LNSynthLib.experiment import run as runner
from LNSynthLib.experiment.plan import load_plan

root, shard = Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3]))

def slow(cell, inputs, folder, context, callback):
    with open(context.root / "begun.txt", "a") as stream:
        stream.write(f"{cell.kind} {cell.name}\\n")
    time.sleep(0.3)
    with open(context.root / "made.txt", "a") as stream:
        stream.write(f"{cell.kind} {cell.name}\\n")
    return {}

runner.WAIT_S = 0.1
for kind in runner.WORK:
    runner.WORK[kind] = slow
runner.run(load_plan("smoke", sys.argv[4:]), root / "out", root, shard=shard)
"""


def start(folder, repository, shard, of):
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return subprocess.Popen([sys.executable, str(script), str(folder), str(shard), str(of), *SMALL],
                            env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"})


def test_two_processes_share_the_work_and_one_survives_the_other(tmp_path, repository):
    cells = len(layout(small(), tmp_path).cells)
    first, second = (start(tmp_path, repository, i, 2) for i in range(2))
    try:
        for _ in range(600):
            if len(made(tmp_path)) >= 3:
                break
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)  # in the middle of a cell, most likely
        assert second.wait(timeout=120) == 0
    finally:
        first.kill(), second.kill()
    names = made(tmp_path)
    assert len(set(names)) == cells
    assert len(names) <= cells + 1  # the killed one may have ended its cell's work without a word of it
    assert all(is_done(cell, tmp_path / "out") for cell in layout(small(), tmp_path).cells)


def test_a_shard_leaves_no_trace_of_torchrun_in_its_cells():
    environment = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost",
                   "TORCHELASTIC_RUN_ID": "x", "CUDA_VISIBLE_DEVICES": "4,5,6", "HOME": "there"}
    assert shard_of_environment(environment) == (1, 4)
    assert environment == {"CUDA_VISIBLE_DEVICES": "5", "HOME": "there"}
    assert shard_of_environment({}) == (0, 1)


def test_a_row_whose_filter_keeps_nothing_says_so(tmp_path):
    plan = small("tables={t: {title: T, rows: [{label: R, strategy: real}, {label: F, method: lnddpm, "
                 "filtered: true}]}}")
    (cell,) = [c for c in layout_of(plan, FILES).cells if c.kind == "segmenter" and c.settings.get("filtered")]
    (tmp_path / "filter" / "kept").mkdir(parents=True)
    inputs = {role: tmp_path / role for role in cell.inputs}
    with pytest.raises(LNSynthError, match="filter kept none of the pairs"):
        WORK["segmenter"](cell, inputs, tmp_path / "run", Context(plan, tmp_path, "cpu"), lambda event: None)
