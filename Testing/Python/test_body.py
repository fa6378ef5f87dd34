"""Body mask and label map, on a phantom whose true masks are known, and on the real CTs."""
import nibabel
import numpy as np
import pytest

from LNSynthLib.masks.body import body_mask, label_map, node_hu, organ_hu
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.runtime.errors import LNSynthError

SPACING = (2.0, 2.0, 2.5)
SHAPE = (96, 80, 20)


def ellipse(center, radii, shape=SHAPE):
    """True inside an elliptic cylinder; center and radii in voxels, in plane."""
    x, y = np.ogrid[: shape[0], : shape[1]]
    inside = ((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 <= 1
    return np.repeat(inside[:, :, None], shape[2], 2)


def trunk(seed=0):
    """A fat trunk with muscle, lung, gas, liver, bone, on a table, with noise: (ct, true body, parts)."""
    rng = np.random.default_rng(seed)
    ct = np.full(SHAPE, -1000.0)
    body = ellipse((48, 44), (40, 26))
    parts = {"muscle": ellipse((48, 44), (34, 20)), "lung": ellipse((30, 48), (8, 10)),
             "liver": ellipse((66, 46), (9, 10)), "gas": ellipse((48, 56), (4, 4)),
             "bone": ellipse((48, 30), (6, 5))}
    ct[body] = -100
    for name, hu in (("muscle", 50), ("lung", -850), ("bone", 500), ("liver", 110), ("gas", -950)):
        ct[parts[name]] = hu
    ct[:, 10:12, :] = -50          # table top, 4 mm, clear of the skin
    ct[40:56, 12:19, :] = -150     # a pad that joins table and skin
    ct += rng.normal(0, 15, SHAPE)
    return ct.astype(np.float32), body, parts


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_body_holds_its_cavities_and_not_the_table():
    ct, body, parts = trunk()
    ct[40:56, 12:19, :] = -1000    # without the pad the mask is exact but for the skin's own voxels
    mask = body_mask(ct, SPACING)
    assert dice(mask, body) > 0.995
    assert mask[parts["lung"]].all() and mask[parts["gas"]].all()
    assert not mask[:, :14].any()


def test_a_thick_pad_may_join_but_the_table_stays_out():
    ct, body, _ = trunk()
    mask = body_mask(ct, SPACING)
    assert dice(mask, body) > 0.96
    assert not mask[:30, :12].any() and not mask[66:, :12].any()


def test_body_cut_by_the_field_of_view():
    ct, body, _ = trunk()
    ct[40:56, 12:19, :] = -1000
    mask = body_mask(ct[20:70], SPACING)
    assert dice(mask, body[20:70]) > 0.99


@pytest.mark.parametrize("spacing, zoom", [((1.0, 1.0, 2.5), 2), ((4.0, 4.0, 2.5), None)])
def test_other_spacings_give_the_same_body(spacing, zoom):
    ct, body, _ = trunk()
    ct[40:56, 12:19, :] = -1000
    if zoom:
        ct, body = (a.repeat(2, 0).repeat(2, 1) for a in (ct, body))
    else:
        ct, body = ct[::2, ::2], body[::2, ::2]
    assert dice(body_mask(ct, spacing), body) > 0.99


def test_nothing_but_air_is_refused():
    with pytest.raises(LNSynthError, match="Hounsfield"):
        body_mask(np.full((20, 20, 5), -1000.0), (2, 2, 2))


def test_label_map_of_the_paper_and_of_the_extended_table():
    ct, body, parts = trunk()
    ct[40:56, 12:19, :] = -1000
    raw = np.where(parts["liver"], 5, 0)
    paper = LabelTable.load("abdomen14")
    labels = label_map(ct, raw, SPACING, paper)
    assert set(np.unique(labels)) == {0, 1, paper.index("liver")}
    assert np.array_equal(labels == paper.index("liver"), parts["liver"])

    table = LabelTable.load("abdomen17")
    spilled = np.where(ellipse((74, 46), (9, 10)), 5, raw)  # a coarse liver that spills into the fat beside it
    labels = label_map(ct, spilled, SPACING, table)
    assert dice(labels == table.index("liver"), (spilled == 5) & parts["muscle"]) > 0.97
    assert dice(labels == table.index("bone"), parts["bone"]) > 0.95
    fat = body & ~parts["muscle"]  # the rim of gas passes through the HU of fat, hence no exact agreement
    assert dice(labels == table.index("fat"), fat) > 0.9
    assert (labels[fat] == table.index("gas")).mean() < 0.01
    assert dice(labels == table.index("gas"), parts["lung"] | parts["gas"]) > 0.93
    assert set(np.unique(label_map(ct, None, SPACING, paper))) == {0, 1}


def test_version_1_ids_give_the_same_map_when_told():
    ct, _, parts = trunk()
    table = LabelTable.load("abdomen14")
    v2 = label_map(ct, np.where(parts["liver"], 64, 0), SPACING, table)
    v1 = label_map(ct, np.where(parts["liver"], 9, 0), SPACING, table, version=1)
    assert np.array_equal(v1, v2) and (v1 == table.index("portal_vein_and_splenic_vein")).any()


def test_the_anatomy_does_not_betray_a_node_in_fat():
    """A node drawn into pure fat leaves the label map as it was before the node."""
    table = LabelTable.load("abdomen17")
    ct, _, parts = trunk()
    ct[parts["muscle"]] = -100 + np.random.default_rng(1).normal(0, 15, parts["muscle"].sum())
    before = label_map(ct, None, SPACING, table)
    x, y, z = np.indices(SHAPE)
    distance = np.sqrt(((x - 40) * 2.0) ** 2 + ((y - 44) * 2.0) ** 2 + ((z - 10) * 2.5) ** 2)
    node = distance <= 8
    with_node = ct + np.clip((9 - distance) / 2, 0, 1) * 140  # soft tissue with a blurred rim
    naive = label_map(with_node, None, SPACING, table)
    assert (naive != before).sum() > 100
    assert np.array_equal(label_map(with_node, None, SPACING, table, nodes=node.astype(np.uint16)), before)


def test_nodes_do_not_erase_organs():
    ct, _, parts = trunk()
    table = LabelTable.load("abdomen17")
    node = np.zeros(SHAPE, np.uint16)
    node[56:60, 44:50, 8:12] = 1                          # beside the liver
    raw = np.where(parts["liver"], 5, 0)
    without = label_map(ct, raw, SPACING, table) == table.index("liver")
    assert np.array_equal(label_map(ct, raw, SPACING, table, nodes=node) == table.index("liver"), without)


def test_organ_hu_ignores_spill():
    ct, _, parts = trunk()
    table = LabelTable.load("abdomen14")
    raw = np.where(ellipse((69, 46), (9, 10)), 5, 0)
    hu = organ_hu(ct, label_map(ct, raw, SPACING, table), table)
    assert hu[table.index("liver")] == pytest.approx(110, abs=4)
    assert hu[table.index("spleen")] is None


@pytest.mark.parametrize("padding", [-2000, -3024])
def test_padding_and_metal_shadows_count_as_air(padding):
    """Where the round field of view cuts the body, and in a streak inside it, nothing else may change."""
    ct, _, _ = trunk()
    outside = ~ellipse((48, 44), (36, 36))
    streak = ellipse((66, 40), (1, 4))
    as_air, as_stored = (np.where(outside | streak, hu, ct).astype(np.float32) for hu in (-1024, padding))
    np.testing.assert_array_equal(body_mask(as_stored, SPACING), body_mask(as_air, SPACING))
    table = LabelTable.load("abdomen17")
    labels = label_map(as_air, None, SPACING, table)
    np.testing.assert_array_equal(label_map(as_stored, None, SPACING, table), labels)
    assert organ_hu(as_stored, labels, table) == organ_hu(as_air, labels, table)


def test_node_hu_is_that_of_the_core():
    """Two thirds of a small node are a rim of half fat, which must not show."""
    x, y, z = np.indices((24, 24, 24)) - 12
    distance = np.sqrt(x**2 + y**2 + z**2)
    ct = np.where(distance <= 5, 80.0, -100.0)
    ct[(distance > 3.5) & (distance <= 5)] = -10
    nodes = (distance <= 5).astype(np.uint16)
    assert (ct[nodes > 0] == 80).mean() < 0.4 and node_hu(ct, nodes) == 80 == node_hu(ct, nodes * 7)
    assert node_hu(ct, nodes * 0) is None
    ramp = np.arange(5.0).reshape(5, 1, 1)
    assert node_hu(ramp, np.ones((5, 1, 1), np.uint16)) == 3


REAL = [("ts_example_ct", "ts_example_labels", 23.8), ("crlm1004_ct", "crlm1004_coarse_anatomy", 10.4),
        ("r01142_abd_ct", "r01142_abd_coarse_anatomy", 25.0)]


@pytest.mark.parametrize("ct_name, anatomy_name, litres", REAL)
def test_real_bodies(shared_data, ct_name, anatomy_name, litres):
    """Volumes as checked by eye; the organs lie inside; the lowest rows, where the table is, stay free."""
    image = nibabel.as_closest_canonical(nibabel.load(shared_data / f"{ct_name}.nii.gz"))
    ct, spacing = np.asarray(image.dataobj), np.linalg.norm(image.affine[:3, :3], axis=0)
    raw = np.asarray(nibabel.as_closest_canonical(nibabel.load(shared_data / f"{anatomy_name}.nii.gz")).dataobj)
    mask = body_mask(ct, spacing)
    assert mask.sum() * spacing.prod() / 1e6 == pytest.approx(litres, rel=0.02)
    assert mask[raw > 0].mean() > 0.985
    assert not mask[:, 0].any()
    dense_outside = (ct > -300) & ~mask
    assert dense_outside.sum() < 0.02 * mask.sum()
    labels = label_map(ct, raw, spacing, LabelTable.load("abdomen14"))
    hu = organ_hu(ct, labels, LabelTable.load("abdomen14"))
    assert 20 < hu[6] < 140 and hu[0] < -900
