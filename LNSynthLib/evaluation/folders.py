"""Segmentations on disk: matched with the truth by name as nnU-Net's folders are, scored, and written as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..images.volume import Volume, canonical, is_volume_file, read, same_grid, stem
from ..masks.alignment import ordered_as
from ..masks.nodes import numbered
from ..masks.plausibility import check_plausible, doubts
from ..masks.read import read_two, telling
from ..masks.segments import is_seg
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress, ignore
from ..runtime.files import atomic_path, write_json, write_text
from ..runtime.npz import read_npz
from ..runtime.tables import csv_text
from .froc import RATES, Froc, froc
from .segmentation import METRICS, CaseScore, ScoreSettings, intervals, pool, score_case


def score_folders(predicted: Path, truth: Path, probability: Path | None, settings: ScoreSettings,
                  callback: Callback = ignore, segments: Sequence[str] = ()) -> dict[str, CaseScore]:
    """Scores every case of a folder, by name; or one file against one.

    predicted    CASE.nii.gz (or another volume file) of each case: what is above 0 is node
    truth        the same names: instances, or one value for all nodes, which are then separated where they do not touch
    probability  the same names: volumes, or the CASE.npz that `nnUNetv2_predict --save_probabilities` writes
    segments     of SEGs and .seg.nrrd files that are nodes; default: those that are called lymph node
    Raises LNSynthError for a case that lacks a file, and for files that do not lie on one grid.
    """
    cases = _matched(predicted, truth, probability)
    scores = {}
    with Progress("scoring", len(cases), callback) as progress:
        for name, (guess_path, truth_path, probability_path) in cases.items():
            guess, answer = read_two(guess_path, truth_path, telling(callback), names=segments)
            _check_grid(guess_path, guess, truth_path, answer)
            chance = None
            if probability_path is not None:
                chance = ordered_as(_probability(probability_path, guess_path, guess), answer.affine)
                _check_grid(probability_path, chance, truth_path, answer)
                chance = canonical(chance).array
            answer = canonical(numbered(answer))
            for path, mask in ((guess_path, numbered(guess)), (truth_path, answer)):
                check_plausible(doubts(mask), str(path), True, telling(callback))
            scores[name] = score_case(canonical(guess).array, answer.array, answer.spacing, settings, chance)
            progress.step(message=name)
    return scores


def summary(scores: dict[str, CaseScore], settings: ScoreSettings) -> dict:
    """What scores.json holds: settings, the pooled row with intervals, FROC (None without probabilities), cases."""
    curve = _curve(scores)
    return {
        "settings": asdict(settings), "pooled": pool(list(scores.values()), settings),
        "intervals": {name: asdict(found) for name, found in
                      intervals(list(scores.values()), settings=settings).items()},
        "froc": curve and {**curve.to_dict(), "at": {f"{rate:g}": curve.at(rate) for rate in RATES}},
        "cases": {name: score.to_dict() for name, score in scores.items()}}


def table(scores: dict[str, CaseScore], settings: ScoreSettings) -> list[dict]:
    """A row a case: the measures of `METRICS`, "nodes" and "found"; the last row, "all", is the pooled one."""
    rows = [{"case": name, **{metric: getattr(score, metric) for metric in METRICS}, "nodes": len(score.nodes),
             "found": sum(node.found for node in score.nodes)} for name, score in scores.items()]
    row = pool(list(scores.values()), settings)
    return [*rows, {"case": "all", **{metric: row[metric] for metric in METRICS}, "nodes": row["nodes"],
                    "found": sum(r["found"] for r in rows)}]


def write_scores(out: Path, scores: dict[str, CaseScore], settings: ScoreSettings) -> list[Path]:
    """Writes OUT/scores.csv, scores.json and, where candidates have scores, froc.png; returns their paths."""
    rows = table(scores, settings)
    written = [out / "scores.csv", out / "scores.json"]
    write_text(written[0], csv_text(list(rows[0]), rows))
    write_json(written[1], summary(scores, settings))
    curve = _curve(scores)
    if curve is not None:
        written.append(out / "froc.png")
        write_froc(written[2], {"": curve})
    return written


def write_froc(path: Path, curves: dict[str, Froc]) -> None:
    """Draws FROC curves, one a method, as steps: between two thresholds there are no other candidates. The dot is the
    prediction itself, with all its candidates."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no state

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    right = max([1.0, *(curve.false_positives[-1] for curve in curves.values())])
    for name, curve in curves.items():
        line, = axes.step(curve.false_positives, curve.sensitivity, where="post", label=name)
        end = curve.false_positives[-1], curve.sensitivity[-1]
        axes.plot([end[0], right], [end[1], end[1]], ":", color=line.get_color())
        axes.plot(*end, "o", color=line.get_color(), clip_on=False)
    axes.set(xlabel="false positives per case", ylabel="share of nodes found", xlim=(0, right), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if any(curves):
        axes.legend(loc="lower right")
    with atomic_path(path) as beside:
        figure.savefig(beside, dpi=150, format="png")


def _curve(scores: dict[str, CaseScore]) -> Froc | None:
    scored = any(c.score is not None for score in scores.values() for c in score.candidates)
    return froc(list(scores.values())) if scored else None


def _matched(predicted: Path, truth: Path, probability: Path | None) -> dict[str, tuple[Path, Path, Path | None]]:
    given = [path for path in (predicted, truth, probability) if path is not None]
    for path in given:
        if not path.exists():
            raise LNSynthError(f"{path}: there is no such file or folder; check the path.")
    if not any(path.is_dir() for path in given):
        return {stem(predicted): (predicted, truth, probability)}
    if not all(path.is_dir() for path in given):
        raise LNSynthError(f"{' and '.join(map(str, given))}: give folders for all of them, or files for all of them.")
    guesses, answers = _volumes(predicted), _volumes(truth)
    chances = None if probability is None else _volumes(probability, ".npz")
    if not answers:
        raise LNSynthError(f"{truth}: there is no volume file in it; give the folder of the true node masks.")
    for has, lacks, folder in ((answers, guesses, predicted), (guesses, answers, truth),
                               *([(answers, chances, probability)] if chances is not None else [])):
        missing = sorted(set(has) - set(lacks))
        if missing:
            raise LNSynthError(f"{folder}: there is no file for {', '.join(missing[:5])}"
                               f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}; every case needs one, "
                               "or the means would be of other cases.")
    return {name: (guesses[name], answers[name], chances and chances[name]) for name in sorted(answers)}


def _volumes(folder: Path, *more: str) -> dict[str, Path]:
    """Volume files of a folder by case; `more`: other suffixes that count, and go before volume files."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in more:
            found[path.stem] = path
        elif is_volume_file(path) or (path.suffix.lower() == ".dcm" and is_seg(path)):
            name = stem(path).removesuffix(".dcm")
            if name in found and found[name].suffix not in more:
                raise LNSynthError(f"{path} and {found[name].name} are of the same case; leave one of them.")
            found.setdefault(name, path)
    return found


def _probability(path: Path, mask_path: Path, mask: Volume) -> Volume:
    """Foreground probability. nnU-Net's .npz has (class, z, y, x) on the prediction's grid and no affine of its own."""
    if path.suffix != ".npz":
        return read(path)
    try:
        classes = read_npz(path, ["probabilities"])["probabilities"]
    except LNSynthError as error:
        raise LNSynthError(f"{error} It is not as nnUNetv2_predict writes probabilities.") from None
    if classes.ndim != 4 or classes.dtype.kind != "f" or len(classes) < 2 or not np.isfinite(classes).all():
        raise LNSynthError(f"{path} is not as nnUNetv2_predict writes probabilities; predict again.")
    chance = classes[1:].sum(0, dtype=np.float32).transpose(2, 1, 0)
    if is_volume_file(mask_path):
        mask = read(mask_path)  # as it is stored
    return Volume(chance, mask.affine)


def _check_grid(path: Path, volume: Volume, other_path: Path, other: Volume) -> None:
    same, why = same_grid(volume, other)
    if not same:
        raise LNSynthError(f"{path} and {other_path} do not lie on one grid: {why}; resample one to the other.")
