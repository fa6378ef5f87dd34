"""What every generator promises to the training loop and to synthesis."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

StepCallback = Callable[[int, int], None]  # (done, total) after each sampling step


@dataclass(frozen=True)
class DataForm:
    """The form of data a generator is trained on and must be given: part of its identity, kept in its checkpoint."""

    labels: str = "abdomen14"                      # anatomy label table
    anatomy_channels: int = 14                     # its number of labels, one channel each
    expected_hu: bool = False                      # one more channel: each voxel's label's mean HU (not in the paper)
    spacing_mm: float = 1.0                        # isotropic
    window: tuple[float, float] = (-120.0, 240.0)  # HU mapped to [-1, 1]
    patch: tuple[int, int, int] = (128, 128, 128)  # voxels

    @property
    def condition_channels(self) -> int:
        """Anatomy one-hot, then the node mask, then the expected HU where it is used."""
        return self.anatomy_channels + 1 + self.expected_hu


@runtime_checkable
class Generator(Protocol):
    """A torch module with its settings, its training loss and its sampler.

    kind     its name in `checkpoint.KINDS`
    form     the data it takes
    stride   sides of a sampled patch must be multiples of it
    """

    kind: str
    stride: int

    @property
    def form(self) -> DataForm: ...

    def loss(self, batch: dict[str, torch.Tensor], rng: torch.Generator) -> dict[str, torch.Tensor]:
        """Scalars to log, "loss" being the one to minimise.

        batch  "image" (B, 1, X, Y, Z) in [-1, 1] and "condition" (B, form.condition_channels, X, Y, Z)
        rng    CPU generator from which every random number is drawn
        """

    def sample(self, condition: torch.Tensor, *, seeds: list[int], steps: int | None = None, sampler: str = "dpmpp",
               known: torch.Tensor | None = None, keep: torch.Tensor | None = None,
               callback: StepCallback | None = None) -> torch.Tensor:
        """Volumes (B, 1, X, Y, Z) in [-1, 1], one a seed, each a function of its own seed and condition alone.

        condition  (B, form.condition_channels, X, Y, Z)
        known      (B, 1, X, Y, Z) real volume in [-1, 1], for synthesis in place
        keep       (B, 1, X, Y, Z) in {0, 1}: 1 where `known` is kept (as noised real voxels at every step)
        """
