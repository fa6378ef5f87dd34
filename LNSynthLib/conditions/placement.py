"""Place new lymph nodes: shapes from the prior, where abdominal nodes are found.

What is assumed, since the real masks at hand come without the anatomy around them: abdominal nodes lie along vessels,
and three stations stand for all (proportions guessed from the drainage of the abdomen, not measured):

- retroperitoneal (40 %): within 25 mm of the aorta or the inferior vena cava, beside or in front of them, never more
  than 5 mm behind them, where spine and psoas are;
- portal (25 %): within 20 mm of the portal and splenic vein or the pancreas;
- mesenteric (35 %): 10 to 80 mm in front of the great vessels and within 70 mm to either side, not above the pancreas.

All stay 20 mm under the skin, 10 mm behind the foremost point of liver, stomach, pancreas, gallbladder and, where the
label table knows fat, behind the wall that ends the subcutaneous fat; not more than 20 mm above the highest of kidneys,
adrenals, portal vein and pancreas (no mediastinum, no lung); and in fat, where the table knows it, as far as there is
room. Where the vessels are not in the volume, any deep place counts, and the record says so.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..images.boxes import box_at, box_of
from ..masks.labels import AIR, LabelTable
from ..masks.nodes import TOUCHING, axes_mm
from ..runtime.errors import LNSynthError
from .shape_prior import ShapePrior

COARSE_MM = 3.0        # grid on which places are weighed
SKIN_MM = 20.0
STATIONS = {"retroperitoneal": 0.40, "portal": 0.25, "mesenteric": 0.35}
GREAT_VESSELS = ("aorta", "inferior_vena_cava")
PORTAL = ("portal_vein_and_splenic_vein", "pancreas")
VENTRAL = ("liver", "stomach", "pancreas", "gallbladder")
UPPER = (*PORTAL, "kidney_right", "kidney_left", "adrenal_gland_right", "adrenal_gland_left")
SHAPES, PLACES = 5, 30  # shapes drawn for a node, and places tried for each, before the node is given up
GIVE_MM = 1.5          # steps by which a node gives way when it is put at a point
ENOUGH_FAT = 0.85      # a place with this share of fat is taken at once; else the best of the PLACES


def add(nodes: np.ndarray, labels: np.ndarray, spacing, table: LabelTable, count: int, rng: np.random.Generator,
        prior: ShapePrior, short_axis_mm: float | None = None) -> tuple[np.ndarray, list[dict]]:
    """Add `count` new nodes. Returns new instances (uint16; present ids stay) and one record for each asked for.

    nodes, labels: (X, Y, Z), axes right, anterior, superior; labels: ids of `table`; spacing: mm;
    short_axis_mm: the size of all new nodes, by default as the prior draws them.
    A new node lies wholly in body or fat, is one component and touches no other node. A record holds id, station,
    centroid_index, volume_ml, short_axis_mm, fat (share of its voxels, None if the table has none), tries; or, when
    there is no room, placed = False and the reason. Places are weighed once a call on a coarse grid; the work for each
    node is in proportion to the node.
    """
    spacing = np.asarray(spacing, float)
    nodes, records = nodes.astype(np.uint16), []
    sites = _Sites(labels, spacing, table)
    for _ in range(count):
        nodes, record = _add_one(nodes, labels, spacing, table, rng, prior, short_axis_mm, sites)
        records.append(record)
    return nodes, records


def _add_one(nodes, labels, spacing, table, rng, prior, short_axis_mm, sites):
    names = [name for name in STATIONS if len(sites.weights.get(name, ()))]
    if names:
        station = str(rng.choice(names, p=np.array([STATIONS[n] for n in names]) / sum(STATIONS[n] for n in names)))
    else:
        station = "anywhere"
    tries = 0
    for shape, short_axis in _shapes(rng, spacing, prior, short_axis_mm):
        best = None
        for center in sites.draw(rng, station, short_axis / 2):
            tries += 1
            fat = _fits(shape, center, nodes, labels, table, sites.fat)
            if fat is not None and (best is None or fat > best[0]):
                best = fat, center
                if fat >= ENOUGH_FAT:
                    break
        if best is not None:
            fat, center = best
            index = int(nodes.max()) + 1
            start = _start(shape, center)
            box = box_at(start, shape.shape)
            nodes[box][shape] = index
            return nodes, {"id": index, "placed": True, "station": station, "tries": tries,
                           "centroid_index": [float(v) for v in np.argwhere(shape).mean(0) + start],
                           "volume_ml": float(shape.sum() * spacing.prod() / 1000), "short_axis_mm": short_axis,
                           "fat": fat if sites.fat is not None else None}
    return nodes, {"id": None, "placed": False, "station": station, "tries": tries,
                   "reason": f"no room found in {tries} tries"}


def place(point, nodes: np.ndarray, labels: np.ndarray, spacing, table: LabelTable, rng: np.random.Generator,
          prior: ShapePrior, short_axis_mm: float | None = None, reach_mm: float = 5.0
          ) -> tuple[np.ndarray, np.ndarray, float] | None:
    """A new node at voxel `point`, or as near as there is room but no farther than `reach_mm`; None without room.

    nodes, labels: (X, Y, Z), axes right, anterior, superior, of a volume or of a crop around the point; labels: ids of
    `table`; spacing: mm; short_axis_mm: by default as the prior draws it. Returns the node's mask (bool, cut to its
    bounding box), the voxel where that starts, and by how many mm it had to give way.
    """
    spacing = np.asarray(spacing, float)
    for shape, _ in _shapes(rng, spacing, prior, short_axis_mm):
        found = nearest_room(shape, _start(shape, point), nodes, labels, spacing, table, reach_mm)
        if found is not None:
            return shape, *found
    return None


def _shapes(rng, spacing, prior: ShapePrior, short_axis_mm: float | None) -> Iterator[tuple[np.ndarray, float]]:
    """Nodes to try one after the other, with their short axes: of the size asked for, or, where none was, each smaller
    than the one before, as long as the grid holds such a shape. LNSynthError where it does not hold the first."""
    wanted = short_axis_mm
    for number in range(SHAPES):
        try:
            shape = prior.sample(rng, spacing, wanted)
        except LNSynthError:
            if number == 0:
                raise
            return
        short_axis = axes_mm(shape, np.diag(spacing))[1]
        yield shape, short_axis
        if short_axis_mm is None:
            wanted = 0.75 * short_axis


def nearest_room(shape: np.ndarray, start, nodes: np.ndarray, labels: np.ndarray, spacing, table: LabelTable,
                 reach_mm: float) -> tuple[np.ndarray, float] | None:
    """Where a node of this bool `shape` may lie nearest to voxel `start`: that voxel, and how many mm it gave way.

    nodes: the others; None where there is no room within `reach_mm`. It gives way in steps of about GIVE_MM.
    """
    from scipy import ndimage

    step = np.maximum(1, np.round(GIVE_MM / spacing).astype(int))
    most = (reach_mm // (step * spacing)).astype(int) * step
    low = np.maximum(0, start - most - 1)  # one voxel more, for what touches
    around = tuple(slice(a, max(a, b)) for a, b in zip(low, start + most + shape.shape + 1, strict=True))
    blocked = ~table.free(labels[around]) | ndimage.binary_dilation(nodes[around] > 0, TOUCHING)
    offsets = np.stack(np.meshgrid(*[np.arange(-m, m + 1, n) for m, n in zip(most, step, strict=True)],
                                   indexing="ij"), -1).reshape(-1, 3)
    moved = np.linalg.norm(offsets * spacing, axis=1)
    for index in np.argsort(moved, kind="stable")[:np.count_nonzero(moved <= reach_mm)]:
        first = start + offsets[index]
        if (first < 0).any() or (first + shape.shape > nodes.shape).any():
            continue
        if not blocked[box_at(first - low, shape.shape)][shape].any():
            return first, float(moved[index])
    return None


def kept_clear(labels: np.ndarray, raw: np.ndarray, table: LabelTable) -> np.ndarray:
    """Labels (ids of `table`) that leave no room for nodes in any structure of `raw`, TotalSegmentator v2 ids.

    Also where an organ's mask covers what has the HU of fat or gas; and what a table with bone does not tell apart
    (bowel, spine, muscle) becomes bone.
    """
    organs = table.from_totalsegmentator(raw)
    labels = np.where(organs > 0, organs, labels)
    if "bone" in table.names:
        labels[(raw > 0) & table.free(labels)] = table.index("bone")
    return labels


def _start(shape, center) -> np.ndarray:
    return np.round(np.asarray(center) - (np.array(shape.shape) - 1) / 2).astype(int)


def _fits(shape, center, nodes, labels, table, fat) -> float | None:
    """Share of fat under the node set down at `center` (1 where the table has no fat); None if it may not lie there."""
    start = _start(shape, center)
    if (start < 0).any() or (start + shape.shape > np.array(nodes.shape)).any():
        return None
    under = labels[box_at(start, shape.shape)][shape]
    if not table.free(under).all():
        return None
    if not clear_of_others(shape, start, nodes):
        return None
    return 1.0 if fat is None else float((under == fat).mean())


def clear_of_others(shape: np.ndarray, start, nodes: np.ndarray) -> bool:
    """True when a node of this bool `shape` at voxel `start` would neither cover nor touch (26 neighbours) any node."""
    from scipy import ndimage

    box = tuple(slice(max(0, s - 1), s + n + 1) for s, n in zip(start, shape.shape, strict=True))
    around = nodes[box] > 0
    if not around.any():
        return True
    padded = np.pad(shape, [(min(s, 1), 1) for s in start])[box_of(around.shape)]
    return not (ndimage.binary_dilation(padded, TOUCHING) & around).any()


class _Sites:
    """The places of each station on a coarse grid, their weights, and how much room there is around each."""

    def __init__(self, labels, spacing, table):
        from scipy import ndimage

        self.fat = table.index("fat") if "fat" in table.names else None
        step = np.maximum(1, np.round(COARSE_MM / spacing).astype(int))
        coarse = labels[:: step[0], :: step[1], :: step[2]]
        mm = spacing * step

        def distance(mask):  # to the nearest True; a mask without any is infinitely far
            return (ndimage.distance_transform_edt(~mask, sampling=mm) if mask.any()
                    else np.full(mask.shape, np.inf, np.float32))

        room = distance(~table.free(coarse))
        fat = None if self.fat is None else distance(coarse != self.fat)
        depth = distance(coarse == AIR)
        allowed = (room > 0) & (depth > SKIN_MM)
        x, y, z = np.ogrid[box_of(coarse.shape)]

        def present(names):
            return np.isin(coarse, [table.index(n) for n in names if n in table.names])

        def foremost(mask):  # y of the last True along y in mm, -inf without any
            return np.where(mask.any(1), mask.shape[1] - 1 - mask[:, ::-1].argmax(1), -np.inf)[:, None] * mm[1]

        upper, vessels, portal, ventral = (present(names) for names in (UPPER, GREAT_VESSELS, PORTAL, VENTRAL))
        if ventral.any():
            allowed &= y * mm[1] <= foremost(ventral).max() - 10
        if self.fat is not None:  # seen from the front, the wall is what first is neither air, skin nor fat
            allowed &= y * mm[1] <= foremost((coarse != self.fat) & (depth > 6)) - 5
        if upper.any():
            allowed &= z * mm[2] <= np.flatnonzero(upper.any((0, 1)))[-1] * mm[2] + 20
        stations = {}
        if vessels.any():
            front, back, middle = _course(vessels, mm)
            y_mm, x_mm = y * mm[1], x * mm[0]
            allowed &= y_mm >= back - 5
            near = distance(vessels)
            stations["retroperitoneal"] = np.where(near <= 25, np.exp(-near / 10), 0)
            ahead = y_mm - front
            mesenteric = (ahead >= 10) & (ahead <= 80) & (np.abs(x_mm - middle) <= 70)
            if portal.any():
                mesenteric = mesenteric & (z <= np.flatnonzero(portal.any((0, 1)))[-1])
            stations["mesenteric"] = mesenteric.astype(float)
        if portal.any():
            near = distance(portal)
            stations["portal"] = np.where(near <= 20, np.exp(-near / 10), 0)
        if not stations:
            stations["anywhere"] = np.ones(coarse.shape)
        self.places, self.weights, self.room, self.fat_room = {}, {}, {}, {}
        for name, weight in stations.items():
            where = np.nonzero(allowed & (weight > 0))
            self.places[name] = np.stack(where, 1) * step
            self.step = step
            self.weights[name], self.room[name] = weight[where], room[where]
            self.fat_room[name] = None if fat is None else fat[where]

    def draw(self, rng, station, radius_mm) -> np.ndarray:
        """(n, 3) places in voxels, n <= PLACES, for a node of this radius: room for most of it, and rather in fat."""
        if station not in self.places:
            return np.empty((0, 3))
        weight = np.where(self.room[station] >= 0.8 * radius_mm, self.weights[station], 0)
        if self.fat_room[station] is not None:
            weight = weight * (0.002 + np.minimum(1, self.fat_room[station] / radius_mm) ** 3)
        if not weight.any():
            return np.empty((0, 3))
        chosen = rng.choice(len(weight), PLACES, p=weight / weight.sum())
        return self.places[station][chosen] + rng.integers(0, self.step, (PLACES, 3))


def _course(vessels, mm):
    """Front and back (y) and middle (x) of the great vessels in mm, shape (1, 1, Z); slices without: the nearest's."""
    filled = np.flatnonzero(vessels.any((0, 1)))
    nearest = filled[np.abs(np.arange(vessels.shape[2])[:, None] - filled).argmin(1)]
    rows, columns = vessels.any(0)[:, nearest], vessels.any(1)[:, nearest]
    front = (len(rows) - 1 - rows[::-1].argmax(0)) * mm[1]
    back = rows.argmax(0) * mm[1]
    middle = (np.arange(len(columns))[:, None] * columns).sum(0) / columns.sum(0) * mm[0]
    return front[None, None], back[None, None], middle[None, None]
