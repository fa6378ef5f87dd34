"""Preparation: the right voxels, the right place, once; with SimpleITK as the independent resampler."""

import dataclasses
import os
import time

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from itk_volume import from_sitk
from PIL import Image
from scipy import ndimage

from LNSynthLib import cli
from LNSynthLib.cases import prepare as preparation
from LNSynthLib.cases.dataset import Case, Dataset
from LNSynthLib.cases.prepare import PrepareSettings, prepare
from LNSynthLib.cases.prepared import PreparedCase, list_prepared
from LNSynthLib.images import volume
from LNSynthLib.images.boxes import bounding_box
from LNSynthLib.images.volume import Volume
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.masks.nodes import records
from LNSynthLib.phantom.phantom import phantom
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.files import read_json

COARSE = PrepareSettings(spacing_mm=4.0, margin_mm=60.0)
HALF_STEP = 2**-12  # of float16 just below 1


@pytest.fixture(scope="module")
def drawn():
    """Two phantoms on anisotropic grids."""
    return [phantom(seed, spacing=(3.5, 3.5, 5), nodes=4) for seed in (1, 2)]


def add(dataset, id, person, change=lambda v: v, **entry):
    dataset.add(Case(id, change(person.ct), change(person.nodes), change(person.anatomy), entry))


@pytest.fixture
def dataset(tmp_path, drawn):
    dataset = Dataset.create(tmp_path / "d", kind="phantom")
    for n, person in enumerate(drawn):
        add(dataset, f"p{n}", person, split=("train", "test")[n], patient=f"person {n}")
    return dataset


def prepared(dataset, settings=COARSE, id="p0") -> PreparedCase:
    return PreparedCase.open(dataset.folder / "prepared" / settings.name / id)


def simpleitk(source: Volume, affine, shape, interpolator) -> np.ndarray:
    grid = volume.to_sitk(Volume(np.zeros(shape, np.uint8), affine))
    image = volume.to_sitk(Volume(source.array.astype(np.float32), source.affine))
    return from_sitk(sitk.Resample(image, grid, sitk.Transform(), interpolator, -1000.0)).array


def test_a_case_says_what_it_is(dataset, drawn):
    prepare(dataset, COARSE)
    case = prepared(dataset)
    assert (case.id, case.split, case.kind, case.spacing) == ("p0", "train", "phantom", (4, 4, 4))
    assert case.info["patient"] == "person 0" and case.info["sha256"] == dataset.entry("p0")["sha256"]
    assert case.info["labels"] == "abdomen14" and case.info["window"] == [-120, 240]
    np.testing.assert_allclose(case.affine[:3, :3], np.eye(3) * 4, atol=1e-9)
    ct, anatomy, nodes = case.ct(), case.anatomy(), case.nodes()
    assert ct.shape == anatomy.shape == nodes.shape == case.shape
    assert ct.min() == -1 and ct.max() == 1 and set(np.unique(anatomy)) == set(range(14))
    count = int(drawn[0].nodes.array.max()) - len(case.info["nodes_lost"])
    assert count >= 3
    assert [n["id"] for n in case.info["nodes"]] == list(range(1, count + 1)) == list(np.unique(nodes)[1:])
    assert [c.id for c in list_prepared(case.folder.parent, "test")] == ["p1"]


def test_nodes_keep_their_size_and_place(dataset, drawn):
    prepare(dataset, COARSE)
    case = prepared(dataset)
    before = {r["id"]: r for r in records(drawn[0].nodes.array, drawn[0].nodes.affine)}
    for node in case.info["nodes"]:
        source = before[node["id"]]
        assert np.linalg.norm(np.subtract(node["centroid_mm"], source["centroid_mm"])) < 2
        assert node["volume_ml"] == pytest.approx(source["volume_ml"], rel=0.35)
        box = tuple(slice(*bounds) for bounds in node["bbox"])
        assert (case.nodes(box) == node["id"]).any() and (case.nodes() == node["id"]).sum() == (
            case.nodes(box) == node["id"]).sum()


def test_the_margin_is_kept_or_ends_at_the_volume(dataset, drawn):
    for margin in (0.0, 40.0, 1000.0):
        settings = dataclasses.replace(COARSE, margin_mm=margin, name=f"m{margin:.0f}")
        prepare(dataset, settings)
        case = prepared(dataset, settings)
        box = bounding_box(case.nodes())
        gaps = np.r_[[b.start for b in box], np.array(case.shape) - [b.stop for b in box]] * 4
        faces = np.r_[_faces(case.affine, case.shape), _faces(drawn[0].ct.affine, drawn[0].ct.shape)].reshape(2, 6)
        at_the_end = np.abs(faces[0] - faces[1]) <= 4
        assert (at_the_end | ((margin <= gaps) & (gaps < margin + 4))).all() and (gaps < margin + 4).all()
        assert at_the_end.all() == (margin == 1000)


def _faces(affine, shape) -> np.ndarray:
    """Where a volume along the patient's axes begins and ends (mm): x, y, z, x, y, z."""
    spacing = np.diag(affine)[:3]
    return np.r_[affine[:3, 3] - spacing / 2, affine[:3, 3] + (np.array(shape) - 0.5) * spacing]


@pytest.mark.parametrize("rotation", [0.0, 12.0])
def test_voxels_equal_simpleitks(tmp_path, drawn, rotation):
    """Finer than the source, nothing is smoothed away: the CT is linear interpolation, window, half precision."""
    turn, c, s = np.eye(4), np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    turn[:2, :2] = [[c, -s], [s, c]]
    turn[:3, 3] = 11, -7, 30
    dataset = Dataset.create(tmp_path / "d", kind="phantom")
    add(dataset, "p0", drawn[0], lambda v: Volume(v.array, turn @ v.affine))
    settings = PrepareSettings(spacing_mm=2.3, margin_mm=30.0, window=(-150.0, 250.0))
    prepare(dataset, settings)
    case = prepared(dataset, settings)
    loaded = dataset.load("p0")
    hu = simpleitk(loaded.ct, case.affine, case.shape, sitk.sitkLinear)
    wanted = (np.clip(hu, -150, 250) + 150) / 200 - 1
    assert np.abs(case.ct() - wanted).max() < HALF_STEP + 1e-4
    assert wanted.std() > 0.3
    nodes, made = simpleitk(loaded.nodes, case.affine, case.shape, sitk.sitkNearestNeighbor), case.nodes()
    ratio = np.prod(loaded.nodes.spacing) / 2.3**3
    for i in range(1, int(made.max()) + 1):  # a node differs at its surface alone, and keeps its volume
        apart = ndimage.distance_transform_edt(nodes != i) + ndimage.distance_transform_edt(nodes == i)
        assert (apart[(nodes == i) != (made == i)] <= 2).all()
        assert abs((made == i).sum() - (loaded.nodes.array == i).sum() * ratio) <= 1


def test_the_order_and_direction_of_axes_do_not_matter(tmp_path, drawn):
    dataset = Dataset.create(tmp_path / "d", kind="phantom")
    add(dataset, "p0", drawn[0])

    def shuffled(v):
        order, flip = (2, 0, 1), np.diag([-1.0, 1, -1, 1])
        flip[:3, 3] = v.shape[2] - 1, 0, v.shape[1] - 1
        return Volume(v.array.transpose(order)[::-1, :, ::-1], v.affine[:, [*order, 3]] @ flip)

    add(dataset, "p1", drawn[0], shuffled)
    assert dataset.load("p1").ct.shape != dataset.load("p0").ct.shape
    prepare(dataset, COARSE)
    a, b = (prepared(dataset, id=id) for id in ("p0", "p1"))
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-3)
    for name in ("ct", "anatomy", "nodes"):
        differ = np.abs(getattr(a, name)().astype(float) - getattr(b, name)()) > 1e-3
        assert differ.mean() < 1e-4, name


def test_only_what_changed_is_made_again(dataset, drawn):
    def stamps():
        return {id: (dataset.folder / "prepared/default" / id / "case.json").stat().st_mtime_ns for id in ("p0", "p1")}

    assert prepare(dataset, COARSE)["prepared"] == ["p0", "p1"]
    first = stamps()
    assert prepare(dataset, COARSE) == {"folder": str(dataset.folder / "prepared" / "default"), "prepared": [],
                                        "unchanged": ["p0", "p1"]}
    assert stamps() == first
    nodes = drawn[1].nodes.array.copy()
    nodes[nodes == 1] = 0
    volume.write(dataset.path("p1", "nodes"), Volume(nodes, drawn[1].nodes.affine))  # as an annotator's editor does
    with pytest.raises(LNSynthError, match="p1.nodes.nii.gz: the file is damaged, or was changed .* --accept-changes"):
        prepare(dataset, COARSE)
    assert dataset.accept_changes("p1") == ["nodes"] and dataset.accept_changes("p0") == []
    outcome = prepare(dataset, COARSE)
    assert (outcome["prepared"], outcome["unchanged"]) == (["p1"], ["p0"])
    assert len(prepared(dataset, id="p1").info["nodes"]) == 3
    assert prepare(dataset, dataclasses.replace(COARSE, margin_mm=50.0))["prepared"] == ["p0", "p1"]
    dataset.manifest["cases"] = [e for e in dataset.manifest["cases"] if e["id"] != "p0"]
    dataset.save()
    prepare(dataset, COARSE)
    assert [c.id for c in list_prepared(dataset.folder / "prepared/default")] == ["p1"]


def test_processes_make_the_same_bytes(dataset):
    other = dataclasses.replace(COARSE, name="parallel")
    prepare(dataset, COARSE)
    prepare(dataset, other, workers=2)
    for id in ("p0", "p1"):
        a, b = prepared(dataset, COARSE, id), prepared(dataset, other, id)
        for file in ("ct.b2nd", "anatomy.b2nd", "nodes.b2nd", "report.png"):
            assert (a.folder / file).read_bytes() == (b.folder / file).read_bytes(), file


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_cancelled_work_leaves_whole_cases_only(dataset, drawn, workers):
    for n in range(2, 6):
        add(dataset, f"p{n}", drawn[0])

    def stop_after_one(event):
        if event.done == 1:
            raise Cancelled("stopped")

    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(Cancelled):
        prepare(dataset, COARSE, workers, stop_after_one)
    folder = dataset.folder / "prepared" / "default"
    assert [p for p in folder.iterdir() if p.name.startswith(".")] == []
    finished = [PreparedCase.open(p) for p in folder.iterdir()]
    assert 1 <= len(finished) < 6 and all(c.nodes().any() for c in finished)
    for _ in range(50):  # multiprocessing's resource tracker may take a moment; the workers must be gone
        left = [p for p in set(psutil.Process().children(recursive=True)) - before
                if p.is_running() and "spawn_main" in " ".join(p.cmdline())]
        if not left:
            break
        time.sleep(0.1)
    assert left == []
    assert len(prepare(dataset, COARSE)["prepared"]) == 6 - len(finished)


def test_a_bad_case_does_not_stop_the_others(dataset):
    path = dataset.path("p0", "ct")
    path.write_bytes(path.read_bytes()[: os.path.getsize(path) // 2])
    with pytest.raises(LNSynthError, match=r"1 of 2 cases could not be prepared, the first because .*p0.ct.nii.gz: the "
                                           "file is damaged"):
        prepare(dataset, COARSE)
    assert [c.id for c in list_prepared(dataset.folder / "prepared/default")] == ["p1"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_for_a_mask_costs_its_case_alone(dataset, workers):
    path = dataset.path("p0", "nodes")
    path.unlink()
    path.mkdir()
    with pytest.raises(LNSynthError, match=r"1 of 2 cases could not be prepared, the first because .*p0.nodes.nii.gz"):
        prepare(dataset, COARSE, workers)
    assert [c.id for c in list_prepared(dataset.folder / "prepared/default")] == ["p1"]


def test_an_unforeseen_error_costs_its_case_alone(dataset, monkeypatch):
    def failing(case, *others):
        if case.id == "p0":
            raise ZeroDivisionError("nobody thought of it")
        return compute(case, *others)

    compute = preparation.compute
    monkeypatch.setattr(preparation, "compute", failing)
    with pytest.raises(LNSynthError, match=r"1 of 2 cases could .*case p0 failed \(ZeroDivisionError: .*; check"):
        prepare(dataset, COARSE)
    assert [c.id for c in list_prepared(dataset.folder / "prepared/default")] == ["p1"]
    assert "ZeroDivisionError" in read_json(dataset.folder / "prepared/default/prepare.json")["failed"]["p0"]


def test_cancelling_within_a_case_ends_the_preparation(dataset, monkeypatch):
    """A signal's `Cancelled` comes anywhere, in the midst of a library too."""
    def stopped(*_):
        raise Cancelled("stopped by SIGINT")

    monkeypatch.setattr(preparation, "label_map", stopped)
    with pytest.raises(Cancelled):
        prepare(dataset, COARSE)
    assert not (dataset.folder / "prepared").exists() or not list((dataset.folder / "prepared").rglob("*"))


def test_errors_found_in_the_arrays_name_the_case_and_its_file(dataset, drawn):
    person = drawn[0]
    loose = np.where(np.indices(person.ct.shape).sum(0) % 4, -900, 40).astype(np.int16)  # tissue, but no body of it
    dataset.add(Case("p0", Volume(loose, person.ct.affine), person.nodes, person.anatomy))
    odd = person.anatomy.array.copy()
    odd[0, 0, 0] = 200
    dataset.add(Case("p1", person.ct, person.nodes, Volume(odd, person.anatomy.affine)))
    with pytest.raises(LNSynthError, match="2 of 2"):
        prepare(dataset, COARSE)
    failed = read_json(dataset.folder / "prepared/default/prepare.json")["failed"]
    assert failed["p0"].startswith(f"{dataset.path('p0', 'ct')}: no body was found")
    assert failed["p1"].startswith(f"{dataset.path('p1', 'anatomy')}: anatomy labels run from 0 to 200")


@pytest.mark.parametrize("allowed", [False, True])
def test_node_ids_may_exceed_a_byte(tmp_path, drawn, allowed):
    dataset = Dataset.create(tmp_path / "d", kind="phantom")
    nodes = drawn[0].nodes.array.astype(np.uint16) * 1000
    dataset.add(Case("p0", drawn[0].ct, Volume(nodes, drawn[0].nodes.affine), drawn[0].anatomy))
    prepare(dataset, dataclasses.replace(COARSE, allow_no_nodes=allowed))
    case = prepared(dataset)
    assert len(case.info["nodes"]) + len(case.info["nodes_lost"]) == drawn[0].nodes.array.max()
    assert list(np.unique(case.nodes())) == list(range(len(case.info["nodes"]) + 1))


def test_padding_is_prepared_as_air(tmp_path, drawn):
    """-3024 outside a field of view that cuts the body gives the voxels that -1024 there gives."""
    dataset, person = Dataset.create(tmp_path / "d", kind="phantom"), drawn[0]
    x, y = (np.linspace(-1, 1, n) for n in person.ct.shape[:2])
    outside = np.broadcast_to((x[:, None] ** 2 + y**2 > 0.4)[:, :, None], person.ct.shape)
    for n, padding in enumerate((-1024, -3024)):
        ct = np.where(outside, np.int16(padding), person.ct.array)
        dataset.add(Case(f"p{n}", Volume(ct, person.ct.affine), person.nodes, person.anatomy))
    assert (person.anatomy.array[outside] > 0).any()
    prepare(dataset, COARSE)
    a, b = prepared(dataset), prepared(dataset, id="p1")
    np.testing.assert_array_equal(a.ct(), b.ct())
    np.testing.assert_array_equal(a.anatomy(), b.anatomy())
    assert a.info["organ_hu"] == b.info["organ_hu"]


def without(dataset, id, person, nodes=False, anatomy=False):
    """The person with its node mask and anatomy only where they are asked for."""
    dataset.add(Case(id, person.ct, person.nodes if nodes else None, person.anatomy if anatomy else None))


@pytest.mark.parametrize("has, allowed, why", [
    ({"anatomy": True}, {"allow_no_nodes": True}, "the case has no node mask; add one"),
    ({"nodes": True}, {"allow_no_anatomy": True}, "the case has no anatomy mask; run `lnsynth anatomy`"),
])
def test_missing_masks_are_refused_unless_allowed(tmp_path, drawn, has, allowed, why):
    dataset = Dataset.create(tmp_path / "d", kind="phantom")
    without(dataset, "p0", drawn[0], **has)
    with pytest.raises(LNSynthError, match=f"p0.ct.nii.gz: {why}"):
        prepare(dataset, COARSE)
    prepare(dataset, dataclasses.replace(COARSE, **allowed))
    case = prepared(dataset)
    if "allow_no_nodes" in allowed:
        assert not case.nodes().any() and case.info["nodes"] == []
        assert np.abs(np.array(case.shape) * 4 - drawn[0].ct.extent_mm).max() <= 4  # whole
    else:
        assert set(np.unique(case.anatomy())) == {0, 1}


def test_masks_beside_their_ct_and_empty_ones_are_refused(tmp_path, drawn):
    dataset = Dataset.create(tmp_path / "d", kind="phantom")
    shifted = drawn[0].nodes.affine.copy()
    shifted[2, 3] += 1
    dataset.add(Case("p0", drawn[0].ct, Volume(drawn[0].nodes.array, shifted), drawn[0].anatomy))
    dataset.add(Case("p1", drawn[0].ct, Volume(drawn[0].nodes.array * 0, drawn[0].nodes.affine), drawn[0].anatomy))
    entries = {id: dataset.entry(id) for id in ("p0", "p1")}
    for id, why in (("p0", "does not lie on the CT's grid"), ("p1", "the node mask is empty")):
        only = Dataset.open(dataset.folder)
        only.manifest["cases"] = [entries[id]]
        only.save()
        with pytest.raises(LNSynthError, match=f"{id}.nodes.nii.gz: .*{why}"):
            prepare(only, COARSE)


def test_nodes_too_small_for_the_grid_are_told(tmp_path, drawn):
    dataset = Dataset.create(tmp_path / "d", kind="phantom")
    nodes = drawn[0].nodes.array.copy()
    nodes[nodes > 1] = 0
    where = np.argwhere(nodes == 0)[:: nodes.size // 40]
    specks = nodes.copy()
    for n, index in enumerate(where, start=2):
        specks[tuple(index)] = n
    dataset.add(Case("p0", drawn[0].ct, Volume(specks, drawn[0].nodes.affine), drawn[0].anatomy))
    coarser = dataclasses.replace(COARSE, spacing_mm=7.0)
    prepare(dataset, coarser)
    case = prepared(dataset, coarser)
    kept, lost = len(case.info["nodes"]), case.info["nodes_lost"]
    assert lost and kept + len(lost) == specks.max()
    assert list(np.unique(case.nodes())) == list(range(kept + 1))  # numbered without gaps
    only = np.zeros_like(nodes)
    only[tuple(where[lost[0] - 2])] = 1
    dataset.add(Case("p0", drawn[0].ct, Volume(only, drawn[0].nodes.affine), drawn[0].anatomy))
    with pytest.raises(LNSynthError, match="p0.nodes.nii.gz: every node is smaller than a voxel of the new grid"):
        prepare(dataset, dataclasses.replace(coarser, margin_mm=500.0))


@pytest.mark.parametrize("change, why", [
    ({"spacing_mm": 0.0}, "spacing_mm is 0.0"), ({"margin_mm": -1.0}, "margin_mm is -1"),
    ({"window": (240.0, -120.0)}, "window runs from 240"), ({"name": "../x"}, "cannot name a folder"),
    ({"labels": "abdomen99"}, "no label table named abdomen99"),
])
def test_senseless_settings_are_refused_before_any_work(dataset, change, why):
    with pytest.raises(LNSynthError, match=why):
        prepare(dataset, dataclasses.replace(COARSE, **change))
    assert not (dataset.folder / "prepared").exists()


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(LNSynthError, match="the data set has no case"):
        prepare(Dataset.create(tmp_path), COARSE)


def test_the_report_shows_the_case_and_says_that_it_is_made_up(dataset):
    prepare(dataset, COARSE)
    picture = np.asarray(Image.open(prepared(dataset).folder / "report.png"))
    assert picture.shape[0] > 200 and picture.shape[1] > 300
    assert (picture[5, 5] == (190, 30, 40)).all()  # the red banner
    assert ((picture == (68, 172, 100)).all(-1)).sum() > 50  # nodes outlined


def test_mean_hu_are_those_of_the_organs(dataset, drawn):
    prepare(dataset, dataclasses.replace(COARSE, margin_mm=1000.0))
    case, table = prepared(dataset), LabelTable.load("abdomen14")
    for name in ("liver", "spleen", "kidney_left"):
        label = table.labels[table.index(name)]
        inside = drawn[0].ct.array[drawn[0].anatomy.array == label.totalsegmentator_v2[0]]
        assert case.info["organ_hu"][label.id] == pytest.approx(np.median(inside), abs=12), name


def test_records_of_a_ball():
    """A ball of 8 mm radius on a 1 x 1 x 2 mm grid: 2.14 mL, 16 mm across."""
    grid = np.indices((30, 30, 20)).transpose(1, 2, 3, 0) * [1, 1, 2.0]
    ball = np.linalg.norm(grid - [14, 15, 18], axis=-1) <= 8
    affine = np.diag([1, 1, 2.0, 1])
    affine[:3, 3] = -50, 20, 7
    (record,) = records(np.where(ball, 3, 0).astype(np.uint16), affine)
    assert record["id"] == 3 and record["bbox"] == [[6, 23], [7, 24], [5, 14]]
    np.testing.assert_allclose(record["centroid"], [14, 15, 9])
    np.testing.assert_allclose(record["centroid_mm"], [-36, 35, 25])
    assert record["volume_ml"] == pytest.approx(4 / 3 * np.pi * 8**3 / 1000, rel=0.05)
    assert record["short_axis_mm"] == pytest.approx(16, abs=1.1)


def test_prepare_by_its_verb(dataset, capsys):
    arguments = ["prepare", str(dataset.folder), "--spacing", "4", "--margin", "50", "--name", "test50", "--window",
                 "-160", "240"]
    assert cli.main(arguments) == 0
    assert "2 cases prepared, 0 unchanged" in capsys.readouterr().out
    case = PreparedCase.open(dataset.folder / "prepared" / "test50" / "p0")
    assert case.info["window"] == [-160, 240] and case.info["settings"]["margin_mm"] == 50
    assert cli.main(["prepare", str(dataset.folder / "absent")]) == 2
    assert "no data set here" in capsys.readouterr().err


def test_a_real_ct_of_thick_slices(shared_data, tmp_path):
    """crlm1004, 5 mm slices counted to the left and back, with a ball in its fat for a node."""
    ct = volume.read(shared_data / "crlm1004_ct.nii.gz")
    anatomy = volume.read(shared_data / "crlm1004_coarse_anatomy.nii.gz")
    place = np.indices(ct.shape).transpose(1, 2, 3, 0) * ct.spacing
    nodes = (np.linalg.norm(place - np.array([100, 80, 20]) * ct.spacing, axis=-1) < 9).astype(np.uint16)
    dataset = Dataset.create(tmp_path, kind="pseudo")
    dataset.add(Case("crlm1004", ct, Volume(nodes, ct.affine), anatomy))
    settings = PrepareSettings(spacing_mm=1.5, margin_mm=60.0, labels="abdomen17")
    prepare(dataset, settings)
    case = PreparedCase.open(tmp_path / "prepared" / "default" / "crlm1004")
    hu = simpleitk(ct, case.affine, case.shape, sitk.sitkLinear)
    assert np.abs(case.ct() - ((np.clip(hu, -120, 240) + 120) / 180 - 1)).max() < HALF_STEP + 1e-4
    assert case.info["nodes"][0]["volume_ml"] == pytest.approx(nodes.sum() * np.prod(ct.spacing) / 1000, rel=0.1)
    table = LabelTable.load("abdomen17")
    found = set(np.unique(case.anatomy()))
    assert {table.index(n) for n in ("body", "liver", "aorta", "fat", "bone")} <= found
    fat, liver = (case.info["organ_hu"][table.index(n)] for n in ("fat", "liver"))
    assert -130 < fat < -60 and 60 < liver < 160
