"""The one event stream by which long work says how far it is, in a process and across processes."""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, TextIO


@dataclass(frozen=True)
class Event:
    """One report. Across processes it is one JSON object a line, without the fields that are empty."""

    stage: str                  # what is going on: "sampling", "preparing", ...
    done: int = 0               # units finished
    total: int = 0              # units in all, 0 where unknown
    eta_s: float | None = None  # seconds left, None until it can be estimated
    message: str = ""           # one line for people
    result: Any = None          # JSON-serialisable outcome, at the end
    error: str | None = None    # one sentence, at a failure
    waited_s: float | None = None  # repeats the event before it, so many seconds later: the step is still going on

    def to_json(self) -> str:
        fields = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        return json.dumps(fields, default=str)

    @classmethod
    def from_json(cls, line: str) -> "Event | None":
        """The event that a line holds, or None where the line is ordinary output (a library's print)."""
        try:
            fields = json.loads(line)
            return cls(**fields) if isinstance(fields, dict) and "stage" in fields else None
        except (ValueError, TypeError):
            return None


Callback = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The callback of someone who does not watch."""


class Progress:
    """Counts the units of one stage and reports them with the time left.

    Reports at most ten times a second, and always the first and the last unit. A callback may raise `Cancelled`.
    """

    def __init__(self, stage: str, total: int, callback: Callback = ignore, interval_s: float = 0.1):
        self.stage, self.total, self.callback, self.interval_s = stage, total, callback, interval_s
        self.done = 0
        self._began = self._reported = time.monotonic()

    def __enter__(self) -> "Progress":
        self.callback(Event(self.stage, 0, self.total))
        return self

    def __exit__(self, *_) -> None:
        return None

    def step(self, n: int = 1, message: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if message or self.done >= self.total or now - self._reported >= self.interval_s:
            self._reported = now
            left = (now - self._began) / self.done * (self.total - self.done) if self.total and self.done else None
            self.callback(Event(self.stage, self.done, self.total, left, message))


@contextmanager
def warnings_told(callback: Callback) -> Iterator[None]:
    """Within the block, what the library warns of by `logging` comes as events of the stage "note", each sentence once.

    So a function deep down, which has no callback, warns in a way that a program without events sees as well.
    """
    said: set[str] = set()

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (text := record.getMessage()) not in said:
                said.add(text)
                callback(Event("note", message=text))

    library, teller = logging.getLogger(__package__.partition(".")[0]), Teller(logging.WARNING)
    before, library.propagate = library.propagate, False
    library.addHandler(teller)
    try:
        yield
    finally:
        library.removeHandler(teller)
        library.propagate = before


@contextmanager
def signs_of_life(callback: Callback, stage: str, every_s: float = 1.0) -> Iterator[Callback]:
    """A callback to report to within the block; while nothing is reported, the last event comes again every second.

    Such a repetition has `waited_s` and no message; before the first event it is of `stage`. `callback` is called by
    one thread at a time.
    """
    lock, over = threading.Lock(), threading.Event()
    last, since = Event(stage), time.monotonic()

    def report(event: Event) -> None:
        nonlocal last, since
        with lock:
            last, since = event, time.monotonic()
            callback(event)

    def repeat() -> None:
        while not over.wait(every_s):
            with lock:
                waited = time.monotonic() - since
                if waited >= every_s and not over.is_set():
                    try:
                        callback(replace(last, message="", waited_s=round(waited, 2)))
                    except (OSError, ValueError):  # nobody reads any more: the work's own next report will find out
                        return

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield report
    finally:
        over.set()
        thread.join()


def duration(seconds: float) -> str:
    """Seconds as people read them: "8 s", "3 min 20 s", "2 h 05 min"."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def json_lines(stream: TextIO) -> Callback:
    """Writes each event as one JSON line: what a parent process reads."""
    def report(event: Event) -> None:
        stream.write(event.to_json() + "\n")
        stream.flush()
    return report


def console(stream: TextIO | None = None) -> Callback:
    """A progress bar on a terminal; on a pipe or in a log, one line whenever a message or a stage's end comes."""
    stream = stream or sys.stderr
    live, said = stream.isatty(), ""

    def report(event: Event) -> None:
        nonlocal said
        if event.waited_s:
            if live:  # the cursor goes back, so that whatever is printed next takes this line
                stream.write(f"\r\x1b[K{said or event.stage} ({duration(event.waited_s)})"[:160] + "\r")
                stream.flush()
            return
        eta = f", {duration(event.eta_s)} left" if event.eta_s and event.done < event.total else ""
        count = f" {event.done}/{event.total}" if event.total else ""
        if live and event.total:
            filled = round(24 * min(event.done / event.total, 1))
            line = f"{event.stage:<14} [{'#' * filled}{'.' * (24 - filled)}]{count}{eta}  {event.message}"
            said = "" if event.done >= event.total else line
            stream.write("\r\x1b[K" + line[:160] + ("" if said else "\n"))
        elif event.message or (event.total and event.done >= event.total):
            stream.write("\r\x1b[K" * live + f"{event.stage}:{count}{eta} {event.message}".rstrip() + "\n")
            said = ""
        stream.flush()
    return report
