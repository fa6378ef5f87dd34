"""Confidence intervals that hold for few patients, paired tests, and Holm's correction.

Patients are the independent observations: all cases of one count together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Values = Sequence[float | None]
Scale = Literal["unit", "positive", "real"]


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; None where there is too little to tell."""

    mean: float | None
    low: float | None
    high: float | None
    patients: int


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same patients."""

    difference: float | None  # mean over patients of a - b
    p: float                  # of the Wilcoxon signed-rank test, two-sided
    p_holm: float             # corrected for the other comparisons made with it
    patients: int             # with a value of both methods
    ties: int                 # of them, those where both are equal


def mean_interval(values: Values, scale: Scale = "real", *, patients: Sequence | None = None,
                  weights: Sequence[float] | None = None, confidence: float = 0.95) -> Interval:
    """Student's t interval of the (weighted) mean over cases, taken on the scale that suits the measure.

    values    a case; None where it is not defined, which leaves it out
    scale     "unit": a share of 1, such as DSC, interval of its log odds; "positive": an error or a count, interval of
              its logarithm; "real": anything else, differences above all. So bounds stay inside the measure's range,
              and reach further to the side where rare cases lie
    patients  whose each case is; None: every case is its own patient's
    weights   of the cases in the mean; None: equal

    The mean is a ratio of sums over patients; its standard error is that of the ratio (Cochran 1977, section 6.4),
    carried to the scale by the delta method, with one degree of freedom less than there are patients. Where all
    patients have a share of exactly 0 or 1, the other bound is the exact one for that many of them (Clopper and
    Pearson 1934). One patient has no interval, nor have other values that are all equal. How often it holds for how
    many patients is measured: Resources/confidence_intervals.md.
    """
    from scipy import stats

    sums, totals = _by_patient(values, patients, weights)
    n = len(sums)
    if not n:
        return Interval(None, None, None, 0)
    mean = float(sums.sum() / totals.sum())
    off = sums - mean * totals
    if n == 1 or np.allclose(off, 0, rtol=0, atol=1e-12 * max(1.0, float(np.abs(sums).max()))):
        low, high = _all_alike(mean, n, confidence) if n > 1 and scale == "unit" else (None, None)
        return Interval(mean, low, high, n)
    reach = stats.t.ppf((1 + confidence) / 2, n - 1) * math.sqrt(float(off @ off) / (n * (n - 1))) / totals.mean()
    if scale == "unit" and 0 < mean < 1:
        centre, reach = math.log(mean / (1 - mean)), reach / (mean * (1 - mean))
        bounds = [1 / (1 + math.exp(min(-(centre + sign * reach), 700.0))) for sign in (-1, 1)]
    elif scale == "positive" and mean > 0:
        bounds = [mean * math.exp(min(sign * reach / mean, 700.0)) for sign in (-1, 1)]
    else:
        bounds = [mean - reach, mean + reach]
    return Interval(mean, *map(float, bounds), n)


def _all_alike(share: float, n: int, confidence: float) -> tuple[float | None, float | None]:
    """Bounds of a mean share of 1 where all of n patients have the same: the mean is at most the probability to have
    any share at all, and n patients without have bounded that."""
    beyond = 1 - ((1 - confidence) / 2) ** (1 / n)
    return {0.0: (0.0, beyond), 1.0: (1 - beyond, 1.0)}.get(round(share, 12), (None, None))


def paired_wilcoxon(a: Values, b: Values, patients: Sequence | None = None) -> tuple[float, float | None, int, int]:
    """Two-sided Wilcoxon signed-rank test of two methods on the same cases: p, mean difference, patients, ties.

    A patient's cases are averaged first, so that pairs are independent; cases that lack either value are left out.
    Pairs without a difference are ranked but belong to neither side (Pratt 1959), so that ties do not strengthen a
    difference. Exact up to 50 pairs without ties, by all sign flips up to 13 pairs with ties, else the normal
    approximation. Where no pair differs, p is 1.
    """
    from scipy import stats

    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values are not pairs of the same cases")
    differences = [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]
    sums, totals = _by_patient(differences, patients, None)
    if not len(sums):
        return 1.0, None, 0, 0
    means = np.round(sums / totals, 12)  # equal differences must be ties, whatever their last bits
    ties = int(np.count_nonzero(means == 0))
    p = 1.0 if ties == len(means) else float(stats.wilcoxon(means, zero_method="pratt").pvalue)
    return p, float(means.mean()), len(means), ties


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p-values, in the order given: they hold the family-wise error rate."""
    order = np.argsort(pvalues, kind="stable")
    stepped = np.asarray(pvalues, float)[order] * np.arange(len(pvalues), 0, -1)
    adjusted = np.empty(len(pvalues))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted.tolist()


def compare(reference: Values, others: Mapping[str, Values], patients: Sequence | None = None) -> dict[str, Comparison]:
    """Each of `others` against the reference method (their difference is reference - other), with Holm's correction."""
    tests = {name: paired_wilcoxon(reference, values, patients) for name, values in others.items()}
    corrected = holm([test[0] for test in tests.values()])
    return {name: Comparison(difference, p, p_holm, n, ties)
            for (name, (p, difference, n, ties)), p_holm in zip(tests.items(), corrected, strict=True)}


def _by_patient(values: Values, patients, weights) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sum of each patient's values, and the sum of their weights; patients without a value are left out."""
    kept = [i for i, value in enumerate(values) if value is not None]
    owner = np.arange(len(values)) if patients is None else np.asarray(patients)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    _, place = np.unique(owner[kept], return_inverse=True)
    known = np.array([values[i] for i in kept], float)
    return np.bincount(place, weight[kept] * known), np.bincount(place, weight[kept])
