"""Learned variance against closed forms: torch.distributions, the entropy that the bound of an exact model reaches, and
samples of a Gaussian."""

import math

import numpy as np
import pytest
import torch
from streams import streams
from torch.distributions import Normal, kl_divergence

from LNSynthLib.diffusion import samplers
from LNSynthLib.diffusion.posterior import kl_bits, likelihood_bits, posterior
from LNSynthLib.diffusion.schedules import cosine, diffuse, spaced
from LNSynthLib.generators.denoising import Denoising
from LNSynthLib.generators.learned_variance import LearnedVariance, LearnedVarianceSettings, hu_levels

WINDOW = (-120.0, 240.0)
WIDTH = 0.3  # of the Gaussian data x_0 ~ N(0, WIDTH^2) used below


def process(**settings):
    return LearnedVariance(LearnedVarianceSettings(**{"timesteps": 40, "loss": "l2", **settings}), hu_levels(WINDOW))


def uniform(low, high, n=200, seed=0):
    return torch.empty(n, dtype=torch.float64).uniform_(low, high, generator=torch.Generator().manual_seed(seed))


def exact_step(now, after):
    """(mean per x_t, variance) of q(x_t' | x_t) for Gaussian data: product of two Gaussians, by precisions."""
    kept = now / after
    precision = 1 / (after * WIDTH**2 + 1 - after) + kept / (1 - kept)
    return math.sqrt(kept) / (1 - kept) / precision, 1 / precision


def exact_output(p, x, t):
    """What a perfect network says of x_t, t for all: E[eps | x_t], and v of the exact variance."""
    now, after = float(p.alpha_bar[t]), float(p.alpha_bar[t - 1])
    noise = math.sqrt(1 - now) / (now * WIDTH**2 + 1 - now) * x
    step = posterior(now, after)
    small = posterior(float(p.alpha_bar[2]), float(p.alpha_bar[1])).small if t == 1 else step.small
    fraction = math.log(exact_step(now, after)[1] / small) / math.log(step.large / small)
    return torch.cat([noise, torch.full_like(x, 2 * fraction - 1)], dim=1)


def test_kl_is_that_of_torch_distributions():
    mean, other, log, log_other = uniform(-2, 2), uniform(-2, 2, seed=1), uniform(-9, 0, seed=2), uniform(-9, 0, seed=3)
    wanted = kl_divergence(Normal(mean, (log / 2).exp()), Normal(other, (log_other / 2).exp())) / math.log(2)
    torch.testing.assert_close(kl_bits(other - mean, log_other, log), wanted)


def test_likelihoods_are_differences_of_the_distribution_function_and_sum_to_one():
    levels = 361
    grid = torch.linspace(-1, 1, levels, dtype=torch.float64)
    for mean, std in ((0.2, 0.05), (-0.9, 0.3), (0.9, 0.3), (0.99, 0.002)):
        bits = likelihood_bits(grid, torch.full_like(grid, mean), torch.full_like(grid, 2 * math.log(std)), levels)
        assert float((-bits * math.log(2)).exp().sum()) == pytest.approx(1, abs=1e-9)
        cdf, half = Normal(mean, std).cdf, 1 / 360
        wanted = cdf(grid + half) - cdf(grid - half)
        wanted[0], wanted[-1] = cdf(grid[0] + half), 1 - cdf(grid[-1] - half)
        near = wanted > 1e-9
        torch.testing.assert_close(bits[near], -wanted[near].log2(), rtol=1e-5, atol=1e-9)


def test_likelihoods_far_in_a_tail_and_at_the_ends_keep_finite_gradients():
    x = torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.0, 0.0])
    log_variance = torch.full_like(x, 2 * math.log(0.01), requires_grad=True)
    bits = likelihood_bits(x, torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0]), log_variance, 361)
    bits.sum().backward()
    assert torch.isfinite(bits).all() and torch.isfinite(log_variance.grad).all()
    torch.testing.assert_close(bits[[1, 4]], bits[[3, 5]])  # both tails alike


def test_a_level_is_one_hu():
    assert hu_levels(WINDOW) == 361


def test_variances_lie_between_beta_tilde_and_beta():
    """Nichol and Dhariwal 2021, eq. 15, written out; v of the network runs from -1 to 1."""
    p = process()
    now, before = float(p.alpha_bar[17]), float(p.alpha_bar[16])
    beta, tilde = 1 - now / before, (1 - before) / (1 - now) * (1 - now / before)
    for v in (-1.0, -0.3, 0.5, 1.0):
        share = (v + 1) / 2
        fraction = p.fraction(torch.tensor([[[0.0]], [[v]]], dtype=torch.float64).reshape(1, 2, 1))
        ours = posterior(now, before).variance(fraction)
        assert float(ours) == pytest.approx(math.exp(share * math.log(beta) + (1 - share) * math.log(tilde)))


@pytest.mark.parametrize("prediction", ["noise", "velocity", "preconditioned"])
def test_hybrid_loss_against_a_computation_step_by_step(prediction):
    """Per sample and voxel with numpy scalars and torch.distributions, from the definitions alone."""
    p = process(prediction=prediction)
    rng = np.random.default_rng(4)
    clean = torch.as_tensor(rng.uniform(-1, 1, (4, 1, 3)))
    output = torch.as_tensor(rng.normal(0, 0.5, (4, 2, 3)))
    seen = {}

    def network(x, t):
        seen.update(x=x, t=t)
        return output

    for seed in range(40):  # until t = 1 is among the times
        loss = p.loss(network, clean, streams(4, seed))
        if 1 in seen["t"]:
            break
    a = p.alpha_bar.numpy()
    simple, bound = [], []
    for b, t in enumerate(seen["t"].tolist()):
        now, before = a[t], a[t - 1]
        beta = 1 - now / before
        tilde = (1 - before) / (1 - now) * beta if t > 1 else (1 - a[1]) / (1 - a[2]) * (1 - a[2] / a[1])
        for i in range(3):
            x0, x, said, v = (float(z) for z in (clean[b, 0, i], seen["x"][b, 0, i], output[b, 0, i], output[b, 1, i]))
            eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
            total = 0.25 * now + 1 - now  # Var[x_t] for data of standard deviation 0.5
            target = {"noise": eps, "velocity": math.sqrt(now) * eps - math.sqrt(1 - now) * x0,
                      "preconditioned": (x0 - math.sqrt(now) * 0.25 / total * x) / math.sqrt(0.25 * (1 - now) / total)}
            guess = {"noise": (x - math.sqrt(1 - now) * said) / math.sqrt(now),
                     "velocity": math.sqrt(now) * x - math.sqrt(1 - now) * said,
                     "preconditioned": math.sqrt(now) * 0.25 / total * x + math.sqrt(0.25 * (1 - now) / total) * said}
            simple.append((said - target[prediction]) ** 2)
            mean, wanted = ((math.sqrt(before) * beta * z + math.sqrt(1 - beta) * (1 - before) * x) / (1 - now)
                            for z in (guess[prediction], x0))
            variance = beta ** ((v + 1) / 2) * tilde ** ((1 - v) / 2)
            model = Normal(torch.tensor(mean, dtype=torch.float64), math.sqrt(variance))
            if t == 1:
                low, high = model.cdf(torch.tensor(x0 - 1 / 360)), model.cdf(torch.tensor(x0 + 1 / 360))
                bound.append(-math.log2(max(float(high - low), 1e-300)))
            else:
                bound.append(float(kl_divergence(Normal(wanted, math.sqrt(tilde)), model)) / math.log(2))
    assert float(loss["simple"]) == pytest.approx(np.mean(simple), rel=1e-5)
    assert float(loss["bound"]) == pytest.approx(np.mean(bound), rel=1e-4)
    assert float(loss["loss"]) == pytest.approx(np.mean(simple) + 0.001 * 40 * np.mean(bound), rel=1e-4)


def test_the_bound_teaches_the_variance_alone():
    output = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    clean, x = torch.rand(3, 1, 5, dtype=torch.float64), torch.randn(3, 1, 5, dtype=torch.float64)
    process().bound(output, clean, x, torch.tensor([1, 2, 30])).sum().backward()
    assert (output.grad[:, 0] == 0).all() and (output.grad[:, 1] != 0).all()


def test_the_bound_of_an_exact_model_is_the_entropy_of_the_data():
    """For Gaussian data each step back is Gaussian, so a perfect network leaves no gap: the sum of all terms is the
    entropy of N(0, WIDTH^2) in levels of one HU. With the small variance for all steps it is more."""
    p, n = process(), 40_000
    rng = torch.Generator().manual_seed(5)
    clean = WIDTH * torch.randn(n, 1, 1, generator=rng, dtype=torch.float64)
    last = float(p.alpha_bar[-1])
    prior = kl_bits(-math.sqrt(last) * clean, torch.zeros(1), torch.full((1,), math.log(1 - last)))
    total = fixed = float(prior.mean())
    for t in range(1, 41):
        x = diffuse(clean, torch.randn(clean.shape, generator=rng, dtype=torch.float64), t, p.alpha_bar)
        output, times = exact_output(p, x, t), torch.full((n,), t)
        total += float(p.bound(output, clean, x, times).mean())
        output[:, 1] = -1
        fixed += float(p.bound(output, clean, x, times).mean())
    entropy = math.log2(WIDTH * math.sqrt(2 * math.pi * math.e)) + math.log2(360 / 2)
    assert total == pytest.approx(entropy, abs=0.03)
    assert fixed > total + 0.3


@pytest.mark.parametrize("steps", [4, 10])
def test_few_steps_with_the_exact_variance_keep_the_spread_that_fixed_ones_lose(steps):
    """Up to the last visited time before 0, where x_t ~ N(0, alpha_bar WIDTH^2 + 1 - alpha_bar)."""
    a, times = cosine(1000), spaced(1000, steps)[:-1]
    stop = float(a[times[-1][1]])

    def off(fraction):
        rng = torch.Generator().manual_seed(6)

        def noise():
            return torch.randn(200_000, generator=rng, dtype=torch.float64)

        def denoise(x, t):
            now = float(a[t])
            return math.sqrt(now) * WIDTH**2 / (now * WIDTH**2 + 1 - now) * x, fraction(now, float(a[dict(times)[t]]))

        x = samplers.ddpm_learned(denoise, noise(), times, alpha_bar=a, noise=noise)
        return abs(float(x.var()) / (stop * WIDTH**2 + 1 - stop) - 1)

    def exact(now, after):
        step = posterior(now, after)
        return math.log(exact_step(now, after)[1] / step.small) / math.log(step.large / step.small)

    assert off(exact) < 0.01
    assert off(lambda *_: 0.0) > 0.05 and off(lambda *_: 1.0) > 0.05


def test_ddpm_is_the_learned_one_at_the_smallest_variance():
    a = cosine(50)

    def sampled(sampler, answer):
        rng = torch.Generator().manual_seed(7)
        return sampler(answer, torch.ones(64), spaced(50, 9), alpha_bar=a,
                       noise=lambda: torch.randn(64, generator=rng))

    plain = sampled(samplers.ddpm, lambda x, t: x / 2)
    assert torch.equal(plain, sampled(samplers.ddpm_learned, lambda x, t: (x / 2, 0.0)))
    assert not torch.allclose(plain, sampled(samplers.ddpm_learned, lambda x, t: (x / 2, torch.ones(64))), atol=1e-3)


def test_sampling_takes_the_learned_variance_with_ddpm_alone_and_not_where_voxels_are_kept():
    p = process()
    known, keep = torch.zeros(1, 1, 40_000), torch.ones(1, 1, 40_000)
    seen = []

    def sample(v, sampler, **place):
        def network(x, t):
            seen.append((int(t[0]), x.std().item()))
            return torch.cat([x, torch.full_like(x, v)], dim=1)

        return p.sample(network, (1, 1, 40_000), torch.zeros(1), seeds=[1], steps=8, sampler=sampler, **place)

    assert not torch.allclose(sample(-1.0, "ddpm"), sample(1.0, "ddpm"), atol=1e-3)
    assert torch.equal(sample(-1.0, "ddim"), sample(1.0, "ddim"))
    seen.clear()
    sample(1.0, "ddpm", known=known, keep=keep)
    for t, std in seen:
        assert std == pytest.approx(math.sqrt(1 - p.alpha_bar[t].item()), rel=0.02)


def test_at_the_smallest_variance_it_samples_as_plain_denoising_does():
    settings = LearnedVarianceSettings(timesteps=40)
    with_v = LearnedVariance(settings, 361).sample(lambda x, t: torch.cat([x, -torch.ones_like(x)], 1), (2, 1, 50),
                                                   torch.zeros(1), seeds=[1, 2], sampler="ddpm", steps=6)
    without = Denoising(settings).sample(lambda x, t: x, (2, 1, 50), torch.zeros(1), seeds=[1, 2], sampler="ddpm",
                                         steps=6)
    torch.testing.assert_close(with_v, without)
