"""What chance could have done: intervals by resampling patients, paired tests, and Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..runtime.seeds import rng

Values = Sequence[float | None]


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


def bootstrap_interval(values: Values, seed: int, *, patients: Sequence | None = None,
                       weights: Sequence[float] | None = None, confidence: float = 0.95,
                       method: Literal["BCa", "percentile"] = "BCa", resamples: int = 9999) -> Interval:
    """Bootstrap interval of the (weighted) mean over cases, by resampling patients with all their cases.

    values    a case; None where it is not defined, which leaves it out
    patients  whose each case is; None: every case is its own patient's
    weights   of the cases in the mean; None: equal
    method    BCa (bias-corrected and accelerated, Efron 1987), or plain percentiles
    Seeded: the same values give the same interval. One patient has no interval; equal values have one of no width.
    """
    from scipy import stats

    sums, totals = _by_patient(values, patients, weights)
    if not len(sums):
        return Interval(None, None, None, 0)
    mean = float(sums.sum() / totals.sum())
    if len(sums) == 1:
        return Interval(mean, None, None, 1)
    if np.allclose(sums, mean * totals, rtol=1e-12, atol=1e-12):  # scipy's BCa is NaN for these
        return Interval(mean, mean, mean, len(sums))
    made = stats.bootstrap((sums, totals), _ratio, paired=True, vectorized=True, n_resamples=resamples, batch=1000,
                           confidence_level=confidence, method=method,
                           rng=rng(seed, "bootstrap"))
    low, high = made.confidence_interval
    return Interval(mean, float(low), float(high), len(sums))


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


def _ratio(sums, totals, axis=-1):
    # Resamples that equal the mean itself decide BCa's correction: they must be ties, whatever their last bits.
    return np.round(sums.sum(axis) / totals.sum(axis), 12)
