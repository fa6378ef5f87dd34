"""Semantic diffusion models (SDM, Wang et al. 2022, arXiv 2207.00050): what NASDM and Echo from noise share."""

from dataclasses import dataclass, field

import torch

from ..conditions.form import DataForm
from .denoising import Denoising
from .learned_variance import LearnedVariance, LearnedVarianceSettings, hu_levels
from .networks.sdm import SDMNetwork, SDMNetworkSettings
from .protocol import Batch, Streams, check_form, draw
from .voxel_diffusion import VoxelDiffusion


@dataclass(frozen=True)
class SDMSettings(LearnedVarianceSettings):
    form: DataForm = field(default_factory=DataForm)
    denoiser: SDMNetworkSettings = field(default_factory=SDMNetworkSettings)
    drop: float = 0.0      # share of training samples whose layout is left out, all zero; guidance needs some
    guidance: float = 1.0  # scale s of classifier-free guidance in sampling, see `guided`; 1 is none


class SemanticDiffusion(VoxelDiffusion):
    """All of such a generator but its kind and `layout(condition)`, the semantic layout that its denoiser is given."""

    def __init__(self, settings: SDMSettings):
        super().__init__(settings)
        layout_channels = self.layout(torch.zeros(1, self.form.condition_channels, 2, 2, 2)).shape[1]
        self.denoiser = SDMNetwork(settings.denoiser, layout_channels, 2 if settings.learned_variance else 1)
        self.process = (LearnedVariance(settings, hu_levels(self.form.window)) if settings.learned_variance
                        else Denoising(settings))
        check_form(self.form, self.stride)

    @property
    def stride(self) -> int:
        return self.denoiser.stride

    def loss(self, batch: Batch, streams: Streams, player: str = "denoiser") -> dict[str, torch.Tensor]:
        """See `Generator.loss`; a share `drop` of the samples is trained without layout."""
        condition, image = batch["condition"], batch["image"]
        kept = (draw(torch.rand, image.shape[:1], streams) >= self.settings.drop).to(condition)
        layout = kept.reshape(-1, 1, 1, 1, 1) * self.layout(condition)
        expected = self.expected(condition)
        return self.process.loss(lambda x, t: self.denoiser(self.process.scaled(x, t, expected), t, layout), image,
                                 streams, expected)

    def predict(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """The denoiser's output in sampling: guided, at twice the cost, where the settings say so."""
        x, layout = self.process.scaled(x, t, self.expected(condition)), self.layout(condition)
        output = self.denoiser(x, t, layout)
        if self.settings.guidance == 1:
            return output
        return guided(output, self.denoiser(x, t, torch.zeros_like(layout)), self.settings.guidance)


def guided(output: torch.Tensor, without: torch.Tensor, scale: float) -> torch.Tensor:
    """eps(x | 0) + s (eps(x | y) - eps(x | 0)) in the first channel, as the released code of SDM and NASDM has it; a
    learned variance, the second channel, is that with layout.

    Velocity and x_0 are affine in the noise at a given x_t, so guiding any of them is guiding the noise.
    """
    return torch.cat([torch.lerp(without[:, :1], output[:, :1], scale), output[:, 1:]], dim=1)
