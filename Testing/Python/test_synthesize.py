"""Many samples from a data set: what each is, and that it is the same whoever computes it and however often."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from LNSynthLib import cli
from LNSynthLib.cases.prepare import PrepareSettings, prepare
from LNSynthLib.conditions.transforms import VarySettings
from LNSynthLib.generators import model_folder
from LNSynthLib.images.volume import read, same_grid
from LNSynthLib.masks.labels import LabelTable, table_path
from LNSynthLib.phantom.phantom import phantom_dataset
from LNSynthLib.review.verdicts import record
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.files import sha256
from LNSynthLib.runtime.seeds import derive
from LNSynthLib.synthesis.patch_draft import draft, prepared_cases
from LNSynthLib.synthesis.synthesize import SynthesizeSettings, synthesize

SETTINGS = SynthesizeSettings(per_case=2, seed=3, steps=2)
FILES = {"ct.nii.gz", "nodes.nii.gz", "anatomy.nii.gz", "montage.png", "provenance.json"}


def make_generator(folder, seed=0, **form):
    """A small LN-DDPM whose weights are random but not zero, so that every seed and condition shows."""
    torch.manual_seed(seed)
    model = model_folder.create("lnddpm", {
        "form": {"labels": "abdomen17", "anatomy_channels": 17, "expected_hu": True, "spacing_mm": 4.0,
                 "patch": [16, 16, 16], **form},
        "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8},
        "timesteps": 20})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model_folder.save(folder, model)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return make_generator(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    dataset = phantom_dataset(folder, 2, seed=1, spacing=4.0, nodes=4, shares=(1, 0, 0))
    prepare(dataset, PrepareSettings(spacing_mm=4.0, labels="abdomen17", name="coarse"))
    return folder


@pytest.fixture(scope="module")
def made(generator, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    result = synthesize(generator, [data], out, SETTINGS, "cpu")
    return out, result


def digests(folder: Path) -> dict:
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_each_sample_is_a_pair_with_its_provenance(made, generator, data):
    out, result = made
    assert len(result["made"]) == 4 and sorted(result["made"]) == sorted(p.name for p in out.iterdir())
    table, cases = LabelTable.load("abdomen17"), {c.id: c for c in prepared_cases([data], _form(generator), "train")}
    for name in result["made"]:
        assert {p.name for p in (out / name).iterdir()} == FILES
        ct, nodes, anatomy = (read(out / name / f"{what}.nii.gz") for what in ("ct", "nodes", "anatomy"))
        record = json.loads((out / name / "provenance.json").read_text())
        assert ct.shape == (16, 16, 16) and ct.array.dtype == np.int16 and ct.spacing == pytest.approx((4, 4, 4))
        assert ct.array.min() >= -120 and ct.array.max() <= 240 and ct.array.std() > 1
        assert same_grid(ct, nodes)[0] and same_grid(ct, anatomy)[0]
        assert b"SYNTHETIC" in _header(out / name / "ct.nii.gz")
        assert nodes.array.any()
        # The anatomy is that of the case, in place, and no node lies on an organ.
        case = cases[record["source"]["case"]]
        box = tuple(slice(s, s + 16) for s in record["condition"]["start"])
        there = table.to_totalsegmentator(case.anatomy(box))
        assert np.array_equal(anatomy.array, there) and not anatomy.array[nodes.array > 0].any()
        assert ct.affine @ [0, 0, 0, 1] == pytest.approx(case.affine @ [*record["condition"]["start"], 1], abs=1e-3)
        assert record["what"] == "patch" and record["source"]["kind"] == "phantom"
        assert record["source"]["prepared_settings"]["name"] == "coarse"
        number = int(name[-3:])
        assert record["sampling"]["run_seed"] == 3 and record["sampling"]["sample"] == number
        assert record["sampling"]["seed"] == derive(3, "synthesize", case.id, number)
        assert record["generator"]["labels_sha256"] == sha256(table_path("abdomen17"))
        assert record["outputs"]["ct.nii.gz"] == sha256(out / name / "ct.nii.gz")
        assert {r["operation"] for r in record["condition"]["nodes"]} <= {"affine", "elastic", "removed", "unchanged"}
    different = {sha256(out / name / "ct.nii.gz") for name in result["made"]}
    assert len(different) == 4


def _form(generator):
    return model_folder.load(generator)[0].form


def _header(path):
    import nibabel

    return bytes(nibabel.load(path).header["descrip"])


def test_running_again_makes_nothing_and_damage_is_repaired(made, generator, data, tmp_path):
    shutil.copytree(made[0], tmp_path / "out")
    out, before = tmp_path / "out", digests(made[0])
    names = sorted(p.name for p in out.iterdir())
    assert synthesize(generator, [data], out, SETTINGS, "cpu")["made"] == []
    with open(out / names[0] / "ct.nii.gz", "r+b") as stream:
        stream.truncate(100)
    (out / names[1] / "provenance.json").unlink()
    shutil.rmtree(out / names[2])
    result = synthesize(generator, [data], out, SETTINGS, "cpu")
    assert sorted(result["made"]) == names[:3] and result["unchanged"] == names[3:]
    assert sorted(result["replaced"]) == names[:2]
    assert digests(out) == before


def test_samples_that_people_judged_are_not_replaced_by_others(made, generator, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    name = sorted(path.name for path in out.glob("*/"))[0]
    record(out, name, "accept", reviewer="A")
    before = (out / name / "provenance.json").read_bytes()
    with pytest.raises(LNSynthError, match=f"{name} were made with other settings .* choose another --out"):
        synthesize(generator, [data], out, replace(SETTINGS, seed=99), "cpu")
    assert (out / name / "provenance.json").read_bytes() == before
    (out / name / "ct.nii.gz").unlink()  # damaged: made again as it was
    assert synthesize(generator, [data], out, SETTINGS, "cpu")["replaced"] == [name]


@pytest.mark.parametrize("changed", [{"seed": 4}, {"steps": 3}, {"vary": VarySettings(remove=0.0, elastic=1.0)}])
def test_other_settings_make_other_samples(made, generator, data, tmp_path, changed):
    shutil.copytree(made[0], tmp_path / "out")
    settings = SynthesizeSettings(**{"per_case": 1, "seed": 3, "steps": 2, **changed})
    result = synthesize(generator, [data], tmp_path / "out", settings, "cpu")
    assert len(result["made"]) == 2 and result["replaced"] == result["made"]
    for name in result["made"]:
        assert sha256(tmp_path / "out" / name / "ct.nii.gz") != sha256(made[0] / name / "ct.nii.gz")


def test_more_samples_leave_the_first_ones_as_they_are(made, generator, data, tmp_path):
    shutil.copytree(made[0], tmp_path / "out")
    result = synthesize(generator, [data], tmp_path / "out", SynthesizeSettings(per_case=3, seed=3, steps=2), "cpu")
    assert len(result["made"]) == 2 and len(result["unchanged"]) == 4


def test_shares_of_two_processes_are_the_same_samples(made, generator, data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        shares.append(synthesize(generator, [data], tmp_path, SETTINGS, "cpu")["made"])
    assert all(len(share) == 2 for share in shares) and not set(shares[0]) & set(shares[1])
    assert digests(tmp_path) == digests(made[0])


def test_threads_of_the_caller_do_not_matter(made, generator, data, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        synthesize(generator, [data], tmp_path, SETTINGS, "cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert digests(tmp_path) == digests(made[0])


@pytest.mark.slow
def test_workers_make_the_same_samples(made, generator, data, tmp_path, capsys):
    status = cli.main(["--events", "json", "synthesize", "--generator", str(generator), "--data", str(data), "--out",
                       str(tmp_path), "--per-case", "2", "--seed", "3", "--steps", "2", "--workers", "2",
                       "--device", "cpu"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert status == 0 and len(events[-1]["result"]["made"]) == 4
    assert max(e.get("done", 0) for e in events) == 8
    assert digests(tmp_path) == digests(made[0])


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_stopped_by_a_signal_whole_samples_stay_and_no_process_does(generator, data, tmp_path, workers):
    import psutil

    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "LNSynthLib", "synthesize", "--generator", str(generator), "--data", str(data), "--out",
         str(out), "--per-case", "500", "--steps", "15", "--workers", workers, "--device", "cpu"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while len(list(out.glob("[!.]*/provenance.json")) if out.exists() else []) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    samples = [p for p in out.iterdir() if not p.name.startswith(".")]
    assert 3 <= len(samples) < 1000
    assert all({f.name for f in p.iterdir()} == FILES for p in samples)
    assert not [p for p in out.iterdir() if p.name.startswith(".")], "half-made samples were left behind"
    assert "cancelled" in process.stderr.read()


def test_cancelled_in_process_leaves_whole_samples(generator, data, tmp_path):
    finished = []

    def stop(event):
        finished.extend([event.message] if event.message.endswith(" done") else [])
        if len(finished) == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        synthesize(generator, [data], tmp_path, SETTINGS, "cpu", stop)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_draft_moves_nodes_and_leaves_the_anatomy(generator, data):
    form = _form(generator)
    case = prepared_cases([data], form, None)[0]
    as_it_is = draft(case, form, 5, None)
    varied = draft(case, form, 5, VarySettings())
    assert as_it_is.start == varied.start
    assert np.array_equal(as_it_is.nodes > 0, case.nodes(as_it_is.box) > 0)
    assert np.array_equal(as_it_is.anatomy, varied.anatomy)
    assert not np.array_equal(as_it_is.nodes, varied.nodes) and varied.records
    condition = varied.condition()
    assert condition.shape == (1, 19, 16, 16, 16)
    assert np.array_equal(condition[0, 17].numpy() > 0, varied.nodes > 0)


def test_data_that_do_not_fit_the_generator_are_refused(data, tmp_path):
    fine = make_generator(tmp_path / "fine", spacing_mm=1.0)
    with pytest.raises(LNSynthError, match="lnsynth prepare .*--spacing 1 --labels abdomen17"):
        synthesize(fine, [data], tmp_path / "out", SETTINGS, "cpu")
    with pytest.raises(LNSynthError, match="split test"):
        synthesize(make_generator(tmp_path / "coarse"), [data], tmp_path / "out", SynthesizeSettings(split="test"),
                   "cpu")
    assert not (tmp_path / "out").exists()


def test_one_of_several_preparations_has_to_be_named(generator, data, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    shutil.copytree(copied / "prepared" / "coarse", copied / "prepared" / "another")
    form = _form(generator)
    with pytest.raises(LNSynthError, match=r"another, coarse\); choose one with --prepared"):
        synthesize(generator, [copied], tmp_path / "out", SETTINGS, "cpu")
    with pytest.raises(LNSynthError, match="no preparation fine .*--prepared another or coarse"):
        prepared_cases([copied], form, None, "fine")
    for name in ("another", "coarse"):
        assert {c.folder.parent.name for c in prepared_cases([copied], form, None, name)} == {name}
    arguments = ["synthesize", "--generator", str(generator), "--data", str(copied), "--out", str(tmp_path / "out"),
                 "--steps", "1", "--device", "cpu"]
    assert cli.main(arguments) == 2 and not (tmp_path / "out").exists()
    assert cli.main([*arguments, "--prepared", "coarse"]) == 0


def test_a_run_goes_on_with_other_arithmetic_and_says_which_made_what(made, generator, data, tmp_path):
    shutil.copytree(made[0], tmp_path / "out")
    gone = sorted(p.name for p in made[0].iterdir())[0]
    shutil.rmtree(tmp_path / "out" / gone)
    settings = SynthesizeSettings(per_case=2, seed=3, steps=2, threads=2)
    assert synthesize(generator, [data], tmp_path / "out", settings, "cpu")["made"] == [gone]
    threads = {p.name: json.loads((p / "provenance.json").read_text())["made_on"]["threads"]
               for p in (tmp_path / "out").iterdir()}
    assert threads.pop(gone) == 2 and set(threads.values()) == {1}


def test_samples_never_land_in_an_input(generator, data, tmp_path):
    copied = tmp_path / "phantom-1-0000-000"  # the name of a sample
    shutil.copytree(data, copied)
    before = digests(tmp_path)
    for out in (copied, copied / "cases", tmp_path):
        with pytest.raises(LNSynthError, match="choose another --out"):
            synthesize(generator, [copied], out, SETTINGS, "cpu")
    assert digests(tmp_path) == before


def test_without_weights_the_error_says_what_to_do(tmp_path, monkeypatch, capsys):
    from LNSynthLib.generators import model_folder

    monkeypatch.setattr(model_folder, "resources", lambda: tmp_path)
    assert cli.main(["synthesize", "--data", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "--generator" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_no_data_set_is_told_so(tmp_path, capsys):
    """It was asked to be prepared instead."""
    assert cli.main(["synthesize", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert f"{tmp_path / 'nowhere'}: there is no data set here" in capsys.readouterr().err
