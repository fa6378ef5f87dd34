"""Overlap and surface distance against MONAI, SimpleITK, brute force and numbers worked by hand."""

import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_iou
from monai.metrics.confusion_matrix import compute_confusion_matrix_metric, get_confusion_matrix

from LNSynthLib.evaluation.overlap import Overlap, overlap
from LNSynthLib.evaluation.surface import assd, surface_points

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0)]


def blobs(seed: int, shape=(14, 11, 9)) -> np.ndarray:
    """A few balls that may touch each other and the array's border."""
    rng = np.random.default_rng(seed)
    mask, grid = np.zeros(shape, bool), np.moveaxis(np.indices(shape), 0, -1)
    for _ in range(rng.integers(1, 4)):
        mask |= np.linalg.norm(grid - rng.uniform(0, shape), axis=-1) < rng.uniform(1, 4)
    mask[tuple(rng.integers(0, shape))] = True  # single voxels too
    return mask


def pairs_of_masks():
    noise = np.random.default_rng(7).random((2, 6, 7, 5))
    yield from ((blobs(2 * seed), blobs(2 * seed + 1)) for seed in range(6))
    yield from ((noise[0] < p, noise[1] < q) for p, q in [(0.5, 0.5), (0.02, 0.3), (0.95, 0.6), (1.1, 0.05)])
    yield blobs(0), blobs(0)
    one, other = np.zeros((2, 8, 8, 8), bool)
    one[1, 2, 3], other[6, 6, 5] = True, True
    yield one, other


MASKS = list(pairs_of_masks())
EMPTY = np.zeros((6, 6, 6), bool)
FULL = ~EMPTY


def channels(mask):
    return torch.from_numpy(mask)[None, None].float()


@pytest.mark.parametrize("predicted, truth", MASKS)
def test_overlap_agrees_with_monai_and_simpleitk(predicted, truth):
    ours = overlap(predicted, truth)
    assert ours.dsc == pytest.approx(float(compute_dice(channels(predicted), channels(truth))), abs=1e-6)
    assert ours.iou == pytest.approx(float(compute_iou(channels(predicted), channels(truth))), abs=1e-6)
    matrix = get_confusion_matrix(channels(predicted), channels(truth))
    for name, value in (("sensitivity", ours.recall), ("precision", ours.precision)):
        assert value == pytest.approx(float(compute_confusion_matrix_metric(name, matrix)), abs=1e-6)
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(*(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (predicted, truth)))
    assert ours.dsc == pytest.approx(measures.GetDiceCoefficient(), abs=1e-12)
    assert ours.iou == pytest.approx(measures.GetJaccardCoefficient(), abs=1e-12)


def test_ratios_of_nothing_to_nothing_are_none():
    assert overlap(EMPTY, EMPTY) == Overlap(0, 0, 0)
    assert [getattr(overlap(EMPTY, EMPTY), name) for name in ("dsc", "iou", "recall", "precision")] == [None] * 4
    only_truth, only_predicted = overlap(EMPTY, FULL), overlap(FULL, EMPTY)
    assert (only_truth.dsc, only_truth.iou, only_truth.recall, only_truth.precision) == (0, 0, 0, None)
    assert (only_predicted.dsc, only_predicted.iou, only_predicted.recall, only_predicted.precision) == (0, 0, None, 0)


def brute_surface(mask, spacing):
    """Voxels with a face to the outside, one by one."""
    points = []
    for voxel in np.argwhere(mask):
        for axis, step in itertools.product(range(3), (-1, 1)):
            there = voxel.copy()
            there[axis] += step
            if not 0 <= there[axis] < mask.shape[axis] or not mask[tuple(there)]:
                points.append(voxel * np.asarray(spacing))
                break
    return np.array(points)


def itk_assd(a, b, spacing):
    """Contours and Maurer's signed distance map of ITK, in the same definition."""
    contours, maps = [], []
    for mask in (a, b):
        image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        contour = sitk.LabelContour(image, fullyConnected=False)
        contours.append(sitk.GetArrayFromImage(contour) > 0)
        distance = sitk.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True)
        maps.append(np.abs(sitk.GetArrayFromImage(distance)))
    return float(np.concatenate([maps[1][contours[0]], maps[0][contours[1]]]).mean())


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("a, b", MASKS)
def test_assd_agrees_with_brute_force_simpleitk_and_monai(a, b, spacing):
    ours = assd(a, b, spacing)
    one, other = brute_surface(a, spacing), brute_surface(b, spacing)
    between = np.linalg.norm(one[:, None] - other[None], axis=2)
    assert ours == pytest.approx(np.concatenate([between.min(1), between.min(0)]).mean(), abs=1e-9)
    assert ours == pytest.approx(assd(b, a, spacing), abs=1e-12)
    assert ours == pytest.approx(itk_assd(a, b, spacing), abs=1e-4)
    theirs = compute_average_surface_distance(channels(a), channels(b), include_background=True, symmetric=True,
                                              spacing=list(spacing))
    assert ours == pytest.approx(float(theirs), abs=1e-4)


def test_assd_by_hand():
    one, other = np.zeros((2, 9, 9, 9), bool)
    one[1, 1, 1], other[4, 3, 2] = True, True
    assert assd(one, other, (1, 2, 5)) == pytest.approx(math.sqrt(9 + 16 + 25))
    plate, apart = np.zeros((2, 6, 6, 9), bool)
    plate[:, :, 2], apart[:, :, 5] = True, True
    assert assd(plate, apart, (1, 1, 2.5)) == pytest.approx(7.5)  # three slices of 2.5 mm from every voxel
    # One voxel against a row of three: 0 from the voxel, 0, 1 and 2 mm from the row; the mean of all four.
    row = np.zeros((9, 9, 9), bool)
    row[1:4, 1, 1] = True
    assert assd(one, row, (1, 1, 1)) == pytest.approx(3 / 4)
    assert assd(row, row, (1, 1, 1)) == 0


def test_assd_of_nothing_is_none():
    assert assd(EMPTY, EMPTY, (1, 1, 1)) is assd(EMPTY, FULL, (1, 1, 1)) is assd(FULL, EMPTY, (1, 1, 1)) is None


def test_the_arrays_border_is_surface_and_the_inside_is_not():
    points = surface_points(np.ones((5, 5, 5), bool), (1, 1, 2))
    assert len(points) == 125 - 27 and points.max(0).tolist() == [4, 4, 8]
