"""Pages that people open, as headless Chromium shows them: the demo's, an experiment's report, a review."""

import shutil

import browser
import pytest
from made_experiment import make_experiment

from LNSynthLib import cli
from LNSynthLib.experiment.report.html import page as report_page
from LNSynthLib.experiment.report.write import write_report
from LNSynthLib.review import verdicts
from LNSynthLib.review.samples import samples

pytestmark = pytest.mark.slow
PAGES = ("demo.html", "report.html", "review.html")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with one page of each kind, of real outputs."""
    folder = tmp_path_factory.mktemp("pages")
    assert cli.main(["demo", "--out", str(folder / "demo"), "--steps", "1"]) == 0
    shutil.copy(folder / "demo" / "index.html", folder / "demo.html")
    made = make_experiment(folder / "experiment")
    shutil.copy(write_report(made.out)["page"], folder / "report.html")
    made = folder / "demo" / "variants"
    first, second, *_ = [path.name for path in samples(made)]
    verdicts.record(made, first, "accept", reviewer="anna")
    verdicts.record(made, second, "reject", "blurred <b>", "bob")
    assert cli.main(["review", "page", str(made)]) == 0
    shutil.copy(made / "review.html", folder / "review.html")
    return folder


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_are_shown_as_they_should(pages, dark):
    found, complaints = browser.look(pages, list(PAGES), width=400, dark=dark)
    assert complaints == [] and [one["page"] for one in found] == list(PAGES)
    for one in found:
        assert one["dark"] == dark, "the browser did not take the colors that it was asked for"
        assert one["width"] <= 400, f"{one['page']} is {one['width']} pixels wide in a window of 400"
        assert one["from"] == [] and one["broken"] == [] and one["unnamed"] == [], one
        assert one["faint"] == [], f"{one['page']}: hard to read: {one['faint'][:5]}"
        assert one["language"] == "en" and one["jumps"] == 0
        levels = one["headings"]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False)), levels


def test_a_bad_page_is_seen_to_be_bad(tmp_path):
    bad = report_page("Bad", "", ["<h3>too deep</h3><p style='color:#aaa;background:#fff'>faint</p>",
                                  "<div style='width:900px'>wide</div><img src='nowhere.png'>",
                                  "<a href='x' tabindex=3>first</a><img src='http://192.0.2.1/x.png' alt=far>",
                                  "<script>console.error('it fails')</script>"])
    (tmp_path / "bad.html").write_text(bad, encoding="utf-8")
    (one,), complaints = browser.look(tmp_path, ["bad.html"])
    assert any("it fails" in line for line in complaints)
    assert one["width"] > 400 and one["faint"] == ["faint (2.3)"] and one["jumps"] == 1
    assert any("nowhere" in src for src in one["broken"]) and len(one["unnamed"]) == 1
    assert one["headings"] == [1, 3]
