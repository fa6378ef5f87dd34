"""A data set on disk: one manifest, files beside it, hashes that fit."""

import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from LNSynthLib.cases.dataset import Case, Dataset
from LNSynthLib.images.volume import Volume
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import sha256

AFFINE = np.diag([0.8, 0.9, 2.0, 1.0])
CT = np.random.default_rng(0).integers(-1000, 1000, (8, 9, 10)).astype(np.float32)


def case(id="a1", **entry) -> Case:
    nodes, anatomy = np.zeros((2, 8, 9, 10), np.uint16)
    nodes[2:4, 3:5, 4:6] = 300
    anatomy[5:, 5:, 5:] = 52
    return Case(id, Volume(CT, AFFINE), Volume(nodes, AFFINE), Volume(anatomy, AFFINE), entry)


def test_a_case_comes_back(tmp_path):
    dataset = Dataset.create(tmp_path / "d", "mine", "real", "a note")
    added = dataset.add(case(patient="p1", split="val", source="here"))
    again = Dataset.open(tmp_path / "d")
    assert (again.name, again.kind, again.manifest["note"]) == ("mine", "real", "a note")
    loaded = again.load("a1")
    assert loaded.entry == added and (added["patient"], added["split"], added["source"]) == ("p1", "val", "here")
    for found, wanted in ((loaded.ct, CT), (loaded.nodes, case().nodes.array), (loaded.anatomy, case().anatomy.array)):
        np.testing.assert_array_equal(found.array, wanted)
        np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)
    assert [v.array.dtype for v in (loaded.ct, loaded.nodes, loaded.anatomy)] == [np.int16, np.uint16, np.uint8]


def test_the_manifest_says_where_and_what_the_files_are(tmp_path):
    dataset = Dataset.create(tmp_path)
    entry = dataset.add(case())
    assert entry["files"] == {role: f"cases/a1/{role}.nii.gz" for role in ("ct", "nodes", "anatomy")}
    for role, path in entry["files"].items():
        assert sha256(tmp_path / path) == entry["sha256"][role]
    assert entry["patient"] == "a1" and entry["split"] == "train" and entry["anatomy_version"] == 2


def test_fractional_hu_stay_fractional(tmp_path):
    dataset = Dataset.create(tmp_path)
    dataset.add(Case("a", Volume(CT + 0.25, AFFINE)))
    loaded = dataset.load("a")
    np.testing.assert_array_equal(loaded.ct.array, CT + 0.25)
    assert loaded.nodes is None and loaded.anatomy is None and loaded.entry["anatomy_version"] is None


def test_a_case_of_the_same_id_is_replaced(tmp_path):
    dataset = Dataset.create(tmp_path)
    dataset.add(case(split="train"))
    dataset.add(case(split="test"))
    assert [(e["id"], e["split"]) for e in dataset.cases()] == [("a1", "test")]


def test_cases_are_listed_by_id_and_split(tmp_path):
    dataset = Dataset.create(tmp_path)
    for id, split in (("c", "val"), ("a", "train"), ("b", "train")):
        dataset.add(case(id, split=split))
    assert [e["id"] for e in dataset.cases()] == ["a", "b", "c"]
    assert [e["id"] for e in dataset.cases("train")] == ["a", "b"]
    assert dataset.summary() == {"cases": 3, "train": 2, "val": 1, "test": 0}


def test_anatomy_can_come_later(tmp_path):
    dataset = Dataset.create(tmp_path)
    dataset.add(Case("a", Volume(CT, AFFINE)))
    dataset.attach_anatomy("a", case().anatomy, version=1)
    loaded = Dataset.open(tmp_path).load("a")
    np.testing.assert_array_equal(loaded.anatomy.array, case().anatomy.array)
    assert loaded.entry["anatomy_version"] == 1


@pytest.mark.parametrize("kind, marked", [("real", False), ("phantom", True), ("pseudo", True)])
def test_only_a_real_ct_goes_unmarked(tmp_path, kind, marked):
    dataset = Dataset.create(tmp_path, kind=kind)
    dataset.add(case())
    description = nibabel.load(dataset.path("a1", "ct")).header["descrip"].item().decode()
    assert ("SYNTHETIC" in description) == marked


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(LNSynthError, match="no data set here"):
        Dataset.open(tmp_path)
    dataset = Dataset.create(tmp_path)
    with pytest.raises(LNSynthError, match="already is a data set"):
        Dataset.create(tmp_path)
    with pytest.raises(LNSynthError, match="no case 'x' in this data set"):
        dataset.load("x")
    for content in ("[1, 2]", json.dumps({"format": "one", "cases": []})):
        (tmp_path / "dataset.json").write_text(content)
        with pytest.raises(LNSynthError, match="not a manifest of format 1"):
            Dataset.open(tmp_path)


@pytest.mark.parametrize("id", ["", "../a", "a/b", ".a", "a b", "ä"])
def test_an_id_is_a_folder_name(tmp_path, id):
    dataset = Dataset.create(tmp_path)
    with pytest.raises(LNSynthError, match="cannot name a folder"):
        dataset.add(case(id))
    assert not (tmp_path / "cases").exists()


def test_a_split_is_one_of_three(tmp_path):
    with pytest.raises(LNSynthError, match="one of train, val, test, not 'validation'"):
        Dataset.create(tmp_path).add(case(split="validation"))


def test_a_case_whose_file_is_gone_is_refused(tmp_path):
    dataset = Dataset.create(tmp_path)
    dataset.add(case())
    dataset.path("a1", "nodes").unlink()
    with pytest.raises(LNSynthError, match="nodes.nii.gz: there is no such file"):
        dataset.load("a1")


ADDER = """
import sys
import numpy as np
from pathlib import Path
from LNSynthLib.cases.dataset import Case, Dataset
from LNSynthLib.images.volume import Volume
dataset = Dataset.open_or_create(Path(sys.argv[1]))
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    dataset.add(Case(f"{sys.argv[2]}{n}", Volume(np.full((4, 4, 4), n, np.int16), np.eye(4))))
"""


def test_several_programs_add_to_one_data_set_and_lose_nothing(tmp_path, repository):
    adders = [subprocess.Popen([sys.executable, "-c", ADDER, str(tmp_path / "d"), who, "8"], stdin=subprocess.PIPE,
                               cwd=repository) for who in "abc"]
    for adder in adders:  # all have opened it before any adds
        adder.stdin.write(b"go\n")
        adder.stdin.close()
    assert [adder.wait(60) for adder in adders] == [0, 0, 0]
    dataset = Dataset.open(tmp_path / "d")
    assert [e["id"] for e in dataset.cases()] == [f"{who}{n}" for who in "abc" for n in range(8)]
    assert all(dataset.load(e["id"]).ct.array[0, 0, 0] == int(e["id"][1]) for e in dataset.cases())
    assert [path.name for path in (tmp_path / "d").rglob(".*")] == []


def test_what_others_changed_meanwhile_stays(tmp_path):
    first = Dataset.create(tmp_path)
    for id in ("a", "b", "c"):
        first.add(case(id))
    second = Dataset.open(tmp_path)
    first.entry("a")["split"] = "test"
    first.manifest["cases"] = [e for e in first.manifest["cases"] if e["id"] != "b"]
    first.save()
    second.entry("c")["split"] = "val"
    second.manifest["note"] = "mine"
    second.save()
    second.attach_anatomy("a", case().anatomy, 1)
    found = Dataset.open(tmp_path)
    assert {e["id"]: e["split"] for e in found.cases()} == {"a": "test", "c": "val"}
    assert found.manifest["note"] == "mine" and found.entry("a")["anatomy_version"] == 1
    assert found.manifest == second.manifest


def test_a_file_that_is_not_the_one_of_the_manifest_is_refused(tmp_path):
    dataset = Dataset.create(tmp_path)
    dataset.add(case("a"))
    other = Dataset.open(tmp_path)
    dataset.add(case("b"))
    dataset.path("a", "nodes").write_bytes(dataset.path("b", "anatomy").read_bytes())
    with pytest.raises(LNSynthError, match=r"a.nodes.nii.gz: the file is damaged, or was changed after it was added"):
        dataset.load("a")
    assert dataset.accept_changes("a") == ["nodes"]
    dataset.load("a")
    other.load("a")  # opened before: what another program recorded since holds
    dataset.entry("b")["sha256"] = {}  # as a manifest by hand, without hashes
    dataset.load("b")
