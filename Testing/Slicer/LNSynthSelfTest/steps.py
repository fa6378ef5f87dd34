"""The steps, in the order of a person's work: each takes the stage, leaves the module ready for the next, and fails by
AssertionError. What a step returns is printed beside its PASS."""

import sys

import numpy as np
import slicer

from .application import (
    check_alive,
    host,
    open_section,
    picture_of_panel,
    picture_of_window,
    run_job,
    sections,
    settle,
    wait,
)

SECTIONS = ("inputSection", "anatomySection", "nodesSection", "synthesisSection", "reviewSection",
            "segmentationSection", "batchSection")
WORK_BUTTONS = ("anatomyButton", "affineButton", "elasticButton", "removeButton", "addPlausibleButton", "varyButton",
                "generateButton", "compareButton", "acceptButton", "rejectButton", "segmentButton", "batchButton")


def opens(stage):
    """The module opens with every panel, and has not pulled in what is heavy."""
    ui = stage.widget.ui
    missing = [name for name in SECTIONS if name not in sections(stage.widget)]
    assert not missing, f"no {missing}"
    heavy = [name for name in ("torch", "monai", "nnunetv2") if name in sys.modules]
    assert not heavy, heavy
    assert "not a medical device" in ui.researchLabel.text.lower()
    assert not ui.setupSection.visible or ui.setupLabel.text, "Setup says nothing"
    return f"Setup is {'shown: ' + ui.setupStatus.text if ui.setupSection.visible else 'hidden'}"


def empty_scene_says_what_is_missing(stage):
    """Every button of work is disabled and its tooltip says why, the status label of its panel as well."""
    slicer.mrmlScene.Clear(0)
    settle()
    widget = stage.widget
    for name in WORK_BUTTONS:
        button = getattr(widget.ui, name)
        assert not button.enabled, f"{name} is enabled in an empty scene"
        assert button.toolTip, f"{name} does not say what is missing"
    for name in ("anatomyStatus", "nodesStatus", "synthesisStatus", "segmentationStatus", "batchStatus"):
        assert getattr(widget.ui, name).text, f"{name} says nothing"
    picture_of_window("window-empty")


def phantom_sample(stage):
    """The sample data button makes a CT, its organs and its nodes, offline, as a job."""
    widget = stage.widget
    longest = run_job(widget, widget.ui.samplePhantomButton, "phantom", 300)
    parameters = widget.parameters
    assert parameters.ct is not None and parameters.nodes is not None and parameters.anatomy is not None
    wait(lambda: widget.ui.nodesTable.rowCount > 0, "table of nodes")
    wait(lambda: all(widget.ui.nodesTable.item(row, 2) and widget.ui.nodesTable.item(row, 2).text()
                     for row in range(widget.ui.nodesTable.rowCount)), "measures of nodes")
    assert widget.ui.inputChecksLabel.text, "no checks of the CT"
    assert widget.ui.affineButton.toolTip and widget.ui.varyButton.enabled, widget.ui.varyButton.toolTip
    picture_of_window("window-phantom")
    return f"{widget.ui.nodesTable.rowCount} nodes, longest standstill {longest:.2f} s"


def pictures_of_panels(stage):
    """Each panel as it is with a phantom (pictures only)."""
    widget = stage.widget
    for name in sections(widget):
        if getattr(widget.ui, name).visible:
            picture_of_panel(widget, name)


def table_jumps_to_a_node(stage):
    """A click on a row brings the slice views to that node."""
    widget = stage.widget
    table, red = widget.ui.nodesTable, slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    offsets = set()
    for row in range(table.rowCount):
        table.selectRow(row)
        settle(0.1)
        offsets.add(round(red.GetSliceOffset(), 2))
    assert len(offsets) > 1 or table.rowCount == 1, "the slice stays where it is"
    assert widget.ui.affineButton.enabled, widget.ui.affineButton.toolTip


def edits_are_single_undo_steps(stage):
    """Affine, elastic, remove: each changes the nodes, Undo takes it back whole, Redo makes it again."""
    widget = stage.widget
    ui, said = widget.ui, []
    for name in ("affineButton", "elasticButton", "removeButton"):
        ui.nodesTable.selectRow(0)
        settle(0.1)
        before = _nodes(widget)
        button = getattr(ui, name)
        assert button.enabled, f"{name}: {button.toolTip}"
        button.click()
        settle()
        after = _nodes(widget)
        assert not np.array_equal(before, after), f"{name} changed nothing: {ui.nodesStatus.text}"
        said.append(ui.nodesStatus.text)
        ui.undoButton.click()
        settle()
        assert np.array_equal(_nodes(widget), before), f"{name}: Undo did not take it back"
        ui.redoButton.click()
        settle()
        assert np.array_equal(_nodes(widget), after), f"{name}: Redo did not make it again"
        ui.undoButton.click()
        settle()
        assert np.array_equal(_nodes(widget), before)
    return "; ".join(said)


def a_new_node_is_one_undo_step(stage):
    """A plausible node comes from a job; one Undo removes it."""
    widget = stage.widget
    count, before = widget.ui.nodesTable.rowCount, _nodes(widget)
    run_job(widget, widget.ui.addPlausibleButton, "new node", 120)
    assert widget.ui.nodesTable.rowCount == count + 1, widget.ui.nodesStatus.text
    widget.ui.undoButton.click()
    settle()
    assert np.array_equal(_nodes(widget), before), "Undo did not take the new node away"
    widget.ui.redoButton.click()
    settle()
    assert widget.ui.nodesTable.rowCount == count + 1


def moving_by_hand(stage):
    """Handles on one node: dragging into another tissue warns, Cancel restores, Apply is one undo step."""
    widget = stage.widget
    ui = widget.ui
    ui.nodesTable.selectRow(0)
    settle(0.1)
    before, own = _nodes(widget), _transforms()
    ui.moveButton.checked = True
    settle()
    assert ui.moveApplyButton.enabled and ui.moveCancelButton.enabled, ui.nodesStatus.text
    _shift(*(_transforms() - own), 4.0)
    settle()
    picture_of_window("window-move")
    ui.moveCancelButton.click()
    settle()
    assert np.array_equal(_nodes(widget), before), "Cancel did not restore the node"
    assert not ui.moveButton.checked and _transforms() == own
    ui.moveButton.checked = True
    settle()
    _shift(*(_transforms() - own), 2.0)
    settle()
    ui.moveApplyButton.click()
    settle()
    after = _nodes(widget)
    assert not np.array_equal(after, before), f"Apply changed nothing: {ui.nodesStatus.text}"
    ui.undoButton.click()
    settle()
    assert np.array_equal(_nodes(widget), before), "Undo did not take the move back"


def synthesis_in_place(stage):
    """A short synthesis in the CT: progress, a result marked SYNTHETIC beside its mask, the window alive throughout."""
    widget = stage.widget
    parameters, ui = widget.parameters, widget.ui
    parameters.mode, parameters.steps, parameters.variants, parameters.seed = "in-place", 3, 1, 5
    parameters.device, parameters.samplesFolder = "cpu", str(stage.folder / "samples")
    settle()
    assert ui.estimateLabel.text, "no estimate of time and memory"
    open_section(widget, "synthesisSection")
    assert ui.generateButton.enabled, ui.generateButton.toolTip
    label = ui.generateButton.text
    ui.generateButton.click()
    settle(1.0)
    assert widget.jobs.busy and ui.generateButton.text != label, "Generate did not turn into Cancel"
    said = set()
    longest = wait(lambda: said.add(ui.jobLabel.text) or not widget.jobs.busy, "synthesis", 900)
    assert "done" in ui.jobLabel.text, f"{ui.jobLabel.text} {stage.shown}"
    assert len(said) > 3, f"no progress was shown: {said}"
    check_alive(longest)
    synthetic = widget.parameters.synthetic
    assert synthetic is not None, "the result is not loaded"
    assert synthetic.GetName().startswith("SYNTHETIC ") and synthetic.GetAttribute("LNSynth.Synthetic") == "1"
    real = slicer.util.arrayFromVolume(widget.parameters.ct)
    made = slicer.util.arrayFromVolume(synthetic)
    assert made.shape == real.shape
    changed = float((made != real).mean())
    assert 0 < changed < 0.5, f"{changed:.1%} of the voxels changed"
    stage.known["synthetic"] = synthetic.GetName()
    return f"{changed:.2%} of the voxels changed, longest standstill {longest:.2f} s"


def a_job_can_be_cancelled(stage):
    """Cancel ends a running synthesis within seconds, keeps the earlier sample and leaves no half-made one."""
    widget = stage.widget
    folder = stage.folder / "samples"
    before = sorted(path.name for path in folder.iterdir() if path.is_dir())
    widget.parameters.steps, widget.parameters.seed = 250, 6
    settle()
    widget.ui.generateButton.click()
    wait(lambda: widget.ui.jobProgress.value > 0 or not widget.jobs.busy, "first progress", 300)
    assert widget.jobs.busy, f"{widget.ui.jobLabel.text} {stage.shown}"
    widget.ui.cancelButton.click()
    longest = wait(lambda: not widget.jobs.busy, "cancel", 30)
    assert "cancel" in widget.ui.jobLabel.text.lower(), widget.ui.jobLabel.text
    check_alive(longest)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == before
    widget.parameters.steps, widget.parameters.seed = 3, 5


def compare_layout(stage):
    """CT left, synthetic right, linked; the slider blends, the button flips, leaving restores the layout."""
    widget = stage.widget
    ui, layout = widget.ui, slicer.app.layoutManager()
    assert ui.compareButton.enabled, ui.compareButton.toolTip
    if not ui.compareButton.checked:
        ui.compareButton.click()
        settle(1.0)
    number = layout.layout
    assert {"LNSynthSourceAxial", "LNSynthSyntheticAxial"} <= set(layout.sliceViewNames()), layout.sliceViewNames()
    left, right = (layout.sliceWidget(name).sliceLogic() for name in ("LNSynthSourceAxial", "LNSynthSyntheticAxial"))
    ui.nodesTable.selectRow(0)
    settle()
    same = left.GetSliceNode().GetSliceToRAS(), right.GetSliceNode().GetSliceToRAS()
    assert all(abs(same[0].GetElement(i, j) - same[1].GetElement(i, j)) < 1e-6 for i in range(4) for j in range(4))
    left.StartSliceOffsetInteraction()  # as the slider and the mouse wheel do; the views are linked for people only
    left.SetSliceOffset(left.GetSliceOffset() + 3)
    left.EndSliceOffsetInteraction()
    settle()
    assert abs(left.GetSliceOffset() - right.GetSliceOffset()) < 1e-6, "the right view does not follow the left one"
    composite = right.GetSliceCompositeNode()
    shown = composite.GetForegroundVolumeID() or composite.GetBackgroundVolumeID()
    assert shown == widget.parameters.synthetic.GetID(), shown
    picture_of_window("window-compare")
    ui.blendSlider.value = 50
    settle()
    assert abs(composite.GetForegroundOpacity() - 0.5) < 0.02, composite.GetForegroundOpacity()
    picture_of_window("window-compare-blended")
    ui.blendSlider.value = 100
    settle()
    ui.flickerButton.click()
    settle()
    flipped = composite.GetForegroundOpacity()
    ui.flickerButton.click()
    settle()
    assert (flipped, composite.GetForegroundOpacity()) == (0, 1), "the flicker button does not flip"
    ui.compareButton.click()
    settle()
    assert layout.layout != number, "the layout is not left"


def review_accepts_a_sample(stage):
    """Accept writes to review.csv at once, the queue counts it."""
    from LNSynthLib.review import verdicts

    widget = stage.widget
    ui, folder = widget.ui, stage.folder / "samples"
    open_section(widget, "reviewSection")
    widget.parameters.reviewer = "self test"
    settle()
    wait(lambda: ui.reviewTable.rowCount > 0 and ui.nextButton.enabled, "queue of samples")
    ui.nextButton.click()
    settle(1.0)
    ui.noteLineEdit.text = "clear margin"
    assert ui.acceptButton.enabled, ui.acceptButton.toolTip
    ui.acceptButton.click()
    settle()
    decisions = [decision for decision in verdicts.history(folder) if decision.reviewer == "self test"]
    assert [decision.verdict for decision in decisions] == ["accept"], decisions
    assert decisions[0].note == "clear margin", decisions
    assert ui.reviewProgress.value == 1, ui.reviewProgress.value
    picture_of_panel(widget, "reviewSection")
    picture_of_window("window-review")


def segmentations_are_compared(stage):
    """The nodes against those that the CT shows: the one that was added is false, the others are found."""
    widget = stage.widget
    parameters, table = widget.parameters, widget.ui.comparisonTable
    assert parameters.keptNodes is not None, "there is no copy of the nodes that the CT shows"
    widget.ui.segmentationSection.collapsed = False  # else nothing is compared
    parameters.prediction, parameters.reference = parameters.nodes, parameters.keptNodes
    wait(lambda: table.rowCount > 0, "comparison", 30)
    count = widget.ui.nodesTable.rowCount
    results = sorted(table.item(row, 1).text() for row in range(table.rowCount))
    assert results == ["false"] + ["found"] * (count - 1), results
    table.selectRow(0)
    settle()
    picture_of_panel(widget, "segmentationSection")
    parameters.prediction = parameters.reference = None
    return widget.ui.comparisonLabel.text


def scene_is_saved_and_restored(stage):
    """Save, close (panels are empty and do not complain), load: every choice is back."""
    widget = stage.widget
    path = str(stage.folder / "scene.mrb")
    remembered = _choices(widget)
    nodes = _nodes(widget)
    assert slicer.util.saveScene(path), "the scene was not saved"
    slicer.mrmlScene.Clear(0)
    settle()
    widget = stage.widget
    assert widget.parameters.ct is None and widget.ui.nodesTable.rowCount == 0
    assert not widget.ui.generateButton.enabled
    slicer.util.loadScene(path)
    settle(1.0)
    widget = stage.widget
    assert _choices(widget) == remembered, f"{_choices(widget)} instead of {remembered}"
    assert np.array_equal(_nodes(widget), nodes), "the nodes are others"
    synthetic = widget.parameters.synthetic
    assert synthetic is not None and synthetic.GetAttribute("LNSynth.Synthetic") == "1"


def two_scenes_in_turn(stage):
    """A second scene begins empty; nothing of the first is left in the panels."""
    slicer.mrmlScene.Clear(0)
    slicer.util.selectModule("Data")
    settle()
    slicer.mrmlScene.Clear(0)
    settle()
    widget = stage.widget
    assert widget.parameters.ct is None and widget.parameters.reviewer == "", widget.parameters.reviewer
    assert widget.ui.nodesTable.rowCount == 0 and widget.ui.reviewTable.rowCount == 0


def module_reloads(stage):
    """Reload gives a module that works as before: it makes the phantom again."""
    old = stage.widget
    old.onReload()
    settle()
    widget = host()
    assert widget is not old and not widget.jobs.busy
    widget.show_error = stage.shown.append
    run_job(widget, widget.ui.samplePhantomButton, "phantom after reload", 300)
    assert widget.parameters.nodes is not None and widget.ui.nodesTable.rowCount > 0


STEPS = (opens, empty_scene_says_what_is_missing, phantom_sample, pictures_of_panels, table_jumps_to_a_node,
         edits_are_single_undo_steps, a_new_node_is_one_undo_step, moving_by_hand, synthesis_in_place,
         a_job_can_be_cancelled, compare_layout, review_accepts_a_sample, segmentations_are_compared,
         scene_is_saved_and_restored, two_scenes_in_turn, module_reloads)


def _transforms() -> set:
    return set(slicer.util.getNodesByClass("vtkMRMLLinearTransformNode"))


def _nodes(widget) -> np.ndarray:
    """All nodes on the CT's grid, by their order."""
    from LNSynthLogic import segments

    return segments.instances(widget.parameters.nodes, widget.parameters.ct)[0]


def _choices(widget) -> dict:
    parameters = widget.parameters
    return {name: value.GetName() if hasattr(value := getattr(parameters, name), "GetName") else value
            for name in ("ct", "nodes", "anatomy", "synthetic", "mode", "steps", "seed", "samplesFolder", "reviewer")}


def _shift(transform, millimetres: float) -> None:
    """Adds a translation to the right to what a person has dragged so far."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToParent(matrix)
    matrix.SetElement(0, 3, matrix.GetElement(0, 3) + millimetres)
    transform.SetMatrixTransformToParent(matrix)
