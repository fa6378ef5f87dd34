"""LN-DDPM (arXiv 2403.17770): a diffusion model of CT conditioned on anatomy and lymph node masks."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from ..diffusion.samplers import SAMPLERS
from ..diffusion.schedules import SCHEDULES, clean_from_noise, diffuse, log_snr_uniform, spaced
from ..runtime.errors import LNSynthError
from ..runtime.seeds import torch_rng
from .denoiser import Denoiser, DenoiserSettings
from .protocol import DataForm, StepCallback


@dataclass(frozen=True)
class LNDDPMSettings:
    form: DataForm = field(default_factory=DataForm)
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)
    anatomy: bool = True                             # False: the node mask is the only condition (paper, Table 3)
    timesteps: int = 300                             # T
    schedule: Literal["cosine", "linear", "scaled_linear"] = "cosine"
    prediction: Literal["noise", "velocity", "preconditioned"] = "noise"  # what is learned; the paper's is the noise
    data_std: float = 0.5                            # of x_0 about its expectation; for "preconditioned" alone
    loss: Literal["l1", "l2"] = "l1"


class LNDDPM(nn.Module):
    kind = "lnddpm"

    def __init__(self, settings: LNDDPMSettings):
        super().__init__()
        self.settings = settings
        # A plain tensor and no buffer: neither EMA nor a checkpoint has any business with the schedule.
        self.alpha_bar = SCHEDULES[settings.schedule](settings.timesteps)
        self.denoiser = Denoiser(settings.denoiser, self._used(torch.empty(1, self.form.condition_channels)).shape[1])
        if any(side % self.stride for side in self.form.patch):
            raise LNSynthError(f"The sides of form.patch, {list(self.form.patch)}, must be multiples of {self.stride}, "
                               f"as {len(settings.denoiser.channels)} levels need; correct the settings.")

    @property
    def form(self) -> DataForm:
        return self.settings.form

    @property
    def stride(self) -> int:
        return self.denoiser.stride

    def _used(self, condition: torch.Tensor) -> torch.Tensor:
        return condition if self.settings.anatomy else self._nodes(condition)

    def _nodes(self, condition: torch.Tensor) -> torch.Tensor:
        c = self.form.anatomy_channels
        return condition[:, c:c + 1]

    def _expected(self, condition: torch.Tensor) -> torch.Tensor | float:
        return condition[:, -1:] if self.form.expected_hu else 0.0

    def _gaussian(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor):
        """(mean, deviation, x standardised): what x_t tells of x_0 if x_0 were Gaussian about its expectation e.

        With x_t = alpha x_0 + sigma eps and x_0 ~ N(e, s^2): mean = e + alpha s^2 / v (x_t - alpha e), deviation =
        s sigma / sqrt(v), v = alpha^2 s^2 + sigma^2. With e = 0 these are c_skip, c_out and c_in of Karras et al.
        2022 (arXiv 2206.00364, eq. 7 and table 1) in variance-preserving form; e is the expected HU where given.
        """
        a = self.alpha_bar[t.cpu()].reshape(-1, 1, 1, 1, 1)
        s, e = self.settings.data_std, self._expected(condition)
        total = a * s**2 + (1 - a)
        alpha, gain, deviation, scale = (c.to(x) for c in (a.sqrt(), a.sqrt() * s**2 / total,
                                                           s * ((1 - a) / total).sqrt(), total.rsqrt()))
        centred = x - alpha * e
        return e + gain * centred, deviation, scale * centred

    def predict(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """The denoiser's output for x_t, (B, 1, X, Y, Z); t is (B,). What it means is `settings.prediction`:

        noise           eps
        velocity        alpha eps - sigma x_0 (Salimans and Ho 2022, arXiv 2202.00512, eq. 11)
        preconditioned  (x_0 - mean) / deviation, see `_gaussian`
        """
        if self.settings.prediction == "preconditioned":
            x = self._gaussian(x, t, condition)[2]
        return self.denoiser(x, t, self._used(condition), self._nodes(condition))

    def forward(self, batch: dict[str, torch.Tensor], rng: torch.Generator) -> dict[str, torch.Tensor]:
        """`loss`, under the name that wrappers for many GPUs intercept."""
        return self.loss(batch, rng)

    def loss(self, batch: dict[str, torch.Tensor], rng: torch.Generator) -> dict[str, torch.Tensor]:
        """Ho et al. 2020, algorithm 1 (with the norm of the settings; the paper's is L1)."""
        image, condition = batch["image"], batch["condition"]
        t = torch.randint(1, self.settings.timesteps + 1, (len(image),), generator=rng)
        noise = torch.randn(image.shape, generator=rng).to(image)
        x, target = diffuse(image, noise, t, self.alpha_bar), noise
        if self.settings.prediction == "velocity":
            target = diffuse(noise, -image, t, self.alpha_bar)
        elif self.settings.prediction == "preconditioned":
            mean, deviation, _ = self._gaussian(x, t, condition)
            target = (image - mean) / deviation
        output = self.predict(x, t.to(image.device), condition)
        norm = F.l1_loss if self.settings.loss == "l1" else F.mse_loss
        return {"loss": norm(output.float(), target)}

    def clean(self, x: torch.Tensor, t: int, condition: torch.Tensor) -> torch.Tensor:
        """The denoiser's estimate of x_0 from x_t, clipped to [-1, 1]."""
        times = torch.full((len(x),), t, device=x.device)
        output = self.predict(x, times, condition)
        if self.settings.prediction == "velocity":
            estimate = diffuse(x, -output, t, self.alpha_bar)  # x_0 = alpha x_t - sigma v
        elif self.settings.prediction == "preconditioned":
            mean, deviation, _ = self._gaussian(x, times, condition)
            estimate = mean + deviation * output
        else:
            estimate = clean_from_noise(x, output, t, self.alpha_bar)
        return estimate.clamp(-1, 1)

    @torch.no_grad()
    def sample(self, condition: torch.Tensor, *, seeds: list[int], steps: int | None = None, sampler: str = "dpmpp",
               known: torch.Tensor | None = None, keep: torch.Tensor | None = None,
               callback: StepCallback | None = None) -> torch.Tensor:
        """See `Generator.sample`. steps: 25 for dpmpp, 50 for ddim, T for ddpm unless given."""
        if sampler not in SAMPLERS:
            raise LNSynthError(f"There is no sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}.")
        shape = (len(condition), 1, *condition.shape[2:])
        if any(side % self.stride for side in shape[2:]) or len(seeds) != len(condition):
            raise LNSynthError(f"A patch of {'x'.join(map(str, shape[2:]))} voxels with {len(seeds)} seed(s) for "
                               f"{len(condition)} condition(s) cannot be sampled; sides must be multiples of "
                               f"{self.stride}, with one seed a condition.")
        steps = steps or {"dpmpp": 25, "ddim": 50}.get(sampler, self.settings.timesteps)
        times = (log_snr_uniform(self.alpha_bar, steps) if sampler == "dpmpp"
                 else spaced(self.settings.timesteps, steps))
        streams = [torch_rng(seed, "sampler") for seed in seeds]

        def noise() -> torch.Tensor:
            return torch.stack([torch.randn(shape[1:], generator=s) for s in streams]).to(condition)

        def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
            estimate = self.clean(x, t, condition)
            # With its clean value known, a voxel stays the real one at exactly the noise level of each step.
            return estimate if known is None else torch.where(keep > 0, known, estimate)

        x = noise()
        if known is not None:
            x = torch.where(keep > 0, diffuse(known, x, times[0][0], self.alpha_bar), x)
        training = self.training
        self.eval()
        try:
            x = SAMPLERS[sampler](denoise, x, times, alpha_bar=self.alpha_bar, noise=noise, callback=callback)
        finally:
            self.train(training)
        if not torch.isfinite(x).all():
            raise LNSynthError("The generator made values that are no numbers; its weights are unusable: train it with "
                               "a lower learning rate, or choose another.")
        return x.clamp(-1, 1)
