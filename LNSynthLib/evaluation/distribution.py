"""How far apart a set of synthetic and a set of real patches are in feature space: FID and MMD^2.

Features are (n, d), one row a patch (`features.pooled`). Both need many patches: FID's estimate is biased upwards, the
more so the fewer there are, so that two FIDs compare only at equal numbers of patches; MMD^2 is unbiased at any number,
but scatters, and may be negative where the sets do not differ.
"""

from __future__ import annotations

import numpy as np


def fid(synthetic: np.ndarray, real: np.ndarray) -> float | None:
    """Frechet distance of the Gaussians with the sets' means and covariances (Heusel et al. 2017, arXiv 1706.08500).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), unbiased covariances. None where a set has fewer than two patches.
    With no more patches than features the covariances are singular. The distance is still defined and is returned as it
    is, nothing added to them, but then it says more about the number of patches than about the generator: see `caveat`.

    With centred rows A and B, S1 S2 = A'A B'B has the non-zero eigenvalues of (A B')(A B')', so the trace of its root
    is the sum of the singular values of A B': no root of a d x d matrix, and none of its trouble where it is singular.
    """
    synthetic, real = _checked(synthetic, real)
    if min(len(synthetic), len(real)) < 2:
        return None
    a, b = (np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1), mode="r") for x in (synthetic, real))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    apart = np.square(synthetic.mean(0) - real.mean(0)).sum()
    return float(max(apart + np.square(a).sum() + np.square(b).sum() - 2 * root, 0.0))


def mmd(synthetic: np.ndarray, real: np.ndarray) -> float | None:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, JMLR 13, eq. 3) with KID's kernel.

    k(x, y) = (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401, Sec. 4). None where a set has fewer than two
    patches.
    """
    synthetic, real = _checked(synthetic, real)
    if min(len(synthetic), len(real)) < 2:
        return None

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x):
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

    return float(within(synthetic) + within(real) - 2 * kernel(synthetic, real).mean())


def caveat(patches: int, features: int) -> str | None:
    """What must be said beside an FID of so many patches in the smaller set; None where there are enough."""
    if patches > features:
        return None
    return (f"{patches} patches are no more than the {features} features: FID is biased upwards and compares only "
            "with one of as many patches")


def _checked(synthetic, real) -> tuple[np.ndarray, np.ndarray]:
    synthetic, real = (np.asarray(x, dtype=np.float64) for x in (synthetic, real))
    if synthetic.ndim != 2 or real.ndim != 2 or synthetic.shape[1] != real.shape[1]:
        raise ValueError(f"features are (patches, features) alike, not {synthetic.shape} and {real.shape}")
    return synthetic, real
