"""A folder of synthetic samples against the real patches they were made from: every image measure, sample by sample.

MSE, PSNR, MS-SSIM and LPIPS compare a sample with the real patch in its place, which it can equal only where its nodes
are those of the case: `nodes_changed` says where they are not. FID and MMD compare the samples with those same real
patches as two sets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..cases.sides import check_sides, members
from ..review.samples import samples as whole_samples
from ..runtime.events import Callback, Progress, ignore
from ..runtime.files import write_json, write_text
from ..runtime.tables import csv_text
from .copy_search import find_copies, sought_patch
from .distribution import caveat, fid, mmd
from .features import ABSENT, FeatureNet, lpips, pooled
from .images import RANGE, SsimSettings, ms_ssim, mse, mse_01, psnr, scales
from .memorisation import MemorisationSettings, detail
from .sample_pairs import Sample, SampleCases, check_unseen, form_of
from .statistics import Interval, mean_interval
from .tissue import TissueSettings, node_contrast, organ_errors

METRICS = ("mse_01", "mse", "psnr", "ms_ssim", "lpips", "organ_error_hu", "core_error_hu", "contrast_hu",
           "real_contrast_hu")
FACTS = ("sample", "case", "kind", "split", "nodes_changed")
# What is not an error or a difference from 0 upwards, for `mean_interval`.
SCALES = {"ms_ssim": "unit", "psnr": "real", "contrast_hu": "real", "real_contrast_hu": "real", "detail": "real"}


@dataclass(frozen=True)
class ImageSettings:
    ssim: SsimSettings = field(default_factory=SsimSettings)
    tissue: TissueSettings = field(default_factory=TissueSettings)
    memorisation: MemorisationSettings = field(default_factory=MemorisationSettings)


def evaluate_samples(samples: Path, data: list[Path], settings: ImageSettings | None = None, *,
                     features: FeatureNet | None = None, callback: Callback = ignore) -> dict:
    """Measures every sample of a folder (`synthesis.write_sample.write_sample`); JSON-ready.

    data      the data sets whose prepared cases the samples were made from; their training cases are what copies are
              looked for in
    features  MedicalNet; without it lpips, fid, mmd and what rests on features are None, and "features" says why

    Returns {"samples": a row a sample, "summary", "settings"}. A row: "sample", "case", "patient", "kind", "split",
    "nodes_changed"; "mse_01" and "mse" (of images in [0, 1], the paper's scale, and in [-1, 1]), "psnr" (None for equal
    volumes), "ms_ssim", "lpips"; "organ_error_hu" and "core_error_hu",
    the mean over organs of the absolute error of their mean HU; "contrast_hu" and "real_contrast_hu", means over nodes;
    "organs", "nodes" and "real_nodes" (`tissue`'s rows); "nearest", a dict for "pixels" and for "features";
    "detail"; and "copied", which of the three say that it is a copy (None where none of them can tell).
    Raises LNSynthError where a sample is damaged or its case cannot be found as it was, where two sides of the data
    sets share a patient or a CT, and where a sample of a case of split val or test is by a generator trained on it.
    """
    settings = settings or ImageSettings()
    folders = whole_samples(samples)
    everyone = members(data)
    check_sides(everyone, callback)
    check_unseen(folders, everyone, callback)
    cases = SampleCases(data)
    rows, sought, seen, real_seen, shapes = [], [], [], [], {}
    with Progress("measuring", len(folders), callback) as progress:
        for folder in folders:
            sample = cases.sample(folder)
            row, maps = _measure(sample, settings, features)
            rows.append(row)
            sought.append((sample.case, sample.start, sought_patch(
                sample.scaled(sample.synthetic), sample.anatomy, sample.nodes, sample.case, settings.memorisation)))
            if features:
                seen.append(pooled(maps[0]))
                real_seen.append(pooled(maps[1]))
            shapes[form_of(sample.case, sample.real.shape)] = sample.case
            progress.step()
    training = [(case, shape) for (_, shape), like in shapes.items() for case in cases.training(like)]
    copies = find_copies(rows, sought, seen, training, settings.memorisation, features, callback)
    return {"samples": rows, "summary": _summary(rows, seen, real_seen, copies, features),
            "settings": asdict(settings) | {"range": RANGE}}


def table(result: dict) -> list[dict]:
    """A flat row a sample from what `evaluate_samples` returns; the last row, "all", has the means and who is flagged.

    To the metrics it adds the distance (1 - correlation) to the likeliest training patch by fine texture, that to the
    nearest by features, and the correlation with the texture in its own place.
    """
    rows = [{name: row[name] for name in (*FACTS, *METRICS)} | {
        f"nearest_{space}": near and near["distance"] for space, near in row["nearest"].items()} | {
        "detail": row["detail"], "copied": None if row["copied"] is None else " ".join(row["copied"]) or "no"}
        for row in result["samples"]]
    said = result["summary"]
    last = dict.fromkeys(rows[0]) | {
        "sample": "all", "kind": " ".join(said["kinds"]), "nodes_changed": said["nodes_changed"],
        "copied": f"{len(said['memorisation']['flagged'])}/{said['memorisation']['judged']}"}
    return [*rows, last | {name: spread["mean"] for name, spread in said["metrics"].items()}]


def write_images(out: Path, result: dict) -> list[Path]:
    """Writes OUT/images.csv (`table`) and images.json (everything); returns their paths."""
    rows = table(result)
    write_text(out / "images.csv", csv_text(list(rows[0]), rows))
    write_json(out / "images.json", result)
    return [out / "images.csv", out / "images.json"]


def _measure(sample: Sample, settings: ImageSettings, features: FeatureNet | None) -> tuple[dict, tuple]:
    """A sample's row, but for what needs other patches; and the feature maps of both volumes."""
    synthetic, real = sample.scaled(sample.synthetic), sample.scaled(sample.real)
    maps = (features.maps(synthetic), features.maps(real)) if features else ()
    ratio, spacing, table = psnr(synthetic, real), sample.case.spacing, sample.table
    both = np.maximum(sample.nodes, sample.real_nodes)
    organs = organ_errors(sample.synthetic, sample.real, sample.anatomy, table, spacing, both, settings.tissue)
    nodes = node_contrast(sample.synthetic, sample.nodes, sample.anatomy, table, spacing, settings.tissue)
    true = node_contrast(sample.real, sample.real_nodes, sample.anatomy, table, spacing, settings.tissue)
    inside = np.where(table.is_organ(sample.anatomy) & (both == 0), sample.anatomy, 0)
    return {
        "sample": sample.name, "case": sample.case.id, "patient": sample.case.info["patient"],
        "kind": sample.case.kind, "split": sample.case.split,
        "nodes_changed": not np.array_equal(sample.nodes, sample.real_nodes),
        "mse_01": mse_01(synthetic, real), "mse": mse(synthetic, real), "psnr": ratio if math.isfinite(ratio) else None,
        "ms_ssim": ms_ssim(synthetic, real, settings.ssim), "ssim_scales": scales(real.shape, settings.ssim),
        "lpips": lpips(*maps) if maps else None,
        **{f"{name}_error_hu": _mean(abs(o["error"]) for o in organs if o["organ"] and o["part"] == part)
           for name, part in (("organ", "whole"), ("core", "core"))},
        "contrast_hu": _mean(n["contrast"] for n in nodes), "real_contrast_hu": _mean(n["contrast"] for n in true),
        "organs": organs, "nodes": nodes, "real_nodes": true,
        "detail": detail(synthetic, real, inside, spacing, settings.memorisation),
    }, maps


def _summary(rows: list[dict], seen: list, real_seen: list, copies: dict, features: FeatureNet | None) -> dict:
    judged = [row for row in rows if row["copied"] is not None]
    details = {split: _spread([row for row in rows if row["split"] == split], "detail")
               for split in sorted({row["split"] for row in rows})}
    flagged = [row["sample"] for row in judged if row["copied"]]
    few = caveat(len(seen), len(seen[0])) if seen else None
    return {
        "samples": len(rows), "kinds": dict(Counter(row["kind"] for row in rows)),
        "patients": len({row["patient"] for row in rows}),
        "nodes_changed": sum(row["nodes_changed"] for row in rows),
        "metrics": {name: _spread(rows, name) for name in METRICS},
        "features": {"name": features.name, "sha256": features.sha256} if features else None,
        "features_absent": None if features else ABSENT,
        "fid": fid(np.array(seen), np.array(real_seen)) if seen else None, "fid_caveat": few,
        "mmd": mmd(np.array(seen), np.array(real_seen)) if seen else None,
        "organs": _by_label(rows),
        "memorisation": {**copies, "judged": len(judged), "flagged": flagged, "detail_by_split": details},
    }


def _by_label(rows: list[dict]) -> list[dict]:
    """Each label's errors over the samples that have it, equal weight a sample."""
    found = {}
    for row in rows:
        for organ in row["organs"]:
            found.setdefault((organ["label"], organ["part"]), []).append(organ)
    return [{"label": label, "part": part, "samples": len(those),
             "error": _mean(o["error"] for o in those), "absolute_error": _mean(abs(o["error"]) for o in those),
             "mae": _mean(o["mae"] for o in those), "real_sd": _mean(o["real_sd"] for o in those),
             "synthetic_sd": _mean(o["synthetic_sd"] for o in those)} for (label, part), those in found.items()]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def interval_of(name: str, values: list[float], patients: list[str]) -> Interval:
    """The mean of a measure over samples, with its 95 % interval over patients."""
    return mean_interval(values, SCALES.get(name, "positive"), patients=patients)


def _spread(rows: list[dict], name: str) -> dict:
    """Over the samples that have a value: "mean" with its 95 % interval over patients ("low", "high", "patients"),
    "sd" (None of a single one) and "n"."""
    known = [row for row in rows if row[name] is not None]
    values = [row[name] for row in known]
    interval = interval_of(name, values, [row["patient"] for row in known])
    return asdict(interval) | {"sd": float(np.std(values, ddof=1)) if len(values) > 1 else None, "n": len(values)}
