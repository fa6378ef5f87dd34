"""Masks on another grid: as many voxels as the volume fills, the fullest first, in one piece."""
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from LNSynthLib.images.volume import Volume
from LNSynthLib.masks.nodes import TOUCHING
from LNSynthLib.masks.shapes import MARGIN, fullest, on_grid, signed_distance, whole_voxels


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
    for one, end in ((field, np.s_[1:6]), (field[::-1], np.s_[9:14])):  # whichever comes first
        mask = fullest(one, 54)
        assert mask[end, 1:4, 1:4].all() and mask.sum() == 54 and ndimage.label(mask, TOUCHING)[1] == 1


def test_what_touches_by_a_corner_is_one_piece():
    field = np.zeros((6, 6, 6))
    field[:3, :3, :3], field[3:5, 3:5, 3:5] = 2.0, 3.0
    assert np.array_equal(fullest(field, 27 + 8), field > 0)


def ball(shape, spacing, center_mm, diameter_mm):
    at = np.stack(np.meshgrid(*[np.arange(n) * mm for n, mm in zip(shape, spacing, strict=True)], indexing="ij"), -1)
    return np.linalg.norm(at - center_mm, axis=-1) <= diameter_mm / 2


@pytest.mark.parametrize("source, target", [((0.7, 0.7, 5.0), 2.5), ((0.7, 0.7, 5.0), 1.0), ((0.98, 0.98, 2.0), 1.5),
                                            ((1.0, 1.0, 1.0), 2.0), ((2.5, 2.5, 2.5), 1.0)])
def test_nodes_keep_their_volume_and_place_on_any_grid(source, target):
    """Ten nodes of each size anywhere between voxels: cut at one half, those of 6 mm kept .5 to .9 of their volume."""
    rng = np.random.default_rng(3)
    for size in (6, 8, 12):
        logs, shifts = [], []
        for _ in range(10):
            shape = np.ceil(24 / np.array(source)).astype(int)
            mask = ball(shape, source, 12 + rng.uniform(-1, 1, 3) * source, size).astype(np.uint16)
            affine = np.diag([target] * 3 + [1.0])
            affine[:3, 3] = -rng.uniform(0, target, 3)
            made = on_grid(Volume(mask, np.diag([*source, 1.0])), affine, (int(30 / target),) * 3)
            logs.append(np.log(made.sum() * target**3 / (mask.sum() * np.prod(source))))
            shifts.append(np.argwhere(made).mean(0) * target + affine[:3, 3] - np.argwhere(mask).mean(0) * source)
        assert abs(np.mean(logs)) < 0.02 + 0.5 * target**3 / size**3  # half a voxel is what rounding may leave
        assert np.abs(np.mean(shifts, 0)).max() < 0.25 * target


def test_on_its_own_grid_a_mask_stays_as_it_is():
    rng = np.random.default_rng(1)
    mask = (ndimage.gaussian_filter(rng.normal(size=(30, 25, 20)), 2) > 0.12).astype(np.uint16)
    mask *= 1 + (np.indices(mask.shape)[0] > 15).astype(np.uint16)  # two instances of many pieces, some touching
    turned = np.array([[0, 0.8, 0, 5], [-0.8, 0, 0, 6], [0, 0, 3, -7], [0, 0, 0, 1.0]])
    assert np.array_equal(on_grid(Volume(mask, turned), turned, mask.shape, least=0), mask)
    cut = turned.copy()
    cut[:3, 3] += turned[:3, :3] @ [4, 3, 2]
    assert np.array_equal(on_grid(Volume(mask, turned), cut, (20, 30, 10), least=0)[:, :22],
                          mask[4:24, 3:, 2:12])


def test_distances_are_to_the_nearest_voxel_of_the_other_side_in_millimetres():
    rng, spacing = np.random.default_rng(2), np.array([0.7, 1.1, 4.0])
    mask = rng.random((5, 4, 3)) < 0.5
    padded = np.pad(mask, MARGIN)
    apart = cdist(np.argwhere(padded) * spacing, np.argwhere(~padded) * spacing)
    distance = signed_distance(mask, spacing)
    assert np.allclose(distance[padded], apart.min(1)) and np.allclose(distance[~padded], -apart.min(0))


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1)])
def test_the_smaller_of_two_lies_as_if_alone_and_the_larger_beside_it(numbers):
    """Two boxes side by side, whose border is in the middle of the coarse voxels."""
    large, small = numbers
    mask, shape = np.zeros((26, 15, 15), np.uint16), (8, 5, 5)
    mask[3:13, 3:12, 3:12], mask[13:17, 5:11, 5:11] = large, small
    coarse = np.diag([3.0, 3, 3, 1])
    coarse[:3, 3] = 1  # the border, at 12.5, is within the voxels from 11.5 to 14.5
    made = on_grid(Volume(mask, np.eye(4)), coarse, shape)
    alone = [on_grid(Volume(np.where(mask == n, mask, 0), np.eye(4)), coarse, shape) == n for n in numbers]
    assert (alone[0] & alone[1]).any()  # both want some
    assert np.array_equal(made == small, alone[1])
    assert [(made == n).sum() for n in numbers] == [30, 5]  # 810 and 144 voxels by 27


def test_pieces_that_touch_by_a_corner_are_one_and_others_keep_a_volume_each():
    mask = np.zeros((24, 20, 20), np.uint8)
    for n in range(2, 10):
        mask[n, n, n] = 1  # a chain of 8 voxels, each an eighth of a voxel of the new grid
    mask[14:20, 2:4, 2:14] = mask[14:20, 4:14, 2:4] = 1  # an angle of 6 x (24 + 20) voxels
    mask[14:20, 9:13, 9:13] = 1                          # within its box, 96
    coarse = np.diag([2.0, 2, 2, 1])
    coarse[:3, 3] = 0.5
    pieces, found = ndimage.label(on_grid(Volume(mask, np.eye(4)), coarse, (12, 10, 10)), TOUCHING)
    assert found == 3 and sorted(np.bincount(pieces.ravel())[1:]) == [1, 12, 33]


def test_a_node_in_a_single_thick_slice_is_about_as_high_as_the_slice():
    mask = np.zeros((30, 30, 3), np.uint8)
    mask[..., 1] = ball((30, 30, 1), (0.7, 0.7, 5), (10, 10, 0), 9)[..., 0]
    made = on_grid(Volume(mask, np.diag([0.7, 0.7, 5, 1])), np.eye(4), (22, 22, 15))
    assert made.sum() == round(mask.sum() * 0.7 * 0.7 * 5)
    heights = np.flatnonzero(made.any((0, 1)))
    assert 5 <= len(heights) <= 7 and abs(heights.mean() - 5) <= 0.5


def test_a_node_at_the_edge_of_the_grid_has_the_part_of_its_volume_that_lies_on_it():
    mask = ball((40, 20, 20), (1, 1, 1), (10, 10, 10), 12).astype(np.uint8)
    coarse = np.diag([2.0, 2, 2, 1])
    coarse[:3, 3] = 10.5, 0.5, 0.5  # its first voxels begin at 9.5, the middle of the ball's lowest half and the rest
    made = on_grid(Volume(mask, np.eye(4)), coarse, (10, 10, 10))
    assert abs(int(made.sum()) - mask[10:].sum() / 8) <= 4 and made.sum() < mask.sum() / 8
    far = coarse.copy()
    far[0, 3] = 30
    assert not on_grid(Volume(mask, np.eye(4)), far, (10, 10, 10)).any()


def test_what_grows_takes_the_fullest_beside_it_first():
    """A chain of falling values leads to a high one: found when a few are taken at a time, each beside the last."""
    field = np.full((30, 3, 3), -9.0)
    field[2:10, 1, 1] = 5.0
    field[10:14, 1, 1] = 1.0, 2.0, 3.0, 4.0  # behind the first of them it is fuller
    field[2:10, 0, 1] = 0.5                  # beside all of the node
    field[20:26, 1, 1] = 6.0                 # another piece, smaller
    made = fullest(field, 14)
    assert made[2:14, 1, 1].all() and made.sum() == 14 and not made[20:].any()


def test_of_two_that_want_a_voxel_the_smaller_has_it():
    mask = np.zeros((24, 12, 12), np.uint16)
    mask[2:12, 2:10, 2:10] = 1
    mask[12:15, 5:8, 5:8] = 2
    made = on_grid(Volume(mask, np.eye(4)), np.diag([2.0, 2, 2, 1]), (12, 6, 6))
    counts = np.bincount(made.ravel())[1:]
    assert counts.tolist() == [80, 3]  # 640 and 27 voxels by 8: neither gives way to the other


def test_what_fills_less_than_half_a_voxel_is_gone_unless_it_must_stay():
    mask = np.zeros((12, 12, 12), np.uint16)
    mask[3, 3, 3], mask[8, 8, 7:9] = 1, 2
    coarse = np.diag([2.0, 2, 2, 1])
    for least, numbers in ((0.5, [0]), (0.2, [0, 2]), (0, [0, 1, 2])):
        assert np.unique(on_grid(Volume(mask, np.eye(4)), coarse, (6, 6, 6), least)).tolist() == numbers


def test_a_sheet_between_two_planes_of_the_grid_is_in_both():
    """Each of its voxels is as near to its surface as any other: what is near the middle is kept, not what is first."""
    mask = np.zeros((30, 30, 8), np.uint8)
    mask[..., 3:5] = ball((30, 30, 1), (1, 1, 1), (15, 15, 0), 20)
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = 0, 0, -1  # planes at -1, 2 and 5: 1.5 mm below and above the sheet's middle
    made = on_grid(Volume(mask, np.eye(4)), affine, (10, 10, 3)).astype(bool)
    assert made.sum() == round(mask.sum() / 27) and abs(int(made[..., 1].sum()) - int(made[..., 2].sum())) <= 1
    assert np.abs(np.argwhere(made)[:, :2].mean(0) * 3 - 15).max() < 1
