"""Paths in records: from where the record lies, or without this computer's folders."""

import os
import sys
from pathlib import Path

import pytest

from LNSynthLib.experiment.work import dataset_of
from LNSynthLib.runtime.files import write_json
from LNSynthLib.runtime.places import relative, unplaced


def test_a_relative_path_leads_back_through_links_too(tmp_path):
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "far" / "away" / "runs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away" / "runs", target_is_directory=True)
    said = relative(tmp_path / "data" / "set", tmp_path / "link" / "run")
    assert said == "../../../../data/set"
    assert ((tmp_path / "link" / "run").resolve() / said).resolve() == tmp_path / "data" / "set"


def test_a_relative_path_counts_from_where_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative("data", "runs/one") == "../../data"


def test_a_log_tells_no_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "jane"))
    run = tmp_path / "jane" / "runs" / "one"
    run.mkdir(parents=True)
    text = f"reading {run}/plans.json, {tmp_path}/jane/x and {sys.prefix}/lib/torch.py; {tmp_path}/janet stays"
    if os.name != "nt":
        assert unplaced(text, run) == f"reading ./plans.json, ~/x and PYTHON/lib/torch.py; {tmp_path}/janet stays"


@pytest.mark.parametrize("said", ["dataset", "../../../data/set", "whole"])
def test_a_cell_finds_its_data_set(tmp_path, said):
    cell, data = tmp_path / "out" / "cells" / "data-1", tmp_path / "data" / "set"
    said = str(data) if said == "whole" else said
    write_json(cell / "cell.json", {"kind": "data", "name": "d", "key": "k", "amount": 0, "seconds": 1.0,
                                    "settings": {}, "inputs": {}, "lnsynth": "0", "machine": "m",
                                    "result": {"dataset": said}})
    assert dataset_of(cell) == (cell / "dataset" if said == "dataset" else Path(data))
