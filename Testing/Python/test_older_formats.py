"""What the first versions wrote is read, resumed, judged, measured and exported by this one.

older_formats/ holds a data set of two phantoms, its preparation, a generator of a few weights with its training run and
a sample, as the version of 23 November 2026 wrote them; and verdicts and an experiment's plan of the day after.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest

from LNSynthLib import cli
from LNSynthLib.experiment.report.results import Results
from LNSynthLib.segmentation.settings import SegmentSettings
from LNSynthLib.segmentation.splits import divide


@pytest.fixture
def older(tmp_path, monkeypatch) -> Path:
    shutil.copytree(Path(__file__).parent / "older_formats", tmp_path / "older")
    monkeypatch.chdir(tmp_path / "older")
    return tmp_path / "older"


def lnsynth(capsys, *arguments: str) -> str:
    """What the command says; it must end well."""
    assert cli.main(list(arguments)) == 0, capsys.readouterr()
    told = capsys.readouterr()
    return told.out + told.err


def test_a_data_set_and_its_preparation_are_sampled_from(older, capsys):
    told = lnsynth(capsys, "synthesize", "--generator", "RUN", "--data", "DATASET", "--out", "NEW", "--steps", "2",
                   "--split", "all")
    assert "2 cases were prepared by an earlier version" in told and "2 samples made" in told
    assert "does not say what it was trained on" in told
    assert sorted(path.name for path in (older / "NEW").glob("[!.]*")) == ["phantom-3-000", "phantom-5-000"]


def test_prepared_cases_of_an_earlier_version_are_remade_on_request(older, capsys):
    assert "2 cases prepared, 0 unchanged" in lnsynth(capsys, "prepare", "DATASET", "--spacing", "5")
    case = json.loads((older / "DATASET" / "prepared" / "default" / "phantom-3" / "case.json").read_text())
    assert (case["format"], case["version"]) == (1, 3)
    assert "0 cases prepared, 2 unchanged" in lnsynth(capsys, "prepare", "DATASET", "--spacing", "5")


def test_a_training_run_is_resumed_and_lengthened(older, capsys):
    told = lnsynth(capsys, "train", "--data", "DATASET", "--out", "RUN", "--resume", "--set", "training.steps=3",
                   "--device", "cpu")
    assert "resuming after step 2" in told and "step 3, all steps done" in told
    log = [json.loads(line) for line in (older / "RUN" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3]


def test_a_verdict_stands_another_is_added_and_the_sample_is_exported(older, capsys):
    assert "1 rejected" in lnsynth(capsys, "review", "list", "PAIRS")
    lnsynth(capsys, "review", "decide", "PAIRS", "phantom-3-000", "--accept", "--reviewer", "AB")
    with open(older / "PAIRS" / "review.csv", newline="") as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == ["reject", "accept"]
    lnsynth(capsys, "review", "export", "PAIRS", "--as", "nifti", "--out", "OUT")
    assert (older / "OUT" / "images" / "phantom-3-000.nii.gz").is_file()


def test_samples_are_measured(older, capsys):
    lnsynth(capsys, "evaluate", "images", "--samples", "PAIRS", "--data", "DATASET", "--out", "SCORES")
    with open(older / "SCORES" / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample"] for row in rows] == ["phantom-3-000", "all"] and float(rows[0]["psnr"]) > 0


def test_samples_train_a_segmenter_once_they_are_accepted(older, capsys):
    settings = SegmentSettings(strategy="both", spacing_mm=5.0)
    left_out = divide([older / "DATASET"], [older / "PAIRS"], settings).left_out
    assert [one["reason"] for one in left_out] == ["rejected by AB: no node"]
    lnsynth(capsys, "review", "decide", "PAIRS", "phantom-3-000", "--accept", "--reviewer", "AB")
    division = divide([older / "DATASET"], [older / "PAIRS"], settings)
    assert [item.kind for item in division.train] == ["phantom", "synthetic"] and len(division.val) == 1


def test_samples_of_an_earlier_format_that_people_judged_are_not_replaced(older, capsys):
    assert cli.main(["synthesize", "--generator", "RUN", "--data", "DATASET", "--out", "PAIRS", "--steps", "2"]) == 2
    assert "people have judged them" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["dataset.json", "prepared/default/phantom-3/case.json"])
def test_a_format_of_a_later_version_is_refused_by_name(older, capsys, file):
    path = older / "DATASET" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    assert cli.main(["synthesize", "--generator", "RUN", "--data", "DATASET", "--out", "NEW", "--steps", "2"]) == 2
    told = f"{Path(file).name} has format 2, and this version of LNSynth reads formats up to 1"
    assert told in capsys.readouterr().err


def test_a_plan_of_an_earlier_version_is_read(older):
    results = Results(older / "EXPERIMENT")
    assert len(results.layout.cells) == 71 and not results.done() and not results.others()
