"""A folder's samples on one page: each montage with its verdicts, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from ..images.synthetic import BANNER
from ..runtime.errors import LNSynthError
from ..runtime.page_style import COLORS
from .standings import Standing, reason

WIDTH = 900  # pixels of a montage on the page

STYLE = COLORS + """
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;padding:0 1rem 3rem}
.banner{font-weight:600;text-align:center;padding:.5rem;margin:0 -1rem 1rem}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(30rem,100%),1fr));gap:1rem}
figure{margin:0;border-top:6px solid;border-radius:4px;background:var(--raised);box-shadow:0 1px 3px #0003}
figure img{width:100%;display:block;background:#101012}
figcaption{padding:.5rem .75rem}
b.status{text-transform:uppercase;font-size:12px;letter-spacing:.04em;float:right}
.accepted{border-color:#2f8f4e}.rejected,.damaged{border-color:#be1e28}.dropped{border-color:#c77700}
.undecided{border-color:#9a9a9a}.small{font-size:13px;color:var(--quiet)}
"""


def contact_sheet(title: str, found: list[Standing]) -> str:
    """The page as HTML text; `found` as `standings.standings` gives it."""
    counts: dict[str, int] = {}
    for standing in found:
        counts[standing.status] = counts.get(standing.status, 0) + 1
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    cards = "\n".join(_card(standing) for standing in found)
    return (f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>{html.escape(title)}: SYNTHETIC samples</title><style>{STYLE}</style><body>"
            f"<div class=banner>{html.escape(BANNER.upper())}</div>"
            f"<h1>{html.escape(title)}</h1><p>{len(found)} samples: {said}.</p><div class=sheet>{cards}</div>"
            "</body></html>\n")


def _card(standing: Standing) -> str:
    lines = [f"<b class=status>{standing.status}</b><strong>{html.escape(standing.sample.name)}</strong>"]
    decision, verdict = standing.decision, standing.verdict
    if reason(standing):
        lines.append(html.escape(reason(standing)))
    elif decision:
        lines.append(html.escape(f"accepted by {decision.reviewer}" + (f": {decision.note}" if decision.note else "")))
    if verdict and verdict.coverage:
        shares = ", ".join(f"{node}: {share:.2f}" for node, share in verdict.coverage.items())
        lines.append(f"<span class=small>found by the segmenter, share of each node: {shares}</span>")
    lines += [f"<span class=small>{html.escape(f'{d.verdict} by {d.reviewer} was about an earlier sample')}</span>"
              for d in standing.stale]
    return (f"<figure class={standing.status}><img loading=lazy alt='Montage of {html.escape(standing.sample.name)}' "
            f"src='{_picture(standing.sample / 'montage.png')}'><figcaption>{'<br>'.join(lines)}</figcaption></figure>")


def _picture(path: Path) -> str:
    """The montage as a data URL: JPEG, so that a page of hundreds stays small enough to open."""
    from PIL import Image

    try:
        with Image.open(path) as stored:
            image = stored.convert("RGB")
    except OSError as error:
        raise LNSynthError(f"{path}: the montage cannot be read ({error}); make the sample again.") from None
    image.thumbnail((WIDTH, 2 * WIDTH))
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
