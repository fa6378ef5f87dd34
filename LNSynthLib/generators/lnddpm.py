"""LN-DDPM (arXiv 2403.17770): a diffusion model of CT conditioned on anatomy and lymph node masks."""

from dataclasses import dataclass, field

import torch

from ..conditions.form import DataForm
from .denoising import DiffusionSettings
from .networks.lnddpm import Denoiser, DenoiserSettings
from .protocol import check_form
from .voxel_diffusion import VoxelDiffusion


@dataclass(frozen=True)
class LNDDPMSettings(DiffusionSettings):
    form: DataForm = field(default_factory=DataForm)
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)
    anatomy: bool = True                             # False: the node mask is the only condition (paper, Table 3)


class LNDDPM(VoxelDiffusion):
    kind = "lnddpm"

    def __init__(self, settings: LNDDPMSettings):
        super().__init__(settings)
        self.denoiser = Denoiser(settings.denoiser, self._used(torch.empty(1, self.form.condition_channels)).shape[1])
        check_form(self.form, self.stride)

    @property
    def stride(self) -> int:
        return self.denoiser.stride

    def _used(self, condition: torch.Tensor) -> torch.Tensor:
        return condition if self.settings.anatomy else self.form.nodes(condition)

    def predict(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Global structure conditioning: the condition beside x_t; local detail conditioning: the nodes once more."""
        x = self.process.scaled(x, t, self.expected(condition))
        return self.denoiser(x, t, self._used(condition), self.form.nodes(condition))
