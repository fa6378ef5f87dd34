"""The filter: what it measures, against a count by hand, what it keeps, and that it segments nothing twice."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from LNSynthLib import cli
from LNSynthLib.cases.dataset import Case, Dataset
from LNSynthLib.cases.prepare import PrepareSettings, prepare
from LNSynthLib.generators import model_folder
from LNSynthLib.images.volume import Volume, read, write
from LNSynthLib.masks.nodes import instances
from LNSynthLib.review.samples import PAIR
from LNSynthLib.review.standings import pairs, read_filter
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.files import sha256, write_json
from LNSynthLib.segmentation.filter import coverage, filter_samples, report

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 3, -5], [0, 1.5, 0, 7], [0, 0, 0, 1]])


class Bright:
    """A segmenter of soft tissue in fat: everything above a threshold in HU."""

    def __init__(self, hu=0, identity="bright-1"):
        self.hu, self.identity, self.seen = hu, identity, 0

    def predict(self, volume):
        self.seen += 1
        marked = volume.array > self.hu
        return SimpleNamespace(probability=marked.astype(np.float32), instances=instances(marked))


def make_sample(folder, name, shares, seed=0):
    """Two slabs of 50 voxels each are nodes 3 and 7; of each the given share is bright. No share: no node."""
    rng = np.random.default_rng(seed)
    hu, nodes = rng.integers(-120, -20, (12, 11, 10)).astype(np.int16), np.zeros((12, 11, 10), np.uint16)
    for node, x, share in zip((3, 7), (2, 8), shares, strict=False):
        nodes[x, 3:8] = node
        bright = rng.permutation(np.arange(50) < round(50 * share))
        hu[x, 3:8][bright.reshape(5, 10)] = 60
    write_pair(folder / name, Volume(hu, AFFINE), Volume(nodes, AFFINE))


def write_pair(sample, ct, nodes):
    """What the filter needs of a sample."""
    for name, volume in zip(PAIR, (ct, nodes), strict=True):
        write(sample / name, volume)
    write_json(sample / "provenance.json", {"outputs": {name: sha256(sample / name) for name in PAIR}})


SHARES = {"s-1": (1.0, 0.9), "s-2": (1.0, 0.5), "s-3": (0.7, 0.7), "s-10": (0.2, 0.0), "s-11": ()}


@pytest.fixture
def folder(tmp_path):
    for name, shares in SHARES.items():
        make_sample(tmp_path, name, shares)
    return tmp_path


def test_an_experiment_keeps_each_threshold_s_pairs_in_the_filter_s_own_cell(tmp_path, monkeypatch):
    from LNSynthLib.experiment.work import filtering
    from LNSynthLib.segmentation import predict

    monkeypatch.setattr(predict.Segmenter, "open", lambda path, device: Bright())
    for name, shares in SHARES.items():
        make_sample(tmp_path / "pairs" / "samples", name, shares)
    inputs, context = {"pairs": tmp_path / "pairs", "segmenter": tmp_path}, SimpleNamespace(device="cpu")
    for threshold, kept in ((0.7, ["s-1", "s-11"]), (0.4, ["s-1", "s-11", "s-2", "s-3"])):
        cell, folder = SimpleNamespace(settings={"threshold": threshold}), tmp_path / str(threshold)
        result = filtering(cell, inputs, folder, context, lambda event: None)
        assert sorted(path.name for path in (folder / "kept").iterdir()) == kept and result["kept"] == len(kept)
    assert sorted(path.name for path in (tmp_path / "0.7" / "kept").iterdir()) == ["s-1", "s-11"]
    assert (tmp_path / "0.7" / "kept" / "s-1" / PAIR[0]).samefile(tmp_path / "pairs" / "samples" / "s-1" / PAIR[0])


def rows(folder):
    with open(folder / "filter.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_coverage_is_the_share_of_each_node_counted_voxel_by_voxel(tmp_path):
    rng = np.random.default_rng(5)
    hu = rng.integers(-100, 100, (9, 8, 7)).astype(np.int16)
    nodes = rng.choice([0, 2, 3, 9], (9, 8, 7)).astype(np.uint16)
    write_pair(tmp_path / "s", Volume(hu, AFFINE), Volume(nodes, AFFINE))
    size, hit = dict.fromkeys((2, 3, 9), 0), dict.fromkeys((2, 3, 9), 0)
    for at in np.ndindex(hu.shape):
        if nodes[at]:
            size[nodes[at]] += 1
            hit[nodes[at]] += int(hu[at] > 20)
    found = coverage(tmp_path / "s", Bright(20))
    assert found == pytest.approx({node: hit[node] / size[node] for node in size}, abs=1e-6)
    assert 0 < min(found.values()) < max(found.values()) < 1


@pytest.mark.parametrize("rule, threshold, kept", [
    ("every", 0.7, ["s-1", "s-11"]), ("any", 0.7, ["s-1", "s-2", "s-11"]), ("mean", 0.7, ["s-1", "s-2", "s-11"]),
    ("every", 0.69, ["s-1", "s-3", "s-11"]), ("mean", 0.75, ["s-1", "s-11"]), ("any", 0.0, list(SHARES))])
def test_what_each_rule_keeps(folder, rule, threshold, kept):
    result = filter_samples(folder, Bright(), threshold, rule=rule)
    dropped = [name for name in SHARES if name not in kept]
    assert [path.name for path in pairs(folder)[0]] == kept
    assert [entry["sample"] for entry in result["dropped"]] == dropped and result["kept"] == len(kept)
    assert json.loads((folder / "filter.json").read_text()) == result


def test_the_table_and_the_report_say_what_was_dropped_and_why(folder):
    result = filter_samples(folder, Bright())
    found = {row["sample"]: row for row in rows(folder)}
    assert list(found) == list(SHARES)
    assert found["s-2"]["coverage"] == "3:1.000000 7:0.500000" and float(found["s-2"]["least_coverage"]) == 0.5
    assert found["s-2"]["reason"] == "node 7 is covered to 0.50, not above 0.7" and found["s-2"]["kept"] == "no"
    assert found["s-10"]["reason"] == "node 3 is covered to 0.20, node 7 is covered to 0.00, not above 0.7"
    assert (found["s-11"]["kept"], found["s-11"]["reason"]) == ("yes", "no node to find")
    settings = {(row["segmenter"], row["threshold"], row["rule"]) for row in found.values()}
    assert settings == {("bright-1", "0.7", "every")}
    assert {name: v.kept for name, v in read_filter(folder).items()} == {
        name: row["kept"] == "yes" for name, row in found.items()}
    assert report(result).splitlines() == [
        "filter: 2 of 5 samples kept, 3 dropped (coverage above 0.7 for every node)",
        "  dropped s-2: node 7 is covered to 0.50, not above 0.7",
        "  dropped s-3: node 3 is covered to 0.70, node 7 is covered to 0.70, not above 0.7",
        "  dropped s-10: node 3 is covered to 0.20, node 7 is covered to 0.00, not above 0.7"]
    mean = filter_samples(folder, Bright(), rule="mean")
    assert mean["dropped"][0]["reason"] == "its nodes are covered to 0.70 on average, not above 0.7"


def test_only_what_is_new_is_segmented(folder):
    judge = Bright()
    assert filter_samples(folder, judge)["segmented"] == judge.seen == 5
    for threshold, rule in ((0.7, "every"), (0.4, "every"), (0.9, "mean")):
        again = filter_samples(folder, judge, threshold, rule=rule)
        assert (again["segmented"], judge.seen) == (0, 5)
    make_sample(folder, "s-2", (1.0, 1.0), seed=1)
    make_sample(folder, "s-12", (0.0,), seed=2)
    assert [path.name for path in pairs(folder)[0]] == ["s-1", "s-2", "s-11", "s-12"]  # new ones: not judged yet
    assert filter_samples(folder, judge)["segmented"] == 2 and judge.seen == 7
    assert [path.name for path in pairs(folder)[0]] == ["s-1", "s-2", "s-11"]
    other = Bright(100, "bright-2")
    assert filter_samples(folder, other)["segmented"] == other.seen == 6
    assert {row["segmenter"] for row in rows(folder)} == {"bright-2"}


def test_interrupted_it_goes_on_where_it_was(folder):
    filter_samples(folder, Bright(hu=100, identity="earlier"))

    def stop(event):
        if event.done == 2:
            raise Cancelled("enough")

    judge = Bright()
    with pytest.raises(Cancelled):
        filter_samples(folder, judge, callback=stop)
    assert [row["sample"] for row in rows(folder)] == ["s-1", "s-2"] and not (folder / "filter.json").exists()
    assert filter_samples(folder, judge)["segmented"] == 3 and judge.seen == 5
    assert len(rows(folder)) == 5 and (folder / "filter.json").exists()


def test_what_cannot_be_judged_is_refused(folder):
    for threshold in (-0.1, 1.0, float("nan")):
        with pytest.raises(LNSynthError, match="threshold"):
            filter_samples(folder, Bright(), threshold)
    with pytest.raises(LNSynthError, match="every, any, mean"):
        filter_samples(folder, Bright(), rule="most")
    (folder / "s-1" / "empty").mkdir()
    with pytest.raises(LNSynthError, match="no synthetic samples"):
        filter_samples(folder / "s-1" / "empty", Bright())
    moved = AFFINE.copy()
    moved[0, 3] += 5
    write(folder / "s-3" / "nodes.nii.gz", Volume(np.ones((12, 11, 10), np.uint16), moved))
    with pytest.raises(LNSynthError, match="s-3: CT and nodes do not lie on one grid"):
        filter_samples(folder, Bright())
    assert [row["sample"] for row in rows(folder)] == ["s-1", "s-2"]  # what was judged before stays


def balls(rng, shown=None):
    """Fat in air with three balls, the nodes: (CT, nodes). Where a ball is not shown, the CT is fat."""
    hu, nodes = rng.normal(-90, 8, (24, 24, 24)), np.zeros((24, 24, 24), np.uint16)
    hu[[0, -1]] -= 900
    hu[:, [0, -1]] -= 900
    for node, centre in enumerate(((6, 6, 6), (17, 7, 15), (9, 17, 16)), 1):
        far = np.linalg.norm(np.indices(hu.shape).T - (np.array(centre) + rng.integers(-1, 2, 3)), axis=-1).T
        nodes[far <= 2.5] = node
        if shown is None or node in shown:
            hu[far <= 2.5] += 150
    return tuple(Volume(array, np.diag([4.0, 4, 4, 1])) for array in (np.rint(hu).astype(np.int16), nodes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(data set of balls, run of nnU-Net that was trained on it)."""
    from LNSynthLib.segmentation.settings import SegmentSettings, TrainerSettings
    from LNSynthLib.segmentation.train import train_segmenter

    home, rng = tmp_path_factory.mktemp("balls"), np.random.default_rng(0)
    data = Dataset.create(home / "data", kind="phantom")
    for n, split in enumerate(("train", "train", "train", "val")):
        ct, nodes = balls(rng)
        data.add(Case(f"balls-{n}", ct, nodes, entry={"split": split}))
    settings = SegmentSettings(spacing_mm=4.0, trainer=TrainerSettings(
        epochs=5, iterations=40, val_iterations=1, patch=(16, 16, 16), batch=2, features=(8, 16, 32), batch_dice=True,
        foreground=1.0, augmentation="none", mirror=False, mirror_prediction=False, keep_data=False))
    train_segmenter([data.folder], [], home / "run", settings, device="cpu")
    return data, home / "run"


@pytest.mark.slow
def test_nnunet_drops_the_sample_whose_ct_does_not_show_a_node(trained, tmp_path, capsys):
    from LNSynthLib.segmentation.predict import Segmenter

    rng = np.random.default_rng(1)
    for name, shown in (("all", (1, 2, 3)), ("none", ()), ("two", (1, 3))):
        ct, nodes = balls(rng, shown)
        write_pair(tmp_path / "pairs" / name, ct, nodes)
    judge = ["review", "filter", str(tmp_path / "pairs"), "--model", str(trained[1]), "--device", "cpu"]
    assert cli.main(judge) == 0
    out = capsys.readouterr().out
    assert "1 of 3 samples kept, 2 dropped" in out and "two: node 2 is covered to 0.00, not above 0.7" in out
    assert [path.name for path in pairs(tmp_path / "pairs")[0]] == ["all"]
    assert cli.main([*judge, "--filter-rule", "any"]) == 0
    assert [path.name for path in pairs(tmp_path / "pairs")[0]] == ["all", "two"]
    verdict = read_filter(tmp_path / "pairs")["two"]
    segmenter = Segmenter.open(trained[1], "cpu")
    found, nodes = segmenter.predict(read(tmp_path / "pairs/two/ct.nii.gz")), read(tmp_path / "pairs/two/nodes.nii.gz")
    assert verdict.segmenter == segmenter.identity
    assert verdict.coverage == pytest.approx(
        {node: (found.probability[nodes.array == node] > 0.5).mean() for node in (1, 2, 3)}, abs=1e-6)


@pytest.mark.slow
def test_synthesize_filters_what_it_made(trained, tmp_path, capsys):
    torch.manual_seed(0)
    generator = model_folder.save(tmp_path / "generator", model_folder.create("lnddpm", {
        "form": {"labels": "abdomen17", "anatomy_channels": 17, "spacing_mm": 4.0, "patch": [16, 16, 16]},
        "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8},
        "timesteps": 20}))
    data, run = trained
    prepare(data, PrepareSettings(spacing_mm=4.0, labels="abdomen17", name="coarse", allow_no_anatomy=True))
    make = ["synthesize", "--generator", str(generator), "--data", str(data.folder), "--prepared", "coarse", "--out",
            str(tmp_path / "out"), "--steps", "1", "--device", "cpu", "--filter"]
    assert cli.main([*make, str(tmp_path)]) == 2 and not (tmp_path / "out").exists()
    assert "no trained segmenter" in capsys.readouterr().err
    assert cli.main(["--events", "json", *make, str(run), "--threshold", "0.5"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["result"]
    assert len(result["made"]) == result["filter"]["samples"] == result["filter"]["segmented"] == 3
    assert result["filter"]["threshold"] == 0.5
    kept = [path.name for path in pairs(tmp_path / "out")[0]]
    assert sorted(kept + [d["sample"] for d in result["filter"]["dropped"]]) == sorted(result["made"])
    with open(tmp_path / "out" / "filter.csv") as stream:
        assert len(list(csv.DictReader(stream))) == 3
    with data.changing():
        data.entry("balls-0")["split"] = "test"
    assert cli.main([*make, str(run), "--split", "all"]) == 2
    assert "was trained on this patient: case balls-0" in capsys.readouterr().err


def test_under_torchrun_the_filter_waits_for_all_samples(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["synthesize", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--filter", "run"]) == 2
    assert "run the same command without torchrun" in capsys.readouterr().err
