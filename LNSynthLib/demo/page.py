"""The demo's page: one HTML file with its pictures inside, that says which images are real and which are synthetic."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np

from ..conditions.encode import unscale_hu
from ..images import pictures
from ..masks.labels import LabelTable
from ..masks.nodes import measure, shell
from ..runtime.events import duration
from ..runtime.page_style import COLORS
from ..synthesis.patch_draft import Draft
from ..synthesis.write_sample import BANNER

KINDS = {
    "phantom": ("a phantom", "The CT it starts from is a PHANTOM: a procedural drawing, no patient's image."),
    "synthetic": ("a synthetic CT", "The CT it starts from is SYNTHETIC itself: no patient's image."),
    "pseudo": ("a CT with painted nodes", "The CT it starts from has PAINTED nodes: no patient's image."),
    "real": ("your CT", "The CT it starts from is the one you gave; its lymph nodes here are not the patient's."),
}
NEAR_MM = 45.0

STYLE = COLORS + """
body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:0 auto;padding:0 1rem 4rem}
.banner{font-weight:600;text-align:center;padding:.5rem;margin:0 -1rem 1rem}
img{max-width:100%;image-rendering:auto;background:#101012;border-radius:4px}
table{border-collapse:collapse;margin:1rem 0;font-size:14px}
td,th{padding:.25rem .75rem;text-align:right;border-bottom:1px solid var(--line)}
td:first-child,th:first-child{text-align:left}code{background:var(--shade);padding:0 .2em}
.small{font-size:14px;color:var(--quiet)}.wide{overflow-x:auto}
"""


def page(kind: str, drafts: dict[str, Draft], made: dict[str, np.ndarray], montage: np.ndarray, placed: dict,
         facts: dict, seconds: float) -> str:
    """The page as HTML text. drafts, made: the variants and their HU; placed: what was inserted in the full CT."""
    what, warning = KINDS[kind]
    sampling, record = placed["record"]["sampling"], placed["record"]["condition"]["patches"][0]
    voxels = " x ".join(map(str, placed["before"].shape))
    spacing = " x ".join(f"{s:.2g}" for s in placed["before"].spacing)
    said = html.escape(f"{sampling['sampler']}, {sampling['steps']} steps, seed {sampling['seed']}")
    mm = next(iter(drafts.values())).case.spacing[0]
    sections = [
        f"<h1>LNSynth: synthetic lymph nodes in {what}</h1>",
        f"<p>{warning} Every picture below that is called synthetic was made by a generative model "
        f"({html.escape(facts['kind'])}, weights <code>{html.escape(facts['weights_sha256'][:12])}</code>, "
        f"{mm:g} mm voxels). For research; not for diagnosis.</p>",
        "<h2>1. The condition, and four variants of it</h2>",
        "<p>The generator is given the anatomy (coloured) and a mask of lymph nodes (outlined), and noise. The anatomy "
        "is the same in each row; the nodes are as in the case, then changed by random affine maps, by random elastic "
        "ones, and then one is taken away while two new ones, drawn from a shape model of real nodes, are placed.</p>",
        _image(montage, "Four variants: source, condition, synthetic CT"),
        "<h2>2. Do the nodes follow the mask?</h2>", _table(drafts, made),
        "<p class=small>Contrast: mean HU of the nodes above that of the fat around them. Dice: a threshold halfway "
        "between the two, within 4 mm of the mask, against the mask.</p>",
        "<h2>3. A node in place, in the full CT</h2>",
        f"<p>One new node (short axis {placed['placement']['short_axis_mm']:.0f} mm, "
        f"{html.escape(placed['placement']['station'])}) in the CT itself, on its own grid of {voxels} voxels of "
        f"{spacing} mm: {record['voxels_changed']:d} voxels near the node changed, every other one is the same bit for "
        f"bit. Mean HU in the mask: {record['mean_hu_before']:.0f} before, {record['mean_hu_after']:.0f} after.</p>",
        _image(in_place_picture(placed), "Before, after, difference"),
        f"<p class=small>{duration(seconds)} in all. {said}. The folders <code>variants</code> and "
        "<code>in-place</code> beside this page hold the volumes, each with its provenance.</p>",
    ]
    return (f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>LNSynth demo: SYNTHETIC, from {what}</title><style>{STYLE}</style><body>"
            f"<div class=banner>{html.escape(BANNER.upper())}</div>" + "\n".join(sections) + "</body></html>\n")


def variants_picture(drafts: dict[str, Draft], made: dict[str, np.ndarray]) -> np.ndarray:
    """A row a variant, all through one place: axial source, condition, synthetic, and synthetic in coronal."""
    base = next(iter(drafts.values()))
    at = {plane: pictures.widest(base.nodes, plane) for plane in ("axial", "coronal")}
    real, spacing = unscale_hu(base.case.ct(base.box), base.form.window), base.case.spacing
    colors = {label.id: label.color for label in LabelTable.load(base.form.labels).labels if label.id > 1}
    rows = []
    for name, draft in drafts.items():
        def view(array, plane="axial", nodes=draft.nodes, labels=None):
            return pictures.view(array, spacing, plane, at[plane], nodes=nodes, labels=labels, colors=colors,
                                 mm_per_pixel=0.6)
        rows.append([view(real, nodes=None), view(real, labels=draft.anatomy), view(made[name], nodes=None),
                     view(made[name]), view(made[name], "coronal", nodes=None), view(made[name], "coronal")])
    source = "PHANTOM" if base.case.kind == "phantom" else "source CT"
    titles = [source, "condition", "synthetic", "with its mask", "coronal", "with its mask"]
    return pictures.montage(rows, list(drafts), titles, banner=BANNER)


def in_place_picture(placed: dict) -> np.ndarray:
    """Three planes through the inserted node: before, after, after with its outline, and the difference."""
    before, after, nodes = (placed[name] for name in ("before", "after", "nodes"))
    centre = [int(np.mean(axis)) for axis in np.nonzero(nodes.array)]
    box = tuple(slice(max(0, c - round(NEAR_MM / mm)), min(n, c + round(NEAR_MM / mm) + 1))
                for c, mm, n in zip(centre, before.spacing, before.shape, strict=True))
    real, made, mask = (v.array[box] for v in (before, after, nodes))
    change = made.astype(np.float32) - real
    rows = []
    for plane in pictures.PLANES:
        size: dict[str, Any] = {"plane": plane, "index": pictures.widest(mask, plane), "mm_per_pixel": 0.4}
        rows.append([pictures.view(real, before.spacing, **size), pictures.view(made, before.spacing, **size),
                     pictures.view(made, before.spacing, nodes=mask, **size),
                     pictures.view(change, before.spacing, window=(-200, 200), **size)])
    titles = ["before", "synthetic node", "its mask", "change (±200 HU)"]
    return pictures.montage(rows, list(pictures.PLANES), titles, banner=BANNER)


def node_numbers(hu: np.ndarray, draft: Draft, reach_mm: float = 4.0) -> list[dict]:
    """Of each node: volume_ml, short_axis_mm, hu, and where there is fat around it, contrast with that and Dice."""
    table, numbers = LabelTable.load(draft.form.labels), []
    spacing = draft.case.spacing
    fat = draft.anatomy == table.index("fat") if "fat" in table.names else table.free(draft.anatomy)
    for found in measure(draft.nodes, draft.affine):
        box, near = shell(draft.nodes, found.id, spacing, 0, reach_mm)
        around = shell(draft.nodes, found.id, spacing, max(spacing), reach_mm)[1] & fat[box]
        node, here = draft.nodes[box] == found.id, hu[box]
        inside = float(here[node].mean())
        entry = {"volume_ml": found.volume_ml, "short_axis_mm": found.short_axis_mm, "hu": inside, "contrast": None,
                 "dice": None}
        if around.sum() >= 20:
            outside = float(here[around].mean())
            bright = (node | near & fat[box]) & (here > (inside + outside) / 2)
            overlap = 2 * (bright & node).sum() / (bright.sum() + node.sum())
            entry |= {"contrast": inside - outside, "dice": float(overlap)}
        numbers.append(entry)
    return numbers


def _table(drafts, made) -> str:
    rows = ["<tr><th>variant<th>nodes<th>volume, mL<th>short axis, mm<th>mean HU<th>contrast, HU<th>Dice</tr>"]
    for name, draft in drafts.items():
        numbers = node_numbers(made[name], draft)

        def mean(what, digits, numbers=numbers):
            values = [n[what] for n in numbers if n[what] is not None]
            return f"{np.mean(values):.{digits}f}" if values else "-"

        rows.append(f"<tr><td>{name}<td>{len(numbers)}<td>{mean('volume_ml', 1)}<td>{mean('short_axis_mm', 0)}"
                    f"<td>{mean('hu', 0)}<td>{mean('contrast', 0)}<td>{mean('dice', 2)}</tr>")
    return f"<div class=wide tabindex=0><table>{''.join(rows)}</table></div>"


def _image(picture: np.ndarray, title: str) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, format="PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    return f"<img alt='{html.escape(title)}' src='data:image/png;base64,{data}'>"
