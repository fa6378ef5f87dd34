"""SPADE (arXiv 1903.07291), in 3D: a generator modulated by its layout against PatchGANs at several scales.

The layout is the condition: anatomy and nodes. Of the paper's losses the perceptual one is absent: its VGG network is
for images in 2D.
"""

from dataclasses import dataclass, field

import torch

from ..conditions.form import DataForm
from .adversarial import Adversarial, Uniform
from .networks.patchgan import Discriminator, PatchGANSettings, feature_distance, hinge, over_scales
from .networks.spade import SpadeNetwork, SpadeNetworkSettings, initialise
from .protocol import check_form


@dataclass(frozen=True)
class SPADESettings:
    form: DataForm = field(default_factory=DataForm)
    network: SpadeNetworkSettings = field(default_factory=SpadeNetworkSettings)
    discriminator: PatchGANSettings = field(default_factory=lambda: PatchGANSettings(scales=2))
    matching_weight: float = 10.0
    initial_gain: float = 0.02  # of the weights' Xavier initialisation


class SPADE(Adversarial):
    kind = "spade"

    def __init__(self, settings: SPADESettings):
        super().__init__(settings)
        check_form(self.form, self.stride)
        self.generator = SpadeNetwork(self.form.condition_channels, settings.network)
        self.discriminator = Discriminator(self.form, settings.discriminator, padding=2, spectral=True)
        initialise(self, settings.initial_gain)

    @property
    def stride(self) -> int:
        """Two voxels are left at the coarsest level, the least that a norm over an instance can do with."""
        return 2 ** len(self.settings.network.channels)

    def generate(self, condition: torch.Tensor, uniform: Uniform) -> torch.Tensor:
        """Nothing in it is random."""
        return self.generator(condition)

    def discriminator_loss(self, condition: torch.Tensor, image: torch.Tensor,
                           fake: torch.Tensor) -> dict[str, torch.Tensor]:
        of_fake, of_real = self.judge(condition, fake, image)
        of_fake, of_real = over_scales(hinge, of_fake, False), over_scales(hinge, of_real, True)
        return {"loss": of_fake + of_real, "fake": of_fake, "real": of_real}

    def generator_loss(self, condition: torch.Tensor, image: torch.Tensor,
                       fake: torch.Tensor) -> dict[str, torch.Tensor]:
        """The hinge loss's for a generator, minus the mean of the logits, and feature matching."""
        with torch.no_grad():
            of_real, = self.judge(condition, image)
        of_fake, = self.judge(condition, fake)
        adversarial = over_scales(lambda logits, _: -logits.mean(), of_fake, True)
        matching = feature_distance(of_fake, of_real)
        return {"loss": adversarial + self.settings.matching_weight * matching, "adversarial": adversarial,
                "matching": matching}
