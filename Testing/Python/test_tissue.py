"""HU of organs and the contrast of nodes on volumes whose every value is known."""

import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.evaluation.tissue import TissueSettings, core, node_contrast, organ_errors
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.masks.nodes import shell

TABLE = LabelTable.load("abdomen17")
LIVER, FAT = TABLE.index("liver"), TABLE.index("fat")


def by_brute_force(mask, spacing, depth):
    """Core voxel by voxel: the distance of each to every voxel outside."""
    outside = np.argwhere(~mask) * spacing
    kept = np.zeros_like(mask)
    for voxel in np.argwhere(mask):
        kept[tuple(voxel)] = np.linalg.norm(outside - voxel * spacing, axis=1).min() > depth
    return kept


def test_core_keeps_what_is_deep_in_millimetres():
    mask = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(12, 11, 10)), 2) > 0
    spacing = np.array([1.0, 2.0, 3.0])
    for depth in (1.5, 3.0):
        found = core(mask, spacing, depth)
        assert np.array_equal(found, by_brute_force(mask, spacing, depth)) and 0 < found.sum() < mask.sum()
    # The patch's border is no outside.
    assert core(np.ones((5, 5, 5), bool), (1, 1, 1), 4).all()


@pytest.fixture
def patch():
    """A liver cube of 10 voxels in fat; real: 100 HU in the liver, -100 in fat; synthetic: 10 HU less in the liver."""
    anatomy = np.full((20, 20, 20), FAT, np.uint8)
    anatomy[5:15, 5:15, 5:15] = LIVER
    real = np.where(anatomy == LIVER, 100.0, -100.0)
    return anatomy, real, np.where(anatomy == LIVER, 90.0, -100.0)


def test_organ_errors_are_the_differences_under_one_mask(patch):
    anatomy, real, synthetic = patch
    rim = (anatomy == LIVER) & ~core(anatomy == LIVER, (1, 1, 1), 2.0)
    synthetic[rim] = -30.0
    rows = {(r["label"], r["part"]): r for r in organ_errors(synthetic, real, anatomy, TABLE, (1, 1, 1), None,
                                                             TissueSettings(core_mm=2.0))}
    assert set(rows) == {("liver", "whole"), ("liver", "core"), ("fat", "whole"), ("fat", "core")}
    inner, outer = 6**3, 10**3 - 6**3
    assert rows["liver", "core"] == {
        "label": "liver", "part": "core", "organ": True, "voxels": inner, "real_mean": 100, "real_sd": 0,
        "synthetic_mean": 90, "synthetic_sd": 0, "error": -10, "mae": 10}
    whole = rows["liver", "whole"]
    assert whole["voxels"] == 1000 and whole["error"] == pytest.approx(-(10 * inner + 130 * outer) / 1000)
    assert whole["mae"] == pytest.approx(-whole["error"])
    share = inner / 1000
    assert whole["synthetic_sd"] == pytest.approx(120 * (share * (1 - share)) ** 0.5) and whole["real_sd"] == 0
    assert rows["fat", "whole"]["error"] == 0 and not rows["fat", "whole"]["organ"]


def test_errors_that_cancel_show_in_the_absolute_one(patch):
    anatomy, real, _ = patch
    checker = np.where(np.indices(real.shape).sum(0) % 2, 20.0, -20.0)
    (whole, _) = organ_errors(real + checker, real, anatomy, TABLE, (1, 1, 1), None, TissueSettings(core_mm=9))[:2]
    assert whole["error"] == pytest.approx(0) and whole["mae"] == 20 and whole["synthetic_sd"] == 20


def test_nodes_and_rare_labels_are_left_out(patch):
    anatomy, real, synthetic = patch
    nodes = np.zeros(anatomy.shape, np.uint16)
    nodes[0:3, 0:3, 0:3] = 1
    synthetic[nodes > 0] = 60.0
    anatomy[19, 19, :] = TABLE.index("spleen")
    rows = {(r["label"], r["part"]): r for r in organ_errors(synthetic, real, anatomy, TABLE, (1, 1, 1), nodes)}
    assert rows["fat", "whole"]["error"] == 0 and ("spleen", "whole") not in rows
    assert organ_errors(synthetic, real, anatomy, TABLE, (1, 1, 1))[-2]["error"] > 0


def test_a_shell_holds_the_voxels_at_its_distance():
    nodes = np.zeros((16, 14, 12), np.uint16)
    nodes[6:9, 5:8, 5:7], nodes[12, 7, 5] = 1, 2
    spacing = np.array([1.0, 1.5, 2.0])
    box, found = shell(nodes, 1, spacing, 2.0, 4.5)
    whole = np.zeros(nodes.shape, bool)
    whole[box] = found
    node = np.argwhere(nodes == 1) * spacing
    distance = np.array([np.linalg.norm(node - np.array(v) * spacing, axis=1).min() for v in np.ndindex(nodes.shape)])
    distance = distance.reshape(nodes.shape)
    assert np.array_equal(whole, (distance > 2.0) & (distance <= 4.5) & (nodes == 0))
    assert distance[12, 7, 5] <= 4.5 and not whole[12, 7, 5]


def test_node_contrast_is_to_free_tissue_alone():
    anatomy = np.full((30, 30, 30), FAT, np.uint8)
    anatomy[:, :, 17:] = LIVER
    nodes = np.zeros(anatomy.shape, np.uint16)
    nodes[8:14, 8:14, 10:16], nodes[17:20, 8:14, 10:16] = 3, 5
    hu = np.where(anatomy == LIVER, 110.0, -90.0)
    hu[nodes == 3], hu[nodes == 5] = 40.0, 70.0
    near = ndimage.binary_dilation(nodes > 0, iterations=2) & (nodes == 0)
    hu[near & (anatomy == FAT)] = 0.0  # partial volume, nearer than the shell begins
    first, second = node_contrast(hu, nodes, anatomy, TABLE, (1.0, 1.0, 1.0))
    assert first == {"id": 3, "hu": 40.0, "around_hu": pytest.approx(first["around_hu"]),
                     "contrast": pytest.approx(40 - first["around_hu"])}
    # All voxels beyond 2 mm are fat at -90 HU, but for those around the other node.
    assert -90 <= first["around_hu"] < -80 and second["id"] == 5 and second["contrast"] > 150
    alone = node_contrast(hu, np.where(nodes == 3, nodes, 0), np.full_like(anatomy, LIVER), TABLE, (1.0, 1.0, 1.0))
    assert alone == [{"id": 3, "hu": 40.0, "around_hu": None, "contrast": None}]
    few = TissueSettings(least_shell=10**6)
    assert {c["contrast"] for c in node_contrast(hu, nodes, anatomy, TABLE, (1.0, 1.0, 1.0), few)} == {None}
    assert node_contrast(hu, np.zeros_like(nodes), anatomy, TABLE, (1.0, 1.0, 1.0)) == []
