"""Shared by the adversarial generators: two networks that take turns, and one pass that makes a volume."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..conditions.form import DataForm
from ..runtime.seeds import torch_rng
from .protocol import Batch, StepCallback, Streams, check_numbers, check_patch, draw, evaluating

Uniform = Callable[[tuple[int, ...]], torch.Tensor]  # shape (B, ...) -> numbers in [0, 1) on the CPU


class Adversarial(nn.Module):
    """All of such a generator but its networks `generator` and `discriminator`, its `stride`, and

    generate(condition, uniform)                   (B, 1, X, Y, Z) in [-1, 1]; what is random in it comes from `uniform`
    discriminator_loss(condition, image, fake)     as `Generator.loss` returns it; `fake` comes without a gradient
    generator_loss(condition, image, fake)         the same for the generator; the discriminator stands aside
    """

    kind: str
    stride: int
    samplers = ()

    def __init__(self, settings):
        super().__init__()
        self.settings = settings

    @property
    def form(self) -> DataForm:
        return self.settings.form

    @property
    def players(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator, "generator": self.generator}

    def turns(self, progress: float) -> tuple[str, ...]:
        return ("discriminator", "generator")

    def begin(self, turns: tuple[str, ...], samples) -> None:
        """See `Generator.begin`: there is one stage."""

    def forward(self, batch: Batch, streams: Streams, player: str = "generator") -> dict[str, torch.Tensor]:
        """`loss`, under the name that wrappers for many GPUs intercept."""
        return self.loss(batch, streams, player)

    def loss(self, batch: Batch, streams: Streams, player: str = "generator") -> dict[str, torch.Tensor]:
        """See `Generator.loss`."""
        condition, image = batch["condition"], batch["image"]

        def uniform(shape: tuple[int, ...]) -> torch.Tensor:
            return draw(torch.rand, shape, streams)

        if player == "discriminator":
            with torch.no_grad(), aside(self.generator):
                fake = self.generate(condition, uniform)
            return self.discriminator_loss(condition, image, fake)
        fake = self.generate(condition, uniform)
        with aside(self.discriminator):
            return self.generator_loss(condition, image, fake)

    def judge(self, condition: torch.Tensor, *images: torch.Tensor) -> list[list[list[torch.Tensor]]]:
        """What the discriminator makes of each image under the condition, in one pass: by image, scale and layer."""
        made = self.discriminator(torch.cat([torch.cat([condition, image.to(condition)], 1) for image in images]))
        return [[[layer.chunk(len(images))[i] for layer in scale] for scale in made] for i in range(len(images))]

    @torch.no_grad()
    def sample(self, condition: torch.Tensor, *, seeds: list[int], steps: int | None = None, sampler: str = "none",
               known: torch.Tensor | None = None, keep: torch.Tensor | None = None,
               callback: StepCallback | None = None) -> torch.Tensor:
        """See `Generator.sample`. One pass, whatever `steps` and `sampler` say; `known` is put in place afterwards."""
        check_patch(condition, seeds, self.stride)
        streams = [torch_rng(seed, "sampler") for seed in seeds]
        with evaluating(self):
            made = self.generate(condition, lambda shape: draw(torch.rand, shape, streams))
        check_numbers(made)
        if known is not None:
            made = torch.where(keep > 0, known, made)
        if callback:
            callback(1, 1)
        return made


@contextmanager
def aside(network: nn.Module) -> Iterator[None]:
    """Within the block the network is used as it is: its weights get no gradient, and in eval mode spectral norm's
    vectors stay too. Gradients go through it to its input."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        with evaluating(network):
            yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
