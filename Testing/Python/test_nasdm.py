"""NASDM: its edge map, its layout, and samples trained without layout."""

import itertools

import pytest
import torch
from scipy import ndimage
from streams import streams

from LNSynthLib.generators import model_folder
from LNSynthLib.generators.nasdm import edges
from LNSynthLib.runtime.seeds import torch_rng
from LNSynthLib.training.settings import load_preset, make_generator


def tiny(**changes):
    torch.manual_seed(0)
    generator = model_folder.create("nasdm", {
        "form": {"anatomy_channels": 3, "patch": [8, 8, 8]}, "timesteps": 50, **changes,
        "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "hidden": 4, "attention": [], "head_width": 8}})
    for parameter in generator.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return generator


def condition(batch=2, seed=0):
    nodes = (torch.rand(batch, 1, 8, 8, 8, generator=torch_rng(seed)) < 0.2).float()
    return torch.cat([torch.ones(batch, 1, 8, 8, 8), torch.zeros(batch, 2, 8, 8, 8), nodes], dim=1)


def test_edges_by_brute_force():
    labels = torch.randint(0, 3, (2, 1, 5, 6, 7), generator=torch_rng(0)).float()
    expected = torch.zeros_like(labels)
    for b, x, y, z in itertools.product(*map(range, (2, 5, 6, 7))):
        for i, j, k in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)):
            u, v, w = x + i, y + j, z + k
            if 0 <= u < 5 and 0 <= v < 6 and 0 <= w < 7 and labels[b, 0, u, v, w] != labels[b, 0, x, y, z]:
                expected[b, 0, x, y, z] = 1
    assert torch.equal(edges(labels), expected)


def test_edges_of_a_mask_are_its_dilation_without_its_erosion():
    """An independent library's word for it; a node at the patch's border has no edge there."""
    mask = torch.rand(1, 1, 9, 9, 9, generator=torch_rng(1)) < 0.3
    array = mask[0, 0].numpy()
    expected = ndimage.binary_dilation(array) & ~ndimage.binary_erosion(array, border_value=1)
    assert (edges(mask.float())[0, 0].numpy() == expected).all()
    assert not edges(torch.ones(1, 1, 4, 4, 4)).any()


def test_edges_are_both_rims_of_a_border():
    """As in the picture's edge map of SDM's code: a ball of voxels gets a shell of one voxel inside and one outside."""
    cube = torch.zeros(1, 1, 9, 9, 9)
    cube[..., 3:6, 3:6, 3:6] = 1
    edge = edges(cube)
    assert edge[0, 0, 4, 4].tolist() == [0, 0, 1, 1, 0, 1, 1, 0, 0]
    assert edge.sum() == 26 + 6 * 9


def test_the_layout_is_background_nodes_and_edges_and_never_empty():
    generator, c = tiny(), condition()
    layout = generator.layout(c)
    assert torch.equal(layout[:, 0] + layout[:, 1], torch.ones(2, 8, 8, 8))
    assert torch.equal(layout[:, 1:2], c[:, 3:]) and torch.equal(layout[:, 2:], edges(c[:, 3:]))
    c[:, 3] = 0
    assert generator.layout(c).any()  # unlike a layout left out


def test_the_anatomy_is_not_looked_at():
    generator, c, x, t = tiny(), condition(1), torch.randn(1, 1, 8, 8, 8), torch.tensor([5])
    other = c.clone()
    other[:, :3] = other[:, :3].roll(1, dims=1)
    assert torch.equal(generator.predict(x, t, c), generator.predict(x, t, other))


def test_samples_are_guided_by_what_the_network_says_without_layout():
    generator, plain, c = tiny(), tiny(guidance=1.0), condition(1)
    x, t = torch.randn(1, 1, 8, 8, 8), torch.tensor([5])
    with_layout = generator.denoiser(x, t, generator.layout(c))
    without = generator.denoiser(x, t, torch.zeros(1, 3, 8, 8, 8))
    said = generator.predict(x, t, c)
    torch.testing.assert_close(said[:, :1], without[:, :1] + 1.5 * (with_layout[:, :1] - without[:, :1]))
    assert torch.equal(said[:, 1:], with_layout[:, 1:])
    assert torch.equal(plain.predict(x, t, c), with_layout)


@pytest.mark.parametrize("drop", [0.0, 0.2, 1.0])
def test_the_layout_of_a_share_of_the_samples_is_left_out(drop):
    generator, c = tiny(drop=drop), condition(1)
    seen = []
    generator.denoiser.forward = lambda x, t, layout: (seen.append(layout), torch.zeros(len(x), 2, *x.shape[2:]))[1]
    c = c.expand(500, -1, -1, -1, -1)
    generator.loss({"image": torch.zeros(500, 1, 8, 8, 8), "condition": c}, streams(500))
    empty = ~seen[0].flatten(1).any(1)
    assert empty.float().mean() == pytest.approx(drop, abs=0.05)
    assert torch.equal(seen[0][~empty], generator.layout(c)[~empty])


def test_the_papers_settings():
    settings = make_generator(load_preset("paper", kind="nasdm")).settings
    assert (settings.schedule, settings.loss, settings.drop, settings.guidance) == ("linear", "l2", 0.2, 1.5)
    assert settings.learned_variance and settings.bound_weight == 0.001
