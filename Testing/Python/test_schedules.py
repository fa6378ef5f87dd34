"""Noise schedules against their equations and MONAI's; times against what a sampler needs of them."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from LNSynthLib.diffusion import schedules
from LNSynthLib.runtime.errors import LNSynthError


@pytest.mark.parametrize("name", schedules.SCHEDULES)
@pytest.mark.parametrize("timesteps", [50, 300, 1000])
def test_every_schedule_starts_clean_and_falls(name, timesteps):
    alpha_bar = schedules.SCHEDULES[name](timesteps)
    assert alpha_bar.dtype == torch.float64 and alpha_bar.shape == (timesteps + 1,)
    assert alpha_bar[0] == 1
    assert (alpha_bar.diff() < 0).all() and (alpha_bar > 0).all()


def test_cosine_is_equation_17():
    timesteps, s = 300, 0.008
    alpha_bar = schedules.cosine(timesteps)
    for t in (1, 17, 150, 299):
        f = math.cos((t / timesteps + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2
        assert float(alpha_bar[t]) == pytest.approx(f, rel=1e-10)
    assert float(alpha_bar[300] / alpha_bar[299]) == pytest.approx(1e-4, rel=1e-9)  # the last beta is clipped to 0.9999


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_no_beta_is_above_the_largest(name):
    """With few times linear schedules meet the bound too; a bound that none meets changes nothing."""
    plain, bounded = schedules.SCHEDULES[name](8), schedules.SCHEDULES[name](8, beta_max=0.6)
    for alpha_bar, bound in ((plain, 0.9999), (bounded, 0.6)):
        betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
        assert float(betas.max()) == pytest.approx(bound, rel=1e-9)
        assert torch.equal(schedules.SCHEDULES[name](8, beta_max=bound), alpha_bar)
    first = int((1 - plain[1:] / plain[:-1] > 0.6).nonzero()[0])
    assert torch.equal(plain[:first + 1], bounded[:first + 1])
    for wrong in (0.0, 1.0):
        with pytest.raises(LNSynthError, match="beta_max must lie between 0 and 1"):
            schedules.SCHEDULES[name](8, beta_max=wrong)


@pytest.mark.parametrize(
    "name, theirs, timesteps",
    [("linear", "linear_beta", 1000), ("scaled_linear", "scaled_linear_beta", 1000), ("cosine", "cosine", 1000)],
)
def test_schedules_agree_with_monai(name, theirs, timesteps):
    from monai.networks.schedulers import DDPMScheduler

    ours = schedules.SCHEDULES[name](timesteps, beta_max=0.999)[1:]
    keywords = {"scaled_linear": {"beta_start": 0.0015, "beta_end": 0.0195}}.get(name, {})
    monai = DDPMScheduler(timesteps, theirs, **keywords).alphas_cumprod.double()
    # MONAI computes in float32 and clips beta at 0.999, which touches a cosine schedule's last time only.
    torch.testing.assert_close(ours, monai, rtol=1e-3, atol=1e-6)
    assert float(ours[-1]) == pytest.approx(float(monai[-1]), rel=2e-3)


@pytest.mark.parametrize("name, first, last", [("linear", 1e-4, 0.02), ("scaled_linear", 0.0015, 0.0195)])
def test_fewer_timesteps_have_larger_betas_so_that_as_much_noise_comes_in(name, first, last):
    alpha_bar = schedules.SCHEDULES[name](250)
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    assert (float(betas[0]), float(betas[-1])) == pytest.approx((4 * first, 4 * last))
    assert float(alpha_bar[-1].log() / schedules.SCHEDULES[name](1000)[-1].log()) == pytest.approx(1, abs=0.05)


def test_diffuse_and_clean_from_noise_are_inverse_and_keep_the_dtype():
    alpha_bar = schedules.cosine(300)
    clean, noise = torch.rand(4, 1, 3, 3, 3) * 2 - 1, torch.randn(4, 1, 3, 3, 3)
    t = torch.tensor([1, 100, 250, 298])
    x = schedules.diffuse(clean, noise, t, alpha_bar)
    assert x.dtype == torch.float32
    torch.testing.assert_close(schedules.clean_from_noise(x, noise, t, alpha_bar), clean, atol=1e-4, rtol=0)
    for b in range(4):
        torch.testing.assert_close(
            schedules.diffuse(clean[b : b + 1], noise[b : b + 1], int(t[b]), alpha_bar), x[b : b + 1]
        )
    a = float(alpha_bar[100])
    torch.testing.assert_close(x[1], math.sqrt(a) * clean[1] + math.sqrt(1 - a) * noise[1])


def well_formed(times, steps, first):
    assert len(times) == steps and times[0][0] == first and times[-1][1] == 0
    assert all(t > t_next for t, t_next in times)
    assert all(before[1] == after[0] for before, after in pairwise(times))


@given(timesteps=st.integers(1, 1200), share=st.floats(0, 1))
def test_spaced_visits_distinct_even_times(timesteps, share):
    steps = max(1, round(timesteps * share))
    times = schedules.spaced(timesteps, steps)
    well_formed(times, steps, timesteps)
    gaps = [t - t_next for t, t_next in times]
    assert max(gaps) - min(gaps) <= 1


def test_spaced_rounds_half_up():
    assert schedules.spaced(10, 4) == [(10, 8), (8, 5), (5, 3), (3, 0)]


@settings(max_examples=50, deadline=None)
@given(
    timesteps=st.sampled_from([50, 250, 300, 1000]),
    share=st.floats(0, 1),
    name=st.sampled_from(sorted(schedules.SCHEDULES)),
)
def test_log_snr_uniform_visits_distinct_times(timesteps, share, name):
    alpha_bar = schedules.SCHEDULES[name](timesteps)
    lam = schedules.half_log_snr(alpha_bar)
    first = int((lam >= -5.1).nonzero().max())
    steps = max(1, round(first * share))
    times = schedules.log_snr_uniform(alpha_bar, steps)
    well_formed(times, steps, first)
    assert lam[first] >= -5.1 and (first == timesteps or lam[first + 1] < -5.1)


def test_log_snr_uniform_is_uniform_in_lambda():
    alpha_bar = schedules.cosine(1000)
    lam = schedules.half_log_snr(alpha_bar)
    chosen = torch.stack([lam[t] for t, _ in schedules.log_snr_uniform(alpha_bar, 12)])
    assert lam[0] == math.inf
    assert float(chosen.diff().std() / chosen.diff().mean()) < 0.1


def test_impossible_step_counts_are_refused():
    with pytest.raises(LNSynthError, match="301 sampling steps"):
        schedules.spaced(300, 301)
    with pytest.raises(LNSynthError, match="choose 1 to"):
        schedules.log_snr_uniform(schedules.cosine(300), 0)
