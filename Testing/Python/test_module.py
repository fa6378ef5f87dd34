"""The module's own life, without Slicer (see slicer_app.py): scenes that come and go, reload, a setup that failed."""

import types

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 (Qt) is not installed")

import mrml
import slicer
import slicer_app
from stage import on_stage


@pytest.fixture
def stage(scene, tmp_path):
    with on_stage(scene, tmp_path) as stage:
        yield stage


def test_a_scene_is_closed_and_another_opened(stage):
    stage.put("all")
    stage.host.parameters.steps = 9
    stage.scene.SetSaveToXMLString(1)
    stage.scene.Commit()
    saved = stage.scene.GetSceneXMLString()
    stage.scene.Clear(0)
    stage.settle()
    assert stage.ui.nodesTable.rowCount == 0 and stage.host.parameters.steps == 25
    stage.scene.SetLoadFromXMLString(1)
    stage.scene.SetSceneXMLString(saved)
    stage.scene.Import()
    stage.settle()
    assert stage.host.parameters.steps == 9 and stage.ui.stepsSpinBox.value == 9


def test_a_scene_that_is_loaded_is_shown_though_its_parameters_come_before_its_nodes(stage):
    stage.scene.Clear(0)
    stage.settle()
    stage.put("nodes")  # the parameter node was there first, and so it is in the file
    stage.scene.SetSaveToXMLString(1)
    stage.scene.Commit()
    saved = stage.scene.GetSceneXMLString()
    stage.scene.Clear(0)
    stage.settle()
    stage.scene.SetLoadFromXMLString(1)
    stage.scene.SetSceneXMLString(saved)
    stage.scene.Import()
    stage.settle()
    p, ui = stage.host.parameters, stage.ui
    assert p.ct is not None and ui.ctSelector.currentNode() is p.ct
    assert p.nodes is not None and ui.nodesSelector.currentNode() is p.nodes is stage.host.editor.segmentationNode()


def test_the_segment_editor_is_left_alone_while_another_module_is_open(stage):
    stage.put("all")
    p, editor = stage.host.parameters, stage.host.editor
    stage.press("addPlausibleButton")
    stage.host.exit()
    stage.host.parent.isEntered = False
    other = mrml.add_nodes(stage.scene, p.ct, name="another module's")
    editor.setSegmentationNode(other)  # the Segment Editor module, through the editor node of both
    stage.settle()
    assert editor.segmentationNode() is other
    stage.host.parent.isEntered = True
    stage.host.enter()
    assert editor.segmentationNode() is p.nodes


def test_nothing_is_left_behind_when_the_module_is_reloaded(stage):
    stage.put("nodes")
    stage.close()
    assert stage.app.callbacks == [] and slicer_app.EffectFactory.instance().callbacks == []
    stage.host.refresh = None  # whoever still calls it is found
    stage.scene.RemoveNode(stage.scene.GetFirstNodeByName("Nodes"))
    stage.scene.Clear(0)
    stage.settle()
    assert not stage.talk.faults
    stage.__init__(stage.scene, stage.app, stage.talk)
    stage.put("ct")
    assert stage.ui.anatomyButton.enabled


def test_a_module_that_is_reloaded_while_it_is_open_is_entered(stage):
    from LNSynth import LNSynthWidget

    stage.close()
    host = LNSynthWidget(types.SimpleNamespace(isEntered=True))  # Slicer reloads without leaving and entering
    host.setup()
    try:
        assert all(panel._entered for panel in host.panels.values() if hasattr(panel, "_entered"))
    finally:
        host.exit()
        host.cleanup()
    stage.__init__(stage.scene, stage.app, stage.talk)


def test_a_setup_that_failed_is_cleaned_up_as_far_as_it_came(stage, monkeypatch):
    from LNSynth import LNSynthWidget

    stage.close()
    LNSynthWidget().cleanup()

    def fail(*_arguments):
        raise RuntimeError("half way")
    for broken in ("LNSynthPanels.temporary_files.JobFiles", "LNSynthPanels.jobs_panel.JobsPanel",
                   "LNSynthPanels.nodes_panel.NodesPanel", "LNSynthPanels.batch_panel.BatchPanel"):
        with monkeypatch.context() as patch:
            patch.setattr(f"{broken}.__init__", fail)
            host = LNSynthWidget()
            with pytest.raises(RuntimeError, match="half way"):
                host.setup()
            host.cleanup()
        assert stage.app.callbacks == [] and slicer_app.EffectFactory.instance().callbacks == [], broken
    stage.__init__(stage.scene, stage.app, stage.talk)


def test_sample_data_says_why_there_is_no_phantom_yet(stage, monkeypatch):
    from LNSynth import load_sample_phantom

    opened = []
    monkeypatch.setattr(slicer.util, "selectModule", opened.append, raising=False)
    load_sample_phantom()
    assert opened == ["LNSynth"] and len(stage.jobs) == 1 and not stage.talk.errors
    stage.host.set_ready(stage.ui.samplePhantomButton, "Install the packages first.", "")
    load_sample_phantom()
    assert len(stage.jobs) == 1 and stage.talk.errors == ["Install the packages first."]
