"""FROC against scoring anew what each threshold leaves, against MONAI, and by hand."""

import json

import numpy as np
import pytest
from monai.metrics.froc import compute_froc_curve_data

from LNSynthLib.evaluation.froc import froc
from LNSynthLib.evaluation.nodewise import Candidate, NodeScore, components
from LNSynthLib.evaluation.segmentation import CaseScore, ScoreSettings, pool, score_case

SPACING = (1.0, 1.0, 1.0)
SHAPE = (28, 28, 18)


def scene(seed):
    rng = np.random.default_rng(seed)
    nodes, probability = np.zeros(SHAPE, np.uint16), np.zeros(SHAPE)
    grid = np.moveaxis(np.indices(SHAPE), 0, -1)
    for id in range(1, 7):
        centre, radius = rng.uniform(3, np.subtract(SHAPE, 3)), rng.uniform(1.5, 4)
        nodes[(np.linalg.norm(grid - centre, axis=-1) < radius) & (nodes == 0)] = id
        for blob in (centre + rng.normal(0, 1.5, 3), rng.uniform(0, SHAPE)):
            shape = rng.uniform(0.5, 1) / (1 + np.exp(np.linalg.norm(grid - blob, axis=-1) - radius))
            probability = np.maximum(probability, shape)
    return nodes, probability


@pytest.mark.parametrize("rule", ["mean", "max"])
def test_each_point_is_what_scoring_the_remaining_components_gives(rule):
    settings = ScoreSettings(candidate_score=rule)
    scenes = [scene(seed) for seed in range(3)]
    curve = froc([score_case(p > 0.4, nodes, SPACING, settings, p) for nodes, p in scenes])
    assert len(curve.thresholds) > 8 and curve.false_positives[-1] > 0 and 0 < curve.sensitivity[-1] < 1
    for threshold, alarms, sensitivity in list(zip(curve.thresholds, curve.false_positives, curve.sensitivity,
                                                   strict=True))[1::3]:
        left = []
        for nodes, p in scenes:
            labels, count = components(p > 0.4, 26)
            kept = [i for i in range(1, count + 1) if getattr(np, rule)(p[labels == i]) >= threshold - 1e-12]
            left.append(score_case(np.isin(labels, kept), nodes, SPACING, settings))
        row = pool(left, ScoreSettings(node_recall="pooled"))
        assert (row["false_positives"], row["node_recall"]) == pytest.approx((alarms, sensitivity))


def case(nodes: dict[int, bool], candidates):
    """candidates: (score, ids that it finds)."""
    return CaseScore(0, 0, 0, 0, 0, tuple(NodeScore(i, 9.0, 1.0, 0.5 * f, f) for i, f in nodes.items()),
                     tuple(Candidate(1.0, finds, not finds, score) for score, finds in candidates))


def test_by_hand():
    cases = [case({1: True, 2: True, 3: False}, [(0.9, (1,)), (0.6, (1, 2)), (0.6, ()), (0.5, ())]),
             case({}, [(0.8, ())]), case({4: True}, [(0.7, (4,))]), case({5: False}, [])]
    curve = froc(cases)
    assert curve.thresholds == (None, 0.9, 0.8, 0.7, 0.6, 0.5)
    assert curve.sensitivity == pytest.approx((0, 1 / 5, 1 / 5, 2 / 5, 3 / 5, 3 / 5))  # node 2 only at 0.6
    assert curve.false_positives == pytest.approx((0, 0, 1 / 4, 1 / 4, 2 / 4, 3 / 4))
    assert [curve.at(rate) for rate in (0, 0.25, 0.49, 0.5, 8)] == pytest.approx([0.2, 0.4, 0.4, 0.6, 0.6])
    json.dumps(curve.to_dict(), allow_nan=False)


def test_monai_agrees_where_each_node_has_its_own_candidate():
    rng = np.random.default_rng(1)
    hits, alarms = np.round(rng.random(15), 1), np.round(rng.random(12), 1)  # rounded, so that scores tie
    cases = [case({i: True for i in range(k, 15, 4)} | {99: False}, [(float(hits[i]), (i,)) for i in range(k, 15, 4)]
                  + [(float(a), ()) for a in alarms[k::4]]) for k in range(4)]
    curve = froc(cases)
    theirs = compute_froc_curve_data(alarms, hits, num_targets=19, num_images=4)  # lacks the lowest threshold
    np.testing.assert_allclose(curve.false_positives[-2::-1], theirs[0])
    np.testing.assert_allclose(curve.sensitivity[-2::-1], theirs[1])
    assert (curve.false_positives[-1], curve.sensitivity[-1]) == (3.0, 15 / 19)


def test_nothing_to_draw():
    assert froc([]) is None and froc([case({}, [(0.5, ())])]) is None
    nothing_predicted = froc([case({1: False}, [])])
    assert nothing_predicted.sensitivity == nothing_predicted.false_positives == (0.0,)
    with pytest.raises(ValueError, match="probability"):
        froc([case({1: True}, [(None, (1,))])])
