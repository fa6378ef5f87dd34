"""How a generated patch is put into a CT: the formulas of the blend, and that noise neither fades nor grows."""

import numpy as np
import pytest

from LNSynthLib.synthesis.composite import blend, feather, replace

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
