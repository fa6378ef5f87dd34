"""An experiment in several processes of one machine."""

from __future__ import annotations

import os
from pathlib import Path

from ..runtime.events import Callback, Event
from ..runtime.shares import run_shares
from .cells import layout
from .plan import load_plan
from .run import watching


def run_workers(plan: str, assignments: list[str], out: Path, root: Path, workers: int, device: str,
                callback: Callback) -> dict:
    """`run` in `workers` processes at once; the first failure raises LNSynthError when all is done that can be.

    Each process uses as many threads as the plan says, from its first import on.
    """
    loaded = load_plan(plan, assignments)
    whole = layout(loaded, root)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(loaded.threads)
    arguments = ["experiment", "run", "--plan", plan, "--out", str(out), "--data-root", str(root), "--device", device,
                 "--anyway"]  # the whole has been checked
    arguments += ["--set", *assignments] if assignments else []
    with watching(whole, out, callback) as tell:
        shares = run_shares(arguments, workers, lambda event: tell(Event("", message=event.message)))
    return {"folder": str(out), "made": [name for share in shares for name in share["made"]],
            "cells": len(whole.cells)}
