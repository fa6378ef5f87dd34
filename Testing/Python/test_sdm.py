"""The network of semantic diffusion models against plain tensor operations, and guidance against its formula."""

import math

import pytest
import torch
from monai.networks.blocks import SpatialAttentionBlock
from torch.nn import functional as F

from LNSynthLib.diffusion.schedules import clean_from_noise
from LNSynthLib.generators import model_folder
from LNSynthLib.generators.networks.sdm import ResidualBlock, SDMNetwork, SDMNetworkSettings
from LNSynthLib.generators.networks.spade_norm import SpadeNorm
from LNSynthLib.generators.sdm import guided
from LNSynthLib.runtime.seeds import torch_rng

SETTINGS = SDMNetworkSettings(channels=(8, 8, 16), blocks=1, groups=4, hidden=4, attention=(1,), head_width=8)


def network(settings=SETTINGS, layout_channels=3, outputs=2):
    torch.manual_seed(0)
    net = SDMNetwork(settings, layout_channels, outputs)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def layouts(batch=1, side=8, seed=0):
    labels = torch.randint(0, 3, (batch, side, side, side), generator=torch_rng(seed))
    return F.one_hot(labels, 3).movedim(-1, 1).float()


def normalised(h, groups, eps=1e-5):
    """Group normalisation from its definition."""
    parts = h.unflatten(1, (groups, -1))
    axes = tuple(range(2, parts.dim()))
    mean, variance = parts.mean(axes, keepdim=True), parts.var(axes, keepdim=True, unbiased=False)
    return ((parts - mean) / (variance + eps).sqrt()).flatten(1, 2)


def spade(module, h, layout):
    factor = layout.shape[-1] // h.shape[-1]
    hidden = F.conv3d(layout[..., ::factor, ::factor, ::factor], module.shared.weight, module.shared.bias, padding=1)
    maps = F.conv3d(hidden.clamp(min=0), module.modulation.weight, module.modulation.bias, padding=1)
    c = h.shape[1]
    return normalised(h, 4) * (1 + maps[:, :c]) + maps[:, c:]


@pytest.mark.parametrize("resample", [None, "double"])
def test_a_decoder_block_is_what_the_paper_draws(resample):
    """SPADE, SiLU, (doubling,) convolution; SPADE, scale and shift of the time, SiLU, convolution; beside a skip."""
    net = network().double()
    block = net.doublings[1] if resample else net.up[1][0].block
    h, layout = torch.randn(2, block.conv_in.in_channels, 4, 4, 4, dtype=torch.float64), layouts(2).double()
    time = torch.randn(2, 32, dtype=torch.float64)

    def double(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4) if resample else x

    def silu(x):
        return x / (1 + (-x).exp())

    r = F.conv3d(double(silu(spade(block.norm_in, h, layout))), block.conv_in.weight, block.conv_in.bias, padding=1)
    scale, shift = (silu(time) @ block.time.weight.T + block.time.bias)[..., None, None, None].chunk(2, dim=1)
    r = silu(spade(block.norm_out, r, layout) * (1 + scale) + shift)
    r = F.conv3d(r, block.conv_out.weight, block.conv_out.bias, padding=1)
    expected = r + (double(h) if resample else F.conv3d(h, block.skip.weight, block.skip.bias))
    torch.testing.assert_close(block(h, time, layout), expected)


def test_the_encoder_sees_the_volume_and_only_what_follows_the_layout():
    net, x, t = network(), torch.randn(1, 1, 8, 8, 8), torch.tensor([7])
    seen = []
    for block in [*net.down, *net.middle]:
        block.register_forward_hook(lambda module, args, out: seen.append(out))
    net(x, t, layouts(seed=1))
    n, first = len(net.down), seen[:]
    net(x, t, layouts(seed=2))
    second = seen[len(first):]
    assert all(torch.equal(a, b) for a, b in zip(first[:n], second[:n], strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(first[n:], second[n:], strict=True))


def test_spade_is_at_every_normalisation_from_the_middle_on():
    net = network()
    residual = [m for part in (net.middle, net.up, net.doublings) for m in part.modules()
                if isinstance(m, ResidualBlock)]
    assert len(residual) == 2 + 3 * 2 + 2
    assert all(isinstance(norm, SpadeNorm) and isinstance(norm.norm, torch.nn.GroupNorm) and not norm.norm.affine
               for block in residual for norm in (block.norm_in, block.norm_out))
    assert not any(isinstance(m, SpadeNorm) for m in net.down.modules())
    attention = [sum(isinstance(m, SpatialAttentionBlock) for m in part.modules())
                 for part in (net.down, net.middle, *net.up)]
    assert attention == [1, 1, 0, 2, 0]  # level 1 going down and twice going up, and the middle


def test_the_output_changes_where_the_layout_does():
    """Group norms spread a little everywhere; modulation itself is local."""
    net, x, t = network(SDMNetworkSettings((8, 16), 1, 4, 4, (), 8)), torch.randn(1, 1, 32, 8, 8), torch.tensor([7])
    layout = F.one_hot(torch.zeros(1, 32, 8, 8, dtype=torch.long), 3).movedim(-1, 1).float()
    other = layout.clone()
    other[:, :, :4] = other[:, :, :4].flip(1)
    change = (net(x, t, layout) - net(x, t, other)).abs().mean(dim=(0, 1, 3, 4))
    assert change[:4].mean() > 5 * change[-8:].mean()


def test_checkpointed_activations_give_the_same_gradients():
    x, t, layout = torch.randn(1, 1, 8, 8, 8), torch.tensor([7]), layouts()
    gradients = []
    for saved in (False, True):
        net = network(SDMNetworkSettings((8, 16), 1, 4, 4, (1,), 8, activation_checkpointing=saved)).train()
        net(x, t, layout).square().sum().backward()
        gradients.append([p.grad for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_an_untrained_network_says_nothing():
    net = SDMNetwork(SETTINGS, 3, 2)
    assert not net(torch.randn(1, 1, 8, 8, 8), torch.tensor([7]), layouts()).any()


def test_guidance_is_the_formula_and_leaves_the_variance_alone():
    output, without = torch.randn(2, 2, 3, 3, 3), torch.randn(2, 2, 3, 3, 3)
    result = guided(output, without, 1.5)
    torch.testing.assert_close(result[:, 0], without[:, 0] + 1.5 * (output[:, 0] - without[:, 0]))
    assert torch.equal(result[:, 1], output[:, 1])
    assert torch.equal(guided(output, without, 1.0)[:, 1], output[:, 1])


@pytest.mark.parametrize("prediction", ["velocity", "preconditioned"])
def test_guiding_any_prediction_is_guiding_the_noise(prediction):
    process = model_folder.create("nasdm", {
        "form": {"anatomy_channels": 3, "patch": [8, 8, 8]}, "timesteps": 50, "prediction": prediction,
        "learned_variance": False, "denoiser": {"channels": [8, 16], "groups": 4, "attention": [], "head_width": 8},
    }).process
    x, output, without = (torch.randn(1, 1, 4, 4, 4, dtype=torch.float64) for _ in range(3))
    a = float(process.alpha_bar[20])

    def noise(said):
        return (x - math.sqrt(a) * process.clean(said, x, 20)) / math.sqrt(1 - a)

    wanted = clean_from_noise(x, guided(noise(output), noise(without), 1.5), 20, process.alpha_bar)
    torch.testing.assert_close(process.clean(guided(output, without, 1.5), x, 20), wanted)
