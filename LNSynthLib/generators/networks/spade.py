"""SPADE's generator (arXiv 1903.07291, appendix A), in 3D: residual blocks that the layout modulates at every scale."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from .spade_norm import SpadeNorm


@dataclass(frozen=True)
class SpadeNetworkSettings:
    channels: tuple[int, ...] = (1024, 1024, 512, 256, 128, 64)  # by level, coarsest first; five doublings take 4^3 to
    #                                                              128^3
    hidden: int = 128                                            # width of what gamma and beta share
    activation_checkpointing: bool = False                       # layouts' features are computed again when needed


class SpadeNetwork(nn.Module):
    """Layout (B, channels, X, Y, Z) -> volume (B, 1, X, Y, Z) in [-1, 1].

    It starts from the layout brought to the coarsest level, as the authors' code does without its image encoder, and
    not from a random vector: a map can start a patch of any size. A volume is then a function of its layout alone.
    """

    def __init__(self, channels: int, settings: SpadeNetworkSettings):
        super().__init__()
        self.doublings = len(settings.channels) - 1
        widths = settings.channels
        self.start = nn.Conv3d(channels, widths[0], 3, padding=1)
        # One block a level, the second level has two: G_middle_0 and G_middle_1 of the authors' code.
        self.blocks = nn.ModuleList(
            nn.ModuleList(SpadeBlock(a, b, channels, settings)
                          for a, b in ([(before, width), (width, width)] if level == 1 else [(before, width)]))
            for level, (before, width) in enumerate(zip(widths[:1] + widths, widths, strict=False)))
        self.end = nn.Conv3d(widths[-1], 1, 3, padding=1)

    def forward(self, layout: torch.Tensor) -> torch.Tensor:
        coarsest = [side // 2**self.doublings for side in layout.shape[2:]]
        h = self.start(F.interpolate(layout, size=coarsest, mode="nearest"))
        for level, blocks in enumerate(self.blocks):
            h = F.interpolate(h, scale_factor=2, mode="nearest") if level else h
            for block in blocks:
                h = block(h, layout)
        return torch.tanh(self.end(F.leaky_relu(h, 0.2)))


class SpadeBlock(nn.Module):
    """Two convolutions, each after a modulated norm and a leaky ReLU; a modulated 1^3 convolution beside them where
    the number of channels changes (paper, figure 4; appendix A).

    The norms are over instances: the batch norm of the paper with a batch of one.
    """

    def __init__(self, channels: int, out: int, layout_channels: int, settings: SpadeNetworkSettings):
        super().__init__()
        between = min(channels, out)
        self.checkpointed = settings.activation_checkpointing

        def norm(width: int) -> SpadeNorm:
            return SpadeNorm(nn.InstanceNorm3d(width), width, layout_channels, settings.hidden)

        self.norms = nn.ModuleList([norm(channels), norm(between)])
        self.convs = nn.ModuleList(spectral_norm(nn.Conv3d(a, b, 3, padding=1))
                                   for a, b in ((channels, between), (between, out)))
        self.shortcut = self.shortcut_norm = None
        if channels != out:
            self.shortcut_norm = norm(channels)
            self.shortcut = spectral_norm(nn.Conv3d(channels, out, 1, bias=False))

    def forward(self, h: torch.Tensor, layout: torch.Tensor) -> torch.Tensor:
        beside = self.shortcut(self._modulated(self.shortcut_norm, h, layout)) if self.shortcut else h
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.leaky_relu(self._modulated(norm, h, layout), 0.2))
        return beside + h

    def _modulated(self, norm: SpadeNorm, h: torch.Tensor, layout: torch.Tensor) -> torch.Tensor:
        # The norms alone: a spectrally normalised convolution that is computed again has other weights.
        if self.checkpointed and torch.is_grad_enabled():
            return checkpoint(norm, h, layout, use_reentrant=False)
        return norm(h, layout)


def initialise(network: nn.Module, gain: float) -> None:
    """As the authors' code: Xavier's normal distribution, its deviation times `gain`, biases of zero. Spectrally
    normalised convolutions keep what PyTorch gives them: the size of their weights is immaterial, but where theirs
    start with biases of zero, these start with small ones."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and not nn.utils.parametrize.is_parametrized(module):
            nn.init.xavier_normal_(module.weight, gain)
            nn.init.zeros_(module.bias)
