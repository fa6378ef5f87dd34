"""Synthesis: which generator and how, what it will cost, and the samples as they are finished."""

import time
from pathlib import Path

import qt
import slicer
from LNSynthLogic import anatomy, compare_layout, node_table, nodes_in_ct, samples, segments
from LNSynthLogic.grids import affine_of
from LNSynthLogic.jobs import commands, display_names, environment, estimates
from LNSynthLogic.jobs.background import Background
from slicer.i18n import tr as _

from LNSynthLib.review.samples import read_record
from LNSynthLib.runtime.errors import LNSynthError

SPEEDS = "LNSynth/Speeds"  # in the application's settings
WARNING = "color: #e0443e"  # a red that reads on light and dark


class SynthesisPanel:
    def __init__(self, host):
        self.host, self.ui = host, host.ui
        self._job = self._shown = None
        self._loading = Background()
        self._timer = qt.QTimer()
        self._timer.setInterval(100)
        self._timer.connect("timeout()", self._load)
        self._said = ""
        self._own_folder = False            # the person wants a folder, even while none is chosen yet
        self._generators = {}               # folder: estimates.Generator or None
        self._sizes = (None, ([], []))      # (state, extents of the nodes to be made and to be removed)
        self._anatomy_file = (None, None)   # (state, file)
        self._speeds = estimates.Speeds.from_text(slicer.app.userSettings().value(SPEEDS) or "")
        ui = self.ui
        ui.generatorSelector.addItem(_("Demo weights (come with LNSynth)"), "demo")
        ui.generatorSelector.addItem(_("Folder of weights or of a training run"), "folder")
        ui.generatorSelector.connect("currentIndexChanged(int)", self._generator_chosen)
        host.bind_choice(ui.modeSelector, "mode", [("in-place", _("In place, in this CT")),
                                                   ("patch", _("A patch, generated as a whole"))])
        host.bind_choice(ui.samplerSelector, "sampler", [
            ("dpmpp", _("DPM-Solver++ (about 25 steps)")), ("ddim", _("DDIM (about 50 steps)")),
            ("ddpm", _("DDPM (as many steps as in training)"))])
        host.bind_choice(ui.deviceSelector, "device", [
            ("auto", _("Automatic")), ("cpu", _("CPU")), ("cuda", _("NVIDIA GPU (CUDA)")),
            ("mps", _("Apple GPU (MPS)"))])
        ui.generateButton.connect("clicked()", self._clicked)
        self._text = ui.generateButton.text

    def refresh(self) -> None:
        p, ui = self.host.parameters, self.ui
        folder = bool(p and p.generator) or self._own_folder
        if ui.generatorSelector.currentIndex != int(folder):
            blocked = ui.generatorSelector.blockSignals(True)
            ui.generatorSelector.setCurrentIndex(int(folder))
            ui.generatorSelector.blockSignals(blocked)
        ui.generatorPath.enabled = folder
        ui.remakeCheckBox.enabled = bool(p and p.mode == "in-place")
        self._ready()
        self._estimate()

    def close(self) -> None:
        self._timer.stop()
        self._loading.clear()
        self._remember_speeds()

    def _generator_chosen(self, index: int) -> None:
        self._own_folder = index == 1
        if not self._own_folder and self.host.parameters is not None:
            self.host.parameters.generator = ""
        self.refresh()

    def _ready(self) -> None:
        """The button: Generate with what is missing, or Cancel while the own job runs."""
        ui, p = self.ui, self.host.parameters
        running = self.host.jobs.runs(self._job)
        ui.generateButton.text = _("Cancel") if running else self._text
        if running:
            self.host.set_ready(ui.generateButton, "", _("Stop the synthesis. Finished samples stay."))
            ui.synthesisStatus.text = self._said
            return
        missing = self.host.jobs.reason or self._missing()
        self.host.set_ready(ui.generateButton, missing, _("Generate the CT with the nodes."))
        said = [missing or self._said]
        if not missing and p.anatomy is None:
            said.append(_("Without the anatomy the generator does not see the organs: run or choose it first."))
        elif not missing:
            said.append(anatomy.missing_for_conditions(p.anatomy))
        ui.synthesisStatus.text = "\n".join(filter(None, said))

    def _missing(self) -> str:
        if self._own_folder and self.host.parameters is not None and not self.host.parameters.generator:
            return _("Choose the folder of the generator, or take the demo weights.")
        return commands.what_is_missing("synthesis", self.host.parameters, environment.current())

    # What it will cost

    def _estimate(self) -> None:
        p, label = self.host.parameters, self.ui.estimateLabel
        label.text, label.styleSheet = "", ""
        if self._missing():
            return
        generator = self._generator()
        if generator is None:
            return
        try:
            made, removed = self._node_sizes()
        except LNSynthError as error:  # a transform that warps
            label.text, label.styleSheet = str(error), WARNING
            return
        found = estimates.estimate(generator, p.mode, made, p.steps, p.variants, p.device, self._speeds,
                                   removed_mm=removed, vary=p.vary)
        label.text = estimates.words(found)
        label.styleSheet = WARNING if estimates.is_slow(found) else ""

    def _generator(self):
        """What the chosen generator costs, read once; None where its folder does not say."""
        from LNSynthLib.generators.model_folder import generator_path

        chosen = self.host.parameters.generator
        if chosen not in self._generators:
            try:
                folder = commands.generator_folder(Path(generator_path(chosen or None)))
                self._generators[chosen] = estimates.read_generator(folder) if folder else None
            except LNSynthError:
                self._generators[chosen] = None
        return self._generators[chosen]

    def _node_sizes(self) -> tuple[list, list]:
        """Extents (mm) of the nodes to be made and to be removed, measured again only when one has changed."""
        p = self.host.parameters
        original = p.keptNodes if p.nodesInCT and p.mode == "in-place" else None
        state = (node_table.state_of(p.nodes, p.ct), node_table.state_of(original, p.ct), p.ct.GetID(), p.remake,
                 p.vary)
        if self._sizes[0] != state:
            self._sizes = (state, nodes_in_ct.sizes_mm(p.nodes, original, p.ct, p.remake, p.vary))
        return self._sizes[1]

    # The job

    def _clicked(self) -> None:
        if self.host.jobs.runs(self._job):
            self.host.jobs.cancel()
            return
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            self._start()
        except LNSynthError as error:
            self.host.show_error(str(error))
        finally:
            qt.QApplication.restoreOverrideCursor()

    def _start(self) -> None:
        p = self.host.parameters
        if not p.samplesFolder:
            p.samplesFolder = str(commands.default_samples_folder(slicer.app.defaultScenePath, p.ct.GetName()))
        files, names = self._export()
        command = commands.variants(p, files, commands.sample_prefix(p.ct.GetName()))
        ct, generator, device = p.ct, self._generator(), estimates.device_kind(p.device)
        watch, self._shown, self._said = estimates.Stopwatch(), None, ""

        def event(told) -> None:
            took = watch.event(told, time.monotonic())
            if took is not None and generator is not None:
                watch.add(took, read_record(Path(told.result["sample"])))
                self._speeds.note(generator, device, watch.seconds, watch.voxel_steps)

        self._job = self.host.jobs.start(
            _("Synthesis"), command, on_sample=lambda result: self._sample(result, ct), on_event=event,
            on_result=lambda result: self._finished(result, names), on_end=self._ended, names=names)
        self._ready()

    def _export(self) -> tuple[commands.Exported, display_names.Names]:
        """The files for the job, on the CT's grid, and what they are called. LNSynthError where a transform forbids it.
        """
        p, folder, names = self.host.parameters, self.host.temporary_folder(), display_names.Names()
        files = commands.Exported(
            self.host.export_ct(), folder / "nodes.nii",
            folder / "present.nii" if p.nodesInCT and p.keptNodes is not None else None, self._export_anatomy())
        names.add(files.ct, p.ct)
        names.add(files.anatomy, p.anatomy)
        names.add(files.nodes, p.nodes, segments.write_mask(p.nodes, p.ct, files.nodes))
        if files.present is not None:
            names.add(files.present, p.keptNodes, segments.write_mask(p.keptNodes, p.ct, files.present))
        return files, names

    def _export_anatomy(self) -> Path | None:
        """The organs as a file, written once for each of their states."""
        from LNSynthLib.images.volume import Volume, write

        p = self.host.parameters
        if p.anatomy is None:
            return None
        state = (node_table.state_of(p.anatomy, p.ct), p.ct.GetID())
        if self._anatomy_file[0] != state or not self._anatomy_file[1].is_file():
            path = self.host.temporary_folder() / "anatomy.nii"
            write(path, Volume(anatomy.labels(p.anatomy, p.ct), affine_of(p.ct)))
            self._anatomy_file = (state, path)
        return self._anatomy_file[1]

    def _sample(self, result: dict, ct) -> None:
        """A finished sample is read beside the window, then shown."""
        folder = Path(result["sample"])
        if not self._wanted(ct):
            return
        there = samples.loaded(self.host.scene, folder)
        if there is not None:  # of an earlier run with the same settings
            there[1].GetDisplayNode().SetVisibility(True)
            self._put(*there, ct, folder.name)
            return
        self._loading.add(lambda: samples.read_sample(folder), lambda sample: self._show(sample, ct),
                          lambda error: self.host.show_error(str(error)))
        self._timer.start()

    def _load(self) -> None:
        self._loading.poll()
        if not self._loading.busy:
            self._timer.stop()

    def _show(self, sample, ct) -> None:
        """The sample comes into the scene."""
        if not self._wanted(ct):
            return
        try:
            self._put(*samples.add_sample(self.host.scene, sample, like=ct), ct, sample.folder.name)
        except LNSynthError as error:
            self.host.show_error(str(error))

    def _wanted(self, ct) -> bool:
        """False where the scene that a sample belongs to was closed; it is in its folder."""
        return self.host.parameters is not None and ct.GetScene() is self.host.scene

    def _put(self, volume, mask, ct, name: str) -> None:
        """A sample of the scene is chosen for comparison, and hides the nodes of the one before."""
        scene, p, first = self.host.scene, self.host.parameters, self._shown is None
        if not first and self._shown is not mask and self._shown.GetDisplayNode() is not None:
            self._shown.GetDisplayNode().SetVisibility(False)
        self._shown = mask
        p.synthetic = volume
        if first or compare_layout.is_open(scene):  # who has left the layout meanwhile is not taken back to it
            self.host.compare.show(volume, mask, ct, self.host.compare.source_nodes())
        if self.host.jobs.runs(self._job):
            self._said = _("{name} is finished.").format(name=name)
        self.host.refresh()

    def _finished(self, result: dict, names) -> None:
        said = [_("Samples made: {made}; there already: {unchanged}; folder: {folder}").format(
            made=len(result["made"]), unchanged=len(result["unchanged"]), folder=result["folder"])]
        said += [_("Variant {number} was left out: {reason}").format(
            number=left["variant"], reason=names(left["reason"])) for left in result["skipped"]]
        self._said = "\n".join(said)

    def _ended(self, _job) -> None:
        self._remember_speeds()

    def _remember_speeds(self) -> None:
        slicer.app.userSettings().setValue(SPEEDS, self._speeds.to_text())
