"""Training settings, the moving average, and what a preset costs."""

import re
from dataclasses import replace

import pytest
import torch
from streams import streams

from LNSynthLib.conditions.form import DataForm
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.training import cost
from LNSynthLib.training.ema import MovingAverage
from LNSynthLib.training.settings import AugmentSettings, Preset, TrainSettings, load_preset, make_generator

DENOISER = {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8}
TINY = Preset({"kind": "lnddpm", "form": {"patch": [16, 16, 16]}, "denoiser": DENOISER},
              TrainSettings(steps=7, batch=2), "a network for tests")


def test_learning_rate_schedules():
    settings = TrainSettings(steps=110, learning_rate=1.0, warmup=10, rate_schedule="cosine")
    assert settings.rate(0) == pytest.approx(0.1) and settings.rate(9) == settings.rate(10) == 1.0
    assert settings.rate(60) == pytest.approx(0.5)
    assert 0 < settings.rate(109) < 1e-3
    assert replace(settings, rate_schedule="linear").rate(85) == pytest.approx(0.25)
    assert replace(settings, rate_schedule="constant").rate(109) == 1.0
    held = TrainSettings(steps=200, learning_rate=1.0, rate_schedule="linear", rate_hold=0.5)
    assert held.rate(0) == held.rate(100) == 1.0 and held.rate(150) == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", [{"batch": 3, "micro_batch": 2}, {"ema": 1.0}, {"node_probability": 1.5},
                                   {"steps": 0}, {"shares": {"real": 0.0}}, {"learning_rate": 0.0},
                                   {"rate_hold": 1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(LNSynthError, match="training: "):
        TrainSettings(**wrong)


def test_paper_preset_is_the_paper():
    preset = load_preset("paper")
    training, generator = preset.training, make_generator(preset)
    assert (training.steps, training.batch, training.learning_rate, training.betas, training.ema) == (
        45_000, 1, 1e-4, (0.9, 0.999), 0.995)
    settings = generator.settings
    assert (settings.timesteps, settings.schedule, settings.prediction, settings.loss) == (300, "cosine", "noise", "l1")
    assert (settings.form.patch, settings.form.spacing_mm, settings.form.window) == ((128,) * 3, 1.0, (-120.0, 240.0))
    assert 1 + settings.form.condition_channels == 16 and settings.denoiser.local_detail == "LD"
    assert training.augment == AugmentSettings() and not training.shares


def test_moving_average_is_its_closed_form():
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    plain, warm = MovingAverage([weight], 0.9), MovingAverage([weight], 0.9, warmup=True)
    with torch.no_grad():
        weight.fill_(5.0)
    for step in range(4):
        plain.update(step)
        warm.update(step)
    assert float(plain.shadow[0]) == pytest.approx(5 - 3 * 0.9**4)
    assert float(warm.shadow[0]) == pytest.approx(5 - 3 * (1 / 10) * (2 / 11) * (3 / 12) * (4 / 13))
    kept = float(plain.shadow[0])
    with plain.applied():
        assert weight.item() == kept
    assert weight.item() == 5.0 and float(plain.shadow[0]) == kept


def test_counted_flops_are_those_of_a_real_forward_pass():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    generator = make_generator(TINY).eval()
    batch = {"image": torch.zeros(1, 1, 16, 16, 16), "condition": torch.ones(1, 15, 16, 16, 16)}
    # The counter does not know the CPU's fused attention, so here it is written out in matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        generator.loss(batch, streams(1))
    by_hand = 2 * 8 * (16 * 27) * 16**3  # the first convolution: 16 channels to 8
    counts = counter.get_flop_counts()["Global"]
    assert counter.get_total_flops() > by_hand and sum(counts.values()) == counter.get_total_flops()
    assert cost.forward_flops(make_generator(TINY), (16, 16, 16)) == counter.get_total_flops()


def test_counted_memory_is_that_of_the_tensors_alive():
    """A chain of n convolutions of equal width: their outputs are kept, and two more live at the backward pass."""
    class Chain(torch.nn.Module):
        form = DataForm()

        def __init__(self, length):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Conv3d(15, 15, 1, bias=False) for _ in range(length))
            self.players = {"chain": self.layers}

        def loss(self, batch, rng, player):
            h = batch["condition"]
            for layer in self.layers:
                h = layer(h)
            return {"loss": h.mean()}

    volume = 15 * 16**3 * 4
    counted = [cost.training_bytes(Chain(length), (16, 16, 16)) for length in (4, 8)]
    assert (counted[1] - counted[0]) / volume == pytest.approx(4, rel=0.05)  # one more kept a layer
    assert 6 * volume < counted[0] < 9 * volume  # image, condition, 4 outputs, and the gradient of one or two


def test_activation_checkpointing_saves_memory():
    def counted(saving):
        denoiser = {"channels": [16, 16], "blocks": 2, "groups": 4, "local_detail": None,
                    "activation_checkpointing": saving}
        generator = make_generator(replace(TINY, generator={**TINY.generator, "denoiser": denoiser}))
        return cost.training_bytes(generator, (16, 16, 16))

    assert counted(True) < 0.65 * counted(False)


def test_small_preset_is_the_paper_s_within_12_gb():
    small, paper = load_preset("small"), load_preset("paper")
    described = cost.describe(small)
    assert described["training_bytes"] < 8e9 and described["flops_per_forward_128"] == cost.describe(paper)[
        "flops_per_forward_128"]
    small.generator["denoiser"]["activation_checkpointing"] = False
    assert small.generator == paper.generator
    assert replace(small.training, workers=paper.training.workers) == paper.training


def test_cost_of_a_preset_is_described():
    described = cost.describe(TINY)
    assert described["parameters"] == sum(p.numel() for p in make_generator(TINY).parameters())
    # A backward pass costs two forward passes, less the gradient of the input, in each of 7 steps of 2 samples.
    assert 2 < described["flops_training"] / (2 * 7 * described["flops_per_forward_patch"]) < 3
    assert 400 < described["flops_per_forward_128"] / described["flops_per_forward_patch"]  # 512 x the convolutions
    assert re.fullmatch(r"\d+", str(described["flops_per_forward_128"]))
