"""Random changes of nodes: affine, elastic, or removal of one of several (paper, section 3.3). Anatomy stays.

Each node is resampled on its own small grid from the signed distance to its surface, so the work is in proportion to
the node and not to the volume. It fills the volume that was drawn, whatever the spacing: an affine change multiplies it
by the determinant, an elastic one keeps it. A change that would cover an organ, cover or touch another node, leave the
body or the volume, or show in no voxel is drawn again, a little weaker each time; after `tries` the node stays as it
was and its record says so. Where there is little room, larger nodes would be refused more often than smaller ones, and
nodes would shrink from change to change: a change of size is taken only where its opposite has room as well. A node
that covered an organ from the start moves to the nearest room, or is removed.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from ..images.boxes import box_at
from ..masks.labels import LabelTable
from ..masks.nodes import boxes
from ..masks.shapes import MARGIN, fullest, signed_distance, whole_voxels
from ..runtime.errors import LNSynthError
from .placement import clear_of_others, nearest_room

VERSION = 3     # raise it when the same nodes, settings and seed give other changes: samples are then made again
REPLAYED = (2, 3)  # the versions whose records `replay` follows: `deform` makes the same shapes of them now
CONTROL = 4     # control points an axis of the elastic deformation, across the node's own grid
CALMER = 0.85   # every rejected try scales the next one's parameters by this


@dataclass(frozen=True)
class VarySettings:
    """How much nodes change. Probabilities in 0..1, angles in degrees, lengths in mm."""

    remove: float = 0.2            # probability that one node is taken away, where there are several
    elastic: float = 0.5           # probability that a node changes elastically; else by an affine map
    rotation_deg: float = 30.0     # up to, about each axis
    scale: float = 1.25            # up to, and down to 1/scale, along each axis
    shear: float = 0.1             # up to, between each two axes
    translation_mm: float = 8.0    # up to, along each axis
    elastic_amplitude: float = 0.15  # standard deviation of the displacement, over the node's radius
    volume_factor: float = 2.0     # a node's volume changes by no more than this factor either way
    tries: int = 20                # draws before a node is left as it was

    def record(self) -> dict:
        """For provenance and keys: the settings, and the version of what is made of them."""
        return {"version": VERSION, **asdict(self)}


def vary(nodes: np.ndarray, labels: np.ndarray, spacing, rng: np.random.Generator, settings: VarySettings,
         table: LabelTable) -> tuple[np.ndarray, list[dict]]:
    """New instances and one record a node, both determined by `rng`.

    nodes: (X, Y, Z) instances; labels: ids of `table` on the same grid; spacing: mm. Ids stay. A record holds id,
    operation ("affine", "elastic", "moved", "removed" or "unchanged"), tries, and the parameters used (lengths in mm),
    enough for `replay`; "unchanged" comes with the reason, as does "moved" or "removed" where the node covered an organ
    and no draw fitted: then it moves to the nearest room, by no more than settings.translation_mm, or is removed.
    Whatever is left lies wholly where `table` lets nodes lie.
    """
    spacing = np.asarray(spacing, float)
    nodes, places, records = nodes.copy(), boxes(nodes), []
    if len(places) > 1 and rng.random() < settings.remove:
        removed = int(rng.choice(list(places)))
        box = places.pop(removed)
        nodes[box][nodes[box] == removed] = 0
        records.append({"id": removed, "operation": "removed", "tries": 1})
    for index, box in places.items():
        mask = nodes[box] == index
        nodes[box][mask] = 0
        changed, start, record = vary_one(mask, [s.start for s in box], nodes, labels, spacing, rng, settings, table)
        if record["operation"] == "unchanged" and not table.free(labels[box][mask]).all():
            room, record = _off_the_organ(mask, start, nodes, labels, spacing, settings, table)
            start = room if room is not None else start
        if record["operation"] != "removed":
            nodes[box_at(start, changed.shape)][changed] = index
        records.append({"id": index, **record})
    return nodes, sorted(records, key=lambda r: r["id"])


def vary_one(mask: np.ndarray, start, nodes: np.ndarray, labels: np.ndarray, spacing, rng: np.random.Generator,
             settings: VarySettings, table: LabelTable) -> tuple[np.ndarray, np.ndarray, dict]:
    """One node changed at random: its new mask (bool, cut to its bounding box), where that starts, and its record.

    mask: the node in its box, which starts at voxel `start`; nodes: the other instances, without this one; labels: ids
    of `table`; both (X, Y, Z) on one grid, which may be a crop: the node stays inside it. settings.elastic 0 or 1 makes
    the change affine or elastic for certain. The record holds what those of `vary` hold, without the id; where no draw
    fits, the mask comes back as it was.
    """
    spacing, start = np.asarray(spacing, float), np.asarray(start)
    distance, voxels, met = signed_distance(mask, spacing), np.count_nonzero(mask), 0
    for attempt in range(settings.tries):
        draw = _elastic if rng.random() < settings.elastic else _affine
        parameters, opposite = draw(rng, settings, CALMER**attempt, voxels)
        changed, at = deform(mask, start, spacing, parameters, distance)
        fits = _allowed(changed, at, mask, nodes, labels, table, settings)
        if fits and opposite is not None:
            other = deform(mask, start, spacing, opposite, distance)
            fits = _allowed(*other, mask, nodes, labels, table, settings)
        if not fits:
            met += 1
        elif not (np.array_equal(changed, mask) and np.array_equal(at, start)):
            return changed, at, {"operation": parameters["kind"], "tries": attempt + 1, "parameters": parameters}
    why = "met an organ, another node, or the edge of the body" if met else "changed less than a voxel"
    return mask, start, {"operation": "unchanged", "tries": settings.tries, "reason": f"{settings.tries} draws {why}"}


def _off_the_organ(mask, start, nodes, labels, spacing, settings, table) -> tuple[np.ndarray | None, dict]:
    """Where a node that covers an organ is to start instead (None: nowhere near), and the record without the id."""
    reach = settings.translation_mm
    found, why = nearest_room(mask, start, nodes, labels, spacing, table, reach), "it covered an organ"
    if found is None:
        return None, {"operation": "removed", "tries": settings.tries,
                      "reason": f"{why}, and within {reach:g} mm there is no room for it"}
    shift = {"matrix": np.eye(3).tolist(), "translation_mm": ((found[0] - start) * spacing).tolist()}
    return found[0], {"operation": "moved", "tries": settings.tries, "reason": why,
                      "parameters": {"kind": "affine", **shift}}


def replay(nodes: np.ndarray, spacing, records: list[dict], made_with: dict) -> np.ndarray:
    """The result of `vary` again, from the nodes it began with and its records.

    made_with: `VarySettings.record()` of then, as provenance keeps it beside the records. LNSynthError where a version
    made them whose shapes are others than today's (version 1, which records do not name).
    """
    version = made_with.get("version", 1)
    if version not in REPLAYED:
        raise LNSynthError(f"These changes of nodes were made by version {version}; version {VERSION} makes "
                           "other shapes of the same numbers: take the node mask (nodes.nii.gz) written with them.")
    spacing, changed = np.asarray(spacing, float), nodes.copy()
    places = boxes(nodes)
    for record in records:
        if record["operation"] != "unchanged":
            box = places[record["id"]]
            changed[box][nodes[box] == record["id"]] = 0
    for record in records:
        if "parameters" in record:
            box = places[record["id"]]
            mask, start = deform(nodes[box] == record["id"], [s.start for s in box], spacing, record["parameters"])
            changed[box_at(start, mask.shape)][mask] = record["id"]
    return changed


def deform(mask: np.ndarray, start, spacing, parameters: dict, distance: np.ndarray | None = None
           ) -> tuple[np.ndarray, np.ndarray]:
    """One node after a change: its bool array, cut to its bounding box, and the voxel where that box starts.

    mask: the node in its box, which starts at voxel `start`; parameters: of kind "affine" (matrix, a 3x3 map about the
    node's centroid in mm; translation_mm; rounding, as in `whole_voxels`) or "elastic" (seed; amplitude, the standard
    deviation of the displacement over the radius of the ball of the node's volume); distance: `signed_distance`, where
    it is known already. The node stays one piece of at least one voxel.
    """
    from scipy import ndimage

    spacing = np.asarray(spacing, float)
    reach = np.argwhere(mask) * spacing
    center = reach.mean(0)
    radius, count = np.linalg.norm(reach - center, axis=1).max() + spacing.max(), len(reach)
    distance = signed_distance(mask, spacing) if distance is None else distance
    if parameters["kind"] == "affine":
        matrix, shift = np.array(parameters["matrix"]), np.array(parameters["translation_mm"])
        inverse = np.linalg.inv(matrix)
        count = whole_voxels(count * abs(np.linalg.det(matrix)), parameters.get("rounding", 0.5))
        grown = np.abs(matrix) @ (np.abs(reach - center).max(0) + spacing)  # of the node's box, by axis
        low, shape = _grid(center + shift, grown, spacing)
        across = inverse * spacing / spacing[:, None]  # voxels there to voxels here
        first = across @ low + (center - inverse @ (center + shift)) / spacing
        field = ndimage.affine_transform(distance, across, first + MARGIN, tuple(shape), order=1, mode="nearest")
    else:
        rng = np.random.default_rng(parameters["seed"])
        amplitude = parameters["amplitude"] * np.cbrt(count * spacing.prod() * 3 / (4 * np.pi))
        push = rng.standard_normal((3, CONTROL, CONTROL, CONTROL)) * amplitude
        low, shape = _grid(center, radius + 2 * amplitude, spacing)
        index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
        x, y, z = (_spline(n) for n in shape)
        push = np.einsum("ia,jb,kc,dabc->dijk", x, y, z, push, optimize=True)
        at = _column(low) + index - push / _column(spacing) + MARGIN
        field = ndimage.map_coordinates(distance, at, order=1, mode="nearest")
    inside = fullest(field, count)
    (tight,) = ndimage.find_objects(inside.astype(np.uint8))
    return inside[tight], np.asarray(start) + low + [s.start for s in tight]


def _spline(n) -> np.ndarray:
    """(n, CONTROL) weights of a cubic B-spline, scaled so that independent unit control points give unit variance."""
    apart = np.abs(np.linspace(0, CONTROL - 1, n)[:, None] - np.arange(CONTROL))
    weights = np.where(apart < 1, 2 / 3 - apart**2 + apart**3 / 2, np.clip(2 - apart, 0, None) ** 3 / 6)
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def _grid(center, radius, spacing):
    """First voxel (relative to the node's box) and shape of a grid that holds a ball or box of this radius (mm)."""
    low = np.floor((center - radius) / spacing).astype(int)
    return low, tuple(np.ceil((center + radius) / spacing).astype(int) - low + 1)


def _column(vector):
    return np.asarray(vector)[:, None, None, None]


def _allowed(changed, start, mask, nodes, labels, table, settings) -> bool:
    if not mask.sum() / settings.volume_factor <= changed.sum() <= mask.sum() * settings.volume_factor:
        return False
    if (start < 0).any() or (start + changed.shape > np.array(nodes.shape)).any():
        return False
    target = box_at(start, changed.shape)
    return table.free(labels[target][changed]).all() and clear_of_others(changed, start, nodes)


def _affine(rng, settings, strength, voxels) -> tuple[dict, dict]:
    """Rotation x shear x scale, and a translation, uniform within the settings (scale: uniform in its logarithm); and
    the same with the inverse scale, which is as likely. A node of one voxel cannot halve, and so does not double."""
    angles = np.radians(settings.rotation_deg * strength) * rng.uniform(-1, 1, 3)
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = settings.shear * strength * rng.uniform(-1, 1, 3)
    scale = np.exp(np.log(settings.scale) * strength * rng.uniform(-1, 1, 3))
    shift, rounding = (settings.translation_mm * strength * rng.uniform(-1, 1, 3)).tolist(), float(rng.random())
    sizes = ((scale, rounding), (1 / scale, 1 - rounding)) if voxels > 1 else ((scale, 1.0), (1 / scale, 1.0))
    drawn, inverse = ({"kind": "affine", "matrix": (matrix @ shear @ np.diag(size)).tolist(), "translation_mm": shift,
                       "rounding": r} for size, r in sizes)
    return drawn, inverse


def _elastic(rng, settings, strength, voxels) -> tuple[dict, None]:
    """A displacement that keeps the volume, and so has no opposite."""
    return {"kind": "elastic", "seed": int(rng.integers(2**31)),
            "amplitude": settings.elastic_amplitude * strength}, None
