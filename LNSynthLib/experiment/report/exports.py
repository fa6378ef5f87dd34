"""The numbers of a report as CSV, at full precision: every table, and what its figures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...evaluation.generation import FACTS
from ...evaluation.generation import METRICS as IMAGE_METRICS
from ...evaluation.segmentation import METRICS
from ...evaluation.statistics import Interval
from ...runtime.files import write_text
from ...runtime.tables import csv_text
from .figures_html import froc_curves, generator_curves, segmenter_curves
from .results import Results
from .summaries import cost
from .tables import ImageLine, Line

ROWS_A_CURVE = 400


def write_csv(path: Path, rows: Sequence[Mapping]) -> None:
    """A line a row, columns of the first row; without rows an empty file, which says that there are none yet."""
    write_text(path, csv_text(list(rows[0]), rows) if rows else "")


def write_all(results: Results, folder: Path, segmentations: Mapping[str, Sequence[Line]],
              images: Mapping[str, Sequence[ImageLine]]) -> None:
    """Writes every CSV of the report into the folder. segmentations, images: rows of the plan's tables, by name."""
    for name, lines in segmentations.items():
        write_csv(folder / f"{name}.csv", [segmentation_row(line) for line in lines])
        write_csv(folder / f"{name}_by_short_axis.csv", strata(lines))
    for name, lines in images.items():
        write_csv(folder / f"{name}.csv", [image_row(line) for line in lines])
    named = [(name, line) for name, lines in segmentations.items() for line in lines]
    write_csv(folder / "comparisons.csv", [row for name, line in named
                                           for row in comparisons(name, results.plan.tables[name].reference, line)])
    write_csv(folder / "per_case.csv", [row for name, line in named for row in cases(name, line)])
    write_csv(folder / "per_sample.csv", [
        {"table": name, "row": line.row.label, **{key: sample[key] for key in ("patient", *FACTS, *IMAGE_METRICS)}}
        for name, lines in images.items() for line in lines for sample in line.samples])
    write_csv(folder / "froc.csv", [
        {"table": name, "row": label, "threshold": threshold, "false_positives_a_case": alarms, "sensitivity": found}
        for name, lines in segmentations.items() for label, curve in froc_curves(lines).items()
        for threshold, alarms, found in zip(curve.thresholds, curve.false_positives, curve.sensitivity, strict=True)])
    write_csv(folder / "learning_generators.csv", learning(generator_curves(results)))
    write_csv(folder / "learning_segmenters.csv", [
        {"table": name, "row": curve.label, "epoch": epoch, "pseudo_dice": dice}
        for name in segmentations for curve in _once(segmenter_curves(results, name))
        for epoch, dice in zip(curve.x, curve.y, strict=True)])
    write_csv(folder / "cost.csv", cost(results))
    write_csv(folder / "data.csv", [
        {"data": source["name"], "kind": source["kind"], **{key: case[key] for key in ("id", "patient", "split")},
         **{f"sha256_{role}": digest for role, digest in case.get("sha256", {}).items()}}
        for source in results.sources() for case in source["cases"] or ()])
    write_csv(folder / "cells.csv", [
        {"kind": cell.kind, "name": cell.name, "key": cell.key, "done": results.record(cell) is not None,
         "seconds": (results.record(cell) or {}).get("seconds"), "folder": cell.folder(Path())}
        for cell in results.layout.cells])


def _told(found: Interval | None, name: str) -> dict:
    return {name: found and found.mean, f"{name}_low": found and found.low, f"{name}_high": found and found.high}


def segmentation_row(line: Line) -> dict:
    """What the table shows of a row; empty where nothing is done yet."""
    row = {"row": line.row.label, "strategy": line.row.strategy, "method": line.row.method, "seeds": line.seeds,
           "cases": len({s.case for s in line.scores}), "patients": len({s.patient for s in line.scores}),
           "nodes": line.pooled.get("nodes"), "empty_predictions": line.pooled.get("empty_predictions")}
    for metric in METRICS:
        row |= _told(line.intervals.get(metric), metric)
    return row | {f"paper_{metric}": line.row.published.get(metric) for metric in METRICS[:6]}


def strata(lines: Sequence[Line]) -> list[dict]:
    return [{"row": line.row.label, "short_axis_mm": name, **stratum} for line in lines
            for name, stratum in line.pooled.get("node_recall_by_short_axis", {}).items()]


def comparisons(name: str, reference: str | None, line: Line) -> list[dict]:
    return [{"table": name, "reference": reference, "row": line.row.label, "measure": metric,
             "reference_minus_row": test.difference, "p": test.p, "p_holm": test.p_holm, "patients": test.patients,
             "ties": test.ties} for metric, test in line.versus.items()]


def cases(name: str, line: Line) -> list[dict]:
    return [{"table": name, "row": line.row.label, "seed": s.seed, "case": s.case, "patient": s.patient, "kind": s.kind,
             **{metric: getattr(s.score, metric) for metric in METRICS}, "nodes": len(s.score.nodes),
             "found": sum(node.found for node in s.score.nodes)} for s in line.scores]


def image_row(line: ImageLine) -> dict:
    row = {"row": line.row.label, "method": line.row.method, "seeds": line.seeds, "samples": len(line.samples)}
    for metric in (*IMAGE_METRICS[:-1], "fid", "mmd", "node_recall_synt"):
        row |= _told(line.intervals.get(metric), metric)
    return row | {f"paper_{metric}": line.row.published.get(metric)
                  for metric in ("mse_01", "psnr", "ms_ssim", "lpips", "node_recall_synt")}


def learning(panels: Mapping[str, Sequence]) -> list[dict]:
    """Loss by step, long logs thinned: each row is the mean since the row before."""
    rows = []
    for method, curves in panels.items():
        for number, curve in enumerate(curves):
            spans = np.array_split(np.arange(len(curve.x)), min(ROWS_A_CURVE, len(curve.x)))
            rows += [{"method": method, "run": number, "step": curve.x[span[-1]],
                      "loss": float(np.mean(np.asarray(curve.y)[span]))} for span in spans]
    return rows


def _once(panels: Mapping[str, Sequence]) -> list:
    """The curves of all panels, those that are in several once."""
    return list({id(curve): curve for curves in panels.values() for curve in curves}.values())
