"""The search for copies: exhaustive correlation as its oracle, and planted copies of real CTs and phantoms."""
import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.evaluation.copies import FLIPS, Searched, Sought, flipped, shrunk
from LNSynthLib.evaluation.memorisation import MemorisationSettings
from LNSynthLib.images.boxes import padded
from LNSynthLib.images.volume import Volume, canonical, isotropic_grid, read, resample_to
from LNSynthLib.masks.body import label_map
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.phantom.phantom import phantom

SETTINGS = MemorisationSettings(cells=12)
TABLE = LabelTable.load("abdomen17")


def reader(volume):
    """As `PreparedCase.ct`: boxes that may reach beyond the volume, where it is 0."""
    return lambda box: padded(volume, box).astype(np.float32)


def test_the_likeliest_place_is_that_of_an_exhaustive_search():
    random = np.random.default_rng(0)
    settings = MemorisationSettings(cells=4)
    volume = ndimage.gaussian_filter(random.normal(size=(20, 17, 14)), 1).astype(np.float32)
    patch = ndimage.gaussian_filter(random.normal(size=(9, 8, 8)), 1).astype(np.float32)  # a voxel in no cell
    searched, coarse = Searched(reader(volume), volume.shape, patch.shape, settings), shrunk(patch, (2, 2, 2))
    for (alike, flips, start), wanted in zip(searched.likeliest(coarse), FLIPS, strict=True):
        best, template = (-2, None), flipped(coarse, flips)
        for place in np.ndindex(9, 8, 6):
            first = 2 * np.array(place) - 2
            box = tuple(slice(int(a), int(a) + 8) for a in first)
            there = shrunk(reader(volume)(box), (2, 2, 2))
            if there.std() > 1e-3 * volume.std():
                best = max(best, (np.corrcoef(there.ravel(), template.ravel())[0, 1], tuple(first)))
        assert flips == wanted and alike == pytest.approx(best[0], abs=2e-3)
        assert tuple(start + np.array([flips[0], 0, 0])) == best[1]


@pytest.mark.parametrize("flips", FLIPS)
def test_a_copy_is_found_where_it_is_from_in_every_flip(flips):
    random = np.random.default_rng(1)
    volumes = [ndimage.gaussian_filter(random.normal(size=shape), 1) for shape in ((40, 36, 33), (30, 41, 35))]
    start = (5, 9, 3)
    copy = flipped(volumes[1][5:27, 9:31, 3:25], flips)
    searched = [Searched(reader(v), v.shape, copy.shape, SETTINGS) for v in volumes]
    match = Sought(copy, np.ones(copy.shape, np.uint8), (2.0, 2.0, 2.0), SETTINGS).best(searched)
    assert (match.index, match.start, match.flips) == (1, start, flips) and match.texture > 0.95
    fresh = ndimage.gaussian_filter(random.normal(size=copy.shape), 1)
    assert Sought(fresh, np.ones(copy.shape, np.uint8), (2.0, 2.0, 2.0), SETTINGS).best(searched).texture < 0.4


def test_only_what_is_to_be_compared_counts():
    """Voxels of no tissue (nodes, what was not synthesised) may be equal bit for bit."""
    random = np.random.default_rng(2)
    volume = ndimage.gaussian_filter(random.normal(size=(40, 40, 40)), 1)
    made = volume[5:29, 6:30, 7:31].copy()
    tissues = np.zeros(made.shape, np.uint8)
    tissues[4:20, 4:20, 4:20] = 1
    made[tissues > 0] = ndimage.gaussian_filter(random.normal(size=made.shape), 1)[tissues > 0]
    searched = [Searched(reader(volume), volume.shape, made.shape, SETTINGS)]
    place = [(0, (5, 6, 7))]
    settings = MemorisationSettings(cells=12, least_voxels=100)
    assert Sought(made, tissues, (2.0,) * 3, settings).best(searched, place).texture < 0.45
    assert Sought(made, np.ones_like(tissues), (2.0,) * 3, settings).best(searched, place).texture > 0.5
    assert Sought(made, np.zeros_like(tissues), (2.0,) * 3, settings).best(searched, place) is None
    assert Sought(np.ones_like(made), np.ones_like(tissues), (2.0,) * 3, settings).best(searched) is None


def whole(hu, labels):
    return (np.clip(hu, -120, 240) + 120) / 180, label_map(hu, labels, (2.0,) * 3, TABLE)


@pytest.fixture(scope="module")
def bodies(shared_data):
    """[(CT in [0, 2], labels)] at 2 mm: three real ones and two phantoms."""
    found = []
    for ct, organs in (("ts_example_ct", "ts_example_labels"), ("crlm1004_ct", "crlm1004_coarse_anatomy"),
                       ("r01142_abd_ct", "r01142_abd_coarse_anatomy")):
        image, raw = (canonical(read(shared_data / f"{name}.nii.gz")) for name in (ct, organs))
        grid = isotropic_grid(image, 2.0)
        hu = resample_to(Volume(np.maximum(image.array, -1024), image.affine), *grid, cval=-1000).array
        found.append(whole(hu, resample_to(raw, *grid, order=0).array))
    return [*found, *(whole(p.ct.array, p.anatomy.array) for p in (phantom(s, spacing=(2.0,) * 3) for s in range(2)))]


@pytest.mark.slow
def test_planted_copies_of_real_cts_and_phantoms_are_found_and_honest_patches_are_not(bodies):
    side, settings = 40, MemorisationSettings()
    searched = [Searched(reader(ct), ct.shape, (side,) * 3, settings) for ct, _ in bodies]
    copies, honest = [], []
    for number in range(6):
        random = np.random.default_rng(number)
        own, other = number % 5, (number + 2) % 5

        def draw(which, random=random):
            ct, labels = bodies[which]
            while True:
                start = [int(random.integers(0, n - side + 1)) for n in ct.shape]
                box = tuple(slice(s, s + side) for s in start)
                if TABLE.is_organ(labels[box]).mean() > 0.1:
                    return tuple(start), ct[box].astype(np.float32), labels[box]

        (place, mine, tissues), (_, theirs, _) = draw(own), draw(other)
        spoilt = (lambda p: p, lambda p, r=random: np.clip(p + r.normal(0, 5 / 180, p.shape), 0, 2),
                  lambda p: ndimage.gaussian_filter(p, 0.5))[number % 3]
        shifted = reader(bodies[own][0])(tuple(slice(s + 1, s + 1 + side) for s in place))
        flips = FLIPS[1 + number % 7]
        for made in (spoilt(flipped(theirs, flips)), spoilt(shifted), flipped(mine, flips)):
            match = Sought(made, tissues, (2.0,) * 3, settings).best(searched, [(own, place)])
            copies.append(match.texture >= settings.detail_limit)
        # Of a generator that knows the condition alone: each tissue's level, blurred, with noise of its own.
        levels = np.zeros(tissues.shape)
        for tissue in np.unique(tissues):
            levels[tissues == tissue] = mine[tissues == tissue].mean()
        grain = 0.15 * ndimage.gaussian_filter(random.normal(size=levels.shape), 0.6)
        made = ndimage.gaussian_filter(levels, 0.6) + grain
        honest.append(Sought(np.clip(made, 0, 2), tissues, (2.0,) * 3, settings).best(searched, [(own, place)]).texture)
        others = [s for index, s in enumerate(searched) if index != own]
        honest.append(Sought(mine, tissues, (2.0,) * 3, settings).best(others).texture)
    assert np.mean(copies) > 0.9
    assert max(honest) < settings.detail_limit
