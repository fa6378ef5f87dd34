"""FID and MMD against scipy's matrix root, MONAI, closed forms and explicit sums."""

import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric, MMDMetric
from scipy.linalg import sqrtm

from LNSynthLib.evaluation.distribution import caveat, fid, mmd


def features(n, d, seed, shift=0.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) @ random.normal(size=(d, d)) / np.sqrt(d) + shift


@pytest.mark.parametrize("n, m, d", [(60, 80, 6), (500, 40, 12), (13, 14, 12)])
def test_fid_is_that_of_scipys_root_and_of_monai(n, m, d):
    a, b = features(n, d, 1), features(m, d, 2, shift=0.4)
    s1, s2 = np.cov(a.T), np.cov(b.T)
    root = sqrtm(s1 @ s2)
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s1 + s2 - 2 * np.real(root))
    assert fid(a, b) == pytest.approx(wanted, rel=1e-8)
    assert fid(a, b) == pytest.approx(float(FIDMetric()(torch.from_numpy(a), torch.from_numpy(b))), rel=1e-6)


def test_fid_of_known_gaussians():
    # One feature: (m1 - m2)^2 + (s1 - s2)^2, here from sets whose sample moments are exact.
    a = np.array([[-1.0], [1.0]]) * 3 / np.sqrt(2) + 5
    b = np.array([[-1.0], [1.0]]) / np.sqrt(2) + 1
    assert fid(a, b) == pytest.approx(16 + 4)
    # A rotated copy with other scales along common axes: the sum over axes of the same.
    x = np.vstack([np.eye(3), -np.eye(3)]) * np.sqrt(5 / 2)  # unit covariance
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert fid(x * [1, 2, 3] @ turn, x * [2, 2, 1] @ turn) == pytest.approx(1 + 0 + 4)


def test_fewer_patches_than_features_give_the_plain_distance_and_a_caveat():
    a, b = features(5, 40, 3), features(7, 40, 4)
    s1, s2 = np.cov(a.T), np.cov(b.T)
    half = np.linalg.eigh(s1)
    half = half[1] * np.sqrt(np.clip(half[0], 0, None)) @ half[1].T
    root = np.sqrt(np.clip(np.linalg.eigvalsh(half @ s2 @ half), 0, None)).sum()
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s1) + np.trace(s2) - 2 * root
    assert fid(a, b) == pytest.approx(wanted, rel=1e-6)
    assert fid(a, a) == pytest.approx(0, abs=1e-9)
    assert "5 patches" in caveat(5, 40) and "40 features" in caveat(5, 40)
    assert caveat(40, 40) and caveat(41, 40) is None  # the covariance of n patches has rank n - 1


def test_fid_of_equal_distributions_falls_with_more_patches():
    few, many = (fid(*(np.random.default_rng(s).normal(size=(n, 16)) for s in (5, 6))) for n in (17, 2000))
    assert few > 10 * many > 0


def test_mmd_is_its_explicit_sum():
    a, b = features(6, 4, 7), features(9, 4, 8, shift=0.3)

    def k(x, y):
        return (float(np.dot(x, y)) / 4 + 1) ** 3

    wanted = (sum(k(a[i], a[j]) for i in range(6) for j in range(6) if i != j) / 30
              + sum(k(b[i], b[j]) for i in range(9) for j in range(9) if i != j) / 72
              - 2 * sum(k(x, y) for x in a for y in b) / 54)
    assert mmd(a, b) == pytest.approx(wanted, rel=1e-10)


def test_mmd_is_monais_of_the_kernels_feature_map():
    """(x.y / 2 + 1)^3 is the plain product of ten monomials each; MONAI's MMD has the plain product as its kernel."""
    a, b = features(12, 2, 9), features(12, 2, 10, shift=0.5)

    def monomials(t):
        x, y, one = t[:, 0] / 2**0.5, t[:, 1] / 2**0.5, torch.ones(len(t), dtype=t.dtype)
        return torch.stack([x**3, y**3, one, 3**0.5 * x**2 * y, 3**0.5 * x * y**2, 3**0.5 * x**2, 3**0.5 * y**2,
                            3**0.5 * x, 3**0.5 * y, 6**0.5 * x * y], 1)

    theirs = MMDMetric(y_mapping=monomials)(torch.from_numpy(a), torch.from_numpy(b))
    assert mmd(a, b) == pytest.approx(float(theirs), rel=1e-8)


def test_mmd_is_unbiased():
    random = np.random.default_rng(11)
    same = [mmd(random.normal(size=(6, 3)), random.normal(size=(5, 3))) for _ in range(2000)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(2000) and min(same) < 0
    assert mmd(random.normal(size=(200, 3)), random.normal(size=(200, 3)) + 1) > 10 * np.std(same) / 30


def test_one_patch_is_not_a_distribution():
    one, some = features(1, 3, 0), features(4, 3, 1)
    assert fid(one, some) is None and mmd(some, one) is None
    with pytest.raises(ValueError, match="patches, features"):
        fid(some, features(4, 5, 1))
