"""Training and validation of segmenters are apart: attempts to break it, and what is taken and left out."""

import csv
import json

import numpy as np
import pytest

from LNSynthLib.cases.dataset import Case, Dataset, voxels_sha256
from LNSynthLib.images.volume import Volume, write
from LNSynthLib.review.samples import pair_id
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import sha256
from LNSynthLib.segmentation.settings import SegmentSettings
from LNSynthLib.segmentation.splits import Division, check, divide

GRID = np.diag([2.0, 2.0, 2.0, 1.0])
BOTH = SegmentSettings(strategy="both", spacing_mm=2.0)


def dataset(folder, cases):
    """cases: id -> (patient, split) or (patient, split, False) where there is no node mask."""
    made = Dataset.create(folder)
    for id, (patient, split, *annotated) in cases.items():
        rng = np.random.default_rng(len(made.cases()) + 100 * len(str(folder)))
        ct = Volume(rng.integers(-1000, 1000, (4, 4, 4)).astype(np.int16), GRID)
        nodes = None if annotated else Volume(np.ones((4, 4, 4), np.uint16), GRID)
        made.add(Case(id, ct, nodes, None, {"patient": patient, "split": split}))
    return folder


def sample(folder, name, case, data, number=0, *, ct=None, spacing=2.0, window=(-120, 240)):
    """A synthetic sample as `synthesis.write_sample.write_sample` leaves it, as far as training looks at it."""
    place, grid = folder / name, np.diag([spacing] * 3 + [1.0])
    write(place / "ct.nii.gz", Volume(np.full((4, 4, 4), number, np.int16), grid))
    write(place / "nodes.nii.gz", Volume(np.ones((4, 4, 4), np.uint16), grid))
    known = {e["id"]: e["sha256"]["ct"] for e in Dataset.open(data).cases()}
    (place / "provenance.json").write_text(json.dumps({
        "source": {"case": case, "sha256": {"ct": ct or known.get(case)}},
        "sampling": {"sample": number}, "generator": {"settings": {"form": {
            "window": list(window), "spacing_mm": spacing}}},
        "outputs": {path.name: sha256(path) for path in place.glob("*.nii.gz")}}))
    return place


@pytest.fixture
def data(tmp_path):
    return dataset(tmp_path / "real", {"a": ("A", "train"), "b": ("B", "train"), "v": ("V", "val"), "t": ("T", "test")})


@pytest.fixture
def made(data, tmp_path):
    folder = tmp_path / "made"
    for case in "ab":
        for number in (10, 2, 1):
            sample(folder, f"{case}-{number:03d}", case, data, number)
    return folder


def names(items):
    return [item.name for item in items]


def test_real_takes_the_training_cases_and_validates_on_the_others(data):
    division = divide([data], [], SegmentSettings(spacing_mm=2.0))
    assert names(division.train) == ["a-real", "b-real"] and names(division.val) == ["v-real"]
    assert division.left_out == [{"name": "t-real", "reason": "of split test"}]


def test_synthetic_trains_on_synthetic_alone_and_still_validates_on_real(data, made):
    division = divide([data], [made], SegmentSettings(strategy="synthetic", spacing_mm=2.0))
    assert {item.kind for item in division.train} == {"synthetic"} and len(division.train) == 6
    assert names(division.val) == ["v-real"] and division.val[0].kind == "real"
    assert {"name": "a-real", "reason": "real, and the strategy is synthetic"} in division.left_out


def test_a_multiple_takes_the_lowest_numbers_of_each_case(data, made):
    division = divide([data], [made], SegmentSettings(strategy="both", multiple=2, spacing_mm=2.0))
    assert names(division.train) == ["a-real", "b-real", "a-001-synthetic1", "b-001-synthetic1", "a-002-synthetic1",
                                     "b-002-synthetic1"]
    assert [o["name"] for o in division.left_out if "beyond 2" in o["reason"]] == [
        "a-010-synthetic1", "b-010-synthetic1"]


def test_rejected_and_dropped_samples_are_left_out(data, made):
    from LNSynthLib.review.verdicts import record

    record(made, "a-001", "reject", "no node to see", "R")
    with open(made / "filter.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sample", "kept", "least_coverage", "coverage", "threshold", "rule", "segmenter", "reason",
                         "pair"])
        writer.writerow(["b-001", "no", 0.1, "1:0.1", 0.7, "every", "x", "node 1 missed", pair_id(made / "b-001")])
    (made / "filter.json").write_text("{}")
    division = divide([data], [made], BOTH)
    assert "a-001-synthetic1" not in names(division.train) and "b-001-synthetic1" not in names(division.train)
    assert {"name": "a-001-synthetic1", "reason": "rejected by R: no node to see"} in division.left_out
    everything = divide([data], [made], SegmentSettings(strategy="both", spacing_mm=2.0, reviewed=False,
                                                        filtered=False))
    assert len(everything.train) == 8


@pytest.mark.parametrize("case, split", [("v", "val"), ("t", "test")])
def test_children_of_validation_and_test_patients_are_refused(data, made, case, split):
    sample(made, f"{case}-000", case, data)
    for strategy in ("synthetic", "both"):
        with pytest.raises(LNSynthError, match=f"{case}-000-synthetic1 .* of split {split}, so it cannot be trained"):
            divide([data], [made], SegmentSettings(strategy=strategy, spacing_mm=2.0))


def test_the_child_of_a_patient_who_is_validated_by_another_case_is_refused(tmp_path):
    data = dataset(tmp_path / "d", {"a1": ("A", "train"), "a2": ("A", "val"), "b": ("B", "train"), "v": ("V", "val")})
    made = tmp_path / "made"
    sample(made, "a1-000", "a1", data)
    with pytest.raises(LNSynthError, match="patient A is on both sides: case a1 in .* split train, case a2 in .* val"):
        divide([data], [made], SegmentSettings(strategy="synthetic", spacing_mm=2.0))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_patient_on_both_sides_is_refused_across_data_sets_too(data, tmp_path, split):
    other = dataset(tmp_path / "other", {"x": ("A", split)})
    with pytest.raises(LNSynthError, match=f"patient A is on both sides: case a in .* case x in .* of split {split}"):
        divide([data, other], [], SegmentSettings(spacing_mm=2.0))


def test_the_same_ct_under_two_names_is_refused(data, tmp_path):
    made = Dataset.create(tmp_path / "copy")
    made.add(Case("copy", Dataset.open(data).load("a").ct, Dataset.open(data).load("a").nodes, None,
                  {"patient": "somebody else", "split": "test"}))
    with pytest.raises(LNSynthError, match="case a in .*case copy in .*are one CT"):
        divide([data, made.folder], [], SegmentSettings(spacing_mm=2.0))


def test_samples_of_unknown_origin_are_refused(data, made):
    sample(made, "z-000", "z", data)
    with pytest.raises(LNSynthError, match="z-000: it was made from case z, which is in none of the data sets"):
        divide([data], [made], BOTH)


def test_samples_of_another_case_of_the_same_name_are_refused(data, made):
    """Else the child of a test patient could come in under the name of a training case."""
    sample(made, "a-000", "a", data, ct="0" * 64)
    with pytest.raises(LNSynthError, match="a-000: it was made from another CT than that of case a"):
        divide([data], [made], BOTH)


def test_a_sample_under_the_name_of_another_case_is_known_by_its_voxels(data, made):
    """As where a viewer calls its files ct.nii: the name is one case's, the CT another's."""
    def child(case):
        place = sample(made, "x-000", "a", data, ct="0" * 64)
        record = json.loads((place / "provenance.json").read_text())
        record["source"]["voxels_sha256"] = voxels_sha256(Dataset.open(data).load(case).ct)
        (place / "provenance.json").write_text(json.dumps(record))

    for case in "ba":
        child(case)
        assert {item.name: item.case for item in divide([data], [made], BOTH).train}["x-000-synthetic1"] == case
    child("v")
    with pytest.raises(LNSynthError, match="x-000-synthetic1 .* shows case v of split val"):
        divide([data], [made], BOTH)


def test_divisions_made_by_others_are_checked_alike(data, made):
    whole = divide([data], [made], BOTH)
    held = whole.val
    for train, val, said in (
        ([*whole.train, held[0]], held, "two of the data sets"),
        (held, [], "no real case to validate on"),
        ([], held, "no image to train on"),
        (whole.train[:-1], whole.train[-1:], "cannot be validated on: it is synthetic"),
        (whole.train[1:], whole.train[:1], "a-real cannot be validated on"),
    ):
        with pytest.raises(LNSynthError, match=said):
            check(Division(train, val))


def test_what_is_missing_or_too_much_is_said(data, made, tmp_path):
    without = dataset(tmp_path / "no-val", {"a": ("A", "train")})
    unannotated = dataset(tmp_path / "bare", {"c": ("C", "train", False)})
    twin = dataset(tmp_path / "twin", {"a": ("C", "train")})
    for folders, samples, settings, said in (
        ([without], [], {}, "no real case to validate on; give some cases"),
        ([data], [made], {}, "strategy real takes no synthetic"),
        ([data], [], {"strategy": "both"}, "both needs a folder of synthetic"),
        ([data, twin], [], {}, "The case a is in two of the data sets"),
        ([data], [made], {"strategy": "both", "spacing_mm": 1.0}, "its voxels are 2 mm, and the segmenter's 1 mm"),
        ([data], [made], {"strategy": "both", "window": (-160, 240)}, "less than the segmenter's window -160 to 240"),
    ):
        with pytest.raises(LNSynthError, match=said):
            divide(folders, samples, SegmentSettings(**{"spacing_mm": 2.0, **settings}))
    division = divide([data, unannotated], [], SegmentSettings(spacing_mm=2.0))
    assert {"name": "c", "reason": "no node mask"} in division.left_out


def test_two_folders_of_samples_share_the_multiple(data, made, tmp_path):
    second = tmp_path / "second"
    sample(second, "a-001", "a", data, 1)
    division = divide([data], [made, second], SegmentSettings(strategy="synthetic", multiple=2, spacing_mm=2.0))
    assert [n for n in names(division.train) if n.startswith("a")] == ["a-001-synthetic1", "a-001-synthetic2"]
