"""LNSynth, the module: lymph nodes placed, generated, reviewed and segmented in the viewer. It binds, shows and starts;
what its panels decide is in LNSynthLogic, and all heavy work runs in child processes of LNSynthLib."""

import sys
from pathlib import Path

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

HERE = Path(__file__).resolve().parent
HELP = (HERE / "Resources" / "Help" / "help.html").as_uri()
if not (HERE / "LNSynthLib").is_dir() and (HERE.parent / "LNSynthLib").is_dir():
    sys.path.append(str(HERE.parent))  # a source checkout: the library lies beside the module, not in its folder


class LNSynth(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "LNSynth"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations"]  # unloaded after this: its effects are let go of in cleanup
        self.parent.contributors = ["LNSynth contributors"]
        self.parent.helpText = _(
            "Synthesises abdominal lymph nodes in CT with a 3D diffusion model (LN-DDPM): draw, move, vary or add "
            "nodes, generate the CT that shows them, compare and review the results, segment nodes with nnU-Net. "
            "What it makes is marked SYNTHETIC. For research; not a medical device. "
            "{link_start}How to use it{link_end}").format(link_start=f'<a href="{HELP}">', link_end="</a>")
        self.parent.acknowledgementText = _(
            "LNSynth implements LN-DDPM, described in {paper}. Organ labels come from TotalSegmentator, segmenters are "
            "nnU-Net. Please cite them with the paper when you publish results.").format(
                paper='<a href="https://arxiv.org/abs/2403.17770">arXiv 2403.17770</a>')
        slicer.app.connect("startupCompleted()", register_sample_data)
        slicer.app.connect("startupCompleted()", register_compare_layout)


def register_sample_data() -> None:
    """A phantom in Sample Data, made on the spot: it needs no download."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="LNSynth", sampleName="LNSynthPhantom", uris="", nodeNames="LNSynthPhantom",
        thumbnailFileName=str(HERE / "Resources" / "Icons" / "LNSynthPhantom.png"),
        customDownloader=lambda _source: load_sample_phantom())


def register_compare_layout() -> None:
    """A scene that was saved in the compare layout names it by its number: it must be known before the scene is."""
    from LNSynthLogic import compare_layout

    manager = slicer.app.layoutManager()
    if manager is not None:  # there is none with --no-main-window
        compare_layout.register(manager.layoutLogic().GetLayoutNode())


def load_sample_phantom() -> None:
    """Opens the module and has it make the phantom, as its own button does."""
    slicer.util.selectModule("LNSynth")
    widget = slicer.modules.LNSynthWidget
    button = widget.ui.samplePhantomButton
    if button.enabled:
        button.click()
    else:
        widget.show_error(button.toolTip)


class LNSynthWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The host of the panels: it owns the parameters, the embedded editor, the jobs and the files for them."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.scene = slicer.mrmlScene
        self.logic = self.parameters = self.jobs = self.files = self.node_editor = self._refresh_timer = None
        self.panels, self._choices, self._gui_tags = {}, [], []  # panels by name, in the order of the form

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        from LNSynthPanels.anatomy_panel import AnatomyPanel
        from LNSynthPanels.batch_panel import BatchPanel
        from LNSynthPanels.compare_view import CompareView
        from LNSynthPanels.editor import NodeEditor, effects_registered
        from LNSynthPanels.input_panel import InputPanel
        from LNSynthPanels.jobs_panel import JobsPanel
        from LNSynthPanels.nodes_panel import NodesPanel
        from LNSynthPanels.review_panel import ReviewPanel
        from LNSynthPanels.segmentation_panel import SegmentationPanel
        from LNSynthPanels.setup_panel import SetupPanel
        from LNSynthPanels.synthesis_panel import SynthesisPanel
        from LNSynthPanels.temporary_files import JobFiles

        ui_widget = slicer.util.loadUI(self.resourcePath("UI/LNSynth.ui"))
        self.layout.addWidget(ui_widget)
        self.ui = slicer.util.childWidgetVariables(ui_widget)
        self.logic = LNSynthLogic()
        self.files = JobFiles(slicer.app.temporaryPath)
        self.editor = self.ui.segmentEditorWidget
        self.node_editor = NodeEditor(self.editor, self.scene)
        ui_widget.setMRMLScene(self.scene)
        self.ui.helpLabel.text = _("{link_start}Help{link_end}").format(
            link_start=f'<a href="{HELP}">', link_end="</a>")
        effects_registered(self.onEffectRegistered)
        self._refresh_timer = qt.QTimer()
        self._refresh_timer.setSingleShot(True)
        self._refresh_timer.setInterval(50)
        self._refresh_timer.connect("timeout()", self.refresh)

        self.jobs, self.compare = JobsPanel(self), CompareView(self)
        self.panels = {"compare": self.compare}
        for name, panel in (("setup", SetupPanel), ("input", InputPanel), ("anatomy", AnatomyPanel),
                            ("nodes", NodesPanel), ("synthesis", SynthesisPanel), ("review", ReviewPanel),
                            ("segmentation", SegmentationPanel), ("batch", BatchPanel)):
            self.panels[name] = panel(self)
        self.addObserver(self.scene, self.scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(self.scene, self.scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(self.scene, self.scene.EndImportEvent, self.onSceneEndImport)
        for event in (self.scene.NodeAddedEvent, self.scene.NodeRemovedEvent):
            self.addObserver(self.scene, event, self.refresh_soon)
        self.use_parameters(self.logic.getParameterNode())
        if self.parent.isEntered:
            self.enter()  # after a reload; else Slicer enters next

    def cleanup(self) -> None:
        """Also after a setup that failed: what it did not come to is None."""
        if self.jobs is not None:
            self.jobs.close()
        for panel in self.panels.values():
            panel.close()
        self.panels = {}
        self.use_parameters(None)
        self.removeObservers()
        if self._refresh_timer is not None:
            self._refresh_timer.stop()  # last: nothing is left that could start it
        if self.node_editor is not None:
            from LNSynthPanels.editor import effects_forgotten

            effects_forgotten(self.onEffectRegistered)
            self.node_editor.exit()
        if self.files is not None:
            self.files.close()

    def onReload(self) -> None:
        """Reloads the panels and their logic with the module."""
        for name in [name for name in sys.modules if name.split(".")[0] in ("LNSynthPanels", "LNSynthLogic")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    # What Slicer tells

    def enter(self) -> None:
        parameters = self.logic.getParameterNode()
        if self.parameters is None or self.parameters.parameterNode is not parameters.parameterNode:
            self.use_parameters(parameters)
        else:
            self.refresh()  # each wrapper that was connected leaves observers behind, up to Slicer 5.10
        self.node_editor.enter()
        for panel in self.panels.values():
            if hasattr(panel, "enter"):
                panel.enter()

    def exit(self) -> None:
        self.node_editor.exit()
        for panel in self.panels.values():
            if hasattr(panel, "exit"):
                panel.exit()

    def onSceneStartClose(self, caller, event) -> None:
        self.use_parameters(None)
        self.node_editor.forget()

    def onSceneEndClose(self, caller, event) -> None:
        if self.parent.isEntered:
            self.use_parameters(self.logic.getParameterNode())

    def onSceneEndImport(self, caller, event) -> None:
        qt.QTimer.singleShot(0, self.onSceneImported)  # only then do the node boxes know the new nodes

    def onSceneImported(self) -> None:
        """Nodes that the parameters name were not there yet when these were read: they are read again."""
        if self.parameters is not None:
            self.parameters.parameterNode.Modified()

    def onEffectRegistered(self) -> None:
        self.editor.updateEffectList()  # a slot of C++ does not leave out the signal's argument as a method does

    # What the panels use

    def use_parameters(self, parameters) -> None:
        """From here on these parameters (or None, while there are none) are shown and changed."""
        if self.parameters is not None:
            for tag in self._gui_tags:
                self.parameters.disconnectGui(tag)
            self.removeObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.refresh_soon)
        self.parameters, self._gui_tags = parameters, []
        if parameters is not None:
            # One parameter in two places (the folder of samples) needs a second connection.
            self._gui_tags = [parameters.connectGui(self.ui), parameters.connectParametersToGui(
                {"samplesFolder": self.ui.samplesFolderPath}), parameters.connectParametersToGui(
                {"samplesFolder": self.ui.reviewFolderPath})]
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.refresh_soon)
        self.refresh()

    def refresh(self) -> None:
        """Shows the state of things in every panel."""
        parameters = self.parameters
        if parameters is not None:
            for combo, name in self._choices:
                index = combo.findData(getattr(parameters, name))
                if index >= 0 and combo.currentIndex != index:
                    combo.setCurrentIndex(index)
            if self.parent.isEntered:  # else the Segment Editor may be at work, with the same editor node
                self.node_editor.show(parameters.nodes, parameters.ct)
        for panel in self.panels.values():
            panel.refresh()

    def refresh_soon(self, caller=None, event=None) -> None:
        """Many changes in a row are shown once."""
        self._refresh_timer.start()

    def bind_choice(self, combo, name: str, choices) -> None:
        """A combo box of (value, label) choices that shows and sets the text parameter `name`."""
        for value, label in choices:
            combo.addItem(label, value)
        self._choices.append((combo, name))

        def chosen(index: int) -> None:
            if self.parameters is not None and index >= 0:
                setattr(self.parameters, name, combo.itemData(index))

        combo.connect("currentIndexChanged(int)", chosen)

    @staticmethod
    def set_ready(button, missing: str, tip: str, label=None) -> None:
        """Enables a button where nothing is missing; else its tooltip, and a label, say what is."""
        button.enabled = not missing
        button.toolTip = missing or tip
        if label is not None:
            label.text = missing

    def export_ct(self) -> Path:
        """The chosen CT as an uncompressed file for a job, written once for each state of the node."""
        return self.files.volume(self.parameters.ct, keep=self.jobs.busy)

    def temporary_folder(self) -> Path:
        return self.files.folder()

    def show_volume(self, node) -> None:
        """The volume alone, whole, in all slice views of the layout that was there before CTs were compared."""
        from LNSynthLogic import compare_layout

        compare_layout.close_layout(self.scene)
        slicer.util.setSliceViewerLayers(background=node, foreground=None, label=None, fit=True)

    @staticmethod
    def show_error(text: str) -> None:
        slicer.util.errorDisplay(text, windowTitle="LNSynth")

    @staticmethod
    def say(text: str) -> None:
        slicer.util.showStatusMessage(text, 5000)


class LNSynthLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        from LNSynthPanels import path_connector  # noqa: F401  path lines hold text parameters from here on
        from LNSynthPanels.parameter_node import LNSynthParameterNode

        return LNSynthParameterNode(super().getParameterNode())


class LNSynthTest(ScriptedLoadableModuleTest):
    """A person's whole way, from the sample data to a reviewed synthetic node."""

    def runTest(self) -> None:
        beside = HERE.parent / "Testing" / "Slicer"  # in a source checkout; a build tree has it beside the module
        if beside.is_dir() and str(beside) not in sys.path:
            sys.path.append(str(beside))
        from LNSynthSelfTest import runner

        failed = runner.run()
        self.assertEqual(failed, [])
