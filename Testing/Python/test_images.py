"""MSE, PSNR and MS-SSIM against scikit-image, a computation by hand in float64, and known answers."""

import csv
import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from LNSynthLib.evaluation.images import RANGE, SsimSettings, ms_ssim, mse, mse_01, psnr, scales


def pair(shape, noise=0.3, seed=0):
    """A smooth random volume in [-1, 1] and a noisy version of it."""
    random = np.random.default_rng(seed)
    real = ndimage.gaussian_filter(random.normal(size=shape), 2)
    real = np.clip(real / np.abs(real).max() * 1.2, -1, 1)
    return np.clip(real + noise * random.normal(size=shape), -1, 1).astype(np.float32), real.astype(np.float32)


def by_hand(a, b, settings, levels):
    """MS-SSIM in float64 from explicit windows: every voxel's weighted moments, then Wang's eq. 7."""
    half = np.arange(settings.window) - (settings.window - 1) / 2
    line = np.exp(-(half**2) / (2 * settings.sigma**2))
    kernel = line[:, None, None] * line[:, None] * line
    kernel /= kernel.sum()
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    a, b, factors = a.astype(np.float64), b.astype(np.float64), []

    def mean(x):
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape)
        return np.einsum("xyzijk,ijk->xyz", windows, kernel)

    for _ in range(levels):
        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        contrast = (2 * cov + c2) / (va + vb + c2)
        luminance = (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)
        factors.append((contrast.mean(), (luminance * contrast).mean()))
        a, b = (x[:s[0] * 2, :s[1] * 2, :s[2] * 2].reshape(s[0], 2, s[1], 2, s[2], 2).mean((1, 3, 5))
                for x in (a, b) for s in [[n // 2 for n in x.shape]])
    weights = np.array(settings.weights[:levels]) / sum(settings.weights[:levels])
    values = [contrast for contrast, _ in factors[:-1]] + [factors[-1][1]]
    return math.prod(max(v, 0) ** w for v, w in zip(values, weights, strict=True))


def test_mse_and_psnr_are_those_of_scikit_image():
    a, b = pair((9, 12, 7))
    assert mse(a, b) == pytest.approx(mean_squared_error(a.astype(float), b.astype(float)), rel=1e-12)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(b.astype(float), a.astype(float), data_range=2.0))


def test_psnr_of_a_constant_offset_is_known():
    real = np.zeros((4, 4, 4))
    assert psnr(real + 0.2, real) == pytest.approx(20.0)  # 10 log10(4 / 0.04)
    assert psnr(real, real) == math.inf and mse(real, real) == 0


def test_mse_on_the_papers_scale_goes_with_psnr_of_peak_1():
    a, b = pair((9, 12, 7))
    unit = [(x.astype(float) + 1) / 2 for x in (a, b)]
    assert mse_01(a, b) == pytest.approx(mean_squared_error(*unit), rel=1e-6) == pytest.approx(mse(a, b) / 4)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(unit[1], unit[0], data_range=1.0))
    assert psnr(a, b) == pytest.approx(10 * math.log10(1 / mse_01(a, b)))


def test_the_papers_psnr_is_of_its_mse_with_peak_1(repository):
    with open(repository / "Resources" / "paper_tables.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == "1"]
    for row in rows:  # a mean of logarithms is a little above the logarithm of the mean
        assert 0 <= float(row["psnr"]) - 10 * math.log10(1 / float(row["mse"])) < 0.1
    assert len(rows) == 7


def test_one_scale_is_scikit_images_ssim():
    # Its window reaches 3.5 sigma to each side, 11 voxels in all, and mirrors the border, which is cut off here.
    a, b = pair((24, 20, 22))
    _, full = structural_similarity(b.astype(float), a.astype(float), data_range=2.0, gaussian_weights=True,
                                    sigma=1.5, use_sample_covariance=False, full=True)
    found = ms_ssim(a, b, SsimSettings(window=11, weights=(1.0,)))
    assert found == pytest.approx(full[5:-5, 5:-5, 5:-5].mean(), abs=1e-5)


@pytest.mark.parametrize("shape, levels, settings", [
    ((16, 17, 15), 2, SsimSettings()),
    ((30, 28, 33), 3, SsimSettings()),
    ((33, 32, 34), 5, SsimSettings(window=2, sigma=0.8)),
])
def test_ms_ssim_is_what_its_equation_says(shape, levels, settings):
    a, b = pair(shape)
    assert scales(shape, settings) == levels
    found = ms_ssim(a, b, settings)
    assert found == pytest.approx(by_hand(a, b, settings, levels), abs=2e-5) and 0.05 < found < 0.95


def test_a_negative_structure_counts_as_nothing():
    real = pair((32, 32, 32))[1]
    assert ms_ssim(-real, real) == 0 == by_hand(-real, real, SsimSettings(), 3)


@pytest.mark.parametrize("side, levels", [(128, 5), (112, 5), (111, 4), (64, 4), (56, 3), (32, 3), (14, 2), (7, 1)])
def test_smaller_patches_have_fewer_scales(side, levels):
    assert scales((side, 200, 200), SsimSettings()) == levels
    if side <= 64:
        a, b = pair((side, side, side + 1))
        assert ms_ssim(b, b) == pytest.approx(1, abs=1e-6)
        assert ms_ssim(a, b) < ms_ssim(pair(b.shape, noise=0.05)[0], b) < 1


def test_what_cannot_be_compared():
    small = np.zeros((6, 6, 6))
    assert scales(small.shape, SsimSettings()) == 0 and ms_ssim(small, small) is None
    with pytest.raises(ValueError, match="one shape"):
        mse(np.zeros((4, 4, 4)), np.zeros((4, 4, 1)))
