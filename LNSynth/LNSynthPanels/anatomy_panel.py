"""The organs: from TotalSegmentator in a job, from a labelmap, or a segmentation that exists."""

import shutil

from LNSynthLogic import anatomy
from LNSynthLogic.jobs import commands, environment
from slicer.i18n import tr as _

from LNSynthLib.runtime.errors import LNSynthError


class AnatomyPanel:
    def __init__(self, host):
        self.host, self.ui = host, host.ui
        self._said = ""
        self.ui.anatomyButton.connect("clicked()", self.run)
        self.ui.importLabelmapButton.connect("clicked()", self.import_labelmap)
        self.ui.labelmapSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._labelmap_chosen)
        self.refresh()

    def refresh(self):
        parameters, labelmap = self.host.parameters, self.ui.labelmapSelector.currentNode()
        no_ct = "" if parameters and parameters.ct else _("Choose a CT first (section Input).")
        missing = self.host.jobs.reason or commands.what_is_missing("anatomy", parameters, environment.current())
        self.host.set_ready(self.ui.anatomyButton, missing, _(
            "Finds the organs with TotalSegmentator: minutes with a graphics card, longer without; fast is coarser."))
        self.host.set_ready(self.ui.importLabelmapButton,
                            no_ct or ("" if labelmap is not None else _("Choose a labelmap first.")), _(
                                "Takes a labelmap with TotalSegmentator's numbers (version 2) as the organs."))
        self.ui.anatomyStatus.text = self._status(no_ct, parameters.anatomy) if parameters else ""

    def close(self):
        self.ui.anatomyButton.disconnect("clicked()", self.run)
        self.ui.importLabelmapButton.disconnect("clicked()", self.import_labelmap)
        self.ui.labelmapSelector.disconnect("currentNodeChanged(vtkMRMLNode*)", self._labelmap_chosen)

    def run(self):
        """TotalSegmentator on the chosen CT, in a job."""
        parameters = self.host.parameters
        if parameters is None or parameters.ct is None:
            return
        ct, title = parameters.ct, _("Anatomy of {name}").format(name=parameters.ct.GetName())
        try:
            path, folder = self.host.export_ct(), self.host.temporary_folder()
            out = folder / "anatomy.nii"
            self.host.jobs.start(title, commands.anatomy(path, out, parameters.anatomyFast, parameters.device),
                                 on_result=lambda _result: self._show_result(ct, out, title),
                                 cleanup=lambda: shutil.rmtree(folder, ignore_errors=True))
        except LNSynthError as error:
            self.host.show_error(str(error))

    def import_labelmap(self):
        parameters, labelmap = self.host.parameters, self.ui.labelmapSelector.currentNode()
        if parameters is None or parameters.ct is None or labelmap is None:
            return
        try:
            self._choose(anatomy.from_labelmap(self.host.scene, labelmap, parameters.ct))
        except LNSynthError as error:
            self.host.show_error(str(error))

    def _labelmap_chosen(self, _node):
        self.refresh()

    def _show_result(self, ct, path, name):
        if ct.GetScene() is None:  # the CT was deleted while the job ran
            return
        node = anatomy.load(self.host.scene, ct, path, name)
        if self.host.parameters is not None and self.host.parameters.ct == ct:
            self._choose(node)

    def _choose(self, node):
        self.host.parameters.anatomy = node
        self.host.refresh()

    def _status(self, no_ct, node):
        """What is missing, or what the chosen segmentation has, lacks, and has beside."""
        missing = no_ct or anatomy.missing_for_conditions(node)
        if missing:
            return missing
        said = [_("{count} structures.").format(count=len(anatomy.structure_ids(node)))]
        absent, unknown = anatomy.absent(node), anatomy.unknown(node)
        if absent:
            said.append(_("Not in it: {names}.").format(names=", ".join(absent)))
        if unknown:
            said.append(_("Ignored, because TotalSegmentator has no such structure: {names}.").format(
                names=", ".join(unknown)))
        return " ".join(said)
