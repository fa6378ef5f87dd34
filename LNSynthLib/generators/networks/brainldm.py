"""BrainLDM's denoiser: a U-Net over latents that attends to tokens of the node mask."""

from dataclasses import dataclass

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn

from ...runtime.errors import LNSynthError
from .local_detail import MaskEncoder


@dataclass(frozen=True)
class LatentDenoiserSettings:
    """The defaults are those of BrainLDM's released weights; the tokens are LN-DDPM's."""

    channels: tuple[int, ...] = (256, 512, 768)  # width of each level; one halving between neighbours
    blocks: int = 2                              # residual blocks a level
    groups: int = 32                             # of every group normalisation
    attention: tuple[bool, ...] = (False, True, True)  # which levels attend to the tokens; the middle always does
    heads: int = 1                               # attention heads, which share a level's width
    token_width: int = 64                        # channels of one mask token


class LatentDenoiser(nn.Module):
    """Predicts from (x_t, t, nodes) what its generator asks for.

    x      (B, latent_channels, x, y, z) noised latents; sides multiples of `stride`
    t      (B,) time index
    nodes  (B, 1, X, Y, Z) node mask in {0, 1}, X = x * 2**halvings: one token for each latent
    """

    def __init__(self, settings: LatentDenoiserSettings, latent_channels: int, halvings: int):
        super().__init__()
        widths, groups, heads = settings.channels, settings.groups, settings.heads
        if (len(widths) < 2 or settings.blocks < 1 or any(w % groups or w % heads for w in widths)
                or len(settings.attention) != len(widths) or settings.token_width % 2):
            raise LNSynthError(f"denoiser: channels {list(widths)} need two levels or more, each a multiple of groups "
                               f"= {groups} and of heads = {heads}, one entry of attention a level, at least one block "
                               "and an even token_width; correct the settings.")
        self.stride = 2 ** (len(widths) - 1)
        self.mask_encoder = MaskEncoder(halvings, settings.token_width)
        self.place = nn.Linear(3 * settings.token_width, settings.token_width)
        self.unet = DiffusionModelUNet(
            3, latent_channels, latent_channels, num_res_blocks=settings.blocks, channels=widths,
            attention_levels=settings.attention, norm_num_groups=groups, resblock_updown=True,
            num_head_channels=tuple(width // heads for width in widths), with_conditioning=True,
            cross_attention_dim=settings.token_width, use_flash_attention=True)

    def tokens(self, nodes: Tensor, cells: torch.Size) -> Tensor:
        """(B, N, token_width) of a node mask, N = the number of `cells` (x, y, z).

        Attention does not know in which order its tokens come: each is told its place by sinusoids of its three
        coordinates (Vaswani et al. 2017, section 3.5), or else a mask would say that there are nodes but not where.
        """
        places = torch.cartesian_prod(*(torch.arange(n, device=nodes.device) for n in cells))
        waves = [get_timestep_embedding(axis, self.place.out_features, max_period=100) for axis in places.unbind(1)]
        return self.mask_encoder(nodes) + self.place(torch.cat(waves, dim=1))

    def forward(self, x: Tensor, t: Tensor, nodes: Tensor) -> Tensor:
        return self.unet(x, t, context=self.tokens(nodes, x.shape[2:]))
