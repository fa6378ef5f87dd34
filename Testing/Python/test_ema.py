"""The moving average against its formula, written out."""

import pytest
import torch

from LNSynthLib.training.ema import MovingAverage


def averages(weights, decay, warmup):
    """The average after each step; weights: the first, then those after each step."""
    parameter = torch.nn.Parameter(torch.tensor([weights[0]], dtype=torch.float64))
    average, found = MovingAverage([parameter], decay, warmup), []
    for step, weight in enumerate(weights[1:]):
        parameter.data.fill_(weight)
        average.update(step)
        found.append(float(average.shadow[0]))
    return found


@pytest.mark.parametrize("decay, warmup, decays", [
    (0.995, True, [1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14]),
    (0.2, True, [1 / 10, 2 / 11, 0.2, 0.2, 0.2]),  # the warm-up ends where it reaches the decay
    (0.995, False, [0.995] * 5),                   # the paper's: from the first step on
])
def test_each_step_forgets_as_much_as_the_formula_says(decay, warmup, decays):
    weights, wanted = [5.0, 1.0, -2.0, 0.5, 4.0, 3.0], [5.0]
    for d, weight in zip(decays, weights[1:], strict=True):
        wanted.append(d * wanted[-1] + (1 - d) * weight)
    assert averages(weights, decay, warmup) == pytest.approx(wanted[1:], rel=1e-12)
