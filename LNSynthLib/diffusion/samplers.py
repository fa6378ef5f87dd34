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

from .schedules import Times

Denoise = Callable[[Tensor, int], Tensor]
Noise = Callable[[], Tensor]
Callback = Callable[[int, int], None]


def ddpm(
    denoise: Denoise, x: Tensor, times: Times, *, alpha_bar: Tensor, noise: Noise, callback: Callback | None = None
) -> Tensor:
    """Ancestral sampling from q(x_t' | x_t, x_0) (Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7, the small variance).

    The posterior is that of the visited times, its beta being 1 - alpha_bar_t / alpha_bar_t' (Nichol and Dhariwal 2021,
    arXiv 2102.09672, eq. 19), so any subset of times is right.
    """
    for done, (t, t_next) in enumerate(times, 1):
        now, after = float(alpha_bar[t]), float(alpha_bar[t_next])
        kept = now / after
        mean_x0 = math.sqrt(after) * (1 - kept) / (1 - now)
        mean_x = math.sqrt(kept) * (1 - after) / (1 - now)
        x = mean_x0 * denoise(x, t) + mean_x * x
        if t_next > 0:
            x = x + math.sqrt((1 - after) / (1 - now) * (1 - kept)) * noise()
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
    previous, h_previous = None, None
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


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpmpp": dpmpp_2m}


def _half_log_snr(alpha_bar: float) -> float:
    """lambda = log(alpha / sigma)."""
    return (math.log(alpha_bar) - math.log1p(-alpha_bar)) / 2


def _report(callback: Callback | None, done: int, times: Times) -> None:
    if callback is not None:
        callback(done, len(times))
