"""The Gaussian posterior of one step back in a diffusion, and a model's loss against it, in bits.

What is called x_t' follows x_t in a list of times (t' < t), whichever times those are.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

Number = float | Tensor


class Posterior(NamedTuple):
    """q(x_t' | x_t, x_0) has the mean `x0` x_0 + `x` x_t and the variance `small`; `large` is the variance of
    q(x_t' | x_t) where nothing is known of x_0 but that it is standard normal."""

    x0: Number
    x: Number
    small: Number
    large: Number

    def variance(self, fraction: Number) -> Number:
        """Between `small` (fraction 0) and `large` (1) in their logarithms (Nichol and Dhariwal 2021, arXiv 2102.09672,
        eq. 15)."""
        return self.small ** (1 - fraction) * self.large**fraction


def posterior(now: Number, after: Number) -> Posterior:
    """The posterior from alpha_bar_t (`now`) and alpha_bar_t' (`after`): Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7,
    with the beta of the visited times, 1 - alpha_bar_t / alpha_bar_t' (Nichol and Dhariwal 2021, eq. 19)."""
    kept = now / after
    return Posterior(x0=after**0.5 * (1 - kept) / (1 - now), x=kept**0.5 * (1 - after) / (1 - now),
                     small=(1 - after) / (1 - now) * (1 - kept), large=1 - kept)


def kl_bits(off: Tensor, log_variance: Tensor, of_log_variance: Tensor) -> Tensor:
    """KL(N(m, of) || N(m + off, var)) of scalar Gaussians in bits, variances by their logarithms."""
    ratio = of_log_variance - log_variance
    return 0.5 * (ratio.exp() - 1 - ratio + off**2 * (-log_variance).exp()) / math.log(2)


def likelihood_bits(x: Tensor, mean: Tensor, log_variance: Tensor, levels: int) -> Tensor:
    """-log2 of the probability that N(mean, var) gives x's level, of `levels` evenly spaced ones from -1 to 1 (Ho et
    al. 2020, eq. 13); the outermost reach to infinity, as clipping fills them."""
    half, scale = 1 / (levels - 1), (-0.5 * log_variance).exp()
    low, high = (x - half - mean) * scale, (x + half - mean) * scale
    low = torch.where(x < half - 1, -math.inf, low)
    high = torch.where(x > 1 - half, math.inf, high)
    # The same interval mirrored into the lower tail, where its probability does not drown in 1.
    flip = low > -high
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    below, above = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return -(above + torch.log1p(-(below - above).exp())) / math.log(2)
