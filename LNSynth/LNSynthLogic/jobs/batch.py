"""A folder of CTs through anatomy, synthesis or segmentation, one job after the other; a CT that fails stops no other.

Results lie in the output folder: NAME/anatomy.nii.gz, NAME/nodes-SEED.nii.gz, NAME/segmentation.nii.gz, the samples of
all CTs together in samples/, where Review shows them, and batch.csv. Run again, it goes on with what is missing or was
made with other settings or from other files; what lies in such a one's place is kept beside it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.events import Event
from LNSynthLib.runtime.files import write_text
from LNSynthLib.runtime.tables import csv_text

from ..words import _
from . import batch_record, commands, process
from .process import Job, State

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
ANATOMY = "_anatomy"     # NAME_anatomy.nii.gz beside NAME.nii.gz: its labels are taken, TotalSegmentator is not run
NODES_ADDED = 5          # to each CT: the median of real patients with abdominal nodes
SUMMARY = "batch.csv"
SAMPLES = "samples"      # folder of the samples of all CTs; so no CT is called that
COLUMNS = ("name", "state", "seconds", "error")


@dataclass(frozen=True)
class Step:
    arguments: tuple[str, ...]
    output: Path | None = None  # not run where this is there, made so (`batch_record`); None: the command knows


@dataclass(frozen=True)
class BatchItem:
    name: str
    steps: tuple[Step, ...]
    totalsegmentator: bool = False  # whether a step runs it


@dataclass(frozen=True)
class Row:
    """How one item ended; seconds 0 and state "unchanged" where all of its results were there."""

    name: str
    state: str       # "done", "unchanged", "failed", "cancelled"
    seconds: float = 0.0
    error: str = ""


def plan(input_folder: str | Path, output_folder: str | Path, work: str, parameters) -> list[BatchItem]:
    """What is to be done for each CT of a folder, its subfolders among them.

    work        "anatomy", "synthesis" (anatomy, then NODES_ADDED new nodes, then `parameters.variants` samples) or
                "segmentation"
    parameters  the module's: device, anatomyFast, segmenter, and those of the synthesis

    Raises LNSynthError where the folder holds no CT.
    """
    folder, out = Path(input_folder), Path(output_folder)
    found = find_cts(folder)
    if not found:
        raise LNSynthError(_("{folder}: there is no CT here; give a folder with NIfTI, NRRD or MHA files, or with "
                             "folders of DICOM series.").format(folder=folder))
    make = {"anatomy": _anatomy, "synthesis": _synthesis, "segmentation": _segmentation}[work]
    return [make(name, path, out, parameters) for name, path in found.items()]


def find_cts(folder: Path) -> dict[str, Path]:
    """{name: file, or folder of a DICOM series} in the order of names; labels that lie beside a CT are none."""
    files, series = [], []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in names if not name.startswith("."))
        images = [name for name in names if name.lower().endswith(ENDINGS)]
        files += [Path(place, name) for name in images if not _stem(name).endswith(ANATOMY)]
        rest = [name for name in names if name not in images]
        if rest and not images and _is_dicom(Path(place), rest):
            series.append(Path(place))
    found: dict[str, Path] = {}
    taken = {SAMPLES}  # without regard to case, as file systems may be
    for path in sorted(files + series):
        whole = path.relative_to(folder)
        short = commands.sample_prefix("_".join(whole.with_name(_stem(path.name) if path in files else path.name).parts)
                                       if whole.parts else folder.resolve().name)
        name, number = short, 2
        while name.casefold() in taken:
            name, number = f"{short}-{number}", number + 1
        taken.add(name.casefold())
        found[name] = path
    return found


def _stem(name: str) -> str:
    ending = max((e for e in ENDINGS if name.lower().endswith(e)), key=len, default="")
    return name[:len(name) - len(ending)]


def _is_dicom(folder: Path, names: list[str]) -> bool:
    """Whether one of the first files begins as DICOM files do (128 bytes, then DICM)."""
    for name in names[:5]:
        try:
            with open(folder / name, "rb") as stream:
                if stream.read(132)[128:] == b"DICM":
                    return True
        except OSError:
            continue
    return False


def _labels_beside(ct: Path) -> Path | None:
    base = _stem(ct.name) if ct.is_file() else ct.name
    beside = (ct.with_name(f"{base}{ANATOMY}{ending}") for ending in ENDINGS)
    return next((path for path in beside if path.is_file()), None)


def _anatomy(name: str, ct: Path, out: Path, p) -> BatchItem:
    labels, target = _labels_beside(ct), out / name / "anatomy.nii.gz"
    if labels is not None:
        command = process.library_command("anatomy", "--ct", ct, "--labels", labels, "--out", target)
    else:
        command = commands.anatomy(ct, target, p.anatomyFast, p.device)
    return BatchItem(name, (Step(tuple(command), target),), labels is None)


def _synthesis(name: str, ct: Path, out: Path, p) -> BatchItem:
    before, folder = _anatomy(name, ct, out, p), out / name
    nodes = folder / f"nodes-{p.seed}.nii.gz"
    seed = (p.seed + crc32(name.encode())) % 2**31  # so that no two CTs get the same draws
    add = commands.add_nodes(ct, folder / "anatomy.nii.gz", nodes, NODES_ADDED, seed)
    make = commands.variants(_Here(p, samplesFolder=str(out / SAMPLES)),
                             commands.Exported(ct, nodes, anatomy=folder / "anatomy.nii.gz"), name)
    return replace(before, steps=(*before.steps, Step(tuple(add), nodes), Step(tuple(make))))


def _segmentation(name: str, ct: Path, out: Path, p) -> BatchItem:
    target = out / name / "segmentation.nii.gz"
    return BatchItem(name, (Step(tuple(commands.segment(p.segmenter, ct, target, p.device)), target),))


class _Here:
    """The parameters, some of them changed for this run alone."""

    def __init__(self, parameters, **changes):
        self._parameters = parameters
        self.__dict__.update(changes)

    def __getattr__(self, name):
        return getattr(self._parameters, name)


class Run:
    """Items one after the other, each step a Job. It is started, polled, cancelled and killed as a Job is."""

    def __init__(self, items: Iterable[BatchItem], summary: Path | None = None, *,
                 on_event: Callable[[Event], None] | None = None, on_log: Callable[[str], None] | None = None,
                 on_end: Callable[[Run], None] | None = None, environment: Mapping[str, str] | None = None):
        self.items = list(items)
        self.rows: list[Row] = []
        self.state, self.error, self.result = State.WAITING, "", None
        self._summary, self._environment = summary, environment
        self._on_event, self._on_log, self._on_end = on_event, on_log, on_end
        self._job: Job | None = None
        self._steps: list[Step] = []
        self._began, self._ran = 0.0, False

    @property
    def ended(self) -> bool:
        return self.state in (State.DONE, State.FAILED, State.CANCELLED)

    def start(self) -> None:
        self.state = State.RUNNING
        self._begin_item()

    def poll(self) -> None:
        if self.ended or self.state is State.WAITING:
            return
        if self._job is not None:
            self._job.poll()
            if not self._job.ended:
                return
            job, self._job = self._job, None
            if job.state is not State.DONE:
                stopped = job.state is State.CANCELLED
                self._end_item("cancelled" if stopped else "failed", job.error)
                if stopped:
                    self._end(State.CANCELLED)
                    return
            elif self.state is State.CANCELLING:  # it had ended well before it could be stopped
                self._end(State.CANCELLED)
                return
        self._next()

    def cancel(self) -> None:
        """Stops the job that runs; the results so far stay."""
        if self.state is State.WAITING or (self._job is None and not self.ended):
            self._end(State.CANCELLED)
        elif not self.ended:
            self.state = State.CANCELLING
            self._job.cancel()

    def kill(self) -> None:
        if not self.ended and self.state is not State.WAITING:
            if self._job is not None:
                self._job.kill()
            self._end(State.CANCELLED)

    def words(self) -> str:
        """How it went, for people: counts, then what failed and why."""
        states = [row.state for row in self.rows]
        counts = [(_("{n} done"), "done"), (_("{n} were there already"), "unchanged"), (_("{n} failed"), "failed"),
                  (_("{n} cancelled"), "cancelled")]
        text = ", ".join(words.format(n=states.count(state)) for words, state in counts if state in states)
        left = len(self.items) - len(self.rows)
        text += _(", {n} not begun").format(n=left) if left else ""
        failed = [f"{row.name}: {row.error.partition(chr(10))[0]}" for row in self.rows if row.state == "failed"]
        return "\n".join([text + ".", *failed])

    def _begin_item(self) -> None:
        self._began, self._ran = time.monotonic(), False
        if len(self.rows) < len(self.items):
            self._steps = list(self.items[len(self.rows)].steps)

    def _next(self) -> None:
        """Starts the next step that has something to do; the end of an item or of all where there is none."""
        if len(self.rows) == len(self.items):
            self._end(State.DONE)
            return
        while self._steps:
            step = self._steps.pop(0)
            if step.output is not None:
                try:
                    if batch_record.is_current(step.arguments, step.output):
                        continue
                    kept = batch_record.prepare(step.arguments, step.output)
                except (OSError, LNSynthError) as error:
                    self._end_item("failed", _("{file} cannot be replaced ({reason}); close it in other programs, or "
                                               "choose another folder.")
                                   .format(file=step.output, reason=getattr(error, "strerror", error)))
                    return
                if kept is not None:
                    self._tell(_("{file} was made with other settings or inputs; it is remade, and the old one is "
                                 "kept as {kept}.").format(file=step.output, kept=kept.name))
            self._ran = True
            self._job = Job(step.arguments, on_event=self._event, on_log=self._on_log,
                            environment=self._environment)
            self._job.start()
            return
        self._end_item("done" if self._ran else "unchanged")

    def _end_item(self, state: str, error: str = "") -> None:
        item = self.items[len(self.rows)]
        self.rows.append(Row(item.name, state, time.monotonic() - self._began if self._ran else 0.0, error))
        self._tell(f"{len(self.rows)}/{len(self.items)} {item.name}: {state}" + (f" ({error})" if error else ""))
        self._write()
        self._begin_item()

    def _event(self, event: Event) -> None:
        """A step's report under its item's name; the time left is that of all items."""
        if self._on_event is None or event.error or (event.result is not None and event.stage != "sample"):
            return
        place = f"{len(self.rows) + 1}/{len(self.items)} {self.items[len(self.rows)].name}, {event.stage}"
        times = [row.seconds for row in self.rows if row.state == "done"]
        eta = None
        if times:
            mean = sum(times) / len(times)
            eta = mean * (len(self.items) - len(self.rows) - 1) + max(0.0, mean - (time.monotonic() - self._began))
        elif len(self.items) == 1:
            eta = event.eta_s
        self._on_event(replace(event, stage=place, eta_s=eta, result=None))

    def _tell(self, text: str) -> None:
        if self._on_log:
            self._on_log(text)

    def _write(self) -> None:
        """The summary so far, so that it is there whatever happens next."""
        if self._summary is None:
            return
        rows = ((row.name, row.state, f"{row.seconds:.1f}", row.error) for row in self.rows)
        try:
            write_text(self._summary, csv_text(COLUMNS, (dict(zip(COLUMNS, row, strict=True)) for row in rows)))
        except (OSError, LNSynthError) as error:
            self._tell(_("{file} cannot be written ({reason}).").format(
                file=self._summary, reason=getattr(error, "strerror", error)))

    def _end(self, state: State) -> None:
        """Done also where some failed: `words` tells which. Failed where all did."""
        failed = [row for row in self.rows if row.state == "failed"]
        if state is State.DONE and failed and len(failed) == len(self.items):
            state = State.FAILED
        self.error = self.words() if failed else ""
        self.result = {"rows": [row.__dict__ for row in self.rows], "words": self.words()}
        self.state = state
        if self._on_end:
            self._on_end(self)
