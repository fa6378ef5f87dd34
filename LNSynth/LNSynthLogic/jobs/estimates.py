"""How long a synthesis will take and how much memory, told before it starts, without importing torch.

Time is work over speed. The work is counted in voxels of patches times sampling steps. The speed of a generator on a
device is that of its last run here; before the first one it is guessed from the network's arithmetic.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.events import Event, duration
from LNSynthLib.runtime.files import read_json

from ..words import _

CONTEXT_MM, LEAST_CONTEXT_MM = 24.0, 12.0  # around a node: InsertSettings.context_mm, patches.LEAST_CONTEXT_MM
START_S = 15.0          # importing torch, reading and writing files
SLOW_S = 600.0          # from here on a CPU run is warned of
FLOPS = {"cpu": 25e9, "cuda": 5e12, "mps": 1e12}  # a second; of the CPU a core. Guesses, until something has run
MOST_CORES = 16         # that one patch keeps busy
MAPS = {"cpu": 30, "cuda": 15, "mps": 15}  # feature maps of the first width alive at once, with convolutions' workspace
BASE_GB = 1.5           # torch itself and a CT of usual size


@dataclass(frozen=True)
class Generator:
    """What model.json tells of a generator, as far as its cost depends on it."""

    key: str                        # hash of its weights
    spacing_mm: float
    patch: tuple[int, int, int]
    stride: int                     # sides of patches are multiples of it
    width: int                      # channels at full resolution
    flops_per_voxel: float | None   # of one step; None for networks without a formula here
    one_pass: bool                  # a GAN: no sampling steps


@dataclass(frozen=True)
class Estimate:
    seconds: float | None  # None: not known before the first run here
    measured: bool         # from an earlier run, not guessed
    memory_gb: float
    device: str            # "cpu", "cuda" or "mps"


def read_generator(folder: Path) -> Generator:
    """From a folder that holds model.json. LNSynthError where that is missing or tells of no generator."""
    about = read_json(Path(folder) / "model.json")
    try:
        settings, form = about["settings"], about["settings"]["form"]
        denoiser = settings.get("denoiser") or {}
        channels = denoiser.get("channels") or settings.get("channels") or [32]
        width = channels[0] if isinstance(channels, list) else int(channels)
        levels = len(channels) if isinstance(channels, list) else 4
        known = about["kind"] == "lnddpm"
        condition = form["anatomy_channels"] + 1 + bool(form.get("expected_hu"))
        if not settings.get("anatomy", True):
            condition = 1
        return Generator(about["weights_sha256"], float(form["spacing_mm"]), tuple(form["patch"]), 2 ** (levels - 1),
                         width, denoiser_flops(denoiser, condition) if known else None,
                         about["kind"] in ("pix2pix", "spade"))
    except (KeyError, TypeError, ValueError, IndexError):
        raise LNSynthError(f"{folder}: model.json does not describe an LNSynth generator; choose another folder.") \
            from None


def denoiser_flops(denoiser: dict, condition: int) -> float:
    """Operations of one step of LN-DDPM's U-Net per voxel of the patch: its convolutions, which are nearly all of it.

    The attention of local detail conditioning, at node positions alone, adds some percent in small patches.
    """
    widths, blocks = denoiser["channels"], denoiser["blocks"]

    def convolution(a, b, kernel=27):
        return 2 * kernel * a * b

    def block(a, b):
        return convolution(a, b) + convolution(b, b) + (convolution(a, b, 1) if a != b else 0)

    share = [8.0 ** -level for level in range(len(widths))]  # of the voxels that are left at each level
    flops = convolution(1 + condition, widths[0]) + convolution(widths[0], 1)
    for level, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        flops += share[level] * blocks * (block(a, a) + block(2 * a, a))
        flops += share[level + 1] * (convolution(a, b) + convolution(b, a, 1))
    return flops + share[-1] * (blocks + 1) * block(widths[-1], widths[-1])


def node_voxels(size_mm: tuple[float, float, float], generator: Generator) -> int:
    """Voxels of the patch in which a node of this extent is made in place, if it has one of its own."""
    def side(mm, context):
        return math.ceil((mm + 2 * context) / generator.spacing_mm / generator.stride) * generator.stride

    return math.prod(max(side(mm, LEAST_CONTEXT_MM), min(side(mm, CONTEXT_MM), most))
                     for mm, most in zip(size_mm, generator.patch, strict=True))


def work(generator: Generator, mode: str, sizes_mm: list[tuple], steps: int, variants: int,
         removed_mm: list[tuple] = (), vary: bool = False) -> float:
    """Voxel-steps of a run. In place at most: nodes that share a patch cost less than is counted here.

    removed_mm: extents of the nodes that are removed first, once for all variants, or in each where nodes vary
    """
    if mode == "patch":
        voxels = math.prod(generator.patch) * variants
    else:
        made, removed = (sum(node_voxels(size, generator) for size in sizes) for sizes in (sizes_mm, removed_mm))
        voxels = made * variants + removed * (variants if vary else 1)
    return float(voxels * (1 if generator.one_pass else steps))


def work_done(provenance: dict, removal: bool = True) -> float:
    """Voxel-steps that a finished sample took, as its provenance tells; removal: those of removing nodes as well."""
    condition = provenance.get("condition") or {}
    patches = [*condition.get("patches", ()), *((removal and condition.get("removal") or {}).get("patches", ()))]
    shapes = [patch["patch"]["shape"] for patch in patches]
    if provenance.get("what") == "patch":
        shapes = [condition["shape"]]
    return float(sum(math.prod(shape) for shape in shapes) * (provenance.get("sampling") or {}).get("steps", 1))


def device_kind(device: str) -> str:
    """What "auto" will probably be: a driver of NVIDIA's, a Mac's own GPU, or else the CPU."""
    if device != "auto":
        return device.partition(":")[0]
    if shutil.which("nvidia-smi"):
        return "cuda"
    return "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else "cpu"


@dataclass
class Speeds:
    """Seconds per voxel-step by generator and device, as the last runs here had them."""

    known: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str) -> Speeds:
        """From what `to_text` gave; what cannot be read is forgotten, since the next run measures anew."""
        try:
            return cls({str(key): float(value) for key, value in json.loads(text or "{}").items()})
        except (ValueError, TypeError, AttributeError):
            return cls()

    def to_text(self) -> str:
        return json.dumps(self.known)

    def get(self, generator: Generator, device: str) -> float | None:
        return self.known.get(f"{generator.key}/{device}")

    def note(self, generator: Generator, device: str, seconds: float, voxel_steps: float) -> None:
        if seconds > 0 and voxel_steps > 0:
            self.known[f"{generator.key}/{device}"] = seconds / voxel_steps


class Stopwatch:
    """Times the samples of a run from its events; what is told before the generator starts does not count.

    seconds, voxel_steps: of all samples that were added; one alone tells little, since some are made two at once.
    """

    def __init__(self):
        self._since: float | None = None
        self._removed: list | None = None
        self.seconds = self.voxel_steps = 0.0

    def add(self, seconds: float, provenance: dict) -> None:
        """A sample that took this long. Nodes that the one before had removed as well were not removed again."""
        removed = (provenance.get("condition") or {}).get("removed")
        self.seconds += seconds
        self.voxel_steps += work_done(provenance, removal=removed != self._removed)
        self._removed = removed

    def event(self, event: Event, now: float) -> float | None:
        """Seconds that a sample took, when this event says that one is finished which was made now."""
        if event.stage != "sample":
            if self._since is None and event.total:
                self._since = now
            return None
        took = now - self._since if self._since is not None else None
        self._since = now if self._since is not None else None
        return took


def estimate(generator: Generator, mode: str, sizes_mm: list[tuple], steps: int, variants: int, device: str,
             speeds: Speeds, cores: int | None = None, removed_mm: list[tuple] = (), vary: bool = False) -> Estimate:
    """device as the person chose it; cores: of this machine, all of them if None; removed_mm, vary as for `work`."""
    kind = device_kind(device)
    voxel_steps = work(generator, mode, sizes_mm, steps, variants, removed_mm, vary)
    speed = speeds.get(generator, kind)
    measured = speed is not None
    if speed is None and generator.flops_per_voxel:
        cores = min(cores or os.cpu_count() or 1, MOST_CORES) if kind == "cpu" else 1
        speed = generator.flops_per_voxel / (FLOPS.get(kind, FLOPS["cpu"]) * cores)
    voxels = math.prod(generator.patch)
    if mode != "patch" and (sizes_mm or removed_mm):
        voxels = max(node_voxels(size, generator) for size in [*sizes_mm, *removed_mm])
    memory = BASE_GB + MAPS.get(kind, MAPS["cpu"]) * 4 * generator.width * voxels / 1e9
    return Estimate(START_S + voxel_steps * speed if speed is not None else None, measured, memory, kind)


def is_slow(estimate: Estimate) -> bool:
    """Whether a clear warning is due: on the CPU, and long or of unknown length."""
    return estimate.device == "cpu" and (estimate.seconds is None or estimate.seconds > SLOW_S)


def words(estimate: Estimate) -> str:
    """The estimate as people read it; for a slow one, what would make it quicker."""
    device = {"cpu": _("the processor (CPU)"), "cuda": _("the NVIDIA GPU"), "mps": _("Apple's GPU")}.get(
        estimate.device, estimate.device)
    if estimate.seconds is None:
        time = _("How long it takes on {device} is known after the first run here").format(device=device)
    elif estimate.measured:
        time = _("About {time} on {device}, based on the last run").format(
            time=duration(estimate.seconds), device=device)
    else:
        time = _("Roughly {time} on {device}, a guess until the first run here").format(
            time=duration(estimate.seconds), device=device)
    text = _("{time}; up to {memory:.1f} GB of memory.").format(time=time, memory=estimate.memory_gb)
    if is_slow(estimate):
        text += " " + _("This is slow on the CPU: take fewer steps or variants, a smaller generator, or a machine with "
                        "an NVIDIA GPU. The window stays usable, and you can cancel at any time.")
    return text
