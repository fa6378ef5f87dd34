"""The panels that start jobs, in the module itself (see slicer_app.py), with real child processes."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 (Qt) is not installed")

import mrml
import numpy as np
from slices import SliceViews
from stage import Stage, on_stage
from waiting import runs

STUBBORN = ("import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            "print('{\"stage\": \"work\", \"done\": 2, \"total\": 5, \"eta_s\": 40}', flush=True); time.sleep(600)")


class Running(Stage):
    """The module with jobs that run."""

    def __init__(self, scene, app, talk):
        super().__init__(scene, app, talk)
        del self.host.jobs.start  # which keeps the commands and runs none

    def python(self, code, **told):
        return self.host.jobs.start("Work", [sys.executable, "-c", code], **told)


@pytest.fixture
def stage(scene, tmp_path):
    views = SliceViews(scene)  # the layout, which the application always has
    with on_stage(scene, tmp_path, Running) as stage:
        yield stage
    del views


def test_progress_time_left_log_and_cancel(stage):
    ui = stage.ui
    assert not ui.cancelButton.enabled and "No job" in ui.jobLabel.text
    job = stage.python(STUBBORN)
    stage.until(lambda: "2/5" in ui.jobLabel.text)
    assert ui.jobLabel.text == "Work: work 2/5, 40 s left"
    assert (ui.jobProgress.minimum, ui.jobProgress.maximum, ui.jobProgress.value) == (0, 5, 2)
    assert ui.cancelButton.enabled and stage.host.jobs.busy
    ui.cancelButton.click()
    assert "stopping" in ui.jobLabel.text
    ui.cancelButton.click()  # it does not listen: the second click kills it
    stage.until(lambda: not stage.host.jobs.busy)
    assert not runs(job.pid) and "cancelled" in ui.jobLabel.text and not ui.cancelButton.enabled
    assert not stage.talk.errors


def test_a_failure_is_shown_with_its_reason_and_what_was_to_be_cleaned_is(stage):
    cleaned, ended = [], []
    stage.python("import sys; print('about to fail', file=sys.stderr); raise OSError('no room on the disk')",
                 cleanup=lambda: cleaned.append(1), on_end=ended.append)
    stage.until(lambda: not stage.host.jobs.busy)
    error, = stage.talk.errors
    assert "Work: failed" in error and "no room on the disk" in error and cleaned == [1] and len(ended) == 1
    assert "about to fail" in stage.ui.jobLog.toPlainText()


def test_one_job_at_a_time_and_the_others_say_why(stage):
    stage.put("all")
    cleaned = []
    stage.python("import time; time.sleep(600)")
    assert "Work is running" in stage.host.jobs.reason
    for name in ("generateButton", "batchButton", "anatomyButton"):
        button = getattr(stage.ui, name)
        assert not button.enabled and "Work is running" in button.toolTip, name
    from LNSynthLib.runtime.errors import LNSynthError
    with pytest.raises(LNSynthError, match="Work is running"):
        stage.python("pass", cleanup=lambda: cleaned.append(1))
    assert cleaned == [1]
    stage.host.jobs.kill()
    assert stage.ui.generateButton.enabled


def test_an_error_in_a_callback_is_told_and_stops_nothing(stage):
    seen = []

    def on_sample(result):
        seen.append(result)
        raise ValueError(f"cannot show {result}")
    stage.python("import json\nfor i in range(3): print(json.dumps({'stage': 'sample', 'result': i}))",
                 on_sample=on_sample)
    stage.until(lambda: not stage.host.jobs.busy)
    assert seen == [0, 1, 2] and len(stage.talk.errors) == 3 and "cannot show 2" in stage.talk.errors[2]


@pytest.mark.parametrize("killed", [False, True])
def test_a_dialog_over_a_result_neither_mixes_nor_doubles_what_follows(stage, killed):
    sample = '{"stage": "sample", "done": %d, "total": 3, "result": {"i": %d}}'
    end = '{"stage": "end", "done": 1, "total": 1, "result": {}}'
    code = f"for i in range(3): print({sample!r} % (i, i), flush=True)\nprint({end!r})"
    begun, seen, ended = [], [], []

    def dialog(result):
        begun.append(result["i"])
        stage.until(lambda: not runs(job.pid))  # the event loop of a dialog ...
        stage.host.jobs._poll()  # ... in which the timer goes on
        if killed:
            stage.host.jobs.kill()
        seen.append(result["i"])

    job = stage.python(code, on_sample=dialog, on_end=ended.append)
    stage.until(lambda: not stage.host.jobs.busy and seen)
    stage.settle()
    assert begun == seen == ([0] if killed else [0, 1, 2]) and len(ended) == 1
    assert not stage.talk.errors


def test_nothing_runs_on_when_the_application_quits(stage):
    job = stage.python("import time; time.sleep(600)")
    folder = job.folder
    stage.app.send("aboutToQuit()")
    assert not runs(job.pid) and not folder.exists() and not stage.host.jobs.busy


@pytest.mark.parametrize("answer", [True, False])
def test_the_main_window_asks_before_it_closes(stage, answer):
    from LNSynthPanels.jobs_panel import _Closing
    from PySide6.QtCore import QEvent
    from PySide6.QtGui import QCloseEvent
    watch = _Closing(stage.host.jobs)
    assert not watch.eventFilter(None, QCloseEvent()) and not stage.talk.questions  # no job
    job = stage.python("import time; time.sleep(600)")
    assert not watch.eventFilter(None, QEvent(QEvent.Type.Move)) and not stage.talk.questions
    stage.talk.answer, event = answer, QCloseEvent()
    assert watch.eventFilter(None, event) is not answer
    assert "Work is still running" in stage.talk.questions[0]
    assert answer or not event.isAccepted()
    assert watch.eventFilter(None, QCloseEvent()) is not answer
    assert len(stage.talk.questions) == (1 if answer else 2)  # what was agreed to is not asked twice
    stage.settle()
    assert runs(job.pid) and stage.host.jobs.busy  # Slicer asks about unsaved data, and may stay open
    watch.eventFilter(None, QCloseEvent())
    assert len(stage.talk.questions) == (2 if answer else 3)
    stage.app.send("aboutToQuit()")
    assert not runs(job.pid)


@pytest.mark.slow
def test_samples_arrive_while_the_window_stays_usable(stage, tmp_path):
    """Two variants: each comes into the scene marked, is compared, and the second hides the nodes of the first."""
    from LNSynthLogic import compare_layout, synthetic
    stage.put("all")
    p, ui = stage.host.parameters, stage.ui
    p.samplesFolder, p.steps, p.variants, p.seed, p.vary = str(tmp_path / "samples"), 2, 2, 1, True
    stage.settle()
    assert "guess" in ui.estimateLabel.text
    ui.generateButton.click()
    assert ui.generateButton.text == "Cancel" and stage.host.jobs.busy
    stage.until(lambda: p.synthetic is not None, 100)
    first = p.synthetic
    assert synthetic.is_synthetic(first) and first.GetName().startswith("SYNTHETIC ")
    stage.until(lambda: not stage.host.jobs.busy and p.synthetic is not first, 100)
    stage.settle()
    assert compare_layout.is_open(stage.scene)
    assert ui.generateButton.text != "Cancel" and ui.synthesisStatus.text.startswith("Samples made: 2;")
    assert len([path for path in (tmp_path / "samples").iterdir() if path.is_dir()]) == 2
    assert "last run" in ui.estimateLabel.text  # the guess was replaced by what was measured
    assert not stage.talk.errors
    assert (first.GetImageData().GetDimensions() == p.synthetic.GetImageData().GetDimensions()
            == p.ct.GetImageData().GetDimensions())
    there = stage.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    stage.press("generateButton")  # the same once more: what is in the scene is shown again, not loaded again
    stage.until(lambda: not stage.host.jobs.busy, 100)
    stage.settle()
    assert ui.synthesisStatus.text.startswith("Samples made: 0; there already: 2;")
    assert stage.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == there


@pytest.mark.slow
def test_an_error_names_the_node_as_the_table_does(stage, tmp_path):
    from LNSynthLogic import segments

    p = stage.host.parameters
    stage.put("all")
    p.samplesFolder = str(tmp_path)
    ct, shape = p.ct, p.ct.GetImageData().GetDimensions()
    for segment_id in segments.node_ids(p.nodes):
        segments.remove_node(p.nodes, segment_id)
    segments.add_node(p.nodes, ct, [n // 2 for n in shape], np.ones((3, 3, 3), bool))
    segments.add_node(p.nodes, ct, (0, 0, shape[2] // 2), np.ones((3, 3, 3), bool), name="In the air")
    stage.settle()
    stage.press("generateButton")
    stage.until(lambda: not stage.host.jobs.busy)
    error, = stage.talk.errors
    assert "of In the air lies in the body" in error and f"{p.nodes.GetName()}: " in error, error
    assert ".nii" not in error
    stage.talk.errors.clear()


def test_generate_is_cancel_while_it_runs(stage, tmp_path):
    stage.put("all")
    p = stage.host.parameters
    assert not p.samplesFolder
    p.steps = 290
    stage.press("generateButton")
    assert Path(p.samplesFolder) == tmp_path / "LNSynth" / "CT"  # of the person's documents
    stage.until(lambda: "synthesising" in stage.ui.jobLabel.text and stage.ui.jobProgress.value > 0)
    pid = stage.host.jobs._runner.pid
    stage.press("generateButton")
    stage.until(lambda: not stage.host.jobs.busy)
    assert "cancelled" in stage.ui.jobLabel.text and not stage.talk.errors and not runs(pid)
    folder = Path(p.samplesFolder)
    assert not list(folder.glob("*"))


def test_the_generator_is_the_demo_or_a_folder(stage, tmp_path):
    from LNSynthLib.generators.model_folder import generator_path
    stage.put("nodes")
    p, ui = stage.host.parameters, stage.ui
    assert ui.generatorSelector.currentIndex == 0 and not ui.generatorPath.enabled and ui.generateButton.enabled
    ui.generatorSelector.setCurrentIndex(1)
    stage.settle()
    assert ui.generatorPath.enabled and "Choose the folder" in ui.generateButton.toolTip
    p.generator = str(tmp_path)
    stage.settle()
    assert "holds no generator" in ui.synthesisStatus.text and not ui.estimateLabel.text
    p.generator = str(generator_path())
    stage.settle()
    assert ui.generateButton.enabled and ui.estimateLabel.text
    ui.generatorSelector.setCurrentIndex(0)
    stage.settle()
    assert p.generator == "" and not ui.generatorPath.enabled


def test_a_batch_and_its_summary(stage, tmp_path):
    from LNSynthLib.images.volume import write
    drawn, cts, out = mrml.phantom(), tmp_path / "cts", tmp_path / "out"
    write(cts / "a.nii.gz", drawn.ct)
    write(cts / "a_anatomy.nii.gz", drawn.anatomy)
    (cts / "b.nii.gz").write_bytes(b"broken")
    (cts / "b_anatomy.nii.gz").write_bytes(b"broken")
    p, ui = stage.host.parameters, stage.ui
    assert not ui.batchButton.enabled
    p.batchInput, p.batchOutput, p.batchWork = str(cts), str(out), "anatomy"
    stage.settle()
    ui.batchButton.click()
    assert ui.batchButton.text == "Cancel"
    stage.until(lambda: not stage.host.jobs.busy)
    assert ui.batchStatus.text.startswith("1 done, 1 failed.") and "b.nii.gz" in ui.batchStatus.text
    assert (out / "a" / "anatomy.nii.gz").exists() and (out / "batch.csv").exists()


def test_setup_is_hidden_where_nothing_is_missing(stage):
    assert not stage.ui.setupSection.visible and not stage.ui.installButton.enabled


@pytest.mark.parametrize("packaging", [True, False])
def test_what_is_installed_alone_never_brings_its_dependencies(stage, monkeypatch, packaging):
    """Slicer's packaging (5.12) cannot leave them out: pip does, in a job, as for all packages in an older Slicer."""
    import types

    from LNSynthLogic.jobs import environment
    from LNSynthPanels import setup_panel
    asked, steps = [], []
    if packaging:
        module = types.ModuleType("slicer.packaging")
        module.pip_ensure = lambda requirements, **told: asked.append((requirements, told["skip_packages"]))
        monkeypatch.setitem(sys.modules, "slicer.packaging", module)
        monkeypatch.setattr(setup_panel.slicer, "packaging", module, raising=False)
    monkeypatch.setattr(stage.host.jobs, "run", lambda title, make, **told: steps.extend(
        step.arguments for item in make(environment=None, on_event=None, on_log=None, on_end=None).items
        for step in item.steps), raising=False)
    panel = stage.host.panels["setup"]
    plan = environment.Plan("", ("scipy>=1.15",), ("TotalSegmentator>=2.4",), ("numpy==2.0",), ("fury",), 1)
    panel._install_packages(plan)
    assert asked == ([(["scipy>=1.15"], ["fury"])] if packaging else [])
    alone = [step for step in steps if "--no-deps" in step]
    assert [step[-1] for step in alone] == ["TotalSegmentator>=2.4"]
    assert [step[-1] for step in steps if step not in alone] == ([] if packaging else ["scipy>=1.15"])


def test_setup_says_what_is_missing_and_asks_before_it_installs(stage, monkeypatch):
    """Without the PyTorch extension it says where to get it; declined, it installs nothing."""
    from LNSynthLogic.jobs import environment
    bare = environment.inspect(version_of=lambda name: "")
    monkeypatch.setattr(environment, "current", lambda: bare)
    stage.host.refresh()
    ui = stage.ui
    assert "torch" in ui.setupLabel.text and "GB" in ui.setupLabel.text and ui.installButton.enabled
    stage.talk.answer = False
    stage.press("installButton")
    assert "GB" in stage.talk.questions[0] and not stage.talk.errors
    stage.talk.answer = True
    monkeypatch.setattr(environment.current, "cache_clear", lambda: None, raising=False)
    stage.press("installButton")
    assert "extension PyTorch" in stage.talk.errors[0] and "extension PyTorch" in ui.setupStatus.text
