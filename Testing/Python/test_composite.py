"""How a generated patch is put into a CT: the formulas of the blend, and that noise neither fades nor grows."""

import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.synthesis.composite import blend, feather, grain, replace

WINDOW = (-120.0, 240.0)
SHAPE = (60, 60, 40)


def distances():
    """mm from a node of 10 voxels across: 0 inside, in steps of 1 along the first axis."""
    return np.broadcast_to(np.maximum(0.0, np.arange(SHAPE[0]) - 9.0)[:, None, None], SHAPE)


def test_the_feather_is_one_then_a_smooth_ramp_then_exactly_zero():
    weights = feather(np.array([0, 2, 2.5, 4, 5.5, 6, 9]), 2.0, 6.0)
    ramp = np.array([1, 1, 0.875, 0.5, 0.125, 0, 0])
    assert weights == pytest.approx(ramp**2 * (3 - 2 * ramp), abs=1e-6)
    assert weights[0] == 1 and weights[-1] == 0 == weights[-2]


@pytest.mark.parametrize("detail_mm", [2.0, 3.0])
def test_where_the_ct_s_noise_gives_way_to_new_noise_its_strength_stays(detail_mm):
    """In even tissue the result's noise has one strength at every distance: inside, where it is new, outside, where it
    is the CT's own, and between, where both are mixed."""
    rng = np.random.default_rng(0)
    own, new = rng.normal(0, 12, SHAPE), rng.normal(0, 12, SHAPE)
    flat = np.full(SHAPE, 40.0)
    result = blend(40 + own, flat, flat, distances(), new, 6.0, detail_mm, WINDOW) - 40
    for at in range(SHAPE[0]):
        assert result[at].std() == pytest.approx(12, rel=0.06), f"{distances()[at, 0, 0]:g} mm from the node"
    assert np.allclose(result[:10], new[:10])   # within the node
    assert np.allclose(result[15:], own[15:])   # at margin_mm and beyond


def test_the_change_fades_in_and_bone_and_gas_stay_outside_the_node():
    flat, quiet = np.full(SHAPE, 40.0), np.zeros(SHAPE)
    native = flat.copy()
    native[:, :20], native[:, 40:] = 700.0, -900.0
    known = np.clip(native, *WINDOW)
    result = blend(native, known, known + 30, distances(), quiet, 6.0, 2.0, WINDOW)
    inside = distances() <= 0
    assert np.allclose(result[inside], known[inside] + 30)
    assert np.allclose(result[~inside], (native + 30 * feather(distances(), 2.0, 6.0))[~inside])


def test_replacing_fades_from_the_patch_to_the_ct():
    rng = np.random.default_rng(1)
    native, made = rng.normal(0, 50, SHAPE), rng.normal(100, 5, SHAPE)
    result = replace(native, made, distances(), 6.0)
    weight = feather(distances(), 2.0, 6.0)
    assert np.allclose(result, (1 - weight) * native + weight * made)
    assert np.array_equal(result[15:], native[15:]) and np.allclose(result[:10], made[:10])


def test_grain_has_the_strength_and_the_spectrum_of_the_noise_and_no_outline():
    rng = np.random.default_rng(1)
    shape, spacing = (70, 60, 40), (0.8, 0.8, 1.5)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), (1.0, 1.0, 0.4))
    noise *= 14 / noise.std()
    scene = np.where(np.arange(70)[:, None, None] > 35, 60.0, -100.0) * np.ones(shape)
    native = (scene + noise).astype(np.float32)
    known = ndimage.gaussian_filter(scene, 1.5).astype(np.float32)  # a patch holds the scene without its fine part
    made = np.array([grain(native, known, (40, 40, 24), (-120, 240), spacing, np.random.default_rng(s))
                     for s in range(4)])
    assert made.std() == pytest.approx(14, rel=0.2)
    for axis, lag in ((0, 1), (0, 2), (2, 1)):
        found, true = ([np.corrcoef(np.moveaxis(a, axis, 0)[lag:].ravel(), np.moveaxis(a, axis, 0)[:-lag].ravel())[0, 1]
                        for a in arrays] for arrays in (made, [noise]))
        assert np.mean(found) == pytest.approx(true[0], abs=0.12)
    assert np.abs(made.mean(axis=(0, 2, 3))).max() < 8, "a plane of the scene's edge shows"
