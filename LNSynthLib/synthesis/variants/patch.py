"""Variants as patches of a CT that is prepared as training data are: every voxel of a patch is generated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ...cases.dataset import Case
from ...cases.prepare import PrepareSettings, checked, compute
from ...cases.prepared import PreparedCase, write_prepared
from ...images.boxes import padded
from ...images.canvas import Canvas
from ...images.volume import Volume, canonical_view
from ...masks.body import node_hu
from ...masks.labels import LabelTable
from ...masks.nodes import records
from ...review.provenance import Sampled, plain_settings, provenance
from ...runtime.errors import LNSynthError
from ...runtime.reproducible import exact
from ...runtime.temporary import scratch
from ..patch_draft import Draft
from ..synthesize import Job, SynthesizeSettings, at_once, sampled
from ..write_sample import write_sample
from .difference import Wanted, difference


def patches(run, todo: list, shares) -> Iterator:
    """Makes the variants, each yielded with "" when its folder is there. See `variants.variants`."""
    with exact(), scratch() as folder:
        case, before = prepared(run, folder / "case")
        settings = SynthesizeSettings(seed=run.settings.seed, sampler=run.settings.sampler, steps=run.settings.steps,
                                      vary=run.settings.vary, threads=0)
        jobs = [Job(variant.folder.name, case, variant.number, variant.seed, variant.key) for variant in todo]
        steps = _Steps(shares, run.settings.steps)
        for variant, (job, draft, hu) in zip(todo, sampled(jobs, run.model, settings, run.device, steps.step),
                                              strict=True):
            _write(run, variant, job, draft, hu, padded(before, draft.box))
            shares.at(0, f"{variant.folder.name} done")
            yield variant, ""


class _Steps:
    """Takes the steps that `sampled` reports."""

    def __init__(self, shares, steps: int):
        self.shares, self.steps, self.done = shares, steps, 0

    def step(self, n: int) -> None:
        self.done += n
        self.shares.at(self.done / self.steps)


def prepared(run, folder: Path) -> tuple[PreparedCase, np.ndarray]:
    """The CT as a prepared case with the nodes that are wanted, and where the nodes are that it shows (on that grid).

    Where nodes are or were, the anatomy shows none, and how bright nodes are is learnt from those that the CT shows.
    Patches are to be made around nodes that it does not show, where there are any.
    """
    form, given, table = run.model.form, run.given, LabelTable.load(run.model.form.labels)
    wanted = Wanted.of(given.nodes, given.present, 0)
    if not wanted.nodes.array.any():
        raise LNSynthError(f"{run.files.nodes}: the node mask is empty, so there is no patch to make; draw a node, or "
                           "choose --mode in-place, which removes those that the CT shows.")
    settings = PrepareSettings(spacing_mm=form.spacing_mm, window=form.window, labels=form.labels,
                               name=f"{form.labels}-{form.spacing_mm:g}mm", allow_no_anatomy=True)
    ct = Volume(Canvas(canonical_view(given.ct.stored), *given.ct.scaling).to_hu(canonical_view(given.ct.stored).array),
                canonical_view(given.ct.stored).affine)
    every = np.zeros(ct.shape, np.uint16)
    every[wanted.region] = wanted.every()
    anatomy = canonical_view(given.anatomy) if given.anatomy is not None else None
    where = {role: str(path) for role, path in run.files.named().items()}
    case = Case(run.source["case"], ct, Volume(every, ct.affine), anatomy, {"anatomy_version": 2})
    arrays, info, _ = compute(checked(case, where, settings, table), where, settings, table)

    apart, highest = difference(wanted.nodes.array, wanted.present.array), int(wanted.nodes.array.max())
    kept = np.setdiff1d(np.unique(every), [0, *info["nodes_lost"]])
    number = np.array([0, *kept], np.uint16)[arrays["nodes"]]  # as they were before nodes became 1, 2, ...
    arrays["nodes"] = np.where(number <= highest, number, 0).astype(np.uint16)
    found = records(arrays["nodes"], np.array(info["affine"]))
    if not found:
        raise LNSynthError(f"{run.files.nodes}: every node is smaller than a voxel of the generator's grid "
                           f"({form.spacing_mm:g} mm); draw larger nodes, or choose --mode in-place.")
    here = ct.array[wanted.region]
    content = {"source": run.source, "settings": asdict(settings)}
    info |= {
        "id": run.source["case"], "patient": run.source["case"], "split": "train", "kind": run.source["kind"],
        "source": where["ct"], "anatomy_version": 2, "window": list(settings.window), "labels": table.name,
        "settings": asdict(settings), "sha256": run.source["sha256"],
        "key": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        "node_hu": node_hu(here, wanted.present.array),
        "nodes": [record for record in found if record["id"] in apart.new] or found}
    before = np.isin(number, [*apart.same, *(i + highest for i in apart.gone)]) & (number > 0)
    return write_prepared(folder, **arrays, info=info), before.astype(np.uint8)


def _write(run, variant, job: Job, draft: Draft, hu: np.ndarray, before: np.ndarray) -> None:
    listed = [{"state": "made", **{k: record[k] for k in ("id", "centroid_mm", "volume_ml", "short_axis_mm")}}
              for record in records(draft.nodes, draft.affine)]

    def about(outputs: dict) -> dict:
        record = provenance(
            "patch", run.facts, Sampled(variant.seed, run.settings.sampler, run.settings.steps, run.device, {
                "run_seed": run.settings.seed, "sample": variant.number, "at_once": at_once(run.model.form)}),
            labels=run.model.form.labels,
            source={**run.source, "prepared_key": job.case.info["key"],
                    "prepared_settings": plain_settings(job.case.info)},
            condition={"mode": "patch", "start": list(draft.start), "shape": list(hu.shape), "nodes": draft.records,
                       "vary": run.settings.vary and run.settings.vary.record()},
            outputs=outputs)
        return {"key": variant.key, "nodes": listed, **record}

    write_sample(variant.folder, draft, hu, run.facts, about, before)
