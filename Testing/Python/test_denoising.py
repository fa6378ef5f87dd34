"""What training shows a diffusion network, and what sampling does with its answer, whichever network it is."""

import pytest
import torch
from streams import streams

from LNSynthLib.diffusion.schedules import log_snr_uniform, spaced
from LNSynthLib.generators.denoising import Denoising, DiffusionSettings
from LNSynthLib.generators.learned_variance import LearnedVariance, LearnedVarianceSettings
from LNSynthLib.runtime.seeds import torch_rng

PROCESSES = {"fixed variance": lambda steps: Denoising(DiffusionSettings(timesteps=steps)),
             "learned variance": lambda steps: LearnedVariance(LearnedVarianceSettings(timesteps=steps), 361)}


@pytest.mark.parametrize("process", PROCESSES)
def test_every_time_from_1_to_T_is_trained_alike_and_no_other(process):
    seen = []

    def network(x, t):
        seen.append(t)
        return torch.zeros(len(x), 2 if process == "learned variance" else 1, *x.shape[2:])

    PROCESSES[process](4).loss(network, torch.zeros(4000, 1, 1, 1, 1), streams(4000))
    times, counts = torch.cat(seen).unique(return_counts=True)
    assert times.tolist() == [1, 2, 3, 4]
    assert (counts / 1000 - 1).abs().max() < 0.12  # four standard deviations


@pytest.mark.parametrize("bound", [1.0, 0.6])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp", "ddpm"])
def test_estimates_of_the_clean_volume_are_clipped_within_sampling(sampler, bound):
    """A network that always means x_0 = 3: what it is shown next must be a step towards the bound instead."""
    process, seen = Denoising(DiffusionSettings(timesteps=50)), []
    a = process.alpha_bar

    def network(x, t):
        seen.append((x, int(t[0])))
        alpha, sigma = a[t].sqrt().reshape(-1, 1, 1, 1, 1), (1 - a[t]).sqrt().reshape(-1, 1, 1, 1, 1)
        return (x - 3 * alpha) / sigma

    end = process.sample(network, (1, 1, 2, 2, 2), torch.zeros(1, dtype=torch.float64), seeds=[3], steps=2,
                         sampler=sampler, bound=bound)
    (x, t), (after, t_next) = seen
    assert [(t, t_next), (t_next, 0)] == (log_snr_uniform(a, 2) if sampler == "dpmpp" else spaced(50, 2))
    now, then = float(a[t]), float(a[t_next])
    if sampler == "ddpm":  # the mean of q(x_t' | x_t, x_0 = bound), and its noise
        noise = torch_rng(3, "sampler")
        torch.randn((1, 2, 2, 2), generator=noise)  # went into the start
        drawn = torch.randn((1, 2, 2, 2), generator=noise).double()
        kept = now / then
        wanted = (then**0.5 * (1 - kept) * bound + kept**0.5 * (1 - then) * x) / (1 - now)
        wanted = wanted + ((1 - then) / (1 - now) * (1 - kept)) ** 0.5 * drawn
    else:  # both begin with the same step: the noise that x and the bound imply stays
        wanted = then**0.5 * bound + (1 - then) ** 0.5 * (x - now**0.5 * bound) / (1 - now) ** 0.5
    torch.testing.assert_close(after, wanted)
    torch.testing.assert_close(end, torch.full_like(end, bound))


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp", "ddpm"])
def test_the_network_is_told_each_time_that_is_visited(sampler):
    process, told = Denoising(DiffusionSettings(timesteps=50)), []

    def network(x, t):
        told.append(t.tolist())
        return torch.zeros_like(x)

    process.sample(network, (2, 1, 2, 2, 2), torch.zeros(1), seeds=[1, 2], steps=5, sampler=sampler)
    times = log_snr_uniform(process.alpha_bar, 5) if sampler == "dpmpp" else spaced(50, 5)
    assert told == [[t, t] for t, _ in times]
