"""Names and paths from files: nothing outside the data set is written or removed, a wrong type is one sentence."""

import json
import os

import numpy as np
import pytest

from LNSynthLib.cases.dataset import Case, Dataset
from LNSynthLib.cases.prepare import PrepareSettings, prepare
from LNSynthLib.cases.prepared import PreparedCase, write_prepared
from LNSynthLib.images.volume import Volume
from LNSynthLib.runtime.content import check
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import atomic_folder, read_json
from LNSynthLib.runtime.names import LONGEST, check_id, check_name, inside, remove_ours

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
SETTINGS = PrepareSettings(spacing_mm=2.0, margin_mm=4.0)
BAD = ["", ".", "..", "../a", "a/b", "a\\b", "/a", "C:a", "a\0b", "a\nb", "nul", "COM1.txt", "x" * (LONGEST + 1), ".a",
       "a.", "a ", "a?", "\ud800", 7, None, ["a"], 1.5, True]


def small_case(id: str) -> Case:
    z = np.indices((24, 24, 24))
    ct = np.where(((z - 12) ** 2)[:2].sum(0) < 100, 40, -1000).astype(np.int16)
    nodes = (((z - 12) ** 2).sum(0) < 9).astype(np.uint16)
    return Case(id, Volume(ct, AFFINE), Volume(nodes, AFFINE), Volume(np.zeros(ct.shape, np.uint8), AFFINE))


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    made = Dataset.create(tmp_path / "home" / "data")
    made.add(small_case("a"))
    return made


def manifest_with(dataset: Dataset, **changes) -> Dataset:
    """The data set, its manifest's only entry changed."""
    content = json.loads((dataset.folder / "dataset.json").read_text())
    content["cases"][0] |= changes
    (dataset.folder / "dataset.json").write_text(json.dumps(content))
    return Dataset.open(dataset.folder)


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_name_a_folder(name, tmp_path):
    with pytest.raises(LNSynthError, match="list.csv: the id .* cannot name a folder"):
        check_name(name, "list.csv")


def test_names_that_people_use():
    for name in ("case-1", "ABD_LYMPH_001", "Fall 7", "Müller-Studie", "con-1", "1.2.840.113619"):
        assert check_name(name, "x") == name
    with pytest.raises(LNSynthError, match="cannot name a folder"):
        check_id("Fall 7", "x")


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "C:\\a", "C:a", "a\0", "", ".", "a/./..", 5, None,
                                  "\\\\host\\share", "out/a"])
def test_a_path_stays_inside(path, tmp_path):
    (tmp_path / "d").mkdir()
    os.symlink(tmp_path, tmp_path / "d" / "out")
    with pytest.raises(LNSynthError, match="m.json: the path"):
        inside(tmp_path / "d", path, "m.json")


def test_a_link_inside_is_fine_and_one_in_a_circle_is_not(tmp_path):
    (tmp_path / "cases").mkdir()
    os.symlink("cases", tmp_path / "also")
    os.symlink("round", tmp_path / "round")
    assert inside(tmp_path, "also/a.nii.gz", "m.json") == tmp_path / "also" / "a.nii.gz"
    with pytest.raises(LNSynthError):
        inside(tmp_path, "round/a", "m.json")


@pytest.mark.parametrize("id", ["../../../precious", "..", "/precious", "cases/../../../precious"])
def test_a_manifest_cannot_make_prepare_remove_a_folder(dataset, id):
    precious = dataset.folder.parent / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(LNSynthError, match="dataset.json: cases.0..id|dataset.json: .*the id .* cannot name a folder"):
        prepare(manifest_with(dataset, id=id), SETTINGS)
    assert [f.name for f in precious.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("changes", [
    {"files": {"ct": "../../secret.nii.gz"}}, {"files": {"ct": "/etc/passwd"}}, {"files": {"ct": 5}}, {"files": {}},
    {"files": ["a"]}, {"split": "tset"}, {"split": 1}, {"split": None}, {"id": 7}, {"patient": 7}, {"sha256": None},
    {"anatomy_version": float("nan")}, {"anatomy_version": 3}, {"anatomy_version": [1]}, {"source": {"a": 1}}])
def test_a_wrong_manifest_is_one_sentence(dataset, changes):
    with pytest.raises(LNSynthError, match="dataset.json: ") as said:
        manifest_with(dataset, **changes)
    assert "\n" not in str(said.value) and len(str(said.value)) < 400


@pytest.mark.parametrize("content", [
    {"cases": {}}, {"cases": None}, {"cases": ["a"]}, {"cases": 3}, {"kind": "unreal"}, {"name": 7}, {"kind": None}])
def test_a_manifest_of_wrong_types_is_one_sentence(dataset, content):
    whole = json.loads((dataset.folder / "dataset.json").read_text()) | content
    (dataset.folder / "dataset.json").write_text(json.dumps(whole))
    with pytest.raises(LNSynthError, match="dataset.json: "):
        Dataset.open(dataset.folder)


def test_an_id_that_appears_twice(dataset):
    whole = json.loads((dataset.folder / "dataset.json").read_text())
    (dataset.folder / "dataset.json").write_text(json.dumps(whole | {"cases": whole["cases"] * 2}))
    with pytest.raises(LNSynthError, match="'a' appears twice"):
        Dataset.open(dataset.folder)


def test_a_case_is_not_written_through_a_link(dataset, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", dataset.folder / "cases" / "b")
    with pytest.raises(LNSynthError, match="through a link"):
        dataset.add(small_case("b"))
    assert not any((tmp_path / "elsewhere").iterdir())


def test_json_that_is_nested_too_deep_or_is_a_folder(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for path in (tmp_path / "deep.json", tmp_path):
        with pytest.raises(LNSynthError):
            read_json(path)


def test_prepare_keeps_what_it_did_not_make(dataset):
    prepare(dataset, SETTINGS)
    made = dataset.folder / "prepared" / "default" / "a"
    (made / "notes.txt").write_text("mine")
    with pytest.raises(LNSynthError, match="holds notes.txt"):
        prepare(dataset, PrepareSettings(spacing_mm=2.0, margin_mm=6.0))
    assert (made / "notes.txt").read_text() == "mine" and PreparedCase.open(made).id == "a"


def test_a_case_that_left_the_data_set_goes_but_no_other_folder(dataset):
    dataset.add(small_case("b"))
    prepare(dataset, SETTINGS)
    folder = dataset.folder / "prepared" / "default"
    dataset.manifest["cases"] = [e for e in dataset.manifest["cases"] if e["id"] == "a"]
    dataset.save()
    (folder / "b" / "mine.txt").write_text("mine")
    with pytest.raises(LNSynthError, match="holds other files"):
        prepare(dataset, SETTINGS)
    (folder / "b" / "mine.txt").unlink()
    prepare(dataset, SETTINGS)
    assert {path.name for path in folder.iterdir()} == {"a", "prepare.json"}


def test_a_damaged_prepared_case_is_made_again(dataset):
    prepare(dataset, SETTINGS)
    about = dataset.folder / "prepared" / "default" / "a" / "case.json"
    for damage in ("[1]", "{", '{"key": 5}'):
        about.write_text(damage)
        assert prepare(dataset, SETTINGS)["prepared"] == ["a"]


@pytest.mark.parametrize("change", [{"id": "../x"}, {"id": 3}, {"shape": "big"}, {"spacing_mm": [float("nan")] * 3},
                                    {"nodes": {"a": 1}}, {"affine": 5}, {"split": None}])
def test_a_wrong_case_json_is_one_sentence(tmp_path, change):
    array = np.zeros((4, 4, 4))
    info = {"id": "a", "patient": "a", "split": "train", "kind": "phantom", "spacing_mm": [1.0] * 3, "labels": "t",
            "affine": AFFINE.tolist(), "window": [-120, 240], "nodes": []}
    case = write_prepared(tmp_path / "a", array, array, array, info)
    (case.folder / "case.json").write_text(json.dumps(case.info | change))
    with pytest.raises(LNSynthError, match="case.json: "):
        PreparedCase.open(case.folder)


def test_a_folder_takes_only_the_place_of_its_like(tmp_path):
    def put(*names, also=()):
        with atomic_folder(tmp_path / "f", also) as beside:
            for name in names:
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                (beside / name).write_text("new")

    put("a", "sub/b")
    put("a", "sub/b", "c")
    (tmp_path / "f" / ".DS_Store").write_text("")
    put("a", "sub/b", "c")
    with pytest.raises(LNSynthError, match="holds c, which LNSynth did not put there"):
        put("a", "sub/b")
    assert (tmp_path / "f" / "c").exists() and [p.name for p in tmp_path.iterdir()] == ["f"]
    put("a", also=("c", "sub/*"))
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["a"]
    (tmp_path / "g").write_text("mine")
    with pytest.raises(LNSynthError, match="a file of that name"), atomic_folder(tmp_path / "g"):
        pass
    assert (tmp_path / "g").read_text() == "mine"


def test_a_linked_folder_is_not_removed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "case.json").write_text("{}")
    os.symlink(tmp_path / "real", tmp_path / "link")
    assert not remove_ours(tmp_path / "link", ["case.json"]) and (tmp_path / "real" / "case.json").exists()
    assert remove_ours(tmp_path / "real", ["case.json"]) and not (tmp_path / "real").exists()


def test_shapes():
    shape = {"a": int, "b?": [(int, float)], "c": {str: {"x", "y", None}}}
    fine = {"a": 1, "b": [1, 2.5], "c": {"k": "x", "l": None}, "more": object()}
    assert check(fine, shape, "f") is fine
    for wrong, said in (({"a": True}, "f: a must be a whole number, not True"), ({"a": 1.0}, "a must be"),
                        ({"b": [float("nan")]}, r"b\[0\] must be"), ({"c": {"k": "z"}}, "c.k is one of"),
                        ({"c": {"k": []}}, "c.k is one of"), ({"b": {}}, "b must be a list")):
        with pytest.raises(LNSynthError, match=said):
            check(fine | wrong, shape, "f")
    with pytest.raises(LNSynthError, match="f: a is missing"):
        check({"c": {}}, shape, "f")
    with pytest.raises(LNSynthError, match="f: the file must hold a mapping"):
        check([], shape, "f")
