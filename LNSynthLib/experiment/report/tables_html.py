"""A plan's tables as the report shows them: the paper's layout, intervals below means, the paper's figures in grey."""

from __future__ import annotations

from collections.abc import Sequence

from ...evaluation.segmentation import METRICS, pool
from ...evaluation.statistics import Interval
from ..plan import Row, Table
from . import tables
from .html import MISSING, UNDEFINED, counted, note, number, table, text
from .results import MADE_UP, Results
from .tables import IMAGE_MEASURES, LOWER_IS_BETTER, STRATEGIES, TITLES, ImageLine, Line

DIGITS = {"assd_mm": 2, "false_positives": 2}
TESTED = ("dsc", "node_recall")  # measures whose p values have a column; the CSV has all
COVERAGE = ("With so few patients the intervals of shares and of differences hold the truth in about 93 to 97 of 100 "
            "studies, those of ASSD and other skewed errors in about 90, and fewer where a rare patient differs "
            "greatly from the rest, whom such a study may not contain: look at the patients themselves too "
            "(Resources/confidence_intervals.md).")
GREY = ("<span class=paper style='display:inline'>Grey: the paper's own figures. They were measured on other data (27 "
        "patients of ABD-LN and CRC-LNM): levels cannot be compared with those above.</span>")


def segmentation(results: Results, name: str, lines: Sequence[Line]) -> str:
    """The table itself, NodeRecall by short axis, and where test cases are of several kinds, a table of them."""
    plan = results.plan.tables[name]
    parts = [f"<h3>{text(plan.title)}</h3>", _main(plan, lines), *_notes(results, plan, lines),
             f"<h3>NodeRecall by short axis ({text(plan.title.split('.')[0])})</h3>", _strata(results, lines),
             note("Found nodes of all, pooled over cases and seeds. Short axis of the true node."), *_points(lines)]
    kinds = sorted({s.kind for line in lines for s in line.scores})
    if len(kinds) > 1:
        parts += [f"<h3>By kind of test case ({text(plan.title.split('.')[0])})</h3>", _by_kind(results, lines, kinds)]
    return "\n".join(parts)


def _points(lines: Sequence[Line]) -> list[str]:
    """Each patient's mean, where patients are so few that an interval is best looked at with them."""
    patients = sorted({s.patient for line in lines for s in line.scores})
    if not 0 < len(patients) < tables.FEW:
        return []
    rows = []
    for line in lines:
        means = [[tables.mean_of_patient(line, patient, metric) for patient in patients] for metric in TESTED]
        rows.append([text(line.row.label), *(" &nbsp; ".join(UNDEFINED if value is None else number(value, 3)
                                                             for value in values) if line.scores else MISSING
                                             for values in means)])
    return [f"<details><summary>Patient by patient: {', '.join(map(text, patients))}</summary>"
            + table(["trained on", *(TITLES[metric] for metric in TESTED)], rows) + "</details>"]


def _main(plan: Table, lines: Sequence[Line]) -> str:
    columns = {metric: tables.best([line.pooled.get(metric) for line in lines], DIGITS.get(metric, 3),
                                   metric in LOWER_IS_BETTER) for metric in METRICS}
    tested = TESTED if plan.reference else ()
    head = ["trained on", *(TITLES[metric] for metric in METRICS), *(f"p, {TITLES[metric]}" for metric in tested)]
    rows, before = [], None
    for i, line in enumerate(lines):
        if line.row.strategy != before:
            rows.append(STRATEGIES[line.row.strategy])
            before = line.row.strategy
        rows.append([text(line.row.label),
                     *(_mean(line, metric, i in columns[metric]) for metric in METRICS),
                     *(_p(line, metric, plan.reference) for metric in tested)])
    return table(head, rows)


def _mean(line: Line, metric: str, best: bool) -> str:
    digits = DIGITS.get(metric, 3)
    shown = spread(line.intervals[metric], digits, best) if line.scores else MISSING
    return shown + _published(line.row, metric, digits)


def _published(row: Row, measure: str, digits: int) -> str:
    told = row.published.get(measure)
    return "" if told is None else f"<span class=paper>paper {number(told, digits)}</span>"


def spread(found: Interval, digits: int, best: bool = False) -> str:
    """A mean, bold where it is the best, and its interval below."""
    mean = number(found.mean, digits)
    if found.low is None:
        return f"<b>{mean}</b>" if best else mean
    return (f"<b>{mean}</b>" if best else mean) + (
        f"<span class=small>{number(found.low, digits)} to {number(found.high, digits)}</span>")


def _p(line: Line, metric: str, reference: str | None) -> str:
    if line.row.label == reference:
        return "<span class=missing>reference</span>"
    test = line.versus.get(metric)
    return MISSING if test is None else p_value(test.p_holm) if test.patients else UNDEFINED


def p_value(p: float) -> str:
    return "&lt; 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def smallest_p(patients: int, comparisons: int) -> float:
    """What the exact two-sided signed-rank test of so many pairs can give at best, after Holm's correction."""
    return min(1.0, comparisons * 2 * 0.5**patients)


def _notes(results: Results, plan: Table, lines: Sequence[Line]) -> list[str]:
    scores = [s for line in lines for s in line.scores]
    cases, patients = ({getattr(s, what) for s in scores} for what in ("case", "patient"))
    if not scores:
        return [note("No row is done yet.")]
    what = f"{counted(len(cases), 'test case')} of {counted(len(patients), 'patient')}"
    seeds = len(results.plan.seeds)
    words = [f"Means over {what}; below each its 95 % interval over patients (Student's t, of shares in log odds, of "
             "ASSD and FP in logarithms). Bold is the best mean of a column, not a claim that it beats the next."]
    if len(patients) < tables.FEW:
        words.append(COVERAGE)
    if seeds > 1:
        words.append(f"{seeds} seeds: a case counts once for each, and patients are resampled with all that is theirs.")
        words += [f"{text(line.row.label)}: {line.seeds} of {seeds} seeds so far." for line in lines
                  if 0 < line.seeds < seeds]
    tests = [test for line in lines for metric, test in line.versus.items() if metric == TESTED[0]]
    if tests:
        patients = max(test.patients for test in tests)
        floor = smallest_p(patients, len(tests))
        words.append(f"p: Wilcoxon signed-rank test against {text(plan.reference)}, patient by patient, corrected by "
                     f"Holm for the {len(tests)} rows of this table"
                     f"{' that are done' if len(tests) < len(lines) - 1 else ''}. "
                     f"With {patients} patients no p here can be below {p_value(floor)}"
                     f"{', so none can reach 0.05' if floor >= 0.05 else ''}.")
    empty = [(line, line.pooled["empty_predictions"]) for line in lines if line.pooled.get("empty_predictions")]
    if empty:
        words.append("Predictions without any node: " + ", ".join(
            f"{text(line.row.label)} {count} of {line.pooled['cases']}" for line, count in empty) + ".")
    if any(line.row.published for line in lines):
        words.append(GREY)
    return [note(" ".join(words))]


def _strata(results: Results, lines: Sequence[Line]) -> str:
    names = list(pool([], results.plan.score)["node_recall_by_short_axis"])
    values = {name: [line.pooled["node_recall_by_short_axis"][name]["node_recall"] if line.pooled else None
                     for line in lines] for name in names}
    columns = {name: tables.best(found, 3) for name, found in values.items()}
    rows = []
    for i, line in enumerate(lines):
        strata = line.pooled.get("node_recall_by_short_axis")
        rows.append([text(line.row.label), *((_stratum(strata[name], i in columns[name]) if strata else MISSING)
                                             for name in names)])
    return table(["trained on", *(f"{text(name)} mm" for name in names)], rows)


def _stratum(stratum: dict, best: bool) -> str:
    if not stratum["nodes"]:
        return UNDEFINED
    shown = number(stratum["node_recall"], 3)
    return (f"<b>{shown}</b>" if best else shown) + f"<span class=small>{stratum['found']} of {stratum['nodes']}</span>"


def _by_kind(results: Results, lines: Sequence[Line], kinds: Sequence[str]) -> str:
    head = ["trained on", *(f"{TITLES[metric]}, {text(kind)}" for kind in kinds for metric in TESTED)]
    parts = {kind: [tables.subset(line, lambda s, kind=kind: s.kind == kind, results) for line in lines]
             for kind in kinds}
    best = {(kind, metric): tables.best([part.pooled.get(metric) for part in parts[kind]], 3)
            for kind in kinds for metric in TESTED}
    rows = [[text(line.row.label), *(_mean_of(parts[kind][i], metric, i in best[kind, metric])
                                     for kind in kinds for metric in TESTED)] for i, line in enumerate(lines)]
    scores = {kind: [s for part in parts[kind] for s in part.scores] for kind in kinds}
    counts = [f"{kind}: {MADE_UP[kind]}, {counted(len({s.case for s in scores[kind]}), 'case')} of "
              f"{counted(len({s.patient for s in scores[kind]}), 'patient')}" for kind in kinds]
    return table(head, rows) + note(f"{'; '.join(counts)}. Cases of one patient have no interval.")


def _mean_of(line: Line, metric: str, best: bool) -> str:
    return spread(line.intervals[metric], 3, best) if line.scores else MISSING


def images(results: Results, name: str, lines: Sequence[ImageLine]) -> str:
    """The table of images, with a first row that says what the real patches have."""
    plan = results.plan.tables[name]
    best = {m.name: set() if m.higher is None else tables.best(
        [line.intervals[m.name].mean if line.samples else None for line in lines], m.digits, not m.higher)
        for m in IMAGE_MEASURES}
    done = [line for line in lines if line.samples]
    rows = []
    if done:
        real = tables.mean_of(done[0].samples, "real_contrast_hu")
        rows.append(["<i>the real patches</i>", *(spread(real, m.digits) if m.name == "contrast_hu" else ""
                                                  for m in IMAGE_MEASURES)])
    rows += [[text(line.row.label), *((spread(line.intervals[m.name], m.digits, i in best[m.name]) if line.samples
                                       else MISSING) + _published(line.row, m.name, m.digits)
                                      for m in IMAGE_MEASURES)] for i, line in enumerate(lines)]
    return (f"<h3>{text(plan.title)}</h3>" + table(["method", *(text(m.title) for m in IMAGE_MEASURES)], rows)
            + _image_notes(results, name, done))


def _image_notes(results: Results, name: str, done: Sequence[ImageLine]) -> str:
    if not done:
        return note("No row is done yet.")
    patients = {row["patient"] for line in done for row in line.samples}
    words = [f"{len(done[0].samples)} patches of {len(patients)} patients of the {results.plan.images.split} split a "
             "method, with the anatomy and the nodes of the real ones and the same seed for every method; below each "
             "mean its 95 % interval over patients. MSE, PSNR and MS-SSIM reward an average of all images "
             "that fit a condition: a sharp sample of another patient's fat and vessels scores below a blurred one. "
             "HU errors are of an organ's mean. NodeRecall_synt: what the segmenter trained on real cases finds in the "
             "synthetic patches; it misses nodes of real images too."]
    if len(patients) < tables.FEW:
        words.append(COVERAGE)
    words.append("The paper's MSE is that of images in [0, 1], a quarter of that in [-1, 1].")
    if any(outcome.row.published for outcome in results.layout.tables[name]):
        words.append(GREY)
    sizes = sorted({row["ssim_scales"] for line in done for row in line.samples})
    words.append(f"MS-SSIM on {' or '.join(map(str, sizes))} scales, as many as the patches are large enough for.")
    cells = [cell for outcome in results.layout.tables[name] for cell in outcome.images]
    summaries = [made["summary"] for made in map(results.result, cells) if made]
    words += [f"LPIPS, FID and MMD are empty: {text(reason)}." for reason in
              dict.fromkeys(filter(None, (said["features_absent"] for said in summaries)))]
    words += [f"FID: {text(few)}." for few in dict.fromkeys(filter(None, (s["fid_caveat"] for s in summaries)))]
    return note(" ".join(words))
