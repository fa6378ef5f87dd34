"""The conclusions of an experiment, written from its numbers alone and no stronger than they allow."""

from __future__ import annotations

from collections.abc import Sequence

from ...evaluation.statistics import Interval
from ...segmentation.settings import load_trainer
from .html import counted, number, text
from .results import Results
from .tables import FEW, TITLES, ImageLine, Line, difference, mean_of

OURS = "lnddpm"
WEAK = 0.3           # DSC of the segmenter of real cases below which little hangs on what is added to them
PAPER_STEPS, NNUNET_STEPS = 45_000, 1000 * 250
ORDINALS = {1: "highest", 2: "second highest", 3: "third highest"}


def shows(results: Results, lines: Sequence[Line], images: Sequence[ImageLine]) -> list[str]:
    """Sentences of HTML about the main table of segmentations and that of images."""
    found = [_rank(results, lines, metric) for metric in ("dsc", "node_recall")]
    found += [_both(results, lines, metric) for metric in ("dsc", "node_recall")]
    found.append(_contrast(results, images))
    return [sentence for sentence in found if sentence] or ["Too little is done yet to say anything."]


def verdict(found: Interval) -> str:
    """What an interval of a difference allows to say."""
    if found.low is None:
        return ("of one patient, which shows nothing" if found.patients == 1 else
                f"all {found.patients} patients alike, which says nothing about others")
    if found.low <= 0 <= found.high:
        return f"the interval includes 0: on these {counted(found.patients, 'patient')} the two cannot be told apart"
    if found.patients < FEW:
        return (f"the interval leaves out 0, but says nothing of what none of these {found.patients} patients shows: "
                "an indication at most")
    return f"the interval leaves out 0, on these {found.patients} patients"


def _told(found: Interval, digits: int = 3) -> str:
    sign = "+" if found.mean > 0 else ""
    between = "" if found.low is None else f" ({number(found.low, digits)} to {number(found.high, digits)})"
    return f"{sign}{number(found.mean, digits)}{between}"


def _is_ours(results: Results, line: Line | ImageLine) -> bool:
    row = line.row
    return row.method is not None and results.plan.methods[row.method].kind == OURS and not row.set


def _rank(results: Results, lines: Sequence[Line], metric: str) -> str | None:
    """Where LN-DDPM stands among the generators, each trained on its synthetic pairs alone."""
    rivals = [line for line in lines if line.row.strategy == "synthetic"]
    done = [line for line in rivals if line.pooled.get(metric) is not None]
    ours = next((line for line in done if _is_ours(results, line)), None)
    if ours is None or len(done) < 2:
        return None
    others = sorted((line for line in done if line is not ours), key=lambda line: -line.pooled[metric])
    rank, apart = 1 + sum(line.pooled[metric] > ours.pooled[metric] for line in others), difference(ours, others[0],
                                                                                                    metric)
    place = ORDINALS.get(rank, f"{rank}th highest")
    of = (f"{len(done)} generators" if len(done) == len(rivals)
          else f"the {len(done)} of {len(rivals)} generators that are done")
    return (f"Trained on synthetic pairs alone, {text(ours.row.label)} has the {place} {TITLES[metric]} of {of}: "
            f"{number(ours.pooled[metric], 3)}, against {number(others[0].pooled[metric], 3)} of "
            f"{text(others[0].row.label)}, the best of the others. Difference, patient by patient: {_told(apart)}; "
            f"{verdict(apart)}.")


def _both(results: Results, lines: Sequence[Line], metric: str) -> str | None:
    """Whether synthetic pairs add to the real cases: LN-DDPM's, and how many of all."""
    real = next((line for line in lines if line.row.strategy == "real" and line.pooled.get(metric) is not None), None)
    both = [line for line in lines if line.row.strategy == "both" and line.pooled.get(metric) is not None]
    if real is None or not both:
        return None
    apart = {line.row.label: difference(line, real, metric) for line in both}
    clear = [label for label, found in apart.items() if found.low is not None and found.low > 0]
    worse = [label for label, found in apart.items() if found.low is not None and found.high < 0]
    ours = next((line for line in both if _is_ours(results, line)), None)
    words = []
    if ours is not None:
        found = apart[ours.row.label]
        words.append(f"{text(ours.row.label)} against {text(real.row.label)}, {TITLES[metric]}: {_told(found)}; "
                     f"{verdict(found)}.")
    higher = sum(found.mean > 0 for found in apart.values())
    if len(both) > 1:
        words.append(f"Of the {len(both)} rows with synthetic pairs added to the real cases, {higher or 'none'} "
                     f"{'has' if higher < 2 else 'have'} a higher {TITLES[metric]} than the real cases alone; the "
                     f"interval of the difference is above 0 for {', '.join(map(text, clear)) or 'none'} and below 0 "
                     f"for {', '.join(map(text, worse)) or 'none'} (each interval by itself, not corrected for their "
                     "number).")
    return " ".join(words) or None


def _contrast(results: Results, images: Sequence[ImageLine]) -> str | None:
    """How far nodes stand out in LN-DDPM's images, and in whose they come nearest to the real ones."""
    done = [line for line in images if line.samples and line.intervals["contrast_hu"].mean is not None]
    ours = next((line for line in done if _is_ours(results, line)), None)
    real = mean_of(done[0].samples, "real_contrast_hu").mean if done else None
    if ours is None or real is None:
        return None
    nearest = min(done, key=lambda line: abs(line.intervals["contrast_hu"].mean - real))
    own = ours.intervals["contrast_hu"].mean
    return (f"In images of {text(ours.row.label)}, nodes stand out from what is around them by {number(own, 0)} HU, "
            f"where they do so in the real patches of the same conditions by {number(real, 0)} HU. Of "
            f"{counted(len(done), 'method')} {text(nearest.row.label)} comes nearest to that "
            f"({number(nearest.intervals['contrast_hu'].mean, 0)} HU).")


def limits(results: Results, lines: Sequence[Line]) -> list[str]:
    """Why it shows no more than that."""
    plan, kinds = results.plan, {source["kind"] for source in results.sources()}
    found = []
    if kinds - {"real", None}:
        found.append("None of these numbers is about patients' lymph nodes" + (
            " alone: some of the data are made up." if "real" in kinds else "."))
    patients = {s.patient for line in lines for s in line.scores}
    if patients and len(patients) < 27:
        found.append(f"It rests on {counted(len(patients), 'test patient')} (the paper: 27); another choice of "
                     "patients may change the order of rows.")
    if len(plan.seeds) == 1:
        found.append("Everything was trained once. How much a second training of the same would differ was not "
                     "measured, and no interval here contains it.")
    real = next((line for line in lines if line.row.strategy == "real" and line.pooled.get("dsc") is not None), None)
    if real is not None and real.pooled["dsc"] < WEAK:
        found.append(f"The segmenter trained on real cases reaches a DSC of {number(real.pooled['dsc'], 3)} itself. "
                     "Of segmenters as weak as this, differences may tell more about how far their training got than "
                     "about what they were trained on.")
    return found + _short(results)


def _short(results: Results) -> list[str]:
    """How far training and resolution stay behind the paper's."""
    plan, found = results.plan, []
    steps = [cell.settings["training"]["steps"] for cell in results.of_kind("generator")]
    if max(steps) < PAPER_STEPS:
        span = f"{min(steps)}" if min(steps) == max(steps) else f"{min(steps)} to {max(steps)}"
        found.append(f"Generators were trained for {span} steps (the paper: {PAPER_STEPS}). An equal, short budget may "
                     "favour methods that learn fast over those that get furthest.")
    trainer = load_trainer(plan.trainer, plan.trainer_set)
    if trainer.epochs * trainer.iterations < NNUNET_STEPS:
        found.append(f"Segmenters were trained for {trainer.epochs} x {trainer.iterations} iterations, equally many "
                     f"for each row whatever it was trained on (nnU-Net: 1000 x 250).")
    if plan.prepare.spacing_mm > 1:
        found.append(f"Voxels are {plan.prepare.spacing_mm:g} mm a side (the paper: 1 mm): a node of 8 mm is "
                     f"{8 / plan.prepare.spacing_mm:.0f} voxels across.")
    return found
