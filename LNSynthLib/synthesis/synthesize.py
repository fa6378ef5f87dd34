"""Synthesise patches from a data set: which samples there are depends on the seed alone, not on the processes."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..cases.prepared import PreparedCase
from ..cases.sides import check_sides, members
from ..conditions.form import DataForm
from ..conditions.transforms import VarySettings
from ..generators import model_folder
from ..review.provenance import ANONYMOUS_KEY, Sampled, prepared_source, provenance
from ..review.verdicts import judged
from ..runtime.devices import pick
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, Progress, ignore
from ..runtime.files import check_apart
from ..runtime.machine import Need
from ..runtime.pseudonyms import pseudonym
from ..runtime.reproducible import exact
from ..runtime.seeds import derive
from ..training.cost import sampling_need
from .patch_draft import Draft, draft, prepared_cases
from .write_sample import is_whole, standing, to_hu, write_sample

SMALL_PATCH = 48**3  # voxels
FORMAT = 2  # raise it when the same settings give other samples: those on disk are then made again


@dataclass(frozen=True)
class SynthesizeSettings:
    per_case: int = 1
    seed: int = 0
    sampler: str = "dpmpp"                                   # these two matter to generators that take many steps
    steps: int = 25
    split: str | None = "train"                              # None: the cases of every split
    prepared: str | None = None                              # preparation to take; None: the one that fits
    vary: VarySettings | None = field(default_factory=VarySettings)  # how nodes change; None: they stay as they are
    threads: int = 1                                         # of the CPU for a sample; another number, other last bits
    anonymous: bool = False                                  # samples have pseudonyms for their cases, and other seeds


@dataclass(frozen=True)
class Job:
    """One sample: its folder's name, its case, its number among the case's samples, its seed, and its key.

    The key is the hash of what the sample is: weights, case, seed and settings. What only rounds it differently
    (threads, device, versions of libraries) is not in it, so that a run begun on one machine goes on on another; each
    sample's provenance tells that ("made_on", "versions").
    """

    name: str
    case: PreparedCase
    number: int
    seed: int
    key: str


def plan(cases: list[PreparedCase], facts: dict, settings: SynthesizeSettings) -> list[Job]:
    """Every sample of a run, in a fixed order."""
    jobs = []
    for case in cases:
        for number in range(settings.per_case):
            seed = derive(settings.seed, "synthesize", case.id, number)
            content = {"format": FORMAT, "weights": facts["weights_sha256"], "generator": facts["settings"],
                       "case": case.info["key"], "seed": seed, "sampler": settings.sampler, "steps": settings.steps,
                       "vary": settings.vary and settings.vary.record()}
            key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
            jobs.append(Job(name(case, number), case, number, seed, key))
    return jobs


def need(generator: Path, data: list[Path], out: Path, settings: SynthesizeSettings, workers: int = 1) -> Need:
    """What the samples take that are not under `out` yet, made by so many processes at once."""
    form = model_folder.form(generator)
    cases = _cases(data, form, settings)
    names = (name(case, number) for case in cases for number in range(settings.per_case))
    left = sum(not (out / one).exists() for one in names)
    one = sampling_need(generator, settings.steps, left, f"Making {left} samples with {generator}",
                        "take a machine with a GPU, fewer --steps or --per-case, or a smaller generator")
    return replace(one, memory=one.memory * workers * at_once(form))


def _cases(data: list[Path], form: DataForm, settings: SynthesizeSettings) -> list[PreparedCase]:
    """The cases to start from. Anonymous ones have pseudonyms for their ids, from which names and seeds follow, and for
    their keys, which follow from ids."""
    cases = prepared_cases(data, form, settings.split, settings.prepared)
    if not settings.anonymous:
        return cases
    return [replace(case, info={**case.info, "id": pseudonym("case", case.id),
                                "key": pseudonym(ANONYMOUS_KEY, case.info["key"])}) for case in cases]


def name(case: PreparedCase, number: int) -> str:
    """Of a sample and of its folder."""
    return f"{case.id}-{number:03d}"


def synthesize(generator: Path, data: list[Path], out: Path, settings: SynthesizeSettings, device: str = "auto",
               callback: Callback = ignore) -> dict:
    """Makes the samples of this process's share, one folder each under `out`; those that are whole already stay.

    The share is RANK of WORLD_SIZE (torchrun sets both). Returns {"folder", "made", "unchanged",
    "replaced"}: names, those made in place of a damaged sample or one of other settings "replaced" too. Interrupted,
    finished samples stay and the next call goes on. Raises LNSynthError for data that do not fit the generator, and
    before one of other settings would be replaced that people have judged.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto" and "LOCAL_RANK" in os.environ and pick().type == "cuda":
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    device = pick(device)
    callback(Event("loading the generator"))
    model, facts = model_folder.load(generator, device)
    if not model.samplers:
        settings = replace(settings, sampler="none", steps=1)
    jobs = plan(_cases(data, model.form, settings), facts, settings)
    check_apart([out / job.name for job in jobs], [*data, model_folder.find(generator)])
    everyone = members(data)
    check_sides(everyone, callback)
    model_folder.check_unseen(generator, everyone,
                            lambda sentence: callback(Event("loading the generator", message=sentence)))
    share = jobs[rank::world]
    unchanged = [job.name for job in share if is_whole(out / job.name, job.key)]
    todo = [job for job in share if job.name not in unchanged]
    replaced = [job.name for job in todo if (out / job.name).exists()]
    others = {job.name for job in todo if job.name in replaced and standing(out / job.name, job.key) == "other"}
    if kept := sorted(judged(out) & others):
        some = ", ".join(kept[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
        raise LNSynthError(f"{out}: {some} were made with other settings or by another version of LNSynth, and people "
                           "have judged them; choose another --out, or move them away first.")
    with exact(settings.threads), Progress("synthesising", len(todo) * settings.steps, callback) as progress:
        for job, wanted, hu in sampled(todo, model, settings, device, progress.step):
            _write(job, wanted, hu, model, facts, out, settings, device)
            progress.step(0, f"{job.name} done")
    return {"folder": str(out), "made": [job.name for job in todo], "unchanged": unchanged,
            "replaced": replaced}


def at_once(form: DataForm) -> int:
    """How many samples are denoised together, always: 2 of small patches, since a CPU's convolutions fall to a kernel
    several times slower on single ones; 1 of others, for the memory.

    A batch of another size differs in its last bits. Within one size a sample depends neither on its place nor on what
    is beside it (tested), and a batch that is not full is filled up with its last sample.
    """
    return 2 if math.prod(form.patch) <= SMALL_PATCH else 1


def sampled(jobs: list[Job], model, settings: SynthesizeSettings, device,
            stepped: Callable[[int], None]) -> Iterator[tuple[Job, Draft, np.ndarray]]:
    """(job, what was to be made, its CT in whole HU) of each job, in order; stepped(n): after each step of
    sampling, n the samples in it."""
    together = at_once(model.form)
    for first in range(0, len(jobs), together):
        batch = jobs[first:first + together]
        many = len(batch)
        plans = [draft(job.case, model.form, job.seed, settings.vary) for job in batch]
        filled = [*range(len(batch)), *[len(batch) - 1] * (together - len(batch))]
        scaled = model.sample(torch.cat([plans[i].condition() for i in filled]).to(device),
                              seeds=[batch[i].seed for i in filled], steps=settings.steps, sampler=settings.sampler,
                              callback=lambda *_, many=many: stepped(many))
        volumes = to_hu(scaled.float().cpu().numpy()[:, 0], model.form.window)
        yield from zip(batch, plans, volumes, strict=False)


def _write(job: Job, plan: Draft, hu: np.ndarray, model, facts: dict, out: Path, settings: SynthesizeSettings,
           device) -> None:
    def about(outputs: dict) -> dict:
        record = provenance(
            "patch", facts, Sampled(job.seed, settings.sampler, settings.steps, device, {
                "run_seed": settings.seed, "sample": job.number, "at_once": at_once(model.form)}),
            labels=model.form.labels, source=prepared_source(job.case),
            condition={"start": list(plan.start), "shape": list(hu.shape), "nodes": plan.records,
                       "vary": settings.vary and settings.vary.record()},
            outputs=outputs)
        return {"key": job.key, **record}

    write_sample(out / job.name, plan, hu, facts, about)
