"""What the steps ask of the application: the module's widget, waiting with a live window, pictures of it."""

import os
import time
from pathlib import Path

import qt
import slicer

PICTURES = "LNSYNTH_PICTURES"  # environment variable: folder for screenshots; none are taken where it is not set
BLOCKED_S = 4.0                # the window may not stand still for longer than this while a job runs; in a debug build
#                                Slicer alone takes 2 s to make the four views of the compare layout


def host():
    """The module's widget as it is now (another one after a reload), with the module opened."""
    slicer.util.selectModule("LNSynth")
    slicer.app.processEvents()
    return slicer.util.getModuleWidget("LNSynth")


def settle(seconds: float = 0.3) -> None:
    """Lets timers run: refreshes of panels, measuring of nodes, rendering."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        slicer.app.processEvents()
        time.sleep(0.01)


def wait(until, what: str, seconds: float = 60.0) -> float:
    """Processes events until `until()` is true; returns the longest time (s) for which the window stood still.

    AssertionError with `what` when it takes longer than `seconds`.
    """
    end, longest = time.monotonic() + seconds, 0.0
    while not until():
        started = time.monotonic()
        assert started < end, f"{what}: not within {seconds:.0f} s"
        slicer.app.processEvents()
        longest = max(longest, time.monotonic() - started)
        time.sleep(0.01)
    settle()
    return longest


def run_job(widget, button, what: str, seconds: float) -> float:
    """Clicks `button`, waits for the job that it starts to end well; returns the longest standstill (s)."""
    assert button.enabled, f"{what}: {button.toolTip}"
    button.click()
    assert widget.jobs.busy, f"{what}: no job was started; {last_log(widget)}"
    longest = wait(lambda: not widget.jobs.busy, what, seconds)
    said = widget.ui.jobLabel.text
    assert "done" in said, f"{said} {last_log(widget)}"
    check_alive(longest)
    return longest


def check_alive(longest: float) -> None:
    assert longest < BLOCKED_S, f"the window stood still for {longest:.1f} s"


def last_log(widget) -> str:
    return " | ".join(widget.ui.jobLog.plainText.strip().splitlines()[-5:])


def picture_folder() -> Path | None:
    name = os.environ.get(PICTURES)
    if not name:
        return None
    Path(name).mkdir(parents=True, exist_ok=True)
    return Path(name)


def open_section(widget, name: str) -> None:
    """Unfolds one section and folds the others, as a person does who works in it."""
    for section in sections(widget):
        getattr(widget.ui, section).collapsed = section != name
    settle()


def sections(widget) -> list[str]:
    return [name for name in vars(widget.ui) if name.endswith("Section") and name not in ("jobSection", "editorSection")
            and hasattr(getattr(widget.ui, name), "collapsed")]


def picture_of_panel(widget, name: str) -> None:
    """A PNG of one section, unfolded."""
    folder = picture_folder()
    if folder is not None:
        open_section(widget, name)
        assert getattr(widget.ui, name).grab().save(str(folder / f"{name.removesuffix('Section')}.png")), name


def picture_of_window(name: str) -> None:
    """A PNG of the whole main window, views included."""
    folder = picture_folder()
    if folder is not None and slicer.util.mainWindow() is not None:
        import ctk

        slicer.util.forceRenderAllViews()
        settle()
        image = ctk.ctkWidgetsUtils.grabWidget(slicer.util.mainWindow())
        assert image.save(str(folder / f"{name}.png")), name


def errors_logged(since: int = 0) -> list[str]:
    """Descriptions of the application's log, from entry `since` on, that tell of an error in Python code.

    What the test itself prints of a failed step arrives there too, some time later.
    """
    log = slicer.app.errorLogModel()
    texts = [log.logEntryDescription(row) for row in range(since, log.logEntryCount())]
    return [text for text in texts if "Traceback (most recent call last)" in text
            and not text.lstrip().startswith("FAIL ")]


def log_length() -> int:
    return slicer.app.errorLogModel().logEntryCount()


def large_window() -> None:
    window = slicer.util.mainWindow()
    if window is not None:
        window.resize(qt.QSize(1600, 1000))
        settle()
