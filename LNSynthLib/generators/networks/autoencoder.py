"""The first stage of latent diffusion: an autoencoder with a Gaussian code, its losses, and the scale of its codes."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from monai.networks.nets import AutoencoderKL, PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional as F

from ...runtime.errors import LNSynthError
from ..protocol import Streams, draw


@dataclass(frozen=True)
class AutoencoderSettings:
    """The defaults are those of BrainLDM's released weights, and for the losses those of the authors' training code.

    Their perceptual loss (weight 0.002) needs a pretrained network, which is not part of LNSynth: it is left out.
    """

    channels: tuple[int, ...] = (64, 128, 128, 128)  # width of each level; one halving between neighbours
    blocks: int = 2                                  # residual blocks a level
    groups: int = 32                                 # of every group normalisation
    latent_channels: int = 3
    kl_weight: float = 1e-8                          # of the divergence summed over a sample's code
    adversarial_weight: float = 0.005
    discriminator_channels: int = 64                 # of its first layer, twice as many in each one after it
    discriminator_layers: int = 3                    # all but the last of which halve


class Autoencoder(nn.Module):
    """Volumes (B, 1, X, Y, Z) in [-1, 1] to codes (B, latent_channels, X / stride, ...) and back."""

    def __init__(self, settings: AutoencoderSettings):
        super().__init__()
        widths, groups = settings.channels, settings.groups
        if len(widths) < 2 or settings.blocks < 1 or any(width % groups for width in widths):
            raise LNSynthError(f"autoencoder: channels {list(widths)} need two levels or more, each a multiple of "
                               f"groups = {groups}, and at least one block; correct the settings.")
        self.stride = 2 ** (len(widths) - 1)
        self.network = AutoencoderKL(
            3, channels=widths, num_res_blocks=settings.blocks, attention_levels=(False,) * len(widths),
            latent_channels=settings.latent_channels, norm_num_groups=groups, with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the code's Gaussian, each (B, latent_channels, ...), float32 under autocast
        too: what is diffused must not be rounded."""
        mean, deviation = self.network.encode(image)
        return mean.float(), deviation.float()

    def code(self, image: Tensor, streams: Streams) -> Tensor:
        """One draw of the code."""
        return gaussian(*self.encode(image), streams)

    def decode(self, code: Tensor) -> Tensor:
        """The volume, not clipped."""
        return self.network.decode(code)


def gaussian(mean: Tensor, deviation: Tensor, streams: Streams) -> Tensor:
    """mean + deviation * eps, both (B, ...), eps from each sample's stream."""
    return mean + deviation * draw(torch.randn, mean.shape, streams).to(mean)


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL(N(mean, deviation^2) || N(0, 1)), summed over each code and averaged over the batch (Kingma and Welling
    2014, arXiv 1312.6114, appendix B)."""
    each = 0.5 * (mean.square() + deviation.square() - 2 * deviation.log() - 1)
    return each.flatten(1).sum(1).mean()


def discriminator(settings: AutoencoderSettings) -> PatchDiscriminator:
    """Tells real from decoded volumes patch by patch; the last of what it returns are the patches' logits.

    Its norms are over instances, as batch norms are with a batch of one: what it says of a volume does not depend on
    the others in the batch. The running statistics of batch norms, which earlier versions stored, are left unread.
    """
    network = PatchDiscriminator(3, settings.discriminator_channels, in_channels=1, norm=("INSTANCE", {"affine": True}),
                                 num_layers_d=settings.discriminator_layers)
    network.register_load_state_dict_pre_hook(_without_running_statistics)
    return network


def _without_running_statistics(network: nn.Module, state: dict[str, Tensor], prefix: str, *_) -> None:
    for name in [name for name in state if name.startswith(prefix) and name.endswith(
            ("running_mean", "running_var", "num_batches_tracked"))]:
        del state[name]


def verdict(discriminator: nn.Module, image: Tensor, real: bool) -> Tensor:
    """Least-squares loss of a discriminator that should call these volumes real or not (Mao et al. 2017, arXiv
    1611.04076, eq. 9). Written out: MONAI's PatchAdversarialLoss does not run on the meta device, where costs are
    counted."""
    logits = discriminator(image)[-1].float()
    return F.mse_loss(logits, torch.full_like(logits, float(real)))


class LatentScale(nn.Module):
    """Brings codes to unit standard deviation (Rombach et al. 2022, arXiv 2112.10752, appendix G).

    The factor is one over the standard deviation of all the elements of the first `samples` codes that `measure` is
    given; theirs is that of the first batch, which may be an unlucky one. It lives in buffers, so that checkpoints
    carry it; before any code was seen it is 1.
    """

    def __init__(self, samples: int = 64):
        super().__init__()
        self.samples = samples
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("square", torch.ones(()))  # mean square

    @torch.no_grad()
    def measure(self, codes: Iterable[Tensor]) -> None:
        """Measures anew on the first `samples` of these codes, (1, C, ...) each and of one size."""
        moments = [(code.mean(), code.square().mean()) for code in islice(codes, self.samples)]
        self.seen.fill_(len(moments))
        self.mean.copy_(torch.stack([mean for mean, _ in moments]).mean())
        self.square.copy_(torch.stack([square for _, square in moments]).mean())

    @property
    def deviation(self) -> Tensor:
        return (self.square - self.mean.square()).clamp(min=1e-12).sqrt()
