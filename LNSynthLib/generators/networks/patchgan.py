"""PatchGAN (arXiv 1611.07004, section 3.2), in 3D: a discriminator that judges an image patch by patch.

At several scales, each with weights of its own, it is pix2pixHD's (arXiv 1711.11585, section 3.2), which SPADE uses.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ...conditions.form import DataForm
from ...runtime.errors import LNSynthError

KERNEL = 4  # of every convolution


@dataclass(frozen=True)
class PatchGANSettings:
    receptive_field: Literal[16, 34, 70, 142] = 70  # voxels along each side that one logit sees
    width: int = 64                                 # channels of the first layer; each next one has twice as many, up
    #                                                 to eight times as many
    scales: int = 1                                 # discriminators, each on images of half the size of the one before

    @property
    def halvings(self) -> int:
        return next(n for n in range(9) if receptive_field(n) == self.receptive_field)


def strides(halvings: int) -> list[int]:
    """Of the layers: convolutions that halve, one that does not, and the one that makes logits."""
    return [2] * halvings + [1, 1]


def receptive_field(halvings: int) -> int:
    """Voxels along each side that one logit depends on, from the last layer back to the first."""
    side = 1
    for stride in reversed(strides(halvings)):
        side = stride * (side - 1) + KERNEL
    return side


class PatchGAN(nn.Module):
    """(B, channels, X, Y, Z) -> what each layer makes of it, the logits (B, 1, ...) last.

    Norms are over instances, as batch norms are with a batch of one. The first layer and the last have none.

    padding   of every convolution: Pix2pix's code has 1, SPADE's 2
    spectral  the convolutions before norms are normalised spectrally, and the norms have no parameters (SPADE); else
              they have the scale and shift that batch norm has
    """

    def __init__(self, channels: int, settings: PatchGANSettings, padding: int, spectral: bool):
        super().__init__()
        widths = [channels, *(settings.width * min(2**i, 8) for i in range(settings.halvings + 1))]
        self.layers = nn.ModuleList()
        for i, (a, b, stride) in enumerate(zip(widths, widths[1:], strides(settings.halvings), strict=False)):
            conv = nn.Conv3d(a, b, KERNEL, stride, padding, bias=i == 0)
            norm = [] if i == 0 else [nn.InstanceNorm3d(b, affine=not spectral)]
            self.layers.append(nn.Sequential(spectral_norm(conv) if spectral and i else conv, *norm,
                                             nn.LeakyReLU(0.2)))
        self.layers.append(nn.Conv3d(widths[-1], 1, KERNEL, 1, padding))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        made = []
        for layer in self.layers:
            x = layer(x)
            made.append(x)
        return made


class Discriminator(nn.Module):
    """PatchGANs at `settings.scales` scales: a list, of each what its layers make."""

    def __init__(self, form: DataForm, settings: PatchGANSettings, padding: int, spectral: bool):
        super().__init__()
        _check(form, settings, padding)
        self.scales = nn.ModuleList(PatchGAN(form.condition_channels + 1, settings, padding, spectral)
                                    for _ in range(settings.scales))

    def forward(self, x: torch.Tensor) -> list[list[torch.Tensor]]:
        made = []
        for i, scale in enumerate(self.scales):
            x = F.avg_pool3d(x, 3, stride=2, padding=1, count_include_pad=False) if i else x
            made.append(scale(x))
        return made


def _check(form: DataForm, settings: PatchGANSettings, padding: int) -> None:
    """Raises LNSynthError where the layers leave nothing of the form's patch: a norm needs two voxels, a logit one."""
    side = min(form.patch)
    for _ in range(settings.scales - 1):
        side = (side + 1) // 2
    for least, stride in zip([2] * (settings.halvings + 1) + [1], strides(settings.halvings), strict=True):
        side = (side + 2 * padding - KERNEL) // stride + 1
        if side < least:
            raise LNSynthError(f"form.patch, {list(form.patch)}, is too small for a discriminator with a receptive "
                               f"field of {settings.receptive_field} voxels at {settings.scales} scale(s); set "
                               "discriminator.receptive_field or discriminator.scales lower.")


def cross_entropy(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """The vanilla GAN's loss of logits for images that are, or are to pass for, real or not: mean -log D or
    -log(1 - D) with D = sigmoid(logits)."""
    return F.softplus(-logits if real else logits).mean()


def hinge(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """The hinge loss of a discriminator (arXiv 1705.02894): mean max(0, 1 - logits) or max(0, 1 + logits)."""
    return F.relu(1 - logits if real else 1 + logits).mean()


def over_scales(loss, judged: list[list[torch.Tensor]], real: bool) -> torch.Tensor:
    """The mean over scales of such a loss of their logits."""
    return sum(loss(layers[-1].float(), real) for layers in judged) / len(judged)


def feature_distance(fake: list[list[torch.Tensor]], real: list[list[torch.Tensor]]) -> torch.Tensor:
    """Feature matching (arXiv 1711.11585, eq. 4): mean absolute differences, summed over layers but the logits,
    averaged over scales."""
    return sum(F.l1_loss(a.float(), b.float()) for ours, theirs in zip(fake, real, strict=True)
               for a, b in zip(ours[:-1], theirs[:-1], strict=True)) / len(fake)
