"""Runs the cells of an experiment: each once, whoever comes first, until all are done.

Any number of processes, on one machine or on many that share the folder, may work on one experiment. Each takes the
first cell whose inputs are done and whose lock it gets; a lock ends with its process, however that ends. A cell is done
when its `cell.json` is there; the work inside an unfinished one goes on from where it was.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from .. import __version__
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, ignore
from ..runtime.files import write_json
from ..runtime.locks import alone
from .cells import Cell, Layout, layout_of
from .data import check_apart, known
from .plan import Plan
from .work import CELL, WORK, Context, read_cell

WAIT_S = 2.0  # between looks at what others have finished


def run(plan: Plan, out: Path, root: Path, *, shard: tuple[int, int] = (0, 1), device: str = "auto",
        callback: Callback = ignore) -> dict:
    """Works on the experiment until every cell is done, here or elsewhere; returns {"folder", "made", "cells"}.

    root   the folder below which the plan's data lie
    shard  (i, n): this process is number i of n; it begins elsewhere in the list than the others, no more

    A cell that fails does not stop the others; LNSynthError then tells at the end what failed and why.
    """
    out = Path(out)
    files = known(plan, root)
    check_apart(plan, root, callback)
    whole = layout_of(plan, files)
    write_json(out / "plan.json", {"plan": asdict(plan), "files": files})  # all that a report needs besides the cells
    context = Context(plan, root, device)
    made, failed = [], {}
    with watching(whole, out, callback) as tell:
        while todo := [cell for cell in whole.cells if not is_done(cell, out)]:
            lost = _lost(todo, failed)
            ready = [cell for cell in todo if cell.key not in lost
                     and all(is_done(needed, out) for needed in cell.inputs.values())]
            first = len(ready) * shard[0] // shard[1]
            for cell in ready[first:] + ready[:first]:
                with _claim(cell, out) as mine:
                    if not mine or is_done(cell, out):
                        continue
                    try:
                        _make(cell, context, out, tell)
                        made.append(cell.name)
                    except Exception as error:
                        failed[cell.key] = f"{cell.kind} {cell.name}: {_reason(error)}"
                        tell(Event(cell.kind, message=f"failed: {failed[cell.key]}"))
                break
            else:
                if all(cell.key in lost for cell in todo):
                    break
                time.sleep(WAIT_S)
                tell(Event("waiting"))
    failed = {cell.key: failed[cell.key] for cell in todo if cell.key in failed}
    if failed:
        raise LNSynthError(f"{len(failed)} cell(s) of {out} failed and {len(todo) - len(failed)} could not be begun; "
                           f"run it again when this is mended: {next(iter(failed.values()))}")
    return {"folder": str(out), "made": made, "cells": len(whole.cells)}


def is_done(cell: Cell, out: Path) -> bool:
    """Whether the cell's result is there, with as many samples as are asked for."""
    try:
        record = read_cell(cell.folder(out))
        return record["key"] == cell.key and record["amount"] >= cell.amount
    except LNSynthError:
        return False


def result(cell: Cell, out: Path) -> dict:
    """What the cell's work returned."""
    return read_cell(cell.folder(out))["result"]


def _make(cell: Cell, context: Context, out: Path, callback: Callback) -> None:
    folder, began = cell.folder(out), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {role: needed.folder(out) for role, needed in cell.inputs.items()}
    found = WORK[cell.kind](cell, inputs, folder, context, callback)
    write_json(folder / CELL, {
        "kind": cell.kind, "name": cell.name, "key": cell.key, "amount": cell.amount, "settings": cell.settings,
        "inputs": {role: str(path.relative_to(out)) for role, path in inputs.items()},
        "seconds": round(time.monotonic() - began, 1), "lnsynth": __version__, "machine": platform.machine(),
        "result": found})


def _lost(todo: list[Cell], failed: dict[str, str]) -> set[str]:
    """Keys of what failed here, unless others have done it since, and of what waits for it."""
    lost = {cell.key for cell in todo if cell.key in failed}
    for cell in todo:  # inputs come before what needs them
        if any(needed.key in lost for needed in cell.inputs.values()):
            lost.add(cell.key)
    return lost


@contextmanager
def _claim(cell: Cell, out: Path) -> Iterator[bool]:
    """True within the block where no other process has this cell; the lock ends with this process at the latest."""
    path = out / "locks" / f"{cell.kind}-{cell.key[:12]}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(alone(path, 0))
        except TimeoutError:
            yield False
            return
        except OSError as error:
            raise LNSynthError(f"{path}: the lock cannot be made ({error.strerror}); an experiment needs a folder in "
                               "which you may write, on a file system that has locks.") from None
        yield True


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, LNSynthError) else f"{type(error).__name__}: {error}".splitlines()[0]


@contextmanager
def watching(whole: Layout, out: Path, callback: Callback) -> Iterator[Callback]:
    """A callback for the work in cells, which reports the cells done, everywhere, and the time that the rest may take.

    The estimate takes for each cell to come the mean of those of its kind, as soon as there is one.
    """
    kinds: dict[str, list[float]] = {}
    seconds, began, told = {}, time.monotonic(), [-1e9]

    def look() -> None:
        for cell in whole.cells:
            if cell.key not in seconds and is_done(cell, out):
                seconds[cell.key] = read_cell(cell.folder(out))["seconds"]
                kinds.setdefault(cell.kind, []).append(seconds[cell.key])

    look()
    before = len(seconds)

    def left() -> float | None:
        rest = [cell.kind for cell in whole.cells if cell.key not in seconds]
        if len(seconds) == before or any(kind not in kinds for kind in rest):
            return None
        pace = sum(list(seconds.values())[before:]) / (time.monotonic() - began)  # about the number of processes
        return sum(sum(kinds[kind]) / len(kinds[kind]) for kind in rest) / max(pace, 1.0)

    def tell(event: Event) -> None:
        fresh = time.monotonic() - told[0] > 1
        if fresh:
            look()
            told[0] = time.monotonic()
        if fresh or event.message:
            inner = f"{event.done}/{event.total}" if event.total else ""
            message = " ".join(filter(None, (event.stage, inner, event.message)))
            callback(Event("experiment", len(seconds), len(whole.cells), left(), message))

    yield tell
    look()
    callback(Event("experiment", len(seconds), len(whole.cells)))


def shard_of_environment(environment=os.environ) -> tuple[int, int]:
    """(RANK, WORLD_SIZE) as torchrun or a scheduler set them, taken out of the environment: inside a cell everything
    is one process. On a machine with several GPUs each process keeps the one of its LOCAL_RANK."""
    rank, world = (int(environment.pop(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    local = environment.pop("LOCAL_RANK", None)
    for name in list(environment):
        if name.startswith(("MASTER_", "TORCHELASTIC_", "LOCAL_WORLD", "GROUP_", "ROLE_")):
            environment.pop(name)
    if local is not None and world > 1:
        visible = [v for v in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if v] or _gpus()
        if visible:
            environment["CUDA_VISIBLE_DEVICES"] = visible[int(local) % len(visible)]
    return rank, world


def _gpus() -> list[str]:
    """Numbers of the GPUs, without a CUDA context of this process on any of them."""
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]

