"""Generators that denoise the voxels themselves: LN-DDPM and those of its rivals that differ in the network alone."""

import torch
from torch import nn

from ..conditions.form import DataForm
from ..diffusion.samplers import SAMPLERS
from .denoising import Denoising, DiffusionSettings
from .protocol import Batch, StepCallback, Streams, check_patch, evaluating


class VoxelDiffusion(nn.Module):
    """All of such a generator but its `denoiser`, its `stride`, and `predict(x_t, t (B,), condition)`: the network's
    output, as `settings.prediction` says, for the parts of a condition that it is given."""

    kind: str
    stride: int
    samplers = tuple(SAMPLERS)

    def __init__(self, settings: DiffusionSettings):
        super().__init__()
        self.settings = settings
        self.process = Denoising(settings)

    @property
    def form(self) -> DataForm:
        return self.settings.form

    @property
    def players(self) -> dict[str, nn.Module]:
        return {"denoiser": self.denoiser}

    def turns(self, progress: float) -> tuple[str, ...]:
        return ("denoiser",)

    def expected(self, condition: torch.Tensor) -> torch.Tensor | float:
        """What x_0 is expected to be: the expected HU where the form has them, else the window's middle."""
        return condition[:, -1:] if self.form.expected_hu else 0.0

    def begin(self, turns: tuple[str, ...], samples) -> None:
        """See `Generator.begin`: there is one stage."""

    def forward(self, batch: Batch, streams: Streams, player: str = "denoiser") -> dict[str, torch.Tensor]:
        """`loss`, under the name that wrappers for many GPUs intercept."""
        return self.loss(batch, streams, player)

    def loss(self, batch: Batch, streams: Streams, player: str = "denoiser") -> dict[str, torch.Tensor]:
        """See `Generator.loss`."""
        condition = batch["condition"]
        return self.process.loss(lambda x, t: self.predict(x, t, condition), batch["image"], streams,
                                 self.expected(condition))

    @torch.no_grad()
    def sample(self, condition: torch.Tensor, *, seeds: list[int], steps: int | None = None, sampler: str = "dpmpp",
               known: torch.Tensor | None = None, keep: torch.Tensor | None = None,
               callback: StepCallback | None = None) -> torch.Tensor:
        """See `Generator.sample`; steps: 25 for dpmpp, 50 for ddim, T for ddpm unless given."""
        check_patch(condition, seeds, self.stride)
        with evaluating(self):
            return self.process.sample(
                lambda x, t: self.predict(x, t, condition), (len(condition), 1, *condition.shape[2:]), condition,
                seeds=seeds, steps=steps, sampler=sampler, expected=self.expected(condition), known=known, keep=keep,
                callback=callback)
