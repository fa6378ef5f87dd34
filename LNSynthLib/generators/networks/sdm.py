"""The network of semantic diffusion models (SDM, Wang et al. 2022, arXiv 2207.00050) in 3D: the noised volume goes into
the encoder of a U-Net, the semantic layout into its decoder, through SPADE at every normalisation there.

As in the authors' released code, built on that of Dhariwal and Nichol 2021 (arXiv 2105.05233): residual blocks also
halve and double, and the time scales and shifts the second normalisation of each.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...runtime.errors import LNSynthError
from .spade_norm import SpadeNorm


@dataclass(frozen=True)
class SDMNetworkSettings:
    channels: tuple[int, ...] = (32, 32, 64, 96, 128)  # width of each level; one halving between neighbours
    blocks: int = 2                                    # residual blocks a level going down, and one more going up
    groups: int = 32                                   # of every group normalisation
    hidden: int = 32                                   # width of the convolution that each SPADE makes of the layout
    attention: tuple[int, ...] = (3, 4)                # levels with self-attention, 0 the finest; the middle has it
    head_width: int = 32                               # channels of one attention head
    activation_checkpointing: bool = False             # trade a third more time for most of the activations' memory


class PlainNorm(nn.GroupNorm):
    """Group normalisation that looks at no layout: the encoder's."""

    def forward(self, h: torch.Tensor, layout: torch.Tensor) -> torch.Tensor:
        return super().forward(h)


class ResidualBlock(nn.Module):
    """h (B, width_in, ...) and time (B, time) to (B, width_out, ...); `norm` makes a normalisation of a width,
    `resample` halves or doubles."""

    def __init__(self, norm: Callable[[int], nn.Module], width_in: int, width_out: int, time: int,
                 resample: nn.Module | None = None):
        super().__init__()
        self.resample = resample or nn.Identity()
        self.norm_in, self.norm_out = norm(width_in), norm(width_out)
        self.conv_in = nn.Conv3d(width_in, width_out, 3, padding=1)
        self.conv_out = nn.Conv3d(width_out, width_out, 3, padding=1)
        self.time = nn.Linear(time, 2 * width_out)
        self.skip = nn.Identity() if width_in == width_out else nn.Conv3d(width_in, width_out, 1)
        _zero(self.conv_out)

    def forward(self, h: torch.Tensor, time: torch.Tensor, layout: torch.Tensor) -> torch.Tensor:
        r = self.conv_in(self.resample(F.silu(self.norm_in(h, layout))))
        scale, shift = self.time(F.silu(time))[..., None, None, None].chunk(2, dim=1)
        r = self.norm_out(r, layout) * (1 + scale) + shift
        return self.skip(self.resample(h)) + self.conv_out(F.silu(r))


class Stage(nn.Module):
    """A residual block and, where the level has it, self-attention."""

    def __init__(self, block: ResidualBlock, attention: nn.Module | None):
        super().__init__()
        self.block, self.attention = block, attention or nn.Identity()

    def forward(self, h: torch.Tensor, time: torch.Tensor, layout: torch.Tensor) -> torch.Tensor:
        return self.attention(self.block(h, time, layout))


class SDMNetwork(nn.Module):
    """Outputs (B, outputs, X, Y, Z) for

    x       (B, 1, X, Y, Z) noised volume; X, Y, Z multiples of 2 ** (levels - 1)
    t       (B,) time index
    layout  (B, layout_channels, X, Y, Z) semantic layout, one channel a class; all zero stands for none
    """

    def __init__(self, settings: SDMNetworkSettings, layout_channels: int, outputs: int):
        super().__init__()
        self.settings = settings
        widths, n, groups = settings.channels, settings.blocks, settings.groups
        if len(widths) < 2 or n < 1 or any(w % groups for w in widths):
            raise LNSynthError(f"denoiser: channels {list(widths)} need two levels or more, each a multiple of "
                               f"groups = {groups}, and at least one block; correct the settings.")
        attended = {*settings.attention, len(widths) - 1}
        if not attended <= set(range(len(widths))) or any(widths[level] % settings.head_width for level in attended):
            raise LNSynthError(f"denoiser: attention {list(settings.attention)} must name levels from 0 to "
                               f"{len(widths) - 1}, their channels and the last level's multiples of head_width = "
                               f"{settings.head_width}; correct the settings.")
        time = 4 * widths[0]
        self.time = nn.Sequential(nn.Linear(widths[0], time), nn.SiLU(), nn.Linear(time, time))

        def plain(width):
            return PlainNorm(groups, width)

        def spade(width):
            return SpadeNorm(nn.GroupNorm(groups, width, affine=False), width, layout_channels, settings.hidden)

        def attention(level):
            block = SpatialAttentionBlock(3, widths[level], settings.head_width, groups, use_flash_attention=True)
            _zero(block.attn.out_proj)
            return block

        def stage(norm, width_in, level):
            return Stage(ResidualBlock(norm, width_in, widths[level], time),
                         attention(level) if level in settings.attention else None)

        self.conv_in = nn.Conv3d(1, widths[0], 3, padding=1)
        self.down, width, skips = nn.ModuleList(), widths[0], [widths[0]]
        for level, wide in enumerate(widths):
            if level:
                self.down.append(ResidualBlock(plain, width, width, time, nn.AvgPool3d(2)))
                skips.append(width)
            for _ in range(n):
                self.down.append(stage(plain, width, level))
                skips.append(width := wide)
        self.middle = nn.ModuleList([Stage(ResidualBlock(spade, width, width, time), attention(-1)),
                                     ResidualBlock(spade, width, width, time)])
        self.up, self.doublings = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            stages = nn.ModuleList()
            for _ in range(n + 1):
                stages.append(stage(spade, width + skips.pop(), level))
                width = widths[level]
            self.up.append(stages)
            if level:
                self.doublings.append(ResidualBlock(spade, width, width, time, nn.Upsample(scale_factor=2)))
        self.norm_out = nn.GroupNorm(groups, width)
        self.conv_out = nn.Conv3d(width, outputs, 3, padding=1)
        _zero(self.conv_out)

    @property
    def stride(self) -> int:
        """Patch sides must be multiples of this."""
        return 2 ** (len(self.settings.channels) - 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, layout: torch.Tensor) -> torch.Tensor:
        time = self.time(get_timestep_embedding(t, self.settings.channels[0]))
        saved = self.settings.activation_checkpointing and self.training

        def run(block, h):
            return checkpoint(block, h, time, layout, use_reentrant=False) if saved else block(h, time, layout)

        h = self.conv_in(x)
        skips = [h]
        for block in self.down:
            h = run(block, h)
            skips.append(h)
        for block in self.middle:
            h = run(block, h)
        for level, stages in enumerate(self.up):
            for block in stages:
                h = run(block, torch.cat([h, skips.pop()], dim=1))
            if level < len(self.doublings):
                h = run(self.doublings[level], h)
        return self.conv_out(F.silu(self.norm_out(h)))


def _zero(layer: nn.Module) -> None:
    """Starts the layer at zero, so that its residual branch is not there at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
