"""Samplers: from noise to a clean volume along explicit (t, t_next) pairs; each step is one equation.

All take `denoise(x, t) -> x_0`, the network's estimate of the clean volume (clipped by the caller if wanted), `x` at
the first time, any shape and floating dtype, and the schedule's `alpha_bar`. Coefficients are float64 scalars; x keeps
its own dtype. With alpha = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar), no step divides by alpha, which vanishes
at t = T, and the deterministic ones carry x = alpha * x_0 + sigma * eps to exactly alpha' * x_0 + sigma' * eps
wherever denoise returns x_0: a region replaced by noised real voxels keeps its noise level.

`noise()` returns a standard normal tensor like x; `callback(done, total)` is called after each step.
"""

import math
from collections.abc import Callable

from torch import Tensor

from .posterior import posterior
from .schedules import Times

Denoise = Callable[[Tensor, int], Tensor]
Noise = Callable[[], Tensor]
Callback = Callable[[int, int], None]


def ddpm(
    denoise: Denoise, x: Tensor, times: Times, *, alpha_bar: Tensor, noise: Noise, callback: Callback | None = None
) -> Tensor:
    """Ancestral sampling from q(x_t' | x_t, x_0) of the visited times, any subset of all (see `posterior`): the small
    variance of Ho et al. 2020 (arXiv 2006.11239, section 3.2)."""
    return ddpm_learned(lambda x, t: (denoise(x, t), 0.0), x, times, alpha_bar=alpha_bar, noise=noise,
                        callback=callback)


def ddpm_learned(
    denoise: Callable[[Tensor, int], tuple[Tensor, Tensor | float]],
    x: Tensor,
    times: Times,
    *,
    alpha_bar: Tensor,
    noise: Noise,
    callback: Callback | None = None,
) -> Tensor:
    """`ddpm` with the variance that the network learned: `denoise` returns x_0 and where each voxel's variance lies
    between the smallest (0) and the largest (1) of a step (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15)."""
    for done, (t, t_next) in enumerate(times, 1):
        step = posterior(float(alpha_bar[t]), float(alpha_bar[t_next]))
        clean, fraction = denoise(x, t)
        x = step.x0 * clean + step.x * x
        if t_next > 0:
            x = x + step.variance(fraction) ** 0.5 * noise()
        _report(callback, done, times)
    return x


def ddim(
    denoise: Denoise,
    x: Tensor,
    times: Times,
    *,
    alpha_bar: Tensor,
    noise: Noise | None = None,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16); eta = 0 is deterministic and needs no noise, eta =
    1 is `ddpm`."""
    for done, (t, t_next) in enumerate(times, 1):
        now, after = float(alpha_bar[t]), float(alpha_bar[t_next])
        drawn = eta * math.sqrt((1 - after) / (1 - now) * (1 - now / after))  # standard deviation of the fresh noise
        scale = math.sqrt(max(1 - after - drawn**2, 0.0) / (1 - now))
        x = (math.sqrt(after) - math.sqrt(now) * scale) * denoise(x, t) + scale * x
        if drawn > 0:
            if noise is None:
                raise ValueError("DDIM with eta above 0 needs noise")
            x = x + drawn * noise()
        _report(callback, done, times)
    return x


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    times: Times,
    *,
    alpha_bar: Tensor,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M), deterministic (Lu et al. 2022, arXiv 2211.01095, algorithm 2); `noise` is not used.

    x' = (sigma'/sigma) x - alpha' (exp(-h) - 1) D with h = lambda' - lambda, written without exp: alpha' exp(-h) =
    alpha sigma'/sigma. D extrapolates the last two estimates of x_0. The first step has only one, and the last, to t =
    0 where lambda is infinite, uses only one: there x' = x_0.
    """
    previous, h_previous = None, math.nan  # there is none before the first step
    for done, (t, t_next) in enumerate(times, 1):
        now, after = float(alpha_bar[t]), float(alpha_bar[t_next])
        estimate = denoise(x, t)
        scale = math.sqrt((1 - after) / (1 - now))
        h = _half_log_snr(after) - _half_log_snr(now) if t_next > 0 else math.inf
        d = estimate
        if previous is not None and t_next > 0:
            d = estimate + (h / (2 * h_previous)) * (estimate - previous)
        x = (math.sqrt(after) - math.sqrt(now) * scale) * d + scale * x
        previous, h_previous = estimate, h
        _report(callback, done, times)
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddpm": ddpm, "ddim": ddim, "dpmpp": dpmpp_2m}


def _half_log_snr(alpha_bar: float) -> float:
    """lambda = log(alpha / sigma)."""
    return (math.log(alpha_bar) - math.log1p(-alpha_bar)) / 2


def _report(callback: Callback | None, done: int, times: Times) -> None:
    if callback is not None:
        callback(done, len(times))
