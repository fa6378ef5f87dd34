"""Exponential moving average of a model's weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


class MovingAverage:
    """shadow <- decay * shadow + (1 - decay) * weights after every step; over weights only, never over buffers.

    With `warmup` the decay is at most (1 + step) / (10 + step), so that the first, random weights are forgotten soon.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float, warmup: bool = False):
        self.parameters = list(parameters)
        self.decay, self.warmup = decay, warmup
        self.restart()

    def restart(self) -> None:
        """The average becomes the weights as they are now."""
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step `step` = 0, 1, ..."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        for shadow, parameter in zip(self.shadow, self.parameters, strict=True):
            shadow.lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model carries the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for shadow, parameter in zip(self.shadow, self.parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(shadow)
            shadow.copy_(kept)
