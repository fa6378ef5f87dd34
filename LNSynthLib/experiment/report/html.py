"""The look of a report: one HTML file with everything inside, light enough to print."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np

from ...runtime.page_style import COLORS

MISSING = "<span class=missing>not yet</span>"
UNDEFINED = "<span class=missing>–</span>"

STYLE = COLORS + """
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:0 auto;padding:0 1rem 4rem}
h1{font-size:1.7rem;margin:1rem 0 .25rem}h2{font-size:1.25rem;margin:2.5rem 0 .5rem;border-bottom:2px solid}
h3{font-size:1.05rem;margin:1.5rem 0 .25rem}p{max-width:75em;margin:.5rem 0}
.banner{font-weight:600;padding:.6rem 1rem;margin:0 -1rem 1rem;text-align:center}
.banner.low{margin:.25rem 0;padding:.15rem;font-size:12px}
.note{font-size:13px;color:var(--quiet)}.missing{color:var(--quiet);font-style:italic;white-space:nowrap}
code{background:var(--shade);padding:0 .2em}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0;font-size:13.5px}
td,th{padding:.25rem .6rem;text-align:right;vertical-align:top;border-bottom:1px solid var(--line)}
th{border-bottom:1.5px solid;vertical-align:bottom}td:first-child,th:first-child{text-align:left}
table:not(.words) td:first-child{white-space:nowrap}
tr.group td{background:var(--shade);font-weight:600;border-bottom:none;padding-top:.4rem}
table.words td,table.words th{text-align:left}
.small{display:block;font-size:11px;color:var(--quiet);white-space:nowrap}.paper{display:block;font-size:11px;color:var(--quiet)}
.tiles{display:grid;gap:3px;margin:0 0 .9rem}.tiles figure{margin:0}.tiles img{width:100%;display:block}
.tiles figcaption{font-size:11px;line-height:1.25;text-align:center;overflow-wrap:anywhere}
.tiles .blank{background:var(--shade);display:flex;align-items:center;justify-content:center;font-size:12px}
.truth{border-bottom:3px solid #2b9e50}.guess{border-bottom:3px solid #eb3c32}
img.chart{max-width:100%;display:block;margin:.5rem 0}
.key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .3em 0 .9em;vertical-align:-.05em}
details{margin:.5rem 0;font-size:13px}summary{cursor:pointer;font-weight:600}pre{white-space:pre-wrap;font-size:12px}
@media print{body{max-width:none}.tiles,tr{break-inside:avoid}h2,h3{break-after:avoid}
.banner,tr.group td{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""


def page(title: str, banner: str, sections: Iterable[str]) -> str:
    """The whole file. banner: words in red on top, empty where nothing warns; sections are HTML."""
    warning = f"<div class=banner>{text(banner)}</div>" if banner else ""
    return (f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>{text(title)}</title><style>{STYLE}</style><body>{warning}<h1>{text(title)}</h1>\n"
            + "\n".join(sections) + "\n</body></html>\n")


def text(words: object) -> str:
    """As HTML shows it."""
    return html.escape(str(words))


def number(value: float | None, digits: int) -> str:
    return UNDEFINED if value is None else f"{value:.{digits}f}".replace("-", "−")


def counted(count: int, what: str) -> str:
    """"1 case", "2 cases", "no case"."""
    return f"{count or 'no'} {what}{'s' * (count > 1)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str] | str], words: bool = False) -> str:
    """A table of HTML cells; a row that is a single string is a heading over all columns. words: all to the left."""
    lines = [f"<tr>{''.join(f'<th>{cell}' for cell in head)}</tr>"]
    for row in rows:
        lines.append(f"<tr class=group><td colspan={len(head)}>{row}</tr>" if isinstance(row, str) else
                     f"<tr>{''.join(f'<td>{cell}' for cell in row)}</tr>")
    return f"<div class=wide tabindex=0><table{' class=words' if words else ''}>{''.join(lines)}</table></div>"


def note(words: str) -> str:
    """A paragraph in small print, HTML."""
    return f"<p class=note>{words}</p>"


def jpeg(picture: np.ndarray) -> str:
    """An RGB array (rows, columns, 3) uint8 as a data URL; colors keep their edges."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, format="JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def chart(png: bytes, title: str, width: int) -> str:
    """An image element of a chart; width: CSS pixels."""
    data = base64.b64encode(png).decode()
    return f"<img class=chart width={width} alt='{text(title)}' src='data:image/png;base64,{data}'>"
