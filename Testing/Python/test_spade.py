"""SPADE: modulation against plain tensor operations, the generator's levels, its losses."""

import pytest
import torch
from streams import streams
from torch import nn
from torch.nn import functional as F

from LNSynthLib.generators import model_folder
from LNSynthLib.generators.networks.spade import SpadeBlock, SpadeNetwork, SpadeNetworkSettings
from LNSynthLib.generators.networks.spade_norm import SpadeNorm
from LNSynthLib.runtime.errors import LNSynthError

SETTINGS = {"form": {"anatomy_channels": 3, "patch": [16, 16, 16]}, "network": {"channels": [8, 8, 4], "hidden": 4},
            "discriminator": {"receptive_field": 16, "width": 4, "scales": 2}}


def tiny(**changes):
    torch.manual_seed(0)
    return model_folder.create("spade", {**SETTINGS, **changes})


def layout(side=16, seed=0, channels=4):
    labels = torch.randint(0, channels, (1, side, side, side), generator=torch.Generator().manual_seed(seed))
    return F.one_hot(labels, channels).movedim(-1, 1).float()


def convolved(x, conv):
    """A 3^3 convolution as a sum of shifted products."""
    padded, sides = F.pad(x, [1] * 6), x.shape[2:]
    result = conv.bias.reshape(1, -1, 1, 1, 1)
    for i in range(3):
        for j in range(3):
            for k in range(3):
                shifted = padded[:, :, i:i + sides[0], j:j + sides[1], k:k + sides[2]]
                result = result + torch.einsum("bcxyz,oc->boxyz", shifted, conv.weight[:, :, i, j, k])
    return result


def test_modulation_is_the_papers_equation():
    """Equations 1 to 3 for a batch of one, from a layout of twice the size."""
    torch.manual_seed(0)
    norm = SpadeNorm(nn.InstanceNorm3d(6), 6, 4, 5).double()
    h, m = torch.randn(1, 6, 4, 6, 8, dtype=torch.float64), layout(16)[:, :, :8, :12].double()
    mean = h.mean(dim=(2, 3, 4), keepdim=True)
    deviation = (h.square().mean(dim=(2, 3, 4), keepdim=True) - mean.square() + 1e-5).sqrt()
    hidden = convolved(m[:, :, ::2, ::2, ::2], norm.shared).clamp(min=0)
    scale_and_shift = convolved(hidden, norm.modulation)
    expected = (1 + scale_and_shift[:, :6]) * (h - mean) / deviation + scale_and_shift[:, 6:]
    torch.testing.assert_close(norm(h, m), expected)


def test_equal_neighbourhoods_are_modulated_equally():
    """Two labels, one in each half: gamma and beta depend on a voxel's 5^3 neighbourhood in the layout alone."""
    torch.manual_seed(0)
    norm = SpadeNorm(nn.Identity(), 3, 2, 4)
    m = torch.zeros(1, 2, 16, 16, 16)
    m[:, 0, :8], m[:, 1, 8:] = 1, 1
    beta = norm(torch.zeros(1, 3, 16, 16, 16), m)
    gamma = norm(torch.ones(1, 3, 16, 16, 16), m) - beta - 1
    for made in (gamma, beta):
        inside = made[0, :, :, 2:-2, 2:-2]
        assert torch.allclose(inside, inside[:, :, :1, :1], atol=1e-6)  # along the halves' common face
        left, right = inside[:, 2:6], inside[:, 10:14]                  # two voxels and more from face and border
        assert torch.allclose(left, left[:, :1], atol=1e-6) and torch.allclose(right, right[:, :1], atol=1e-6)
        assert not torch.allclose(left[:, 0], right[:, 0], atol=1e-3)


def test_a_block_is_two_modulated_convolutions_beside_a_learned_shortcut():
    torch.manual_seed(0)
    block, m, h = SpadeBlock(6, 4, 4, SpadeNetworkSettings(hidden=5)).eval(), layout(8), torch.randn(1, 6, 8, 8, 8)
    beside = F.conv3d(block.shortcut_norm(h, m), block.shortcut.weight)
    between = F.conv3d(F.leaky_relu(block.norms[0](h, m), 0.2), block.convs[0].weight, block.convs[0].bias, padding=1)
    assert between.shape[1] == 4  # the smaller of the two
    along = F.conv3d(F.leaky_relu(block.norms[1](between, m), 0.2), block.convs[1].weight, block.convs[1].bias,
                     padding=1)
    torch.testing.assert_close(block(h, m), beside + along)
    assert SpadeBlock(6, 6, 4, SpadeNetworkSettings(hidden=5)).shortcut is None


def test_the_generator_of_the_paper():
    """Appendix A for 256 x 256: seven blocks, five doublings, 1024 channels down to 64, full size at the end."""
    with torch.device("meta"):
        network = SpadeNetwork(15, SpadeNetworkSettings())
    assert [[conv.out_channels for conv in (b.convs[1] for b in level)] for level in network.blocks] == [
        [1024], [1024, 1024], [512], [256], [128], [64]]
    assert [b.shortcut is not None for level in network.blocks for b in level] == [False] * 3 + [True] * 4
    assert network(torch.empty(1, 15, 64, 64, 64, device="meta")).shape == (1, 1, 64, 64, 64)


def test_recomputed_layout_features_change_neither_volume_nor_gradient():
    made = []
    for recompute in (False, True):
        generator = tiny(network={**SETTINGS["network"], "activation_checkpointing": recompute})
        volume = generator.generate(layout(), None)
        volume.square().mean().backward()
        made.append((volume, *(p.grad for p in generator.generator.parameters())))
    assert len(made[0]) > 20 and all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_losses_are_hinge_and_feature_matching():
    generator = tiny().eval()
    condition, image = layout(), torch.rand(1, 1, 16, 16, 16) * 2 - 1
    batch = {"condition": condition, "image": image}
    with torch.no_grad():
        fake = generator.generate(condition, None)
        judged = [generator.discriminator(torch.cat([condition, x], 1)) for x in (fake, image)]
        ours = generator.loss(batch, streams(1), "generator")
        theirs = generator.loss(batch, streams(1), "discriminator")
    logits = [[scale[-1] for scale in scales] for scales in judged]
    adversarial = -sum(x.mean() for x in logits[0]) / 2
    matching = sum((a - b).abs().mean() for f, r in zip(*judged, strict=True)
                   for a, b in zip(f[:-1], r[:-1], strict=True)) / 2
    torch.testing.assert_close(ours["loss"], adversarial + 10 * matching)
    torch.testing.assert_close(theirs["loss"], sum((1 + x).clamp(min=0).mean() for x in logits[0]) / 2
                               + sum((1 - x).clamp(min=0).mean() for x in logits[1]) / 2)
    assert generator.generator_loss(condition, image, image)["matching"].item() < 1e-6


@pytest.mark.parametrize("gain", [0.02, 1.0])
def test_weights_start_with_xaviers_deviation_times_the_gain(gain):
    norm = tiny(network={"channels": [16, 16, 8], "hidden": 16}, initial_gain=gain).generator.blocks[0][0].norms[0]
    fans = 27 * 16 + 27 * 32  # of the convolution that makes gamma and beta
    assert norm.modulation.weight.std().item() == pytest.approx(gain * (2 / fans) ** 0.5, rel=0.03)
    assert not norm.modulation.bias.any() and not norm.shared.bias.any()


def test_a_patch_keeps_two_voxels_at_the_coarsest_level():
    generator = tiny()
    assert generator.stride == 8
    assert generator.sample(layout(8), seeds=[1]).shape == (1, 1, 8, 8, 8)
    with pytest.raises(LNSynthError, match="multiples of 8"):
        tiny(form={"anatomy_channels": 3, "patch": [12, 16, 16]})
