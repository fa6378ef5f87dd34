"""Changes of nodes: against analytic ellipsoids, and 10,000 random draws without one overlap; replay."""
import json
from dataclasses import replace

import numpy as np
import pytest
from made_nodes import TABLE, ellipsoid, free_space
from scipy import linalg, ndimage
from scipy.interpolate import BSpline

from LNSynthLib.conditions import transforms
from LNSynthLib.conditions.transforms import CONTROL, VarySettings, _affine, _spline, deform, replay, vary, vary_one
from LNSynthLib.masks.nodes import TOUCHING, boxes
from LNSynthLib.masks.shapes import fullest, signed_distance
from LNSynthLib.runtime.errors import LNSynthError

SPACING = np.array([0.9, 0.9, 1.4])


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


def test_older_changes_are_not_replayed_as_other_shapes():
    """What version 1 wrote names no version; version 2 drew otherwise, but made the same shapes of what it drew."""
    labels, nodes = scene(np.random.default_rng(1))
    changed, records = vary(nodes, labels, (1, 1, 1), np.random.default_rng(7), VarySettings(), TABLE)
    written = {**VarySettings().record(), "version": 2}
    assert np.array_equal(replay(nodes, (1, 1, 1), records, written), changed)
    del written["version"]
    with pytest.raises(LNSynthError, match="version 1.*nodes.nii.gz"):
        replay(nodes, (1, 1, 1), records, written)


def test_records_are_json_and_replay():
    rng = np.random.default_rng(2)
    settings, operations = VarySettings(remove=0.5), set()
    for seed in range(24):
        labels, nodes = scene(rng)
        if seed % 3 == 0:  # one without room stays
            labels[nodes == 0] = TABLE.index("liver")
        changed, records = vary(nodes, labels, (1, 1, 1), np.random.default_rng(seed), settings, TABLE)
        assert [r["id"] for r in records] == [1, 2, 3]
        operations |= {r["operation"] for r in records}
        stored = json.loads(json.dumps({"nodes": records, "vary": settings.record()}))
        assert np.array_equal(replay(nodes, (1, 1, 1), stored["nodes"], stored["vary"]), changed)
    assert operations == {"affine", "elastic", "removed", "unchanged"}


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


def walled(free=()):
    """A cube of 64 voxels (node 1) in liver, with fat under it and in the boxes `free`."""
    labels = np.full((30, 20, 20), TABLE.index("liver"), np.uint8)
    nodes = np.zeros(labels.shape, np.uint16)
    nodes[8:12, 8:12, 8:12] = 1
    for box in (np.s_[8:12, 8:12, 8:12], *free):
        labels[box] = TABLE.index("fat")
    return labels, nodes


TIGHT = VarySettings(tries=5, elastic=0.0, rotation_deg=40, scale=1.2, translation_mm=8)


def test_a_node_without_room_stays_and_says_so():
    labels, nodes = walled()
    changed, (record,) = vary(nodes, labels, (1, 1, 1), np.random.default_rng(0), TIGHT, TABLE)
    assert np.array_equal(changed, nodes)
    assert record["operation"] == "unchanged" and record["tries"] == 5 and "organ" in record["reason"]


def test_a_node_that_covers_an_organ_from_the_start_moves_to_the_nearest_room():
    labels, nodes = walled([np.s_[14:18, 8:12, 8:12], np.s_[8:12, 0:4, 8:12]])  # 6 and 8 mm away
    labels[8, 8, 8] = TABLE.index("liver")
    changed, (record,) = vary(nodes, labels, (1, 1, 1), np.random.default_rng(0), TIGHT, TABLE)
    assert record["operation"] == "moved" and "covered an organ" in record["reason"]
    assert record["parameters"]["translation_mm"] == [6, 0, 0] and np.array_equal(changed, np.roll(nodes, 6, 0))
    assert np.array_equal(replay(nodes, (1, 1, 1), json.loads(json.dumps([record])), TIGHT.record()), changed)
    nodes[18, 12, 12] = 2  # touches the first room, so that the second is the nearest
    changed, records = vary(nodes, labels, (1, 1, 1), np.random.default_rng(0), replace(TIGHT, remove=0.0), TABLE)
    assert np.array_equal(changed == 1, np.roll(nodes == 1, -8, 1)) and records[0]["operation"] == "moved"


def test_a_node_that_covers_an_organ_and_finds_no_room_is_removed_and_says_so():
    labels, nodes = walled([np.s_[18:22, 8:12, 8:12]])  # 10 mm away: too far
    labels[8, 8, 8] = TABLE.index("liver")
    changed, (record,) = vary(nodes, labels, (1, 1, 1), np.random.default_rng(0), TIGHT, TABLE)
    assert not changed.any() and record["operation"] == "removed"
    assert "covered an organ" in record["reason"] and "within 8 mm" in record["reason"]
    assert not replay(nodes, (1, 1, 1), [record], TIGHT.record()).any()


def test_the_spline_gives_unit_variance_and_is_a_cubic_b_spline():
    for n in (4, 7, 31):
        weights = _spline(n)
        assert np.allclose((weights**2).sum(1), 1)
        at = np.linspace(0, CONTROL - 1, n)
        basis = np.stack([BSpline.basis_element(np.arange(k - 2, k + 3), extrapolate=False)(at)
                          for k in range(CONTROL)], 1)
        basis = np.nan_to_num(basis)
        assert np.allclose(weights, basis / np.linalg.norm(basis, axis=1, keepdims=True))


def test_elastic_changes_are_not_cut_by_the_grid_they_are_drawn_on(monkeypatch):
    """The surface reaches the outer faces of that grid in a few of a hundred draws."""
    mask, fields = ellipsoid((16, 16, 16), (1, 1, 1), (8, 8, 8), (6, 6, 6)), []
    monkeypatch.setattr(transforms, "fullest", lambda field, count: (fields.append(field), fullest(field, count))[1])
    for seed in range(100):
        deform(mask, (0, 0, 0), (1, 1, 1), {"kind": "elastic", "seed": seed, "amplitude": 0.15})
    cut = [max(field.take(side, axis).max() for axis in range(3) for side in (0, -1)) > 0 for field in fields]
    assert len(cut) == 100 and np.mean(cut) < 0.05


def drawn(settings, count=4000, **more):
    """(count, 3, 3) matrices and (count, 3) translations that `vary_one` draws, with nothing in the way."""
    mask = np.ones((3, 3, 3), bool)
    place, rng, found = free_space(mask, (1, 1, 1), 30), np.random.default_rng(11), []
    for _ in range(count):
        record = vary_one(mask, *place, (1, 1, 1), rng, replace(settings, elastic=0.0, **more), TABLE)[2]
        found.append(record["parameters"])
    return np.array([p["matrix"] for p in found]), np.array([p["translation_mm"] for p in found])


def test_affine_draws_are_uniform_in_angle_log_scale_shear_and_translation():
    """Each part alone, from its own formula; together, the logarithm of the determinant has mean 0."""
    none = {"rotation_deg": 0.0, "scale": 1.0, "shear": 0.0, "translation_mm": 8.0}
    whole = VarySettings(volume_factor=8.0)

    def uniform(values, most):
        values = np.ravel(values)
        assert np.abs(values).max() <= most * (1 + 1e-9)
        assert values.std() == pytest.approx(most / np.sqrt(3), rel=0.06) and abs(values.mean()) < 0.08 * most

    matrices, moves = drawn(whole, 600, **none)
    assert np.allclose(matrices, np.eye(3))
    uniform(moves, 8.0)
    for axis in range(3):
        uniform(moves[:, axis], 8.0)
    matrices, _ = drawn(whole, 600, **none | {"scale": 1.25})
    assert np.allclose(matrices, matrices * np.eye(3))
    for axis in range(3):
        uniform(np.log(matrices[:, axis, axis]), np.log(1.25))
    matrices, _ = drawn(whole, 600, **none | {"shear": 0.1})
    assert np.allclose(np.tril(matrices), np.eye(3))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        uniform(matrices[:, i, j], 0.1)
    matrices, _ = drawn(whole, 600, **none | {"rotation_deg": 30.0})
    assert np.allclose(matrices @ matrices.transpose(0, 2, 1), np.eye(3)) and (np.linalg.det(matrices) > 0).all()
    # R = Rz Ry Rx, whose angles can be read from its entries.
    uniform(np.degrees(np.arctan2(matrices[:, 2, 1], matrices[:, 2, 2])), 30)
    uniform(np.degrees(np.arcsin(matrices[:, 2, 0])), 30)
    uniform(np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])), 30)
    logs = np.log(np.linalg.det(drawn(VarySettings(), 1500)[0]))
    assert abs(logs.mean()) < 3 * np.log(1.25) / np.sqrt(1500) and logs.std() == pytest.approx(np.log(1.25), rel=0.1)


class _RefusesFirst:
    """A label table that lets nodes lie anywhere, from the (n + 1)th question on."""

    def __init__(self, n):
        self.left = n

    def free(self, labels):
        self.left -= 1
        return np.full(labels.shape, self.left < 0)


def test_every_refused_try_makes_the_next_one_calmer():
    mask, found = ellipsoid((24, 24, 24), (1, 1, 1), (12, 12, 12), (9, 6, 7)), []
    place, nodes, labels = free_space(mask, (1, 1, 1))
    for refused in range(6):
        record = vary_one(mask, place, nodes, labels, (1, 1, 1), np.random.default_rng(refused),
                          VarySettings(elastic=1.0, elastic_amplitude=0.2), _RefusesFirst(refused))[2]
        assert (record["operation"], record["tries"]) == ("elastic", refused + 1)
        found.append(record["parameters"]["amplitude"])
    assert np.allclose(found, 0.2 * 0.85 ** np.arange(6))


@pytest.mark.parametrize("alone", ["rotation_deg", "scale", "shear", "translation_mm"])
def test_a_calmer_draw_is_the_same_draw_made_smaller(alone):
    """Of one seed, each part of an affine change is in proportion to the strength (scale: in its logarithm)."""
    still = {"rotation_deg": 0.0, "scale": 1.0, "shear": 0.0, "translation_mm": 0.0}
    settings = replace(VarySettings(), **still | {alone: getattr(VarySettings(), alone)})
    full, calm = (_affine(np.random.default_rng(3), settings, strength, 99)[0] for strength in (1.0, 0.4))
    one, other = (linalg.logm(p["matrix"]).real if alone == "scale" else np.array(p["matrix"]) - np.eye(3)
                  for p in (full, calm))
    if alone == "rotation_deg":  # its angles: see the test above
        one, other = (np.arcsin(np.array(p["matrix"])[2, 0]) for p in (full, calm))
    assert np.allclose(other, 0.4 * one) and np.allclose(calm["translation_mm"],
                                                         0.4 * np.array(full["translation_mm"]))
    assert np.any(one != 0) == (alone != "translation_mm")


def test_what_does_not_change_a_voxel_is_no_change():
    """A record says that a node has changed exactly where it has, down to nodes of one voxel."""
    settings, kinds = VarySettings(remove=0.0, translation_mm=1.2, tries=3), set()
    for voxels in (np.s_[10:11, 10:11, 10:11], np.s_[10:12, 10:11, 10:11], np.s_[10:12, 10:12, 10:12]):
        nodes = np.zeros((21, 21, 21), np.uint16)
        nodes[voxels] = 1
        labels = np.full(nodes.shape, TABLE.index("fat"), np.uint8)
        for seed in range(40):
            changed, (record,) = vary(nodes, labels, (1, 1, 1), np.random.default_rng(seed), settings, TABLE)
            assert (record["operation"] == "unchanged") == np.array_equal(changed, nodes)
            if record["operation"] == "unchanged":
                assert "less than a voxel" in record["reason"]
            kinds.add(record["operation"])
    assert kinds == {"affine", "elastic", "unchanged"}
    nodes = np.zeros((21, 21, 21), np.uint16)
    nodes[10, 10, 10] = 1
    record = vary(nodes, labels, (1, 1, 1), np.random.default_rng(0), replace(settings, elastic=1.0), TABLE)[1][0]
    assert record["operation"] == "unchanged"


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


def test_an_elastic_change_is_one_of_millimetres():
    """The same node and seed on another grid: the same shape, moved as far."""
    def changed(mm):
        n = round(24 / mm)
        at = (np.indices((n, n, n)) + 0.5) * mm - 12
        ball = np.linalg.norm(at, axis=0) <= 10
        mask, start = deform(ball, (0, 0, 0), (mm,) * 3, {"kind": "elastic", "seed": 5, "amplitude": 0.3})
        whole = np.zeros((round(60 / mm),) * 3, bool)
        whole[tuple(slice(s + round(18 / mm), s + round(18 / mm) + m)
                    for s, m in zip(start, mask.shape, strict=True))] = mask
        return whole, np.pad(ball, round(18 / mm))

    (fine, _), (coarse, before) = changed(0.5), changed(1.0)
    fine = fine.reshape(60, 2, 60, 2, 60, 2).mean((1, 3, 5)) >= 0.5

    def dice(a, b):
        return 2 * (a & b).sum() / (a.sum() + b.sum())

    assert dice(coarse, before) < 0.85 and dice(fine, coarse) > 0.95
