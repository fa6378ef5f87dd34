"""Med-DDPM (Dorjsembe et al. 2024, arXiv 2305.18453): a diffusion model with its masks beside the noised volume."""

from dataclasses import dataclass, field

import torch
from monai.networks.nets import DiffusionModelUNet

from ..conditions.form import DataForm
from ..masks.labels import AIR
from ..runtime.errors import LNSynthError
from .denoising import DiffusionSettings
from .protocol import check_form
from .voxel_diffusion import VoxelDiffusion


@dataclass(frozen=True)
class UNetSettings:
    channels: tuple[int, ...] = (64, 64, 128, 192, 256)  # width of each level; one halving between neighbours
    blocks: int = 1                                      # residual blocks a level going down, and one more going up
    groups: int = 32                                     # of every group normalisation
    attention: tuple[int, ...] = (3,)                    # levels with self-attention, 0 the finest; the middle has it


@dataclass(frozen=True)
class MedDDPMSettings(DiffusionSettings):
    timesteps: int = 250
    form: DataForm = field(default_factory=DataForm)
    denoiser: UNetSettings = field(default_factory=UNetSettings)


class MedDDPM(VoxelDiffusion):
    kind = "medddpm"

    def __init__(self, settings: MedDDPMSettings):
        super().__init__(settings)
        net = settings.denoiser
        if len(net.channels) < 2 or net.blocks < 1 or any(w % net.groups for w in net.channels) or not (
                set(net.attention) <= set(range(len(net.channels)))):
            raise LNSynthError(f"denoiser: channels {list(net.channels)} need two levels or more, each a multiple of "
                               f"groups = {net.groups}, at least one block, and attention at levels from 0 to "
                               f"{len(net.channels) - 1}; correct the settings.")
        # The authors' U-Net: convolutions that halve and double, attention with one head at some levels and in the
        # middle, the last convolution zero at first. But MONAI's attention is at work from the start, where theirs ends
        # in a layer that is zero at first.
        self.denoiser = DiffusionModelUNet(
            spatial_dims=3, in_channels=3, out_channels=1, channels=net.channels, num_res_blocks=net.blocks,
            norm_num_groups=net.groups, attention_levels=[i in net.attention for i in range(len(net.channels))],
            num_head_channels=net.channels, use_flash_attention=True)
        check_form(self.form, self.stride)

    @property
    def stride(self) -> int:
        return 2 ** (len(self.settings.denoiser.channels) - 1)

    def predict(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        x = self.process.scaled(x, t, self.expected(condition))
        return self.denoiser(torch.cat([x, self.masks(condition)], dim=1), t)

    def masks(self, condition: torch.Tensor) -> torch.Tensor:
        """(B, 2, ...): nodes, and the body, which is all that is not air; -1 outside and 1 inside, as the authors'."""
        body = 1 - self.form.anatomy(condition)[:, AIR:AIR + 1]
        return 2 * torch.cat([self.form.nodes(condition), body], dim=1) - 1
