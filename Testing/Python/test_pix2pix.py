"""Pix2pix: the paper's U-Net, dropout as its noise, its losses."""

import math

import pytest
import torch
from streams import streams
from torch import nn

from LNSynthLib.generators import model_folder
from LNSynthLib.generators.pix2pix import UNet, UNetSettings
from LNSynthLib.generators.protocol import draw
from LNSynthLib.runtime.errors import LNSynthError

SETTINGS = {"form": {"anatomy_channels": 3, "patch": [16, 16, 16]},
            "unet": {"channels": [4, 8, 8], "dropout_layers": 2}, "discriminator": {"receptive_field": 16, "width": 4}}


def tiny(**changes):
    torch.manual_seed(0)
    return model_folder.create("pix2pix", {**SETTINGS, **changes})


def condition(batch=1, seed=0):
    return torch.randint(0, 2, (batch, 4, 16, 16, 16), generator=torch.Generator().manual_seed(seed)).float()


def kept_all(shape):
    return torch.zeros(shape)


def test_the_unet_of_the_paper():
    """Appendix 6.1: widths down and, with the encoder's features beside them, up; 4^3 kernels; where norms are."""
    with torch.device("meta"):
        unet = UNet(15, UNetSettings())
        volume = unet(torch.empty(1, 15, 128, 128, 128), lambda shape: torch.empty(shape))
    assert [conv.out_channels for conv in unet.down] == [64, 128, 256, 512, 512, 512, 512]
    assert [(conv.in_channels, conv.out_channels) for conv in reversed(unet.up)] == [
        (512, 512), (1024, 512), (1024, 512), (1024, 256), (512, 128), (256, 64), (128, 1)]
    assert {(conv.kernel_size[0], conv.stride[0]) for conv in [*unet.down, *unet.up]} == {(4, 2)}
    assert [norm.num_features for norm in unet.down_norm] == [128, 256, 512, 512, 512]  # neither first nor bottleneck
    assert [norm.num_features for norm in reversed(unet.up_norm)] == [512, 512, 512, 256, 128, 64]
    assert volume.shape == (1, 1, 128, 128, 128)


def test_each_level_passes_its_features_across():
    """With the way through the bottleneck cut, the condition still reaches the volume, by the skips alone."""
    generator = tiny()
    nn.init.zeros_(generator.generator.up[-1].weight)
    a, b = (generator.generate(condition(seed=seed), kept_all) for seed in (0, 1))
    assert not torch.allclose(a, b, atol=1e-3)
    with torch.no_grad():  # and with the skips cut too, no more
        for level, conv in enumerate(generator.generator.up[:-1]):
            conv.weight[SETTINGS["unet"]["channels"][level]:] = 0
    a, b = (generator.generate(condition(seed=seed), kept_all) for seed in (0, 1))
    assert torch.allclose(a, b, atol=1e-6)


def test_dropout_is_the_noise_and_halves_the_coarsest_decoder_layers():
    generator, shapes = tiny(), []

    def record(shape):
        shapes.append(tuple(shape))
        return torch.rand(shape)

    kept = generator.generate(condition(), record)
    assert shapes == [(1, 8, 4, 4, 4), (1, 4, 8, 8, 8)]
    assert not torch.allclose(kept, generator.generate(condition(), torch.rand), atol=1e-4)
    dropped = generator.generate(condition(), lambda shape: torch.ones(shape))  # nothing kept: skips alone
    for conv, width in zip(generator.generator.up[:2], (4, 8), strict=True):
        with torch.no_grad():
            conv.weight[:width] = 0
    assert torch.allclose(dropped, generator.generate(condition(), kept_all), atol=1e-6)


def test_noise_stays_at_test_time_and_is_each_seeds_own():
    generator, c = tiny(), condition(1).expand(3, -1, -1, -1, -1)
    together = generator.sample(c, seeds=[5, 6, 5])
    assert torch.allclose(together[0], together[2], atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-4)
    assert torch.allclose(together[1:2], generator.sample(c[:1], seeds=[6]), atol=1e-6)


def test_losses_are_the_papers():
    generator = tiny().eval()
    batch = {"condition": condition(2), "image": torch.rand(2, 1, 16, 16, 16) * 2 - 1}
    with torch.no_grad():
        ours = generator.loss(batch, streams(2), "generator")
        theirs = generator.loss(batch, streams(2), "discriminator")
        seen = streams(2)  # both saw the fakes of these
        fake = generator.generate(batch["condition"], lambda shape: draw(torch.rand, shape, seen))
        of_fake, of_real = (torch.sigmoid(generator.discriminator(torch.cat([batch["condition"], x], 1))[0][-1])
                            for x in (fake, batch["image"]))
    l1 = (fake - batch["image"]).abs().mean()
    torch.testing.assert_close(ours["loss"], -of_fake.log().mean() + 100 * l1)
    torch.testing.assert_close(theirs["loss"], -(of_real.log().mean() + (1 - of_fake).log().mean()) / 2)


def test_an_undecided_discriminator_loses_log_2():
    generator = tiny()
    nn.init.zeros_(generator.discriminator.scales[0].layers[-1].weight)
    batch = {"condition": condition(), "image": torch.zeros(1, 1, 16, 16, 16)}
    losses = generator.loss(batch, streams(1), "discriminator")
    assert losses["loss"].item() == pytest.approx(math.log(2), rel=1e-6)


def test_weights_start_as_the_papers():
    torch.manual_seed(0)
    generator = model_folder.create("pix2pix", {"form": {"patch": [32, 32, 32]}, "unet": {"channels": [32, 64, 64]},
                                              "discriminator": {"receptive_field": 16, "width": 16}})
    unet, judge = generator.generator, generator.discriminator.scales[0]
    for conv in (*unet.down, *unet.up[1:], judge.layers[1][0]):
        assert conv.weight.mean().item() == pytest.approx(0, abs=2e-3)
        assert conv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    norm = unet.down_norm[0].weight
    assert norm.mean().item() == pytest.approx(1, abs=0.02) and 0.01 < norm.std().item() < 0.03


def test_a_patch_that_cannot_be_halved_is_refused():
    with pytest.raises(LNSynthError, match="multiples of 8"):
        tiny(form={"anatomy_channels": 3, "patch": [12, 16, 16]})
    with pytest.raises(LNSynthError, match="multiples of 8"):
        tiny().sample(torch.zeros(1, 4, 12, 16, 16), seeds=[1])
