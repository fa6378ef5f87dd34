"""The interface of every generator, as the training loop and synthesis use it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from ..conditions.form import DataForm
from ..runtime.errors import LNSynthError

StepCallback = Callable[[int, int], None]  # (done, total) after each sampling step
Batch = dict[str, torch.Tensor]
# One CPU random generator a sample, from which all random numbers of that sample are drawn: they do not depend on what
# else is in its batch, nor on the process or device that computes it.
Streams = Sequence[torch.Generator]


@runtime_checkable
class Generator(Protocol):
    """A torch module with its settings, its training loss and its sampler.

    kind     its name in `model_folder.KINDS`
    form     the data it takes
    stride   sides of a sampled patch must be multiples of it
    samplers names in `diffusion.samplers.SAMPLERS` that it can be sampled with; none where one pass makes a volume
    players  its networks by name, each of which the training loop gives an optimiser of its own: one for most, more
             where networks are trained against or after each other
    """

    kind: str
    stride: int
    samplers: tuple[str, ...]

    @property
    def form(self) -> DataForm: ...

    @property
    def players(self) -> dict[str, nn.Module]: ...

    def turns(self, progress: float) -> tuple[str, ...]:
        """The players that take an optimiser step, one after the other on the same batch, at this share (0 to 1) of
        the training's steps."""

    def begin(self, turns: tuple[str, ...], samples: Iterable[tuple[Batch, Streams]]) -> None:
        """Called before the first step at which these players, and not those before, take turns.

        samples  training samples without end, batches of one with their streams, the same in every process
        """

    def loss(self, batch: Batch, streams: Streams, player: str = ...) -> dict[str, torch.Tensor]:
        """Scalars to log, "loss" being the one for that player to minimise: means over the batch of what depends on
        each sample alone.

        batch    "image" (B, 1, X, Y, Z) in [-1, 1] and "condition" (B, form.condition_channels, X, Y, Z)
        streams  one for each of the B samples; they start alike for every player of a step
        """

    def sample(self, condition: torch.Tensor, *, seeds: list[int], steps: int | None = None, sampler: str = "dpmpp",
               known: torch.Tensor | None = None, keep: torch.Tensor | None = None,
               callback: StepCallback | None = None) -> torch.Tensor:
        """Volumes (B, 1, X, Y, Z) in [-1, 1], one a seed, each a function of its own seed and condition alone.

        condition  (B, form.condition_channels, X, Y, Z)
        known      (B, 1, X, Y, Z) real volume in [-1, 1], for synthesis in place
        keep       (B, 1, X, Y, Z) in {0, 1}: 1 where `known` is kept (as noised real voxels at every step)
        """


def draw(random: Callable[..., torch.Tensor], shape: Sequence[int], streams: Streams) -> torch.Tensor:
    """Random numbers (B, ...) on the CPU, each sample's from its own stream. random: torch.randn or torch.rand."""
    if len(streams) != shape[0]:
        raise ValueError(f"{len(streams)} random streams are not one for each of {shape[0]} samples")
    return torch.stack([random(tuple(shape[1:]), generator=stream) for stream in streams])


def check_form(form: DataForm, stride: int) -> None:
    """Raises LNSynthError where the form's patch cannot be halved as often as the networks do."""
    if any(side % stride for side in form.patch):
        raise LNSynthError(f"The sides of form.patch, {list(form.patch)}, must be multiples of {stride}, as the "
                           "network's levels need; correct the settings.")


def check_patch(condition: torch.Tensor, seeds: list[int], stride: int) -> None:
    """Raises LNSynthError for a condition that cannot be sampled, or seeds that do not match its batch."""
    sides = condition.shape[2:]
    if any(side % stride for side in sides) or len(seeds) != len(condition):
        raise LNSynthError(f"A patch of {'x'.join(map(str, sides))} voxels with {len(seeds)} seed(s) for "
                           f"{len(condition)} condition(s) cannot be sampled; sides must be multiples of {stride}, "
                           "with one seed a condition.")


def check_numbers(volume: torch.Tensor) -> None:
    """Raises LNSynthError for values that are not finite: no image is to be made of them."""
    if not torch.isfinite(volume).all():
        raise LNSynthError("The generator's output is not finite, so its weights are unusable; train it with a lower "
                           "learning rate, or choose another.")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within the block the module is in eval mode; after it, each part of it in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
