"""Painted nodes: they look like the CT's own soft tissue, and nothing else of the CT changes."""

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.cli import EXIT_REFUSED, main
from LNSynthLib.conditions import pseudo_pairs
from LNSynthLib.conditions.shape_prior import ShapePrior
from LNSynthLib.images.volume import Volume, canonical, read, write
from LNSynthLib.masks.body import label_map
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.phantom.phantom import HU, PHASES, phantom
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.pseudonyms import pseudonym

TABLE = LabelTable.load("abdomen17")
SPACING = (2.5, 2.5, 2.5)


@pytest.fixture(scope="module")
def case():
    """An abdomen without nodes, its label map and its look."""
    drawn = phantom(0, SPACING, nodes=0)
    assert not drawn.nodes.array.any()
    labels = label_map(drawn.ct.array, drawn.anatomy.array, SPACING, TABLE)
    return drawn, labels, pseudo_pairs.measure_look(drawn.ct.array, labels, SPACING, TABLE)


@pytest.fixture(scope="module")
def placed(case):
    return pseudo_pairs.place(case[1], SPACING, TABLE, 5, np.random.default_rng(4), ShapePrior.load())


@pytest.mark.parametrize(("seed", "phase"), [(0, "portal venous"), (1, "native"), (5, "arterial")])
def test_the_level_follows_the_contrast_phase(seed, phase):
    drawn = phantom(seed, 3.0, nodes=0)
    assert drawn.phase == phase
    labels = label_map(drawn.ct.array, drawn.anatomy.array, drawn.ct.spacing, TABLE)
    look = pseudo_pairs.measure_look(drawn.ct.array, labels, drawn.ct.spacing, TABLE)
    assert abs(look.node_hu - HU["node"][list(PHASES).index(phase)]) < 15


@pytest.mark.parametrize("sigma", [0.8, 1.3])
@pytest.mark.parametrize("spacing", [0.8, 1.5])
def test_blur_is_measured_at_the_skin(sigma, spacing):
    x, y = (np.arange(-n / 2, n / 2) * spacing for n in (320 / spacing, 220 / spacing))
    fine = 4  # drawn finely, then averaged over voxels as a scanner does
    xf, yf = ((a[:, None] + (np.arange(fine) - 1.5) * spacing / fine).ravel() for a in (x, y))
    body = (xf[:, None] / 140) ** 2 + (yf[None, :] / 95) ** 2 < 1
    blurred = ndimage.gaussian_filter(np.where(body, 40.0, -1000.0), sigma * fine / spacing)
    ct = blurred.reshape(len(x), fine, len(y), fine).mean((1, 3))[:, :, None].repeat(6, 2)
    measured = pseudo_pairs.edge_blur(ct, ct > -300, (spacing, spacing, 3.0))
    assert np.isclose(measured, np.hypot(sigma, spacing / np.sqrt(12)), rtol=0.15)


def test_blur_has_a_usual_value_where_the_flanks_are_cut_off():
    ct = np.full((40, 40, 10), 40.0)
    assert pseudo_pairs.edge_blur(ct, ct > 0, (1.0, 1.0, 1.0)) == 0.6


def test_noise_covariance_is_that_of_the_noise():
    rng = np.random.default_rng(0)
    sigma, std = 0.9, 12.0
    noise = ndimage.gaussian_filter(rng.standard_normal((70, 70, 40)), (sigma, sigma, 0))
    noise *= std / noise.std()
    mask = np.zeros(noise.shape, bool)
    mask[5:60, 8:66, 2:37] = True
    ramp = 60 + 0.3 * np.arange(70.0)[:, None, None]
    covariance = pseudo_pairs.noise_covariance(noise + ramp, mask, (1.0, 1.0, 3.0))
    middle = tuple(n // 2 for n in covariance.shape)
    assert np.isclose(np.sqrt(covariance[middle]), std, rtol=0.07)
    beside = covariance[middle[0] + 1, middle[1], middle[2]] / covariance[middle]
    assert np.isclose(beside, np.exp(-1 / (4 * sigma**2)), atol=0.06)
    assert abs(covariance[middle[0], middle[1], middle[2] + 1]) < 0.1 * covariance[middle]

    drawn = pseudo_pairs.draw_noise(covariance, (64, 50, 30), rng)
    assert drawn.shape == (64, 50, 30)
    assert np.isclose(drawn.std(), np.sqrt(covariance[middle]), rtol=0.05)
    assert np.isclose((drawn[1:] * drawn[:-1]).mean() / drawn.var(), beside, atol=0.05)
    assert pseudo_pairs.draw_noise(covariance, (3, 2, 1), rng).shape == (3, 2, 1)


def test_only_the_nodes_and_their_blur_change(case, placed):
    drawn, _, look = case
    nodes, _ = placed
    painted = pseudo_pairs.paint(drawn.ct.array, nodes, SPACING, np.random.default_rng(5), look)
    assert painted.dtype == drawn.ct.array.dtype and painted.shape == nodes.shape
    reach = ndimage.distance_transform_edt(nodes == 0, sampling=SPACING) <= 2.5 * max(look.blur_mm) + 2.5
    assert np.array_equal(painted[~reach], drawn.ct.array[~reach])
    assert np.array_equal(drawn.ct.array, phantom(0, SPACING, nodes=0).ct.array), "the input is left alone"
    again = pseudo_pairs.paint(drawn.ct.array, nodes, SPACING, np.random.default_rng(5), look)
    other = pseudo_pairs.paint(drawn.ct.array, nodes, SPACING, np.random.default_rng(6), look)
    assert np.array_equal(painted, again) and not np.array_equal(painted, other)


def test_painted_nodes_are_soft_tissue_in_fat(case, placed):
    drawn, labels, look = case
    nodes, records = placed
    assert [r["id"] for r in records] == list(range(1, len(records) + 1)) == list(np.unique(nodes)[1:])
    assert len(records) >= 3
    assert not TABLE.is_organ(labels)[nodes > 0].any()
    painted = pseudo_pairs.paint(drawn.ct.array, nodes, SPACING, np.random.default_rng(5), look)
    for record in records:
        node = nodes == record["id"]
        assert (labels[node] == TABLE.index("fat")).mean() >= pseudo_pairs.LEAST_FAT
        assert abs(painted[node].mean() - look.node_hu) < 35
        assert painted[node].mean() > drawn.ct.array[node].mean() + 60


def test_a_large_painted_node_has_the_noise_of_the_ct(case):
    _, _, look = case
    shape = (30, 30, 30)
    fat = np.full(shape, -100.0, np.float32) + pseudo_pairs.draw_noise(look.covariance, shape, np.random.default_rng(1))
    ball = np.linalg.norm(np.indices(shape) - 14.5, axis=0) < 11
    painted = pseudo_pairs.paint(fat, ball.astype(np.uint16), SPACING, np.random.default_rng(2), look)
    core = ndimage.binary_erosion(ball, iterations=3)
    assert np.isclose(painted[core].std(), np.hypot(np.sqrt(look.covariance.max()), 5), rtol=0.15)
    rim = ball & ~ndimage.binary_erosion(ball)
    assert painted[rim].mean() < painted[core].mean() - 10, "the rim is partly fat"


@pytest.fixture
def files(tmp_path, case):
    """The abdomen as files, flipped, so that the reader has something to reorder."""
    drawn = case[0]
    flip = np.diag([-1.0, -1, 1, 1])
    flip[:2, 3] = np.array(drawn.ct.shape[:2]) - 1
    for name, volume in (("ct", drawn.ct), ("labels", drawn.anatomy)):
        write(tmp_path / f"{name}.nii.gz", Volume(volume.array[::-1, ::-1], volume.affine @ flip))
    return tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz"


def test_a_dataset_of_painted_nodes_says_so_and_can_be_completed(tmp_path, files, case):
    folder = tmp_path / "pseudo"
    pseudo_pairs.pseudo_dataset(folder, *files, variants=1, seed=3, nodes=(2, 3), case="ct")
    stamp = (folder / "cases" / "ct-pseudo-3-000" / "ct.nii.gz").stat().st_mtime_ns
    dataset = pseudo_pairs.pseudo_dataset(folder, *files, variants=2, seed=3, nodes=(2, 3), case="ct")
    assert (folder / "cases" / "ct-pseudo-3-000" / "ct.nii.gz").stat().st_mtime_ns == stamp
    assert dataset.kind == "pseudo" and "SYNTHETIC" in dataset.manifest["note"]
    one, two = (Dataset.open(folder).load(e["id"]) for e in dataset.cases())
    assert one.entry["split"] == two.entry["split"] == "train" and one.entry["patient"] == "ct"
    assert b"SYNTHETIC" in nibabel.load(dataset.path(one.id, "ct")).header["descrip"].tobytes()
    assert np.array_equal(one.anatomy.array, case[0].anatomy.array), "canonical again"
    assert 1 <= one.nodes.array.max() <= 3 and len(one.entry["painted"]) == one.nodes.array.max()
    assert not np.array_equal(one.nodes.array, two.nodes.array)
    changed = one.ct.array != case[0].ct.array
    assert changed.any() and changed.mean() < 0.01
    with pytest.raises(LNSynthError, match="patient ct is on both sides"):
        pseudo_pairs.pseudo_dataset(folder, *files, variants=1, seed=4, split="val", case="ct")
    with pytest.raises(LNSynthError, match="case ct-pseudo-3-000 .* one CT"):
        pseudo_pairs.pseudo_dataset(folder, *files, variants=1, seed=4, split="test", case="another")
    assert len(Dataset.open(folder).cases()) == 2


def test_an_anonymous_case_names_nobody(tmp_path, files, case):
    dataset = pseudo_pairs.pseudo_dataset(tmp_path / "set", *files, variants=1, seed=3, nodes=(2, 3), case="Doe-Jane",
                                    patient="Doe", anonymous=True)
    entry, = dataset.cases()
    assert entry["id"] == f"{pseudonym('case', 'Doe-Jane')}-pseudo-3-000"
    assert entry["patient"] == pseudonym("patient", "doe")
    words = (tmp_path / "set" / "dataset.json").read_text()
    assert "Doe" not in words and f"CT {files[0].name}" not in words


def test_unfit_input_is_refused(tmp_path, files, case):
    Dataset.create(tmp_path / "real", kind="real")
    with pytest.raises(LNSynthError, match="real"):
        pseudo_pairs.pseudo_dataset(tmp_path / "real", *files, variants=1, seed=0, case="ct")
    smaller = read(files[1])
    write(tmp_path / "small.nii.gz", Volume(smaller.array[:-3], smaller.affine))
    with pytest.raises(LNSynthError, match="grid"):
        pseudo_pairs.pseudo_dataset(tmp_path / "new", files[0], tmp_path / "small.nii.gz", variants=1, seed=0,
                                    case="ct")
    with pytest.raises(LNSynthError, match="soft tissue"):
        pseudo_pairs.measure_look(case[0].ct.array, np.zeros_like(case[1]), SPACING, TABLE)


@pytest.mark.parametrize(("name", "anatomy", "levels"), [
    ("crlm1004_ct", "crlm1004_coarse_anatomy", (65, 110)), ("ts_example_ct", "ts_example_labels", (20, 50)),
])  # fmt: skip
def test_the_look_of_real_cts(shared_data, name, anatomy, levels):
    ct, raw = (canonical(read(shared_data / f"{n}.nii.gz")) for n in (name, anatomy))
    labels = label_map(ct.array, raw.array, ct.spacing, TABLE)
    look = pseudo_pairs.measure_look(ct.array, labels, ct.spacing, TABLE)
    assert levels[0] < look.node_hu < levels[1]
    assert 4 < np.sqrt(look.covariance.max()) < 25
    assert all(0.3 < b < 2.5 for b in look.blur_mm)


def test_the_command_makes_a_dataset(tmp_path, files, capsys):
    ct, anatomy = map(str, files)
    folder = tmp_path / "made"
    where = ["--ct", ct, "--case", "mine", "--anatomy", anatomy, "--out", str(folder)]
    assert main(["pseudo", *where, "--nodes", "3", "2"]) == EXIT_REFUSED
    assert not folder.exists() and "MIN" in capsys.readouterr().err
    assert main(["--events", "json", "pseudo", *where, "--nodes", "2", "2"]) == 0
    assert '"kind": "pseudo"' in capsys.readouterr().out
    assert len(Dataset.open(folder).cases("train")) == 1
