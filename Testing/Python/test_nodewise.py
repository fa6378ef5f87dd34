"""Nodes found and missed, against a loop over all nodes and components, and in cases worked by hand."""

import numpy as np
import pytest
from skimage.measure import label

from LNSynthLib.evaluation.nodewise import components, match, pairwise_dsc
from LNSynthLib.masks.nodes import measure

SPACING = (1.0, 1.0, 1.0)


def scene(seed: int, shape=(24, 22, 16)):
    """Nodes that touch each other, and a prediction that shifts, drops, joins and adds some."""
    rng = np.random.default_rng(seed)
    nodes, predicted = np.zeros(shape, np.uint16), np.zeros(shape, bool)
    grid = np.moveaxis(np.indices(shape), 0, -1)
    for id in range(1, 9):
        centre, radius = rng.uniform(0, shape), rng.uniform(0.5, 4)
        nodes[(np.linalg.norm(grid - centre, axis=-1) < radius) & (nodes == 0)] = 3 * id  # ids need not be 1..n
        if rng.random() < 0.7:
            predicted |= np.linalg.norm(grid - centre - rng.normal(0, 1.5, 3), axis=-1) < radius * rng.uniform(0.5, 1.5)
    predicted |= rng.random(shape) < 0.005
    return nodes, predicted


@pytest.mark.parametrize("connectivity, skimages", [(6, 1), (18, 2), (26, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_matching_agrees_with_a_loop_over_everything(seed, connectivity, skimages):
    nodes, predicted = scene(seed)
    probability = np.random.default_rng(seed).random(nodes.shape)
    found, candidates = match(predicted, nodes, SPACING, connectivity=connectivity, probability=probability)
    labels = label(predicted, connectivity=skimages)
    ids = [int(i) for i in np.unique(nodes) if i]
    dsc = {(i, j): 2 * ((nodes == i) & (labels == j)).sum() / ((nodes == i).sum() + (labels == j).sum())
           for i in ids for j in range(1, labels.max() + 1)}
    assert [node.id for node in found] == ids
    for node in found:
        best = max(value for (i, _), value in dsc.items() if i == node.id)
        assert node.best_dsc == pytest.approx(best) and node.found == (best > 0.1)
        assert node.volume_ml == pytest.approx((nodes == node.id).sum() / 1000)
    theirs = sorted((float((labels == j).sum()) / 1000, tuple(i for i in ids if dsc[i, j] > 0.1),
                     float(probability[labels == j].mean())) for j in range(1, labels.max() + 1))
    ours = sorted((c.volume_ml, c.finds, c.score) for c in candidates)
    assert [o[1] for o in ours] == [t[1] for t in theirs]
    np.testing.assert_allclose([[o[0], o[2]] for o in ours], [[t[0], t[2]] for t in theirs])
    assert all(c.false_positive == (not c.finds) for c in candidates)
    assert 0 < sum(n.found for n in found) < len(found) and any(c.false_positive for c in candidates)


def test_short_axes_are_those_of_the_node_table():
    nodes, predicted = scene(0)
    spacing = (0.8, 0.9, 2.5)
    found, _ = match(predicted, nodes, spacing)
    theirs = measure(nodes, np.diag([*spacing, 1.0]))
    assert [(n.id, n.short_axis_mm) for n in found] == [(m.id, m.short_axis_mm) for m in theirs]
    assert [n.volume_ml for n in found] == pytest.approx([m.volume_ml for m in theirs])


def two_touching():
    nodes = np.zeros((12, 8, 8), np.uint16)
    nodes[2:5, 2:6, 2:6], nodes[5:10, 2:6, 2:6] = 1, 2
    return nodes


def test_touching_nodes_stay_apart():
    nodes = two_touching()
    found, candidates = match(nodes == 2, nodes, SPACING)  # only the second is predicted
    assert [node.found for node in found] == [False, True] and found[1].best_dsc == 1
    assert [c.finds for c in candidates] == [(2,)]
    found, candidates = match(nodes > 0, nodes, SPACING)  # one component over both finds both
    assert [node.best_dsc for node in found] == pytest.approx([2 * 48 / (48 + 128), 2 * 80 / (80 + 128)])
    assert [c.finds for c in candidates] == [(1, 2)]


def test_the_best_of_several_components_counts():
    nodes = np.zeros((16, 6, 6), np.uint16)
    nodes[2:14, 1:5, 1:5] = 5
    predicted = nodes > 0
    predicted[4], predicted[12] = False, False  # in pieces of 2, 7 and 1 slices
    found, candidates = match(predicted, nodes, SPACING)
    assert [n.best_dsc for n in found] == pytest.approx([2 * 7 / (12 + 7)])
    assert [c.finds for c in candidates] == [(5,), (5,), (5,)]


def test_a_component_that_swallows_a_small_node_does_not_find_it():
    nodes = np.zeros((20, 20, 20), np.uint16)
    nodes[9:11, 9:11, 9:11] = 1
    found, candidates = match(np.ones(nodes.shape, bool), nodes, SPACING)
    assert not found[0].found and found[0].best_dsc == pytest.approx(2 * 8 / 8008)
    assert candidates[0].false_positive and not match(np.ones(nodes.shape, bool), nodes, SPACING,
                                                      spare_touching=True)[1][0].false_positive


def test_the_paper_wants_more_than_the_threshold():
    nodes, predicted = np.zeros((24, 3, 3), np.uint16), np.zeros((24, 3, 3), bool)
    nodes[1:11, 1, 1], predicted[10:20, 1, 1] = 1, True  # 2 * 1 / 20 is 0.1 exactly
    assert pairwise_dsc(nodes, components(predicted, 26)[0]) == {(1, 1): 0.1}
    assert not match(predicted, nodes, SPACING)[0][0].found
    assert match(predicted, nodes, SPACING, strictly=False)[0][0].found
    assert match(predicted, nodes, SPACING, found_dsc=0.09)[0][0].found


@pytest.mark.parametrize("offset, touching", [((1, 0, 0), (6, 18, 26)), ((1, 1, 0), (18, 26)), ((1, 1, 1), (26,))])
def test_connectivity(offset, touching):
    mask = np.zeros((5, 5, 5), bool)
    mask[1, 1, 1] = mask[1 + offset[0], 1 + offset[1], 1 + offset[2]] = True
    assert [components(mask, c)[1] for c in (6, 18, 26)] == [1 if c in touching else 2 for c in (6, 18, 26)]


def test_single_voxel_nodes():
    nodes = np.zeros((6, 6, 6), np.uint16)
    nodes[1, 1, 1], nodes[4, 4, 4] = 1, 2
    found, candidates = match(nodes == 1, nodes, (0.5, 0.5, 4.0))
    assert [(n.found, n.best_dsc) for n in found] == [(True, 1.0), (False, 0.0)]
    assert found[0].volume_ml == pytest.approx(0.001) and 0 < found[0].short_axis_mm <= 1
    assert len(candidates) == 1 and not candidates[0].false_positive


def test_the_score_of_a_candidate_is_the_mean_or_the_highest_probability():
    predicted = np.zeros((4, 4, 8), bool)
    predicted[1, 1, 1:3], predicted[2, 2, 5] = True, True
    probability = np.full(predicted.shape, 0.3, np.float32)
    probability[1, 1, 1], probability[1, 1, 2], probability[2, 2, 5] = 0.5, 1.0, 0.75
    nothing = np.zeros(predicted.shape, np.uint16)

    def scores(score):
        return [c.score for c in match(predicted, nothing, SPACING, probability=probability, score=score)[1]]

    assert scores("mean") == [0.75, 0.75] and scores("max") == [1.0, 0.75]


def test_nothing_at_all():
    nothing = np.zeros((4, 4, 4), np.uint16)
    assert match(nothing > 0, nothing, SPACING, probability=np.zeros(nothing.shape)) == ((), ())
