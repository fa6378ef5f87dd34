"""How often confidence intervals of few patients hold the truth: simulated studies, as a Markdown table.

  python Testing/Benchmarks/interval_coverage.py --studies 4000 --bca 500

Each study draws patients from a distribution whose mean is known, and asks `evaluation.statistics.mean_interval` for
the 95 % interval of that mean; beside it, if asked, the BCa bootstrap (scipy). The
table in Resources/confidence_intervals.md is what this prints.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from LNSynthLib.evaluation.statistics import Scale, mean_interval

PATIENTS = (5, 6, 8, 10, 27)


@dataclass(frozen=True)
class Population:
    """draw(random, n): the values of n patients, and how much each counts (None: all alike)."""

    name: str
    scale: Scale
    truth: float
    draw: Callable


def dsc(a: float, b: float, missed: float) -> Population:
    """Beta(a, b), and 0 where nothing of a patient's nodes was found."""
    def draw(random, n):
        return np.where(random.random(n) < missed, 0.0, random.beta(a, b, n)), None

    mean = (1 - missed) * a / (a + b)
    return Population(f"DSC, mean {mean:.2f}, {missed:.0%} at 0", "unit", mean, draw)


def assd(spread: float, median: float = 8.0) -> Population:
    """Log-normal: most surfaces are near, some of far-off false positives are not."""
    def draw(random, n):
        return median * np.exp(spread * random.standard_normal(n)), None

    return Population(f"ASSD, log-normal, {spread:g}", "positive", median * math.exp(spread**2 / 2), draw)


def node_recall(a: float, b: float, pooled: bool) -> Population:
    """Found nodes of 1 to 29 a patient (median 4), found or not with a probability of the patient's own, Beta(a, b)."""
    def draw(random, n):
        nodes = np.minimum(1 + random.negative_binomial(1.2, 1.2 / 6.2, n), 29)
        found = random.binomial(nodes, random.beta(a, b, n)) / nodes
        return found, nodes if pooled else None

    what = "pooled over nodes" if pooled else "mean of patients"
    return Population(f"NodeRecall {a / (a + b):.2f}, {what}", "unit", a / (a + b), draw)


def difference(fails: float) -> Population:
    """DSC of two methods on the same patients, one better by 0.03 with a spread of 0.08, except where it fails."""
    def draw(random, n):
        one = random.beta(3, 3, n)
        other = np.clip(one + 0.03 + 0.08 * random.standard_normal(n), 0, 1)
        return np.where(random.random(n) < fails, 0.0, other) - one, None

    truth = float(draw(np.random.default_rng(0), 2_000_000)[0].mean())
    return Population(f"paired difference of DSC, one fails in {fails:.0%}" if fails else "paired difference of DSC",
                      "real", truth, draw)


def populations() -> list[Population]:
    return [dsc(4, 3, 0.1), dsc(1.5, 3, 0.35), dsc(9, 2, 0.05), assd(0.5), assd(0.8), assd(1.0),
            node_recall(2, 1, False), node_recall(2, 1, True), node_recall(1, 3, True), difference(0),
            difference(0.15)]


def coverage(population: Population, patients: int, studies: int) -> float:
    """Share of simulated studies whose interval holds the truth."""
    random, held = np.random.default_rng(patients), 0
    for _ in range(studies):
        values, weights = population.draw(random, patients)
        found = mean_interval(values, population.scale, weights=weights)
        held += found.low is not None and found.low <= population.truth <= found.high
    return held / studies


def bca_coverage(population: Population, patients: int, studies: int) -> float:
    from scipy import stats

    random, held = np.random.default_rng(patients), 0
    for study in range(studies):
        values, weights = population.draw(random, patients)
        weights = np.ones(patients) if weights is None else weights
        if np.ptp(values) == 0:  # an interval of no width
            continue
        found = stats.bootstrap((values * weights, weights), _ratio, paired=True, vectorized=True, n_resamples=999,
                                rng=np.random.default_rng(study)).confidence_interval
        held += found.low <= population.truth <= found.high
    return held / studies


def _ratio(sums, totals, axis=-1):
    return np.round(sums.sum(axis) / totals.sum(axis), 12)  # resamples that equal the mean must be ties


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500, help="simulated studies of each kind and size")
    parser.add_argument("--bca", type=int, default=0, help="of them, with BCa too; 0 leaves it out")
    args = parser.parse_args()
    print("| measure over patients | " + " | ".join(f"{n} patients" for n in PATIENTS) + " |")
    print("|---|" + "---|" * len(PATIENTS))
    for population in populations():
        cells = []
        for n in PATIENTS:
            bca = f" ({bca_coverage(population, n, args.bca):.2f})" if args.bca else ""
            cells.append(f"{coverage(population, n, args.studies):.3f}{bca}")
        print(f"| {population.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
