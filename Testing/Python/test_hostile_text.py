"""Every page that is written shows text from files and people as text: none of it becomes a tag or an attribute."""

from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from made_experiment import make_experiment
from test_standings import make_sample, write_filter

from LNSynthLib import cli
from LNSynthLib.demo import page as demo_page
from LNSynthLib.experiment.report.write import write_report
from LNSynthLib.images.volume import Volume
from LNSynthLib.review.contact_sheet import contact_sheet
from LNSynthLib.review.standings import standings
from LNSynthLib.review.verdicts import record
from LNSynthLib.runtime.files import read_json, write_json

BAD = """</style></title><script>x()</script><b onload='x()'>" onload="x()" ' onload='x()' &lt;script&gt;"""


class Page(HTMLParser):
    """The tags and attributes that a browser would make of a page, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.words, self.styles = set(), set(), [], 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.styles += tag == "style"

    def handle_data(self, data):
        self.words.append(data)


def check_harmless(html: str, times: int) -> None:
    """times: how often the bad text is to be read on the page, at least."""
    page = Page(html)
    assert "script" not in page.tags and page.styles == 1
    assert not {name for name in page.attributes if not name.replace("-", "").isalpha() or name.startswith("on")}
    assert "".join(page.words).count("<script>x()</script>") >= times


def poison(value, names: set[str]):
    """A JSON value whose strings under these keys, and below them, end in bad text."""
    if isinstance(value, dict):
        return {key: _bad(inner) if key in names else poison(inner, names) for key, inner in value.items()}
    return [poison(inner, names) for inner in value] if isinstance(value, list) else value


def _bad(value):
    if isinstance(value, dict):
        return {key: _bad(inner) for key, inner in value.items()}
    return value + BAD if isinstance(value, str) else value


def test_the_checker_sees_what_is_not_escaped():
    for html in (f"<style></style><p>{BAD}</p>", f"<style></style><p title=\"{BAD}\">", "<style></style>" * 2):
        with pytest.raises(AssertionError):
            check_harmless(html, 0)


def test_the_report_of_an_experiment(tmp_path):
    made = make_experiment(tmp_path / "out")
    plan = read_json(made.out / "plan.json")
    plan["plan"] = poison(plan["plan"], {"about", "title", "label", "reference"})
    plan["files"]["absent"] = [BAD]
    write_json(made.out / "plan.json", plan)
    said = {"note", "patient", "versions", "machine", "lnsynth", "features_absent", "fid_caveat", "rule"}
    for path in made.out.glob("cells/*/*/*.json"):
        if path.name in ("cell.json", "images.json"):
            write_json(path, _splits(poison(read_json(path), said)))
    write_report(made.out)
    check_harmless((made.out / "report.html").read_text(encoding="utf-8"), 20)


def _splits(record):
    """The measures' own names of splits are text of a file too."""
    found = record.get("result", {}).get("summary", {}).get("memorisation", {})
    if spread := found.get("detail_by_split"):
        found["detail_by_split"] = {name + BAD: value for name, value in spread.items()}
    return record


def test_the_review_page(tmp_path):
    folder = tmp_path / "samples"
    for n in (1, 2):
        make_sample(folder, f"a-{n}", n)
    record(folder, "a-1", "reject", BAD, BAD)
    write_filter(folder, a_2=0.25)
    check_harmless(contact_sheet(BAD, standings(folder)), 2)
    assert cli.main(["review", "page", str(folder)]) == 0
    check_harmless((folder / "review.html").read_text(encoding="utf-8"), 1)


def test_the_demo_page(monkeypatch):
    monkeypatch.setattr(demo_page, "_table", lambda *_: "")
    monkeypatch.setattr(demo_page, "in_place_picture", lambda _: np.zeros((4, 4, 3), np.uint8))
    volume = Volume(np.zeros((2, 2, 2)), np.eye(4))
    placed = {"before": volume, "placement": {"short_axis_mm": 8.0, "station": BAD},
              "record": {"sampling": {"sampler": BAD, "steps": BAD, "seed": BAD}, "condition": {"patches": [
                  {"voxels_changed": 3, "mean_hu_before": 1.0, "mean_hu_after": 2.0}]}}}
    drafts = {"a": SimpleNamespace(case=SimpleNamespace(spacing=(3.0, 3.0, 3.0)))}
    facts = {"kind": BAD, "weights_sha256": "<b onload='x()'>"}
    html = demo_page.page("real", drafts, {}, np.zeros((4, 4, 3), np.uint8), placed, facts, 1.0)
    check_harmless(html, 5)
