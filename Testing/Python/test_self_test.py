"""The self test of the real application, as far as it goes without one: the real module over its real form, real MRML
and real child processes, a person's way from the sample phantom to a reviewed synthetic node (slicer_app.py says what
stands in for the application). Pictures, the widgets of views and the module's reload are left to the real one."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 (Qt) is not installed")

import pythonqt
import slicer
import slicer_app
import slices

NEED_THE_APPLICATION = {"pictures_of_panels", "compare_layout", "module_reloads"}


@pytest.fixture
def self_test(scene, tmp_path, repository, monkeypatch):
    """The package LNSynthSelfTest over the module without Slicer."""
    monkeypatch.syspath_prepend(str(repository / "Testing" / "Slicer"))
    with slicer_app.running(scene, tmp_path) as (app, talk):
        from LNSynthSelfTest import application, runner, steps

        from LNSynth import LNSynthWidget

        monkeypatch.setattr(application, "BLOCKED_S", 20.0)  # other tests may keep the machine busy
        views = slices.SliceViews(scene)  # the layout and slice views of the scene, without their widgets
        views.layout_node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

        for heavy in ("torch", "monai", "nnunetv2"):  # that other tests have imported, so that a step can look for them
            monkeypatch.delitem(sys.modules, heavy, raising=False)
        widget = slicer.modules.LNSynthWidget = LNSynthWidget()
        widget.setup()
        widget.enter()
        app.errorLogModel = lambda: SimpleNamespace(logEntryCount=lambda: len(talk.faults),
                                                    logEntryDescription=talk.faults.__getitem__)

        def select(name):
            (widget.enter if name == "LNSynth" else widget.exit)()

        def save(path):
            Path(path).mkdir()
            return scene.SaveSceneToSlicerDataBundleDirectory(path, None)

        def load(path):
            scene.SetURL(str(next(Path(path).rglob("*.mrml"))))
            assert scene.Import()

        monkeypatch.setattr(slicer.util, "selectModule", select, raising=False)
        monkeypatch.setattr(slicer.util, "getModuleWidget", lambda _name: widget, raising=False)
        monkeypatch.setattr(slicer.util, "saveScene", save, raising=False)
        monkeypatch.setattr(slicer.util, "loadScene", load, raising=False)
        yield runner, steps
        widget.exit()
        widget.cleanup()
        assert pythonqt.invented(widget.panel) == []
    for name in [name for name in sys.modules if name.split(".")[0] == "LNSynthSelfTest"]:
        del sys.modules[name]


@pytest.mark.slow
def test_from_the_sample_to_a_reviewed_node(self_test, monkeypatch, capsys):
    runner, steps = self_test
    possible = tuple(step for step in steps.STEPS if step.__name__ not in NEED_THE_APPLICATION)
    assert len(possible) == len(steps.STEPS) - len(NEED_THE_APPLICATION)
    monkeypatch.setattr(steps, "STEPS", possible)
    failed = runner.run()
    assert not failed, capsys.readouterr().out
