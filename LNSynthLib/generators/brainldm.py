"""BrainLDM (Pinaya et al. 2022, arXiv 2209.07162) as LN-DDPM's paper compares with it: diffusion in the latents of an
autoencoder, conditioned on the node mask alone, by cross-attention to a trainable encoder's tokens."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..conditions.form import DataForm
from ..diffusion.samplers import SAMPLERS
from ..runtime.errors import LNSynthError
from .denoising import Denoising, DiffusionSettings
from .networks.autoencoder import (
    Autoencoder,
    AutoencoderSettings,
    LatentScale,
    discriminator,
    divergence,
    gaussian,
    verdict,
)
from .networks.brainldm import LatentDenoiser, LatentDenoiserSettings
from .protocol import Batch, StepCallback, Streams, check_form, check_numbers, check_patch, evaluating

# Latents have unit standard deviation but, unlike voxels, no range. None is as far out as this, so that clipping here
# changes no sensible estimate, yet keeps one at the noisiest times, where errors grow many times over, in bounds.
BOUND = 10.0


@dataclass(frozen=True)
class BrainLDMSettings(DiffusionSettings):
    """Noise and schedule as in BrainLDM's released weights, whose betas end at 0.0205 where `scaled_linear` has
    Rombach et al.'s 0.0195; the loss as in the authors' training code."""

    timesteps: int = 1000
    schedule: Literal["cosine", "linear", "scaled_linear"] = "scaled_linear"
    data_std: float = 1.0                  # what the latent scale makes it
    loss: Literal["l1", "l2"] = "l2"
    form: DataForm = field(default_factory=DataForm)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    denoiser: LatentDenoiserSettings = field(default_factory=LatentDenoiserSettings)
    autoencoder_share: float = 0.5         # of the training's steps, before the denoiser's
    adversarial_start: float = 0.07        # share of the autoencoder's steps after which it has an adversary: 5 of 75
    #                                        epochs in the authors' code


class BrainLDM(nn.Module):
    kind = "brainldm"
    samplers = tuple(SAMPLERS)

    def __init__(self, settings: BrainLDMSettings):
        super().__init__()
        self.settings = settings
        if not (0 < settings.autoencoder_share < 1 and 0 <= settings.adversarial_start < 1):
            raise LNSynthError("generator: autoencoder_share must lie between 0 and 1, and adversarial_start be at "
                               "least 0 and below 1; correct the settings.")
        self.process = Denoising(settings)
        self.autoencoder = Autoencoder(settings.autoencoder)
        self.discriminator = discriminator(settings.autoencoder)
        self.scale = LatentScale()
        self.denoiser = LatentDenoiser(settings.denoiser, settings.autoencoder.latent_channels,
                                       len(settings.autoencoder.channels) - 1)
        # 1 from the discriminator's first turn on: the verdict of one that has learned nothing is only noise.
        self.register_buffer("opposed", torch.zeros(()))
        check_form(self.form, self.stride)

    @property
    def form(self) -> DataForm:
        return self.settings.form

    @property
    def stride(self) -> int:
        return self.autoencoder.stride * self.denoiser.stride

    @property
    def players(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator, "autoencoder": self.autoencoder, "denoiser": self.denoiser}

    def turns(self, progress: float) -> tuple[str, ...]:
        """The autoencoder, soon against its discriminator; then the denoiser, in latents that no longer change."""
        share = self.settings.autoencoder_share
        if progress >= share:
            return ("denoiser",)
        return ("discriminator", "autoencoder") if progress >= share * self.settings.adversarial_start else (
            "autoencoder",)

    def begin(self, turns: tuple[str, ...], samples: Iterable[tuple[Batch, Streams]]) -> None:
        """See `Generator.begin`: the scale of latents is measured once they no longer change, before one is noised."""
        if turns == ("denoiser",):
            with torch.no_grad():
                self.scale.measure(self.autoencoder.code(batch["image"], streams) for batch, streams in samples)

    def forward(self, batch: Batch, streams: Streams, player: str = "denoiser") -> dict[str, Tensor]:
        """`loss`, under the name that wrappers for many GPUs intercept."""
        return self.loss(batch, streams, player)

    def loss(self, batch: Batch, streams: Streams, player: str = "denoiser") -> dict[str, Tensor]:
        """See `Generator.loss`."""
        image = batch["image"]
        if player == "autoencoder":
            return self._reconstruct(image, streams)
        if player == "discriminator":
            self.opposed.fill_(1)
            with torch.no_grad():
                decoded = self.autoencoder.decode(self.autoencoder.code(image, streams))
            verdicts = verdict(self.discriminator, decoded, False), verdict(self.discriminator, image, True)
            return {"loss": sum(verdicts) / 2}
        with torch.no_grad():
            latents = self.autoencoder.code(image, streams) / self.scale.deviation
        nodes = self.form.nodes(batch["condition"])
        return self.process.loss(lambda x, t: self.predict(x, t, nodes), latents, streams)

    def _reconstruct(self, image: Tensor, streams: Streams) -> dict[str, Tensor]:
        """L1 + KL + adversarial (paper, section 2; the authors' training code for how each is reduced)."""
        mean, deviation = self.autoencoder.encode(image)
        decoded = self.autoencoder.decode(gaussian(mean, deviation, streams))
        terms = {"l1": F.l1_loss(decoded.float(), image), "kl": divergence(mean, deviation),
                 "adversarial": self.opposed * verdict(self.discriminator, decoded, True)}
        weights = self.settings.autoencoder
        return {"loss": terms["l1"] + weights.kl_weight * terms["kl"]
                + weights.adversarial_weight * terms["adversarial"], **terms}

    def predict(self, x: Tensor, t: Tensor, nodes: Tensor) -> Tensor:
        """The denoiser's output, as `settings.prediction` says, for noised latents (B, latent_channels, ...)."""
        return self.denoiser(self.process.scaled(x, t), t, nodes)

    @torch.no_grad()
    def sample(self, condition: Tensor, *, seeds: list[int], steps: int | None = None, sampler: str = "dpmpp",
               known: Tensor | None = None, keep: Tensor | None = None,
               callback: StepCallback | None = None) -> Tensor:
        """See `Generator.sample`; steps: 25 for dpmpp, 50 for ddim, T for ddpm unless given.

        In place, the latents all of whose voxels are kept are those of the real volume throughout, so that what is made
        goes with them; after decoding, the kept voxels themselves are put back.
        """
        check_patch(condition, seeds, self.stride)
        nodes, stride = self.form.nodes(condition), self.autoencoder.stride
        shape = (len(condition), self.settings.autoencoder.latent_channels, *(n // stride for n in condition.shape[2:]))
        inside = {}
        with evaluating(self):
            if known is not None:
                inside = {"known": self.autoencoder.encode(known)[0] / self.scale.deviation,
                          "keep": 1 - F.max_pool3d(1 - keep, stride)}
            latents = self.process.sample(lambda x, t: self.predict(x, t, nodes), shape, condition, seeds=seeds,
                                          steps=steps, sampler=sampler, bound=BOUND, callback=callback, **inside)
            volume = self.autoencoder.decode(latents * self.scale.deviation).clamp(-1, 1)
        check_numbers(volume)
        return volume if known is None else torch.where(keep > 0, known, volume)
