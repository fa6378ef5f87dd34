"""A folder of CTs through anatomy, synthesis or segmentation, with the settings of the panels above."""

from pathlib import Path

from LNSynthLogic.jobs import batch, commands, environment
from slicer.i18n import tr as _

from LNSynthLib.runtime.errors import LNSynthError


class BatchPanel:
    def __init__(self, host):
        self.host, self.ui = host, host.ui
        self._run, self._said = None, ""
        host.bind_choice(self.ui.batchWorkSelector, "batchWork", [
            ("synthesis", _("Anatomy, new nodes and synthesis")), ("anatomy", _("Anatomy alone")),
            ("segmentation", _("Segmentation of the nodes"))])
        self.ui.batchButton.connect("clicked()", self._clicked)
        self._text = self.ui.batchButton.text

    def refresh(self) -> None:
        ui, running = self.ui, self.host.jobs.runs(self._run)
        ui.batchButton.text = _("Cancel") if running else self._text
        missing = ""
        if not running:
            missing = self.host.jobs.reason or commands.what_is_missing("batch", self.host.parameters,
                                                                        environment.current())
        self.host.set_ready(ui.batchButton, missing,
                            _("Stop after what is finished; it goes on from there the next time.") if running else
                            _("Work through all CTs of the folder. What was made already, from the same "
                              "files and with the same settings, is not made again."))
        ui.batchStatus.text = missing or self._said

    def close(self) -> None:
        pass

    def _clicked(self) -> None:
        if self.host.jobs.runs(self._run):
            self.host.jobs.cancel()
            return
        try:
            self._start()
        except LNSynthError as error:
            self.host.show_error(str(error))

    def _start(self) -> None:
        p = self.host.parameters
        out = Path(p.batchOutput)
        items = batch.plan(p.batchInput, out, p.batchWork, p)
        if any(item.totalsegmentator for item in items):
            if missing := environment.current().missing_words("anatomy"):
                raise LNSynthError(missing)
        self._said = _("{n} CTs.").format(n=len(items))
        self._run = self.host.jobs.run(_("Batch"), lambda **told: batch.Run(items, out / batch.SUMMARY, **told),
                                       on_end=lambda run: self._ended(run, out))
        self.refresh()

    def _ended(self, run, out: Path) -> None:
        """Tells how it went; the samples of all CTs are what Review shows next."""
        p = self.host.parameters
        self._said = "\n".join([run.words(), _("The table of all CTs is {file}.").format(file=out / batch.SUMMARY)])
        samples = out / batch.SAMPLES
        if p is not None and samples.is_dir() and not p.samplesFolder:
            p.samplesFolder = str(samples)
