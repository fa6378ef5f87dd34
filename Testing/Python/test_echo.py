"""Echo from noise: its layout is the whole condition, and it is trained and sampled without guidance."""

import pytest
import torch
from streams import streams

from LNSynthLib.generators import model_folder
from LNSynthLib.runtime.seeds import torch_rng
from LNSynthLib.training.settings import load_preset, make_generator


def tiny(**changes):
    torch.manual_seed(0)
    return model_folder.create("echo", {
        "form": {"anatomy_channels": 3, "patch": [8, 8, 8]}, "timesteps": 50, **changes,
        "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "hidden": 4, "attention": [], "head_width": 8}})


def test_the_denoiser_is_given_all_of_the_condition_once():
    generator = tiny()
    calls = []
    generator.denoiser.forward = lambda x, t, layout: (calls.append(layout), torch.zeros(len(x), 2, *x.shape[2:]))[1]
    condition = torch.rand(4, 4, 8, 8, 8, generator=torch_rng(0))
    generator.loss({"image": torch.zeros(4, 1, 8, 8, 8), "condition": condition}, streams(4))
    generator.predict(torch.randn(4, 1, 8, 8, 8), torch.full((4,), 5), condition)
    assert len(calls) == 2 and all(torch.equal(layout, condition) for layout in calls)


def test_without_a_learned_variance_the_network_has_one_output_and_the_loss_one_term():
    for learned, outputs, logged in ((True, 2, {"loss", "simple", "bound"}), (False, 1, {"loss"})):
        generator = tiny(learned_variance=learned)
        batch = {"image": torch.zeros(1, 1, 8, 8, 8), "condition": torch.zeros(1, 4, 8, 8, 8)}
        assert generator.denoiser.conv_out.out_channels == outputs
        assert set(generator.loss(batch, streams(1))) == logged


def test_the_papers_settings():
    settings = make_generator(load_preset("paper", kind="echo")).settings
    assert (settings.schedule, settings.loss, settings.drop, settings.guidance) == ("cosine", "l2", 0.0, 1.0)
    assert settings.learned_variance and settings.bound_weight == 0.001 and settings.beta_max == 0.999
    a = make_generator(load_preset("mini", kind="echo")).process.alpha_bar
    assert float(a[-1] / a[-2]) == pytest.approx(0.001)
