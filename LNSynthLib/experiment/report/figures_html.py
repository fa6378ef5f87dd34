"""The pictures and charts of a report as HTML: Figures 4 and 5, learning curves, FROC."""

from __future__ import annotations

from collections.abc import Sequence

from ...evaluation.froc import Froc, froc
from ...evaluation.segmentation import CaseScore
from ...masks.labels import LabelTable
from . import curves
from .curves import Curve
from .figures import BAR, PIXELS, SIDE_MM, Example, Tile, figure4, figure5, method_label
from .html import MISSING, chart, jpeg, note, text
from .results import Results
from .summaries import logged
from .tables import STRATEGIES, Line

FEWEST_ACROSS = 6
RED = "<div class='banner low'>SYNTHETIC images: made by generative models, not images of patients</div>"


def synthesised(results: Results) -> str:
    """Figure 1."""
    examples = figure4(results)
    if not examples:
        return note("Figure 1 needs the samples of test patches: not yet, or their files are no longer there.")
    table = LabelTable.load(results.plan.prepare.labels)
    present = [label for label in table.labels if label.id > 1]
    key = "".join(f"<i style='background:rgb{tuple(round(0.8 * c) for c in label.color)}'></i>"
                  f"{text(label.name.replace('_', ' '))}" for label in present)
    return RED + _grid(examples) + note(f"<span class=key>Condition: nodes outlined in white; {key}</span>") + note(
        f"Axial slices, {SIDE_MM:g} mm across, through the largest node of the patch; the same patch, nodes and seed "
        f"for every method (first seed of the plan). {_window(results)} Not chosen by look: {_choice('sample')}.")


def segmented(results: Results, name: str) -> str:
    """Figure 2, of the rows of that table."""
    examples = figure5(results, name)
    if not examples:
        return note("Figure 2 needs prepared test cases: not yet, or their files are no longer there.")
    return _grid(examples) + note(
        f"Axial slices of test cases, {SIDE_MM:g} mm across, through the largest node. <b class=truth>Green"
        "</b>: true nodes, drawn along their outer border; <b class=guess>red</b>: prediction, along its "
        f"inner border. DSC is of the whole case, first seed. {_window(results)} Not chosen by look: "
        f"{_choice('case')}.")


def _choice(what: str) -> str:
    return (f"the first {what}s in order of their names" if what == "case" else "the first sample of each case in order"
            ) + ", kinds of cases taking turns"


def _window(results: Results) -> str:
    low, high = results.plan.prepare.window
    return f"Window {low:g} to {high:g} HU."


def _grid(examples: Sequence[Example]) -> str:
    """All lines as wide as the longest, so that every picture has the same size; a few pictures do not fill a line."""
    across = max(FEWEST_ACROSS, *(len(line) for example in examples for line in example.lines))
    return "".join(f"<div><b>{text(example.title)}</b>" + "".join(
        f"<div class=tiles style='grid-template-columns:repeat({across},1fr)'>{''.join(map(_tile, line))}</div>"
        for line in example.lines) + "</div>" for example in examples)


def _tile(tile: Tile) -> str:
    shown = (f"<div class=blank style='aspect-ratio:{PIXELS}/{PIXELS + BAR}'>{MISSING}</div>" if tile.picture is None
             else f"<img alt='{text(tile.title)}' src='{jpeg(tile.picture)}'>")
    below = f"<br>{text(tile.note)}" if tile.note else ""
    return f"<figure>{shown}<figcaption>{text(tile.title)}{below}</figcaption></figure>"


def generator_curves(results: Results) -> dict[str, list[Curve]]:
    """Loss by step of each method, a curve a seed, as far as training has come."""
    found = {}
    for method, cells in results.layout.generators.items():
        logs = [logged(results, cell) for cell in cells]
        curves_ = [Curve("loss", False, [r["step"] for r in log], [r["loss"] for r in log]) for log in logs if log]
        if curves_:
            found[method_label(results, method)] = curves_
    return found


def generators_learn(results: Results) -> str:
    panels = generator_curves(results)
    if not panels:
        return note("No generator has begun yet.")
    return chart(curves.losses(panels), "Loss of each generator by training step",
                 curves.width(min(4, len(panels)), 3.0)) + note(
        "Grey: loss of each step; color: running mean over a twentieth of the run. Methods minimise different things, "
        "so levels and shapes of two panels cannot be compared; of adversarial methods it is the generator's loss, "
        "which need not fall; a jump is where a method of "
        "several networks goes on to the next.")


def segmenter_curves(results: Results, name: str) -> dict[str, list[Curve]]:
    """Pseudo Dice by epoch of a table's rows, by strategy; the row of real cases alone is in every panel."""
    found = {outcome.row.label: (outcome.row, [logged(results, cell) for cell in outcome.segmenters])
             for outcome in results.layout.tables[name]}
    return _by_strategy({label: (row.strategy, [
        Curve(label, row.strategy == "real", [r["epoch"] for r in log],
              [float("nan") if r["pseudo_dice"] is None else r["pseudo_dice"] for r in log]) for log in logs if log])
        for label, (row, logs) in found.items()})


def _by_strategy(curves_: dict[str, tuple[str, list]]) -> dict[str, list]:
    panels = {}
    for strategy in ("synthetic", "both"):
        if any(found and its == strategy for its, found in curves_.values()):
            panels[STRATEGIES[strategy]] = [curve for its, found in curves_.values() if its in ("real", strategy)
                                            for curve in found]
    if not panels:  # nothing but real cases yet
        panels = {STRATEGIES["real"]: [curve for _, found in curves_.values() for curve in found]}
    return {title: found for title, found in panels.items() if found}


def segmenters_learn(results: Results, name: str) -> str:
    panels = segmenter_curves(results, name)
    if not panels:
        return note("No segmenter has begun yet.")
    return chart(curves.pseudo_dice(panels), "Pseudo Dice of segmenters by epoch",
                 curves.width(min(2, len(panels)), 5.8)) + note(
        "Pseudo Dice: nnU-Net's own, over patches of the (real) validation cases; it is not a result on test cases.")


def froc_curves(lines: Sequence[Line]) -> dict[str, Froc]:
    """By label, of the rows whose candidates have scores."""
    found = {}
    for line in lines:
        scores: list[CaseScore] = [s.score for s in line.scores]
        if any(c.score is not None for score in scores for c in score.candidates):
            curve = froc(scores)
            if curve is not None:
                found[line.row.label] = curve
    return found


def froc_plate(lines: Sequence[Line]) -> str:
    found = froc_curves(lines)
    if not found:
        return note("FROC needs predictions: not yet, or none of them has a node.")
    by_row = {line.row.label: (line.row.strategy, [(line.row.label, line.row.strategy == "real")]
                               if line.row.label in found else []) for line in lines}
    panels = {title: {label: (real, found[label]) for label, real in rows}
              for title, rows in _by_strategy(by_row).items()}
    return chart(curves.froc_chart(panels), "FROC", curves.width(min(2, len(panels)), 5.8)) + note(
        "Share of all true nodes that are found, against false positives a case, as the score (mean probability) that "
        "a predicted component needs is lowered; the dot is the prediction itself, beyond which there are no "
        f"candidates. Pooled over test cases and seeds; the axis ends at {curves.MOST_ALARMS:g} at the latest.")
