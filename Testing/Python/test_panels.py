"""The module itself, LNSynth.py with all its panels over the real form and a real scene, without Slicer (slicer_app.py
says what stands in for it): in every state of a scene, and as people press its buttons."""

import argparse

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 (Qt) is not installed")

import mrml
import slicer
from slices import SliceViews
from stage import on_stage
from test_scene_samples import make_sample

STATES = "empty", "ct", "nodes", "all"
# Buttons that ask for a file name or need the application's views; the self test in Slicer presses them.
ASKS = {"installButton", "exportButton", "segExportButton", "compareButton", "flickerButton"}


@pytest.fixture
def stage(scene, tmp_path):
    with on_stage(scene, tmp_path) as stage:
        yield stage


@pytest.mark.parametrize("state", STATES)
def test_every_state_of_a_scene_is_shown_and_says_what_is_missing(stage, state):
    stage.put(state)
    for panel in stage.host.panels.values():
        panel.refresh()
    closed = {name: button.toolTip for name, button in stage.buttons().items() if not button.enabled}
    assert all(closed.values()), closed
    needs_ct = {"anatomyButton", "affineButton", "addAtCrosshairButton", "varyButton", "generateButton",
                "segmentButton"}
    if state == "empty":
        assert needs_ct <= set(closed) and all("CT" in closed[name] for name in needs_ct), closed
    if state == "ct":
        assert "anatomyButton" not in closed and "generateButton" in closed
    if state == "all":
        assert not {"anatomyButton", "varyButton", "addPlausibleButton", "generateButton"} & set(closed), closed
    assert not stage.talk.errors


def test_every_command_of_a_panel_is_one_that_the_library_takes(stage):
    from LNSynthLib import cli

    stage.put("all")
    for name in ("samplePhantomButton", "anatomyButton", "addPlausibleButton", "varyButton", "generateButton"):
        before = len(stage.jobs)
        stage.press(name)
        assert len(stage.jobs) == before + 1, (name, stage.talk.errors, stage.ui.nodesStatus.text)
        title, command = stage.jobs[-1]
        assert title and command[1:3] == ["-m", "LNSynthLib"]
        cli.parse([str(word) for word in command[3:]], argparse.Namespace())
    assert not stage.talk.errors


def test_buttons_of_one_node_edit_undo_and_redo(stage):
    stage.put("all")
    ui, nodes = stage.ui, stage.host.parameters.nodes
    count = ui.nodesTable.rowCount
    assert count == nodes.GetSegmentation().GetNumberOfSegments() > 1
    ui.nodesTable.selectRow(0)
    for name in ("affineButton", "elasticButton", "removeButton"):
        ui.nodesTable.selectRow(0)
        stage.press(name)
        assert ui.nodesStatus.text
    stage.settle()
    assert ui.nodesTable.rowCount == count - 1
    stage.press("undoButton")
    stage.settle()
    assert ui.nodesTable.rowCount == count
    stage.press("redoButton")
    stage.settle()
    assert ui.nodesTable.rowCount == count - 1


def test_what_is_drawn_is_known_to_the_other_panels(stage):
    from LNSynthLogic import segments

    stage.put("all")
    p, panel = stage.host.parameters, stage.host.panels["synthesis"]
    first = segments.node_ids(p.nodes)[0]
    start, mask = segments.node_crop(p.nodes, first, p.ct)
    written, sizes = panel._export_anatomy(), list(panel._node_sizes())
    assert panel._export_anatomy() == written
    for chosen in (p.anatomy, p.nodes):
        segments.set_node(chosen, segments.node_ids(chosen)[0], p.ct, start, mask[:1])
    assert panel._export_anatomy() != written and panel._node_sizes() != sizes
    p.nodes = segments.new_segmentation(stage.scene, p.ct, "empty")
    stage.settle()
    assert not stage.ui.generateButton.enabled
    segments.add_node(p.nodes, p.ct, start, mask)
    stage.settle()
    assert stage.ui.generateButton.enabled, stage.ui.generateButton.toolTip


def test_a_move_by_hand_is_begun_and_given_up(stage):
    stage.put("all")
    stage.ui.nodesTable.selectRow(0)
    stage.press("moveButton")
    assert stage.ui.moveButton.checked and stage.ui.moveApplyButton.enabled
    stage.press("moveCancelButton")
    assert not stage.ui.moveButton.checked


def test_nothing_of_a_move_by_hand_stays_when_the_module_is_left(stage):
    stage.put("all")
    stage.ui.nodesTable.selectRow(0)
    count = stage.scene.GetNumberOfNodes()
    stage.press("moveButton")
    session = stage.host.panels["nodes"].session
    display = session.segmentation.GetDisplayNode()
    assert stage.scene.GetNumberOfNodes() > count and not display.GetSegmentVisibility(session.segment_id)
    stage.host.exit()
    assert stage.scene.GetNumberOfNodes() == count and display.GetSegmentVisibility(session.segment_id)
    assert not stage.ui.moveButton.checked and not session.alive


def test_organs_that_are_drawn_or_removed_are_counted_again(stage):
    stage.put("all")
    inner = stage.host.parameters.anatomy.GetSegmentation()
    count = inner.GetNumberOfSegments()
    assert f"{count} structures." in stage.ui.anatomyStatus.text
    inner.RemoveSegment(inner.GetNthSegmentID(0))
    stage.settle()
    assert f"{count - 1} structures." in stage.ui.anatomyStatus.text


def test_a_synthetic_ct_is_compared_and_real_ones_are_not_offered_as_synthetic(stage):
    from LNSynthLogic import compare_layout, synthetic

    views = SliceViews(stage.scene)
    stage.app.application_logic = views.application
    compare_layout.open_layout(stage.scene)  # makes the views, as the application's layout manager does
    for name in compare_layout.VIEWS:
        views.view(name)
    compare_layout.close_layout(stage.scene)
    stage.put("all")
    ct, ui = stage.host.parameters.ct, stage.ui
    assert ui.syntheticSelector.nodeCount() == 0 and not ui.compareButton.enabled
    made = mrml.add_ct(stage.scene, name="made")
    synthetic.mark_synthetic(made, {})
    stage.settle()
    assert ui.syntheticSelector.nodeCount() == 1 and ui.ctSelector.nodeCount() == 2
    ui.syntheticSelector.setCurrentNode(made)
    stage.settle()
    stage.press("compareButton")
    assert ui.compareButton.checked and ui.blendSlider.enabled
    stage.press("flickerButton")
    assert stage.host.parameters.blend in (0.0, 100.0) and stage.host.parameters.ct is ct
    stage.press("compareButton")
    assert not ui.compareButton.checked


def test_parameters_and_widgets_follow_each_other(stage):
    p, ui = stage.host.parameters, stage.ui
    ui.stepsSpinBox.value = 7
    ui.samplesFolderPath.currentPath = "/tmp/samples"
    ui.varyCheckBox.checked = True
    ui.modeSelector.setCurrentIndex(ui.modeSelector.findData("patch"))
    assert (p.steps, p.samplesFolder, p.vary, p.mode) == (7, "/tmp/samples", True, "patch")
    assert ui.reviewFolderPath.currentPath == "/tmp/samples"
    p.seed, p.sampler = 5, "ddim"
    stage.settle()
    assert ui.seedSpinBox.value == 5 and ui.samplerSelector.itemData(ui.samplerSelector.currentIndex) == "ddim"


def test_samples_are_reviewed_by_button_and_the_verdicts_are_on_the_disk(stage, tmp_path):
    for name in ("case-001", "case-002"):
        make_sample(tmp_path / "samples" / name, mrml.phantom().ct, mrml.phantom().nodes)
    views = SliceViews(stage.scene)
    stage.app.application_logic = views.application
    stage.put("ct")
    ui = stage.ui
    ui.reviewFolderPath.currentPath = str(tmp_path / "samples")
    ui.reviewerLineEdit.text = "anna"
    stage.settle()
    assert ui.reviewTable.rowCount == 2 and not ui.acceptButton.enabled and "(N)" in ui.acceptButton.toolTip
    stage.press("nextButton")
    stage.until(lambda: ui.acceptButton.enabled)
    ui.noteLineEdit.text = "sharp"
    stage.press("acceptButton")
    stage.until(lambda: ui.rejectButton.enabled)
    stage.press("rejectButton")
    written = (tmp_path / "samples" / "review.csv").read_text(encoding="utf-8")
    assert [words in written for words in ("case-001", "case-002", "accept", "reject", "sharp", "anna")] == [True] * 6
    assert ui.reviewProgress.value == 2 and not stage.talk.errors, stage.talk.errors


def test_segmentations_are_compared_node_by_node(stage):
    stage.put("nodes")
    p, found = stage.host.parameters, mrml.phantom().nodes.array.copy()
    found[found == 4] = 0
    stage.ui.segmentationSection.collapsed = False
    p.reference, p.prediction = p.nodes, mrml.add_nodes(stage.scene, p.ct, found, name="found")
    stage.settle()
    table = stage.ui.comparisonTable
    assert sorted(table.item(row, 1).text() for row in range(table.rowCount)) == ["found"] * 4 + ["missed"]
    table.selectRow(0)


def test_segmentations_are_compared_only_where_somebody_sees_it(stage, monkeypatch):
    from LNSynthLogic import node_scores, segments

    compared, compare = [], node_scores.compare
    monkeypatch.setattr(node_scores, "compare", lambda *nodes: compared.append(nodes) or compare(*nodes))
    stage.put("nodes")
    p, section = stage.host.parameters, stage.ui.segmentationSection
    p.reference, p.prediction = p.nodes, mrml.add_nodes(stage.scene, p.ct, name="found")
    section.collapsed = True
    stage.settle()
    assert not compared
    section.collapsed = False
    assert len(compared) == 1
    first = segments.node_ids(p.prediction)[0]
    section.collapsed = True
    segments.remove_node(p.prediction, first)
    stage.settle()
    assert len(compared) == 1
    section.collapsed = False
    assert len(compared) == 2 and "missed" in [stage.ui.comparisonTable.item(row, 1).text() for row in range(5)]
    stage.host.exit()
    segments.remove_node(p.prediction, segments.node_ids(p.prediction)[0])
    stage.settle()
    assert len(compared) == 2
    stage.host.enter()
    assert len(compared) == 3
    stage.settle()
    assert len(compared) == 3
    segments.remove_node(p.prediction, segments.node_ids(p.prediction)[0])
    stage.settle()
    assert len(compared) == 4


def test_an_edit_of_nodes_that_the_editor_does_not_show_is_no_step_of_its_history(stage):
    stage.put("all")
    p, editor, panel = stage.host.parameters, stage.host.editor, stage.host.panels["nodes"]
    nodes = p.nodes
    p.nodes = mrml.add_nodes(stage.scene, p.ct, name="others")
    stage.settle()
    for chosen in (p.nodes, None):  # a job for the former nodes ends now
        p.nodes = chosen
        stage.settle()
        count = nodes.GetSegmentation().GetNumberOfSegments()
        panel._edit(lambda: panel._save(nodes) or nodes.GetSegmentation().AddEmptySegment(), nodes=nodes)
        assert nodes.GetSegmentation().GetNumberOfSegments() == count + 1
        assert not editor._undo and panel.selected == ""


def test_the_phantom_is_shown_alone_and_not_as_one_of_two_that_are_compared(stage, monkeypatch):
    from LNSynthLogic import compare_layout, inputs

    views = SliceViews(stage.scene)
    stage.app.application_logic = views.application
    stage.put("all")
    p, shown = stage.host.parameters, []
    monkeypatch.setattr(inputs, "load_phantom", lambda *_: (p.ct, p.nodes, p.anatomy))
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers",
                        lambda **layers: shown.append((layers["background"], compare_layout.is_open(stage.scene))))
    compare_layout.open_layout(stage.scene)
    stage.host.panels["input"]._show_phantom(None)
    assert shown == [(p.ct, False)]


def test_a_path_that_is_typed_is_opened_once(stage, tmp_path, monkeypatch):
    from LNSynthLogic import review_queue

    make_sample(tmp_path / "samples" / "case-001", mrml.phantom().ct, mrml.phantom().nodes)
    opened, queue = [], review_queue.ReviewQueue
    monkeypatch.setattr(review_queue, "ReviewQueue", lambda folder, who: opened.append(folder) or queue(folder, who))
    ui, path = stage.ui, str(tmp_path / "samples")
    timer = stage.host.panels["review"]._open_timer
    timer.setInterval(3600_000)  # whatever else the machine does meanwhile
    for end in range(len(str(tmp_path)), len(path) + 1):
        ui.reviewFolderPath.currentPath = path[:end]
        stage.until(lambda: not stage.host._refresh_timer.active)
    assert not opened and not ui.nextButton.enabled and ui.nextButton.toolTip
    timer.setInterval(0)
    stage.settle()
    assert [str(folder) for folder in opened] == [path] and ui.nextButton.enabled and ui.reviewTable.rowCount == 1


@pytest.mark.slow
def test_the_sample_phantom_comes_from_a_real_child_process(stage):
    del stage.host.jobs.start
    stage.press("samplePhantomButton")
    stage.until(lambda: not stage.host.jobs.busy)
    stage.settle()
    p = stage.host.parameters
    assert not stage.host.jobs.busy and not stage.talk.errors, stage.talk.errors
    assert p.ct is not None and p.ct.GetImageData().GetNumberOfPoints() > 1e5 and p.nodes is not None
    assert stage.ui.nodesTable.rowCount > 0
