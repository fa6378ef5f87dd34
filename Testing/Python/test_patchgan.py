"""PatchGAN: what one logit sees, and the losses of its logits and features against closed forms."""

import math

import pytest
import torch
from torch import nn

from LNSynthLib.conditions.form import DataForm
from LNSynthLib.generators.networks.patchgan import (
    Discriminator,
    PatchGAN,
    PatchGANSettings,
    cross_entropy,
    feature_distance,
    hinge,
    over_scales,
    receptive_field,
)
from LNSynthLib.runtime.errors import LNSynthError


def without_norms(network: PatchGAN) -> PatchGAN:
    """Norms over instances see everything; what is measured is the convolutions' reach."""
    for layer in list(network.layers)[:-1]:
        for i, part in enumerate(layer):
            if isinstance(part, nn.InstanceNorm3d):
                layer[i] = nn.Identity()
    return network


@pytest.mark.parametrize("padding, spectral", [(1, False), (2, True)])
@pytest.mark.parametrize("field", [16, 34, 70])
def test_one_logit_sees_the_receptive_field_and_no_voxel_more(field, padding, spectral):
    torch.manual_seed(0)
    network = without_norms(PatchGAN(1, PatchGANSettings(receptive_field=field, width=1), padding, spectral)).eval()
    side = field + 26
    x = torch.randn(1, 1, side, side, side, requires_grad=True)
    logits = network(x)[-1]
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle, middle].backward()
    seen = x.grad[0, 0].nonzero()
    assert (seen.max(dim=0).values - seen.min(dim=0).values + 1).tolist() == [field] * 3
    assert seen.min() > 0 and seen.max() < side - 1  # of a logit whose field lies inside the image


def test_the_recursion_gives_the_papers_receptive_fields():
    assert [receptive_field(halvings) for halvings in (1, 2, 3, 4)] == [16, 34, 70, 142]


def test_widths_and_sizes_of_the_paper():
    """C64-C128-C256-C512 and one logit (appendix 6.1.2): 30 x 30 logits from 256 x 256 pixels."""
    with torch.device("meta"):
        made = PatchGAN(16, PatchGANSettings(), 1, False)(torch.empty(1, 16, 256, 256, 256))
    assert [(layer.shape[1], layer.shape[2]) for layer in made] == [(64, 128), (128, 64), (256, 32), (512, 31), (1, 30)]


def test_spectral_norm_makes_the_largest_singular_value_one():
    torch.manual_seed(0)
    network = PatchGAN(3, PatchGANSettings(receptive_field=16, width=8), 2, True)
    with torch.no_grad():
        for _ in range(50):
            network(torch.randn(1, 3, 16, 16, 16))
    largest = [torch.linalg.matrix_norm(layer[0].weight.flatten(1), 2).item() for layer in network.layers[:-1]]
    assert largest[1:] == pytest.approx([1.0], abs=1e-3) and largest[0] != pytest.approx(1.0, abs=1e-3)


def test_scales_see_the_image_at_half_the_size_each():
    torch.manual_seed(0)
    form = DataForm(anatomy_channels=2, patch=(32, 32, 32))
    network = Discriminator(form, PatchGANSettings(receptive_field=16, width=4, scales=2), 2, True).eval()
    x = torch.randn(1, 4, 32, 32, 32)
    whole, half = network(x)
    assert torch.equal(whole[-1], network.scales[0](x)[-1])
    ones = torch.ones(4, 1, 3, 3, 3)
    sums, counts = (nn.functional.conv3d(y, ones, stride=2, padding=1, groups=4) for y in (x, torch.ones_like(x)))
    assert torch.allclose(half[-1], network.scales[1](sums / counts)[-1], atol=1e-5)
    assert half[0].shape[-1] == 9 and whole[0].shape[-1] == 17


def test_losses_at_known_logits():
    logits = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    sigmoid = [1 / (1 + math.exp(-x)) for x in logits.tolist()]
    assert cross_entropy(logits, True).item() == pytest.approx(-sum(math.log(p) for p in sigmoid) / 4, rel=1e-6)
    assert cross_entropy(logits, False).item() == pytest.approx(-sum(math.log(1 - p) for p in sigmoid) / 4, rel=1e-6)
    assert hinge(logits, True).item() == pytest.approx((3 + 1 + 0.5 + 0) / 4)
    assert hinge(logits, False).item() == pytest.approx((0 + 1 + 1.5 + 4) / 4)
    judged = [[torch.full((1, 8, 2), 9.0), logits], [torch.full((1, 8, 1), 9.0), torch.zeros(1)]]
    assert over_scales(hinge, judged, True).item() == pytest.approx((4.5 / 4 + 1) / 2)  # of scales, however many logits


def test_feature_distance_leaves_out_the_logits():
    torch.manual_seed(0)
    real = [[torch.randn(1, 4, 4), torch.randn(1, 2, 2), torch.randn(1, 1, 1)] for _ in range(2)]
    assert feature_distance(real, real).item() == 0
    fake = [[real[0][0] + 0.5, real[0][1] - 0.25, real[0][2] + 7], [*real[1][:2], real[1][2] - 7]]
    assert feature_distance(fake, real).item() == pytest.approx((0.5 + 0.25) / 2, rel=1e-6)


@pytest.mark.parametrize("patch, field, scales", [(16, 70, 1), (32, 142, 1), (16, 16, 3)])
def test_a_patch_that_is_too_small_for_the_layers_is_refused(patch, field, scales):
    with pytest.raises(LNSynthError, match="too small for a discriminator with a receptive field"):
        Discriminator(DataForm(patch=(patch,) * 3), PatchGANSettings(field, 4, scales), 1, False)


@pytest.mark.parametrize("patch, field, scales, padding", [(32, 70, 1, 1), (16, 16, 2, 1), (16, 70, 2, 2)])
def test_a_patch_that_is_just_large_enough_is_judged(patch, field, scales, padding):
    form = DataForm(anatomy_channels=2, patch=(patch,) * 3)
    network = Discriminator(form, PatchGANSettings(field, 4, scales), padding, False)
    assert all(torch.isfinite(layers[-1]).all() for layers in network(torch.randn(1, 4, *form.patch)))
