"""Pseudonyms: the same for the same id, of this installation alone, and with a way back for its owner."""

import csv
import os
import stat

import pytest

from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.pseudonyms import pseudonym


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LNSYNTH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_one_id_has_one_pseudonym_here_and_another_elsewhere(tmp_path, monkeypatch):
    first = pseudonym("case", "P 1")
    assert first == pseudonym("case", "P 1") != pseudonym("case", "P 2")
    assert pseudonym("patient", "P 1").split("-")[1] != first.split("-")[1] and pseudonym("case", "") == ""
    monkeypatch.setenv("LNSYNTH_HOME", str(tmp_path / "another"))
    assert pseudonym("case", "P 1") != first


def test_the_owner_finds_a_patient_again_and_nobody_else_may_read(own_home):
    given = [pseudonym(kind, id) for kind, id in (("case", "a"), ("case", "=b"), ("case", "a"))]
    rows = list(csv.DictReader(open(own_home / "pseudonyms.csv", newline="")))
    assert [row["pseudonym"] for row in rows] == given[:2] and rows[0]["id"] == "a"
    if os.name != "nt":
        for name in ("pseudonyms.csv", "pseudonyms.key"):
            assert stat.S_IMODE((own_home / name).stat().st_mode) == 0o600


def test_a_damaged_key_is_no_key(own_home):
    pseudonym("case", "a")
    (own_home / "pseudonyms.key").write_text("short")
    with pytest.raises(LNSynthError, match="pseudonyms.key: the key of the pseudonyms is damaged"):
        pseudonym("case", "a")
