"""Prediction against reference in the scene: the library's own scores, brute force, and other grids and transforms."""

import time

import mrml
import numpy as np
import pytest
from LNSynthLogic import node_scores, segments, volumes
from scipy import ndimage

from LNSynthLib.evaluation.segmentation import score_case
from LNSynthLib.images.volume import Volume, canonical
from LNSynthLib.runtime.errors import LNSynthError

SHAPE = (60, 50, 40)


def balls(*places, shape=SHAPE):
    """Instances 1, 2, … of (centre, radius in voxels); 0 radius leaves a number out."""
    array = np.zeros(shape, np.uint16)
    for value, (centre, radius) in enumerate(places, start=1):
        if radius:
            array[mrml.ball(shape, centre, radius)] = value
    return array


TRUTH = balls(((15, 15, 10), 5), ((40, 15, 12), 4), ((42, 24, 12), 4), ((15, 38, 28), 6), ((48, 40, 33), 3))
PREDICTED = balls(((16, 16, 10), 5),    # finds the first
                  ((41, 20, 12), 6),    # one over two touching nodes
                  ((15, 38, 34), 1.5),  # a crumb in the fourth: too little
                  ((30, 30, 20), 4),    # nothing there
                  ((33, 30, 20), 4))    # joined with it: one component of two segments


def put(scene, ct, array, name):
    segmentation = segments.new_segmentation(scene, ct, name)
    segments.add_instances(segmentation, ct, array)
    return segmentation


def compared(scene, affine, predicted=PREDICTED, truth=TRUTH):
    ct = mrml.add_ct(scene, np.zeros(truth.shape, np.int16), affine)
    return node_scores.compare(put(scene, ct, predicted, "P"), put(scene, ct, truth, "R"), ct), ct


@pytest.mark.parametrize("affine", [
    np.diag([1.0, 1.0, 1.0, 1.0]), mrml.oblique_affine(), mrml.oblique_affine(flip=(-1, 1, -1)),
    np.array([[0, 0, 2.5, -9], [-0.7, 0, 0, 4], [0, 0.8, 0, 1], [0, 0, 0, 1.0]])])  # sagittal slices
def test_rows_are_what_evaluate_says(scene, affine):
    found, ct = compared(scene, affine)
    truth, predicted = (canonical(Volume(array, affine)) for array in (TRUTH, PREDICTED))
    wanted = score_case(predicted.array > 0, truth.array, truth.spacing)
    nodes = found.rows[:len(wanted.nodes)]
    assert [(r.verdict == "found", r.volume_ml, r.short_axis_mm, r.dsc) for r in nodes] == [
        pytest.approx((n.found, n.volume_ml, n.short_axis_mm, n.best_dsc)) for n in wanted.nodes]
    false = [c for c in wanted.candidates if c.false_positive]
    assert [r.volume_ml for r in found.rows[len(nodes):]] == pytest.approx(
        sorted((c.volume_ml for c in false), reverse=True))
    assert found.dsc == pytest.approx(wanted.dsc)
    assert found.count("found") == sum(n.found for n in wanted.nodes) and found.count("false") == len(false)
    inverse = np.linalg.inv(affine)
    for row, mask in zip(found.rows, [*(TRUTH == i for i in range(1, 6)), np.isin(PREDICTED, (4, 5))], strict=False):
        assert mask[tuple(np.rint(inverse @ [*row.center_mm, 1])[:3].astype(int))]


def test_rows_by_brute_force(scene):
    """Every node with every component, counted voxel by voxel."""
    found, _ = compared(scene, np.eye(4))
    labels, count = ndimage.label(PREDICTED > 0, np.ones((3, 3, 3)))
    dsc = np.array([[2 * ((TRUTH == i) & (labels == j)).sum() / ((TRUTH == i).sum() + (labels == j).sum())
                     for j in range(1, count + 1)] for i in range(1, 6)])
    assert [row.verdict for row in found.rows] == [
        *("found" if best > 0.1 else "missed" for best in dsc.max(axis=1)), *["false"] * int((dsc.max(0) <= 0.1).sum())]
    assert [row.dsc for row in found.rows[:5]] == pytest.approx(dsc.max(axis=1).tolist())
    assert [row.verdict for row in found.rows] == ["found", "found", "found", "missed", "missed", "false", "false"]
    assert [row.name for row in found.rows] == [*(f"Node {n}" for n in range(1, 6)), "Node 5", "Node 3"]
    false = found.rows[5]
    assert false.volume_ml == pytest.approx(np.isin(PREDICTED, (4, 5)).sum() / 1000)
    assert false.short_axis_mm == pytest.approx(8, abs=1.5) and false.dsc is None
    dice = 2 * ((TRUTH > 0) & (PREDICTED > 0)).sum() / ((TRUTH > 0).sum() + (PREDICTED > 0).sum())
    assert found.sentence == f"3 of 5 nodes found, 2 missed, 2 false positives; overall DSC {dice:.2f}."


def test_other_grids_and_transforms_are_brought_to_the_ct(scene):
    """The prediction lies on a shifted crop of the grid, under a transform with the CT, in world coordinates."""
    affine = mrml.oblique_affine()
    plain, ct = compared(scene, affine)
    crop = PREDICTED[5:55, 8:46, 5:38]
    shifted = affine.copy()
    shifted[:3, 3] = (affine @ [5, 8, 5, 1])[:3]
    small = mrml.add_ct(scene, np.zeros(crop.shape, np.int16), shifted)
    prediction = put(scene, small, crop, "P on a crop")
    reference = scene.GetFirstNodeByName("R")
    again = node_scores.compare(prediction, reference, ct)
    assert rounded(again) == rounded(plain)
    moved = mrml.rigid()
    transform = mrml.add_transform(scene, moved)
    for node in (prediction, reference, ct):
        mrml.move(node, transform)
    shown = node_scores.compare(prediction, reference, ct)
    assert [np.allclose((moved @ [*a.center_mm, 1])[:3], b.center_mm) for a, b in
            zip(plain.rows, shown.rows, strict=True)] == [True] * len(plain.rows)
    mrml.move(ct, mrml.add_transform(scene, np.diag([2.0, 1, 1, 1]), "stretch"))
    with pytest.raises(LNSynthError, match="stretch"):
        node_scores.compare(prediction, reference, ct)


def rounded(found):
    return [(r.verdict, r.name, round(r.volume_ml, 6), round(r.short_axis_mm, 6), r.dsc and round(r.dsc, 6),
             tuple(np.round(r.center_mm, 3))) for r in found.rows], found.dsc


def test_empty_segmentations(scene):
    nothing = np.zeros(SHAPE, np.uint16)
    found, _ = compared(scene, np.eye(4), predicted=nothing)
    assert {row.verdict for row in found.rows} == {"missed"} and found.dsc == 0
    found, _ = compared(scene, np.eye(4), truth=nothing)
    assert {row.verdict for row in found.rows} == {"false"} and "reference has no node" in found.sentence
    found, _ = compared(scene, np.eye(4), nothing, nothing)
    assert found.rows == () and found.dsc is None and "Neither" in found.sentence


def test_the_phantom_against_itself_and_against_moved_nodes(scene):
    phantom = mrml.phantom()
    for shift in (0, 2):
        predicted = np.roll(phantom.nodes.array, shift, axis=0)
        found, _ = compared(scene, phantom.ct.affine, predicted, phantom.nodes.array)
        wanted = score_case(*(canonical(Volume(a, phantom.ct.affine)).array for a in (predicted, phantom.nodes.array)),
                            phantom.ct.spacing)
        assert found.count("found") == sum(n.found for n in wanted.nodes) and found.dsc == pytest.approx(wanted.dsc)
    assert found.dsc < 1


def test_what_cannot_be_compared_is_said(scene):
    ct = mrml.add_ct(scene)
    a, b = mrml.add_nodes(scene, ct), mrml.add_nodes(scene, ct)
    assert node_scores.what_is_missing(ct, a, b) == ""
    for ct_, p, r, word in ((None, a, b, "CT"), (ct, None, b, "prediction"), (ct, a, None, "reference"),
                            (ct, a, a, "two")):
        assert word in node_scores.what_is_missing(ct_, p, r)
        with pytest.raises(LNSynthError):
            node_scores.compare(p, r, ct_)


def test_a_real_ct_with_nodes_far_apart_takes_less_than_a_second(scene, shared_data):
    real = mrml.read_real(shared_data)
    shape = real.shape
    places = [(tuple(int(n * f) for n in shape), 6) for f in (0.3, 0.45, 0.6, 0.7)]
    ct = mrml.add_ct(scene, real.array, real.affine)
    reference = put(scene, ct, balls(*places, shape=shape), "R")
    prediction = put(scene, ct, balls(*[((x + 2, y, z), r) for (x, y, z), r in places], shape=shape), "P")
    start = time.process_time()
    found = node_scores.compare(prediction, reference, ct)
    assert time.process_time() - start < 1 and found.count("found") == 4
    assert volumes.volume_of(ct).shape == shape


def test_many_random_nodes_are_compared_as_one_whole_volume_is(scene):
    """Boxes that meet, overlap, hold one another and stand alone: groups of segments change no number."""
    rng = np.random.default_rng(3)
    places = [(tuple(rng.integers(6, n - 6) for n in SHAPE), rng.uniform(1, 6)) for _ in range(24)]
    truth = balls(*places[:12])
    predicted = balls(*places[8:])
    found, _ = compared(scene, np.diag([0.8, 0.9, 2.0, 1.0]), predicted, truth)
    wanted = score_case(predicted, truth, (0.8, 0.9, 2.0))
    assert [(row.verdict == "found", row.dsc) for row in found.rows if row.verdict != "false"] == [
        pytest.approx((node.found, node.best_dsc)) for node in wanted.nodes]
    assert sorted(row.volume_ml for row in found.rows if row.verdict == "false") == pytest.approx(
        sorted(c.volume_ml for c in wanted.candidates if c.false_positive))
    assert found.dsc == pytest.approx(wanted.dsc) and 0 < found.count("false") < len(wanted.candidates)
