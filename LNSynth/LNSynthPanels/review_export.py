"""What leaves the review: accepted samples as a data set, and nodes on a patient's CT as a DICOM segmentation."""

from pathlib import Path

import qt
import slicer
from LNSynthLogic import nodes_in_ct, review_queue, segments
from LNSynthLogic.jobs import process
from slicer.i18n import tr as _

from LNSynthLib.runtime.errors import LNSynthError


class ReviewExport:
    """`said` is what was written last, for the status of the panel around it."""

    def __init__(self, host):
        self.host, self.ui, self.said = host, host.ui, ""
        self._queue = None
        ui = self.ui
        ui.exportFormatSelector.addItem(_("NIfTI data set"), "nifti")
        ui.exportFormatSelector.addItem(_("nnU-Net raw data"), "nnunet")
        ui.exportButton.connect("clicked()", self._export)
        ui.segExportButton.connect("clicked()", self._export_seg)

    def refresh(self, queue) -> None:
        self._queue, p = queue, self.host.parameters
        self.host.set_ready(self.ui.exportButton, review_queue.what_export_misses(queue) or self.host.jobs.reason,
                            _("Writes the accepted samples as a data set for training."))
        missing = _("The scene is being closed.") if p is None else review_queue.what_seg_misses(p.ct, p.nodes)
        self.host.set_ready(self.ui.segExportButton, missing or self.host.jobs.reason, _(
            "Writes the lymph nodes as a DICOM segmentation of the CT; asks for the CT's DICOM folder."))

    def _export(self) -> None:
        selector, folder = self.ui.exportFormatSelector, self._queue.folder
        out = qt.QFileDialog.getExistingDirectory(
            self.ui.reviewSection, _("An empty folder for the data set"), str(folder.parent))
        if out:
            self._start(_("Export"), process.library_command(
                "review", "export", folder, "--as", selector.itemData(selector.currentIndex), "--out", out), out)

    def _export_seg(self) -> None:
        p = self.host.parameters
        new = [i for i, in_ct in nodes_in_ct.are_in_ct(p.nodes, p.ct).items() if not in_ct]
        if new and not slicer.util.confirmYesNoDisplay(
                _("Nodes that are new or changed, so not in this CT (table under Nodes): {count}. A DICOM "
                  "segmentation says that they are there. Write it?").format(count=len(new)), windowTitle="LNSynth"):
            return
        dicom = qt.QFileDialog.getExistingDirectory(
            self.ui.reviewSection, _("The DICOM folder of {name}").format(name=p.ct.GetName()),
            self._dicom_folder(p.ct))
        out = dicom and qt.QFileDialog.getSaveFileName(
            self.ui.reviewSection, _("DICOM segmentation"), str(Path(dicom).parent / "nodes-seg.dcm"), "DICOM (*.dcm)")
        if not out:
            return
        out = out if out.endswith(".dcm") else f"{out}.dcm"
        mask = self.host.temporary_folder() / "nodes.nii"
        try:
            segments.write_mask(p.nodes, p.ct, mask)
        except LNSynthError as error:
            self.host.show_error(str(error))
            return
        self._start(_("DICOM segmentation"), process.library_command(
            "nodes", "--nodes", mask, "--ct", dicom, "--out", out), out)

    def _start(self, title: str, command: list, place: str) -> None:
        def written(result) -> None:
            self.said = _("Written to {place}.").format(place=result.get("folder", place))

        self.said = ""
        try:
            self.host.jobs.start(title, command, on_result=written)
        except LNSynthError as error:
            self.host.show_error(str(error))

    @staticmethod
    def _dicom_folder(ct) -> str:
        """Where Slicer's DICOM database has the CT's files: the dialog's first guess."""
        first = (ct.GetAttribute("DICOM.instanceUIDs") or "").split(" ")[0]
        database = slicer.app.dicomDatabase() if first else None
        file = database.fileForInstance(first) if database is not None and database.isOpen else ""
        return str(Path(file).parent) if file else ""
