"""Keeps a synthetic pair only if a segmenter finds its nodes (after FreeTumor, arXiv 2406.01264).

A sample whose CT does not show what its mask says would teach a segmenter nonsense. FreeTumor lets a segmenter that was
trained on real images judge: it keeps a synthetic tumour if more than 0.7 of its mask's voxels are segmented. Here
each node of a sample is measured, and a rule says how many of them must pass.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from .. import __version__
from ..images.volume import Volume, read, same_grid
from ..review.samples import pair_id, samples
from ..review.standings import FILTER_COLUMNS, Verdict, filter_table, read_filter
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress, ignore
from ..runtime.files import write_json, write_text
from ..runtime.locks import turn
from ..runtime.tables import csv_text

Rule = Literal["every", "any", "mean"]
DIGITS = 6       # of a stored coverage, so that one read back decides as the one measured did
SAVE_EVERY_S = 5.0
LOCK_S = 1.0     # to wait for a filter that is just ending


class Segmenter(Protocol):
    """What judges: `segmentation.predict.Segmenter`, or anything that does the same."""

    identity: str  # of its weights; verdicts of another one are not reused

    def predict(self, volume: Volume): ...  # -> has `instances`: (X, Y, Z) on the volume's grid, 0 where no node


def filter_samples(folder: Path, segmenter: Segmenter, threshold: float = 0.7, *, rule: Rule = "every",
                   callback: Callback = ignore) -> dict:
    """Judges every sample of a folder; writes FOLDER/filter.csv and filter.json.

    threshold  a node is found where the segmenter covers more than this share of its voxels
    rule       every: all nodes are found; any: at least one is; mean: the nodes' mean coverage is above the threshold

    A sample without nodes has nothing that could be missed, and is kept. Coverage is stored, so that samples which this
    segmenter has judged are not segmented again, whatever the threshold or rule was then; interrupted, the next call
    goes on. Returns the content of filter.json: {"threshold", "rule", "segmenter", "samples", "kept" (number),
    "dropped" ([{"sample", "reason"}]), "segmented" (number of samples judged anew), "version"}.
    """
    check(threshold, rule)
    folder = Path(folder)
    with turn(filter_table(folder), LOCK_S, "another program filters these samples; let it end first"):
        return _filter(folder, segmenter, threshold, rule, callback)


def _filter(folder: Path, segmenter: Segmenter, threshold: float, rule: Rule, callback: Callback) -> dict:
    known, verdicts, todo = read_filter(folder), {}, []
    for sample in samples(folder):
        before, pair = known.get(sample.name), pair_id(sample)
        if before and (before.pair, before.segmenter) == (pair, segmenter.identity):
            verdicts[sample.name] = verdict(sample.name, before.coverage, threshold, rule, segmenter.identity, pair)
        else:
            verdicts[sample.name] = None
            todo.append((sample, pair))
    (folder / "filter.json").unlink(missing_ok=True)  # there only where every sample was judged
    saved = time.monotonic()
    try:
        with Progress("filtering", len(todo), callback) as progress:
            for sample, pair in todo:
                name, found = sample.name, coverage(sample, segmenter)
                verdicts[name] = verdict(name, found, threshold, rule, segmenter.identity, pair)
                if time.monotonic() - saved > SAVE_EVERY_S:
                    _write(folder, verdicts)
                    saved = time.monotonic()
                progress.step(message=f"{name} {'kept' if verdicts[name].kept else 'dropped'}")
    finally:
        _write(folder, verdicts)
    result = {
        "threshold": threshold, "rule": rule, "segmenter": segmenter.identity, "samples": len(verdicts),
        "kept": sum(v.kept for v in verdicts.values()),
        "dropped": [{"sample": v.sample, "reason": v.reason} for v in verdicts.values() if not v.kept],
        "segmented": len(todo), "version": __version__}
    write_json(folder / "filter.json", result)
    return result


def check(threshold: float, rule: Rule) -> None:
    """Raises LNSynthError for a threshold that keeps nothing and for an unknown rule."""
    if not 0 <= threshold < 1:
        raise LNSynthError(f"A threshold of {threshold:g} keeps none or means nothing; choose one from 0 to below 1.")
    if rule not in RULES:
        raise LNSynthError(f"There is no rule {rule!r} for keeping a sample; known are {', '.join(RULES)}.")


def coverage(sample: Path, segmenter: Segmenter) -> dict[int, float]:
    """Of each node of a sample, by its number in the mask: the share of its voxels that the segmenter marks."""
    ct, nodes = (read(sample / name) for name in ("ct.nii.gz", "nodes.nii.gz"))
    same, difference = same_grid(ct, nodes)
    if not same:
        raise LNSynthError(f"{sample}: CT and nodes do not lie on one grid ({difference}); make the sample again.")
    marked = np.asarray(segmenter.predict(ct).instances) > 0
    if marked.shape != ct.shape:
        raise ValueError(f"the segmenter answered with shape {marked.shape} to a CT of shape {ct.shape}")
    mask = nodes.array.astype(np.int64)
    sizes, hits = np.bincount(mask.ravel()), np.bincount(mask[marked], minlength=int(mask.max()) + 1)
    return {int(node): round(float(hits[node] / sizes[node]), DIGITS) for node in np.flatnonzero(sizes) if node > 0}


def verdict(sample: str, covered: dict[int, float], threshold: float, rule: Rule, segmenter: str,
            pair: str) -> Verdict:
    """What the filter makes of the coverage of a sample's nodes."""
    kept = not covered or RULES[rule](list(covered.values()), threshold)
    if not covered:
        why = "no node to find"
    elif kept:
        why = ""
    elif rule == "mean":
        why = f"its nodes are covered to {np.mean(list(covered.values())):.2f} on average, not above {threshold:g}"
    else:
        missed = [f"node {node} is covered to {share:.2f}" for node, share in covered.items() if share <= threshold]
        why = f"{', '.join(missed)}, not above {threshold:g}"
    return Verdict(sample, kept, covered, threshold, rule, segmenter, why, pair)


RULES = {
    "every": lambda shares, threshold: min(shares) > threshold,
    "any": lambda shares, threshold: max(shares) > threshold,
    "mean": lambda shares, threshold: float(np.mean(shares)) > threshold,
}


def report(result: dict) -> str:
    """The outcome of `filter_samples` for people: how many were kept, and each dropped sample with the reason."""
    dropped = result["dropped"]
    lines = [f"filter: {result['kept']} of {result['samples']} samples kept, {len(dropped)} dropped "
             f"(coverage above {result['threshold']:g} for {result['rule']} node{'s' * (result['rule'] == 'mean')})"]
    return "\n".join(lines + [f"  dropped {entry['sample']}: {entry['reason']}" for entry in dropped])


def _write(folder: Path, verdicts: dict[str, Verdict | None]) -> None:
    rows = [{
        "sample": v.sample, "kept": "yes" if v.kept else "no",
        "least_coverage": "" if v.least is None else f"{v.least:.{DIGITS}f}",
        "coverage": " ".join(f"{node}:{share:.{DIGITS}f}" for node, share in v.coverage.items()),
        "threshold": repr(v.threshold), "rule": v.rule, "segmenter": v.segmenter, "reason": v.reason,
        "pair": v.pair} for v in verdicts.values() if v is not None]
    write_text(filter_table(folder), csv_text(FILTER_COLUMNS, rows))
