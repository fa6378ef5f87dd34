"""The settings of a segmenter: its data, and how nnU-Net trains on them; presets in Resources."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..runtime.errors import LNSynthError
from ..runtime.names import check_name
from ..runtime.settings import build, load_yaml, override, preset_path


@dataclass(frozen=True)
class TrainerSettings:
    """nnU-Net's own defaults, and what may differ from them. None leaves a choice to nnU-Net's plan."""

    epochs: int = 1000
    iterations: int = 250                        # training steps of an epoch
    val_iterations: int = 50                     # validation patches' batches of an epoch
    patch: tuple[int, int, int] | None = None    # voxels, z y x
    batch: int | None = None                     # patches a step
    features: tuple[int, ...] | None = None      # channels of each resolution, finest first
    convolutions: int | None = None              # of each resolution, on the way down and on the way up
    batch_dice: bool | None = None               # Dice over a batch's voxels together: patches without nodes do no harm
    gpu_memory_gb: float = 8.0                   # what the plan may fill
    foreground: float = 0.33                     # share of a batch's patches that are made to contain a node
    learning_rate: float = 1e-2
    momentum: float = 0.99
    augmentation: Literal["nnunet", "none"] = "nnunet"
    mirror: bool = True                          # random mirroring in training
    mirror_prediction: bool = True               # mean over mirrored predictions, eight times the work; needs `mirror`
    tiles: int = 1                               # predicted at once; small networks on a CPU are 4 times as fast with 2
    checkpoint: Literal["final", "best"] = "final"  # weights to predict with; best: highest pseudo Dice, as it trained
    save_every: int = 50                         # epochs between checkpoints to resume from
    workers: int = 0                             # processes that augment; 0: this one, as PythonSlicer needs it
    keep_data: bool = True                       # False: nnU-Net's copies of the images go when the training is done

    def __post_init__(self):
        counts = (self.epochs, self.iterations, self.val_iterations, self.save_every, *(self.patch or ()),
                  *(self.features or ()), self.batch or 1, self.convolutions or 1, self.tiles)
        step = 2 ** (len(self.features or (1,)) - 1)
        for problem, bad in (
            ("epochs, iterations, val_iterations, save_every, patch, batch, features, convolutions and tiles must be "
             "at least 1", min(counts) < 1),
            ("features and patch go together: give both, or leave both to the plan",
             (self.features is None) != (self.patch is None)),
            (f"{len(self.features or ())} resolutions need a patch whose sides are multiples of {step}, and at least "
             f"{2 * step}", any(n % step or n < 2 * step for n in self.patch or ())),
            ("features needs 3 resolutions or more", self.features is not None and len(self.features) < 3),
            ("foreground must be above 0 and at most 1", not 0 < self.foreground <= 1),
            ("learning_rate and gpu_memory_gb must be positive", min(self.learning_rate, self.gpu_memory_gb) <= 0),
            ("momentum must be at least 0 and below 1", not 0 <= self.momentum < 1),
            ("workers must be 0 or more", self.workers < 0),
        ):
            if bad:
                raise LNSynthError(f"segmenter: {problem}; correct the settings.")


# What may change when a run is resumed: it decides neither what is learned nor from what.
FREE = ("save_every", "workers", "keep_data", "anonymous")  # the last: other names are other data


@dataclass(frozen=True)
class SegmentSettings:
    """The defaults are the paper's: trained at 1 mm, 10 cm around the nodes."""

    strategy: Literal["real", "synthetic", "both"] = "real"  # what is trained on; validation is always real
    multiple: int = 10                           # at most so many synthetic samples a real training case
    spacing_mm: float = 1.0                      # isotropic voxel side of everything
    margin_mm: float = 100.0                     # around the nodes
    window: tuple[float, float] = (-120.0, 240.0)  # HU beyond which images are clipped
    labels: str = "abdomen14"                    # label table of the preparation; a segmenter does not look at it
    prepared: str | None = None                  # preparation of the data sets to take; None: one is made
    reviewed: bool = True                        # leave out samples that were rejected in review.csv
    filtered: bool = True                        # leave out samples that were dropped in filter.csv
    anonymous: bool = False                      # pseudonyms for cases, patients and samples in all that is written
    seed: int = 0
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    about: str = ""

    def __post_init__(self):
        if self.prepared is not None:
            check_name(self.prepared, "segmenter", "prepared")
        if self.multiple < 1:
            raise LNSynthError(f"segmenter: multiple is {self.multiple}; give 1 or more synthetic samples a case.")

    def plain(self) -> dict[str, Any]:
        """As JSON keeps it: lists for tuples."""
        return json.loads(json.dumps(asdict(self)))


def load_settings(preset: str | Path, assignments: list[str] = (), **chosen: Any) -> SegmentSettings:
    """The preset of that name in Resources/segmenters, or in that YAML file.

    chosen  settings that go before the preset's, such as strategy="both"; "a.b=value" assignments go before both
    Raises LNSynthError for an unknown preset, key or type.
    """
    path = preset_path("segmenters", preset)
    return build(SegmentSettings, override({**load_yaml(path), **chosen}, list(assignments)), str(path))


def load_trainer(preset: str | Path, assignments: list[str] = ()) -> TrainerSettings:
    """The trainer alone of a preset; assignments such as "epochs=20" are about it."""
    return load_settings(preset, [f"trainer.{assignment}" for assignment in assignments]).trainer
