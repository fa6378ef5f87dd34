"""Panels of review, comparison and segmentation over the real form and a real scene: what people do, step by step."""

import argparse

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 (Qt) is not installed")

import mrml
import numpy as np
import slicer
from LNSynthLogic import compare_layout, nodes_in_ct, samples, segments
from slices import SliceViews
from stage import on_stage
from test_scene_samples import make_sample

from LNSynthLib.images.volume import Volume, write
from LNSynthLib.review import verdicts


@pytest.fixture
def stage(scene, tmp_path):
    """The module with the phantom as its CT, a layout as Slicer has it, and a folder of three samples made from it."""
    views = SliceViews(scene)  # the layout node, and the views that it asks for
    with on_stage(scene, tmp_path) as stage:
        stage.views = views
        yield prepared(stage, tmp_path)


def prepared(stage, tmp_path):
    stage.put("nodes")
    stage.folder = tmp_path / "samples"
    for number in (1, 2, 3):
        put_sample(stage.folder / f"s-{number}", number)
    stage.ui.reviewSection.setProperty("collapsed", False)
    stage.host.parameters.samplesFolder = str(stage.folder)
    stage.host.parameters.reviewer = "anna"
    stage.settle()
    return stage


def put_sample(folder, number, **facts):
    """The phantom, with another node for each number, as if made in place."""
    phantom = mrml.phantom()
    nodes = np.zeros(phantom.ct.shape, np.uint16)
    nodes[40:44, 20 + 3 * number:24 + 3 * number, 20:23] = 1
    ct = phantom.ct.array.copy()
    ct[nodes > 0] = 45
    return make_sample(folder, Volume(ct, phantom.ct.affine), Volume(nodes, phantom.ct.affine),
                       nodes=[{"id": 1, "state": "made"}], **facts)


def shown(stage):
    """Name of the sample in the scene; there is never more than one."""
    found = [volume for volume in (stage.scene.GetNthNodeByClass(i, "vtkMRMLScalarVolumeNode") for i in range(
        stage.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"))) if volume.GetAttribute(samples.SAMPLE)]
    assert len(found) <= 1
    return found[0].GetName().removeprefix("SYNTHETIC ") if found else None


def wait_for(stage, name):
    """A sample is read beside the window, then shown."""
    stage.settle()
    assert shown(stage) == name and not stage.talk.errors, (stage.ui.reviewStatus.text, stage.talk.errors)


def rows(stage):
    table = stage.ui.reviewTable
    return [tuple(table.item(row, column).text() for column in range(4)) for row in range(table.rowCount)]


def test_samples_are_judged_one_after_the_other(stage):
    ui = stage.ui
    assert [row[0] for row in rows(stage)] == ["s-1", "s-2", "s-3"] and shown(stage) is None
    assert not ui.acceptButton.enabled and "sample" in ui.acceptButton.toolTip
    stage.press("nextButton")
    wait_for(stage, "s-1")
    ui.noteLineEdit.text = "clear margin"
    stage.press("acceptButton")
    assert verdicts.review(stage.folder).decisions["s-1"].note == "clear margin"
    wait_for(stage, "s-2")
    assert ui.noteLineEdit.text == "" and rows(stage)[0] == ("s-1", "accepted", "clear margin", "anna")
    stage.press("rejectButton")
    wait_for(stage, "s-3")
    assert ui.reviewProgress.value == 2 and ui.reviewProgress.maximum == 3
    stage.press("acceptButton")
    assert "All 3 samples" in ui.reviewStatus.text and shown(stage) == "s-3"
    ui.reviewTable.selectRow(0)
    wait_for(stage, "s-1")
    assert ui.noteLineEdit.text == "clear margin"
    ui.noteLineEdit.text = "margin clear"
    ui.noteLineEdit.returnPressed.emit()
    found = verdicts.review(stage.folder).decisions["s-1"]
    assert (found.verdict, found.note) == ("accept", "margin clear")


def test_a_sample_is_compared_with_the_ct_that_it_was_made_from(stage):
    stage.press("nextButton")
    wait_for(stage, "s-1")
    assert compare_layout.is_open(stage.scene)
    real, synthetic = compare_layout.compared(stage.scene)
    assert real is stage.host.parameters.ct and synthetic is stage.host.parameters.synthetic
    mask = samples.nodes_of(synthetic)
    middle = compare_layout.center_of(mask, segments.node_ids(mask)[0], synthetic)
    assert compare_layout.slice_node(stage.scene, compare_layout.REAL[0]).GetSliceOffset() == pytest.approx(middle[2])
    other = mrml.add_ct(stage.scene, mrml.phantom().ct.array[::-1].copy(), mrml.phantom().ct.affine, "other patient")
    stage.host.parameters.ct = other
    stage.settle()
    assert compare_layout.compared(stage.scene) == (None, synthetic)
    stage.press("nextButton")
    wait_for(stage, "s-2")
    assert compare_layout.compared(stage.scene)[0] is None and "choose the CT" in stage.ui.reviewStatus.text


def test_nodes_that_were_corrected_stay_in_the_scene(stage):
    stage.press("nextButton")
    wait_for(stage, "s-1")
    volume = stage.host.parameters.synthetic
    mask = samples.nodes_of(volume)
    segments.remove_node(mask, segments.node_ids(mask)[0])
    stage.press("acceptButton")
    stage.settle()
    assert stage.host.parameters.synthetic is not volume
    assert volume.GetScene() is stage.scene and mask.GetScene() is stage.scene
    assert "s-1 were changed here" in stage.ui.reviewStatus.text


def test_samples_that_stream_in_come_and_damaged_ones_are_named(stage):
    put_sample(stage.folder / "s-4", 4)
    (put_sample(stage.folder / "s-5", 5) / "ct.nii.gz").write_bytes(b"broken")
    stage.until(lambda: [row[0] for row in rows(stage)] == [f"s-{n}" for n in (1, 2, 3, 4, 5)])
    stage.ui.reviewTable.selectRow(4)
    stage.settle()
    assert "not the one that provenance.json" in stage.ui.reviewStatus.text and not stage.ui.acceptButton.enabled
    stage.press("previousButton")
    wait_for(stage, "s-4")
    assert stage.ui.acceptButton.enabled


def test_a_verdict_that_cannot_be_saved_is_said_loudly(stage, monkeypatch):
    stage.press("nextButton")
    wait_for(stage, "s-1")
    (stage.folder / "review.csv").mkdir()
    stage.press("acceptButton")
    assert len(stage.talk.errors) == 1 and "review.csv" in stage.talk.errors[0]
    stage.talk.errors.clear()
    (stage.folder / "review.csv").rmdir()
    stage.host.panels["review"]._look_again()
    stage.press("acceptButton")
    assert [d.sample for d in verdicts.history(stage.folder)] == ["s-1"]


def test_another_folder_another_reviewer_another_scene(stage, tmp_path):
    p = stage.host.parameters
    stage.press("nextButton")
    wait_for(stage, "s-1")
    stage.press("acceptButton")
    wait_for(stage, "s-2")
    p.reviewer = ""
    stage.settle()
    assert "name" in stage.ui.acceptButton.toolTip and not stage.ui.acceptButton.enabled
    p.reviewer = "bob"
    stage.settle()
    assert rows(stage)[0] == ("s-1", "", "", "anna (accepted)")
    assert stage.ui.acceptButton.enabled and stage.ui.reviewProgress.value == 0
    p.samplesFolder = str(tmp_path / "nowhere")
    stage.settle()
    assert rows(stage) == [] and "no such folder" in stage.ui.reviewStatus.text
    p.samplesFolder = str(stage.folder)
    stage.settle()
    assert len(rows(stage)) == 3
    stage.scene.Clear(0)
    stage.settle()
    assert rows(stage) == [] and not stage.talk.errors


def test_exports_are_commands_that_the_library_takes(stage, tmp_path, monkeypatch):
    import qt

    from LNSynthLib import cli

    assert not stage.ui.exportButton.enabled and "accepted" in stage.ui.exportButton.toolTip
    stage.press("nextButton")
    wait_for(stage, "s-1")
    stage.press("acceptButton")
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *_: str(tmp_path / "seg"))
    stage.ui.exportFormatSelector.setCurrentIndex(1)
    stage.press("exportButton")
    stage.talk.answer = False
    stage.press("segExportButton")  # the nodes are not in the CT, and the question is answered with no
    assert len(stage.talk.questions) == 1 and len(stage.jobs) == 1 and ": 5." in stage.talk.questions[0]
    p = stage.host.parameters
    p.nodesInCT = True
    stage.settle()
    segments.set_node(p.nodes, segments.node_ids(p.nodes)[0], p.ct, (0, 0, 0), np.ones((2, 2, 2), bool))
    stage.press("segExportButton")  # a node that any tool has changed is not in the CT any more
    assert len(stage.talk.questions) == 2 and ": 1." in stage.talk.questions[1]
    stage.talk.answer = True
    stage.press("segExportButton")
    (_, export), (_, seg) = stage.jobs
    for command in (export, seg):
        cli.parse([str(word) for word in command[3:]], argparse.Namespace())
    assert [str(word) for word in export[3:7]] == ["review", "export", str(stage.folder), "--as"]
    assert "nnunet" in export and str(tmp_path / "seg.dcm") in seg


def test_the_layout_button_slider_and_flicker(stage):
    ui, scene = stage.ui, stage.scene
    assert not ui.compareButton.enabled and not ui.flickerButton.enabled
    stage.views.layout_node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    stage.press("nextButton")
    wait_for(stage, "s-1")
    assert ui.compareButton.checked and ui.flickerButton.enabled and ui.blendSlider.value == 100
    ui.blendSlider.value = 30
    assert compare_layout.blend(scene) == pytest.approx(30)
    stage.press("flickerButton")
    assert compare_layout.blend(scene) == 100 and ui.blendSlider.value == 100 and not ui.flickerButton.checked
    compare_layout.composite_node(scene, compare_layout.SYNTHETIC[0]).SetForegroundOpacity(0.2)  # Slicer's own slider
    stage.settle()
    assert ui.blendSlider.value == pytest.approx(20)
    ct, synthetic = compare_layout.compared(scene)
    ct.GetDisplayNode().SetAutoWindowLevel(False)  # as the mouse does it
    ct.GetDisplayNode().SetWindowLevel(123, 45)
    assert synthetic.GetDisplayNode().GetWindow() == 123
    stage.press("compareButton")
    assert not compare_layout.is_open(scene) and not ui.compareButton.checked and not ui.flickerButton.enabled
    assert stage.views.layout_node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    ct.GetDisplayNode().SetWindowLevel(99, 9)
    assert synthetic.GetDisplayNode().GetWindow() == 123  # they are two again
    stage.press("compareButton")
    stage.views.layout_node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    stage.settle()
    assert not ui.compareButton.checked
    assert stage.host.parameters.nodes.GetDisplayNode().IsDisplayableInView("vtkMRMLSliceNodeRed")


def test_a_segmentation_is_compared_and_followed(stage):
    ui, p = stage.ui, stage.host.parameters
    ui.segmentationSection.collapsed = False
    assert "prediction" in ui.comparisonLabel.text
    p.prediction = mrml.add_nodes(stage.scene, p.ct, name="prediction")
    p.reference = p.nodes
    stage.settle()
    table = ui.comparisonTable
    assert table.rowCount == 5 and table.item(0, 1).text() == "found" and table.item(0, 2).text() == "1.00"
    segments.remove_node(p.prediction, segments.node_ids(p.prediction)[0])
    stage.settle()
    assert table.item(0, 1).text() == "missed" and "4 of 5" in ui.comparisonLabel.text
    table.selectRow(2)
    middle = compare_layout.center_of(p.reference, segments.node_ids(p.reference)[2], p.ct)
    assert stage.scene.GetNodeByID("vtkMRMLSliceNodeRed").GetSliceOffset() == pytest.approx(middle[2])
    stage.scene.RemoveNode(p.prediction)
    stage.settle()
    assert table.rowCount == 0


def test_what_a_segmenter_finds_becomes_the_prediction(stage, tmp_path):
    p = stage.host.parameters
    started = []
    stage.host.jobs.start = lambda title, arguments, **told: started.append((arguments, told))
    (tmp_path / "model").mkdir()
    for name in ("plans.json", "dataset.json"):
        (tmp_path / "model" / name).write_text("{}")
    p.segmenter = str(tmp_path / "model")
    stage.settle()
    stage.press("segmentButton")
    arguments, told = started[0]
    assert [str(word) for word in arguments[3:5]] == ["segment", "predict"]
    write(arguments[arguments.index("--out") + 1], mrml.phantom().nodes)
    told["on_result"]({})
    told["cleanup"]()
    stage.settle()
    assert len(segments.node_ids(p.prediction)) == 5 and "model" in p.prediction.GetName()
    assert "5 lymph nodes" in stage.ui.segmentationStatus.text
    assert all(nodes_in_ct.are_in_ct(p.prediction, p.ct).values())


SLICERS = "BFGRTV" "IQWYZ" "0123456789"  # keys of slice views, 3D views and the Segment Editor


def test_keys_work_in_the_whole_window_but_take_none_from_slicer(stage, monkeypatch):
    """Real key presses: while wanted, not while an editor effect is active, and not while text is typed."""
    from LNSynthPanels.keys import Keys
    from PySide6 import QtCore, QtTest, QtWidgets

    window = QtWidgets.QMainWindow()
    line, view = QtWidgets.QLineEdit(window), QtWidgets.QWidget(window)
    view.setFocusPolicy(QtCore.Qt.StrongFocus)
    window.show()
    window.activateWindow()
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: window)
    pressed = []
    keys = Keys(stage.host, {"A": lambda: pressed.append("A"), "X": lambda: pressed.append("X")})
    editor = stage.host.editor.mrmlSegmentEditorNode()

    def press(widget, key) -> list:
        pressed.clear()
        widget.setFocus()
        stage.settle()
        QtTest.QTest.keyClick(widget, key)
        stage.settle()
        return list(pressed)

    assert press(view, QtCore.Qt.Key_A) == []
    keys.use(True)
    assert press(view, QtCore.Qt.Key_A) == ["A"] and press(view, QtCore.Qt.Key_X) == ["X"]
    assert press(line, QtCore.Qt.Key_A) == [] and line.property("text").lower() == "a"
    editor.SetActiveEffectName("Draw")
    assert press(view, QtCore.Qt.Key_X) == []
    editor.SetActiveEffectName("")
    assert press(view, QtCore.Qt.Key_X) == ["X"]
    keys.use(False)
    assert press(view, QtCore.Qt.Key_X) == []
    keys.close()
    editor.SetActiveEffectName("Draw")  # nobody listens any more


def test_no_key_is_one_of_slicers(stage, monkeypatch):
    from LNSynthPanels import compare_view, review_panel

    for panel in (compare_view.CompareView, review_panel.ReviewPanel):
        taken = []
        monkeypatch.setattr(f"{panel.__module__}.Keys", lambda host, slots, taken=taken: taken.extend(slots))
        panel(stage.host)
        assert taken and not set("".join(taken)) & set(SLICERS)


def test_keys_judge_while_the_section_is_open(stage, monkeypatch):
    """The panel's own keys, asked for as the section is opened and closed and the module is left."""
    panel = stage.host.panels["review"]
    wanted = []
    monkeypatch.setattr(panel._keys, "use", wanted.append)
    stage.ui.reviewSection.setProperty("collapsed", True)
    assert wanted[-1] is False
    stage.ui.reviewSection.setProperty("collapsed", False)
    assert wanted[-1] is True
    stage.host.exit()
    assert wanted[-1] is False
    stage.host.enter()
    assert wanted[-1] is True
    stage.host.parameters.samplesFolder = ""
    stage.settle()
    assert wanted[-1] is False
