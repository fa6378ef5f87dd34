"""Diffusion whose network also learns the variance of each step back (Nichol and Dhariwal 2021, arXiv 2102.09672)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.posterior import kl_bits, likelihood_bits, posterior
from .denoising import Denoising, DiffusionSettings


@dataclass(frozen=True)
class LearnedVarianceSettings(DiffusionSettings):
    learned_variance: bool = True
    bound_weight: float = 0.001  # lambda of L_hybrid = L_simple + lambda L_vlb (eq. 16)


class LearnedVariance(Denoising):
    """`Denoising` with networks of twice the channels: what `prediction` says, then v, which sets the variance between
    the smallest (v = -1) and the largest (1) that it can have (eq. 15, with v scaled as in their code).

    levels  evenly spaced values that data are told apart by, for the likelihood of the last step
    """

    def __init__(self, settings: LearnedVarianceSettings, levels: int):
        super().__init__(settings)
        self.levels = levels

    def clean(self, output: Tensor, x: Tensor, t: int | Tensor, expected: Tensor | float = 0.0) -> Tensor:
        return super().clean(output.chunk(2, dim=1)[0], x, t, expected)

    def fraction(self, output: Tensor) -> Tensor:
        return (output.chunk(2, dim=1)[1] + 1) / 2

    def judged(self, output: Tensor, target: Tensor, clean: Tensor, x: Tensor, t: Tensor,
               expected: Tensor | float) -> dict[str, Tensor]:
        """L_hybrid (eq. 16). L_vlb is a sum over T times, so T times the term of a random one estimates it; its
        gradient reaches v alone. Also logged: "simple" and "bound", that term in bits a voxel."""
        simple = super().judged(output.chunk(2, dim=1)[0], target, clean, x, t, expected)["loss"]
        bound = self.bound(output, clean, x, t, expected).mean()
        weight = self.settings.bound_weight * self.settings.timesteps
        return {"loss": simple + weight * bound, "simple": simple.detach(), "bound": bound.detach()}

    def bound(self, output: Tensor, clean: Tensor, x: Tensor, t: Tensor, expected: Tensor | float = 0.0) -> Tensor:
        """The term of L_vlb at time t, in bits a voxel, (B,): KL(q(x_t-1 | x_t, x_0) || p(x_t-1 | x_t)), and
        -log2 p(x_0 | x_1) at t = 1 (eq. 4 to 6)."""
        t = t.cpu()
        step = posterior(self.alpha_bar[t], self.alpha_bar[t - 1])
        # At t = 1 the smallest variance is 0; as in their code, that of t = 2 stands in for it.
        small = torch.where(t == 1, posterior(self.alpha_bar[2], self.alpha_bar[1]).small, step.small)
        weight, small, large, last = (c.reshape(-1, *[1] * (x.dim() - 1)).to(x) for c in (
            step.x0, small.log(), step.large.log(), t == 1))
        with torch.no_grad():
            off = weight * (self.clean(output, x, t, expected) - clean)  # of p's mean from q's
        log_variance = small + self.fraction(output) * (large - small)
        # p(x_0 | x_1) has its mean at the estimate of x_0, as q(x_0 | x_1, x_0) has at x_0.
        bits = torch.where(last > 0, likelihood_bits(clean, clean + off, log_variance, self.levels),
                           kl_bits(off, log_variance, small))
        return bits.flatten(1).mean(1)


def hu_levels(window: tuple[float, float]) -> int:
    """Whole HU in a window, both ends included: CT has one a level, where an 8-bit picture has 256."""
    return math.floor(window[1] - window[0]) + 1
