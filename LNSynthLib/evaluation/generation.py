"""A folder of synthetic samples against the real patches they were made from: every image measure, sample by sample.

MSE, PSNR, MS-SSIM and LPIPS compare a sample with the real patch in its place, which it can equal only where its nodes
are those of the case: `nodes_changed` says where they are not. FID and MMD compare the samples with those same real
patches as two sets.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..cases.prepared import PreparedCase, list_prepared
from ..cases.sides import Member, check_sides, members
from ..cases.trained_on import TrainedOn, held_out
from ..conditions.encode import scale_hu, unscale_hu
from ..images.boxes import Box, box_at, extent
from ..images.volume import read
from ..masks.labels import AIR, LabelTable, table_named
from ..review.provenance import ANONYMOUS_KEY
from ..review.samples import read_record
from ..review.samples import samples as whole_samples
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, Progress, ignore
from ..runtime.files import write_json, write_text
from ..runtime.names import check_name, inside
from ..runtime.pseudonyms import pseudonym
from ..runtime.seeds import rng
from ..runtime.tables import csv_text
from ..training.data import random_start
from .copies import FLIPS, Match, Searched, Sought, flipped
from .distribution import caveat, fid, mmd
from .features import ABSENT, FeatureNet, lpips, pooled
from .images import RANGE, SsimSettings, ms_ssim, mse, mse_01, psnr, scales
from .memorisation import MemorisationSettings, Neighbour, detail, direction, nearest
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


@dataclass(frozen=True, eq=False)
class Sample:
    """A synthetic patch and the real one in its place: HU (X, Y, Z), their nodes, and the anatomy of both."""

    name: str
    case: PreparedCase
    start: tuple[int, int, int]
    table: LabelTable
    synthetic: np.ndarray
    nodes: np.ndarray
    real: np.ndarray
    real_nodes: np.ndarray
    anatomy: np.ndarray

    def scaled(self, hu: np.ndarray) -> np.ndarray:
        return scale_hu(hu, self.case.info["window"])


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
    _check_unseen(folders, everyone, callback)
    cases = _Cases(data)
    rows, sought, seen, real_seen, shapes = [], [], [], [], {}
    with Progress("measuring", len(folders), callback) as progress:
        for folder in folders:
            sample = cases.sample(folder)
            row, maps = _measure(sample, settings, features)
            rows.append(row)
            sought.append((sample.case, sample.start, _sought(
                sample.scaled(sample.synthetic), sample.anatomy, sample.nodes, sample.case, settings.memorisation)))
            if features:
                seen.append(pooled(maps[0]))
                real_seen.append(pooled(maps[1]))
            shapes[_form(sample.case, sample.real.shape)] = sample.case
            progress.step()
    training = [(case, shape) for (_, shape), like in shapes.items() for case in cases.training(like)]
    copies = _find_copies(rows, sought, seen, training, settings.memorisation, features, callback)
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


def _check_unseen(folders: Iterable[Path], everyone: list[Member], callback: Callback) -> None:
    """Raises LNSynthError where a sample is of a case held out of training that its generator was trained on; tells
    of generators that do not say what they were trained on."""
    held, generators = {member.case: member for member in held_out(everyone)}, {}
    for folder in folders:
        record = read_record(folder)
        if (case := record.get("source", {}).get("case")) in held:
            said = record.get("generator", {}).get("trained_on")
            _, of = generators.setdefault(json.dumps(said, sort_keys=True), (
                TrainedOn.read(said, None, f"the generator of {folder.name}"), {}))
            of.setdefault(case, folder.name)
    for record, of in generators.values():
        for unknown in record.unknown:
            callback(Event("measuring", message=f"note: {unknown}; whether it has seen a case of split val or test "
                                                "cannot be checked"))
        for case, name in of.items():
            record.check([held[case]], f"The generator of {name}")


class _Cases:
    """The prepared cases of some data sets, opened as samples ask for them."""

    def __init__(self, data: Iterable[Path]):
        self.data = [Path(folder) for folder in data]

    def sample(self, folder: Path) -> Sample:
        record = read_record(folder)
        try:
            if record["what"] != "patch":
                raise LNSynthError(f"{folder}: it is not a synthetic patch of a prepared case but {record['what']!r}; "
                                   "give a folder of samples that `lnsynth synthesize` made.")
            case, box = self.case(folder, record["source"]), _box(record["condition"])
            table = LabelTable.load(table_named(case.info["settings"]["labels"], case.folder / "case.json"))
            start = tuple(record["condition"]["start"])
        except (KeyError, ValueError):
            raise LNSynthError(f"{folder / 'provenance.json'}: it does not record which patch of which prepared case "
                               "the sample was made from; make the sample again.") from None
        hu, nodes, shape = read(folder / "ct.nii.gz").array, read(folder / "nodes.nii.gz").array, _shape(box)
        if not hu.shape == nodes.shape == shape:
            raise LNSynthError(f"{folder}: CT {hu.shape}, nodes {nodes.shape} and provenance {shape} differ in "
                               "shape; make the sample again.")
        return Sample(folder.name, case, start, table, hu.astype(np.float32), nodes,
                      unscale_hu(case.ct(box), case.info["window"]), case.nodes(box), case.anatomy(box))

    def case(self, folder: Path, source: dict) -> PreparedCase:
        where = folder / "provenance.json"
        name = f"{source['prepared_settings']['name']}/{check_name(source['case'], where, 'the case')}"
        found = [inside(data / "prepared", name, where, "the prepared case") for data in self.data]
        found = [PreparedCase.open(path) for path in found if (path / "case.json").is_file()]
        for case in found:
            if case.info["key"] == source["prepared_key"]:
                return case
        if source["prepared_key"].startswith(f"{ANONYMOUS_KEY}-"):
            for case in self._prepared(source["prepared_settings"]["name"]):
                if pseudonym(ANONYMOUS_KEY, case.info["key"]) == source["prepared_key"]:
                    return case
        why = "it was prepared anew since" if found else "none of them has it"
        raise LNSynthError(f"{folder}: the case {source['case']} it was made from is not in "
                           f"{', '.join(map(str, self.data))} as it was ({why}); give its data set, or make the sample "
                           "again.")

    @cache  # noqa: B019 (as long as the evaluation)
    def _prepared(self, name: str) -> list[PreparedCase]:
        """All cases of that preparation, for samples that do not say which one they are of."""
        return [PreparedCase.open(path.parent) for data in self.data
                for path in sorted((data / "prepared" / name).glob("[!.]*/case.json"))]

    def training(self, like: PreparedCase) -> list[PreparedCase]:
        """The training cases of all data sets that are prepared as this case is."""
        folders = [data / "prepared" / like.info["settings"]["name"] for data in self.data]
        return [case for folder in folders if folder.is_dir() for case in list_prepared(folder)
                if case.split == "train" and case.info["nodes"]
                and (case.spacing, case.info["window"]) == (like.spacing, like.info["window"])]


def _box(condition: dict) -> Box:
    return tuple(slice(s, s + n) for s, n in zip(condition["start"], condition["shape"], strict=True))


def _shape(box: Box) -> tuple[int, ...]:
    return extent(box)


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


def _sought(scaled: np.ndarray, anatomy: np.ndarray, nodes: np.ndarray, like: PreparedCase,
            settings: MemorisationSettings) -> Sought:
    """A patch in [-1, 1] as it is looked for: by all its tissues but nodes."""
    return Sought(scaled + 1, np.where(nodes == 0, anatomy, AIR), like.spacing, settings)


def _form(case: PreparedCase, shape) -> tuple:
    return case.info["settings"]["name"], tuple(shape)


def _find_copies(rows: list[dict], sought: list[tuple[PreparedCase, tuple, Sought]], seen: list,
                 training: list[tuple[PreparedCase, tuple]], settings: MemorisationSettings,
                 features: FeatureNet | None, callback: Callback) -> dict:
    """Adds "nearest" and "copied" to the rows. Returns the limit of each space, and what it rests on."""
    volumes = {}  # by form: the cases, and what is searched in each
    with Progress("searching for copies", len(training) + len(sought) + 2 * settings.planted, callback) as progress:
        for case, shape in training:
            of_form = volumes.setdefault(_form(case, shape), ([], []))
            of_form[0].append(case)
            of_form[1].append(Searched(lambda box, case=case: case.ct(box) + 1, case.shape, shape, settings))
            progress.step()
        for row, (case, start, patch) in zip(rows, sought, strict=True):
            among, searched = volumes.get(_form(case, patch.shape), ([], []))
            own = [(index, start) for index, other in enumerate(among) if other.id == case.id]
            row["nearest"] = {"pixels": _found(patch.best(searched, own), among, settings)}
            progress.step()
        planted = _planted(volumes, settings, progress)
    limits = {"pixels": 1 - settings.detail_limit if training else None, "features": None}
    if features:
        limits["features"] = _nearest_features(rows, seen, training, settings, features, callback)
    else:
        for row in rows:
            row["nearest"]["features"] = None
    for row in rows:
        verdicts = {space: near["flagged"] for space, near in row["nearest"].items() if near}
        if row["detail"] is not None:
            verdicts["detail"] = row["detail"] >= settings.detail_limit
        judged = {by: verdict for by, verdict in verdicts.items() if verdict is not None}
        row["copied"] = [by for by, verdict in judged.items() if verdict] if judged else None
    return {"limits": limits, "training_cases": len({case.folder for case, _ in training}),
            "training_patients": len({case.info["patient"] for case, _ in training}), "planted": planted}


def _found(match: Match | None, cases: list[PreparedCase], settings: MemorisationSettings) -> dict | None:
    return match and {"case": cases[match.index].id, "start": list(match.start), "flips": list(match.flips),
                      "distance": 1 - match.texture, "structure": match.structure,
                      "flagged": match.texture >= settings.detail_limit}


def _planted(volumes: dict, settings: MemorisationSettings, progress: Progress) -> dict | None:
    """How many copies the search finds that are put before it, and how many honest patches it flags.

    Copies of a random place of a training case in any flip, in turn exact, with noise of 5 HU, and blurred by 1 mm,
    looked at by the tissues of another place. Honest are real patches, searched for in other patients alone.
    """
    forms, counts = list(volumes.items()), {"copies": 0, "found": 0, "honest": 0, "flagged": 0}
    for number in range(settings.planted if forms else 0):
        random = rng(settings.seed, "planted copies", number)
        (_, shape), (cases, searched) = forms[number % len(forms)]
        case, other = (cases[i] for i in random.integers(len(cases), size=2))
        box, elsewhere = (tuple(slice(s, s + n) for s, n in zip(random_start(one, shape, random, at_node=True), shape,
                                                                strict=True)) for one in (case, other))
        real = case.ct(box).astype(np.float32)
        low, high = case.info["window"]
        spoilt = (real, real + random.normal(0, 10 / (high - low), real.shape),
                  ndimage.gaussian_filter(real, [1 / mm for mm in case.spacing]))[number % 3]
        copy = flipped(np.clip(spoilt, -1, 1), FLIPS[random.integers(len(FLIPS))])
        match = _sought(copy, other.anatomy(elsewhere), other.nodes(elsewhere), case, settings).best(searched)
        counts["copies"] += match is not None
        counts["found"] += match is not None and match.texture >= settings.detail_limit
        progress.step()
        others = [one for one, c in zip(searched, cases, strict=True) if c.info["patient"] != case.info["patient"]]
        match = _sought(real, case.anatomy(box), case.nodes(box), case, settings).best(others)
        counts["honest"] += match is not None
        counts["flagged"] += match is not None and match.texture >= settings.detail_limit
        progress.step()
    return counts if counts["copies"] or counts["honest"] else None


def _nearest_features(rows: list[dict], seen: list, training: list[tuple[PreparedCase, tuple]],
                      settings: MemorisationSettings, features: FeatureNet, callback: Callback) -> float | None:
    """Adds the nearest training patch of another patient by features to the rows; returns the limit."""
    places, real = [], []
    with Progress("training patches", len(training) * settings.per_case, callback) as progress:
        for case, shape in training:
            random = rng(settings.seed, "memorisation", case.id)
            for _ in range(settings.per_case):
                start = random_start(case, shape, random, at_node=True)
                patch = case.ct(box_at(start, shape))
                places.append((case, start))
                real.append(direction(pooled(features.maps(patch))))
                progress.step()
    found, limit = [None] * len(rows), None
    if places:
        found, limit = nearest(np.array([direction(vector) for vector in seen]), [row["patient"] for row in rows],
                               np.array(real), [case.info["patient"] for case, _ in places], settings.percentile)
    for row, neighbour in zip(rows, found, strict=True):
        row["nearest"]["features"] = neighbour and _told(neighbour, places)
    return limit


def _told(neighbour: Neighbour, places: list) -> dict:
    case, start = places[neighbour.index]
    return {"case": case.id, "start": list(start), "distance": neighbour.distance, "flagged": neighbour.flagged}


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
