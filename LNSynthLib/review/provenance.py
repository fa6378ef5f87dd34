"""Provenance of a synthetic image: enough to make it again, bit for bit, on the same device."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import __version__
from ..cases.prepared import PreparedCase
from ..cases.trained_on import TrainedOn
from ..images.synthetic import WORD, mark, sidecar
from ..masks.labels import table_path, told
from ..runtime.errors import LNSynthError
from ..runtime.files import read_json, sha256, sha256_once
from ..runtime.pseudonyms import pseudonym

ANONYMOUS_KEY = "prepared"  # the kind of a pseudonym for a prepared case's key
PACKAGES = ("torch", "monai", "numpy", "scipy")  # those whose arithmetic is in the result


@dataclass(frozen=True)
class Sampled:
    """How a volume was sampled.

    run: where the seed is derived from: "run_seed", as the user gave it, and which "sample" of the run this is
    """

    seed: int
    sampler: str
    steps: int
    device: torch.device | str
    run: dict = field(default_factory=dict)


def provenance(what: str, facts: dict, sampled: Sampled, *, labels: str, source: dict, condition: dict,
               outputs: dict) -> dict:
    """The content of a sidecar, JSON-ready. It holds no time and no path: the same work gives the same sidecar.

    what       "patch", "insertion" or "removal"
    facts      of the generator, as `generators.model_folder.load` returns them
    labels     the generator's label table (`DataForm.labels`)
    source     which case or files it was made from, with their SHA-256
    condition  what the generator was conditioned on: patches, labels, how nodes were transformed
    outputs    file name: SHA-256
    """
    return {
        "synthetic": True,
        "what": what,
        "note": f"{WORD}: made by a generative model for research. Not a patient's image.",
        "generator": {name: facts[name] for name in ("kind", "weights_sha256", "settings")} | {
            "labels_sha256": sha256(table_path(labels)), "trained_on": _trained_on(facts)},
        "sampling": {"seed": sampled.seed, "sampler": sampled.sampler, "steps": sampled.steps, **sampled.run},
        "source": source,
        "condition": condition,
        "made_on": {"device": device_name(sampled.device), "threads": torch.get_num_threads(),
                    "machine": platform.machine()},
        "versions": {"lnsynth": __version__, "python": platform.python_version()} | {
            name: _version(name) for name in PACKAGES},
        "outputs": outputs,
    }


def _trained_on(facts: dict) -> dict:
    return TrainedOn.read(facts.get("trained_on"), None, "the generator").plain()


def prepared_source(case: PreparedCase) -> dict:
    """Which prepared case a patch was made from: its files' SHA-256 and how it was prepared."""
    return {"case": case.id, "kind": case.info["kind"], "sha256": case.info["sha256"],
            "prepared_key": case.info["key"], "prepared_settings": plain_settings(case.info)}


def plain_settings(info: dict) -> dict:
    """How a case was prepared, from its case.json, without the folder of a label table."""
    settings = info["settings"]
    return {**settings, "labels": told(settings["labels"])}


def anonymous(record: dict) -> dict:
    """The record with a pseudonym for the case it was made from, and without the names of files and segments.

    What follows from a case's id in a way that lets a guess be tested goes too: keys, and the seeds of `synthesize`.
    """
    source = {role: _nameless(about) for role, about in record.get("source", {}).items()
              if role not in ("files", "segments", "prepared_key")}
    if isinstance(case := source.get("case"), str):
        source["case"] = pseudonym("case", case)
    sampling = record.get("sampling", {})
    if "run_seed" in sampling:
        sampling = {name: value for name, value in sampling.items() if name not in ("seed", "run_seed", "sample")}
    kept = {name: value for name, value in record.items() if name not in ("key", "source", "sampling")}
    return {**kept, "source": source} | ({"sampling": sampling} if sampling else {})


def anonymous_source(source: dict) -> dict:
    """`anonymous` of a sample's source alone, before keys and seeds are made from it."""
    return anonymous({"source": source})["source"]


def _nameless(about):
    """Hashes of files without the files' names: of a DICOM series a list."""
    if not isinstance(about, dict):
        return about
    return {name: sorted(value.values()) if isinstance(value, dict) else value
            for name, value in about.items() if name != "file"}


def description(facts: dict) -> str:
    """What goes into the header of a synthetic file; at most 79 bytes, the room in a NIfTI."""
    return mark(f"LNSynth {facts['kind'][:16]} {facts['weights_sha256'][:12]}")


def replaced(path: Path) -> dict:
    """What the provenance file of a CT that is about to be replaced holds besides the new record: {"replaces": its
    own}; nothing where there is no CT yet, or none with a record."""
    try:
        return {"replaces": read_provenance(path)} if Path(path).exists() else {}
    except LNSynthError:
        return {}


def read_provenance(path: Path) -> dict:
    """The record of a synthetic volume file, from the provenance file beside it.

    Where a run was killed as it replaced the volume, both records are there: that of the volume counts. Raises
    LNSynthError where there is none, or the volume is not the file that it was made as.
    """
    record = read_json(sidecar(path))
    found = sha256_once(path)
    for candidate in (record, record.get("replaces") if isinstance(record, dict) else None):
        if isinstance(candidate, dict) and (candidate.get("outputs") or {}).get(Path(path).name) == found:
            return {name: value for name, value in candidate.items() if name != "replaces"}
    raise LNSynthError(f"{sidecar(path)}: it does not belong to {Path(path).name} beside it (another SHA-256); make "
                       "the volume again, or copy both files again.")


def device_name(device: torch.device | str) -> str:
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
