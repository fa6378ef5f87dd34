"""New nodes: in body or fat, near vessels, clear of organs and each other, on a phantom scene and on the real CTs."""
import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.conditions.placement import (
    _course,
    _Sites,
    add,
    clear_of_others,
    kept_clear,
    nearest_room,
    place,
)
from LNSynthLib.conditions.shape_prior import ShapePrior
from LNSynthLib.masks.body import label_map
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.masks.nodes import TOUCHING, axes_mm, boxes

PRIOR = ShapePrior.load()
SPACING = (2.0, 2.0, 2.5)


def abdomen(table):
    """Labels of a simple trunk (x right, y front): wall, cavity of fat, spine behind two vessels, liver, pancreas."""
    shape = (150, 110, 60)
    x, y, z = np.ogrid[: shape[0], : shape[1], : shape[2]]

    def tube(cx, cy, rx, ry):
        return np.broadcast_to(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1, shape)

    fat = table.index("fat") if "fat" in table.names else table.index("body")
    labels = np.zeros(shape, np.uint8)
    labels[tube(75, 55, 72, 50)] = fat                    # subcutaneous
    labels[tube(75, 53, 62, 40)] = table.index("body")    # wall
    labels[tube(75, 53, 58, 36)] = fat                    # cavity
    labels[tube(75, 26, 14, 12)] = table.index("bone") if "bone" in table.names else table.index("body")
    labels[tube(82, 44, 6, 6)] = table.index("inferior_vena_cava")
    labels[tube(66, 44, 5, 5)] = table.index("aorta")
    labels[tube(108, 60, 22, 24) & (z > 25)] = table.index("liver")
    labels[tube(72, 62, 22, 5) & (z > 25) & (z < 40)] = table.index("pancreas")
    return labels


@pytest.mark.parametrize("name", ["abdomen14", "abdomen17"])
def test_new_nodes_keep_clear_and_lie_where_nodes_lie(name):
    table = LabelTable.load(name)
    labels = abdomen(table)
    present = np.zeros(labels.shape, np.uint16)
    present[60:64, 60:64, 10:13] = 7
    nodes, records = add(present, labels, SPACING, table, 15, np.random.default_rng(0), PRIOR)
    placed = [r for r in records if r["placed"]]
    assert len(records) == 15 and len(placed) >= 13
    assert np.array_equal(nodes == 7, present == 7)
    assert [r["id"] for r in placed] == list(range(8, 8 + len(placed)))
    assert table.free(labels[nodes > 0]).all()
    assert ndimage.label(nodes, TOUCHING)[1] == len(placed) + 1
    vessels = np.isin(labels, [table.index("aorta"), table.index("inferior_vena_cava")])
    from_vessels = ndimage.distance_transform_edt(~vessels, sampling=SPACING)
    from_air = ndimage.distance_transform_edt(labels != 0, sampling=SPACING)
    spots = np.array([np.round(r["centroid_index"]).astype(int) for r in placed])
    for record, spot in zip(placed, spots, strict=True):
        assert from_air[tuple(spot)] > 15
        if record["station"] == "retroperitoneal":
            assert from_vessels[tuple(spot)] < 32
        assert spot[1] * SPACING[1] > 38 * SPACING[1] - 12  # never behind the vessels, where the spine is
        assert record["fat"] is None if name == "abdomen14" else record["fat"] > 0.8
    assert {r["station"] for r in placed} == {"retroperitoneal", "portal", "mesenteric"}
    json.dumps(records)


def test_records_measure_what_was_placed():
    table = LabelTable.load("abdomen17")
    nodes, records = add(np.zeros((150, 110, 60)), abdomen(table), SPACING, table, 4, np.random.default_rng(1), PRIOR)
    for record in records:
        where = nodes == record["id"]
        assert record["volume_ml"] == pytest.approx(where.sum() * 0.01)
        assert np.allclose(record["centroid_index"], np.argwhere(where).mean(0))
        box = boxes(nodes)[record["id"]]
        assert record["short_axis_mm"] == pytest.approx(axes_mm(where[box], np.diag(SPACING))[1])


def test_size_as_asked_and_seeded():
    table = LabelTable.load("abdomen17")
    labels, none = abdomen(table), np.zeros((150, 110, 60), np.uint16)
    first, records = add(none, labels, SPACING, table, 3, np.random.default_rng(5), PRIOR, short_axis_mm=12.0)
    again, _ = add(none, labels, SPACING, table, 3, np.random.default_rng(5), PRIOR, short_axis_mm=12.0)
    other, _ = add(none, labels, SPACING, table, 3, np.random.default_rng(6), PRIOR, short_axis_mm=12.0)
    assert np.array_equal(first, again) and not np.array_equal(first, other) and not none.any()
    assert [r["short_axis_mm"] for r in records] == pytest.approx([12.0] * 3, abs=2.0)


def test_no_room_is_recorded_and_changes_nothing():
    table = LabelTable.load("abdomen14")
    labels = np.full((40, 40, 20), table.index("liver"), np.uint8)
    labels[20, 20, 10] = table.index("body")
    nodes, records = add(np.zeros(labels.shape, np.uint16), labels, SPACING, table, 2, np.random.default_rng(0), PRIOR)
    assert not nodes.any()
    assert [r["placed"] for r in records] == [False, False] and "no room" in records[0]["reason"]


def test_a_volume_without_vessels_takes_nodes_anywhere_deep():
    table = LabelTable.load("abdomen14")
    labels = np.full((60, 60, 40), table.index("body"), np.uint8)
    nodes, records = add(np.zeros(labels.shape, np.uint16), labels, SPACING, table, 2, np.random.default_rng(0), PRIOR)
    assert [r["station"] for r in records] == ["anywhere"] * 2 and nodes.max() == 2


def test_clear_of_others_counts_corners_and_copes_with_the_border():
    nodes = np.zeros((6, 6, 6), np.uint16)
    nodes[3, 3, 3] = 1
    cube = np.ones((2, 2, 2), bool)
    assert clear_of_others(cube, (0, 0, 0), nodes)
    assert not clear_of_others(cube, (1, 1, 1), nodes)      # shares a corner
    assert not clear_of_others(cube, (4, 4, 4), nodes)
    assert clear_of_others(np.ones((1, 1, 1), bool), (5, 5, 5), nodes)
    hollow = cube.copy()
    hollow[1, 1, 1] = False
    assert clear_of_others(hollow, (1, 1, 1), nodes)


@pytest.mark.parametrize("ct_name, anatomy_name", [("ts_example_ct", "ts_example_labels"),
                                                   ("r01142_abd_ct", "r01142_abd_coarse_anatomy")])
def test_real_abdomens_have_room_in_fat(shared_data, ct_name, anatomy_name):
    table = LabelTable.load("abdomen17")
    image = nibabel.as_closest_canonical(nibabel.load(shared_data / f"{ct_name}.nii.gz"))
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    raw = np.asarray(nibabel.as_closest_canonical(nibabel.load(shared_data / f"{anatomy_name}.nii.gz")).dataobj)
    labels = label_map(np.asarray(image.dataobj), raw, spacing, table)
    nodes, records = add(np.zeros(labels.shape), labels, spacing, table, 10, np.random.default_rng(0), PRIOR)
    assert all(r["placed"] for r in records)
    assert np.median([r["fat"] for r in records]) > 0.8
    assert table.free(labels[nodes > 0]).all() and ndimage.label(nodes, TOUCHING)[1] == 10


def test_a_node_goes_to_the_point_or_gives_way_a_little_or_is_refused():
    table = LabelTable.load("abdomen17")
    labels = np.full((60, 60, 40), table.index("fat"), np.uint8)
    labels[30:] = table.index("liver")
    nodes = np.zeros(labels.shape, np.uint16)
    spacing, rng = (1.0, 1.0, 1.5), np.random.default_rng(3)

    def spot(point, **more):
        placed = place(point, nodes, labels, spacing, table, rng, PRIOR, short_axis_mm=9.0, **more)
        if placed is None:
            return None
        mask, start, moved = placed
        box = tuple(slice(s, s + n) for s, n in zip(start, mask.shape, strict=True))
        assert table.free(labels[box][mask]).all() and clear_of_others(mask, start, nodes)
        assert axes_mm(mask, np.diag(spacing))[1] == pytest.approx(9, abs=1.5)
        centre = (start + (np.array(mask.shape) - 1) / 2 - point) * spacing
        assert np.linalg.norm(centre) == pytest.approx(moved, abs=1.3)
        return moved

    assert spot((15, 30, 20)) == 0
    assert 0 < spot((25, 30, 20)) <= 5
    assert spot((45, 30, 20)) is None and spot((1, 1, 1), reach_mm=2.0) is None
    nodes[14:17, 29:32, 19:22] = 4
    assert spot((15, 30, 20), reach_mm=3.0) is None and spot((15, 30, 20), reach_mm=20.0) > 5


def test_on_a_coarse_grid_a_node_that_fits_nowhere_is_no_error():
    """Smaller and smaller ones are tried, down to what the grid cannot hold."""
    table = LabelTable.load("abdomen17")
    labels = np.full((30, 30, 30), table.index("liver"), np.uint8)
    labels[14:16, 14:16, 14:16] = table.index("fat")
    nodes = np.zeros(labels.shape, np.uint16)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert place((15, 15, 15), nodes, labels, (4, 4, 4), table, rng, PRIOR) is None
        assert not add(nodes, labels, (4, 4, 4), table, 1, rng, PRIOR)[1][0]["placed"]


def test_without_a_size_a_smaller_node_is_taken_where_room_is_little():
    table = LabelTable.load("abdomen17")
    labels = np.full((60, 60, 40), table.index("liver"), np.uint8)
    labels[24:36, 24:36, 16:24] = table.index("fat")
    nodes = np.zeros(labels.shape, np.uint16)
    found = [place((30, 30, 20), nodes, labels, (1.0, 1.0, 1.5), table, np.random.default_rng(s), PRIOR)
             for s in range(8)]
    assert sum(f is not None for f in found) >= 4
    assert all(f[0].sum() * 1.5 < 12 * 12 * 12 for f in found if f is not None)


def test_every_place_that_is_weighed_keeps_the_limits_of_its_station():
    """Limits in mm as the module's first lines give them, within one voxel of the coarse grid (4 mm)."""
    table, mm, near = LabelTable.load("abdomen14"), np.array(SPACING), 4.0
    labels = abdomen(table)

    def of(*names):
        return np.isin(labels, [table.index(name) for name in names])

    def distances(mask, places):
        return ndimage.distance_transform_edt(~mask, sampling=mm)[tuple(places.T)]

    sites, vessels = _Sites(labels, mm, table), of("aorta", "inferior_vena_cava")
    assert set(sites.places) == {"retroperitoneal", "portal", "mesenteric"}
    y_of, z_of = (np.flatnonzero(vessels.any((0, 2))) * 2.0, np.flatnonzero(of("pancreas").any((0, 1))) * 2.5)
    front = np.flatnonzero(of("liver", "pancreas").any((0, 2)))[-1] * 2.0
    for places in sites.places.values():
        x, y, z = (places * mm).T
        assert table.free(labels[tuple(places.T)]).all()
        assert y.max() <= front - 10 + near and y.min() >= y_of[0] - 5 - near
        assert z.max() <= z_of[-1] + 20 + near
    assert (sites.places["retroperitoneal"] * mm)[:, 2].max() > z_of[-1] + 10  # the limit is what ends them
    x, y, z = (sites.places["mesenteric"] * mm).T
    assert y_of[-1] + 10 - near <= y.min() and front - 10 - near < y.max() <= y_of[-1] + 80 + near
    assert 60 < np.abs(x - np.argwhere(vessels).mean(0)[0] * 2.0).max() <= 70 + near and z.max() <= z_of[-1] + near
    for station, mask, most in (("retroperitoneal", vessels, 25),
                                ("portal", of("portal_vein_and_splenic_vein", "pancreas"), 20)):
        apart, weight = distances(mask, sites.places[station]), sites.weights[station]
        assert most - near < apart.max() <= most + near
        assert np.corrcoef(np.log(weight), -apart / 10)[0, 1] > 0.95  # weights fall by e in 10 mm
    body = np.full((60, 60, 40), table.index("body"), np.uint8)
    body[:3], body[-3:] = 0, 0
    x = (_Sites(body, mm, table).places["anywhere"] * mm)[:, 0]
    assert 6 + 20 - near < x.min() and x.max() < 114 - 20 + near


def without_organs(table):
    """`abdomen` with its vessels alone: neither liver nor pancreas says where the front is."""
    labels = abdomen(table)
    labels[np.isin(labels, [table.index("liver"), table.index("pancreas")])] = (
        table.index("fat") if "fat" in table.names else table.index("body"))
    return labels


def test_the_wall_and_80_mm_before_the_vessels_end_the_mesenteric_places():
    table, mm = LabelTable.load("abdomen17"), np.array(SPACING)
    x, y, _ = (_Sites(without_organs(table), mm, table).places["mesenteric"] * mm).T
    wall = 2 * (53 + 40 * np.sqrt(1 - ((x / 2 - 75) / 62) ** 2))
    assert -12 < (y - wall).max() <= -5 + 4
    table = LabelTable.load("abdomen14")  # knows no fat, so no wall either
    y = (_Sites(without_organs(table), mm, table).places["mesenteric"] * mm)[:, 1]
    assert 100 + 80 - 4 <= y.max() <= 100 + 80 + 4  # the vessels end at 100 mm


def test_places_have_room_for_most_of_a_node_and_rather_lie_in_fat():
    """Of equal places that with fat all around is 1.002 to 0.127 as likely as one with fat to half the radius."""
    table, mm, radius = LabelTable.load("abdomen17"), np.array([3.0, 3.0, 3.0]), 12.0
    labels = np.full((60, 50, 40), table.index("body"), np.uint8)
    labels[30:, :40] = table.index("fat")  # behind a wall of body
    labels[:, :, 35:] = table.index("liver")
    sites = _Sites(np.pad(labels, 8), mm, table)
    assert list(sites.places) == ["anywhere"]
    rng = np.random.default_rng(0)
    drawn = np.concatenate([sites.draw(rng, "anywhere", radius) for _ in range(400)])
    organ = np.pad(labels, 8) == table.index("liver")
    room = ndimage.distance_transform_edt(~organ & (np.pad(labels, 8) > 0), sampling=mm)
    assert 0.8 * radius <= room[tuple(drawn.astype(int).T)].min() < 0.8 * radius + 3.1
    fat, where = sites.fat_room["anywhere"], sites.room["anywhere"] >= 0.8 * radius
    index = {tuple(place): n for n, place in enumerate(sites.places["anywhere"])}
    count = np.bincount([index[tuple(place)] for place in drawn.astype(int)], minlength=len(fat))
    per_place = {how: count[where & at].mean() for how, at in (
        ("all", fat >= radius), ("half", fat == radius / 2), ("none", fat == 0))}
    assert per_place["half"] / per_place["all"] == pytest.approx(0.127 / 1.002, rel=0.2)
    assert per_place["none"] / per_place["all"] < 0.01


def test_stations_are_drawn_by_their_shares():
    asked = []

    class Watched:  # a generator that writes down what it chooses stations from
        def __init__(self):
            self.rng = np.random.default_rng(1)

        def __getattr__(self, name):
            return getattr(self.rng, name)

        def choice(self, values, *how, p=None):
            if isinstance(values, list):
                asked.append(dict(zip(values, p, strict=True)))
            return self.rng.choice(values, *how, p=p)

    table = LabelTable.load("abdomen17")
    labels = abdomen(table)
    add(np.zeros(labels.shape, np.uint16), labels, SPACING, table, 2, Watched(), PRIOR, 8.0)
    assert asked == [{"retroperitoneal": pytest.approx(0.40), "portal": pytest.approx(0.25),
                      "mesenteric": pytest.approx(0.35)}] * 2


def test_a_node_gives_way_by_no_more_than_it_may_in_any_direction():
    table = LabelTable.load("abdomen17")
    labels = np.full((20, 20, 20), table.index("liver"), np.uint8)
    labels[12:14, 12:14, 8:10] = table.index("fat")  # 4 mm to the right and 4 mm to the front: 5.7 mm away
    nodes, node, mm = np.zeros(labels.shape, np.uint16), np.ones((2, 2, 2), bool), np.ones(3)
    assert nearest_room(node, (8, 8, 8), nodes, labels, mm, table, 5.0) is None
    start, moved = nearest_room(node, (8, 8, 8), nodes, labels, mm, table, 6.0)
    assert start.tolist() == [12, 12, 8] and moved == pytest.approx(32**0.5)
    labels[6:8, 8:10, 8:10] = table.index("fat")  # nearer
    assert nearest_room(node, (8, 8, 8), nodes, labels, mm, table, 6.0)[1] == 2


def test_skin_is_no_wall():
    """Seen from the front: skin, fat, a wall at 30 voxels, fat; new nodes stay 5 mm behind the wall."""
    table, mm = LabelTable.load("abdomen17"), np.full(3, 3.0)
    labels = np.full((50, 60, 30), table.index("fat"), np.uint8)
    labels[:, 59], labels[:, 30] = table.index("body"), table.index("body")
    y = _Sites(np.pad(labels, 1), mm, table).places["anywhere"][:, 1] * 3.0
    assert 31 * 3 - 5 - 3 < y.max() <= 31 * 3 - 5


def test_places_lie_anywhere_between_the_points_of_the_coarse_grid():
    table = LabelTable.load("abdomen14")
    sites = _Sites(np.pad(np.full((70, 70, 50), table.index("body"), np.uint8), 2), np.array([1, 1, 1.5]), table)
    drawn = np.concatenate([sites.draw(np.random.default_rng(seed), "anywhere", 4.0) for seed in range(20)])
    assert [sorted(set(axis)) for axis in (drawn % (3, 3, 2)).T.astype(int)] == [[0, 1, 2], [0, 1, 2], [0, 1]]


def test_slices_without_vessels_have_the_course_of_the_nearest():
    vessels = np.zeros((9, 9, 8), bool)
    vessels[2:5, 3:6, 2], vessels[5:8, 1:3, 6] = True, True
    front, back, middle = (found.ravel().tolist() for found in _course(vessels, np.array([1.0, 2.0, 3.0])))
    assert front == [10.0] * 5 + [4.0] * 3 and back == [6.0] * 5 + [2.0] * 3 and middle == [3.0] * 5 + [6.0] * 3


def test_structures_are_kept_clear_under_fat_too():
    table = LabelTable.load("abdomen17")
    labels, raw = np.full((3, 3, 3), table.index("fat"), np.uint8), np.zeros((3, 3, 3), np.uint8)
    raw[0], raw[1, 0] = 5, 80  # liver; autochthonous muscle, which the table does not tell apart
    kept = kept_clear(labels, raw, table)
    assert (kept[0] == table.index("liver")).all() and (kept[1, 0] == table.index("bone")).all()
    assert (kept[1, 1:] == labels[1, 1:]).all() and (kept[2] == labels[2]).all()


def test_what_touches_the_last_place_within_reach_blocks_it():
    table = LabelTable.load("abdomen17")
    labels = np.full((12, 12, 12), table.index("liver"), np.uint8)
    labels[4:6, 6:8, 6:8] = table.index("fat")
    nodes, node, mm = np.zeros(labels.shape, np.uint16), np.ones((2, 2, 2), bool), np.full(3, 2.0)
    assert nearest_room(node, np.array([6, 6, 6]), nodes, labels, mm, table, 4.0)[0].tolist() == [4, 6, 6]
    nodes[3, 6, 6] = 1
    assert nearest_room(node, np.array([6, 6, 6]), nodes, labels, mm, table, 4.0) is None
