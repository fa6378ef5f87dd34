"""Search all training cases for the originals of copied samples, by texture and features; try it on planted copies."""

import numpy as np
from scipy import ndimage

from ..cases.prepared import PreparedCase
from ..images.boxes import box_at
from ..masks.labels import AIR
from ..runtime.events import Callback, Progress
from ..runtime.seeds import rng
from ..training.data import random_start
from .copies import FLIPS, Match, Searched, Sought, flipped
from .features import FeatureNet, pooled
from .memorisation import MemorisationSettings, Neighbour, direction, nearest
from .sample_pairs import form_of


def sought_patch(scaled: np.ndarray, anatomy: np.ndarray, nodes: np.ndarray, like: PreparedCase,
            settings: MemorisationSettings) -> Sought:
    """A patch in [-1, 1] as it is looked for: by all its tissues but nodes."""
    return Sought(scaled + 1, np.where(nodes == 0, anatomy, AIR), like.spacing, settings)


def find_copies(rows: list[dict], sought: list[tuple[PreparedCase, tuple, Sought]], seen: list,
                 training: list[tuple[PreparedCase, tuple]], settings: MemorisationSettings,
                 features: FeatureNet | None, callback: Callback) -> dict:
    """Adds "nearest" and "copied" to the rows. Returns the limit of each space, and what it rests on."""
    volumes = {}  # by form: the cases, and what is searched in each
    with Progress("searching for copies", len(training) + len(sought) + 2 * settings.planted, callback) as progress:
        for case, shape in training:
            of_form = volumes.setdefault(form_of(case, shape), ([], []))
            of_form[0].append(case)
            of_form[1].append(Searched(lambda box, case=case: case.ct(box) + 1, case.shape, shape, settings))
            progress.step()
        for row, (case, start, patch) in zip(rows, sought, strict=True):
            among, searched = volumes.get(form_of(case, patch.shape), ([], []))
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
        match = sought_patch(copy, other.anatomy(elsewhere), other.nodes(elsewhere), case, settings).best(searched)
        counts["copies"] += match is not None
        counts["found"] += match is not None and match.texture >= settings.detail_limit
        progress.step()
        others = [one for one, c in zip(searched, cases, strict=True) if c.info["patient"] != case.info["patient"]]
        match = sought_patch(real, case.anatomy(box), case.nodes(box), case, settings).best(others)
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
