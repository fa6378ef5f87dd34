"""Pages as headless Chromium shows them: what they load, what they complain of, how wide they are.

A page of ours, served beside them from this machine, opens each in a frame and writes down what it finds there.
"""

from __future__ import annotations

import functools
import html
import json
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

LOOK = """<!doctype html><meta charset="utf-8"><title>looking</title><pre></pre>
<script>
const found = [];
function look(page, width, done) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `border:0;width:${width}px;height:900px`;
  frame.onload = () => setTimeout(() => {
    const inside = frame.contentDocument, root = inside.documentElement;
    found.push({page, width: root.scrollWidth,
      from: [...new Set(frame.contentWindow.performance.getEntriesByType("resource")
        .map((one) => new URL(one.name).origin))].filter((one) => one !== location.origin && one !== "null"),
      broken: [...inside.images].filter((one) => one.complete && !one.naturalWidth).map((one) => one.src),
      unnamed: [...inside.images].filter((one) => !one.alt).map((one) => one.src)});
    frame.remove();
    done();
  }, 150);
  frame.src = page;
  document.body.append(frame);
}
function next(pages, width) {
  if (pages.length) look(pages[0], width, () => next(pages.slice(1), width));
  else { document.querySelector("pre").textContent = JSON.stringify(found); document.title = "done"; }
}
next(PAGES, WIDTH);
</script>
"""


def chromium() -> str:
    """The browser's command; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or pytest.skip("no Chromium here; on Debian and Ubuntu: apt-get install chromium")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served(folder: Path):
    """The address at which a folder's files are served while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def look(folder: Path, pages: list[str], width: int = 400) -> tuple[list[dict], list[str]]:
    """Opens pages of a folder one after the other in a frame of this width (pixels).

    Returns what was found on each, {"page", "width" of the whole page, "from": other origins that it loaded from,
    "broken": pictures that are not there, "unnamed": pictures without alternative text}, and the console's complaints.
    """
    browser, look_at = chromium(), folder / "look.html"
    look_at.write_text(LOOK.replace("PAGES", json.dumps(pages)).replace("WIDTH", str(width)), encoding="utf-8")
    try:
        with served(folder) as address:
            command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                       "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=600000",
                       "--dump-dom", f"{address}/look.html"]
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600)
    finally:
        look_at.unlink()
    written = re.search(r"<pre>(\[.*\])</pre>", done.stdout, re.S)
    assert written, f"the browser did not come to the end: {done.stderr[-2000:]}"
    return json.loads(html.unescape(written[1])), re.findall(r"CONSOLE.*", done.stderr)
