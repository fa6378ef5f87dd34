"""Spatially-adaptive normalisation (SPADE, Park et al. 2019, arXiv 1903.07291), for the SPADE GAN and for SDM."""

import torch
from torch import nn
from torch.nn import functional as F


class SpadeNorm(nn.Module):
    """norm(h) (1 + gamma(m)) + beta(m), with gamma and beta made of the layout m at every voxel (section 3, eq. 1).

    norm    without parameters of its own: InstanceNorm3d or BatchNorm3d for SPADE, GroupNorm for SDM
    layout  (B, layout_channels, X, Y, Z) of any size: brought to that of h (B, channels, ...) by nearest neighbour
    hidden  width of the convolution and ReLU that gamma and beta share (128 in the papers, both in 2D)
    """

    def __init__(self, norm: nn.Module, channels: int, layout_channels: int, hidden: int):
        super().__init__()
        self.norm = norm
        self.shared = nn.Conv3d(layout_channels, hidden, 3, padding=1)
        self.modulation = nn.Conv3d(hidden, 2 * channels, 3, padding=1)  # gamma's convolution, then beta's

    def forward(self, h: torch.Tensor, layout: torch.Tensor) -> torch.Tensor:
        layout = F.interpolate(layout, size=h.shape[2:], mode="nearest")
        gamma, beta = self.modulation(F.relu(self.shared(layout))).chunk(2, dim=1)
        return self.norm(h) * (1 + gamma) + beta
