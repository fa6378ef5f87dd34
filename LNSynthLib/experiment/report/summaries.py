"""The other sections of a report: data, filter, copies, cost, and what is needed to check and repeat it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from ...cases.dataset import SPLITS
from ...runtime.events import duration
from ...training.log import read as read_log
from ..cells import Cell
from .figures import method_label
from .html import MISSING, UNDEFINED, note, number, table, text
from .results import MADE_UP, Results


def data(results: Results) -> str:
    """A row a data set: what it is, and how many cases of how many patients are in each split."""
    rows = []
    for source in results.sources():
        kind = source["kind"]
        rows.append([text(source["name"]), text(MADE_UP[kind]) if kind else MISSING,
                     *(_split(source["cases"], split) for split in SPLITS), text(source["note"])])
    left_out = "".join(f"<p>Left out, because its files were not there: <b>{text(name)}</b>.</p>"
                       for name in results.files["absent"])
    return table(["data set", "what it is", *(f"{split}: cases (patients)" for split in SPLITS), "note"], rows,
                 words=True) + left_out


def _split(cases: Sequence[dict] | None, split: str) -> str:
    if cases is None:
        return MISSING
    chosen = [case for case in cases if case["split"] == split]
    return f"{len(chosen)} ({len({case['patient'] for case in chosen})})" if chosen else "0"


def filtering(results: Results) -> str:
    """What the segmenter trained on real cases kept of each method's pairs."""
    cells = results.of_kind("filter")
    if not cells:
        return note("The plan filters no pairs.")
    rows = []
    for cell in cells:
        made = results.result(cell)
        rows.append([text(cell.name)] + ([made["samples"], made["kept"], f"{made['kept'] / made['samples']:.0%}",
                                          f"{made['threshold']:g}", text(made["rule"])] if made else [MISSING] * 5))
    return table(["pairs", "number", "kept", "share", "coverage above", "of which nodes"], rows) + note(
        "Kept are pairs whose nodes the segmenter trained on real cases covers by more than the threshold. The share "
        "measures that segmenter as much as the generator: a weak one finds few nodes anywhere, real ones included.")


def memorisation(results: Results) -> str:
    """Whether training pairs look like copies of training patches."""
    groups = {"pairs (training cases)": results.layout.memorisation, "test patches": results.layout.images}
    rows, limits = [], []
    for what, methods in groups.items():
        if methods:
            rows.append(what[0].upper() + what[1:])
        for method, cells in methods.items():
            for cell in cells:
                made = results.result(cell)
                rows.append([text(f"{method_label(results, method)}, {cell.name}"),
                             *(_copies(made["summary"]) if made else [MISSING] * 3)])
                limits += [made["summary"]["memorisation"]] if made else []
    if not rows:
        return note("The plan looks for no copies.")
    words = []
    for cases, patients in sorted({(m["training_cases"], m["training_patients"]) for m in limits
                                   if "training_cases" in m}):  # earlier versions compared drawn patches
        words.append(f"Every place and flip of {cases} training cases of {patients} patients was searched.")
    if tried := [m["planted"] for m in limits if m.get("planted")]:
        total = {key: sum(m[key] for m in tried) for key in ("found", "copies", "flagged", "honest")}
        words.append(f"The same search flagged {total['found']} of {total['copies']} planted copies (exact, with noise "
                     f"of 5 HU, blurred by 1 mm, in any flip), and {total['flagged']} of {total['honest']} honest "
                     "patches (real ones, of patients it was not shown).")
    near = sorted({f"{m['limits']['features']:.3f}" for m in limits if m["limits"].get("features") is not None})
    words += [f"Flagged in features: at most {' or '.join(near)} from a training patch of another patient, as near as "
              "the nearest training patches of different patients are to each other."] * bool(near)
    words.append("An image without detail resembles every other: a flag of a blurred sample tells of its blur.")
    words.append("Fine texture: correlation, inside organs, with the very patch whose anatomy the sample was given. "
                 "Test patches, which no generator has seen, tell how much of it the condition alone causes; what "
                 "goes beyond that in training cases was learned by heart.")
    return table(["samples", "flagged of judged", "flagged, %", "fine texture, by split"], rows) + note(" ".join(words))


def _copies(summary: dict) -> list[str]:
    found = summary["memorisation"]
    flagged, judged = len(found["flagged"]), found["judged"]
    details = ", ".join(f"{text(split)} {number(spread['mean'], 3)}"
                        for split, spread in found["detail_by_split"].items())
    return [f"{flagged} of {judged}", f"{100 * flagged / judged:.0f}" if judged else UNDEFINED, details or UNDEFINED]


COST = ("generator", "kind", "parameters", "steps", "training_tflop", "training_seconds", "samples",
        "seconds_per_sample")


def cost(results: Results) -> list[dict]:
    """A dict of `COST` a generator; None where it is not known yet. Seconds are of the cells' own processes."""
    rows = []
    for cell in results.of_kind("generator"):
        made = results.result(cell) or {}
        log = logged(results, cell)
        pairs = [c for c in results.layout.cells if c.kind == "pairs" and c.inputs["generator"] is cell]
        made_pairs = [(results.record(c)["seconds"], results.result(c)["samples"]) for c in pairs if results.record(c)]
        samples = sum(count for _, count in made_pairs)
        rows.append(dict(zip(COST, (
            cell.name, cell.settings["generator"]["kind"], made.get("parameters"), cell.settings["training"]["steps"],
            made["training_flops"] / 1e12 if made else None, log[-1]["seconds"] if made and log else None,
            samples or None, sum(seconds for seconds, _ in made_pairs) / samples if samples else None), strict=True)))
    return rows


def cost_table(results: Results) -> str:
    def shown(value, form) -> str:
        return MISSING if value is None else format(value, form)

    rows = [[text(row["generator"]), shown(row["parameters"] and row["parameters"] / 1e6, ".2f"), row["steps"],
             shown(row["training_tflop"], ".3g"),
             MISSING if row["training_seconds"] is None else duration(row["training_seconds"]),
             shown(row["samples"], "d"), shown(row["seconds_per_sample"], ".2f")] for row in cost(results)]
    return table(["generator", "parameters, M", "steps", "training, TFLOP", "training time", "pairs made",
                  "seconds a pair"], rows) + note(
        "FLOPs are counted for the networks as they are (forward and backward, every network of a method, at the "
        "training patch), and the budget is shared out by them; times also hold what FLOPs do not count, and what else "
        "the machine was doing.")


def logged(results: Results, cell: Cell) -> list[dict]:
    """The records of a cell's training log, as far as it has come."""
    path = cell.folder(results.out) / "run" / "log.jsonl"
    return read_log(path) if path.is_file() else []


def progress(results: Results) -> str:
    """Cells done of all, and the time they took, by kind."""
    kinds = Counter(cell.kind for cell in results.layout.cells)
    rows, total = [], 0.0
    for kind, count in kinds.items():
        done = results.done(kind)
        seconds = sum(results.record(cell)["seconds"] for cell in done)
        total += seconds
        rows.append([text(kind), f"{len(done)} of {count}", duration(seconds)])
    return table(["cells", "done", "time"], [*rows, ["<b>all</b>", f"<b>{len(results.done())} of "
                                                     f"{len(results.layout.cells)}</b>", f"<b>{duration(total)}</b>"]]
                 ) + note(f"Time of one process with {results.plan.threads} thread(s) each; of a cell that was "
                          "interrupted, that of its last piece.")


def seconds(results: Results) -> float:
    """Of all cells that are done."""
    return sum(results.record(cell)["seconds"] for cell in results.done())


def versions(results: Results) -> str:
    """What the cells were made with, HTML."""
    found = {"lnsynth": {results.record(cell)["lnsynth"] for cell in results.done()},
             "machine": {results.record(cell)["machine"] for cell in results.done()}}
    for cell in results.done("segmenter"):
        for name, version in results.result(cell)["versions"].items():
            found.setdefault(name, set()).add(version)
    return text(", ".join(f"{name} {' and '.join(sorted(map(str, values)))}"
                          for name, values in found.items() if values))


def provenance(results: Results) -> str:
    """Cases with their hashes, and cells with their keys, folded away."""
    cases = [[text(value) for value in (source["name"], case["id"], case["patient"], case["split"],
                                        case.get("sha256", {}).get("ct", "")[:16],
                                        case.get("sha256", {}).get("nodes", "")[:16])]
             for source in results.sources() for case in source["cases"] or ()]
    cells = [[text(cell.kind), text(cell.name), f"<code>{cell.key[:16]}</code>",
              duration(results.record(cell)["seconds"]) if results.record(cell) else MISSING]
             for cell in results.layout.cells]
    return (folded(f"{len(cases)} cases: patient, split, SHA-256 of their files",
                   table(["data set", "case", "patient", "split", "CT", "nodes"], cases, words=True))
            + folded(f"{len(cells)} cells: each is in cells/KIND/NAME-KEY of the experiment's folder",
                     table(["kind", "name", "key", "time"], cells, words=True)))


def settings(results: Results, plan: str) -> str:
    """How things were measured, and the whole plan (YAML), folded away."""
    def block(values: dict) -> str:
        return f"<pre>{text(json.dumps(values, indent=1))}</pre>"

    score = next((cell.settings["score"] for cell in results.of_kind("scores")), {})
    measures = next((cell.settings["measures"] for cell in results.of_kind("images")), {})
    return (folded("How segmentations are scored", block(score)) + folded("How images are measured", block(measures))
            + folded("The plan", f"<pre>{text(plan)}</pre>"))


def folded(title: str, inside: str) -> str:
    return f"<details><summary>{text(title)}</summary>{inside}</details>"
