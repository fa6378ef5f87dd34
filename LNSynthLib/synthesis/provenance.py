"""Where a synthetic image comes from: enough to make it again, bit for bit, on the same device."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import __version__
from ..cases.volume import stem

PACKAGES = ("torch", "monai", "numpy", "scipy")  # those whose arithmetic is in the result


def provenance(what: str, facts: dict, *, seed: int, sampler: str, steps: int, source: dict, condition: dict,
               device: torch.device | str, outputs: dict) -> dict:
    """The content of a sidecar, JSON-ready. It holds no time and no path: the same work gives the same sidecar.

    what       "patch", "insertion" or "removal"
    facts      of the generator, as `generators.checkpoint.load` returns them
    seed, sampler, steps   of the sampling
    source     which case or files it was made from, with their SHA-256
    condition  what the generator was conditioned on: patches, labels, how nodes were transformed
    outputs    file name: SHA-256
    """
    return {
        "synthetic": True,
        "what": what,
        "note": "SYNTHETIC: made by a generative model for research. Not a patient's image.",
        "generator": {name: facts[name] for name in ("kind", "weights_sha256", "settings")},
        "sampling": {"seed": seed, "sampler": sampler, "steps": steps},
        "source": source,
        "condition": condition,
        "made_on": {"device": device_name(device), "threads": torch.get_num_threads(), "machine": platform.machine()},
        "versions": {"lnsynth": __version__, "python": platform.python_version()} | {
            name: _version(name) for name in PACKAGES},
        "outputs": outputs,
    }


def description(facts: dict) -> str:
    """What goes into the header of a synthetic file; at most 79 bytes, the room in a NIfTI."""
    return f"SYNTHETIC: LNSynth {facts['kind'][:16]} {facts['weights_sha256'][:12]}, not a patient's image"


def sidecar(path: Path) -> Path:
    """The provenance file of a volume file: beside it, ct.nii.gz -> ct.provenance.json."""
    return Path(path).with_name(f"{stem(path)}.provenance.json")


def device_name(device: torch.device | str) -> str:
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
