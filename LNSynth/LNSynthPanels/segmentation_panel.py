"""Segmentation: a trained nnU-Net on the CT as a job, and its nodes compared with a reference, node by node."""

import shutil
from pathlib import Path

import qt
import slicer
from LNSynthLogic import node_scores, node_table, nodes_in_ct, segments, synthetic
from LNSynthLogic.jobs import commands, environment
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from LNSynthLib.runtime.errors import LNSynthError

EVENTS = (slicer.vtkSegmentation.SegmentAdded, slicer.vtkSegmentation.SegmentRemoved,
          slicer.vtkSegmentation.SegmentModified, slicer.vtkSegmentation.SourceRepresentationModified)


class SegmentationPanel(VTKObservationMixin):
    def __init__(self, host):
        VTKObservationMixin.__init__(self)
        self.host, self.ui = host, host.ui
        self._rows, self._pair, self._said = (), (None, None, None), ""
        self._entered, self._stale = False, True  # stale: what the table shows is not compared as it is now
        self._job = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(300)  # a brush stroke is many changes
        self._timer.connect("timeout()", self._compare)
        ui = self.ui
        labels = [_("Node"), _("Result"), _("DSC"), _("Volume\nmL"), _("Short\naxis mm")]
        ui.comparisonTable.setColumnCount(len(labels))
        ui.comparisonTable.setHorizontalHeaderLabels(labels)
        ui.comparisonTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.comparisonTable.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        ui.comparisonTable.connect("itemSelectionChanged()", self._jump)
        ui.comparisonTable.connect("cellClicked(int,int)", lambda _row, _column: self._jump())
        ui.segmentButton.connect("clicked()", self._segment)
        ui.segmentationSection.connect("contentsCollapsed(bool)", self._opened)

    def refresh(self) -> None:
        p = self.host.parameters
        missing = self.host.jobs.reason or commands.what_is_missing("segmentation", p, environment.current())
        self.host.set_ready(self.ui.segmentButton, missing, _(
            "Finds the lymph nodes of the CT in the background; one segment a node."))
        self.ui.segmentationStatus.text = missing or self._said
        pair = (p.ct, p.prediction, p.reference) if p is not None else (None, None, None)
        if pair != self._pair:
            self._pair, self._stale = pair, True
            self._observe()
        if self._stale and not self._timer.active:
            self._compare()

    def enter(self) -> None:
        self._entered = True
        self._compare()

    def exit(self) -> None:
        self._entered = False

    def close(self) -> None:
        self._timer.stop()
        self.removeObservers()

    # The segmenter

    def _segment(self) -> None:
        p, ct = self.host.parameters, self.host.parameters.ct
        model = Path(p.segmenter)
        try:
            folder = self.host.temporary_folder()
            command = commands.segment(p.segmenter, self.host.export_ct(), folder / "nodes.nii", p.device)

            def found(_result) -> None:
                if ct.GetScene() is self.host.scene:  # else the scene that it belongs to was closed meanwhile
                    self._take(folder / "nodes.nii", ct, model.name)

            self._said = ""
            self._job = self.host.jobs.start(_("Segmentation"), command, on_result=found,
                                             cleanup=lambda: shutil.rmtree(folder, ignore_errors=True))
        except LNSynthError as error:
            self.host.show_error(str(error))

    def _take(self, path: Path, ct, model: str) -> None:
        """What was found, as the prediction: one segment a node."""
        from LNSynthLib.images.volume import read

        made = segments.new_segmentation(self.host.scene, ct, _("Nodes found by {model}").format(model=model))
        ids = segments.add_instances(made, ct, read(path).array)
        nodes_in_ct.keep(made, ct)
        if synthetic.is_synthetic(ct):
            made.SetAttribute(synthetic.SYNTHETIC, "1")
        self._said = _("{count} lymph nodes found: check and correct them (for research).").format(count=len(ids))
        self.host.parameters.prediction = made

    # The comparison

    def _observe(self) -> None:
        self.removeObservers()
        for node in self._pair[1:]:
            for event in EVENTS if node is not None else ():
                self.addObserver(node.GetSegmentation(), event, self._changed)

    def _changed(self, caller, event) -> None:
        self._stale = True
        self._timer.start()

    def _opened(self, _collapsed: bool) -> None:
        self._compare()

    def _compare(self) -> None:
        """Where it is not up to date and somebody sees it: it takes a moment, which strokes elsewhere must not wait."""
        if not self._stale or not self._entered or self.ui.segmentationSection.collapsed:
            return
        self._stale = False
        ct, prediction, reference = self._pair
        missing, found = node_scores.what_is_missing(ct, prediction, reference), None
        if not missing:
            try:
                found = node_scores.compare(prediction, reference, ct)
            except LNSynthError as error:
                missing = str(error)
            except ImportError:
                missing = _("Segmentations are compared once the packages are installed (Setup).")
        self._rows = found.rows if found is not None else ()
        self.ui.comparisonLabel.text = missing or found.sentence
        self._fill()

    def _fill(self) -> None:
        table = self.ui.comparisonTable
        words = {"found": _("found"), "missed": _("missed"), "false": _("false")}
        blocked = table.blockSignals(True)
        table.setRowCount(len(self._rows))
        for row, node in enumerate(self._rows):
            texts = (node.name, words[node.verdict], "" if node.dsc is None else f"{node.dsc:.2f}",
                     f"{node.volume_ml:.2f}", f"{node.short_axis_mm:.1f}")
            for column, text in enumerate(texts):
                cell = qt.QTableWidgetItem(text)
                cell.setToolTip(text)  # where the column is too narrow for it
                if column > 1:
                    cell.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(row, column, cell)
        table.clearSelection()
        table.blockSignals(blocked)

    def _jump(self) -> None:
        row = self.ui.comparisonTable.currentRow()
        if 0 <= row < len(self._rows):
            node_table.jump(self.host.scene, self._rows[row].center_mm)
