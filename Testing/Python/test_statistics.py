"""Intervals and tests against exact enumeration, closed testing, and simulated coverage."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from LNSynthLib.evaluation.statistics import Interval, compare, holm, mean_interval, paired_wilcoxon

SIX = [0.1, 0.35, 0.4, 0.8, 0.85, 0.2]


def test_the_interval_is_students_t_on_each_scale():
    mean, error = np.mean(SIX), stats.sem(SIX)
    reach = stats.t.ppf(0.975, 5) * error
    found = mean_interval(SIX)
    assert (found.low, found.mean, found.high) == pytest.approx((mean - reach, mean, mean + reach))
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 5, mean, error)) and found.patients == 6
    unit = mean_interval(SIX, "unit")
    assert [logit(unit.low), logit(unit.high)] == pytest.approx(
        [logit(mean) - reach / (mean * (1 - mean)), logit(mean) + reach / (mean * (1 - mean))])
    positive = mean_interval(SIX, "positive")
    assert [math.log(positive.low), math.log(positive.high)] == pytest.approx(
        [math.log(mean) - reach / mean, math.log(mean) + reach / mean])
    wide = mean_interval(SIX, confidence=0.99)
    assert wide.high - mean == pytest.approx(stats.t.ppf(0.995, 5) * error)


def test_bounds_stay_in_the_measures_range():
    for values, scale, low, high in (([0.99, 1.0, 0.7], "unit", 0, 1), ([0.0, 0.0, 1.0], "unit", 0, 1),
                                     ([0.0, 1e-9, 60.0], "positive", 0, math.inf), ([1e-12, 1.0], "unit", 0, 1)):
        found = mean_interval(values, scale)
        assert low <= found.low < found.mean < found.high <= high, values
    assert mean_interval([0.0, 0.0, 1.0]).low < 0  # a difference may be negative


def test_cases_of_one_patient_are_no_new_evidence():
    """The standard error is that of a ratio of sums over patients, by the jackknife to the first order."""
    random = np.random.default_rng(0)
    owners, weights = np.repeat(np.arange(8), 3), random.integers(1, 9, 24)
    values = np.repeat(random.random(8), 3) + 0.01 * random.random(24)
    found = mean_interval(values.tolist(), patients=owners, weights=weights)
    sums, totals = (np.bincount(owners, x) for x in (values * weights, weights))
    ratio = sums.sum() / totals.sum()
    error = math.sqrt(((sums - ratio * totals) ** 2).sum() / (8 * 7)) / totals.mean()
    assert (found.mean, found.patients) == (pytest.approx(ratio), 8)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 7) * error)
    left_out = [(sums.sum() - s) / (totals.sum() - t) for s, t in zip(sums, totals, strict=True)]
    jackknife = math.sqrt(7 / 8 * ((np.array(left_out) - np.mean(left_out)) ** 2).sum())
    assert error == pytest.approx(jackknife, rel=0.15)
    alone = mean_interval(values.tolist(), weights=weights)  # what taking cases for patients would have claimed
    assert found.high - found.low > 1.3 * (alone.high - alone.low)
    # A patient's cases that are repeated change nothing.
    assert mean_interval([0.1, 0.1, 0.9, 0.9, 0.4, 0.4], patients=list("aabbcc")) == mean_interval([0.1, 0.9, 0.4])


def test_too_little_to_tell():
    assert mean_interval([]) == mean_interval([None, None]) == Interval(None, None, None, 0)
    assert mean_interval([0.4, None]) == Interval(0.4, None, None, 1)
    assert mean_interval([0.2, 0.4], patients=["a", "a"]) == Interval(pytest.approx(0.3), None, None, 1)
    for scale in ("unit", "positive", "real"):
        assert mean_interval([0.4, 0.4, 0.1 + 0.3], scale) == Interval(pytest.approx(0.4), None, None, 3)
        assert mean_interval([*SIX, None], scale) == mean_interval(SIX, scale)
    assert mean_interval([0.0] * 4) == Interval(0.0, None, None, 4)


@pytest.mark.parametrize("n", [2, 5, 27])
def test_patients_who_all_have_none_or_all_bound_the_share_exactly(n):
    """With a share of `high`, so many patients without any would be drawn in 2.5 % of studies, at most."""
    none, every = mean_interval([0.0] * n, "unit"), mean_interval([1.0] * n, "unit")
    assert none.low == none.mean == 0 and every.high == every.mean == 1
    assert (1 - none.high) ** n == pytest.approx(0.025) and every.low == pytest.approx(1 - none.high)
    assert none.high == pytest.approx(stats.binomtest(0, n).proportion_ci(0.95, "exact").high)


BENCHMARKS = Path(__file__).resolve().parents[1] / "Benchmarks"


@pytest.mark.slow
def test_intervals_of_few_patients_hold_the_truth():
    """The table in Resources/confidence_intervals.md in small: 1,500 studies have a standard error of .006."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from interval_coverage import coverage, populations
    finally:
        sys.path.remove(str(BENCHMARKS))
    least = {"DSC, mean 0.51": 0.93, "DSC, mean 0.22": 0.93, "DSC, mean 0.78": 0.87, "ASSD, log-normal, 0.5": 0.91,
             "ASSD, log-normal, 0.8": 0.88, "ASSD, log-normal, 1": 0.84, "NodeRecall 0.67, mean": 0.94,
             "NodeRecall 0.67, pooled": 0.91, "NodeRecall 0.25": 0.91, "paired difference of DSC, one": 0.75,
             "paired difference of DSC": 0.93}
    for population in populations():
        bound = next(share for name, share in least.items() if population.name.startswith(name))
        for n in (5, 10, 27):
            held = coverage(population, n, 1500)
            assert bound <= held <= 0.99, (population.name, n, held)


def logit(p):
    return math.log(p / (1 - p))


def signed_rank_p(differences):
    """Two-sided p by all sign flips; zeros are ranked and then left out (Pratt)."""
    d = np.asarray(differences)
    ranks = stats.rankdata(abs(d))[d != 0]
    observed = ranks[d[d != 0] > 0].sum()
    every = np.array([np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=len(ranks))])
    off = abs(every - ranks.sum() / 2) >= abs(observed - ranks.sum() / 2) - 1e-9
    return off.mean()


@pytest.mark.parametrize("differences", [
    [0.1, 0.2, 0.3, 0.4, 0.5], [0.1, -0.2, 0.3, 0.4, 0.5, 0.6, -0.05], [0.3, 0.3, 0.3, -0.1],
    [0.0, 0.2, -0.1, 0.4, 0.3],
    [0.0, 0.0, 0.2, 0.2, -0.2, 0.4, 0.6, 0.7], [0.0, 0.0, 0.0, -0.1, -0.2, 0.3, 0.4, 0.5, 0.6]])
def test_small_samples_are_exact(differences):
    p, mean, n, ties = paired_wilcoxon([0.5 + d for d in differences], [0.5] * len(differences))
    assert p == pytest.approx(signed_rank_p(differences))
    assert (n, ties) == (len(differences), differences.count(0.0)) and mean == pytest.approx(np.mean(differences))


def test_ties_between_the_methods_do_not_strengthen_a_difference():
    different = [-0.1, -0.2, 0.3, 0.4, 0.5, 0.6]
    assert paired_wilcoxon([0.0] * 3 + different, [0.0] * 9)[0] > paired_wilcoxon(different, [0.0] * 6)[0]


def test_textbook_p_values():
    better = [0.6, 0.7, 0.8, 0.65, 0.9]
    assert paired_wilcoxon(better, [0.5, 0.5, 0.5, 0.5, 0.5])[0] == pytest.approx(2 / 2**5)  # the least that 5 can give
    # Darwin's maize (The Effects of Cross and Self Fertilisation, 1876): 15 pairs, exact two-sided p .0413.
    darwin = [6.125, -8.375, 1.0, 2.0, 0.75, 2.875, 3.5, 5.125, 1.75, 3.625, 7.0, 3.0, 9.375, 7.5, -6.0]
    assert paired_wilcoxon(darwin, [0.0] * 15)[0] == pytest.approx(0.0413, abs=5e-5)


def test_pairs_are_patients():
    a, b = [0.9, 0.1, 0.5, 0.6, None, 0.8], [0.1, 0.3, 0.4, 0.2, 0.3, None]
    p, mean, n, _ = paired_wilcoxon(a, b, ["x", "x", "y", "z", "z", "w"])
    assert n == 3 and mean == pytest.approx(np.mean([(0.8 - 0.2) / 2, 0.1, 0.4])) and p == pytest.approx(2 / 2**3)
    assert paired_wilcoxon([0.1, 0.2], [0.1, 0.2]) == (1.0, 0.0, 2, 2)
    assert paired_wilcoxon([None], [0.2]) == (1.0, None, 0, 0)
    with pytest.raises(ValueError, match="not pairs"):
        paired_wilcoxon([0.1], [0.1, 0.2])


def test_differences_that_are_equal_but_for_rounding_are_ties():
    a, b = [0.3, 0.8, 1.3, 0.5], [0.1, 0.6, 1.1, 0.7]  # 0.2, 0.2, 0.2 and -0.2, each with other last bits
    assert len(set(np.subtract(a, b))) > 2
    assert paired_wilcoxon(a, b)[0] == pytest.approx(signed_rank_p([1, 1, 1, -1]))


def closed_testing(pvalues):
    """A hypothesis' adjusted p is the largest Bonferroni p of all intersections that it is in (Marcus et al. 1976)."""
    n = len(pvalues)
    sets = [s for size in range(1, n + 1) for s in itertools.combinations(range(n), size)]
    return [max(min(1.0, len(s) * min(pvalues[j] for j in s)) for s in sets if i in s) for i in range(n)]


def test_holm_is_closed_testing_with_bonferroni():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 7):
        pvalues = (rng.random(n) ** 3).round(2).tolist()
        assert holm(pvalues) == pytest.approx(closed_testing(pvalues))
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # by hand
    assert holm([]) == [] and holm([0.7, 0.9]) == [1.0, 1.0]


def test_comparisons_hold_the_family_wise_error_rate():
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(300):  # five methods that are as good as the reference
        values = rng.normal(0, 1, (6, 10))
        found = compare(values[0].tolist(), {str(i): v.tolist() for i, v in enumerate(values[1:])})
        wrong += any(c.p_holm < 0.05 for c in found.values())
    assert wrong / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_compare_by_hand():
    reference = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    found = compare(reference, {"worse": [v - 0.1 * (i + 1) for i, v in enumerate(reference)], "same": reference})
    assert found["worse"].difference == pytest.approx(0.35) and found["worse"].p == pytest.approx(2 / 2**6)
    assert found["worse"].p_holm == pytest.approx(4 / 2**6) and found["same"].p_holm == 1.0
    assert (found["same"].ties, found["same"].patients) == (6, 6)
