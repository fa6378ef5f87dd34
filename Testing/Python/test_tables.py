"""CSV that no spreadsheet runs, and HTML that no browser does: text stays text, wherever it came from."""

import csv
import io

import numpy as np
import pytest
from test_review_export import make_sample

from LNSynthLib import cli
from LNSynthLib.images.pictures import write_png
from LNSynthLib.review.contact_sheet import contact_sheet
from LNSynthLib.review.samples import pair_id
from LNSynthLib.review.standings import read_filter, standings
from LNSynthLib.review.verdicts import history, record
from LNSynthLib.runtime.tables import csv_text, plain, safe
from LNSynthLib.segmentation.filter import _write, verdict

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(\"http://x\",\"y\")",
            "'=1", "''=1", "＝1", "- a dash"]
SCRIPT = "<script>alert('x')</script>\"'&"


@pytest.mark.parametrize("text", [*FORMULAS, "", "plain", "'quoted'", "a=b", "-1.5", "+2", "1e-5", "-inf", "don't"])
def test_a_cell_is_neutral_and_comes_back(text):
    assert plain(safe(text)) == text
    if text in FORMULAS:
        assert safe(text)[0] == "'"
    else:
        assert safe(text) == text


def test_numbers_stay_numbers():
    assert csv_text(["a", "b", "=c"], [{"a": -1.5, "b": "-2", "=c": None}]) == "a,b,'=c\n-1.5,-2,\n"


@pytest.mark.parametrize("note", [*FORMULAS, SCRIPT])
def test_notes_come_back_from_the_review_and_no_cell_is_run(tmp_path, note):
    make_sample(tmp_path, "a-1")
    record(tmp_path, "a-1", "accept", note, reviewer="=Ann")
    record(tmp_path, "a-1", "accept", "second", reviewer="@Bea")
    cells = [cell for row in csv.reader(io.StringIO((tmp_path / "review.csv").read_text("utf-8"), newline=""))
             for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
    assert [(d.note, d.reviewer) for d in history(tmp_path)] == [(note.strip(), "=Ann"), ("second", "@Bea")]
    out = tmp_path.with_name(f"{tmp_path.name}-out")
    assert cli.main(["review", "export", str(tmp_path), "--as", "nifti", "--out", str(out)]) == 0
    rows = list(csv.DictReader(open(out / "dataset.csv", newline="", encoding="utf-8")))
    assert safe(rows[0]["note"]) == rows[0]["note"] and rows[0]["reviewer"] == "'@Bea"


def test_the_filter_table_comes_back(tmp_path):
    make_sample(tmp_path, "-1+1")
    made = verdict("-1+1", {1: 0.5}, 0.7, "every", "=someone", pair_id(tmp_path / "-1+1"))
    _write(tmp_path, {"-1+1": made})
    assert "\n'-1+1," in (tmp_path / "filter.csv").read_text() and read_filter(tmp_path) == {"-1+1": made}


def test_the_review_page_shows_text_as_text(tmp_path):
    make_sample(tmp_path, "a-1")
    make_sample(tmp_path, "<b onload='x'>")
    for sample in tmp_path.iterdir():
        write_png(sample / "montage.png", np.zeros((8, 8, 3), np.uint8))
    record(tmp_path, "a-1", "accept", SCRIPT, reviewer=SCRIPT)
    page = contact_sheet(SCRIPT, standings(tmp_path))
    assert "<script" not in page and "<b onload" not in page and page.count("&lt;script&gt;") >= 3
