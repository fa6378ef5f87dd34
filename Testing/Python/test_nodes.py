"""Instances and their measures, against ellipsoids whose measures are known."""
import csv
import json

import numpy as np
import pytest

from LNSynthLib.cli import main
from LNSynthLib.images.volume import Volume, read, write
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.masks.nodes import boxes, instances, measure, remove
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.verbs.nodes import _write_csv


def turn(degrees, axis=2):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    i, j = [a for a in range(3) if a != axis]
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def ellipsoid(shape, affine, center, radii, rotation=None):
    """True inside an ellipsoid given in mm: center and radii, and a rotation of its axes."""
    index = np.indices(shape).reshape(3, -1)
    points = affine[:3, :3] @ index + affine[:3, 3:] - np.asarray(center, float)[:, None]
    local = (np.eye(3) if rotation is None else rotation).T @ points / np.asarray(radii, float)[:, None]
    return ((local ** 2).sum(0) <= 1).reshape(shape)


def grid(spacing, shape, rotation=None):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2 + [10, -20, 300]
    return affine


CENTER = np.array([10.3, -19.6, 300.4])


@pytest.mark.parametrize("spacing, shape", [((1, 1, 1), (50, 50, 40)), ((0.7, 0.7, 1.25), (70, 70, 32)),
                                            ((0.8, 1.4, 5.0), (60, 40, 12))])
@pytest.mark.parametrize("degrees", [0, 30, 45, 100])
def test_axes_of_ellipsoids(spacing, shape, degrees):
    affine = grid(spacing, shape)
    mask = ellipsoid(shape, affine, CENTER, (12, 6, 9), turn(degrees))
    (node,) = measure(instances(mask), affine)
    voxel = max(spacing[:2])
    # In a thick slice the largest cut misses the equator by at most half a slice.
    equator = np.sqrt(1 - (min(spacing[2], 5) / 2 / 9) ** 2)
    assert 24 * equator - 0.75 * voxel < node.long_axis_mm < 24 + 0.75 * voxel
    assert 12 * equator - 0.75 * voxel < node.short_axis_mm < 12 + 0.75 * voxel
    assert node.volume_ml == pytest.approx(4 / 3 * np.pi * 12 * 6 * 9 / 1000, rel=0.05)
    assert np.allclose(node.centroid_mm, CENTER, atol=0.3 * max(spacing))


def test_axes_do_not_depend_on_how_the_array_lies_in_the_patient():
    """Flipped, permuted and slightly oblique grids give the same node the same axes."""
    shape = (48, 52, 44)
    reference = None
    for rotation in (np.eye(3), np.diag([-1.0, -1, 1]), np.eye(3)[:, [2, 0, 1]], np.eye(3)[:, [1, 2, 0]], turn(8, 0)):
        affine = grid((1, 1, 1), shape, rotation)
        mask = ellipsoid(shape, affine, CENTER, (11, 6, 8), turn(20))
        (node,) = measure(instances(mask), affine)
        reference = reference or node
        assert node.long_axis_mm == pytest.approx(reference.long_axis_mm, abs=1.0)
        assert node.short_axis_mm == pytest.approx(reference.short_axis_mm, abs=1.0)
        assert np.allclose(node.centroid_mm, CENTER, atol=0.1)


def test_short_axis_lies_across_the_longest_diameter():
    """A 20 x 4 mm bar has axes 20 and 4 (its diagonal is hardly longer), however many thin slices it spans."""
    mask = np.zeros((30, 30, 30), bool)
    mask[5:25, 10:14, 3:29] = True
    mask[5, 10, 29] = True
    (node,) = measure(instances(mask), np.eye(4))
    assert node.long_axis_mm == pytest.approx(20, abs=0.5)
    assert node.short_axis_mm == pytest.approx(4, abs=1.1)


def test_one_voxel_is_measurable():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    (node,) = measure(instances(mask), np.diag([2, 2, 3, 1.0]))
    assert node.volume_ml == pytest.approx(0.012)
    assert node.long_axis_mm == pytest.approx(2) and node.short_axis_mm == pytest.approx(2)


def test_components_by_corner_and_instances_that_touch():
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    mask[3, 3, 3] = 1      # shares a corner with the first: one node
    mask[6, 6, 6] = 1
    nodes = instances(mask)
    assert nodes.dtype == np.uint16 and nodes.max() == 2
    touching = np.zeros((8, 8, 8), np.int16)
    touching[0:4], touching[4:8] = 3, 9
    nodes = instances(touching)
    assert np.array_equal(nodes[:, 0, 0], [1] * 4 + [2] * 4)
    assert instances(np.zeros((4, 4, 4))).max() == 0


def test_an_image_is_not_a_mask():
    speckle = np.zeros((202, 202, 8), bool)
    speckle[::2, ::2, ::2] = True
    image = np.arange(70_000, dtype=np.int32).reshape(70, 100, 10)
    assert instances(speckle).max() == 101 * 101 * 4
    with pytest.raises(LNSynthError, match="pieces"):
        instances(image)


def test_nearest_organs_and_their_distance():
    table = LabelTable.load("abdomen14")
    shape, affine = (60, 40, 30), np.diag([1.0, 1.0, 2.0, 1])
    labels = np.ones(shape, np.uint8)
    labels[:10] = table.index("liver")
    labels[50:] = table.index("aorta")
    labels[:, :2] = table.index("spleen")
    nodes = np.zeros(shape, np.uint16)
    nodes[20:25, 20:25, 10:13] = 1
    (node,) = measure(nodes, affine, labels, table)
    assert node.nearest == (("liver", 11.0), ("spleen", 19.0), ("aorta", 26.0))
    json.dumps(node.as_dict())


def test_remove_keeps_the_other_ids():
    nodes = np.array([[[1, 2, 3]]], np.uint16)
    assert remove(nodes, 2).tolist() == [[[1, 0, 3]]]
    with pytest.raises(LNSynthError, match="1, 2, 3"):
        remove(nodes, 4)


def test_boxes_by_id():
    nodes = np.zeros((10, 10, 10), np.uint16)
    nodes[2:4, 0:5, 9:10] = 7
    assert boxes(nodes) == {7: (slice(2, 4), slice(0, 5), slice(9, 10))}


def test_real_nodes_measure_as_published(shared_data):
    """557 abdominal nodes have short axes 8.4 / 13.4 / 26.8 mm at 5 / 50 / 95 %; these 417 are part of them."""
    archive = np.load(shared_data / "nih_abdominal_node_masks.npz")
    facts = json.loads((shared_data / "nih_abdominal_node_masks.json").read_text())
    short = []
    for name in archive.files:
        (node,) = measure((archive[name] > 0).astype(np.uint16), np.diag([*facts[name]["spacing"], 1.0]))
        assert node.volume_ml == pytest.approx(facts[name]["volume_mm3"] / 1000, rel=1e-3)
        short.append(node.short_axis_mm)
    low, median, high = np.percentile(short, [5, 50, 95])
    assert low == pytest.approx(8.4, abs=1.0) and median == pytest.approx(13.4, abs=1.5)
    assert high == pytest.approx(26.8, abs=4)


@pytest.fixture
def files(tmp_path):
    """A trunk of fat with liver and aorta as CT, anatomy and two nodes, stored flipped, permuted and oblique."""
    shape = (80, 60, 40)
    x, y, z = np.indices(shape)
    body = ((x - 40) / 38.0) ** 2 + ((y - 30) / 28.0) ** 2 <= 1
    liver = ((x - 58) / 12.0) ** 2 + ((y - 34) / 12.0) ** 2 <= 1
    aorta = (x - 36) ** 2 + (y - 18) ** 2 <= 16
    ct = np.where(body, -100, -1000)
    ct[body & (((x - 40) / 36.0) ** 2 + ((y - 30) / 26.0) ** 2 > 1)] = 50   # a thin wall
    ct[liver], ct[aorta] = 110, 150
    ct[liver & (x < 56)] = -100   # a coarse mask: a part of it is fat, and yet no node may cover it
    nodes = np.zeros(shape, np.uint8)
    nodes[24:29, 26:31, 18:22], nodes[34:39, 34:39, 10:14] = 1, 2
    ct[nodes > 0] = 70
    affine = np.eye(4)
    affine[:3, :3] = turn(5, 1) @ np.diag([3.0, 3, 4])
    affine = affine @ np.array([[0, -1, 0, 79], [0, 0, 1, 0], [-1, 0, 0, 39], [0, 0, 0, 1.0]])

    def stored(array):  # index (i, j, k) of the file is (39 - z, 79 - x, y) of the scene
        return Volume(np.ascontiguousarray(array.transpose(2, 0, 1)[::-1, ::-1]), affine)

    for name, array in (("ct", ct.astype(np.int16)), ("nodes", nodes),
                        ("anatomy", np.where(liver, 5, np.where(aorta, 52, 0)).astype(np.uint8))):
        write(tmp_path / f"{name}.nii.gz", stored(array))
    return tmp_path


def nodes_verb(folder, *arguments):
    return main(["nodes", *[str(folder / a) if a.endswith((".gz", ".csv", ".json")) else a for a in arguments]])


def test_verb_measures_into_a_table(files, capsys):
    for out in ("table.csv", "table.json"):
        assert nodes_verb(files, "--nodes", "nodes.nii.gz", "--anatomy", "anatomy.nii.gz", "--measure",
                          "--out", out) == 0
    rows = list(csv.DictReader((files / "table.csv").open()))
    assert [row["id"] for row in rows] == ["1", "2"]
    assert float(rows[0]["volume_ml"]) == pytest.approx(100 * 36 / 1000)
    assert rows[1]["nearest_organ"] == "liver" and float(rows[1]["distance_mm"]) == pytest.approx(24)
    assert len(json.loads((files / "table.json").read_text())["nodes"]) == 2
    assert "aorta 36 mm" in capsys.readouterr().out


def test_verb_removes_adds_and_varies_on_the_files_grid(files):
    given = ("--ct", "ct.nii.gz", "--anatomy", "anatomy.nii.gz", "--nodes", "nodes.nii.gz")
    before, anatomy = read(files / "nodes.nii.gz"), read(files / "anatomy.nii.gz").array
    assert nodes_verb(files, *given, "--remove", "1", "--add", "2", "--short-axis", "12", "--out", "new.nii.gz") == 0
    new = read(files / "new.nii.gz")
    assert np.array_equal(new.affine, before.affine) and new.shape == before.shape
    assert np.array_equal(new.array == 2, before.array == 2) and not (new.array == 1).any()
    assert sorted(boxes(new.array)) == [2, 3, 4] and not (new.array[anatomy > 0] > 0).any()
    story = json.loads((files / "new.json").read_text())
    assert [c["operation"] for c in story["changes"]] == ["removed", "added", "added"]
    assert [n["id"] for n in story["nodes"]] == [2, 3, 4]
    assert all(n["short_axis_mm"] == pytest.approx(12, abs=4) for n in story["nodes"][1:])

    for out in ("first.nii.gz", "again.nii.gz"):
        assert nodes_verb(files, *given, "--vary", "2", "--seed", "3", "--out", out) == 0
    for one in (1, 2):
        varied = read(files / f"first_{one}.nii.gz").array
        assert np.array_equal(varied, read(files / f"again_{one}.nii.gz").array)
        assert not np.array_equal(varied, before.array) and not (varied[anatomy > 0] > 0).any()
        # The nodes moved by millimetres within the patient, not to a mirrored or permuted place.
        for node in measure(varied, before.affine):
            (was,) = [n for n in measure(before.array, before.affine) if n.id == node.id]
            assert np.linalg.norm(np.subtract(node.centroid_mm, was.centroid_mm)) < 25
    assert not np.array_equal(read(files / "first_1.nii.gz").array, read(files / "first_2.nii.gz").array)


@pytest.mark.parametrize("arguments, words", [
    (("--add", "1", "--out", "o.nii.gz"), "--nodes is missing"),
    (("--nodes", "nodes.nii.gz", "--vary", "1", "--out", "o.nii.gz"), "lnsynth anatomy"),
    (("--nodes", "nodes.nii.gz", "--remove", "1"), "--out is missing"),
    (("--nodes", "nodes.nii.gz", "--remove", "1", "--out", "o.csv"), "must end in .nii"),
    (("--nodes", "nodes.nii.gz", "--measure", "--out", "o.nii.gz"), "must end in .csv"),
    (("--nodes", "nodes.nii.gz", "--remove", "9", "--out", "o.nii.gz"), "no node 9"),
    (("--nodes", "nodes.nii.gz", "--remove", "1", "--measure", "--out", "o.nii.gz"), "--measure writes only"),
    (("--nodes", "ct.nii.gz", "--measure"), "mask")])
def test_verb_refuses_what_makes_no_sense(files, capsys, arguments, words):
    assert nodes_verb(files, *arguments) == 2
    assert words in capsys.readouterr().err and not (files / "o.nii.gz").exists()


@pytest.mark.parametrize("arguments", [
    ("--remove", "1", "--out", "nodes.nii.gz"), ("--add", "1", "--out", "ct.nii.gz"),
    ("--vary", "2", "--out", "anatomy.nii.gz"), ("--vary", "1", "--out", "anatomy.nii.gz")])
def test_verb_never_writes_over_what_it_was_given(files, capsys, arguments):
    (files / "anatomy_2.nii.gz").write_bytes((files / "anatomy.nii.gz").read_bytes())
    before = {path: path.read_bytes() for path in files.iterdir()}
    assert nodes_verb(files, "--ct", "ct.nii.gz", "--anatomy", "anatomy_2.nii.gz" if "2" in arguments else
                      "anatomy.nii.gz", "--nodes", "nodes.nii.gz", *arguments) == 2
    assert "would change the input" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in files.iterdir()} == before


def test_each_table_says_which_mask_it_is_of(files, capsys):
    """`--vary 4` printed four tables, and nothing told which file each belongs to."""
    assert nodes_verb(files, "--ct", "ct.nii.gz", "--anatomy", "anatomy.nii.gz", "--nodes", "nodes.nii.gz", "--vary",
                      "2", "--out", "told.nii.gz") == 0
    lines = capsys.readouterr().out.splitlines()
    headings = [n for n, line in enumerate(lines) if line.endswith(".nii.gz:")]
    assert [lines[n].rpartition("/")[2] for n in headings] == ["told_1.nii.gz:", "told_2.nii.gz:"]
    assert all(lines[n + 1].split()[0] == "node" for n in headings)
    assert nodes_verb(files, "--nodes", "nodes.nii.gz") == 0
    assert capsys.readouterr().out.split()[0] == "node"  # a table alone needs no heading


def test_a_table_holds_no_formula(tmp_path):
    node = {"id": 1, "volume_ml": 1.0, "short_axis_mm": 9.0, "long_axis_mm": 12.0, "centroid_mm": (-1.0, 2.0, 3.0),
            "centroid_index": (4.0, 5.0, 6.0), "nearest": [("=HYPERLINK(1)", 2.5)]}
    _write_csv(tmp_path / "t.csv", [node, {**node, "id": 2, "nearest": []}])
    first, second = csv.DictReader((tmp_path / "t.csv").open(newline=""))
    assert [first[name] for name in ("nearest_organ", "right_mm", "distance_mm")] == ["'=HYPERLINK(1)", "-1.000", "2.5"]
    assert (second["nearest_organ"], second["distance_mm"]) == ("", "")
