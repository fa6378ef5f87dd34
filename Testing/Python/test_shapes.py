"""Masks on another grid: as many voxels as the volume fills, the fullest first, in one piece."""
import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.cases.nodes import TOUCHING
from LNSynthLib.cases.shapes import fullest, whole_voxels


def test_whole_voxels_keep_the_mean_logarithm():
    draws = (np.arange(2000) + 0.5) / 2000
    for volume in (1.0, 1.3, 2.9, 4.2, 17.5, 1000.4):
        counts = [whole_voxels(volume, u) for u in draws]
        assert set(counts) <= {int(volume), int(volume) + 1}
        assert np.mean(np.log(counts)) == pytest.approx(np.log(volume), abs=1e-3)
    assert [whole_voxels(v, u) for v in (0.01, 0.99) for u in (0.0, 1.0)] == [1] * 4
    assert [whole_voxels(v) for v in (5.0, 5.4, 5.6, 1.38, 1.45)] == [5, 5, 6, 1, 2]


def test_the_fullest_voxels_are_kept_and_of_equal_ones_the_first():
    field = np.array([0, 2, 2, 5, 2, 1], float).reshape(6, 1, 1)
    assert [np.flatnonzero(fullest(field, n)).tolist() for n in (1, 3, 4, 6)] == [
        [3], [1, 2, 3], [1, 2, 3, 4], [*range(6)]]
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(20, 20, 20)), 5)
    for count in (1, 7, 300, 8000, 9000):
        mask = fullest(smooth, count)
        assert mask.sum() == min(count, 8000) and ndimage.label(mask, TOUCHING)[1] == 1


def test_pieces_are_given_up_for_what_is_beside_the_largest():
    field = np.full((15, 5, 5), -1.0)
    field[1:5, 1:4, 1:4] = 2.0      # 36 voxels
    field[9:11, 1:4, 1:4] = 3.0     # 18 voxels, fuller but fewer
    field[5, 1:4, 1:4] = 0.5        # beside the first: 9 voxels
    mask = fullest(field, 54)
    assert mask[1:6, 1:4, 1:4].all() and mask.sum() == 54 and ndimage.label(mask, TOUCHING)[1] == 1
