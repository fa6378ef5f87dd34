"""Which samples may be trained on, where people and the filter have spoken, and how a person sees it."""

import json
import re

import numpy as np
import pytest

from LNSynthLib import cli
from LNSynthLib.images import pictures
from LNSynthLib.review.samples import PAIR, pair_id
from LNSynthLib.review.standings import pairs, read_filter, standings
from LNSynthLib.review.verdicts import record
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import sha256, write_json

NAMES = ["a-1", "a-2", "a-10", "b-1"]


def make_sample(folder, name, seed=0):
    sample = folder / name
    sample.mkdir(parents=True, exist_ok=True)
    for file in PAIR:
        (sample / file).write_text(f"{file} of {name}, {seed}")
    grey = np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    pictures.write_png(sample / "montage.png", grey)
    write_json(sample / "provenance.json", {"outputs": {file: sha256(sample / file) for file in PAIR}})


def write_filter(folder, **coverage):
    """filter.csv as the filter writes it, with a threshold of 0.7 and one node a sample."""
    rows = [f"{name},{'yes' if share > 0.7 else 'no'},{share},1:{share},0.7,every,someone,"
            f"{'' if share > 0.7 else 'node 1 is missed'},{pair_id(folder / name)}"
            for name, share in ((n.replace("_", "-"), s) for n, s in coverage.items())]
    (folder / "filter.csv").write_text(
        "sample,kept,least_coverage,coverage,threshold,rule,segmenter,reason,pair\n" + "\n".join(rows) + "\n")
    write_json(folder / "filter.json", {"samples": len(rows)})


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        make_sample(tmp_path / "samples", name)
    return tmp_path / "samples"


def names(paths):
    return [path.name for path in paths]


def test_without_verdicts_every_sample_may_be_trained_on(folder):
    assert (names(pairs(folder)[0]), pairs(folder)[1]) == (NAMES, [])
    assert {s.status for s in standings(folder)} == {"undecided"}


def test_after_an_interrupted_filter_nothing_is_trained_on(folder):
    write_filter(folder, a_1=0.95)
    (folder / "filter.json").unlink()
    with pytest.raises(LNSynthError, match="the filter was interrupted"):
        pairs(folder)
    assert names(pairs(folder, filtered=False)[0]) == NAMES


def test_the_rejected_and_the_dropped_are_left_out_with_the_reason(folder):
    record(folder, "a-10", "reject", "gas in the node", "anna")
    record(folder, "a-2", "accept", "", "anna")
    record(folder, "a-1", "accept", "", "anna")
    write_filter(folder, a_1=0.95, a_2=0.4, a_10=0.1)
    kept, left_out = pairs(folder)
    assert names(kept) == ["a-1", "b-1"] and all(path.parent == folder for path in kept)
    assert left_out == [{"sample": "a-2", "reason": "dropped by the filter: node 1 is missed"},
                        {"sample": "a-10", "reason": "rejected by anna: gas in the node"}]
    assert names(pairs(folder, filtered=False)[0]) == ["a-1", "a-2", "b-1"]
    assert names(pairs(folder, reviewed=False)[0]) == ["a-1", "b-1"]
    assert names(pairs(folder, reviewed=False, filtered=False)[0]) == NAMES
    assert [s.status for s in standings(folder)] == ["accepted", "dropped", "rejected", "undecided"]


def test_the_rule_for_reviewers_who_disagree_is_passed_on(folder):
    record(folder, "a-1", "reject", "", "anna")
    record(folder, "a-1", "accept", "", "bob")
    assert names(pairs(folder)[0]) == NAMES[1:] and names(pairs(folder, rule="latest")[0]) == NAMES


def test_verdicts_about_a_sample_made_anew_say_nothing_about_it(folder):
    record(folder, "a-1", "reject", "", "anna")
    write_filter(folder, a_1=0.9, a_2=0.2)
    make_sample(folder, "a-1", seed=1)
    make_sample(folder, "a-2", seed=1)
    assert names(pairs(folder)[0]) == NAMES
    first, second = standings(folder)[:2]
    assert first.decision is None and [d.reviewer for d in first.stale] == ["anna"] and first.verdict is None
    assert second.verdict is None and second.status == "undecided"


def test_a_damaged_sample_is_left_out_whatever_was_said(folder):
    record(folder, "a-1", "accept", "", "anna")
    (folder / "a-1" / "nodes.nii.gz").unlink()
    assert pairs(folder)[1] == [{"sample": "a-1", "reason": "damaged: nodes.nii.gz missing"}]
    (folder / "a-2" / "provenance.json").write_text("{}")
    assert [one["sample"] for one in pairs(folder)[1]] == ["a-1", "a-2"]


def test_one_record_that_cannot_be_read_costs_its_sample_alone(folder, capsys):
    write_filter(folder, a_1=0.95, a_2=0.95)
    record(folder, "a-1", "accept", reviewer="A")
    record(folder, "a-2", "accept", reviewer="A")
    whole = (folder / "a-1" / "provenance.json").read_text()
    (folder / "a-1" / "provenance.json").write_text(whole[:40])
    assert {s.sample.name: s.status for s in standings(folder)} == {
        "a-1": "damaged", "a-2": "accepted", "a-10": "undecided", "b-1": "undecided"}
    (left_out,) = pairs(folder)[1]
    assert left_out["sample"] == "a-1" and left_out["reason"].startswith("damaged: provenance.json")
    assert cli.main(["review", "list", str(folder)]) == 0 and "1 damaged" in capsys.readouterr().out
    assert cli.main(["review", "page", str(folder)]) == 0
    (folder / "a-1" / "provenance.json").write_text(whole)
    assert standings(folder)[0].status == "accepted"  # what was said of it still holds


def test_what_is_no_folder_of_samples_and_damaged_tables_are_refused(folder, tmp_path):
    for wrong in (tmp_path / "nowhere", tmp_path, folder / "a-1"):
        with pytest.raises(LNSynthError, match="check the path|no synthetic samples|folder around it"):
            pairs(wrong)
    write_filter(folder, a_1=0.9)
    text = (folder / "filter.csv").read_text()
    for broken in (text.replace("yes", "perhaps"), text.replace("1:0.9", "1=0.9"), text.replace("kept", "held"),
                   text[:text.index("someone")]):
        (folder / "filter.csv").write_text(broken)
        with pytest.raises(LNSynthError, match="filter.csv: the filter's table is damaged"):
            read_filter(folder)
    (folder / "filter.csv").unlink()
    record(folder, "a-1", "reject", "", "anna")
    (folder / "review.csv").write_text((folder / "review.csv").read_text().replace("reject", "rejct"))
    with pytest.raises(LNSynthError, match="review.csv, line 2: .*'rejct'"):
        pairs(folder)


def test_the_verb_decides_and_lists(folder, capsys):
    assert cli.main(["review", "decide", str(folder), "a-1", "b-1", "--accept", "--reviewer", "anna"]) == 0
    assert cli.main(["review", "decide", str(folder), "a-2", "--reject", "--note", "no node", "--reviewer", "bob"]) == 0
    write_filter(folder, a_1=0.95, b_1=0.25)
    make_sample(folder, "a-1", seed=1)
    capsys.readouterr()
    assert cli.main(["review", "list", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "sample  status     found  why",
        "a-1     undecided          [accept by anna is about an earlier sample of this name]",
        "a-2     rejected          rejected by bob: no node",
        "a-10    undecided",
        "b-1     dropped     0.25  dropped by the filter: node 1 is missed",
        "4 samples: 0 accepted, 1 rejected, 2 undecided, 1 dropped, 0 damaged; 2 may be trained on",
        "3 samples came after the filter ran, so it leaves none of them out; run it again."]
    assert cli.main(["--events", "json", "review", "list", str(folder)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["result"]
    assert result["usable"] == 2 and result["counts"]["dropped"] == 1 and result["samples"][0]["stale"] == ["anna"]


@pytest.mark.parametrize("arguments, complaint", [
    (["a-1"], "one of the arguments --accept --reject is required"),
    (["a-1", "--accept", "--reject"], "not allowed with argument"), (["a-3", "--accept"], "no sample 'a-3'"),
    ([], "SAMPLE")])
def test_the_verb_refuses_what_is_no_decision(folder, capsys, arguments, complaint):
    assert cli.main(["review", "decide", str(folder), *arguments]) == 2
    assert complaint in capsys.readouterr().err and not (folder / "review.csv").exists()


def test_the_page_stands_alone_and_shows_every_sample_with_its_verdict(folder, capsys):
    record(folder, "a-1", "reject", "<gas> & air", "anna")
    write_filter(folder, a_2=0.25)
    assert cli.main(["review", "page", str(folder)]) == 0
    text = (folder / "review.html").read_text()
    assert "SYNTHETIC" in text and "&lt;gas&gt; &amp; air" in text and "<gas>" not in text
    assert re.findall(r"<figure class=(\w+)>", text) == ["rejected", "dropped", "undecided", "undecided"]
    assert len(re.findall("src='data:image/jpeg;base64,", text)) == 4 and "http" not in text
    assert "4 samples: 1 rejected, 1 dropped, 2 undecided." in text
