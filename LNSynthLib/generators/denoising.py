"""Shared by all diffusion models, in voxels or latents: the training target of a network, and sampling with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..diffusion.samplers import SAMPLERS, ddpm_learned
from ..diffusion.schedules import SCHEDULES, clean_from_noise, diffuse, log_snr_uniform, spaced
from ..runtime.errors import LNSynthError
from ..runtime.seeds import torch_rng
from .protocol import StepCallback, Streams, check_numbers, draw

Network = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, C, ...), t (B,)) -> what `prediction` says, like x_t


@dataclass(frozen=True)
class DiffusionSettings:
    timesteps: int = 300                             # T
    schedule: Literal["cosine", "linear", "scaled_linear"] = "cosine"
    beta_max: float = 0.9999                         # the most noise that one time may add
    prediction: Literal["noise", "velocity", "preconditioned"] = "noise"  # what is learned; the papers' is the noise
    data_std: float = 0.5                            # of x_0 about its expectation; for "preconditioned" alone
    loss: Literal["l1", "l2"] = "l1"


class Denoising:
    """A forward process and what a network's output means in it:

    noise           eps
    velocity        alpha eps - sigma x_0 (Salimans and Ho 2022, arXiv 2202.00512, eq. 11)
    preconditioned  (x_0 - mean) / deviation, see `_gaussian`

    `expected` is what x_0 is expected to be before anything is known of x_t (a number or like x_0); it matters to
    "preconditioned" alone.
    """

    def __init__(self, settings: DiffusionSettings):
        self.settings = settings
        # A plain tensor and no buffer: neither EMA nor a checkpoint has any business with the schedule.
        self.alpha_bar = SCHEDULES[settings.schedule](settings.timesteps, beta_max=settings.beta_max)

    def _gaussian(self, x: Tensor, t: Tensor, expected: Tensor | float):
        """(mean, deviation, x standardised): what x_t tells of x_0 if x_0 were Gaussian about its expectation e.

        With x_t = alpha x_0 + sigma eps and x_0 ~ N(e, s^2): mean = e + alpha s^2 / v (x_t - alpha e), deviation =
        s sigma / sqrt(v), v = alpha^2 s^2 + sigma^2. With e = 0 these are c_skip, c_out and c_in of Karras et al.
        2022 (arXiv 2206.00364, eq. 7 and table 1) in variance-preserving form.
        """
        a = self.alpha_bar[t.cpu()].reshape(-1, *[1] * (x.dim() - 1))
        s = self.settings.data_std
        total = a * s**2 + (1 - a)
        alpha, gain, deviation, scale = (c.to(x) for c in (a.sqrt(), a.sqrt() * s**2 / total,
                                                           s * ((1 - a) / total).sqrt(), total.rsqrt()))
        centred = x - alpha * expected
        return expected + gain * centred, deviation, scale * centred

    def scaled(self, x: Tensor, t: Tensor, expected: Tensor | float = 0.0) -> Tensor:
        """x_t as a network is to see it: standardised for "preconditioned", as it is otherwise."""
        return self._gaussian(x, t, expected)[2] if self.settings.prediction == "preconditioned" else x

    def loss(self, network: Network, clean: Tensor, streams: Streams,
             expected: Tensor | float = 0.0) -> dict[str, Tensor]:
        """Ho et al. 2020, algorithm 1, with the norm of the settings (LN-DDPM's is L1). clean: x_0, (B, C, ...)."""
        t = torch.stack([torch.randint(1, self.settings.timesteps + 1, (), generator=stream) for stream in streams])
        noise = draw(torch.randn, clean.shape, streams).to(clean)
        x, target = diffuse(clean, noise, t, self.alpha_bar), noise
        if self.settings.prediction == "velocity":
            target = diffuse(noise, -clean, t, self.alpha_bar)
        elif self.settings.prediction == "preconditioned":
            mean, deviation, _ = self._gaussian(x, t, expected)
            target = (clean - mean) / deviation
        output = network(x, t.to(clean.device)).float()
        return self.judged(output, target, clean, x, t, expected)

    def judged(self, output: Tensor, target: Tensor, clean: Tensor, x: Tensor, t: Tensor,
               expected: Tensor | float) -> dict[str, Tensor]:
        """Scalars to log for the network's output for x_t, "loss" being the one to minimise; t (B,)."""
        norm = F.l1_loss if self.settings.loss == "l1" else F.mse_loss
        return {"loss": norm(output, target)}

    def clean(self, output: Tensor, x: Tensor, t: int | Tensor, expected: Tensor | float = 0.0) -> Tensor:
        """The estimate of x_0 that the network's output for x_t means; not clipped. t: one for all, or (B,)."""
        if self.settings.prediction == "velocity":
            return diffuse(x, -output, t, self.alpha_bar)  # x_0 = alpha x_t - sigma v
        if self.settings.prediction == "preconditioned":
            mean, deviation, _ = self._gaussian(x, torch.as_tensor(t), expected)
            return mean + deviation * output
        return clean_from_noise(x, output, t, self.alpha_bar)

    def fraction(self, output: Tensor) -> Tensor | float:
        """Where the variance of a step of `ddpm` lies between the smallest and the largest: the smallest."""
        return 0.0

    def sample(self, network: Network, shape: tuple[int, ...], like: Tensor, *, seeds: list[int],
               steps: int | None = None, sampler: str = "dpmpp", bound: float = 1.0, expected: Tensor | float = 0.0,
               known: Tensor | None = None, keep: Tensor | None = None,
               callback: StepCallback | None = None) -> Tensor:
        """x_0 of `shape` (B, C, ...), one a seed, on the device and in the type of `like`.

        steps        25 for dpmpp, 50 for ddim, T for ddpm unless given
        bound        every estimate of x_0 is clipped to +- this
        known, keep  where `keep` > 0 the result is `known`: with its clean value known at each step, a voxel stays
                     the real one at exactly that step's noise level

        Raises LNSynthError for an unknown sampler, and where the output is not finite.
        """
        if sampler not in SAMPLERS:
            raise LNSynthError(f"There is no sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}.")
        steps = steps or {"dpmpp": 25, "ddim": 50}.get(sampler, self.settings.timesteps)
        times = (log_snr_uniform(self.alpha_bar, steps) if sampler == "dpmpp"
                 else spaced(self.settings.timesteps, steps))
        streams = [torch_rng(seed, "sampler") for seed in seeds]

        def noise() -> Tensor:
            return draw(torch.randn, shape, streams).to(like)

        def denoise(x: Tensor, t: int) -> tuple[Tensor, Tensor | float]:
            output = network(x, torch.full((len(x),), t, device=x.device))
            estimate, fraction = self.clean(output, x, t, expected).clamp(-bound, bound), self.fraction(output)
            if known is None:
                return estimate, fraction
            # Where x_0 is known the smallest variance is right, and keeps the noise level.
            return torch.where(keep > 0, known, estimate), fraction * (keep <= 0)

        x = noise()
        if known is not None:
            x = torch.where(keep > 0, diffuse(known, x, times[0][0], self.alpha_bar), x)
        rest = {"alpha_bar": self.alpha_bar, "noise": noise, "callback": callback}
        x = (ddpm_learned(denoise, x, times, **rest) if sampler == "ddpm"
             else SAMPLERS[sampler](lambda x, t: denoise(x, t)[0], x, times, **rest))
        check_numbers(x)
        return x.clamp(-bound, bound)
