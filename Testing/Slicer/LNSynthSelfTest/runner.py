"""Runs the steps one after the other and prints how each ended."""

import tempfile
import time
import traceback
from pathlib import Path

import slicer

from . import application, steps


class Stage:
    """What the steps share: a folder for their files, and the errors that the module would have shown in a dialog."""

    def __init__(self, folder: Path):
        self.folder, self.shown, self.known = folder, [], {}

    @property
    def widget(self):
        widget = application.host()
        widget.show_error = self.shown.append  # a dialog would wait for a person
        return widget


def run() -> list[str]:
    """Runs every step, prints PASS or FAIL and the time of each; returns the names of those that failed."""
    failed = []
    with tempfile.TemporaryDirectory(prefix="LNSynthSelfTest-") as folder:
        stage = Stage(Path(folder))
        application.large_window()
        for step in steps.STEPS:
            started, name = time.monotonic(), step.__name__
            stage.shown.clear()
            logged = application.log_length()
            try:
                words = step(stage) or ""
                application.settle()
                assert not stage.shown, f"the module showed an error: {stage.shown}"
                errors = application.errors_logged(logged)
                assert not errors, f"an error was logged: {errors[0]}"
                ended = "PASS"
            except Exception:
                ended, words = "FAIL", "\n" + traceback.format_exc()
                failed.append(name)
                application.picture_of_window(f"failed-{name}")
                _make_free(stage)
            print(f"{ended} {name} ({time.monotonic() - started:.1f} s) {words}", flush=True)
        slicer.mrmlScene.Clear(0)
        application.settle()
    print(f"{len(steps.STEPS) - len(failed)} of {len(steps.STEPS)} steps passed", flush=True)
    return failed


def _make_free(stage) -> None:
    """A job that a failed step left behind must not fail the next one as well."""
    jobs = stage.widget.jobs
    if jobs.busy:
        jobs.kill()
        end = time.monotonic() + 20
        while jobs.busy and time.monotonic() < end:
            application.settle(0.1)
