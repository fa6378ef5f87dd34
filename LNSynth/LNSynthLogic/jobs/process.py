"""Runs one command as a child process with all its descendants: progress, log, result, cancel, and nothing left behind.

The child writes its output into files, and `poll()` reads what is new in them: no pipe can fill up and stall the child,
and no reader thread has to get Python's lock, which Slicer keeps while its event loop waits.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path

from LNSynthLib.runtime import temporary
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.events import Event

from ..words import _

PATIENCE_S = 5.0         # from asking a cancelled tree to end until it is killed
LEFTOVERS_S = 1.0        # that descendants may outlive the command
CHUNK = 4 << 20          # bytes of output that one poll reads at most
LAST_LINES = 30          # of the log, kept for the error of a crash
CANCELLED_CODE = 130     # exit code of the library's verbs when they were stopped
ON_WINDOWS = os.name == "nt"


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


def interpreter() -> str:
    """Slicer's Python program, or outside Slicer the running one. LNSynthError where neither is to be found.

    Slicer's own executable must never stand in for it: it would open another Slicer.
    """
    beside = Path(sys.executable).parent / ("PythonSlicer.exe" if ON_WINDOWS else "PythonSlicer")
    found = shutil.which("PythonSlicer") or (str(beside) if beside.is_file() else None)
    if found is None and "python" in Path(sys.executable).name.lower():
        found = sys.executable
    if found is None:
        raise LNSynthError(_("PythonSlicer was not found beside {program}; install Slicer again.").format(
            program=sys.executable))
    return found


def library_command(verb: str, *arguments: object) -> list[str]:
    """The command that runs a verb of the library with its progress as JSON lines."""
    return [interpreter(), "-m", "LNSynthLib", verb, *map(str, arguments), "--events", "json"]


def _child_environment(base: Mapping[str, str], folder: str) -> dict[str, str]:
    """`base` with the library to be found, temporary files in the job's folder, and output that comes at once."""
    import LNSynthLib

    library = str(Path(LNSynthLib.__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [library, base.get("PYTHONPATH", "")]))
    return {**base, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1",
            "LNSYNTH_PARENT_PID": str(os.getpid()), "TMPDIR": folder, "TEMP": folder, "TMP": folder}


class Job:
    """One command. `start()` it, then call `poll()` from a timer until `ended`; callbacks come from `poll()` alone.

    on_event(Event)  each report, but of several counts that came between two polls only the last
    on_log(str)      new lines of other output, together; a progress bar's line only when it is complete
    on_end(Job)      once, when neither the command nor a descendant runs any longer and its folder is gone
    """

    def __init__(self, arguments: Sequence[object], *, on_event: Callable[[Event], None] | None = None,
                 on_log: Callable[[str], None] | None = None, on_end: Callable[[Job], None] | None = None,
                 environment: Mapping[str, str] | None = None):
        self.arguments = [str(argument) for argument in arguments]
        self.state = State.WAITING
        self.code: int | None = None    # exit code as it is: negative = the signal that ended it
        self.error = ""                 # one sentence, or the last lines of a crash
        self.result = None              # of the last event that had one, samples apart
        self.eta_s: float | None = None
        self.folder: Path | None = None  # temporary, for the command alone
        self._on_event, self._on_log, self._on_end = on_event, on_log, on_end
        self._environment = environment
        self._process: subprocess.Popen | None = None
        self._deadline = 0.0
        self._killed = self._left = False
        self._last = deque(maxlen=LAST_LINES)

    @property
    def ended(self) -> bool:
        return self.state in (State.DONE, State.FAILED, State.CANCELLED)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the command; one that cannot be started ends as failed at the next poll."""
        temporary.sweep_once(Path(tempfile.gettempdir()))  # what an application that crashed left
        self._temporary = tempfile.TemporaryDirectory(prefix=f".lnsynth{temporary.mark()}.", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        out, log = self.folder / "stdout", self.folder / "stderr"
        if ON_WINDOWS:
            own = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        else:
            own = {"start_new_session": True}
        base = os.environ if self._environment is None else self._environment
        self.state = State.RUNNING
        with open(out, "wb") as stdout, open(log, "wb") as stderr:
            try:
                self._process = subprocess.Popen(
                    self.arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=self.folder,
                    env=_child_environment(base, str(self.folder)), **own)
            except OSError as error:
                self.error = _("{program} cannot be started ({reason}).").format(
                    program=self.arguments[0], reason=error.strerror or error)
        self._out, self._log = _Lines(out), _Lines(log)

    def poll(self) -> None:
        """Delivers what has come since the last call, and sees to the end. Never waits."""
        if self.state not in (State.RUNNING, State.CANCELLING):
            return
        if self._process is None:
            self._finish(None)
            return
        code = self._process.poll()  # before reading: all that the command wrote is there by then
        self._deliver(self._out.new(CHUNK), self._log.new(CHUNK))
        if self.ended:  # killed by one of the callbacks
            return
        now = time.monotonic()
        if code is None:
            if self.state is State.CANCELLING and not self._killed and now > self._deadline:
                self._kill()
        elif not self._descendants():
            self._finish(code)
        elif not self._left:  # a launcher that was killed leaves its child at work
            self._left = True
            if self.state is State.RUNNING:  # one that cleans up after being asked is not disturbed again
                self._ask()
            self._deadline = max(self._deadline, now + LEFTOVERS_S)
        elif now > self._deadline + LEFTOVERS_S:
            self._finish(code)  # dead ones that their new parent has not buried still count as there
        elif now > self._deadline and not self._killed:
            self._kill()

    def cancel(self) -> None:
        """Asks the whole tree to end and kills it some seconds later, from `poll()`; a second call kills at once."""
        if self.state is State.WAITING:
            self._end(State.CANCELLED)
        elif self.state is State.RUNNING:
            self.state = State.CANCELLING
            self._deadline = time.monotonic() + PATIENCE_S
            self._ask()
        elif self.state is State.CANCELLING:
            self._kill()

    def kill(self) -> None:
        """Ends everything now and waits for it, a second or two: for a program that is about to close."""
        if self.state not in (State.RUNNING, State.CANCELLING):
            return
        self.state = State.CANCELLING
        self._kill()
        if self._process is not None:
            try:
                self.code = self._process.wait(2)
            except subprocess.TimeoutExpired:
                pass
        self._end(State.CANCELLED)

    def _deliver(self, out: list[str], log: list[str]) -> None:
        """Hands on lines of stdout and stderr: events, and everything else as log."""
        waiting: Event | None = None
        for line in out:
            event = Event.from_json(line) if line.startswith("{") else None
            if event is None:
                log.append(line)
                continue
            self._note(event)
            told = bool(event.message or event.error or event.result is not None)
            if waiting is not None and (told or waiting.stage != event.stage):
                self._report(waiting)
            waiting = None if told else event
            if told:
                self._report(event)
        if waiting is not None:
            self._report(waiting)
        if log:
            self._last.extend(line for line in log[-LAST_LINES:] if line.strip())
            if self._on_log:
                self._on_log("\n".join(log))

    def _note(self, event: Event) -> None:
        self.eta_s = event.eta_s
        if event.error:
            self.error = event.error
        if event.result is not None and event.stage != "sample":
            self.result = event.result

    def _report(self, event: Event) -> None:
        if self._on_event:
            self._on_event(event)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # gone; macOS says the latter of a group of dead ones
            pass

    def _ask(self) -> None:
        if ON_WINDOWS:  # a process without a window or a shared console cannot be asked
            self._kill()
        elif self._process is not None:
            self._signal(signal.SIGTERM)

    def _kill(self) -> None:
        self._killed = True
        if self._process is None:
            return
        if ON_WINDOWS:
            subprocess.Popen(["taskkill", "/PID", str(self._process.pid), "/T", "/F"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             creationflags=subprocess.CREATE_NO_WINDOW)
        else:
            self._signal(signal.SIGKILL)

    def _descendants(self) -> bool:
        """Whether anything of the command's own group is left when the command itself has ended."""
        if ON_WINDOWS:
            return False
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _finish(self, code: int | None) -> None:
        if self._process is not None:
            while (out := self._out.new(CHUNK)) + (log := self._log.new(CHUNK)):
                self._deliver(out, log)
            self._deliver(self._out.rest(), self._log.rest())
        self.code = code
        library = "--events" in self.arguments
        if code == 0 and not (library and self.result is None):
            self._end(State.DONE)
        elif self.state is State.CANCELLING or code == CANCELLED_CODE:
            self._end(State.CANCELLED)
        else:
            self.error = self.error or self._crash()
            self._end(State.FAILED)

    def _crash(self) -> str:
        """What a command that told no error left: how it ended, and the last lines of its log."""
        if self.code is not None and self.code < 0:
            try:
                name = signal.Signals(-self.code).name
            except ValueError:
                name = str(-self.code)
            how = _("The job was ended by {signal}.").format(signal=name)
            if name == "SIGKILL":
                how += " " + _("Often the memory was full: close other programs, or take a smaller model.")
        else:
            how = _("The job ended with exit code {code} and without a result.").format(code=self.code)
        return "\n".join([how, *self._last])

    def _end(self, state: State) -> None:
        self.state = state
        if self.folder is not None:
            self._temporary.cleanup()
        if self._on_end:
            self._on_end(self)


class _Lines:
    """The lines that are added to a file, as they come; of a progress bar that rewrites its line, the last state."""

    def __init__(self, path: Path):
        self._path, self._at, self._partial = path, 0, b""

    def new(self, most: int) -> list[str]:
        """Complete lines that were added since the last call, at most `most` bytes of them."""
        try:
            with open(self._path, "rb") as stream:
                stream.seek(self._at)
                added = stream.read(most)
        except OSError:
            return []
        self._at += len(added)
        *whole, partial = (self._partial + added).split(b"\n")
        self._partial = partial[partial.rfind(b"\r", 0, max(len(partial) - 1, 0)) + 1:]
        return [self._text(line) for line in whole]

    def rest(self) -> list[str]:
        """The line at the end that has no line break."""
        partial, self._partial = self._partial, b""
        return [self._text(partial)] if partial else []

    @staticmethod
    def _text(line: bytes) -> str:
        return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
