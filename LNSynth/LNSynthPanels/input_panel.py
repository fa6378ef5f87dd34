"""The input: CT and node segmentation, what there is to say about them, and the sample phantom."""

import html
import shutil

from LNSynthLogic import inputs, volumes
from LNSynthLogic.jobs import environment
from slicer.i18n import tr as _

from LNSynthLib.runtime.errors import LNSynthError

WARNING = "#e0443e"  # a red that reads on light and dark


class InputPanel:
    def __init__(self, host):
        self.host, self.ui = host, host.ui
        self._checked = None      # (state of the CT, its checks)
        self._shown = ""          # id of the CT whose window was seen to
        self._seen = inputs.UNSEEN
        self.ui.samplePhantomButton.connect("clicked()", self.make_phantom)
        self.refresh()

    def refresh(self):
        parameters = self.host.parameters
        ct = parameters.ct if parameters else None
        if parameters is None:
            self._seen, self._checked = inputs.UNSEEN, None
            self.ui.inputChecksLabel.text = ""
        else:
            self._seen = inputs.follow_nodes(parameters, self._seen)
            if ct is not None and ct.GetID() != self._shown:
                self._shown = ct.GetID()
                inputs.show_soft_tissue(ct)
            self._show_checks(ct, parameters.nodes)
        self.ui.inputStatus.text = inputs.missing(ct)
        self.ui.nodesInCTCheckBox.enabled = bool(parameters and parameters.ct and parameters.nodes)
        missing = self.host.jobs.reason or environment.current().missing_words("synthesis")
        self.host.set_ready(self.ui.samplePhantomButton, missing,
                            _("Draws a CT with organs and lymph nodes. It is made up, and needs no download."))

    def enter(self):
        """With a CT in the scene nobody needs to choose it."""
        parameters = self.host.parameters
        if parameters is not None and parameters.ct is None and (ct := inputs.first_ct(self.host.scene)) is not None:
            parameters.ct = ct

    def close(self):
        self.ui.samplePhantomButton.disconnect("clicked()", self.make_phantom)

    def make_phantom(self):
        """Draws the sample phantom in a job, then chooses it."""
        if self.host.parameters is None:
            return
        try:
            folder = self.host.temporary_folder()
            self.host.jobs.start(_("Sample phantom"), inputs.phantom_command(folder, self.host.parameters.seed),
                                 on_result=lambda _result: self._show_phantom(folder),
                                 cleanup=lambda: shutil.rmtree(folder, ignore_errors=True))
        except LNSynthError as error:
            self.host.show_error(str(error))

    def _show_phantom(self, folder):
        ct, nodes, anatomy = inputs.load_phantom(self.host.scene, folder)
        parameters = self.host.parameters
        if parameters is None:
            return
        parameters.ct, parameters.nodes, parameters.anatomy = ct, nodes, anatomy
        self.host.show_volume(ct)

    def _show_checks(self, ct, nodes):
        if ct is None:
            self.ui.inputChecksLabel.text = ""
            return
        state = volumes.state_of(ct)
        if self._checked is None or self._checked[0] != state:
            self._checked = (state, inputs.checks(ct))
        found = self._checked[1] + (inputs.node_checks(nodes, ct) if nodes is not None else [])
        lines = ["&#10003; " + html.escape(check.text) if check.ok else
                 f'<span style="color: {WARNING}">&#9888; ' + html.escape(check.text) + "</span>" for check in found]
        self.ui.inputChecksLabel.text = "<br>".join(lines)
