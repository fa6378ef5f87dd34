"""Samplers against exact answers: an analytic Gaussian mixture, the DDIM paper's noise level, and MONAI's
schedulers."""

import math

import pytest
import torch

from LNSynthLib.diffusion import samplers, schedules

WEIGHTS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
MEANS = torch.tensor([-0.6, 0.1, 0.7], dtype=torch.float64)
WIDTHS = torch.tensor([0.10, 0.15, 0.08], dtype=torch.float64)
COSINE = schedules.cosine(300)


def posterior_mean(alpha_bar):
    """E[x_0 | x_t] when x_0 is the mixture above: for each component a Gaussian product, weighted by its evidence."""

    def denoise(x, t):
        a = float(alpha_bar[t])
        variance = a * WIDTHS**2 + 1 - a
        off = x[:, None] - math.sqrt(a) * MEANS
        responsibility = torch.softmax(WEIGHTS.log() - variance.log() / 2 - off**2 / (2 * variance), dim=1)
        return (responsibility * (MEANS + math.sqrt(a) * WIDTHS**2 / variance * off)).sum(1)

    return denoise


def wasserstein_to_mixture(samples):
    """W1 between samples and the mixture: mean distance of the sorted samples to the true quantiles."""
    grid = torch.linspace(-1.5, 1.5, 30001, dtype=torch.float64)
    cdf = (WEIGHTS * torch.special.ndtr((grid[:, None] - MEANS) / WIDTHS)).sum(1)
    wanted = (torch.arange(len(samples), dtype=torch.float64) + 0.5) / len(samples)
    at = torch.searchsorted(cdf, wanted).clamp(1, len(grid) - 1)
    share = (wanted - cdf[at - 1]) / (cdf[at] - cdf[at - 1])
    truth = grid[at - 1] + share * (grid[at] - grid[at - 1])
    return float((samples.sort().values - truth).abs().mean())


def sampled(sampler, times, n=100_000, alpha_bar=COSINE, seed=0, **keywords):
    rng = torch.Generator().manual_seed(seed)

    def noise():
        return torch.randn(n, generator=rng, dtype=torch.float64)

    return sampler(posterior_mean(alpha_bar), noise(), times, alpha_bar=alpha_bar, noise=noise, **keywords)


def test_ddpm_300_and_dpmpp_25_reach_the_mixture():
    ancestral = wasserstein_to_mixture(sampled(samplers.ddpm, schedules.spaced(300, 300)))
    fast = wasserstein_to_mixture(sampled(samplers.dpmpp_2m, schedules.log_snr_uniform(COSINE, 25)))
    assert ancestral < 0.01 and fast < 0.01
    assert fast <= 1.2 * ancestral


def test_more_steps_come_closer_and_second_order_beats_first():
    def distance(sampler, steps):
        return wasserstein_to_mixture(sampled(sampler, schedules.log_snr_uniform(COSINE, steps)))

    assert distance(samplers.dpmpp_2m, 25) < distance(samplers.dpmpp_2m, 8)
    assert distance(samplers.dpmpp_2m, 12) < distance(samplers.ddim, 12)
    assert distance(samplers.ddim, 200) < 0.01


def test_strided_ddpm_is_right_for_any_subset_of_times():
    # x_0 ~ N(0, 1) makes the exact denoiser linear, sqrt(alpha_bar) x, so that the variance after each step is known
    # by hand; stepping with the schedule's own one-step beta instead would lose most of the noise.
    rng = torch.Generator().manual_seed(1)
    times = [(300, 211), (211, 90), (90, 13), (13, 0)]

    def noise():
        return torch.randn(200_000, generator=rng, dtype=torch.float64)

    def second_moment_at(stop):
        kept = [pair for pair in times if pair[1] >= stop]
        return float(
            samplers.ddpm(
                lambda x, t: math.sqrt(float(COSINE[t])) * x, noise(), kept, alpha_bar=COSINE, noise=noise
            ).var()
        )

    variance = 1.0
    for t, t_next in times:
        a, b = float(COSINE[t]), float(COSINE[t_next])
        gain = math.sqrt(b) * (1 - a / b) / (1 - a) * math.sqrt(a) + math.sqrt(a / b) * (1 - b) / (1 - a)
        variance = gain**2 * variance + (1 - b) * (1 - a / b) / (1 - a)
        assert second_moment_at(t_next) == pytest.approx(variance, rel=0.02)


def test_ddpm_posterior_is_bayes_rule():
    """q(x'|x, x_0) by discrete Bayes over a grid: q(x'|x_0) q(x|x') normalised."""
    t, t_next, x0, x = 180, 120, 0.4, torch.tensor([-0.7], dtype=torch.float64)
    a, b = float(COSINE[t]), float(COSINE[t_next])
    grid = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    log = -((grid - math.sqrt(b) * x0) ** 2) / (2 * (1 - b)) - (x - math.sqrt(a / b) * grid) ** 2 / (2 * (1 - a / b))
    p = torch.softmax(log, 0)
    mean = float((p * grid).sum())
    deviation = float((p * (grid - mean) ** 2).sum().sqrt())

    def step(draw):
        return samplers.ddpm(
            lambda *_: torch.tensor([x0], dtype=torch.float64),
            x,
            [(t, t_next)],
            alpha_bar=COSINE,
            noise=lambda: torch.full_like(x, draw),
        )

    assert float(step(0.0)) == pytest.approx(mean, abs=1e-8)
    assert float(step(1.0) - step(0.0)) == pytest.approx(deviation, rel=1e-6)


def test_ddim_with_eta_one_is_ddpm():
    times = schedules.spaced(300, 20)
    torch.testing.assert_close(
        sampled(samplers.ddim, times, n=1000, eta=1.0), sampled(samplers.ddpm, times, n=1000), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("sampler", [samplers.ddim, samplers.dpmpp_2m])
@pytest.mark.parametrize("first", [300, 298, 150])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_a_known_region_keeps_its_noise_level_at_every_step(sampler, first, dtype, tolerance):
    """Where denoise returns `known`, x = alpha known + sigma eps ends on alpha' known + sigma' eps, from t = T too
    (alpha ~ 5e-5)."""
    rng = torch.Generator().manual_seed(2)
    known = (torch.rand(2, 1, 6, 6, 6, generator=rng, dtype=torch.float64) * 2 - 1).to(dtype)
    eps = torch.randn(known.shape, generator=rng, dtype=torch.float64).to(dtype)
    times = [(t, t_next) for t, t_next in schedules.log_snr_uniform(COSINE, 25, lambda_min=-10) if t <= first]
    times = ([(first, times[0][0])] if times[0][0] != first else []) + times
    seen = []

    def denoise(x, t):
        wanted = schedules.diffuse(known, eps, t, COSINE)
        torch.testing.assert_close(x, wanted, atol=tolerance, rtol=0)
        seen.append(t)
        return known

    end = sampler(denoise, schedules.diffuse(known, eps, first, COSINE), times, alpha_bar=COSINE)
    torch.testing.assert_close(end, known, atol=tolerance, rtol=0)
    assert seen == [t for t, _ in times] and end.dtype == dtype


@pytest.mark.parametrize("times", [schedules.spaced(300, 7), schedules.log_snr_uniform(COSINE, 7)])
@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_every_sampler_ends_on_the_last_estimate_and_reports(name, times):
    reported = []
    x = torch.randn(5, dtype=torch.float32)
    end = samplers.SAMPLERS[name](
        lambda x, t: torch.full_like(x, t / 300),
        x,
        times,
        alpha_bar=COSINE,
        noise=lambda: torch.randn_like(x),
        callback=lambda done, total: reported.append((done, total)),
    )
    torch.testing.assert_close(end, torch.full_like(x, times[-1][0] / 300))
    assert reported == [(i, 7) for i in range(1, 8)] and end.dtype == torch.float32


@pytest.mark.parametrize("name", ["linear_beta", "scaled_linear_beta"])
def test_full_length_ddpm_and_ddim_agree_with_monai(name):
    """MONAI steps by t - T // n, which is right only for n = T (its issue 8600): compare there. Its time t is our t
    + 1."""
    from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

    T = 100
    keywords = {"num_train_timesteps": T, "schedule": name, "prediction_type": "sample", "clip_sample": False}
    theirs_ddpm, theirs_ddim = DDPMScheduler(**keywords), DDIMScheduler(**keywords)
    for theirs in (theirs_ddpm, theirs_ddim):  # lift MONAI's float32 tables, so that only the formulas are compared
        theirs.betas = theirs.betas.double()
        theirs.alphas = 1 - theirs.betas
        theirs.alphas_cumprod = theirs.alphas.cumprod(0)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), theirs_ddpm.alphas_cumprod])
    denoise = posterior_mean(alpha_bar)
    times = schedules.spaced(T, T)
    start = torch.randn(64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    x = start
    for t in theirs_ddim.timesteps.tolist():
        x, _ = theirs_ddim.step(denoise(x, t + 1), t, x)
    ours = samplers.ddim(denoise, start, times, alpha_bar=alpha_bar)
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-9)

    theirs_rng, ours_rng = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    x = start[:, None]
    for t in theirs_ddpm.timesteps.tolist():
        x, _ = theirs_ddpm.step(denoise(x[:, 0], t + 1)[:, None], t, x, generator=theirs_rng)

    def noise():
        return torch.randn(64, 1, generator=ours_rng, dtype=torch.float64)[:, 0]

    ours = samplers.ddpm(denoise, start, times, alpha_bar=alpha_bar, noise=noise)
    torch.testing.assert_close(ours, x[:, 0], rtol=0, atol=1e-9)


def test_dpmpp_is_algorithm_2_at_uneven_steps():
    """As the paper writes it (arXiv 2211.01095, algorithm 2), with exp and r, over uneven steps in lambda: of
    even ones, r = 1 hides what D divides by."""
    alpha, sigma = COSINE.sqrt(), (1 - COSINE).sqrt()
    lam = (alpha / sigma).log()
    times = [(280, 200), (200, 190), (190, 60), (60, 45), (45, 2)]
    denoise = posterior_mean(COSINE)
    x = start = torch.randn(50, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    h_before = before = None
    for t, t_next in times:
        h, now = lam[t_next] - lam[t], denoise(x, t)
        d = now
        if before is not None:
            r = h_before / h
            d = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * before
        x = sigma[t_next] / sigma[t] * x - alpha[t_next] * (torch.exp(-h) - 1) * d
        h_before, before = h, now
    torch.testing.assert_close(samplers.dpmpp_2m(denoise, start, times, alpha_bar=COSINE), x, rtol=0, atol=1e-12)
