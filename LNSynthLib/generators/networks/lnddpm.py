"""The denoiser of LN-DDPM: a 3D U-Net over the noised CT, its conditions concatenated, node detail at the bottom."""

from dataclasses import dataclass

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, get_timestep_embedding
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...runtime.errors import LNSynthError
from .local_detail import MaskEncoder, Mode, SpatialTransformer, at_node_positions


@dataclass(frozen=True)
class DenoiserSettings:
    channels: tuple[int, ...] = (32, 64, 128, 256)  # width of each level; one halving between neighbours
    blocks: int = 2                                 # residual blocks a level, on the way down and on the way up
    groups: int = 32                                # of every group normalisation
    local_detail: Mode | None = "LD"                # None: global structure conditioning (concatenation) alone
    heads: int = 8                                  # attention heads
    head_width: int = 32                            # channels of one head
    token_width: int = 64                           # channels of one mask token
    activation_checkpointing: bool = False          # trade a third more time for most of the activations' memory


class Denoiser(nn.Module):
    """Predicts from (x_t, t, condition) what its generator asks for; see `DenoiserSettings` for every number.

    x          (B, 1, X, Y, Z) noised volume; X, Y, Z multiples of 2 ** (levels - 1)
    t          (B,) time index
    condition  (B, condition_channels, X, Y, Z), concatenated with x (global structure conditioning)
    nodes      (B, 1, X, Y, Z) node mask in {0, 1}, for local detail conditioning; unused without it
    """

    def __init__(self, settings: DenoiserSettings, condition_channels: int):
        super().__init__()
        self.settings = settings
        widths, n, groups = settings.channels, settings.blocks, settings.groups
        if len(widths) < 2 or n < 1 or any(w % groups for w in widths):
            raise LNSynthError(f"denoiser: channels {list(widths)} need two levels or more, each a multiple of "
                               f"groups = {groups}, and at least one block; correct the settings.")
        time = 4 * widths[0]
        self.time = nn.Sequential(nn.Linear(widths[0], time), nn.SiLU(), nn.Linear(time, time))

        def block(a, b):
            return DiffusionUNetResnetBlock(3, a, time, b, norm_num_groups=groups)

        self.conv_in = nn.Conv3d(1 + condition_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.ModuleList(block(w, w) for _ in range(n)) for w in widths[:-1])
        self.halve = nn.ModuleList(
            nn.Conv3d(a, b, 3, stride=2, padding=1) for a, b in zip(widths, widths[1:], strict=False))
        self.bottom = nn.ModuleList(block(widths[-1], widths[-1]) for _ in range(n + 1))
        # Channels shrink before the upsampling, at an eighth of the cost of a convolution after it.
        self.narrow = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(nn.ModuleList(block(2 * w, w) for _ in range(n)) for w in widths[:-1])
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=1e-6)
        self.conv_out = nn.Conv3d(widths[0], 1, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

        self.mask_encoder = self.transformer = None
        if settings.local_detail:
            self.mask_encoder = MaskEncoder(len(widths) - 1, settings.token_width)
            self.transformer = SpatialTransformer(widths[-1], settings.token_width, settings.heads,
                                                  settings.head_width, groups, settings.local_detail)

    @property
    def stride(self) -> int:
        """Patch sides must be multiples of this."""
        return 2 ** (len(self.settings.channels) - 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        run = self._checkpointed if self.settings.activation_checkpointing and self.training else _plain
        time = self.time(get_timestep_embedding(t, self.settings.channels[0]))
        h = self.conv_in(torch.cat([x, condition], dim=1))
        skips = []
        for blocks, halve in zip(self.down, self.halve, strict=True):
            for block in blocks:
                h = run(block, h, time)
                skips.append(h)
            h = halve(h)
        h = self.bottom[0](h, time)
        if self.transformer is not None:
            h = self.transformer(h, self.mask_encoder(nodes), at_node_positions(nodes, h.shape[2:]))
        for block in self.bottom[1:]:
            h = run(block, h, time)
        for blocks, narrow in zip(reversed(self.up), reversed(self.narrow), strict=True):
            h = F.interpolate(narrow(h), scale_factor=2, mode="nearest")
            for block in blocks:
                h = run(block, torch.cat([h, skips.pop()], dim=1), time)
        return self.conv_out(F.silu(self.norm_out(h)))

    @staticmethod
    def _checkpointed(block: nn.Module, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return checkpoint(block, h, time, use_reentrant=False)


def _plain(block: nn.Module, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    return block(h, time)
