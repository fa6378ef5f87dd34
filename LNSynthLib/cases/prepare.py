"""Prepare a data set for training: the node region, isotropic voxels, an HU window, a label map.

Per case: whole axial slices around the nodes are resampled and labelled (the body mask needs whole slices), then
cropped to the node region plus a margin, windowed to [-1, 1] and stored (store.py) under DATASET/prepared/NAME/ID.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..images.boxes import bounding_box, box_of, grow
from ..images.checks import check_ct, check_labels, check_nodes, check_pair
from ..images.pictures import PLANES, montage, view, write_png
from ..images.volume import Volume, canonical, crop, isotropic_grid, resample_to
from ..masks.body import LOWEST_HU, label_map, node_hu, organ_hu
from ..masks.labels import LabelTable
from ..masks.nodes import records
from ..masks.shapes import on_grid
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, Progress, ignore
from ..runtime.files import atomic_folder, sha256_once, write_json
from ..runtime.locks import turn
from ..runtime.names import check_own_link, inside, problem, remove_ours
from ..runtime.processes import WorkerDied, each
from ..runtime.temporary import sweep
from .dataset import LINKED, ROLES, Case, Dataset
from .prepared import FILES, PreparedCase, write_prepared
from .sides import check_sides, members

VERSION = 3  # raise it when the same inputs and settings give other arrays: prepared cases are then made again
AIR_FILL_HU = -1000.0
LESS_MEMORY = "use fewer workers, a larger --spacing or a smaller --margin, or a machine with more memory"
SPARE_SLICES = 8  # read beyond the slab, so that its outermost slices are interpolated and smoothed like all others


@dataclass(frozen=True)
class PrepareSettings:
    """How cases are prepared; the defaults are the paper's, but for which labels there are."""

    spacing_mm: float = 1.0                              # isotropic voxel side
    margin_mm: float = 100.0                             # around the node region; 50 to test segmenters
    window: tuple[float, float] = (-120.0, 240.0)        # HU that become -1 and 1
    labels: str = "abdomen14"                            # label table
    name: str = "default"                                # folder under DATASET/prepared
    allow_no_nodes: bool = False                         # True: a case without nodes is prepared whole
    allow_no_anatomy: bool = False                       # True: such a case has only air, body and HU threshold labels


def prepare(dataset: Dataset, settings: PrepareSettings, workers: int = 0, callback: Callback = ignore) -> dict:
    """Prepare every case of the data set; cases whose inputs and settings did not change are left as they are.

    workers  processes (spawn); 0 works in this one
    Returns {"folder", "prepared", "unchanged"} (ids). A CT or a patient in two splits is refused before the work. A
    case that fails does not stop the others; at the end LNSynthError tells how many failed and why. Interrupted,
    finished cases stay and the next call goes on from there.
    """
    LabelTable.load(settings.labels)  # a wrong name fails before any work
    _check(settings)
    folder = _place(dataset, settings.name)
    entries = dataset.cases()
    if not entries:
        raise LNSynthError(f"{dataset.folder}: the data set has no case; add some with `lnsynth import`.")
    check_sides(members([dataset]), callback, skip_damaged=True)
    jobs = [(dataset.folder, e["id"], settings) for e in entries]
    outcome: dict[str, Any] = {"prepared": [], "unchanged": [], "failed": {}}
    folder.parent.mkdir(exist_ok=True)
    told = Event("preparing", message=f"waiting until another program has prepared {settings.name} of this data set")
    with turn(folder, math.inf, waiting=lambda: callback(told)):
        sweep(folder)
        _remove_others(folder, {e["id"] for e in entries})
        try:
            with Progress("preparing", len(jobs), callback) as progress, closing(each(_job, jobs, workers)) as ended:
                for job, result in ended:
                    id, (state, message) = job[1], _died(job, result) if isinstance(result, WorkerDied) else result
                    if state == "failed":
                        outcome["failed"][id] = message
                    else:
                        outcome[state].append(id)
                    progress.step(message=f"{id}: {message}")
        finally:
            sweep(folder)  # what a worker that had to be killed left
        outcome["prepared"].sort()
        outcome["unchanged"].sort()
        about = {"dataset": dataset.name, "kind": dataset.kind, "settings": asdict(settings)}
        write_json(folder / "prepare.json", about | outcome)
    if outcome["failed"]:
        count, first = len(outcome["failed"]), next(iter(outcome["failed"].values()))
        raise LNSynthError(f"{count} of {len(jobs)} cases could not be prepared, the first because {first}")
    return {"folder": str(folder), "prepared": outcome["prepared"], "unchanged": outcome["unchanged"]}


def _place(dataset: Dataset, name: str) -> Path:
    """DATASET/prepared/NAME, where something may be written."""
    check_own_link(dataset.folder / "prepared", (".*.lock", "*/prepare.json", *(f"*/*/{file}" for file in FILES)))
    return inside(dataset.folder, f"prepared/{name}", dataset.folder / "dataset.json", linked=LINKED)


def _job(job: tuple[Path, str, PrepareSettings]) -> tuple[str, str]:
    """(prepared | unchanged | failed, message)"""
    folder, id, settings = job
    try:
        case, made = prepare_case(Dataset.open(folder), id, settings)
    except LNSynthError as error:
        return "failed", str(error)
    except MemoryError:
        return "failed", f"{folder}: there is not enough memory to prepare case {id}; {LESS_MEMORY}."
    except Exception as error:  # whatever the libraries raise over one odd file must not cost the other cases
        about = f"{type(error).__name__}: {error}".rstrip(": ")
        return "failed", f"{folder}: case {id} failed ({about}); check its files, or take it out of the data set."
    if not made:
        return "unchanged", "unchanged"
    return "prepared", f"{len(case.info['nodes'])} nodes, {' x '.join(map(str, case.shape))} voxels"


def _died(job: tuple[Path, str, PrepareSettings], death: WorkerDied) -> tuple[str, str]:
    folder, id, _ = job
    return "failed", f"{folder}: {death} while it prepared case {id}, probably for want of memory; {LESS_MEMORY}."


def _remove_others(folder: Path, ids: set[str]) -> None:
    """Prepared cases whose source left the data set go too: they would be trained on."""
    for made in folder.glob("[!.]*/case.json"):
        if made.parent.name not in ids and not remove_ours(made.parent, FILES):
            raise LNSynthError(f"{made.parent}: the data set has no such case any more, and the folder holds other "
                               "files than a prepared case's; move it away.")


def _check(settings: PrepareSettings) -> None:
    low, high = settings.window
    for wrong, what in (
        (settings.spacing_mm <= 0, f"spacing_mm is {settings.spacing_mm}; give a positive voxel side in mm"),
        (settings.margin_mm < 0, f"margin_mm is {settings.margin_mm}; give 0 or more mm"),
        (low >= high, f"the window runs from {low} to {high}; give the lower HU first"),
        (problem(settings.name), f"the name {settings.name!r} cannot name a folder; give a plain word"),
    ):
        if wrong:
            raise LNSynthError(f"Prepare settings: {what}.")


def prepare_case(dataset: Dataset, id: str, settings: PrepareSettings) -> tuple[PreparedCase, bool]:
    """(prepared case, True when it had to be made). Raises LNSynthError for a case that cannot be prepared."""
    folder = _place(dataset, f"{settings.name}/{id}")
    table = LabelTable.load(settings.labels)
    hashes = {role: sha256_once(path) for role in ROLES if (path := dataset.checked_path(id, role)) and path.exists()}
    entry = dataset.entry(id)
    about = {k: entry[k] for k in ("id", "patient", "split", "source", "anatomy_version")}
    about = {"kind": entry.get("synthetic") or dataset.kind} | about
    inputs = {"version": VERSION, "settings": asdict(settings), "table": asdict(table), "sha256": hashes} | about
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    if (folder / "case.json").is_file():
        with suppress(LNSynthError):  # a damaged one is made again
            there = PreparedCase.open(folder)
            if there.info.get("key") == key:
                there.check_intact()
                return there, False

    began = time.monotonic()
    where = {role: str(dataset.path(id, role)) for role in ROLES}
    arrays, info, hu = compute(checked(dataset.load(id), where, settings, table), where, settings, table)
    info = {**about, **info, "window": list(settings.window), "labels": table.name, "settings": asdict(settings)}
    info |= {"version": VERSION, "sha256": hashes, "key": key, "seconds": round(time.monotonic() - began, 1)}
    with atomic_folder(folder) as beside:
        write_prepared(beside, **arrays, info=info)
        write_png(beside / "report.png", report(hu, arrays["anatomy"], arrays["nodes"], info, table))
    return PreparedCase.open(folder), True


def checked(case: Case, where: dict[str, str], settings: PrepareSettings, table: LabelTable) -> Case:
    """The case with its axes in RAS order, after every check a case must pass before it is used.

    where: the file of each role, for errors
    """
    check_ct(case.ct, where["ct"])
    if case.nodes is None and not settings.allow_no_nodes:
        raise LNSynthError(f"{where['ct']}: the case has no node mask; add one, or allow cases without nodes.")
    if case.anatomy is None and not settings.allow_no_anatomy:
        raise LNSynthError(
            f"{where['ct']}: the case has no anatomy mask; run `lnsynth anatomy`, or allow cases without anatomy."
        )
    if case.nodes is not None:
        check_pair(case.ct, case.nodes, where["nodes"])
        if settings.allow_no_nodes:
            check_labels(case.nodes, where["nodes"], highest=65535)
        else:
            check_nodes(case.nodes, where["nodes"])
    if case.anatomy is not None:
        check_pair(case.ct, case.anatomy, where["anatomy"])
        check_labels(case.anatomy, where["anatomy"])
        ends = np.array([case.anatomy.array.min(), case.anatomy.array.max()])
        with _naming(where["anatomy"]):
            table.from_totalsegmentator(ends, _version(case))
    nodes, anatomy = (canonical(v) if v is not None else None for v in (case.nodes, case.anatomy))
    return Case(case.id, canonical(case.ct), nodes, anatomy, case.entry)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Errors of what sees arrays alone are told with the file they came from."""
    try:
        yield
    except LNSynthError as error:
        raise LNSynthError(f"{path}: {error}") from error


def _version(case: Case) -> int:
    """TotalSegmentator version of the anatomy's ids."""
    return case.entry.get("anatomy_version") or 2


def compute(
    case: Case, where: dict[str, str], settings: PrepareSettings, table: LabelTable
) -> tuple[dict, dict, np.ndarray]:
    """(arrays to store, what to say about them, the CT in HU) of one canonical, checked case.

    The arrays are those of `prepared.write_prepared`; "nodes_lost" tells the ids that are too small for the new grid,
    and the others, in their order, have become 1..n.
    """
    ct, nodes, anatomy = case.ct, case.nodes, case.anatomy
    slab = slice(0, ct.shape[2])
    region = bounding_box(nodes.array) if nodes is not None else None
    if region is not None:
        slab = grow(region, settings.margin_mm, ct.spacing, ct.shape)[2]
    affine, shape = isotropic_grid(_slices(ct, slab), settings.spacing_mm)
    wider = slice(max(0, slab.start - SPARE_SLICES), min(ct.shape[2], slab.stop + SPARE_SLICES))
    ct = _slices(ct, wider)
    nodes, anatomy = (_slices(v, wider) if v is not None else None for v in (nodes, anatomy))
    # Padding of -2000 or -3024 would pull the tissue beside it down when interpolated.
    measured = Volume(np.maximum(ct.array, LOWEST_HU), ct.affine)
    hu = resample_to(measured, affine, shape, order=1, cval=AIR_FILL_HU).array
    organs = resample_to(anatomy, affine, shape, order=0).array if anatomy is not None else None
    instances = np.zeros(shape, np.uint16)
    lost: list[int] = []
    if nodes is not None:
        with _naming(where["nodes"]):
            whole = Volume(nodes.array.astype(np.uint16), nodes.affine)
            instances, lost = _dense(whole.array, on_grid(whole, affine, shape))
    spacing = (settings.spacing_mm,) * 3
    with _naming(where["ct"]):
        labels = label_map(hu, organs, spacing, table, instances, _version(case))

    kept = bounding_box(instances)
    box = grow(kept, settings.margin_mm, spacing, shape) if kept else box_of(shape)
    hu, labels, instances = hu[box], labels[box], instances[box]
    affine = crop(Volume(np.broadcast_to(np.uint8(0), shape), affine), box).affine
    low, high = settings.window
    scaled = (np.clip(hu, low, high) - low) * (2 / (high - low)) - 1
    info = {
        "spacing_mm": list(spacing),
        "affine": affine.tolist(),
        "organ_hu": organ_hu(hu, labels, table),
        "node_hu": node_hu(hu, instances),
        "nodes": records(instances, affine),
        "nodes_lost": lost,
    }
    return {"ct": scaled, "anatomy": labels, "nodes": instances}, info, hu


def _slices(whole: Volume, chosen: slice) -> Volume:
    """Some axial slices, whole: the body mask is found in them."""
    return crop(whole, (slice(0, whole.shape[0]), slice(0, whole.shape[1]), chosen))


def _dense(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Instances renumbered 1..n in order, and the source ids that the coarser grid lost."""
    ids = np.unique(after[after > 0])
    lost = np.setdiff1d(before[before > 0], ids)
    if not len(ids) and len(lost):
        raise LNSynthError("every node is smaller than a voxel of the new grid; choose a smaller spacing.")
    number = np.zeros(int(after.max()) + 1, np.uint16)
    number[ids.astype(int)] = np.arange(1, len(ids) + 1)
    return number[after.astype(int)], [int(n) for n in lost]


def report(hu: np.ndarray, labels: np.ndarray, nodes: np.ndarray, info: dict, table: LabelTable) -> np.ndarray:
    """A picture of the prepared case for a look at it: the planes through its largest node, without and with labels."""
    spacing, window = info["spacing_mm"], tuple(info["window"])
    shown = nodes if nodes.any() else None
    colors = {label.id: label.color for label in table.labels[2:]}  # air and body stay grey
    plain = [view(hu, spacing, plane, _through(info, plane), window=window) for plane in PLANES]
    labelled = [
        view(hu, spacing, plane, _through(info, plane), nodes=shown, labels=labels, colors=colors, window=window)
        for plane in PLANES
    ]
    axes = ", ".join(f"{node['short_axis_mm']:.0f}" for node in info["nodes"]) or "-"
    size = " x ".join(map(str, hu.shape))
    return montage(
        [plain, labelled],
        titles=["CT", "labels"],
        columns=list(PLANES),
        banner="" if info["kind"] == "real" else f"{info['kind'].upper()}: NOT A PATIENT'S IMAGE",
        caption=f"{info['id']} ({info['split']}): nodes {len(info['nodes'])}, short axes {axes} mm, lost "
        f"{len(info['nodes_lost'])}; {size} voxels at {spacing[0]:g} mm",
    )


def _through(info: dict, plane: str) -> int | None:
    """The slice through the middle of the largest node; None (the middle of the volume) where there is no node."""
    if not info["nodes"]:
        return None
    return round(max(info["nodes"], key=lambda node: node["volume_ml"])["centroid"][PLANES[plane]])
