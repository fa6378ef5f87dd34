"""Pseudo pairs: lymph nodes painted into the fat of a real CT that has none annotated.

Painted nodes are not a patient's nodes. They are made to look like that CT's own soft tissue (level, blur and noise are
measured in it), so that a generator can be trained on real anatomy where annotated nodes are missing, and everything
that holds them says that the pairs are synthetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.special import erfinv

from ..cases.dataset import Case, Dataset, home_of, voxels_sha256
from ..cases.fingerprint import fingerprint
from ..cases.sides import Member, check_new, members, person
from ..images import synthetic
from ..images.boxes import box_of
from ..images.checks import check_ct
from ..images.volume import Volume, canonical, read, same_grid
from ..masks.body import label_map
from ..masks.labels import AIR, BODY, LabelTable
from ..masks.read import read_anatomy, telling
from ..runtime import seeds
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, Progress, ignore
from ..runtime.pseudonyms import pseudonym
from .placement import add
from .shape_prior import ShapePrior

TABLE = "abdomen17"  # knows fat, which is where nodes are painted
LEAST_FAT = 0.75  # share of a node that must replace fat, so that none is painted over bowel or muscle
VENOUS_SHARE = 0.35  # how far a node's HU lies from muscle (0) towards the veins (1), in any contrast phase
ROUNDS = 4  # of placing what is missing
LAG_MM = 6.0  # noise is taken as independent beyond this
STAIRS = 0.3  # voxels
SAME_SHARE = 0.9  # of its voxels, at least, a CT has in common with what was painted into it
FAINT = 0.02  # a node's share of a voxel below which the voxel stays as it is


@dataclass(frozen=True)
class Look:
    """What a soft-tissue nodule looks like in one CT.

    node_hu     expected mean HU of a lymph node
    blur_mm     standard deviation of the blur along each axis, mm
    covariance  of the noise, HU^2, by offset in voxels; the centre of the array is its variance
    """

    node_hu: float
    blur_mm: tuple[float, float, float]
    covariance: np.ndarray


def measure_look(ct_hu: np.ndarray, labels: np.ndarray, spacing: Sequence[float], table: LabelTable) -> Look:
    """Measures level, blur and noise of soft tissue in a canonical CT (X, Y, Z) with label map `labels` (ids of table).

    Raises LNSynthError where the CT shows neither an organ nor muscle to measure.
    """
    ct_hu = np.asarray(ct_hu, np.float32)
    smooth = ndimage.gaussian_filter(ct_hu, [1.5 / mm for mm in spacing])
    muscle = (labels == BODY) & (smooth > 10) & (smooth < 110)
    if np.count_nonzero(muscle) * np.prod(spacing) < 20_000:
        raise LNSynthError("the CT shows too little soft tissue to match nodes to; use a CT of the abdomen.")
    muscle_hu = float(np.median(smooth[muscle]))
    veins = np.isin(labels, [table.index("inferior_vena_cava"), table.index("portal_vein_and_splenic_vein")])
    blood_hu = float(np.median(smooth[veins])) if np.count_nonzero(veins) >= 50 else muscle_hu
    node_hu = muscle_hu + VENOUS_SHARE * max(blood_hu - muscle_hu, 0)
    in_plane = edge_blur(ct_hu, labels != AIR, spacing)
    # A thick slice averages over its thickness whatever the kernel.
    blur = (in_plane, in_plane, max(in_plane, spacing[2] / np.sqrt(12)))
    return Look(node_hu, blur, noise_covariance(ct_hu, _even_tissue(labels, table, muscle, spacing), spacing))


def edge_blur(ct_hu: np.ndarray, body: np.ndarray, spacing: Sequence[float]) -> float:
    """Standard deviation (mm) of the blur within slices, from how steeply HU rise at the skin of both flanks.

    Across an edge blurred by sigma, the largest step between neighbours a distance h apart is erf(h / (sqrt(8) sigma))
    of the whole rise. Obliquity and the voxels' phase only flatten steps, hence the upper quartile of all rows.
    Where the flanks are cut off by the field of view: 0.6 mm, a usual soft-tissue kernel, or half a voxel.
    """
    h = float(spacing[0])
    usual = max(0.6, 0.5 * h)
    widths = np.where(body.any(0), body.shape[0] - body.argmax(0) - body[::-1].argmax(0), 0)  # (Y, Z)
    reach = int(np.ceil(4 / h)) + 2
    steps = []
    for k in np.flatnonzero(widths.any(0)):
        widest = int(widths[:, k].argmax())
        for j in range(max(0, widest - 3), min(body.shape[1], widest + 4)):
            row = ct_hu[:, j, k]
            inside = np.flatnonzero(body[:, j, k])
            for at, way in ((inside[:1], 1), (inside[-1:], -1)):
                if not len(at) or not reach <= at[0] < len(row) - reach:
                    continue
                profile = row[at[0] - reach : at[0] + reach + 1][::way]
                air, skin = profile[:2].mean(), profile[reach:].max()
                if air < -900 and skin > -150:
                    steps.append(np.diff(profile).max() / (skin - air))
    if len(steps) < 50:
        return usual
    steepest = float(np.clip(np.percentile(steps, 75), 0.05, 0.98))
    return h / (np.sqrt(8) * float(erfinv(steepest)))


def noise_covariance(ct_hu: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Autocovariance (HU^2) of what is left of even tissue after its slow variation: offsets up to LAG_MM, odd shape.

    mask: where the tissue is, (X, Y, Z) bool. Vessels in it are clipped at three robust standard deviations.
    """
    lags = [max(1, min(8, int(LAG_MM / mm))) for mm in spacing]
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    m = mask[box].astype(np.float32)
    hu = ct_hu[box] * m
    wide = [6.0 / mm for mm in spacing]
    slow = ndimage.gaussian_filter(hu, wide) / np.maximum(ndimage.gaussian_filter(m, wide), 1e-3)
    rest = (ct_hu[box] - slow)[mask[box]]
    limit = 3 * 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
    residual = np.zeros(m.shape, np.float32)
    residual[mask[box]] = np.clip(rest - np.median(rest), -limit, limit)
    padded = [n + lag for n, lag in zip(m.shape, lags, strict=True)]  # no wrap-around up to the lags
    products = np.fft.irfftn(np.abs(np.fft.rfftn(residual, padded)) ** 2, padded)
    pairs = np.fft.irfftn(np.abs(np.fft.rfftn(m, padded)) ** 2, padded)
    covariance = products / np.maximum(pairs, 0.5)
    for axis, lag in enumerate(lags):
        covariance = np.take(covariance, np.arange(-lag, lag + 1), axis=axis, mode="wrap")
        shape = [-1 if a == axis else 1 for a in range(3)]
        covariance = covariance * np.hanning(2 * lag + 3)[1:-1].reshape(shape)
    return covariance


def draw_noise(covariance: np.ndarray, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise (float32) of that autocovariance, on a grid of any shape, by its power spectrum."""
    size = [max(n, c) for n, c in zip(shape, covariance.shape, strict=True)]
    kernel = np.zeros(size)
    kernel[box_of(covariance.shape)] = covariance
    kernel = np.roll(kernel, [-(c // 2) for c in covariance.shape], axis=(0, 1, 2))
    power = np.maximum(np.fft.fftn(kernel).real, 0)
    power *= covariance.max() / power.mean()  # what the clipping changed
    noise = np.fft.ifftn(np.fft.fftn(rng.standard_normal(size)) * np.sqrt(power)).real
    return noise[box_of(shape)].astype(np.float32)


def paint(
    ct_hu: np.ndarray, nodes: np.ndarray, spacing: Sequence[float], rng: np.random.Generator, look: Look
) -> np.ndarray:
    """A copy of the CT with every node of `nodes` (instances, same shape) painted in; type and shape stay.

    Each node gets a level of its own, a slight texture, the CT's blur and noise of its kind. Voxels that no node
    reaches by blur are bit-identical.
    """
    painted = ct_hu.copy()
    # The mask's own staircase, which no real surface has, goes with STAIRS of a voxel more.
    sigma = [float(np.hypot(b / mm, STAIRS)) for b, mm in zip(look.blur_mm, spacing, strict=True)]
    pad = [int(np.ceil(3 * s)) + 1 for s in sigma]
    general = rng.normal(0, 6)  # one person's nodes resemble each other
    for index, found in enumerate(ndimage.find_objects(nodes), start=1):
        if found is None:
            continue
        box = tuple(
            slice(max(0, s.start - p), min(n, s.stop + p)) for s, p, n in zip(found, pad, nodes.shape, strict=True)
        )
        mask = (nodes[box] == index).astype(np.float32)
        share = ndimage.gaussian_filter(mask, sigma, truncate=3.0, mode="nearest")
        share[share < FAINT] = 0
        texture = ndimage.gaussian_filter(rng.standard_normal(mask.shape), [2.0 / mm for mm in spacing], mode="wrap")
        texture *= 5.0 / max(float(texture.std()), 1e-6)
        level = look.node_hu + general + rng.normal(0, 7)
        before = painted[box].astype(np.float32)
        # The old tissue's noise fades with its share; as much new noise comes as keeps the variance.
        fresh = np.sqrt(1 - (1 - share) ** 2) * draw_noise(look.covariance, mask.shape, rng)
        after = (1 - share) * before + share * (level + texture) + fresh
        if painted.dtype.kind in "iu":
            after = np.rint(after)
        painted[box] = np.where(share > 0, after, painted[box]).astype(painted.dtype)
    return painted


def pseudo_dataset(
    folder: Path,
    ct: Path,
    anatomy: Path,
    variants: int,
    seed: int,
    *,
    version: int = 2,
    nodes: tuple[int, int] = (2, 9),
    split: str | None = None,
    case: str | None = None,
    patient: str | None = None,
    anonymous: bool = False,
    callback: Callback = ignore,
) -> Dataset:
    """Adds `variants` cases of one CT, each with its own painted nodes, to a (new or old) data set of kind "pseudo".

    ct, anatomy  image files on one grid; anatomy in TotalSegmentator `total` ids of that version
    nodes        fewest and most nodes a case; fewer where the fat has no room for them
    split        of all the variants: they share one patient; default: that of the data set the CT lies in, else train
    case         what the CT is called; default: its case in the data set that it lies in
    patient      whose CT it is; default: the patient of that case, else the case
    anonymous    pseudonyms (`runtime.pseudonyms`) for case and patient, and no name of the CT's file

    Variant k of a CT depends on the case's name, `seed` and k. Variants that are there stay. Raises LNSynthError for
    unusable files, for a CT that lies in no data set where no case is named, for one whose case another CT is called
    already, for one that the folder has in another split, under this name or another, for a folder that holds another
    kind of data set, and where not one node finds room.
    """
    name, patient, split = _origin(Path(ct), case, patient, split)
    called = "real CT" if anonymous else f"real CT {Path(ct).name}"
    if anonymous:
        name, patient = pseudonym("case", name), pseudonym("patient", person(patient))
    callback(Event("reading the CT"))
    image = canonical(read(ct))
    check_ct(image, str(ct))
    raw, version = read_anatomy(anatomy, image, version, telling(callback), source=ct)
    note = "Real CTs with SYNTHETIC lymph nodes painted into their fat: practice pairs, never ground truth."
    dataset, voxels = Dataset.open_or_create(folder, kind="pseudo", note=note), voxels_sha256(image)
    _check_same_ct(dataset, name, voxels, image, ct)
    check_new(Member(str(ct), name, split, patient, "", lambda: fingerprint(image)), members([dataset]))
    table, prior = LabelTable.load(TABLE), ShapePrior.load()
    callback(Event("finding fat and organs"))
    labels = label_map(image.array, raw.array, image.spacing, table, version=version)
    look = measure_look(image.array, labels, image.spacing, table)
    made = {e["id"] for e in dataset.cases()}
    with Progress("painting nodes", variants, callback) as progress:
        for k in range(variants):
            id = f"{name}-pseudo-{seed}-{k:03d}"
            if id not in made:
                rng = seeds.rng(seed, "pseudo", name, k)
                count = int(rng.integers(nodes[0], nodes[1] + 1))
                instances, records = place(labels, image.spacing, table, count, rng, prior)
                if not instances.any():
                    raise LNSynthError(f"{ct}: no node found room in its fat; check that the anatomy fits the CT.")
                hu = paint(image.array, instances, image.spacing, rng, look)
                entry = {
                    "patient": patient,
                    "split": split,
                    "ct": {"case": name, "voxels_sha256": voxels},
                    "source": f"{called} with painted nodes; node shapes: {prior.attribution}",
                    "anatomy_version": version,
                    "seed": seed,
                    "painted": records,
                }
                painted = Case(id, Volume(hu, image.affine), Volume(instances, image.affine), raw, entry)
                synthetic.remember(painted.ct, "pseudo", before=image)
                dataset.add(painted)
            progress.step(message=id)
    return dataset


def place(
    labels: np.ndarray, spacing: Sequence[float], table: LabelTable, count: int, rng: np.random.Generator, prior
) -> tuple[np.ndarray, list[dict]]:
    """Up to `count` new nodes that lie in fat: instances 1..n (uint16) and a record of each (see placement.add).

    Nodes of less than LEAST_FAT fat are dropped and replaced, in up to ROUNDS rounds.
    """
    instances = np.zeros(labels.shape, np.uint16)
    kept: list[dict] = []
    for _ in range(ROUNDS):
        if len(kept) == count:
            break
        instances, records = add(instances, labels, spacing, table, count - len(kept), rng, prior)
        for record in (r for r in records if r["placed"]):
            if record["fat"] >= LEAST_FAT:
                kept.append(record)
            else:
                instances[instances == record["id"]] = 0
    ids = np.zeros(int(instances.max()) + 1, np.uint16)
    ids[[record["id"] for record in kept]] = np.arange(1, len(kept) + 1)
    return ids[instances], [{**record, "id": int(ids[record["id"]])} for record in kept]


def _origin(ct: Path, case: str | None, patient: str | None, split: str | None) -> tuple[str, str, str]:
    """(case, patient, split) of a CT: as named, else as the data set has them that it lies in."""
    home = home_of(ct)
    if home is None:
        if not case:
            raise LNSynthError(f"{ct}: the CT lies in no data set, and a file's name does not say whose it is; name "
                               "its case (--case), and its patient (--patient) where that is another name.")
        return case, patient or case, split or "train"
    entry = home[1]
    if split and split != entry["split"]:
        raise LNSynthError(f"{ct}: {home[0].folder} has this CT in split {entry['split']}, not {split}; leave --split "
                           "out, so that no patient is in two.")
    return case or entry["id"], patient or entry["patient"], entry["split"]


def _check_same_ct(dataset: Dataset, case: str, voxels: str, image: Volume, ct: Path) -> None:
    """Raises LNSynthError where another CT than this one has given cases of this name."""
    for entry in dataset.cases():
        if "ct" in entry:
            other = entry["ct"]["case"] == case and entry["ct"]["voxels_sha256"] != voxels
        else:  # of an earlier version: a CT differs from what was painted into it in its nodes alone
            other = False
            if entry["id"].startswith(f"{case}-pseudo-"):
                painted = read(dataset.ct_path(entry["id"]))
                other = (not same_grid(painted, image)[0]
                         or np.count_nonzero(painted.array == image.array) < SAME_SHARE * image.array.size)
        if other:
            raise LNSynthError(f"{ct}: in {dataset.folder}, {case} is another CT already (of {entry['id']}); give "
                               "this one another id (--case).")


def _even_tissue(labels, table, muscle, spacing) -> np.ndarray:
    """The best tissue to measure noise in: the core of liver or spleen, else muscle."""
    core = [max(1, round(3 / mm)) for mm in spacing]
    ball = np.ones([2 * c + 1 for c in core], bool)
    for organ in ("liver", "spleen"):
        mask = ndimage.binary_erosion(labels == table.index(organ), ball)
        if np.count_nonzero(mask) * np.prod(spacing) > 5_000:
            return mask
    return muscle
