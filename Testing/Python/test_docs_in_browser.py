"""The documentation as a browser shows it on a telephone: no complaint, nothing from elsewhere, nothing too wide."""

import os
import subprocess
import sys
from pathlib import Path

import browser
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_faults_of_a_page_are_seen(tmp_path):
    (tmp_path / "good.html").write_text("<!doctype html><title>good</title><p>Nothing is wrong here.")
    (tmp_path / "bad.html").write_text(
        '<!doctype html><title>bad</title><div style="width:700px">wide</div><img src="gone.png">'
        '<script src="https://example.org/a.js"></script><script>console.error("oh"); undefined_name()</script>')
    (good, bad), complaints = browser.look(tmp_path, ["good.html", "bad.html"])
    assert good["page"] == "good.html" and good["width"] == 400
    assert all(good[what] == [] for what in ("from", "broken", "unnamed", "faint"))
    assert bad["width"] > 600 and bad["from"] == ["https://example.org"]
    assert [Path(one).name for one in bad["broken"]] == [Path(one).name for one in bad["unnamed"]] == ["gone.png"]
    assert any("oh" in one for one in complaints) and any("undefined_name" in one for one in complaints)


@pytest.mark.slow
def test_the_site_is_whole_narrow_and_silent(tmp_path):
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site)], cwd=REPOSITORY,
                   check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    found, complaints = browser.look(site, pages)
    assert [one["page"] for one in found] == pages and len(pages) > 40
    assert [one for one in found if one["width"] > 400 or one["from"] or one["broken"] or one["unnamed"]] == []
    assert complaints == []
