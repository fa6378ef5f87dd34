"""The phantom is an abdomen: its organs, their HU and volumes, its nodes, and the same one for the same seed."""

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.cases.splits import split_in_turn
from LNSynthLib.cli import EXIT_REFUSED, main
from LNSynthLib.masks.body import body_mask
from LNSynthLib.phantom.nodes import node_short_axis
from LNSynthLib.phantom.phantom import HU, PARTS, PHASES, phantom, phantom_dataset
from LNSynthLib.phantom.scene import Scene, Solid, ellipsoid
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import sha256

# TotalSegmentator v2 id: tissue of the HU table, plausible volume in mL
ORGANS = {
    1: ("spleen", 80, 500), 2: ("cortex_kidney", 50, 280), 3: ("cortex_kidney", 50, 280), 4: ("bile", 5, 90),
    5: ("liver", 900, 2600), 6: (None, 100, 900), 7: ("pancreas", 25, 130), 8: (None, 1, 9), 9: (None, 1, 9),
    52: ("aorta", 30, 140), 63: ("cava", 40, 150), 64: ("portal", 5, 40),
}  # fmt: skip
OTHERS = (18, 19, 20, 28, 29, 30, 31, 79, 86, 87, 88, 89)  # bowel, vertebrae, cord, muscles
SEEDS = {"native": 1, "arterial": 5, "portal venous": 0}


@pytest.fixture(scope="module", params=SEEDS)
def drawn(request):
    case = phantom(SEEDS[request.param], 2.5)
    assert case.phase == request.param
    return case


def core(mask: np.ndarray) -> np.ndarray:
    """The mask without its partial-volume rim, where it is thick enough to have a core."""
    eroded = ndimage.binary_erosion(mask)
    return eroded if eroded.sum() >= 20 else mask


def test_every_organ_is_there_with_its_volume_and_hu(drawn):
    column = list(PHASES).index(drawn.phase)
    ct, anatomy = drawn.ct.array, drawn.anatomy.array
    ml = np.prod(drawn.ct.spacing) / 1000
    for organ, (tissue, least, most) in ORGANS.items():
        mask = anatomy == organ
        assert least < mask.sum() * ml < most, f"organ {organ}"
        if tissue:
            expected = HU[tissue][column]
            spread = 3 * HU[tissue][3] + 0.2 * abs(expected - HU[tissue][0]) + 10  # person, timing, edges and noise
            if organ in (2, 3) and drawn.phase == "arterial":
                spread += 45  # the medulla is still dark
            assert abs(np.median(ct[core(mask)]) - expected) < spread, f"organ {organ}"
    assert not set(OTHERS) - set(np.unique(anatomy))


def test_the_picture_is_a_ct(drawn):
    ct, anatomy = drawn.ct.array, drawn.anatomy.array
    assert ct.dtype == np.int16 and anatomy.dtype == np.uint8 and drawn.nodes.array.dtype == np.uint16
    body = body_mask(ct, drawn.ct.spacing)
    litres = body.sum() * np.prod(drawn.ct.spacing) / 1e6
    assert 8 < litres < 35
    assert np.median(ct[~body]) < -950
    assert np.count_nonzero((anatomy > 0) & ~body) < 0.001 * np.count_nonzero(anatomy)
    soft = body & (anatomy == 0) & (ct > -130) & (ct < -80)
    assert 0.1 < soft.sum() / body.sum() < 0.7, "fat fills the rest"
    liver = ndimage.binary_erosion(anatomy == 5, iterations=3)
    assert 6 < ct[liver].std() < 32


def test_the_table_is_in_the_picture_but_not_in_the_body(drawn):
    ct = drawn.ct.array
    body = body_mask(ct, drawn.ct.spacing)
    back = np.nonzero(body.any(axis=(0, 2)))[0][0]
    assert (ct[:, : back - 1] > -500).any(), "the table lies below"
    assert body[:, back].mean() < 0.3, "nor has it stuck to the back"


def test_the_same_seed_gives_the_same_case_and_another_seed_another():
    one, again, other = phantom(3, 5.0), phantom(3, 5.0), phantom(4, 5.0)
    for role in ("ct", "anatomy", "nodes"):
        assert np.array_equal(getattr(one, role).array, getattr(again, role).array)
    assert one.ct.shape != other.ct.shape or not np.array_equal(one.anatomy.array, other.anatomy.array)


def test_nodes_are_in_one_piece_apart_from_organs_and_in_fat():
    found = 0
    for seed in range(100, 106):
        case = phantom(seed, (3.0, 3.0, 5.0), nodes=1 + seed % 10)
        nodes, anatomy, ct = case.nodes.array, case.anatomy.array, case.ct.array
        assert case.nodes.shape == case.ct.shape == case.anatomy.shape
        assert np.allclose(case.ct.spacing, (3, 3, 5))
        assert not (anatomy[nodes > 0] > 0).any(), f"seed {seed}"
        count = int(nodes.max())
        assert 1 <= count <= 1 + seed % 10
        found += count / (1 + seed % 10)
        great = ndimage.distance_transform_edt(~np.isin(anatomy, (52, 63, 64)), sampling=case.ct.spacing)
        for i in range(1, count + 1):
            node = nodes == i
            assert ndimage.label(node)[1] == 1, f"seed {seed} node {i}"
            assert great[node].min() < 90, "far from the great vessels"
            rim = ndimage.binary_dilation(node, iterations=3) & ~ndimage.binary_dilation(node)
            assert np.count_nonzero(ct[rim] < -40) > 0.15 * rim.sum(), f"seed {seed} node {i} is not in fat"
    assert found > 5, "most of the nodes asked for find room"


def test_node_sizes_are_those_of_patients():
    rng = np.random.default_rng(0)
    sizes = [node_short_axis(rng) for _ in range(20_000)]
    assert np.allclose(np.percentile(sizes, [5, 50, 95]), [8.4, 13.4, 26.8], rtol=0.03)
    case = phantom(7, 2.5, nodes=10)
    volumes = np.bincount(case.nodes.array.ravel())[1:] * np.prod(case.ct.spacing) / 1000
    assert len(volumes) >= 6 and 0.15 < volumes.min() and volumes.max() < 40


def test_noise_is_standard_at_any_scale_and_a_tight_solid_yields():
    scene = Scene(np.random.default_rng(1), (-60, -60, -60), (60, 60, 60), (3, 3, 3), bend_mm=0, ripple_mm=0)
    for scale in (12.0, 30.0):
        fields = np.stack([scene.noise(scale) for _ in range(20)])
        assert abs(fields.mean()) < 0.1 and abs(fields.std() - 1) < 0.1
    ball = scene.solid(ellipsoid((0, 0, 0), (30, 30, 30)), (-30,) * 3, (30,) * 3)
    assert np.isclose(np.count_nonzero(ball.d < 0) * 27, 4 / 3 * np.pi * 30**3, rtol=0.03)
    scene.paint(ball, 50.0, 1)
    scene.claim(ball)
    later = scene.fit(scene.solid(ellipsoid((30, 0, 0), (25, 25, 25)), (0, -30, -30), (60, 30, 30)), gap=4.0)
    inside = later.d < 0
    x, y, z = (c[later.box][inside] for c in scene.xyz)
    assert inside.any() and np.sqrt(x**2 + y**2 + z**2).min() > 33.5


def test_a_tube_has_its_radius_and_its_length():
    scene = Scene(np.random.default_rng(1), (-50, -50, -50), (50, 50, 50), (2, 2, 2), bend_mm=0, ripple_mm=0)
    tube = scene.tube([(-30, 0.3, 0.4), (30, 0.3, 0.4)], 8.0)
    assert isinstance(tube, Solid)
    volume = np.pi * 64 * 60 + 4 / 3 * np.pi * 512
    assert np.isclose(np.count_nonzero(tube.d < 0) * 8, volume, rtol=0.05)
    assert np.isclose(tube.along.max(), 60, atol=0.1)
    assert scene.tube([(200, 0, 0), (300, 0, 0)], 8.0) is None


def test_a_dataset_of_phantoms_says_so_and_can_be_completed(tmp_path):
    folder = tmp_path / "phantoms"
    first = phantom_dataset(folder, 1, seed=9, spacing=5.0)
    ct = first.path("phantom-9-0000", "ct")
    stamp = ct.stat().st_mtime_ns
    dataset = phantom_dataset(folder, 2, seed=9, spacing=5.0)
    assert ct.stat().st_mtime_ns == stamp, "what is there is not drawn again"
    assert dataset.kind == "phantom" and [e["id"] for e in dataset.cases()] == ["phantom-9-0000", "phantom-9-0001"]
    assert b"SYNTHETIC" in nibabel.load(ct).header["descrip"].tobytes()
    case = Dataset.open(folder).load("phantom-9-0001")
    assert case.nodes.array.max() >= 1 and case.ct.shape == case.anatomy.shape == case.nodes.shape
    assert case.entry["anatomy_version"] == 2 and case.entry["phase"] in PHASES
    alone = phantom_dataset(tmp_path / "more", 2, seed=9, spacing=5.0)
    for role in ("ct", "nodes", "anatomy"):
        assert sha256(alone.path("phantom-9-0001", role)) == sha256(dataset.path("phantom-9-0001", role))


def test_phantoms_are_not_added_to_real_cases(tmp_path):
    Dataset.create(tmp_path / "real", kind="real")
    with pytest.raises(LNSynthError, match="real"):
        phantom_dataset(tmp_path / "real", 1, seed=0, spacing=5.0)


@pytest.mark.slow
def test_workers_draw_the_same_cases(tmp_path):
    one = phantom_dataset(tmp_path / "one", 2, seed=2, spacing=5.0)
    two = phantom_dataset(tmp_path / "two", 2, seed=2, spacing=5.0, workers=2)
    assert one.manifest["cases"] == two.manifest["cases"]


def test_the_command_makes_a_dataset(tmp_path, capsys):
    folder = tmp_path / "made"
    assert main(["--events", "json", "phantom", "--out", str(folder), "--spacing", "5", "--nodes", "2"]) == 0
    assert '"kind": "phantom"' in capsys.readouterr().out
    assert Dataset.open(folder).load("phantom-0-0000").nodes.array.max() == 2
    assert main(["phantom", "--out", str(folder), "--spacing", "0"]) == EXIT_REFUSED
    assert "--spacing: it must be from 0.4 to 6, not 0" in capsys.readouterr().err


def test_a_few_phantoms_have_all_splits_and_more_keep_them(tmp_path):
    """Four phantoms were all `train` once, so that `segment train`, which validates, refused them."""
    assert split_in_turn(4) == ["train", "val", "test", "train"]
    assert split_in_turn(138)[:4] == split_in_turn(4)
    assert [split_in_turn(138).count(split) for split in ("train", "val", "test")] == [88, 23, 27]
    assert split_in_turn(3, (1, 0, 0)) == ["train"] * 3
    made = tmp_path / "made"
    arguments = ["phantom", "--out", str(made), "--spacing", "6", "--nodes", "1", "--cases", "2", "--split", "0:1:1"]
    assert main(arguments) == 0
    assert [e["split"] for e in Dataset.open(made).cases()] == ["val", "test"]


def test_a_phantom_tells_how_far_it_is():
    parts = []
    phantom(3, spacing=6.0, nodes=1, step=lambda: parts.append(1))
    assert len(parts) == PARTS
