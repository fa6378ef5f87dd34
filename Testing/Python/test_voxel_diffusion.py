"""What Med-DDPM, NASDM and Echo from noise promise alike: the protocol, their checkpoints, presets and costs; and that
they learn to draw what their condition says."""

import pytest
import torch
from streams import streams

from LNSynthLib.generators import model_folder
from LNSynthLib.generators.protocol import Generator
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.seeds import torch_rng
from LNSynthLib.training.cost import forward_flops, parameters, training_bytes, turn_flops
from LNSynthLib.training.settings import load_preset, make_generator

KINDS = ["medddpm", "nasdm", "echo"]
NETWORKS = {"medddpm": {"channels": [8, 16], "blocks": 1, "groups": 4, "attention": []},
            "lnddpm": {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8}}
SDM = {"channels": [8, 16], "blocks": 1, "groups": 4, "hidden": 4, "attention": [], "head_width": 8}


def tiny(kind, **changes):
    torch.manual_seed(0)
    return model_folder.create(kind, {"form": {"anatomy_channels": 3, "patch": [8, 8, 8]}, "timesteps": 50,
                                    "denoiser": NETWORKS.get(kind, SDM), **changes})


def awake(kind, **changes):
    """With random weights throughout: as created, last convolutions are zero and the network invisible."""
    generator = tiny(kind, **changes)
    for parameter in generator.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.03)
    return generator


def conditions(batch, seed=0):
    """Three labels, a quarter of the patch air; a node of 4^3 voxels somewhere within the others."""
    rng = torch_rng(seed)
    labels = torch.randint(1, 3, (batch, 8, 8, 8), generator=rng)
    labels[:, :2] = 0
    nodes = torch.zeros_like(labels)
    for node, (x, y, z) in zip(nodes, torch.randint(0, 5, (batch, 3), generator=rng).tolist(), strict=True):
        node[2 + x // 2:6 + x // 2, y:y + 4, z:z + 4] = 1
    return torch.cat([torch.nn.functional.one_hot(labels, 3).movedim(-1, 1), nodes[:, None]], dim=1).float()


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_generators_with_one_player(kind):
    generator = tiny(kind)
    assert isinstance(generator, Generator) and generator.kind == kind
    assert generator.turns(0.5) == ("denoiser",) == tuple(generator.players)
    assert set(generator.players["denoiser"].parameters()) == set(generator.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp"])
def test_a_sample_depends_on_its_own_seed_and_condition_alone(kind, sampler):
    generator, c = awake(kind), conditions(3)
    together = generator.sample(c, seeds=[5, 6, 7], sampler=sampler, steps=4)
    alone = generator.sample(c[1:2], seeds=[6], sampler=sampler, steps=4)
    assert torch.allclose(together[1:2], alone, atol=1e-3)
    assert not torch.allclose(together[1:2], generator.sample(c[1:2], seeds=[8], sampler=sampler, steps=4), atol=1e-2)


@pytest.mark.parametrize("kind", [*KINDS, "lnddpm"])
def test_the_network_tells_each_samples_time_from_every_other(kind):
    generator, c = awake(kind).eval(), conditions(1)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, times = torch.randn(1, 1, 8, 8, 8, generator=torch_rng(2)), torch.tensor([1, 2, 25, 49, 50])
    with torch.no_grad():
        together = generator.predict(x.expand(5, -1, -1, -1, -1), times, c.expand(5, -1, -1, -1, -1))
        alone = torch.cat([generator.predict(x, t[None], c) for t in times])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    apart = torch.cdist(together.flatten(1), together.flatten(1)) / together.flatten(1).norm(dim=1)
    assert apart[~torch.eye(5, dtype=torch.bool)].min() > 1e-4  # rounding gives 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_kept_voxels_come_back_as_they_were(kind):
    known = torch.rand(1, 1, 8, 8, 8, generator=torch_rng(1)) * 1.8 - 0.9
    keep = torch.ones(1, 1, 8, 8, 8)
    keep[..., 2:6, 2:6, 2:6] = 0
    result = awake(kind).sample(conditions(1), seeds=[1], sampler="ddpm", steps=5, known=known, keep=keep)
    assert torch.allclose(result[keep > 0], known[keep > 0], atol=1e-6)
    assert not torch.allclose(result[keep == 0], known[keep == 0], atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_round_trip(kind, tmp_path):
    generator, c = awake(kind).eval(), conditions(1)
    loaded, _ = model_folder.load(model_folder.save(tmp_path / "g", generator))
    assert loaded.settings == generator.settings
    assert torch.equal(loaded.sample(c, seeds=[1], steps=2), generator.sample(c, seeds=[1], steps=2))


@pytest.mark.parametrize("kind", KINDS)
def test_presets_fit_the_methods_and_each_other(kind):
    ours, theirs = load_preset("mini", kind=kind), load_preset("mini")
    assert ours.generator["form"] == theirs.generator["form"] and ours.training == theirs.training
    mini, paper = (make_generator(load_preset(name, kind=kind)) for name in ("mini", "paper"))
    assert mini.settings.prediction == "preconditioned" and paper.settings.prediction == "noise"
    assert paper.settings.timesteps == mini.settings.timesteps == {"medddpm": 250}.get(kind, 1000)
    reference = forward_flops(make_generator(theirs), (32, 32, 32))
    assert 0.5 < forward_flops(mini, (32, 32, 32)) / reference < 2
    assert training_bytes(paper, (128, 128, 128)) < {"medddpm": 24e9}.get(kind, 12e9)


@pytest.mark.parametrize("kind", KINDS)
def test_costs_are_counted_without_values(kind):
    generator = tiny(kind)
    forward, turns = forward_flops(generator, (8, 8, 8)), turn_flops(generator, (8, 8, 8))
    assert parameters(generator) > 0 and 2.5 < turns["denoiser"] / forward < 3


@pytest.mark.parametrize("kind", KINDS)
def test_networks_and_patches_that_cannot_be_are_refused(kind):
    network = NETWORKS.get(kind, SDM)
    for change, said in (({"channels": [6, 16]}, "multiple of groups"), ({"attention": [2]}, "levels from 0 to 1"),
                         ({"blocks": 0}, "at least one block")):
        with pytest.raises(LNSynthError, match=said):
            tiny(kind, denoiser={**network, **change})
    with pytest.raises(LNSynthError, match="multiples of 2"):
        tiny(kind, form={"anatomy_channels": 3, "patch": [9, 8, 8]})


@pytest.mark.parametrize("kind, prediction", [*((kind, "preconditioned") for kind in KINDS), ("echo", "noise")])
def test_a_short_training_learns_to_draw_nodes(kind, prediction):
    """Nodes bright, all else dark, with some grain: the loss falls, and where there is a node a sample is brighter."""
    generator = tiny(kind, prediction=prediction)
    adam = torch.optim.Adam(generator.parameters(), lr=5e-3)

    def loss(seed):
        c = conditions(4, seed)
        image = c[:, 3:4] - 0.5 + 0.05 * torch.randn(4, 1, 8, 8, 8, generator=torch_rng(seed, "grain"))
        return generator.loss({"image": image, "condition": c}, streams(4, seed))["loss"]

    def mean():
        with torch.no_grad():
            return torch.stack([loss(1000 + i) for i in range(10)]).mean()

    before = mean()
    for step in range(60):
        adam.zero_grad()
        loss(step).backward()
        adam.step()
    assert mean() < 0.6 * before
    c = conditions(4, 2000)
    nodes = c[:, 3:4].bool()
    made = generator.sample(c, seeds=[1, 2, 3, 4], steps=8)
    assert made[nodes].mean() > made[~nodes].mean() + 0.3
