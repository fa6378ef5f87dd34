"""The report of an experiment, finished or not: OUT/report.html, which has everything in it, and OUT/report/*.csv."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ...runtime.events import Callback, Progress, duration, ignore
from ...runtime.files import write_text
from ...segmentation.settings import load_trainer
from . import exports, figures_html, findings, summaries, tables, tables_html
from .figures import method_label
from .html import counted, page, text
from .results import MADE_UP, Results


def write_report(out: Path, callback: Callback = ignore) -> dict:
    """Writes the report of what is done in an experiment's folder; returns {"page", "done", "cells"}.

    What is not done yet is named so and never filled in. Raises LNSynthError where the folder holds no experiment.
    """
    results, folder = Results(out), Path(out) / "report"
    plan = _yaml(results)
    write_text(folder / "plan.yaml", plan)
    with Progress("reporting", 4, callback) as progress:
        segmentations = {name: tables.lines(results, name) for name, table in results.plan.tables.items()
                         if table.measure == "segmentation"}
        images = {name: tables.image_lines(results, name) for name, table in results.plan.tables.items()
                  if table.measure == "images"}
        progress.step()
        exports.write_all(results, folder, segmentations, images)
        progress.step()
        main = next(iter(segmentations), None)
        sections = [*_head(results), *_conclusions(results, segmentations.get(main, []), images),
                    *_tables(results, segmentations, images), *_figures(results, main)]
        progress.step()
        sections += [*_curves(results, segmentations), *_rest(results, plan)]
        where = Path(out) / "report.html"
        write_text(where, page(_title(results), _warning(results), sections))
        progress.step()
    return {"page": str(where), "done": len(results.done()), "cells": len(results.layout.cells)}


def _title(results: Results) -> str:
    return f"LNSynth experiment: {results.plan.about}"


def _warning(results: Results) -> str:
    """The red words at the head, empty where every case is a patient's with the patient's own nodes."""
    kinds = [kind for kind in ("phantom", "pseudo") if kind in {source["kind"] for source in results.sources()}]
    if not kinds:
        return ""
    some = "In part run on" if any(source["kind"] in ("real", None) for source in results.sources()) else "Run on"
    return (f"NOT PATIENTS' LYMPH NODES. {some} {' and on '.join(MADE_UP[kind] for kind in kinds)}. "
            "Nothing on this page says how well a method does on patients.")


def _head(results: Results) -> list[str]:
    plan, done, cells = results.plan, len(results.done()), len(results.layout.cells)
    trainer = load_trainer(plan.trainer, plan.trainer_set)
    budget = (f"{plan.budget.tflop:g} TFLOP of training, the same for each" if plan.budget.tflop
              else f"{plan.budget.steps} training steps, the same for each" if plan.budget.steps
              else "each as long as its preset says")
    methods = ", ".join(f"{text(method_label(results, name))} (preset {text(Path(m.preset).stem)})"
                        for name, m in plan.methods.items())
    state = ("" if done == cells else f"<p><b>Not finished: {done} of {cells} cells are done.</b> What is missing is "
             "shown as <span class=missing>not yet</span>, and everything else may still change where it compares "
             "rows.</p>")
    others = results.others()
    if others:
        state += (f"<p class=note>The folder also holds {counted(others, 'finished cell')} of other settings (an "
                  "earlier plan, or other presets under the same names), which this page does not show.</p>")
    return [state, "<h2>What was run, and on what</h2>", summaries.data(results),
            f"<p><b>Generators</b>: {methods}; {budget}. <b>Pairs</b>: {plan.multiple} a training case, nodes varied "
            f"unless a row says otherwise. <b>Segmenters</b>: nnU-Net, preset {text(Path(plan.trainer).stem)}, "
            f"{trainer.epochs} epochs of {trainer.iterations} iterations each. <b>Cases</b>: "
            f"{plan.prepare.spacing_mm:g} mm voxels, {plan.prepare.margin_mm:g} mm around the nodes "
            f"for training and {plan.prepare.test_margin_mm:g} mm for testing, window "
            f"{plan.prepare.window[0]:g} to {plan.prepare.window[1]:g} HU. "
            f"<b>Seeds</b>: {', '.join(map(str, plan.seeds))}. <b>Computed</b> in "
            f"{duration(summaries.seconds(results))} of process time ({summaries.versions(results)}).</p>",
            "<p>To run it again: <code>lnsynth experiment run --plan OUT/report/plan.yaml --data-root DATA --out NEW"
            "</code>; the numbers of this page are in <code>OUT/report/*.csv</code>.</p>"]


def _conclusions(results: Results, lines, images: dict) -> list[str]:
    def listed(sentences: list[str]) -> str:
        return f"<ul>{''.join(f'<li>{sentence}' for sentence in sentences)}</ul>"

    shown = findings.shows(results, lines, next(iter(images.values()), []))
    return ["<h2>What this shows, and what it does not</h2>", listed(shown), "<p>It does not show more, because:</p>",
            listed(findings.limits(results, lines))]


def _tables(results: Results, segmentations: dict, images: dict) -> list[str]:
    shown = []
    for name in results.plan.tables:
        shown.append(tables_html.images(results, name, images[name]) if name in images
                     else tables_html.segmentation(results, name, segmentations[name]))
    return ["<h2>Tables</h2>", *shown]


def _figures(results: Results, main: str | None) -> list[str]:
    shown = ["<h2>Figure 1. Synthetic images</h2>", figures_html.synthesised(results)]
    if main is not None:
        shown += ["<h2>Figure 2. Segmentations</h2>", figures_html.segmented(results, main)]
    return shown


def _curves(results: Results, segmentations: dict) -> list[str]:
    shown = []
    for name, lines in segmentations.items():
        title = text(results.plan.tables[name].title.split(".")[0])
        shown += [f"<h3>FROC ({title})</h3>", figures_html.froc_plate(lines),
                  f"<h3>Segmenters ({title})</h3>", figures_html.segmenters_learn(results, name)]
    return ["<h2>Curves</h2>", "<h3>Generators</h3>", figures_html.generators_learn(results), *shown]


def _rest(results: Results, plan: str) -> list[str]:
    return ["<h2>Filter: do synthetic pairs show what their masks say?</h2>", summaries.filtering(results),
            "<h2>Copies of training data</h2>", summaries.memorisation(results),
            "<h2>Cost</h2>", summaries.cost_table(results), summaries.progress(results),
            "<h2>Provenance and settings</h2>", summaries.provenance(results), summaries.settings(results, plan)]


def _yaml(results: Results) -> str:
    import yaml

    return yaml.safe_dump(json.loads(json.dumps(asdict(results.plan))), sort_keys=False, width=120)
