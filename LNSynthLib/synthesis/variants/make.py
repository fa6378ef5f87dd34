"""Several synthetic samples of one CT, for a person to choose from: its nodes regenerated, changed or at random.

Which samples there are depends on the files, the settings and the seed alone; each is a folder as `synthesize` writes
it, with the full CT (in place) or a patch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from ...cases.dataset import origin
from ...generators import model_folder
from ...masks.read import telling
from ...review.provenance import anonymous_source
from ...review.samples import read_record
from ...runtime.devices import pick
from ...runtime.errors import LNSynthError
from ...runtime.events import Callback, Event, Progress, ignore
from ...runtime.files import check_apart
from ...runtime.locks import turn
from ...runtime.pseudonyms import pseudonym
from ...runtime.seeds import derive
from ...runtime.temporary import sweep
from ..machine_check import check_fits
from ..write_sample import standing
from .inputs import Files, Given, seen
from .run import UNITS, Run, Shares, Variant, VariantSettings

LOCK_S = 1.0  # to wait for a run that is just ending
FORMAT = 2  # raise it when the same settings give other samples


def variants(generator: Path, files: Files, out: Path, settings: VariantSettings, *, prefix: str | None = None,
             anyway: bool = False, anonymous: bool = False, device: str = "auto", callback: Callback = ignore) -> dict:
    """Makes the variants, folders OUT/<prefix>-001 and so on.

    Returns {"folder", "samples", "made", "unchanged", "skipped"}: names of the samples; skipped: {"variant" (counted
    from 1), "reason"} of each in which no node could be varied.

    prefix  of the folders' names; None: the case's id
    anonymous  a pseudonym for the case, no names of files (`provenance.anonymous`)
    anyway  go on where nodes are doubted (`masks.plausibility`) or the machine is too small (`machine_check`)

    In place, the nodes of `files.nodes` are compared voxel for voxel with those that the CT shows, `files.present`:
    what is not wanted any more is removed, what is new is made, and what both have stays as it is. In a patch, which
    is generated as a whole, every node is made.

    Samples that are there already (an interrupted run's, say) stay, and no other sample is ever replaced, nor one that
    a person has corrected: new ones get the next free number. One that lacks a file is made again. When a sample is
    finished, and for each that was there, an event of the stage "sample" comes, its result {"sample": folder, "id":
    name, "nodes": [{"id", "state": "made" or "kept", "centroid_mm" (RAS), "volume_ml", "short_axis_mm"}]}. Raises
    LNSynthError where inputs do not fit together, no sample can be made, or another run makes samples of this prefix in
    OUT.
    """
    if settings.vary is not None and files.anatomy is None:
        raise LNSynthError("Nodes are changed at random only with the anatomy (--anatomy), so that none covers an "
                           "organ or leaves the body; make it with `lnsynth anatomy`.")
    check_fits(generator, settings.count, settings.steps, device, anyway)
    out, device = Path(out), pick(device)
    callback(Event("loading the generator"))
    model, facts = model_folder.load(generator, device)
    if not model.samplers:
        settings = replace(settings, sampler="none", steps=1)
    case, kind = origin(files.ct, files.case, prefix)
    case = pseudonym("case", case) if anonymous else case
    prefix, inputs = prefix or case, [*files.named().values(), model_folder.find(generator)]
    _check_prefix(prefix)
    check_apart([_lock(out, prefix)], inputs)
    source = {"case": case, "kind": kind, "files": {role: path.name for role, path in files.named().items()},
              "sha256": files.digests()} | ({"anatomy_version": files.version} if files.anatomy is not None else {}) | (
                  {"segments": list(files.segments)} if files.segments else {})
    source = anonymous_source(source) if anonymous else source
    out.mkdir(parents=True, exist_ok=True)
    with turn(out / prefix, LOCK_S, f"another run is making samples {prefix}-... here; wait until it has ended, or "
              "choose another --prefix or --out"):
        sweep(out)
        plan = _plan(out, prefix, facts, source, settings)
        todo, skipped, finished = [variant for variant in plan if not variant.there], {}, []
        check_apart([variant.folder for variant in todo], inputs)

        def report(variant: Variant) -> None:
            finished.append(variant)
            nodes = read_record(variant.folder).get("nodes", [])
            callback(Event("sample", len(finished), len(plan), result={
                "sample": str(variant.folder), "id": variant.folder.name, "nodes": nodes}))

        for variant in plan:
            if variant.there:
                report(variant)
        if todo:
            callback(Event("reading the CT"))
            given = Given.read(files, _table(model), telling(callback), anyway)
            about = {**source, "voxels_sha256": given.voxels, **seen(given.ct, generator, telling(callback))}
            run = Run(model, facts, files, given, about, settings, device)
            for variant, reason in _make(run, todo, callback):
                if reason:
                    skipped[variant] = reason
                else:
                    report(variant)
            if not finished:
                raise LNSynthError(skipped[todo[0]])
    return {"folder": str(out), "samples": [v.folder.name for v in plan if v not in skipped],
            "made": [v.folder.name for v in todo if v not in skipped],
            "unchanged": [v.folder.name for v in plan if v.there],
            "skipped": [{"variant": v.number + 1, "reason": reason} for v, reason in skipped.items()]}


def _lock(out: Path, prefix: str) -> Path:
    return out / f".{prefix}.lock"


def _make(run: Run, todo: list[Variant], callback: Callback) -> Iterator[tuple[Variant, str]]:
    """Each variant when its folder is there; or when it cannot be made, with the reason."""
    if run.settings.mode == "patch":
        from .patch import patches as maker
    else:
        from .in_place import in_place as maker
    with Progress("synthesising", len(todo) * UNITS, callback) as progress:
        yield from maker(run, todo, Shares(progress, len(todo)))


def _check_prefix(prefix: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", prefix):
        raise LNSynthError(f"{prefix!r} cannot begin a folder's name; use letters, digits, dots and dashes (--prefix).")


def _plan(out: Path, prefix: str, facts: dict, source: dict, settings: VariantSettings) -> list[Variant]:
    """Every variant with its folder: that which holds it already, whole or with a file missing, or the next free one.
    """
    there = {path.name: path for path in sorted(out.glob(f"{prefix}-*")) if path.is_dir()}
    numbers = [int(name.removeprefix(f"{prefix}-")) for name in there if name.removeprefix(f"{prefix}-").isdecimal()]
    known, free, plan = defaultdict(list), max(numbers, default=0) + 1, []
    for path in there.values():
        known[_key(path)].append(path)
    for number in range(settings.count):
        seed = derive(settings.seed, "variant", number)
        content = {"format": FORMAT, "weights": facts["weights_sha256"], "generator": facts["settings"],
                   "source": source, "seed": seed,
                   "settings": {name: value for name, value in asdict(settings).items() if name != "count"}
                   | {"vary": settings.vary and settings.vary.record()}}
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        found = {standing(path, key): path for path in known[key]}
        folder = found.get("whole") or found.get("damaged")
        if folder is None:
            folder, free = out / f"{prefix}-{free:03d}", free + 1
        plan.append(Variant(number, seed, key, folder, "whole" in found))
    return plan


def _key(folder: Path) -> str | None:
    try:
        return read_record(folder).get("key")
    except LNSynthError:
        return None


def _table(model):
    from ...masks.labels import LabelTable

    return LabelTable.load(model.form.labels)
