"""Copies of training patches are flagged, honest synthetic patches are not."""

import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.evaluation.memorisation import MemorisationSettings, detail, direction, nearest

SHAPE = (32, 32, 32)


def patch(seed, grain=0.1):
    """A random smooth anatomy with grain, in [-1, 1]."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.normal(size=SHAPE), 4)
    return np.clip(smooth / np.abs(smooth).max() + grain * random.normal(size=SHAPE), -1, 1)


@pytest.fixture(scope="module")
def training():
    """Four patches each of ten patients."""
    owners = [f"p{n}" for n in range(10) for _ in range(4)]
    return [patch(seed) for seed in range(40)], owners


def test_copies_of_another_patients_patch_are_flagged_and_new_ones_are_not(training):
    patches, owners = training
    real = np.array([direction(p) for p in patches])
    noise = np.random.default_rng(0).normal(size=SHAPE)
    synthetic = [patches[9], patches[22] + 0.2 * noise, 0.5 * patches[3] - 0.2, patch(1000), patch(1001)]
    found, limit = nearest(np.array([direction(s) for s in synthetic]), ["p0"] * 2 + ["p5"] + ["p0"] * 2,
                           real, owners)
    assert [n.flagged for n in found] == [True, True, True, False, False]
    assert [n.index for n in found[:3]] == [9, 22, 3]
    assert abs(found[0].distance) < 1e-6 < found[1].distance < limit < found[3].distance


def test_ones_own_patient_does_not_count(training):
    patches, owners = training
    real = np.array([direction(p) for p in patches])
    (found,), _ = nearest(real[9:10], ["p2"], real, owners)
    assert owners[found.index] != "p2" and found.distance > 0.1


def test_nearest_is_an_exhaustive_search_and_its_limit_the_percentile():
    random = np.random.default_rng(1)
    real = np.array([direction(v) for v in random.normal(size=(300, 7))])
    synthetic = np.array([direction(v) for v in random.normal(size=(270, 7))])
    owners, whose = random.integers(0, 5, 300), random.integers(0, 6, 270)

    def search(vector, owner):
        return min((1 - np.dot(vector, r), i) for i, r in enumerate(real) if owners[i] != owner)

    assert 1 - np.dot(real[0], real[1]) == pytest.approx(1 - np.corrcoef(real[0], real[1])[0, 1])

    found, limit = nearest(synthetic, whose, real, owners, percentile=5)
    wanted = [search(s, o) for s, o in zip(synthetic, whose, strict=True)]
    assert [n.index for n in found] == [i for _, i in wanted]
    assert [n.distance for n in found] == pytest.approx([d for d, _ in wanted], abs=1e-12)
    assert limit == pytest.approx(np.percentile([search(r, o)[0] for r, o in zip(real, owners, strict=True)], 5))
    # Vectors of the same distribution: about five in a hundred.
    assert 0.01 < np.mean([n.flagged for n in found]) < 0.12


def test_without_other_patients_there_is_nothing_to_tell(training):
    real = np.array([direction(p) for p in training[0][:4]])
    assert nearest(real, ["p0"] * 4, real, ["p0"] * 4) == ([None] * 4, None)
    (found,), limit = nearest(real[:1], ["p1"], real, ["p0"] * 4)
    assert limit is None and found.flagged is None and found.index == 0


@pytest.fixture(scope="module")
def organs():
    found = np.zeros(SHAPE, np.uint8)
    found[3:20, 3:29, 3:29], found[22:30, 3:29, 3:29] = 4, 5
    return found


def test_detail_tells_a_copy_from_a_patch_of_the_same_anatomy(organs):
    mean = np.choose(np.minimum(organs, 5), [-1, 0, 0, 0, 0.3, 0.6])
    random = np.random.default_rng(3)
    real, fresh = (mean + 0.1 * random.normal(size=SHAPE) for _ in range(2))
    spacing = (2.0, 2.0, 2.0)
    assert detail(real, real, organs, spacing) == pytest.approx(1)
    limit = MemorisationSettings().detail_limit
    assert detail(0.8 * real + 0.03 * random.normal(size=SHAPE), real, organs, spacing) > 0.9 > limit
    # The same anatomy, so nearly the same patch; but its own grain.
    assert 1 - direction(fresh) @ direction(real) < 0.1
    assert abs(detail(fresh, real, organs, spacing)) < 0.05
    assert detail(ndimage.gaussian_filter(mean.astype(float), 1), real, organs, spacing) < limit


def test_detail_needs_organs_and_texture(organs):
    real = patch(5)
    assert detail(real, real, np.zeros(SHAPE, np.uint8), (1, 1, 1)) is None
    assert detail(np.zeros(SHAPE), real, organs, (1, 1, 1)) is None
