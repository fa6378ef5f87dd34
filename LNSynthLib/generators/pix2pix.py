"""Pix2pix (arXiv 1611.07004), in 3D: a U-Net that maps conditions to CT, against a PatchGAN."""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from ..conditions.form import DataForm
from .adversarial import Adversarial, Uniform
from .networks.patchgan import Discriminator, PatchGANSettings, cross_entropy, over_scales
from .protocol import check_form


@dataclass(frozen=True)
class UNetSettings:
    channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512)  # one halving each; seven take 128^3 to 1^3
    dropout_layers: int = 3                                         # of the decoder, the coarsest first


@dataclass(frozen=True)
class Pix2pixSettings:
    form: DataForm = field(default_factory=DataForm)
    unet: UNetSettings = field(default_factory=UNetSettings)
    discriminator: PatchGANSettings = field(default_factory=PatchGANSettings)
    l1_weight: float = 100.0                                        # lambda of the paper's eq. 4


class UNet(nn.Module):
    """Condition (B, channels, X, Y, Z) -> volume (B, 1, X, Y, Z) in [-1, 1] (paper, appendix 6.1.1).

    Convolutions of 4^3 with stride 2 down, their transposes up, the encoder's features beside the decoder's. Norms are
    over instances: at test time the paper takes the statistics of the batch, and its batches are of one image. Neither
    the first convolution has one, nor the bottleneck, which the authors' erratum takes it from.
    """

    def __init__(self, channels: int, settings: UNetSettings):
        super().__init__()
        self.settings = settings
        widths, levels = settings.channels, len(settings.channels)
        down = [channels, *widths]
        up = [1, *widths]
        self.down = nn.ModuleList(nn.Conv3d(a, b, 4, stride=2, padding=1, bias=i in (0, levels - 1))
                                  for i, (a, b) in enumerate(zip(down, widths, strict=False)))
        self.down_norm = nn.ModuleList(nn.InstanceNorm3d(w, affine=True) for w in widths[1:-1])
        # By level, as the encoder: up[i] doubles the size of what lies at the outcome of down[i].
        self.up = nn.ModuleList(nn.ConvTranspose3d(w if i == levels - 1 else 2 * w, b, 4, stride=2, padding=1,
                                                   bias=i == 0)
                                for i, (w, b) in enumerate(zip(widths, up, strict=False)))
        self.up_norm = nn.ModuleList(nn.InstanceNorm3d(w, affine=True) for w in widths[:-1])

    def forward(self, condition: torch.Tensor, uniform: Uniform) -> torch.Tensor:
        """uniform: gives the numbers that decide which features dropout keeps, which is all the noise there is."""
        skips = [self.down[0](condition)]
        for i, conv in enumerate(self.down[1:]):
            h = conv(F.leaky_relu(skips[-1], 0.2))
            skips.append(self.down_norm[i](h) if i < len(self.down_norm) else h)
        h = skips.pop()
        for depth, i in enumerate(reversed(range(len(self.up)))):
            h = self.up[i](F.relu(h))
            if i > 0:
                h = self.up_norm[i - 1](h)
                if depth < self.settings.dropout_layers:
                    h = 2 * h * (uniform(h.shape) < 0.5).to(h)
                h = torch.cat([h, skips.pop()], dim=1)
        return torch.tanh(h)


class Pix2pix(Adversarial):
    kind = "pix2pix"

    def __init__(self, settings: Pix2pixSettings):
        super().__init__(settings)
        check_form(self.form, self.stride)
        self.generator = UNet(self.form.condition_channels, settings.unet)
        self.discriminator = Discriminator(self.form, settings.discriminator, padding=1, spectral=False)
        self.apply(_initialise)

    @property
    def stride(self) -> int:
        return 2 ** len(self.settings.unet.channels)

    def generate(self, condition: torch.Tensor, uniform: Uniform) -> torch.Tensor:
        return self.generator(condition, uniform)

    def discriminator_loss(self, condition: torch.Tensor, image: torch.Tensor,
                           fake: torch.Tensor) -> dict[str, torch.Tensor]:
        """Halved, which slows the discriminator down relative to the generator (paper, section 3.3)."""
        of_fake, of_real = self.judge(condition, fake, image)
        of_fake, of_real = over_scales(cross_entropy, of_fake, False), over_scales(cross_entropy, of_real, True)
        return {"loss": (of_fake + of_real) / 2, "fake": of_fake, "real": of_real}

    def generator_loss(self, condition: torch.Tensor, image: torch.Tensor,
                       fake: torch.Tensor) -> dict[str, torch.Tensor]:
        """The paper's eq. 4, with -log D(fake) for log(1 - D(fake)) (section 3.3)."""
        adversarial = over_scales(cross_entropy, *self.judge(condition, fake), True)
        l1 = F.l1_loss(fake.float(), image)
        return {"loss": adversarial + self.settings.l1_weight * l1, "adversarial": adversarial, "l1": l1}


def _initialise(module: nn.Module) -> None:
    """Convolutions of N(0, 0.02), as the paper's section 6.2; norms of N(1, 0.02), as its code."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.InstanceNorm3d):
        nn.init.normal_(module.weight, float(isinstance(module, nn.InstanceNorm3d)), 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
