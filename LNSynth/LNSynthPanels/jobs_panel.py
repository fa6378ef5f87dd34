"""The job that runs: its progress, time left and log, its Cancel button, and the question before Slicer closes."""

import logging

import qt
import slicer
from LNSynthLogic.jobs import process
from slicer.i18n import tr as _

from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.events import duration

POLL_MS = 100
LOG_LINES = 2000  # that the log keeps; older ones go


class JobsPanel:
    """Runs one job at a time. `busy` and `reason` are for the other panels' buttons."""

    def __init__(self, host):
        self.host = host
        self.title = ""
        self._runner = self._callbacks = None
        self._names = str
        self._polling = False
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)
        self._closing = None
        host.ui.jobLog.setMaximumBlockCount(LOG_LINES)
        host.ui.cancelButton.connect("clicked()", self.cancel)
        host.ui.jobLabel.text = _("No job is running.")
        slicer.app.connect("aboutToQuit()", self.kill)
        self._watch_window()
        self._show_idle()

    @property
    def busy(self) -> bool:
        return self._runner is not None

    @property
    def reason(self) -> str:
        """Why no other job can start now; empty when one can."""
        if not self.busy:
            return ""
        return _("{title} is running: wait for it, or cancel it.").format(title=self.title)

    def runs(self, runner) -> bool:
        """Whether this job (as `start` returned it) is the one that runs."""
        return runner is not None and runner is self._runner

    def start(self, title: str, arguments, on_result=None, on_sample=None, on_end=None, cleanup=None, on_event=None,
              names=str):
        """Runs a command (`jobs.library_command(...)`) and returns its Job. LNSynthError while another one runs.

        on_result(result)  when it has ended well
        on_sample(result)  as each sample is finished, while it goes on
        on_end(job)        when it has ended, however it did
        cleanup()          last of all
        on_event(Event)    everything it tells
        names(text)        its messages and its error as people read them (`display_names.Names`)
        """
        return self.run(title, lambda **told: process.Job(arguments, **told), on_result, on_sample, on_end, cleanup,
                        on_event, names)

    def run(self, title: str, make, on_result=None, on_sample=None, on_end=None, cleanup=None, on_event=None,
            names=str):
        """As `start`, for what `make(on_event=, on_log=, on_end=, environment=)` returns: a Job or a batch.Run."""
        if self.busy:
            if cleanup:
                cleanup()
            raise LNSynthError(self.reason)
        self.title, self._names = title, names
        self._callbacks = (on_result, on_sample, on_end, cleanup, on_event)
        self._runner = make(on_event=self._event, on_log=self._log, on_end=self._ended,
                            environment=slicer.util.startupEnvironment())
        self._log(f"--- {title}")
        self._count(0, 0)
        self.host.ui.jobLabel.text = title
        self.host.ui.cancelButton.enabled = True
        self.host.ui.cancelButton.toolTip = _("Stop the job. Finished results stay; click again to stop at once.")
        runner = self._runner
        runner.start()
        self._timer.start()
        self.host.refresh()
        return runner

    def cancel(self) -> None:
        if self.busy:
            self._runner.cancel()
            self.host.ui.jobLabel.text = _("{title}: stopping ...").format(title=self.title)

    def kill(self) -> None:
        """Ends the job and all that it started, now."""
        if self.busy:
            self._runner.kill()

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        self.kill()
        self._timer.stop()
        slicer.app.disconnect("aboutToQuit()", self.kill)
        if self._closing is not None and slicer.util.mainWindow() is not None:
            slicer.util.mainWindow().removeEventFilter(self._closing)

    def _poll(self) -> None:
        if self._runner is None or self._polling:  # the timer goes on while a result shows an error in a dialog
            return
        self._polling = True
        try:
            self._runner.poll()
        finally:
            self._polling = False

    def _event(self, event) -> None:
        if self._callbacks is None:  # it was ended from a dialog that one of its results had opened
            return
        _on_result, on_sample, _on_end, _cleanup, on_event = self._callbacks
        if on_event:
            self._shielded(on_event, event)
        message = self._names(event.message)
        if message:
            self._log(f"{event.stage}: {message}")
        if event.stage == "sample" and event.result is not None:
            if on_sample:
                self._shielded(on_sample, event.result)
            return
        if event.error or event.result is not None or self._runner.state is process.State.CANCELLING:
            return
        self._count(event.done, event.total)
        count = f" {event.done}/{event.total}" if event.total else ""
        left = _(", {time} left").format(time=duration(event.eta_s)) if event.eta_s and event.done < event.total else ""
        words = f" - {message}" if message else ""
        self.host.ui.jobLabel.text = f"{self.title}: {event.stage}{count}{left}{words}"

    def _count(self, done: int, total: int) -> None:
        """The bar; one that only moves where the total is not known."""
        bar = self.host.ui.jobProgress
        bar.setRange(0, total)
        bar.setValue(done)
        bar.visible = True

    def _log(self, text: str) -> None:
        self.host.ui.jobLog.appendPlainText(text)

    def _ended(self, runner) -> None:
        """Shows how it ended, frees the panel, then tells who started it: they may start the next one."""
        on_result, _on_sample, on_end, cleanup, _on_event = self._callbacks
        self._timer.stop()
        self._runner = self._callbacks = None
        runner.error = self._names(runner.error)
        words = {process.State.DONE: _("{title}: done."), process.State.CANCELLED: _("{title}: cancelled."),
                 process.State.FAILED: _("{title}: failed.")}[runner.state].format(title=self.title)
        self._log(words if not runner.error else f"{words}\n{runner.error}")
        self._show_idle()
        self.host.ui.jobLabel.text = words
        try:
            if runner.state is process.State.DONE and on_result:
                self._shielded(on_result, runner.result)
            if on_end:
                self._shielded(on_end, runner)
        finally:
            if cleanup:
                cleanup()
        if runner.state is process.State.FAILED:
            self.host.show_error(f"{words}\n\n{runner.error}")
        elif not self.busy:
            self.host.say(words)
        self.host.refresh()

    def _shielded(self, callback, argument) -> None:
        """A result that cannot be shown is an error for people; it must not stop the timer or the next sample."""
        try:
            callback(argument)
        except LNSynthError as error:
            self.host.show_error(str(error))
        except Exception as error:
            logging.exception("A result of %s cannot be shown", self.title)
            self.host.show_error(f"{type(error).__name__}: {error}")

    def _show_idle(self) -> None:
        bar = self.host.ui.jobProgress
        bar.setRange(0, 1)
        bar.setValue(0)
        bar.visible = False
        self.host.ui.cancelButton.enabled = False
        self.host.ui.cancelButton.toolTip = _("No job is running.")

    def _watch_window(self) -> None:
        window = slicer.util.mainWindow()
        if window is not None:  # there is none with --no-main-window
            self._closing = _Closing(self)
            window.installEventFilter(self._closing)


class _Closing(qt.QObject):
    """Asks before the main window closes while a job runs. It only asks: Slicer may ask about unsaved data next, and
    stay open. The job is ended when the application quits."""

    def __init__(self, panel):
        qt.QObject.__init__(self)
        self.panel, self.agreed = panel, False

    def eventFilter(self, watched, event):
        if event.type() != qt.QEvent.Close or not self.panel.busy or self.agreed:
            return False
        if slicer.util.confirmYesNoDisplay(
                _("{title} is still running. Stop it and close Slicer?").format(title=self.panel.title),
                windowTitle="LNSynth"):
            self.agreed = True  # until this close is over: on macOS its event can come twice (QTBUG-43344)
            qt.QTimer.singleShot(0, self.forget)
            return False
        event.ignore()
        return True

    def forget(self):
        """The next close asks again; this one is not over while Slicer asks about unsaved data."""
        if qt.QApplication.activeModalWidget() is not None:
            qt.QTimer.singleShot(POLL_MS, self.forget)
        else:
            self.agreed = False
