"""Estimate an experiment's time, memory and disk before it is run."""

from __future__ import annotations

from pathlib import Path

from ..runtime.events import Callback, Event, ignore
from ..runtime.machine import Need
from ..runtime.settings import build
from ..segmentation.cost import training_need as segmenter_need
from ..segmentation.settings import SegmentSettings, TrainerSettings
from .cells import Layout, preset_of
from .run import is_done

CURE = "run it on machines with GPUs that share its folder, take the plan mini"


def need(whole: Layout, out: Path, job: str, workers: int = 1, callback: Callback = ignore) -> Need:
    """Training the generators and segmenters that are not done yet, which is most of an experiment: the memory of the
    largest, in each of the `workers` processes, and the operations of all."""
    found = []
    for cell in whole.cells:
        if cell.kind not in ("generator", "segmenter") or is_done(cell, out):
            continue
        callback(Event(f"estimating {cell.name}"))
        if cell.kind == "generator":
            from ..training.cost import training_need

            found.append(training_need(preset_of(cell), job, CURE))
        else:
            trainer = build(TrainerSettings, {**cell.settings["trainer"], **cell.manner})
            found.append(segmenter_need(SegmentSettings(trainer=trainer), job, CURE))
    found = [one for one in found if one is not None]
    return Need(job, workers * max((one.memory for one in found), default=0), sum(one.flop for one in found), CURE)
