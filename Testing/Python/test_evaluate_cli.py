"""`lnsynth evaluate segmentation`: what it matches, prints, writes and refuses."""

import csv
import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from LNSynthLib.cli import main
from LNSynthLib.evaluation.segmentation import METRICS, CaseScore, pool, score_case
from LNSynthLib.images.volume import Volume, write

SHAPE = (24, 20, 14)
LPS = np.array([[-0.8, 0, 0, 30], [0, -0.8, 0, 20], [0, 0, 2.0, -10], [0, 0, 0, 1]])  # as most CTs are stored
CASES = ("liver_001", "liver_002", "liver_003")


def scene(seed):
    rng = np.random.default_rng(seed)
    nodes, probability = np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, np.float32)
    grid = np.moveaxis(np.indices(SHAPE), 0, -1)
    for id in range(1, 4):
        centre, radius = rng.uniform(4, np.subtract(SHAPE, 4)), rng.uniform(2, 4)
        nodes[(np.linalg.norm(grid - centre, axis=-1) < radius) & (nodes == 0)] = id
        for blob in (centre + 1, rng.uniform(0, SHAPE)):
            height = rng.uniform(0.4, 1) / (1 + np.exp(np.linalg.norm(grid - blob, axis=-1) - radius))
            probability = np.maximum(probability, height.astype(np.float32))
    return nodes, probability


@pytest.fixture
def folders(tmp_path):
    """Predictions as nnU-Net leaves them: masks, .npz of (class, z, y, x), and its own JSON files beside them."""
    for seed, name in enumerate(CASES):
        nodes, probability = scene(seed)
        write(tmp_path / "truth" / f"{name}.nii.gz", Volume(nodes, LPS))
        write(tmp_path / "predicted" / f"{name}.nii.gz", Volume((probability > 0.5).astype(np.uint8), LPS))
        write(tmp_path / "probability" / f"{name}.nii.gz", Volume(probability, LPS))
        both = np.stack([1 - probability, probability]).transpose(0, 3, 2, 1)
        np.savez_compressed(tmp_path / "predicted" / f"{name}.npz", probabilities=both)
    (tmp_path / "predicted" / "plans.json").write_text("{}")
    return tmp_path


def evaluate(folder, *more):
    return main(["evaluate", "segmentation", "--predicted", str(folder / "predicted"), "--truth",
                 str(folder / "truth"), *more])


def expected():
    """The arrays above, flipped to where their axes point, scored without files."""
    flipped = [[np.flip(array, (0, 1)) for array in scene(seed)] for seed in range(3)]
    return [score_case(p > 0.5, nodes, (0.8, 0.8, 2.0), probability=p) for nodes, p in flipped]


@pytest.mark.parametrize("probability", ["probability", "predicted"])
def test_scores_are_written_and_printed(folders, probability, capsys):
    out = folders / "out"
    assert evaluate(folders, "--probability", str(folders / probability), "--out", str(out)) == 0
    scores = json.loads((out / "scores.json").read_text())
    wanted = expected()
    found = [CaseScore.from_dict(scores["cases"][name]) for name in CASES]
    for ours, theirs in zip(found, wanted, strict=True):
        for a, b in zip(ours.nodes, theirs.nodes, strict=True):
            assert asdict(a) == pytest.approx(asdict(b), rel=1e-6)  # NIfTI holds spacings in float32
        assert [c.finds for c in ours.candidates] == [c.finds for c in theirs.candidates]
        assert [c.score for c in ours.candidates] == pytest.approx([c.score for c in theirs.candidates])
        assert [getattr(ours, m) for m in METRICS] == pytest.approx([getattr(theirs, m) for m in METRICS])
    assert scores["pooled"] == pool(found) and scores["settings"]["connectivity"] == 26
    assert scores["intervals"]["dsc"]["patients"] == 3 and scores["froc"]["sensitivity"][0] == 0
    assert scores["froc"]["at"]["8"] == pytest.approx(sum(n.found for s in wanted for n in s.nodes)
                                                      / sum(len(s.nodes) for s in wanted))
    with open(out / "scores.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == [*CASES, "all"]
    assert [float(row["assd_mm"]) for row in rows[:3]] == pytest.approx([s.assd_mm for s in wanted])
    assert float(rows[-1]["node_recall"]) == pytest.approx(pool(wanted)["node_recall"])
    picture = np.asarray(Image.open(out / "froc.png").convert("RGB"))
    assert picture.shape[0] > 400 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    printed = capsys.readouterr().out
    assert "liver_002" in printed and "10-15 mm" in printed and str(out / "froc.png") in printed


def test_files_without_probabilities_and_settings(folders, capsys):
    predicted, truth = (folders / kind / "liver_001.nii.gz" for kind in ("predicted", "truth"))
    assert main(["--events", "json", "evaluate", "segmentation", "--predicted", str(predicted), "--truth", str(truth),
                 "--set", "connectivity=6", "strata_mm=[5]", "node_recall=pooled", "--out", str(folders)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["result"]
    assert result["settings"]["connectivity"] == 6 and result["pooled"]["cases"] == 1
    assert set(result["pooled"]["node_recall_by_short_axis"]) == {"<5", ">5"}
    assert [name for name in ("scores.csv", "scores.json", "froc.png") if (folders / name).exists()] == [
        "scores.csv", "scores.json"]
    assert json.loads((folders / "scores.json").read_text())["froc"] is None
    assert result["intervals"]["dsc"]["low"] is None  # one patient has no interval


def test_truth_of_one_value_is_separated_into_nodes(folders, capsys):
    nodes = np.zeros(SHAPE, np.uint8)
    nodes[2:5, 2:5, 2:5] = nodes[10:14, 10:14, 6:9] = 255
    for kind in ("truth", "predicted"):
        write(folders / f"one_{kind}.nii.gz", Volume(nodes.astype(np.float32), LPS))
    assert main(["evaluate", "segmentation", "--predicted", str(folders / "one_predicted.nii.gz"),
                 "--truth", str(folders / "one_truth.nii.gz")]) == 0
    header, *rows = (line.split() for line in capsys.readouterr().out.splitlines()[:3])
    assert dict(zip(header, rows[-1], strict=True)) == {
        "case": "all", "dsc": "1", "iou": "1", "recall": "1", "precision": "1", "assd_mm": "0", "node_recall": "1",
        "false_positives": "0", "nodes": "2", "found": "2"}


def shift(folders):
    write(folders / "predicted" / "liver_002.nii.gz",
          Volume(np.zeros(SHAPE, np.uint8), LPS + np.array([[0, 0, 0, 4.0], [0] * 4, [0] * 4, [0] * 4])))


def crop(folders):
    write(folders / "predicted" / "liver_002.nii.gz", Volume(np.zeros((8, 8, 8), np.uint8), LPS))


def fractions(folders):
    write(folders / "predicted" / "liver_002.nii.gz", Volume(np.full(SHAPE, 0.5, np.float32), LPS))


def lost(folders):
    (folders / "predicted" / "liver_002.nii.gz").unlink()


def surplus(folders):
    (folders / "truth" / "liver_003.nii.gz").unlink()


def doubled(folders):
    write(folders / "truth" / "liver_003.nrrd", Volume(scene(2)[0], LPS))


def empty(folders):
    for path in (folders / "truth").iterdir():
        path.unlink()


@pytest.mark.parametrize("damage, wanted", [
    (shift, "one grid: their voxels lie up to 4 mm apart"), (crop, "one grid: the shapes are"),
    (fractions, "holds fractions"), (lost, "no file for liver_002"), (surplus, "no file for liver_003"),
    (doubled, "are of the same case"), (empty, "no volume file")])
def test_folders_that_do_not_fit_are_refused(folders, damage, wanted, capsys):
    damage(folders)
    assert evaluate(folders, "--out", str(folders / "out")) == 2
    assert wanted in capsys.readouterr().err and not (folders / "out").exists()


def test_probabilities_that_do_not_fit_are_refused(folders, capsys):
    (folders / "probability" / "liver_002.nii.gz").unlink()
    assert evaluate(folders, "--probability", str(folders / "probability")) == 2
    assert "no file for liver_002" in capsys.readouterr().err
    np.savez_compressed(folders / "predicted" / "liver_002.npz", probabilities=np.zeros((2, 3, 3, 3)))
    assert evaluate(folders, "--probability", str(folders / "predicted")) == 2
    assert "liver_002.npz" in (error := capsys.readouterr().err) and "one grid" in error
    (folders / "predicted" / "liver_002.npz").write_bytes(b"PK")
    assert evaluate(folders, "--probability", str(folders / "predicted")) == 2
    assert "liver_002.npz" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, wanted", [
    ([], "missing: segmentation|images"), (["images_of_cats"], "segmentation|images"),
    (["segmentation"], "--predicted, --truth"),
    (["segmentation", "--predicted", "nowhere", "--truth", "."], "nowhere: there is no such file"),
    (["segmentation", "--predicted", ".", "--truth", "lone.nii.gz"], "give folders for all"),
    (["segmentation", "--predicted", ".", "--truth", ".", "--set", "connectivity=8"], "one of 6, 18, 26"),
])
def test_arguments_that_make_no_sense(arguments, wanted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lone.nii.gz").touch()
    assert main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert wanted in error and len(error.splitlines()) == 1
