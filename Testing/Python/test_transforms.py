"""Changes of nodes: against analytic ellipsoids, and 10,000 random draws without one overlap."""
import json

import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.cases.labels import LabelTable
from LNSynthLib.conditions.nodes import TOUCHING, boxes
from LNSynthLib.conditions.transforms import VarySettings, deform, replay, signed_distance, vary, vary_one

TABLE = LabelTable.load("abdomen17")
SPACING = np.array([0.9, 0.9, 1.4])


def ellipsoid(shape, spacing, center, radii, matrix=None):
    """True inside the image of an ellipsoid (radii mm about center mm) under a 3x3 map about its center."""
    points = np.indices(shape).reshape(3, -1) * np.array(spacing)[:, None] - np.array(center, float)[:, None]
    local = np.linalg.inv(np.eye(3) if matrix is None else matrix) @ points / np.array(radii, float)[:, None]
    return ((local ** 2).sum(0) <= 1).reshape(shape)


def turn(degrees, axis):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [a for a in range(3) if a != axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def whole(mask, parameters, shape, spacing=SPACING):
    """`deform` on the mask of a volume, back in that volume."""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    changed, start = deform(mask[box], [s.start for s in box], spacing, parameters)
    result = np.zeros(shape, bool)
    result[tuple(slice(s, s + n) for s, n in zip(start, changed.shape, strict=True))] = changed
    return result


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


SHAPE, CENTER, RADII = (60, 60, 40), (27.0, 26.1, 28.0), (10.0, 6.0, 8.0)
STILL = {"kind": "affine", "matrix": np.eye(3).tolist(), "translation_mm": [0, 0, 0]}


def test_identities_change_nothing():
    mask = ellipsoid(SHAPE, SPACING, CENTER, RADII)
    assert np.array_equal(whole(mask, STILL, SHAPE), mask)
    assert np.array_equal(whole(mask, {"kind": "elastic", "seed": 5, "amplitude": 0.0}, SHAPE), mask)


def test_whole_voxel_translation_is_exact():
    mask = ellipsoid(SHAPE, SPACING, CENTER, RADII)
    moved = whole(mask, {**STILL, "translation_mm": (SPACING * [3, -2, 4]).tolist()}, SHAPE)
    assert np.array_equal(moved, np.roll(mask, (3, -2, 4), (0, 1, 2)))


def test_translation_by_millimetres():
    mask = ellipsoid(SHAPE, SPACING, CENTER, RADII)
    moved = whole(mask, {**STILL, "translation_mm": [2.5, -1.7, 3.1]}, SHAPE)
    assert dice(moved, ellipsoid(SHAPE, SPACING, np.add(CENTER, [2.5, -1.7, 3.1]), RADII)) > 0.95


@pytest.mark.parametrize("matrix", [turn(30, 2), turn(25, 0), turn(-40, 1) @ turn(20, 2), np.diag([1.25, 0.8, 1.1]),
                                    turn(20, 2) @ np.array([[1, 0.1, 0.05], [0, 1, -0.1], [0, 0, 1]])])
def test_affine_maps_of_an_ellipsoid(matrix):
    """Rotations, scalings and shears act in millimetres about the node's centre, whatever the spacing."""
    mask = ellipsoid(SHAPE, SPACING, CENTER, RADII)
    changed = whole(mask, {**STILL, "matrix": matrix.tolist()}, SHAPE)
    assert dice(changed, ellipsoid(SHAPE, SPACING, CENTER, RADII, matrix)) > 0.94
    assert changed.sum() / mask.sum() == pytest.approx(np.linalg.det(matrix), rel=0.06)


def test_elastic_changes_shape_more_with_amplitude():
    mask = ellipsoid(SHAPE, SPACING, CENTER, RADII)
    likeness = [np.mean([dice(mask, whole(mask, {"kind": "elastic", "seed": s, "amplitude": a}, SHAPE))
                         for s in range(10)]) for a in (0.05, 0.15, 0.3)]
    assert 0.99 > likeness[0] > likeness[1] > likeness[2] > 0.5
    pieces = [ndimage.label(whole(mask, {"kind": "elastic", "seed": s, "amplitude": 0.3}, SHAPE), TOUCHING)[1]
              for s in range(10)]
    assert pieces == [1] * 10


def scene(rng, shape=(34, 34, 26)):
    """A crowded little abdomen: body with an organ, bone and gas, and three nodes clear of them and of each other."""
    labels = np.zeros(shape, np.uint8)
    labels[2:-2, 2:-2, 1:-1] = TABLE.index("fat")
    labels[2:-2, 2:-2, 1:9] = TABLE.index("body")
    labels[:, :, :][ellipsoid(shape, (1, 1, 1), (8, 8, 13), (6, 6, 9))] = TABLE.index("liver")
    labels[ellipsoid(shape, (1, 1, 1), (27, 8, 13), (4, 4, 30)) & (labels > 0)] = TABLE.index("aorta")
    labels[16:19, 4:8, 1:-1] = TABLE.index("bone")
    labels[4:8, 26:30, 5:9] = TABLE.index("gas")
    nodes = np.zeros(shape, np.uint16)
    for index, center in enumerate(((17, 15, 8), (24, 24, 17), (11, 24, 16)), 1):
        radii = rng.uniform(2.2, 4.5, 3)
        nodes[ellipsoid(shape, (1, 1, 1), center, radii) & TABLE.free(labels)] = index
    return labels, nodes


def test_ten_thousand_draws_and_no_overlap():
    """10,000 changes of single nodes: none covers an organ, bone, gas or air, none touches another node."""
    rng, settings = np.random.default_rng(0), VarySettings(tries=4)
    draws, operations = 0, {}
    while draws < 10_000:
        labels, nodes = scene(rng)
        free = TABLE.free(labels)
        for _ in range(40):
            changed, records = vary(nodes, labels, (1, 1, 1), rng, settings, TABLE)
            assert not (changed[~free] > 0).any()
            places = boxes(changed)
            removed = [r["id"] for r in records if r["operation"] == "removed"]
            assert sorted([*places, *removed]) == [1, 2, 3]
            # Apart by at least a voxel: as many pieces (26 neighbours) as nodes.
            assert ndimage.label(changed, TOUCHING)[1] == len(places)
            for record in records:
                operations[record["operation"]] = operations.get(record["operation"], 0) + 1
                draws += record["operation"] != "removed"
    assert operations["affine"] > 2000 and operations["elastic"] > 2000 and operations["removed"] > 200
    assert operations["unchanged"] < 0.3 * draws


def test_anatomy_and_input_stay_and_the_seed_decides():
    labels, nodes = scene(np.random.default_rng(1))
    before = labels.copy(), nodes.copy()
    first, records = vary(nodes, labels, (1, 1, 1), np.random.default_rng(7), VarySettings(), TABLE)
    again, same = vary(nodes, labels, (1, 1, 1), np.random.default_rng(7), VarySettings(), TABLE)
    other, _ = vary(nodes, labels, (1, 1, 1), np.random.default_rng(8), VarySettings(), TABLE)
    assert np.array_equal(labels, before[0]) and np.array_equal(nodes, before[1])
    assert np.array_equal(first, again) and records == same
    assert not np.array_equal(first, other) and not np.array_equal(first, nodes)


def test_records_are_json_and_replay():
    rng = np.random.default_rng(2)
    for seed in range(30):
        labels, nodes = scene(rng)
        changed, records = vary(nodes, labels, (1, 1, 1), np.random.default_rng(seed), VarySettings(remove=0.5), TABLE)
        assert np.array_equal(replay(nodes, (1, 1, 1), json.loads(json.dumps(records))), changed)


@pytest.mark.parametrize("kind, share", [("affine", 0.0), ("elastic", 1.0)])
def test_one_node_alone_changes_as_asked_and_as_vary_would(kind, share):
    labels, nodes = scene(np.random.default_rng(4))
    settings = VarySettings(remove=0.0, elastic=share)
    alone = np.where(nodes == 2, nodes, 0)
    (box,) = ndimage.find_objects((alone > 0).astype(np.uint8))
    for seed in range(10):
        expected, (record,) = vary(alone, labels, SPACING, np.random.default_rng(seed), settings, TABLE)
        changed, start, found = vary_one(alone[box] > 0, [s.start for s in box], np.zeros_like(nodes), labels, SPACING,
                                         np.random.default_rng(seed), settings, TABLE)
        assert found["operation"] in (kind, "unchanged") and {"id": 2, **found} == record
        result = np.zeros(nodes.shape, bool)
        result[tuple(slice(s, s + n) for s, n in zip(start, changed.shape, strict=True))] = changed
        assert np.array_equal(result, expected == 2)


def test_a_known_distance_field_changes_nothing():
    mask = ellipsoid(SHAPE, SPACING, CENTER, RADII)
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    parameters = {"kind": "affine", "matrix": turn(20, 0).tolist(), "translation_mm": [1, 2, 3]}
    one, start = deform(mask[box], (0, 0, 0), SPACING, parameters)
    other, at = deform(mask[box], (0, 0, 0), SPACING, parameters, signed_distance(mask[box], SPACING))
    assert np.array_equal(one, other) and np.array_equal(start, at)


def test_a_node_without_room_stays_and_says_so():
    labels = np.full((20, 20, 20), TABLE.index("liver"), np.uint8)
    nodes = np.zeros(labels.shape, np.uint16)
    nodes[8:12, 8:12, 8:12] = 1
    labels[nodes > 0] = TABLE.index("fat")
    settings = VarySettings(tries=5, elastic=0.0, scale=1.2, translation_mm=8)
    labels[8, 8, 8] = TABLE.index("liver")  # even where it was it would now cover an organ
    changed, (record,) = vary(nodes, labels, (1, 1, 1), np.random.default_rng(0), settings, TABLE)
    assert np.array_equal(changed, nodes)
    assert record["operation"] == "unchanged" and record["tries"] == 5 and "organ" in record["reason"]


def test_only_one_of_several_is_removed_and_never_the_last():
    labels, nodes = scene(np.random.default_rng(3))
    settings = VarySettings(remove=1.0)
    counts = [len(boxes(vary(nodes, labels, (1, 1, 1), np.random.default_rng(s), settings, TABLE)[0]))
              for s in range(20)]
    assert counts == [2] * 20
    alone = np.where(nodes == 2, nodes, 0)
    assert len(boxes(vary(alone, labels, (1, 1, 1), np.random.default_rng(0), settings, TABLE)[0])) == 1


def test_the_work_is_in_proportion_to_the_node():
    """A node in a volume of 8 million voxels changes by touching its surroundings only."""
    import time
    labels = np.full((200, 200, 200), TABLE.index("fat"), np.uint8)
    nodes = np.zeros(labels.shape, np.uint16)
    nodes[90:98, 90:98, 90:98] = 1
    box = nodes[80:110, 80:110, 80:110].copy()
    times = []
    for n, volume in ((labels[80:110, 80:110, 80:110].copy(), box), (labels, nodes)):
        began = time.perf_counter()
        for seed in range(5):
            result, _ = vary(volume, n, (1, 1, 1), np.random.default_rng(seed), VarySettings(), TABLE)
        times.append(time.perf_counter() - began)
    assert np.array_equal(result[80:110, 80:110, 80:110],
                          vary(box, n[80:110, 80:110, 80:110], (1, 1, 1), np.random.default_rng(4), VarySettings(),
                               TABLE)[0])
    assert times[1] < times[0] + 5 * 0.5  # copying and finding 8 million voxels, no dense distance transform
