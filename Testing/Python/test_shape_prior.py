"""The node shape prior: exact on ellipsoids, and its samples against the real nodes it was learned from."""
import importlib.util

import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.conditions.shape_prior import PAIRS, ShapePrior, describe, rasterise, unit_volume
from LNSynthLib.masks.nodes import TOUCHING, axes_mm
from LNSynthLib.runtime.errors import LNSynthError


@pytest.fixture(scope="module")
def prior():
    return ShapePrior.load()


@pytest.fixture(scope="module")
def fitting(repository):
    """The script that makes the prior file, as a module."""
    spec = importlib.util.spec_from_file_location("fit_node_prior", repository / "Resources" / "fit_node_prior.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ball(shape, spacing, radii, rotation=None):
    points = (np.indices(shape).reshape(3, -1) - (np.array(shape)[:, None] - 1) / 2) * np.array(spacing)[:, None]
    local = (np.eye(3) if rotation is None else rotation).T @ points / np.array(radii, float)[:, None]
    return ((local ** 2).sum(0) <= 1).reshape(shape)


def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.7, 0.7, 1.2)])
@pytest.mark.parametrize("degrees", [0, 35])
def test_an_ellipsoid_is_described_by_its_axes_and_comes_back(spacing, degrees):
    radii, rotation = np.array([11.0, 6, 8]), turned(degrees)
    mask = ball((51, 51, 41), spacing, radii, rotation)
    log_shape, field = describe(mask, spacing)
    # The covariance of a solid ellipsoid is R diag(r^2 / 5) R^T.
    values, vectors = np.linalg.eigh(log_shape)
    assert np.allclose(np.exp(values) * np.sqrt(5), np.sort(radii), rtol=0.05)
    assert abs(vectors[:, 2] @ rotation[:, 0]) > 0.99
    back = rasterise(log_shape, field, spacing)
    whole = mask[ndimage.find_objects(mask.astype(np.uint8))[0]]
    assert abs(back.sum() / whole.sum() - 1) < 0.06
    assert np.abs(np.array(back.shape) - whole.shape).max() <= 2


def test_real_nodes_come_back_with_their_volume(fitting, shared_data):
    """On their own grids, where a voxel is little beside the node: what a field lost between its points was 2 %."""
    logs = []
    for mask, spacing in fitting.read(shared_data / "nih_abdominal_node_masks.npz")[::28]:
        logs.append(np.log(rasterise(*describe(mask, spacing), spacing).sum() / mask.sum()))
    assert len(logs) == 15 and abs(np.mean(logs)) < 0.006 and np.abs(logs).max() < 0.04


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 1.2), (2.5, 2.5, 2.5), (0.7, 0.7, 5.0)])
def test_what_is_drawn_has_its_volume_on_every_grid(prior, spacing):
    """That of the field at points far denser than any of these grids, mapped by exp(L)."""
    rng, logs = np.random.default_rng(0), []
    for _ in range(30):
        log_shape, field = prior.draw(rng)
        node = rasterise(log_shape, field, spacing)
        if node is not None:
            logs.append(np.log(node.sum() * np.prod(spacing) / unit_volume(field)) - np.trace(log_shape))
    assert len(logs) > 25 and abs(np.mean(logs)) < 0.01 + 2.5 * np.std(logs) / np.sqrt(len(logs))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5), (2.0, 2.0, 2.0)])
def test_samples_are_one_solid_component_in_a_tight_box(prior, spacing):
    rng = np.random.default_rng(1)
    for _ in range(40):
        node = prior.sample(rng, spacing)
        assert node.dtype == bool
        assert ndimage.label(node, TOUCHING)[1] == 1
        assert np.array_equal(ndimage.binary_fill_holes(node), node)
        assert all(node.any(axis=tuple(a for a in range(3) if a != axis))[[0, -1]].all() for axis in range(3))


def test_size_does_not_depend_on_the_grid(prior):
    """The same draw fills the same volume whatever the spacing."""
    volumes = []
    for spacing in ((0.8, 0.8, 0.8), (1.0, 1.0, 2.0), (1.5, 1.5, 1.5)):
        rng = np.random.default_rng(5)
        volumes.append([prior.sample(np.random.default_rng(rng.integers(2**31)), spacing).sum() * np.prod(spacing)
                        for _ in range(30)])
    assert np.median(np.abs(np.array(volumes[1]) / volumes[0] - 1)) < 0.05
    assert np.median(np.abs(np.array(volumes[2]) / volumes[0] - 1)) < 0.05


@pytest.mark.parametrize("wanted", [6.0, 12.0, 25.0])
def test_short_axis_as_asked(prior, wanted):
    rng = np.random.default_rng(2)
    for _ in range(10):
        node = prior.sample(rng, (1.0, 1.0, 1.0), short_axis_mm=wanted)
        assert axes_mm(node, np.eye(3))[1] == pytest.approx(wanted, abs=1.25)  # the grid has 1 mm


def test_seeded_and_varied(prior):
    first, again, other = (prior.sample(np.random.default_rng(s), (1, 1, 1)) for s in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_too_coarse_a_grid_is_refused(prior):
    with pytest.raises(LNSynthError, match="finer"):
        prior.sample(np.random.default_rng(0), (60, 60, 60))


def test_the_file_is_small_says_where_it_comes_from_and_keeps_no_node(prior, repository):
    path = repository / "Resources" / "node_prior.npz"
    assert path.stat().st_size < 500_000
    for word in ("CT Lymph Nodes", "CC BY 3.0", "Cancer Imaging Archive", "ULS23"):
        assert word in prior.attribution
    with np.load(path) as file:
        assert not any(417 in file[name].shape or 834 in file[name].shape for name in file.files)


def test_missing_and_broken_files(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path / "bad.npz"):
        if path.name == "bad.npz":
            np.savez(path, mean=np.zeros(3))
        with pytest.raises(LNSynthError, match=path.name):
            ShapePrior.load(path)


def test_samples_look_like_real_nodes(prior, fitting, shared_data):
    """On the grids of the real nodes: sizes and shapes are distributed alike.

    Samples are a little smoother (sphericity by .02): jumps between real outlines are the annotators', not the node's.
    """
    nodes = fitting.read(shared_data / "nih_abdominal_node_masks.npz")[::2]
    found = fitting.compare(prior, nodes, seed=1)
    for name in ("volume_ml", "short_axis_mm", "long_axis_mm", "elongation", "flatness", "sphericity", "solidity"):
        real, drawn, ks = found[name]
        assert ks < (0.3 if name in ("sphericity", "solidity") else 0.15), (name, real, drawn, ks)
        assert drawn[2] == pytest.approx(real[2], rel=0.25 if name == "volume_ml" else 0.1), (name, real, drawn)
    for name, factor in (("volume_ml", 1.25**3), ("short_axis_mm", 1.25), ("long_axis_mm", 1.25)):
        real, drawn, _ = found[name]  # the tails too: 5, 25, 50, 75 and 95 %
        assert np.all(np.abs(np.log(drawn / real)) < np.log(factor)), (name, real, drawn)


@pytest.mark.parametrize("tilt", [3, 4])
def test_how_a_node_is_turned_and_how_it_is_bent_stay_together(prior, tilt):
    """The tie between a tilt (L's R-A or R-S entry) and the odd part of the shape, which both change sign in a mirror:
    as strong in what is drawn as in the numbers that the prior was fitted to, and of the same sign."""
    rng = np.random.default_rng(4)
    normal = prior.factor @ rng.standard_normal((len(prior.factor), 2000))
    numbers = np.array([np.interp(z, prior.levels, q) for z, q in zip(normal, prior.quantiles, strict=True)])
    tilts, weights = numbers[tilt], numbers[6:-1]
    tied = np.tensordot(weights @ (tilts - tilts.mean()) / 2000, prior.components, 1)
    odd = tied - tied[::-1]
    fitted = np.corrcoef(tilts, prior.components.reshape(len(weights), -1) @ odd.ravel() @ weights)[0, 1]
    drawn = [prior.draw(rng) for _ in range(400)]
    found = np.corrcoef([shape[PAIRS[tilt]] for shape, _ in drawn], [(field * odd).sum() for _, field in drawn])[0, 1]
    assert fitted > 0.8 and found == pytest.approx(fitted, abs=0.1)


@pytest.mark.slow
def test_refitting_reproduces_the_file(fitting, shared_data, repository):
    """The shipped file is what the script makes of the masks."""
    arrays = fitting.fit(fitting.read(shared_data / "nih_abdominal_node_masks.npz"))
    with np.load(repository / "Resources" / "node_prior.npz") as file:
        assert np.allclose(file["mean"], arrays["mean"], atol=2e-3)
        assert np.allclose(file["quantiles"][:6], arrays["quantiles"][:6], atol=1e-3)
        assert np.allclose(file["rest_gain"], arrays["rest_gain"], atol=0.05)


def test_every_other_node_is_a_mirror_image(prior):
    """The same numbers give a node or its mirror image (right and left exchanged), each in half of the draws."""
    class Fixed:  # a generator whose normal numbers are always the same; only the last decision differs
        def __init__(self, decision):
            self.decision, self.normal = decision, np.random.default_rng(8)

        def standard_normal(self, shape):
            return self.normal.standard_normal(shape)

        def random(self):
            return self.decision

    one, other = (rasterise(*prior.draw(Fixed(decision)), (1.0, 1.0, 1.0)) for decision in (0.2, 0.8))
    assert np.array_equal(one, other[::-1]) and not np.array_equal(one, other)
    assert np.array_equal(rasterise(*prior.draw(Fixed(0.49)), (1.0,) * 3), one)
    assert np.array_equal(rasterise(*prior.draw(Fixed(0.51)), (1.0,) * 3), other)
