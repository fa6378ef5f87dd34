"""Intervals and tests against exact enumeration, closed testing, and simulated coverage."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from LNSynthLib.evaluation.statistics import Interval, bootstrap_interval, compare, holm, paired_wilcoxon

SIX = [0.1, 0.35, 0.4, 0.8, 0.85, 0.2]


def every_resample(values):
    """The means of all n^n resamples: the exact bootstrap distribution."""
    return np.array([np.mean(drawn) for drawn in itertools.product(values, repeat=len(values))])


def test_percentile_interval_against_all_resamples():
    exact = np.quantile(every_resample(SIX), [0.025, 0.975])
    found = bootstrap_interval(SIX, 0, method="percentile", resamples=40_000)
    assert found.mean == pytest.approx(np.mean(SIX)) and found.patients == 6
    assert (found.low, found.high) == pytest.approx(exact, abs=0.005)


def test_bca_interval_against_efrons_formula_over_all_resamples():
    values = [0.0, 0.1, 0.15, 0.2, 0.3, 1.0]  # skewed, so that both corrections matter
    means, mean = every_resample(values), np.mean(values)
    z0 = stats.norm.ppf((means < mean).mean() + (np.isclose(means, mean)).mean() / 2)
    left_out = np.array([np.mean(values[:i] + values[i + 1:]) for i in range(6)])
    off = left_out.mean() - left_out
    a = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    z = np.array([stats.norm.ppf(p) for p in (0.025, 0.975)])
    exact = np.quantile(means, stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))))
    found = bootstrap_interval(values, 0, resamples=40_000)
    assert (found.low, found.high) == pytest.approx(exact, abs=0.01)
    plain = bootstrap_interval(values, 0, method="percentile", resamples=40_000)
    assert found.high - plain.high > 0.03  # the difference that is tested is larger than the tolerance


def coverage(draw, truth, **keywords):
    """Share of 400 simulated studies whose interval holds the truth."""
    rng, held = np.random.default_rng(0), 0
    for study in range(400):
        found = bootstrap_interval(draw(rng), study, resamples=599, **keywords)
        held += found.low <= truth <= found.high
    return held / 400


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_95_percent_intervals_hold_the_truth_95_percent_of_the_time(method):
    held = coverage(lambda rng: rng.beta(2, 3, 30).tolist(), 0.4, method=method)
    assert 0.91 <= held <= 0.98  # three standard errors of the simulation are 0.03


def test_cases_of_one_patient_are_no_new_evidence():
    patients = np.repeat(np.arange(15), 4)

    def draw(rng):  # four nearly equal cases a patient
        return (np.repeat(rng.normal(0, 1, 15), 4) + rng.normal(0, 0.1, 60)).tolist()

    assert coverage(draw, 0.0, patients=patients) >= 0.88
    assert coverage(draw, 0.0) < 0.75  # what resampling cases would have claimed


def test_patients_and_weights_by_resampling_by_hand():
    """Two patients: of the four draws of patients, two are both of them, and one each is twice the same."""
    values, patients, weights = [0.2, 0.4, 0.9], ["a", "a", "b"], [1, 3, 2]
    found = bootstrap_interval(values, 0, patients=patients, weights=weights, method="percentile")
    assert found.mean == pytest.approx((0.2 + 3 * 0.4 + 2 * 0.9) / 6)
    assert (found.low, found.high) == pytest.approx(((0.2 + 3 * 0.4) / 4, 0.9))
    assert found.patients == 2


def test_the_same_seed_gives_the_same_interval():
    assert bootstrap_interval(SIX, 1, resamples=999) == bootstrap_interval(SIX, 1, resamples=999)
    assert bootstrap_interval(SIX, 1, resamples=999) != bootstrap_interval(SIX, 2, resamples=999)


def test_too_little_to_tell():
    assert bootstrap_interval([], 0) == bootstrap_interval([None, None], 0) == Interval(None, None, None, 0)
    assert bootstrap_interval([0.4, None], 0) == Interval(0.4, None, None, 1)
    assert bootstrap_interval([0.2, 0.4], 0, patients=["a", "a"]) == Interval(pytest.approx(0.3), None, None, 1)
    assert bootstrap_interval([0.4, 0.4, 0.4], 0) == Interval(pytest.approx(0.4), *[pytest.approx(0.4)] * 2, 3)
    two = bootstrap_interval([0.0, 1.0], 0)
    assert (two.low, two.mean, two.high) == (0.0, 0.5, 1.0)
    assert bootstrap_interval([*SIX, None], 0, resamples=999) == bootstrap_interval(SIX, 0, resamples=999)


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
