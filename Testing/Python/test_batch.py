"""A folder of CTs, one of them broken, through real jobs; interrupted and taken up again."""

import csv
import sys
import time
from types import SimpleNamespace

import pytest
from LNSynthLogic.jobs import batch
from LNSynthLogic.jobs.batch import BatchItem, Run, Step
from LNSynthLogic.jobs.process import State

PARAMETERS = {"anatomyFast": True, "device": "cpu", "generator": "", "mode": "in-place", "sampler": "dpmpp", "steps": 1,
              "seed": 3, "variants": 1, "vary": False, "remake": False, "samplesFolder": "elsewhere", "segmenter": ""}


def parameters(**changes):
    return SimpleNamespace(**{**PARAMETERS, **changes})


def finish(run, stop=lambda run: False, seconds=110):
    run.start()
    end = time.monotonic() + seconds
    while not run.ended:
        assert time.monotonic() < end, run.rows
        run.poll()
        if stop(run):
            run.cancel()
        time.sleep(0.02)
    return run


def write_dicom(folder):
    folder.mkdir(parents=True)
    (folder / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(20))


def test_cts_of_a_folder(tmp_path):
    for name in ("b.nii.gz", "a.nii", "a.nrrd", "sub/c d.mha", "a_anatomy.nii.gz", ".hidden.nii", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write_dicom(tmp_path / "patient" / "series 2")
    assert {name: str(path.relative_to(tmp_path)) for name, path in batch.find_cts(tmp_path).items()} == {
        "a": "a.nii", "a-2": "a.nrrd", "b": "b.nii.gz", "patient_series-2": "patient/series 2",
        "sub_c-d": "sub/c d.mha"}
    series = batch.find_cts(tmp_path / "patient" / "series 2")
    assert list(series) == ["series-2"]
    for name in ("Samples.nii", "B.nrrd", "samples/x.nii"):
        (tmp_path / "names" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "names" / name).touch()
    assert list(batch.find_cts(tmp_path / "names")) == ["B", "Samples-2", "samples_x"]  # samples/ is for the samples
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(batch.LNSynthError, match="no CT"):
        batch.plan(empty, tmp_path / "out", "anatomy", parameters())


def test_the_plan_of_each_work(tmp_path):
    cts, out = tmp_path / "cts", tmp_path / "out"
    cts.mkdir()
    for name in ("a.nii.gz", "a_anatomy.nii.gz", "b.nii.gz"):
        (cts / name).touch()
    a, b = batch.plan(cts, out, "anatomy", parameters())
    assert "--labels" in a.steps[0].arguments and not a.totalsegmentator
    assert "--fast" in b.steps[0].arguments and b.totalsegmentator
    a, b = batch.plan(cts, out, "synthesis", parameters(variants=4))
    assert [step.arguments[3] for step in a.steps] == ["anatomy", "nodes", "variants"]
    make = a.steps[2].arguments
    assert make[make.index("--out") + 1] == str(out / "samples") and make[make.index("--count") + 1] == "4"
    assert a.steps[1].output == out / "a" / "nodes-3.nii.gz"
    seeds = [step.arguments[step.arguments.index("--seed") + 1] for step in (a.steps[1], b.steps[1])]
    assert seeds[0] != seeds[1]
    item, _ = batch.plan(cts, out, "segmentation", parameters(segmenter="model"))
    assert item.steps[0].arguments[3:5] == ("segment", "predict") and not item.totalsegmentator


@pytest.fixture(scope="module")
def two_phantoms(tmp_path_factory):
    """A folder with two CTs, their organs beside them, and a broken file between them."""
    from LNSynthLib.images.volume import write
    from LNSynthLib.phantom.phantom import phantom
    folder = tmp_path_factory.mktemp("cts")
    for name, seed in (("case_a", 5), ("case_c", 6)):
        drawn = phantom(seed, (3.0, 3.0, 4.0), 1)
        write(folder / f"{name}.nii.gz", drawn.ct)
        write(folder / f"{name}_anatomy.nii.gz", drawn.anatomy)
    (folder / "case_b.nii.gz").write_bytes(b"not an image")
    (folder / "case_b_anatomy.nii.gz").write_bytes(b"not an image either")
    return folder


@pytest.mark.slow
def test_synthesis_of_a_folder(two_phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "NODES_ADDED", 1)
    out, events, log = tmp_path / "out", [], []
    items = batch.plan(two_phantoms, out, "synthesis", parameters())
    run = finish(Run(items, out / batch.SUMMARY, on_event=events.append, on_log=log.append))
    assert [(row.name, row.state) for row in run.rows] == [
        ("case_a", "done"), ("case_b", "failed"), ("case_c", "done")], [row.error for row in run.rows]
    assert run.state is State.DONE and "case_b" in run.error and "2 done, 1 failed" in run.words()
    assert [path.name for path in sorted((out / "samples").iterdir())] == ["case_a-001", "case_c-001"]
    with open(out / batch.SUMMARY, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["done", "failed", "done"] and "case_b" in rows[1]["error"]
    assert any(event.stage.startswith("1/3 case_a, ") for event in events)
    assert any(event.eta_s for event in events if event.stage.startswith("3/3"))

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    again = finish(Run(batch.plan(two_phantoms, out, "synthesis", parameters()), out / batch.SUMMARY))
    assert [row.state for row in again.rows] == ["done", "failed", "done"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before


def test_anatomy_of_a_folder_is_interrupted_and_goes_on(two_phantoms, tmp_path):
    out = tmp_path / "out"
    run = Run(batch.plan(two_phantoms, out, "anatomy", parameters()), out / batch.SUMMARY)
    finish(run, stop=lambda run: len(run.rows) == 1)
    assert run.state is State.CANCELLED and [row.state for row in run.rows][0] == "done"
    assert (out / "case_a" / "anatomy.nii.gz").exists() and "not begun" in run.words()

    run = finish(Run(batch.plan(two_phantoms, out, "anatomy", parameters()), out / batch.SUMMARY))
    assert [row.state for row in run.rows] == ["unchanged", "failed", "done"]
    assert (out / "case_c" / "anatomy.nii.gz").exists() and not (out / "case_b" / "anatomy.nii.gz").exists()
    assert "1 done, 1 were there already, 1 failed" in run.words()


def steps(*codes):
    return tuple(Step((sys.executable, "-c", code)) for code in codes)


def write_step(source, target, *more):
    code = "import sys, shutil; shutil.copyfile(sys.argv[1], sys.argv[2])"
    return Step((sys.executable, "-c", code, str(source), str(target), *more), target)


def test_what_was_made_otherwise_is_made_anew_and_the_old_one_kept(tmp_path):
    source, target, log = tmp_path / "ct.nii", tmp_path / "out" / "a" / "anatomy.nii.gz", []

    def state(*more):
        return finish(Run([BatchItem("a", (write_step(source, target, *more),))], on_log=log.append)).rows[0].state

    source.write_text("first")
    assert [state("--fast", "--device", "cpu"), state("--fast", "--device", "cuda")] == ["done", "unchanged"]
    target.write_text("corrected")  # by a person
    assert state("--fast") == "unchanged" and target.read_text() == "corrected"
    assert state() == "done" and target.read_text() == "first"  # another setting
    kept = target.with_name("anatomy.before-1.nii.gz")
    assert kept.read_text() == "corrected" and any(kept.name in line for line in log)
    source.write_text("second one")  # another CT in its place
    assert [state(), state()] == ["done", "unchanged"] and target.read_text() == "second one"
    assert target.with_name("anatomy.before-2.nii.gz").read_text() == "first"
    target.with_name("anatomy.nii.gz.made.json").unlink()  # nobody knows how that came there
    assert state() == "done" and target.with_name("anatomy.before-3.nii.gz").exists()
    (tmp_path / "out").rename(tmp_path / "moved")
    target = tmp_path / "moved" / "a" / "anatomy.nii.gz"
    assert state() == "unchanged"


def test_a_model_that_was_trained_anew_counts_as_another(tmp_path):
    (tmp_path / "model" / "fold_0").mkdir(parents=True)
    weights, target = tmp_path / "model" / "fold_0" / "weights", tmp_path / "out" / "segmentation.nii.gz"
    weights.write_text("weights")
    step = Step((sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", str(target), str(tmp_path / "model")),
                target)
    states = [finish(Run([BatchItem("a", (step,))])).rows[0].state for _ in range(2)]
    weights.write_text("other weights")
    assert [*states, finish(Run([BatchItem("a", (step,))])).rows[0].state] == ["done", "unchanged", "done"]


def test_a_step_whose_file_cannot_be_replaced_fails_alone(tmp_path):
    source, blocked = tmp_path / "ct.nii", tmp_path / "file"
    source.write_text("x")
    blocked.write_text("in the way")
    run = finish(Run([BatchItem("one", (write_step(source, blocked / "a.nii"),)),
                      BatchItem("two", (write_step(source, tmp_path / "b.nii"),))]))
    assert [row.state for row in run.rows] == ["failed", "done"] and "cannot be replaced" in run.rows[0].error


def test_a_failed_step_ends_its_item_alone(tmp_path):
    mark = tmp_path / "mark"
    run = finish(Run([BatchItem("one", steps("raise SystemExit(3)", f"open({str(mark)!r}, 'w')")),
                      BatchItem("two", steps("pass", "pass"))]))
    assert [row.state for row in run.rows] == ["failed", "done"] and not mark.exists()
    assert "exit code 3" in run.rows[0].error and run.state is State.DONE


def test_all_failed_is_a_failure():
    run = finish(Run([BatchItem("one", steps("raise SystemExit(3)"))]))
    assert run.state is State.FAILED and "one" in run.error


def test_kill_ends_the_job_that_runs(tmp_path):
    ends = []
    run = Run([BatchItem("one", steps("import time; time.sleep(60)")), BatchItem("two", steps("pass"))],
              on_end=ends.append)
    run.start()
    run.poll()
    assert not run.ended
    began = time.monotonic()
    run.kill()
    assert run.state is State.CANCELLED and ends == [run] and time.monotonic() - began < 2
    run.kill()
    run.poll()
    assert ends == [run]
