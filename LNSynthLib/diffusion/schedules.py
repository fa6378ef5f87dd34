"""Noise schedules: the share of signal and noise at each time t, and the times that a sampler visits.

The forward process is x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (Ho et al. 2020, arXiv 2006.11239, eq.
4). A schedule is the float64 tensor alpha_bar of length T + 1, where index 0 is the clean volume (exactly 1) and t = 1
.. T are the times a network is trained at. A list of times is a list of integer pairs (t, t_next), descending, the
last of which ends at t_next = 0.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from ..runtime.errors import LNSynthError

Times = list[tuple[int, int]]


def cosine(timesteps: int, s: float = 0.008, beta_max: float = 0.9999) -> Tensor:
    """Cosine schedule: alpha_bar_t = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) * pi/2), with each beta_t at most
    `beta_max`.

    Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17; LN-DDPM, section 4.2. Returns alpha_bar, float64, (timesteps +
    1,).
    """
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((t + s) / (1 + s) * (math.pi / 2)) ** 2
    return _from_betas(1 - f[1:] / f[:-1], beta_max)


def linear(timesteps: int, start: float = 1e-4, end: float = 0.02, beta_max: float = 0.9999) -> Tensor:
    """Linear schedule: beta_t runs linearly from `start` to `end` (Ho et al. 2020, section 4). Returns alpha_bar,
    float64, (timesteps + 1,).

    The betas are those of 1000 timesteps; with T of them they are multiplied by 1000 / T, so that as little of the
    clean volume is left at the end (as in the code of Nichol and Dhariwal 2021).
    """
    return _from_betas(torch.linspace(start, end, timesteps, dtype=torch.float64) * (1000 / timesteps), beta_max)


def scaled_linear(timesteps: int, start: float = 0.0015, end: float = 0.0195, beta_max: float = 0.9999) -> Tensor:
    """Scaled linear schedule: sqrt(beta_t) runs linearly (Rombach et al. 2022, arXiv 2112.10752, released code; the
    defaults are those of its LDM configurations). Returns alpha_bar, float64, (timesteps + 1,). Betas scale with the
    number of timesteps as in `linear`."""
    roots = torch.linspace(math.sqrt(start), math.sqrt(end), timesteps, dtype=torch.float64)
    return _from_betas(roots**2 * (1000 / timesteps), beta_max)


SCHEDULES = {"cosine": cosine, "linear": linear, "scaled_linear": scaled_linear}


def _from_betas(betas: Tensor, beta_max: float) -> Tensor:
    """alpha_bar_t = prod_{s <= t} (1 - beta_s), alpha_bar_0 = 1 (Ho et al. 2020, section 2); betas up to `beta_max`."""
    if not 0 < beta_max < 1:
        raise LNSynthError(f"generator: beta_max must lie between 0 and 1, and is {beta_max:g}; correct the settings.")
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas.clamp(max=beta_max), dim=0)])


def half_log_snr(alpha_bar: Tensor) -> Tensor:
    """lambda_t = log(alpha_t / sigma_t) = log(alpha_bar / (1 - alpha_bar)) / 2 (Lu et al. 2022, arXiv 2206.00927,
    section 2.2); inf at t = 0."""
    return torch.logit(alpha_bar.double()) / 2


def diffuse(clean: Tensor, noise: Tensor, t: int | Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (Ho et al. 2020, eq. 4).

    `clean` and `noise` are (B, ...), `t` one time for all of them or an integer tensor (B,). Returns x_t in the dtype
    of `clean`.
    """
    alpha, sigma = _alpha_sigma(t, alpha_bar, like=clean)
    return alpha * clean + sigma * noise


def clean_from_noise(x: Tensor, noise: Tensor, t: int | Tensor, alpha_bar: Tensor) -> Tensor:
    """x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t): eq. 4 of Ho et al. solved for the clean volume.

    At t = T of a cosine schedule sqrt(alpha_bar) is about 5e-5, so an error of the network grows 20,000-fold: clip
    what is returned to the range of the data. Shapes as for `diffuse`.
    """
    alpha, sigma = _alpha_sigma(t, alpha_bar, like=x)
    return (x - sigma * noise) / alpha


def _alpha_sigma(t: int | Tensor, alpha_bar: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), taken in float64 and only then cast, broadcastable against
    `like`."""
    chosen = alpha_bar.double()[torch.as_tensor(t, device=alpha_bar.device).reshape(-1)]
    chosen = chosen.reshape(-1, *[1] * (like.dim() - 1))
    return chosen.sqrt().to(like), (1 - chosen).sqrt().to(like)


def spaced(timesteps: int, steps: int) -> Times:
    """`steps` pairs (t, t_next) evenly spaced in time from T to 0; with steps = T every time is visited."""
    _check_steps(steps, timesteps)
    times = [(2 * timesteps * left + steps) // (2 * steps) for left in range(steps, -1, -1)]  # rounded half up, exactly
    return list(pairwise(times))


def log_snr_uniform(alpha_bar: Tensor, steps: int, lambda_min: float = -5.1) -> Times:
    """`steps` pairs evenly spaced in lambda = log(alpha / sigma), from the noisiest time with lambda >= `lambda_min`
    to t = 1, then 0.

    Lu et al. 2022, arXiv 2211.01095 (DPM-Solver++), section 6 and appendix; `lambda_min` cuts off the end of a cosine
    schedule, where lambda runs off to minus infinity (their `lambda_min_clipped` = -5.1). Each lambda is rounded to
    the nearest time not yet used, so that exactly `steps` distinct times remain.
    """
    lam = half_log_snr(alpha_bar)
    first = int((lam >= lambda_min).nonzero().max())
    _check_steps(steps, first)
    times, before = [], first + 1
    for i, wanted in enumerate(torch.linspace(float(lam[first]), float(lam[1]), steps, dtype=torch.float64)):
        nearest = int((lam[1 : first + 1] - wanted).abs().argmin()) + 1
        before = min(max(nearest, steps - i), before - 1)  # below the time before, and room for those to come
        times.append(before)
    return list(pairwise([*times, 0]))


def _check_steps(steps: int, available: int) -> None:
    if not 1 <= steps <= available:
        raise LNSynthError(
            f"{steps} sampling steps were asked for, but this schedule has {available} times: choose 1 to {available}."
        )
