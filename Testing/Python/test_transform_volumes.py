"""Changes of nodes keep volumes: what was drawn is what is filled, and what is refused leaves no drift."""
import numpy as np
import pytest
from made_nodes import TABLE, ellipsoid, free_space
from scipy import ndimage

from LNSynthLib.conditions.transforms import VarySettings, _allowed, vary_one
from LNSynthLib.masks.nodes import TOUCHING

SPACINGS = [(1, 1, 1), (2.5, 2.5, 2.5), (0.7, 0.7, 5), (0.98, 0.98, 2), (3, 3, 3)]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("size", [6, 8, 14])
def test_volumes_are_unbiased_at_every_spacing_and_size_ten_in_a_row_too(spacing, size):
    """Each change fills what was drawn: the determinant times the volume before (affine), or the same (elastic)."""
    off = []  # logarithm of the volume after ten changes over what was drawn
    for seed in range(12):
        rng = np.random.default_rng([seed, size])
        mask, drawn = ellipsoid((40, 40, 40), spacing, np.array(spacing) * (20 + rng.uniform(-0.5, 0.5, 3)),
                                np.array([0.5, 0.4, 0.6]) * size), 0.0
        first = mask.sum()
        for step in range(10):
            before, (start, nodes, labels) = mask.sum(), free_space(mask, spacing)
            mask, _, record = vary_one(mask, start, nodes, labels, spacing, rng, VarySettings(elastic=step % 2), TABLE)
            assert record["operation"] in (("affine", "elastic")[step % 2], "unchanged")
            assert ndimage.label(mask, TOUCHING)[1] == 1
            if step % 2:
                assert mask.sum() == before
            elif record["operation"] == "affine":
                drawn += (ratio := np.log(np.linalg.det(record["parameters"]["matrix"])))
                assert abs(mask.sum() - before * np.exp(ratio)) < 1
        off.append(np.log(mask.sum() / first) - drawn)
    assert abs(np.mean(off)) < 0.02 + 2.5 * np.std(off, ddof=1) / np.sqrt(len(off))
    assert np.std(off) < 0.03 + 2 / first  # what is left is the rounding to whole voxels


def test_nodes_do_not_shrink_where_there_is_little_room():
    """A cube of 6 voxels in a hole of 8, in liver: what is larger fits less often than what is smaller."""
    mask, logs = np.ones((6, 6, 6), bool), []
    labels = np.full((20, 20, 20), TABLE.index("liver"), np.uint8)
    labels[6:14, 6:14, 6:14] = TABLE.index("fat")
    settings = VarySettings(elastic=0.0, rotation_deg=5, translation_mm=1, shear=0.02, tries=4)
    for seed in range(250):
        changed, _, record = vary_one(mask, (7, 7, 7), np.zeros(labels.shape, np.uint16), labels, (1, 1, 1),
                                      np.random.default_rng(seed), settings, TABLE)
        logs += [np.log(changed.sum() / mask.sum())] * (record["operation"] == "affine")
    assert len(logs) > 60 and np.std(logs) > 0.05
    assert abs(np.mean(logs)) < 3 * np.std(logs) / np.sqrt(len(logs))  # -.05 +- .012 where the opposite is not asked


@pytest.mark.parametrize("voxels", [1, 3])
def test_nodes_of_a_few_voxels_keep_their_volume_on_average(voxels):
    mask, logs = np.ones((voxels, 1, 1), bool), []
    start, nodes, labels = free_space(mask, (3, 3, 3))
    for seed in range(300):
        rng = np.random.default_rng(seed)
        changed, _, record = vary_one(mask, start, nodes, labels, (3, 3, 3), rng, VarySettings(elastic=0.0), TABLE)
        logs.append(np.log(changed.sum() / voxels))
        assert record["operation"] == "affine"
    assert abs(np.mean(logs)) < 3 * (np.std(logs) + 1e-9) / np.sqrt(len(logs))


def test_volumes_stay_within_the_factor_either_way():
    mask = ellipsoid((20, 20, 20), (1, 1, 1), (10, 10, 10), (5, 5, 5))
    ratios, (place, nodes, labels) = [], free_space(mask, (1, 1, 1))
    for seed in range(150):
        changed, _, record = vary_one(mask, place, nodes, labels, (1, 1, 1), np.random.default_rng(seed),
                                      VarySettings(elastic=0.0, scale=1.6, volume_factor=1.3), TABLE)
        assert record["operation"] == "affine"
        ratios.append(changed.sum() / mask.sum())
    assert 1 / 1.3 <= min(ratios) < 0.85 and 1.18 < max(ratios) <= 1.3


@pytest.mark.parametrize("voxels, fits", [(4, False), (5, True), (20, True), (21, False)])
def test_a_volume_is_within_the_factor_or_refused(voxels, fits):
    before, after = np.ones((10, 1, 1), bool), np.ones((voxels, 1, 1), bool)
    start, nodes, labels = free_space(before, (1, 1, 1))
    assert _allowed(after, start, before, nodes, labels, TABLE, VarySettings(volume_factor=2.0)) == fits
