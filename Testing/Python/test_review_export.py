"""`lnsynth review export`: which samples leave the folder, in what form, and that nnU-Net reads it."""

import csv
import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from LNSynthLib import cli
from LNSynthLib.images.volume import Volume, read, write
from LNSynthLib.inspection import inspect
from LNSynthLib.review.export import export
from LNSynthLib.review.samples import PAIR, pair_id
from LNSynthLib.review.verdicts import record
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.files import read_json, sha256, write_json
from LNSynthLib.runtime.home import home
from LNSynthLib.runtime.pseudonyms import pseudonym

SAID = "SYNTHETIC: LNSynth test, not a patient's image"
AFFINE = np.array([[-1.5, 0.3, 0, 40], [0.3, 1.5, 0, 30], [0, 0, 2.5, -100], [0, 0, 0, 1.0]])


def make_sample(folder, name, seed=0):
    rng = np.random.default_rng(seed)
    nodes = np.zeros((12, 10, 8), np.uint16)
    nodes[2:4, 2:4, 2:4], nodes[6:9, 5:8, 3:6] = 3, 300
    for file, array in zip(PAIR, (rng.integers(-1000, 1500, nodes.shape).astype(np.int16), nodes), strict=True):
        write(folder / name / file, Volume(array, AFFINE), SAID)
    write_json(folder / name / "provenance.json", {
        "source": {"case": "p1"}, "what": "insertion",
        "outputs": {file: sha256(folder / name / file) for file in PAIR}})


@pytest.fixture
def samples(tmp_path):
    """a-1 and a-10 accepted, a-2 rejected by one of two, a-3 undecided, a-4 accepted and dropped, a-5 accepted before
    it was regenerated."""
    folder = tmp_path / "samples"
    for n in (1, 2, 3, 4, 5, 10):
        make_sample(folder, f"a-{n}", n)
    for name in ("a-1", "a-2", "a-4", "a-5", "a-10"):
        record(folder, name, "accept", "looks, real", reviewer="Ann")
    record(folder, "a-2", "reject", reviewer="Bea")
    record(folder, "a-2", "accept", reviewer="Ann")
    (folder / "filter.csv").write_text(
        "sample,kept,least_coverage,coverage,threshold,rule,segmenter,reason,pair\n"
        f"a-4,no,0.1,1:0.1,0.7,every,someone,missed,{pair_id(folder / 'a-4')}\n")
    write_json(folder / "filter.json", {"samples": 1})
    make_sample(folder, "a-5", 50)
    return folder


def test_only_what_was_accepted_leaves_with_its_provenance(samples, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["review", "export", str(samples), "--as", "nifti", "--out", str(out)]) == 0
    assert "2 accepted pairs (SYNTHETIC); left out: 1 rejected, 2 undecided, 1 dropped" in capsys.readouterr().out
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        "README.md", "dataset.csv", *(f"{kind}/{name}.{end}" for name in ("a-1", "a-10") for kind, end in (
            ("images", "nii.gz"), ("masks", "nii.gz"), ("provenance", "json")))}
    rows = list(csv.DictReader(open(out / "dataset.csv", newline="")))
    assert [row["case"] for row in rows] == ["a-1", "a-10"]
    assert rows[0] | {"time": ""} == {
        "case": "a-1", "image": "images/a-1.nii.gz", "mask": "masks/a-1.nii.gz", "nodes": "2", "source_case": "p1",
        "what": "insertion", "reviewer": "Ann", "note": "looks, real", "time": "", "pair": pair_id(samples / "a-1"),
        "image_sha256": sha256(out / "images/a-1.nii.gz")}
    for file, place in zip(PAIR, ("images", "masks"), strict=True):
        assert sha256(out / place / "a-1.nii.gz") == sha256(samples / "a-1" / file)
    assert "SYNTHETIC" in (out / "README.md").read_text()
    assert (out / "provenance" / "a-1.json").read_bytes() == (samples / "a-1" / "provenance.json").read_bytes()


@pytest.mark.parametrize("layout", ["nifti", "nnunet"])
def test_an_anonymous_export_names_nobody(samples, tmp_path, layout):
    """Every id, reviewer, note and file name is a pseudonym or gone; the same ones again the next time."""
    for name in ("a-1", "a-10"):
        record_file = samples / name / "provenance.json"
        content = read_json(record_file)
        write_json(record_file, content | {"source": {"case": "Mrs Smith", "files": {"ct": "smith.nii.gz"},
                                                      "nodes": {"file": "smith-nodes.nii.gz", "sha256": "0"}}})
    found = [export(samples, tmp_path / out, layout, anonymous=True)["cases"] for out in ("one", "two")]
    assert found[0] == found[1] and len(set(found[0])) == 2
    words = "".join(f"{f.file} {f.text}\n" for f in inspect(tmp_path / "one")) + "".join(
        path.read_text() for path in (tmp_path / "one").rglob("*") if path.suffix in (".csv", ".json", ".md"))
    assert not re.search(r"smith|\ba-1|\bAnn\b|looks", words, re.IGNORECASE), words
    kept = list(csv.DictReader(open(home() / "pseudonyms.csv", newline="")))
    assert {"kind": "case", "id": "Mrs Smith", "pseudonym": pseudonym("case", "Mrs Smith")} in kept


def test_the_rule_decides_where_reviewers_disagree(samples, tmp_path):
    assert export(samples, tmp_path / "o", "nifti", rule="latest")["cases"] == ["a-1", "a-2", "a-10"]


def test_nnunet_reads_what_is_written_for_it(samples, tmp_path):
    pytest.importorskip("nnunetv2")
    from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases, verify_labels
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    result = export(samples, tmp_path / "nnUNet_raw", "nnunet")
    out = tmp_path / "nnUNet_raw" / "Dataset501_LNSynth"
    assert result["folder"] == str(out)
    about = json.loads((out / "dataset.json").read_text())
    assert about["description"].startswith("SYNTHETIC") and "Ann" in about["description"]
    found = get_filenames_of_train_images_and_targets(str(out))
    assert list(found) == ["a-1", "a-10"] and about["numTraining"] == 2
    reader = determine_reader_writer_from_dataset_json(about, found["a-1"]["images"][0])
    labels = LabelManager(about["labels"], None)
    assert labels.foreground_labels == [1]
    for name, files in found.items():
        assert check_cases(files["images"], files["label"], 1, reader)
        assert verify_labels(files["label"], reader, labels.all_labels)
        mask = read(out / "labelsTr" / f"{name}.nii.gz")
        assert mask.array.dtype == np.uint8 and mask.array.sum() == 8 + 27
        for file in (*files["images"], files["label"]):
            assert nibabel.load(file).header["descrip"].item().startswith(b"SYNTHETIC")
    assert export(samples, tmp_path / "Dataset007_Mine", "nnunet")["folder"] == str(tmp_path / "Dataset007_Mine")


def test_refusals(samples, tmp_path, capsys):
    for layout, out in (("nifti", tmp_path), ("nifti", samples / "inside")):
        with pytest.raises(LNSynthError, match="choose another --out"):
            export(samples, out, layout)
    with (samples / "a-10" / "ct.nii.gz").open("ab") as stream:
        stream.write(b"!")
    with pytest.raises(LNSynthError, match="a-10.*not the file that was accepted"):
        export(samples, tmp_path / "o", "nifti")
    assert not (tmp_path / "o").exists()
    for name in ("a-1", "a-10"):
        record(samples, name, "reject", reviewer="Bea")
    assert cli.main(["review", "export", str(samples), "--as", "nifti", "--out", str(tmp_path / "o")]) == 2
    assert "no sample is accepted (3 rejected, 2 undecided, 1 dropped)" in capsys.readouterr().err


def test_cancelled_it_leaves_nothing(samples, tmp_path):
    def stop(event):
        if event.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        export(samples, tmp_path / "out", "nnunet", callback=stop)
    assert {p.name for p in tmp_path.iterdir()} <= {"samples", "out"} and not list((tmp_path / "out").glob("*"))
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("layout", ["nifti", "nnunet"])
def test_the_same_samples_give_the_same_bytes(samples, tmp_path, layout):
    found = []
    for out in (tmp_path / "one", tmp_path / "two"):
        folder = export(samples, out, layout)["folder"]
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        found.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert found[0] == found[1] and (layout == "nifti" or
                                     json.loads(found[0]["dataset.json"])["name"] == "Dataset501_LNSynth")
