"""The SYNTHETIC mark: however a file is converted or stripped, what was made here is known again."""

import json
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from test_dicom import AXIAL, SHAPE, edit, tissue, write_series
from test_nodes_seg import nodes_on
from test_provenance import SETTINGS, generator, scene  # noqa: F401

from LNSynthLib import cli
from LNSynthLib.cases.dataset import Case, Dataset
from LNSynthLib.cases.importers import Item, read_item
from LNSynthLib.demo import demo
from LNSynthLib.images import synthetic
from LNSynthLib.images.volume import Volume, canonical, crop, description, read, write
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.events import ignore
from LNSynthLib.segmentation.splits import _cases
from LNSynthLib.synthesis.insert_file import insert_file


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LNSYNTH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def given(tmp_path, scene):  # noqa: F811
    hu, nodes, affine = scene
    write(tmp_path / "ct.nii.gz", Volume(hu.astype(np.int16), affine))
    write(tmp_path / "nodes.nii.gz", Volume(nodes, affine))
    return tmp_path


def flipped(volume: Volume) -> Volume:
    affine = volume.affine @ np.diag([1, -1, 1, 1])
    affine[:3, 3] += volume.affine[:3, 1] * (volume.shape[1] - 1)
    return Volume(volume.array[:, ::-1], affine)


def turned(volume: Volume) -> Volume:
    return Volume(volume.array.transpose(2, 0, 1), volume.affine[:, [2, 0, 1, 3]])


def middle(volume: Volume) -> Volume:
    return crop(volume, (slice(0, volume.shape[0]), slice(0, volume.shape[1]), slice(5, volume.shape[2] - 3)))


def stripped(path: Path, folder: Path, name: str, change=lambda volume: volume, dtype=np.int16) -> Path:
    """The file as another program writes it: the same voxels and geometry, no word of ours, nothing beside."""
    volume = change(read(path))
    folder.mkdir(exist_ok=True)
    write(folder / name, Volume(volume.array.astype(dtype), volume.affine))
    assert not description(folder / name)
    return folder / name


COPIES = {
    "nifti": ("x.nii.gz",), "nrrd": ("x.nrrd",), "mha": ("x.mha",), "float": ("x.nii", canonical, np.float32),
    "flipped": ("x.nii.gz", flipped), "axes in another order": ("x.nii.gz", turned), "cropped": ("x.nrrd", middle)}


@pytest.mark.parametrize("remove", [False, True])
def test_an_inserted_ct_is_known_in_every_form_and_its_source_in_none(given, generator, remove, capsys):  # noqa: F811
    out, before, nodes = given / "made" / "ct.nii.gz", read(given / "ct.nii.gz"), read(given / "nodes.nii.gz")
    if remove:  # then there is one
        write(given / "ct.nii.gz", Volume(before.array + np.int16(170) * (nodes.array > 0), before.affine))
    insert_file(generator, given / "ct.nii.gz", given / "nodes.nii.gz", out, SETTINGS, remove=remove)
    assert synthetic.marked(out) == "synthetic"
    for form, copy in COPIES.items():
        assert synthetic.kind(stripped(out, given / "out", *copy)) == "synthetic", form
        assert synthetic.kind(stripped(given / "ct.nii.gz", given / "out", *copy)) == "", form
    images, masks = given / "images", given / "masks"
    for image in (stripped(out, images, "x.nrrd"), stripped(out, given / "images", "x.nrrd", middle)):
        change = middle if read(image).shape[2] < 30 else canonical
        stripped(given / "nodes.nii.gz", masks, "x.nrrd", change, np.uint8)
        assert cli.main(["import", "--images", str(images), "--nodes", str(masks), "--out", str(given / "data")]) == 2
        assert "SYNTHETIC" in capsys.readouterr().err
        assert not Dataset.open(given / "data").cases()
    stripped(given / "ct.nii.gz", images, "x.nrrd", middle)
    assert cli.main(["import", "--images", str(images), "--nodes", str(masks), "--out", str(given / "data"),
                     "--anyway"]) == 0  # its nodes are where fat is


def test_no_voxel_is_changed_for_the_mark(given, generator, tmp_path, monkeypatch):  # noqa: F811
    made = []
    for home in ("one", "two"):
        monkeypatch.setenv("LNSYNTH_HOME", str(tmp_path / home))
        insert_file(generator, given / "ct.nii.gz", given / "nodes.nii.gz", given / home / "ct.nii.gz", SETTINGS)
        made.append((given / home / "ct.nii.gz").read_bytes())
    assert made[0] == made[1] and (tmp_path / "one/synthetic.txt").read_text() == (tmp_path / "two/synthetic.txt"
                                                                                  ).read_text()


@pytest.mark.parametrize("kind", ["phantom", "pseudo"])
def test_a_case_that_is_made_up_is_not_imported_as_real(given, kind):
    case = Case("a", read(given / "ct.nii.gz"), read(given / "nodes.nii.gz"))
    dataset = Dataset.create(given / "data", kind=kind)
    dataset.add(case)
    with pytest.raises(LNSynthError, match="ct.nii.gz: it is SYNTHETIC"):
        read_item(Item("a", dataset.path("a", "ct"), given / "nodes.nii.gz"), print)
    write(given / "plain.nii.gz", Volume(case.ct.array + np.int16(1), case.ct.affine))
    with pytest.raises(LNSynthError, match="nodes.nii.gz: it is SYNTHETIC"):
        read_item(Item("a", given / "plain.nii.gz", dataset.path("a", "nodes")), print)
    if kind == "phantom":
        with pytest.raises(LNSynthError, match="SYNTHETIC"):
            read_item(Item("a", stripped(dataset.path("a", "ct"), given / "o", "x.mha"), given / "nodes.nii.gz"), print)


def test_a_mask_that_was_changed_stays_marked_and_becomes_no_dicom_seg(tmp_path, capsys):
    series = write_series(tmp_path / "ct", tissue(), AXIAL)
    nodes = nodes_on(AXIAL)
    write(tmp_path / "real.nii.gz", nodes)
    write(tmp_path / "made.nii.gz", nodes, synthetic.mark("lymph nodes"))
    assert cli.main(["nodes", "--nodes", str(tmp_path / "made.nii.gz"), "--remove", "3", "--out",
                     str(tmp_path / "fewer.nrrd")]) == 0
    assert synthetic.kind_of(description(tmp_path / "fewer.nrrd")) == "synthetic"
    plain = stripped(tmp_path / "fewer.nrrd", tmp_path / "o", "x.nii.gz", dtype=np.uint8)
    capsys.readouterr()
    for mask, said in ((tmp_path / "fewer.nrrd", "SYNTHETIC"), (plain, "SYNTHETIC"), (tmp_path / "real.nii.gz", "")):
        status = cli.main(["nodes", "--nodes", str(mask), "--ct", str(series), "--out", str(tmp_path / "seg.dcm")])
        assert status == (2 if said else 0) and said in capsys.readouterr().err
    assert cli.main(["nodes", "--nodes", str(tmp_path / "real.nii.gz"), "--remove", "3", "--out",
                     str(tmp_path / "kept.nii.gz")]) == 0
    assert "SYNTHETIC" not in description(tmp_path / "kept.nii.gz")  # a person took a patient's node away, no more


@pytest.mark.parametrize("tags", [{"SyntheticData": "YES"}, {"SeriesDescription": "SYNTHETIC: x"},
                                  {"ImageComments": "Synthetic CT"}])
def test_a_dicom_series_that_says_so_is_synthetic(tmp_path, tags, capsys):
    hu = np.full(SHAPE, -1000, np.int16)
    hu[3:13, 3:10] = 40 + tissue()[3:13, 3:10] // 50
    series = write_series(tmp_path / "ct", hu, AXIAL)
    assert synthetic.kind(series) == ""
    for file in series.iterdir():
        edit(file, **tags)
    assert synthetic.kind(series) == "synthetic"
    write(tmp_path / "nodes.nii.gz", nodes_on(AXIAL))
    with pytest.raises(LNSynthError, match="SYNTHETIC"):
        read_item(Item("a", series, tmp_path / "nodes.nii.gz"), print)
    assert cli.main(["nodes", "--nodes", str(tmp_path / "nodes.nii.gz"), "--ct", str(series), "--out",
                     str(tmp_path / "seg.dcm")]) == 2
    assert "SYNTHETIC" in capsys.readouterr().err


def test_the_files_beside_one_say_what_it_is(tmp_path):
    ct = Volume(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4))
    for place, about, content in (
            ("a/ct.nii.gz", "a/ct.nii.gz.provenance.json", {"synthetic": True}),
            ("b/ct.nii.gz", "b/provenance.json", {"synthetic": True, "outputs": {"ct.nii.gz": "x"}}),
            ("c/imagesTr/x_0000.nii.gz", "c/dataset.json", {"synthetic": True})):
        write(tmp_path / place, ct)
        assert synthetic.kind(tmp_path / place) == ""
        (tmp_path / about).write_text(json.dumps(content))
        assert synthetic.kind(tmp_path / place) == "synthetic"
    (tmp_path / "a/ct.nii.gz.provenance.json").write_text("{")
    assert synthetic.kind(tmp_path / "a/ct.nii.gz") == ""


def test_the_demo_on_a_synthetic_ct_says_so(given):
    plain = given / "ct.nii.gz"
    synthetic.remember(read(plain))
    dataset, id = demo._dataset(given / "demo", plain, None, 0, ignore)
    assert dataset.entry(id)["synthetic"] == "synthetic"
    assert synthetic.marked(dataset.path(id, "ct")) == "synthetic"


def test_such_a_case_is_neither_trained_nor_validated_on(given):
    dataset = Dataset.create(given / "data")
    dataset.add(Case("a", read(given / "ct.nii.gz"), read(given / "nodes.nii.gz"),
                     entry={"split": "val", "synthetic": "synthetic"}))
    cases, left_out = _cases([dataset.folder])
    assert not any(case.usable for case in cases)
    assert left_out[0]["name"] == "a" and "SYNTHETIC" in left_out[0]["reason"]


def test_even_slices_and_small_masks_are_nobodys(home):
    air = Volume(np.full((20, 20, 5), -1000, np.int16), np.eye(4))
    dot = np.zeros((20, 20, 5), np.uint8)
    dot[3:5, 3:5, 3] = 1
    assert synthetic.remember(air) == 0 and synthetic.remember_mask(Volume(dot, np.eye(4))) == 0
    assert synthetic.known(air) == "" and not (home / "synthetic.txt").exists()


def test_a_mask_elsewhere_in_the_patient_is_another():
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[4:9, 4:9, 4:9] = 2
    assert synthetic.remember_mask(Volume(mask, np.eye(4)), before=Volume((mask > 0).astype(np.uint8), np.eye(4))) == 0
    assert synthetic.remember_mask(Volume(mask, np.eye(4))) == 1
    assert synthetic.known(turned(Volume((mask > 0).astype(np.float32), np.eye(4)))) == "synthetic"
    assert synthetic.known(Volume(np.roll(mask, 3, 0), np.eye(4))) == ""


def test_what_cannot_be_kept_is_told_and_a_torn_line_does_no_harm(home, monkeypatch, tmp_path, caplog):
    ct = Volume(np.random.default_rng(0).integers(-100, 100, (12, 12, 6)).astype(np.int16), np.eye(4))
    assert synthetic.remember(ct, "phantom") == 6 and synthetic.remember(ct, "phantom") == 0
    whole = (home / "synthetic.txt").read_text()
    (home / "synthetic.txt").write_text(whole[:-60])  # as a full disk leaves it
    assert synthetic.remember(ct, "phantom") == 2 and synthetic.known(ct) == "phantom"
    assert len((home / "synthetic.txt").read_text().splitlines()) == 7
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LNSYNTH_HOME", str(tmp_path / "file"))
    assert synthetic.remember(ct) == 0 and "LNSYNTH_HOME" in caplog.messages[0]


def test_where_the_registry_lies(monkeypatch):
    monkeypatch.delenv("LNSYNTH_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data/of/mine")
    if os.name != "nt" and sys.platform != "darwin":
        assert synthetic.registry() == Path("/data/of/mine/lnsynth/synthetic.txt")


def test_a_mark_fits_a_nifti_header():
    for text in (synthetic.mark("x" * 100), *map(synthetic.mark_of, synthetic.KINDS)):
        assert len(text.encode()) <= 79 and synthetic.kind_of(text)
    assert [synthetic.kind_of(synthetic.mark_of(kind)) for kind in synthetic.KINDS] == list(synthetic.KINDS)
    assert synthetic.mark_of("real") == "" == synthetic.kind_of("")


def test_simpleitk_and_nibabel_conversions(given, generator, tmp_path):  # noqa: F811
    """Other programs' own conversions, not ours."""
    out = given / "made" / "ct.nii.gz"
    insert_file(generator, given / "ct.nii.gz", given / "nodes.nii.gz", out, SETTINGS)
    image = sitk.ReadImage(str(out))
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32), str(tmp_path / "a.nrrd"))
    las = nibabel.as_closest_canonical(nibabel.load(out))
    nibabel.save(nibabel.Nifti1Image(np.asarray(las.dataobj), las.affine), tmp_path / "b.nii.gz")
    for path in (tmp_path / "a.nrrd", tmp_path / "b.nii.gz"):
        assert not description(path) and synthetic.kind(path) == "synthetic"
