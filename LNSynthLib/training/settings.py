"""The settings of a training run, and its presets."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..runtime.errors import LNSynthError
from ..runtime.names import check_name
from ..runtime.settings import build, load_yaml, override, preset_path


@dataclass(frozen=True)
class AugmentSettings:
    """Small random changes of a patch, all off by default. There are no flips: an abdomen has a left and a right."""

    rotate_deg: float = 0.0  # about each axis, uniform in +- this
    zoom: float = 0.0        # factor uniform in 1 +- this
    gain: float = 0.0        # contrast about the window's centre, factor uniform in 1 +- this
    shift_hu: float = 0.0    # added to every voxel, uniform in +- this


@dataclass(frozen=True)
class TrainSettings:
    """The defaults are the paper's (section 4.2) or, where it is silent, ours (Resources/paper_choices.md)."""

    steps: int = 45_000                      # optimiser steps
    batch: int = 1                           # samples of one optimiser step, over all processes
    micro_batch: int = 1                     # samples a process holds at once; the rest of its batch is accumulated
    learning_rate: float = 1e-4
    rate_factors: dict[str, float] = field(default_factory=dict)  # of the learning rate, by player (`discriminator`);
    #                                          1 for players not named
    betas: tuple[float, float] = (0.9, 0.999)
    rate_schedule: Literal["constant", "linear", "cosine"] = "constant"  # from `learning_rate` to 0 at the last step
    warmup: int = 0                          # steps over which the learning rate rises from 0
    rate_hold: float = 0.0                   # share of the steps before the learning rate begins to fall
    clip_norm: float = 0.0                   # largest norm of the gradient; 0 does not clip
    ema: float = 0.995                       # decay of the moving average of the weights
    ema_warmup: bool = False                 # decay (1 + step) / (10 + step) while that is smaller
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on GPUs that have it, else fp32
    seed: int = 0
    prepared: str = "default"                # name of the prepared cases in the data set
    node_probability: float = 0.9            # share of patches that are forced to contain a node
    shares: dict[str, float] = field(default_factory=dict)  # relative share of draws by kind (real, pseudo, phantom);
    #                                          kinds not named get none; empty: every case alike
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    workers: int = 0                         # loader processes; 0 loads in the training process
    checkpoint_every: int = 500              # steps between checkpoints
    sample_every: int = 2000                 # steps between sample montages; 0 makes none
    sample_cases: int = 3                    # validation cases (training cases where there are none) in a montage
    sample_steps: int = 25                   # sampling steps of a montage
    tensorboard: bool = False                # also write RUN/tensorboard
    max_minutes: float = 0.0                 # stop cleanly, ready to resume, after this time; 0 runs all steps

    def __post_init__(self):
        check_name(self.prepared, "training", "prepared")
        for problem, bad in (
            ("steps, batch and micro_batch must be at least 1", min(self.steps, self.batch, self.micro_batch) < 1),
            ("batch must be a multiple of micro_batch", self.batch % self.micro_batch),
            ("ema must be at least 0 and below 1", not 0 <= self.ema < 1),
            ("node_probability must be between 0 and 1", not 0 <= self.node_probability <= 1),
            ("learning_rate must be positive", self.learning_rate <= 0),
            ("rate_hold must be at least 0 and below 1", not 0 <= self.rate_hold < 1),
            ("rate_factors must be positive", self.rate_factors and min(self.rate_factors.values()) <= 0),
            ("checkpoint_every must be at least 1", self.checkpoint_every < 1),
            ("shares must not be negative, nor all 0", self.shares and not (
                min(self.shares.values()) >= 0 and sum(self.shares.values()) > 0)),
        ):
            if bad:
                raise LNSynthError(f"training: {problem}; correct the settings.")

    def rate(self, step: int) -> float:
        """Learning rate of optimiser step `step` = 0, 1, ..."""
        rise = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        held = max(self.warmup, self.rate_hold * self.steps)
        done = max(step - held, 0) / max(self.steps - held, 1)
        fall = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.rate_schedule]
        return self.learning_rate * rise * fall


# What may change from one session of a run to the next without changing what is learned from which sample.
FREE = ("steps", "micro_batch", "precision", "workers", "checkpoint_every", "sample_every", "sample_cases",
        "sample_steps", "tensorboard", "max_minutes")


# Of RUN/settings.json.
RUN = {"preset": {"generator": dict, "training": dict}, "cases": list, "data?": [str], "draws?": int}


@dataclass(frozen=True)
class Preset:
    """A generator (`kind` and its settings) and how to train it."""

    generator: dict[str, Any]
    training: TrainSettings = field(default_factory=TrainSettings)
    about: str = ""

    def plain(self) -> dict:
        """As JSON keeps it: lists for tuples."""
        return json.loads(json.dumps(asdict(self)))


def load_preset(name: str | Path, assignments: list[str] = (), kind: str = "lnddpm") -> Preset:
    """The preset of that name in Resources/presets, or in that YAML file, with "a.b=value" assignments applied.

    kind  LN-DDPM's presets lie in that folder, those of other generators in a folder of their kind inside

    Raises LNSynthError for an unknown preset, key or type.
    """
    path = preset_path("presets" if kind == "lnddpm" else f"presets/{kind}", name)
    return make_preset(override(load_yaml(path), list(assignments)), str(path))


def make_preset(values: dict, where: str) -> Preset:
    preset = build(Preset, values, where)
    if "kind" not in preset.generator:
        raise LNSynthError(f"{where}: generator needs a kind; add for example kind: lnddpm.")
    return preset


def make_generator(preset: Preset):
    """The preset's generator with fresh weights."""
    from ..generators.model_folder import create

    settings = dict(preset.generator)
    return create(settings.pop("kind"), settings)
