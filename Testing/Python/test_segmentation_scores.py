"""A case's score and a method's row: what stands for empty masks, and means worked by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_dice

from LNSynthLib.evaluation.nodewise import Candidate, NodeScore
from LNSynthLib.evaluation.segmentation import METRICS, CaseScore, ScoreSettings, intervals, pool, score_case
from LNSynthLib.evaluation.statistics import mean_interval
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.settings import build

SPACING = (0.8, 0.8, 2.0)
SHAPE = (20, 18, 12)
DIAGONAL = float(np.linalg.norm(np.multiply(SHAPE, SPACING)))


def ball(centre, radius) -> np.ndarray:
    return np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - centre, axis=-1) < radius


def example():
    truth = np.zeros(SHAPE, np.uint16)
    truth[ball((6, 6, 6), 4)] = 1
    truth[ball((13, 12, 6), 3) & (truth == 0)] = 2
    predicted = ball((7, 6, 6), 4) | ball((2, 15, 2), 1.5)
    return predicted, truth, np.where(predicted, 0.9, 0.1)


def test_a_case_against_monai():
    predicted, truth, probability = example()
    score = score_case(predicted, truth, SPACING, probability=probability)
    one, other = (torch.from_numpy(mask)[None, None].float() for mask in (predicted, truth > 0))
    assert score.dsc == pytest.approx(float(compute_dice(one, other)), abs=1e-6)
    assert score.assd_mm == pytest.approx(float(compute_average_surface_distance(
        one, other, include_background=True, symmetric=True, spacing=list(SPACING))), abs=1e-4)
    assert [node.found for node in score.nodes] == [True, False]
    assert (score.node_recall, score.false_positives) == (0.5, 1)
    assert [candidate.score for candidate in score.candidates] == pytest.approx([0.9, 0.9])


def test_instances_of_the_prediction_and_empty_surroundings_change_nothing():
    predicted, truth, probability = example()
    score = score_case(predicted, truth, SPACING, probability=probability)
    assert score_case(predicted.astype(np.uint8) * 7, truth, SPACING, probability=probability) == score
    padded = [np.pad(array, ((3, 9), (0, 5), (8, 1))) for array in (predicted, truth, probability)]
    assert score_case(*padded[:2], SPACING, probability=padded[2]) == score


def test_a_score_survives_json():
    predicted, truth, probability = example()
    nothing = np.zeros(SHAPE, np.uint16)
    for score in (score_case(predicted, truth, SPACING, probability=probability),
                  score_case(predicted, nothing, np.float32(SPACING)), score_case(nothing, nothing, SPACING)):
        assert CaseScore.from_dict(json.loads(json.dumps(score.to_dict(), allow_nan=False))) == score
    with pytest.raises(LNSynthError, match="unknown setting 'dice'"):
        CaseScore.from_dict({"dice": 1})


REGION = METRICS[:5]  # DSC, IOU, Recall, Precision, ASSD


@pytest.mark.parametrize("predicted, truth, settings, wanted", [
    (False, False, {}, (None, None, None, None, None)),
    (False, False, {"both_empty": "perfect"}, (1, 1, 1, 1, 0)),
    (False, True, {}, (0, 0, 0, 0, DIAGONAL)),
    (False, True, {"empty_prediction": "exclude"}, (0, 0, 0, None, DIAGONAL)),
    (False, True, {"one_empty_assd": "exclude"}, (0, 0, 0, 0, None)),
    (True, False, {}, (0, 0, None, 0, DIAGONAL)),
    (True, False, {"one_empty_assd": "exclude"}, (0, 0, None, 0, None)),
    (True, False, {"empty_truth": "exclude"}, (None, None, None, None, None)),
])
def test_what_stands_for_empty_masks(predicted, truth, settings, wanted):
    one, other, _ = example()
    score = score_case(one & predicted, other * truth, SPACING, ScoreSettings(**settings))
    assert tuple(getattr(score, name) for name in REGION) == pytest.approx(wanted)
    assert score.node_recall == (0 if truth else None)
    assert score.false_positives == (2 if predicted and not truth else 0)


def test_inputs_that_cannot_be_scored():
    predicted, truth, probability = example()
    with pytest.raises(ValueError, match="one 3D shape"):
        score_case(predicted[1:], truth, SPACING)
    with pytest.raises(ValueError, match="one 3D shape"):
        score_case(predicted, truth, SPACING, probability=probability[None])
    with pytest.raises(ValueError, match="integers"):
        score_case(predicted, truth.astype(np.float32), SPACING)


@pytest.mark.parametrize("values, wanted", [
    ({"connectivity": 8}, "connectivity"), ({"found_dsc": 1.0}, "found_dsc"), ({"strata_mm": [10, 8]}, "strata_mm"),
    ({"node_recall": "mean"}, "node_recall"), ({"strata_mm": []}, "strata_mm")])
def test_settings_that_make_no_sense(values, wanted):
    with pytest.raises(LNSynthError, match=wanted):
        build(ScoreSettings, values)


def node(id, short_axis, found):
    return NodeScore(id, short_axis, 1.0, 0.5 if found else 0.0, found)


def alarms(n):
    return tuple(Candidate(0.1, (), True, None) for _ in range(n))


CASES = [  # four nodes of which one is found; one node, found; no node
    CaseScore(0.2, 0.1, 0.4, 0.6, 8.0, (node(1, 7.9, True), node(2, 8.0, False), node(3, 10.0, False),
                                        node(4, 15.0, False)), alarms(3)),
    CaseScore(0.8, 0.7, 0.8, 0.9, 1.0, (node(1, 15.1, True),), alarms(1)),
    CaseScore(None, None, None, None, None, (), ()),
]


def test_the_row_by_hand():
    row = pool(CASES)
    assert [row[name] for name in METRICS] == pytest.approx([0.5, 0.4, 0.6, 0.75, 4.5, (1 / 4 + 1) / 2, 4 / 3])
    assert (row["cases"], row["nodes"], row["empty_predictions"]) == (3, 5, 1)
    assert row["counted"] == {name: 3 if name == "false_positives" else 2 for name in METRICS}
    assert pool(CASES, ScoreSettings(node_recall="pooled"))["node_recall"] == pytest.approx(2 / 5)
    json.dumps(row, allow_nan=False)


def test_strata_hold_their_lower_bound_and_the_last_but_one_its_upper():
    strata = pool(CASES)["node_recall_by_short_axis"]
    assert {name: (s["nodes"], s["found"], s["node_recall"]) for name, s in strata.items()} == {
        "<8": (1, 1, 1.0), "8-10": (1, 0, 0.0), "10-15": (2, 0, 0.0), ">15": (1, 1, 1.0)}
    strata = pool(CASES, ScoreSettings(strata_mm=(9.5,)))["node_recall_by_short_axis"]
    assert {name: s["nodes"] for name, s in strata.items()} == {"<9.5": 2, ">9.5": 3}


def test_no_cases_have_no_means():
    row = pool([])
    assert [row[name] for name in METRICS] == [None] * 7 and row["cases"] == 0
    assert pool(CASES[2:])["node_recall"] is None


@pytest.mark.parametrize("node_recall", ["per_case", "pooled"])
def test_intervals_are_of_the_rows_means(node_recall):
    rng = np.random.default_rng(0)
    cases = [replace(CASES[i % 2], dsc=float(rng.random()), nodes=tuple(
        node(i, 9.0, bool(rng.random() < 0.6)) for i in range(rng.integers(1, 6)))) for i in range(12)] + CASES[2:]
    settings = ScoreSettings(node_recall=node_recall)
    row, found = pool(cases, settings), intervals(cases, settings=settings)
    for name in METRICS:
        assert found[name].mean == pytest.approx(row[name])
        assert found[name].low <= row[name] <= found[name].high
    assert found["dsc"].patients == 12 and found["false_positives"].patients == 13
    assert found["dsc"].low < row["dsc"] < found["dsc"].high


def test_intervals_are_of_the_patients_of_the_cases_that_count():
    cases = [CASES[2], CASES[0], CASES[1], replace(CASES[0], dsc=0.6)]
    found = intervals(cases, ["c", "a", "b", "b"])["dsc"]
    assert (found.patients, found.mean) == (2, pytest.approx(1.6 / 3))
    assert found == mean_interval([cases[1].dsc, cases[2].dsc, 0.6], "unit", patients=["a", "b", "b"])
