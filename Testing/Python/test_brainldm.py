"""BrainLDM: its autoencoder's losses, the scale of its latents, what its denoiser attends to, and sampling."""

import pytest
import torch
from streams import streams
from torch.distributed.checkpoint.state_dict import set_model_state_dict
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from LNSynthLib.generators import model_folder
from LNSynthLib.generators.brainldm import BrainLDMSettings
from LNSynthLib.generators.networks.autoencoder import (
    Autoencoder,
    AutoencoderSettings,
    LatentScale,
    divergence,
    verdict,
)
from LNSynthLib.generators.protocol import Generator
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.seeds import torch_rng
from LNSynthLib.runtime.settings import build
from LNSynthLib.training import cost
from LNSynthLib.training.checkpoints import WHOLE
from LNSynthLib.training.settings import load_preset, make_generator

SETTINGS = {
    "form": {"anatomy_channels": 3, "patch": [16, 16, 16]},
    "timesteps": 50,
    "autoencoder": {"channels": [8, 16], "blocks": 1, "groups": 4, "discriminator_channels": 4,
                    "discriminator_layers": 2},
    "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "attention": [True, True], "heads": 2,
                 "token_width": 8},
}


def tiny(**changes):
    """With random weights throughout: as created, the last convolutions are zero and the network invisible."""
    torch.manual_seed(0)
    generator = model_folder.create("brainldm", {**SETTINGS, **changes})
    for name, weight in generator.denoiser.named_parameters():
        if weight.dim() > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
            assert "proj_out" in name or "conv2" in name or "unet.out" in name
    return generator


def condition(batch=1, seed=0):
    """Anatomy at random and one node of 4^3 voxels."""
    labels = torch.randint(0, 3, (batch, 16, 16, 16), generator=torch.Generator().manual_seed(seed))
    nodes = torch.zeros(batch, 1, 16, 16, 16)
    nodes[..., 4:8, 4:8, 4:8] = 1
    return torch.cat([F.one_hot(labels, 3).movedim(-1, 1).float(), nodes], dim=1)


def batch(samples=2):
    return {"image": torch.rand(samples, 1, 16, 16, 16, generator=torch_rng(5)) * 2 - 1,
            "condition": condition(samples)}


def singles(samples):
    """The samples of a batch one by one, each with its stream, as the training loop tells of a stage's beginning."""
    whole = batch(samples)
    return [({name: tensor[i:i + 1] for name, tensor in whole.items()}, streams(samples)[i:i + 1])
            for i in range(samples)]


def test_it_is_a_generator():
    generator = tiny()
    assert isinstance(generator, Generator) and generator.stride == 4
    ours = {id(weight) for network in generator.players.values() for weight in network.parameters()}
    assert ours == {id(weight) for weight in generator.parameters()}


def test_turns_are_the_autoencoders_then_against_its_adversary_then_the_denoisers():
    generator = tiny(autoencoder_share=0.5, adversarial_start=0.2)
    assert [generator.turns(progress) for progress in (0.0, 0.09, 0.1, 0.49, 0.5, 1.0)] == [
        ("autoencoder",)] * 2 + [("discriminator", "autoencoder")] * 2 + [("denoiser",)] * 2


def test_the_divergence_is_that_of_gaussians():
    mean, deviation = torch.randn(4, 3, 5, 5, 5), torch.rand(4, 3, 5, 5, 5) + 0.1
    expected = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum((1, 2, 3, 4)).mean()
    torch.testing.assert_close(divergence(mean, deviation), expected)
    assert divergence(torch.zeros(1, 3, 2, 2, 2), torch.ones(1, 3, 2, 2, 2)) == 0


def test_the_verdict_is_least_squares():
    discriminator = lambda image: [image, 2 * image]  # noqa: E731
    image = torch.tensor([0.0, 0.5])
    assert verdict(discriminator, image, True).item() == pytest.approx(((0 - 1)**2 + (1 - 1)**2) / 2)
    assert verdict(discriminator, image, False).item() == pytest.approx((0**2 + 1**2) / 2)


def test_the_loss_is_its_weighted_terms_and_has_an_adversary_only_once_that_has_learned():
    generator = tiny(autoencoder={**SETTINGS["autoencoder"], "kl_weight": 0.01, "adversarial_weight": 0.5})
    before = generator.loss(batch(), streams(2), "autoencoder")
    assert before["adversarial"] == 0
    torch.testing.assert_close(before["loss"], before["l1"] + 0.01 * before["kl"])
    generator.loss(batch(), streams(2), "discriminator")
    after = generator.loss(batch(), streams(2), "autoencoder")
    assert after["adversarial"] > 0 and after["l1"] == before["l1"]
    torch.testing.assert_close(after["loss"], before["loss"] + 0.5 * after["adversarial"])


@pytest.mark.parametrize("player", ["discriminator", "autoencoder", "denoiser"])
def test_each_turn_trains_its_own_network(player):
    """The autoencoder's loss reaches through the discriminator, which the training loop knows; no other reaches out."""
    generator = tiny()
    generator.loss(batch(), streams(2), player)["loss"].backward()
    reached = {name for name, network in generator.players.items()
               if any(weight.grad is not None for weight in network.parameters())}
    assert reached - {"discriminator"} == {player} - {"discriminator"} and player in reached
    assert all(weight.grad is not None for weight in generator.players[player].parameters())


def test_scaled_latents_have_unit_standard_deviation():
    """Over all the samples, whose own deviations differ tenfold, and about their mean."""
    scale = LatentScale(samples=40)
    codes = 3 + torch.randn(60, 3, 4, 4, 4) * torch.linspace(0.2, 2, 60)[:, None, None, None, None]
    assert scale.deviation == 1
    scale.measure(codes.split(1))
    assert scale.seen == 40
    assert (codes[:40] / scale.deviation).std().item() == pytest.approx(1, abs=1e-3)


def test_the_scale_is_measured_before_the_denoisers_stage_and_survives_a_checkpoint(tmp_path):
    generator = tiny()
    for player in generator.players:
        generator.loss(batch(), streams(2), player)
    generator.begin(("discriminator", "autoencoder"), singles(4))
    assert generator.scale.seen == 0  # latents still change
    generator.begin(("denoiser",), singles(4))
    code = torch.cat([generator.autoencoder.code(one["image"], stream) for one, stream in singles(4)])
    assert (code / generator.scale.deviation).std().item() == pytest.approx(1, abs=1e-3)
    loaded, _ = model_folder.load(model_folder.save(tmp_path / "g", generator))
    assert loaded.scale.deviation == generator.scale.deviation and loaded.settings == generator.settings
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in generator.state_dict().items())


def test_an_untrained_denoiser_loses_the_variance_of_the_noise():
    # Its last convolution starts at zero and theirs is the squared error: E N(0, 1)^2 = 1.
    generator = model_folder.create("brainldm", SETTINGS)
    assert generator.loss(batch(8), streams(8))["loss"].item() == pytest.approx(1, abs=0.03)


def test_the_denoiser_responds_to_the_node_mask_and_to_nothing_else_of_the_condition():
    generator = tiny()
    c, x, t = condition(), torch.randn(1, 3, 8, 8, 8), torch.tensor([20])

    def output(c):
        return generator.predict(x, t, generator.form.nodes(c))

    other = c.clone()
    other[:, :3] = c[:, :3].flip(1)
    assert torch.equal(output(c), output(other))
    loss = [generator.eval().loss({"image": batch(1)["image"], "condition": c}, streams(1))["loss"]
            for c in (c, other)]
    assert loss[0] == loss[1]
    assert not torch.allclose(output(c), output(torch.cat([c[:, :3], torch.zeros_like(c[:, 3:])], dim=1)), atol=1e-4)


def test_tokens_tell_where_a_node_is():
    """Attention sums over tokens in any order; without their place, a mask and its mirror image would be one."""
    denoiser = tiny().denoiser
    nodes = condition()[:, 3:]
    here, there = (denoiser.tokens(m, torch.Size((8, 8, 8))) for m in (nodes, nodes.roll(8, 2)))
    x, t = torch.randn(1, 3, 8, 8, 8), torch.tensor([20])
    shuffled = here[:, torch.randperm(512)]
    torch.testing.assert_close(denoiser.unet(x, t, context=here), denoiser.unet(x, t, context=shuffled))
    assert not torch.allclose(denoiser.unet(x, t, context=here), denoiser.unet(x, t, context=there), atol=1e-4)
    places = denoiser.tokens(torch.zeros(1, 1, 16, 16, 16), torch.Size((8, 8, 8)))[0]
    assert torch.pdist(places).min() > 1e-3


def perfect(generator, latents):
    """Puts in place of the denoiser one that knows the clean latents: their noise, exactly."""
    def predict(x, t, _nodes):
        a = generator.process.alpha_bar[t].reshape(-1, 1, 1, 1, 1)
        return ((x - a.sqrt() * latents) / (1 - a).sqrt()).to(x)
    generator.predict = predict


@pytest.mark.parametrize("sampler, steps", [("dpmpp", 10), ("ddim", 10), ("ddpm", 50)])
def test_sampling_with_a_perfect_denoiser_decodes_the_truth(sampler, steps):
    generator = tiny()
    generator.begin(("denoiser",), singles(4))
    code = generator.autoencoder.encode(batch(1)["image"])[0].detach()
    perfect(generator, code / generator.scale.deviation)
    result = generator.sample(condition(), seeds=[1], sampler=sampler, steps=steps)
    torch.testing.assert_close(result, generator.autoencoder.decode(code).clamp(-1, 1), atol=1e-3, rtol=0)


def test_a_sample_depends_on_its_own_seed_and_condition_alone():
    generator, c = tiny(), condition(3)
    together = generator.sample(c, seeds=[5, 6, 7], sampler="ddpm", steps=5)
    assert together.shape == (3, 1, 16, 16, 16) and together.abs().max() <= 1
    torch.manual_seed(99)
    alone = generator.sample(c[1:2], seeds=[6], sampler="ddpm", steps=5)
    torch.testing.assert_close(alone, together[1:2], atol=1e-3, rtol=0)
    assert not torch.allclose(together[1:2], generator.sample(c[1:2], seeds=[8], sampler="ddpm", steps=5), atol=0.05)


def test_kept_voxels_come_back_and_kept_latents_are_the_real_ones():
    generator, known = tiny(), batch(1)["image"]
    keep = torch.ones(1, 1, 16, 16, 16)
    keep[..., 3:9, 4:10, 4:10] = 0  # an odd corner: the cell of voxels 2 and 3 is not wholly kept
    seen = []
    decode = generator.autoencoder.decode
    generator.autoencoder.decode = lambda code: (seen.append(code), decode(code))[1]
    result = generator.sample(condition(), seeds=[1], steps=5, known=known, keep=keep)
    assert torch.equal(result[keep > 0], known[keep > 0])
    assert not torch.allclose(result[keep == 0], known[keep == 0], atol=0.05)
    real, kept = generator.autoencoder.encode(known)[0], torch.ones(8, 8, 8, dtype=torch.bool)
    kept[1:5, 2:5, 2:5] = False
    torch.testing.assert_close(seen[0][..., kept], real[..., kept], atol=1e-5, rtol=0)
    assert (seen[0] - real).abs().amin(1)[0][~kept].min() > 0


@pytest.mark.parametrize("network", ["autoencoder", "denoiser"])
def test_weights_that_are_no_numbers_make_no_image(network):
    generator = tiny()
    with torch.no_grad():
        for weight in generator.players[network].parameters():
            weight.fill_(float("nan"))
    with pytest.raises(LNSynthError, match="not finite"):
        generator.sample(condition(), seeds=[1], steps=2)


def test_a_trained_autoencoder_beats_the_mean_image():
    """Boxes at random places and grey values, unlike each other: what it is not told it must get through its code."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderSettings(channels=(8, 16), blocks=1, groups=4))
    adam, rng = torch.optim.Adam(autoencoder.parameters(), 5e-3), torch_rng(3)

    def boxes(n):
        image = torch.full((n, 1, 8, 8, 8), -0.5)
        for one in image:
            x, y, z = torch.randint(0, 5, (3,), generator=rng)
            one[:, x:x + 4, y:y + 4, z:z + 4] = torch.rand((), generator=rng)
        return image

    for _ in range(150):
        image = boxes(4)
        mean, deviation = autoencoder.encode(image)
        code = mean + deviation * torch.randn(mean.shape, generator=rng)
        (F.l1_loss(autoencoder.decode(code), image) + 1e-6 * divergence(mean, deviation)).backward()
        adam.step()
        adam.zero_grad()
    unseen = boxes(16)
    with torch.no_grad():
        error = F.l1_loss(autoencoder.decode(autoencoder.encode(unseen)[0]), unseen)
    assert error < 0.6 * F.l1_loss(unseen.mean(0, keepdim=True).expand_as(unseen), unseen)


def test_costs_are_counted_on_the_meta_device():
    flops = cost.turn_flops(tiny(), (16, 16, 16))
    assert flops.keys() == tiny().players.keys() and min(flops.values()) > 0


def test_presets():
    """`mini` is built and shares the other generators' form; `paper`, too large to build here, is well-formed."""
    assert load_preset("mini", kind="brainldm").generator["form"] == load_preset("mini").generator["form"]
    assert make_generator(load_preset("mini", kind="brainldm")).stride == 8
    settings = {key: value for key, value in load_preset("paper", kind="brainldm").generator.items() if key != "kind"}
    assert build(BrainLDMSettings, settings).form.patch == (128, 128, 128)


def test_wrong_settings_are_refused():
    with pytest.raises(LNSynthError, match="multiples of 4"):
        tiny(form={"anatomy_channels": 3, "patch": [18, 16, 16]})
    with pytest.raises(LNSynthError, match="autoencoder: channels"):
        tiny(autoencoder={"channels": [8, 18], "groups": 4})
    with pytest.raises(LNSynthError, match="one entry of attention a level"):
        tiny(denoiser={**SETTINGS["denoiser"], "attention": [True]})
    with pytest.raises(LNSynthError, match="autoencoder_share must lie"):
        tiny(autoencoder_share=1.0)
    with pytest.raises(LNSynthError, match="multiples of 4"):
        tiny().sample(torch.zeros(1, 4, 16, 16, 18), seeds=[1])


def test_weights_of_a_version_whose_adversary_had_batch_norms_are_read(tmp_path):
    generator = tiny()
    norms = [name.removesuffix(".weight") for name in generator.state_dict()
             if name.startswith("discriminator.") and name.endswith(".adn.N.weight")]
    assert norms
    old = generator.state_dict()
    for norm in norms:
        width = old[f"{norm}.weight"].shape
        old |= {f"{norm}.running_mean": torch.zeros(width), f"{norm}.running_var": torch.ones(width),
                f"{norm}.num_batches_tracked": torch.tensor(7)}
    loaded, _ = model_folder.load(model_folder.save(tmp_path / "g", generator, weights=old))
    for fresh in (loaded, tiny()):
        set_model_state_dict(fresh, old, options=WHOLE)  # as a resumed run
        assert all(torch.equal(value, old[name]) for name, value in fresh.state_dict().items())
