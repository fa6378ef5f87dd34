"""Lymph nodes as instances: number them, measure them as radiologists do, remove one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from ..images.boxes import Box, bounding_box, grow
from ..images.volume import Volume, canonical_view
from ..runtime.errors import LNSynthError
from .labels import LabelTable

TOUCHING = np.ones((3, 3, 3), bool)  # 26 neighbours: voxels that share a corner belong together


def instances(mask: np.ndarray) -> np.ndarray:
    """Instances 1..n (uint16) of a node mask.

    A mask with one positive value is split into connected components (26 neighbours). A mask with several holds
    instances already, which may touch: each keeps its voxels, and ids become 1..n in ascending order.
    Raises LNSynthError for more than 65535 nodes.
    """
    from scipy import ndimage

    mask = np.asarray(mask)
    values = np.unique(mask[mask > 0])
    if len(values) <= 1:
        labelled, count = ndimage.label(mask > 0, TOUCHING)
    else:
        count = len(values)
        labelled = np.searchsorted(values, mask) + 1
        labelled[mask <= 0] = 0
    if count > np.iinfo(np.uint16).max:
        raise LNSynthError(f"the node mask falls into {count} pieces, which cannot be lymph nodes: "
                           "check that it is a mask and not an image")
    return labelled.astype(np.uint16)


def numbered(mask: Volume) -> Volume:
    """The nodes of a mask by number (uint16), its axes as they are: the one numbering that everything goes by.

    A mask with several positive values tells nodes apart: they keep their numbers. One with a single value is split
    into pieces, numbered from 1 in RAS order, so that a number does not depend on how a file stores its axes. Raises
    LNSynthError as `instances`.
    """
    result, upright = Volume(np.zeros(mask.shape, np.uint16), mask.affine), canonical_view(mask).array
    box = bounding_box(upright)
    if box is not None:
        canonical_view(result).array[box] = told_apart(upright[box])
    return result


def told_apart(mask: np.ndarray) -> np.ndarray:
    """As `numbered`, of an array with its axes in RAS order (a part of a mask gets the same order of pieces)."""
    mask = np.asarray(mask)
    several = len(np.unique(mask[mask > 0])) > 1
    return np.where(mask > 0, mask, 0).astype(np.uint16) if several else instances(mask)


def records(nodes: np.ndarray, affine: np.ndarray) -> list[dict]:
    """Each instance of a canonical mask: id, bbox, centroid (voxels), centroid_mm (RAS), volume_ml, short_axis_mm."""
    return [{
        "id": node.id,
        "bbox": [[b.start, b.stop] for b in node.box],
        "centroid": node.centroid.tolist(),
        "centroid_mm": node.centroid_mm.tolist(),
        "volume_ml": node.volume_ml,
        "short_axis_mm": node.short_axis_mm,
    } for node in measured(nodes, affine)]


@dataclass(frozen=True, eq=False)
class Measured:
    """One instance. box: in the mask; voxels: (n, 3) indices; centroid: in voxels; centroid_mm: the same in RAS+."""

    id: int
    box: tuple[slice, slice, slice]
    voxels: np.ndarray
    centroid: np.ndarray
    centroid_mm: np.ndarray
    volume_ml: float
    long_axis_mm: float
    short_axis_mm: float


def measured(nodes: np.ndarray, affine: np.ndarray, axial: int = 2) -> Iterator[Measured]:
    """Every instance of a mask in order of number; axial: the axis across axial slices (2 in a canonical mask)."""
    from scipy import ndimage

    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    for id, box in enumerate(ndimage.find_objects(nodes), start=1):
        if box is None:
            continue
        node, start = nodes[box] == id, [b.start for b in box]
        inside = np.argwhere(node)
        centroid = inside.mean(axis=0) + start
        long_axis, short_axis = axes_mm(node, affine[:3, :3], axial)
        yield Measured(id, box, inside + start, centroid, (affine @ [*centroid, 1.0])[:3],
                       float(len(inside) * voxel_ml), long_axis, short_axis)


def axes_mm(node: np.ndarray, directions: np.ndarray, axial: int = 2) -> tuple[float, float]:
    """Long and short axis (mm) of one node in the axial slice where its area is largest.

    node: bool (X, Y, Z); directions: 3x3, the columns are the voxel steps in mm; axial: the axis across slices.
    Long axis: the longest diameter of that slice's outline. Short axis: its longest chord at right angles to that, as
    in RECIST 1.1. The outline is the convex hull of the middles of voxel edges, so that an axis-aligned ellipse is
    measured without bias.
    """
    from scipy.spatial import ConvexHull

    in_plane = [axis for axis in range(3) if axis != axial]
    slices = np.moveaxis(node, axial, 0)
    pixels = np.argwhere(slices[int(np.argmax(slices.sum((1, 2))))])
    half = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    points = (pixels[:, None, :] + half).reshape(-1, 2)
    plane = np.linalg.qr(directions[:, in_plane])[1]  # 2x2: the same lengths and angles without the third dimension
    points = points @ plane.T
    hull = points[ConvexHull(points).vertices]
    between = hull[:, None] - hull[None]
    lengths = np.linalg.norm(between, axis=2)
    a, b = np.unravel_index(int(lengths.argmax()), lengths.shape)
    along = between[b, a] / lengths[a, b]
    # From a to b and back, the hull is two chains; the chord across is their distance, greatest at a vertex of either.
    position, height = (hull - hull[a]) @ along, (hull - hull[a]) @ np.array([-along[1], along[0]])
    there = np.arange(a, a + (b - a) % len(hull) + 1) % len(hull)
    back = np.arange(b, b + (a - b) % len(hull) + 1)[::-1] % len(hull)
    chords = np.interp(position, position[there], height[there]) - np.interp(position, position[back], height[back])
    return float(lengths[a, b]), float(np.abs(chords).max())


@dataclass(frozen=True)
class NodeMeasure:
    """One node in numbers. Lengths in mm; positions RAS+ mm or voxel indices."""

    id: int                                        # value in the mask
    volume_ml: float
    short_axis_mm: float                           # longest chord across the long axis, in the same axial slice
    long_axis_mm: float                            # longest diameter in the axial slice where the node is largest
    centroid_mm: tuple[float, float, float]        # RAS+
    centroid_index: tuple[float, float, float]     # voxels
    bbox: tuple[tuple[int, int], ...]              # start and stop along i, j, k
    nearest: tuple[tuple[str, float], ...] = ()    # organs by distance between voxel centres, nearest first

    def as_dict(self) -> dict:
        return asdict(self)


def boxes(nodes: np.ndarray) -> dict[int, tuple[slice, slice, slice]]:
    """Bounding box of each instance, by id."""
    from scipy import ndimage

    found = ndimage.find_objects(nodes)
    return {index: box for index, box in enumerate(found, 1) if box is not None}


def measure(nodes: np.ndarray, affine: np.ndarray, labels: np.ndarray | None = None,
            table: LabelTable | None = None, organs: int = 3) -> list[NodeMeasure]:
    """Measures of every instance, in order of id.

    nodes: (X, Y, Z) instances; affine: 4x4, index to RAS+ mm; labels: ids of `table` on the same grid, for the
    nearest `organs` organs of each node. Work is in proportion to nodes and organ surfaces.
    """
    affine = np.asarray(affine, float)
    axial = int(np.argmax(np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)))
    surfaces = _organ_surfaces(labels, table, affine) if labels is not None else {}
    return [NodeMeasure(
        id=node.id, volume_ml=node.volume_ml, short_axis_mm=node.short_axis_mm, long_axis_mm=node.long_axis_mm,
        centroid_mm=tuple(node.centroid_mm.tolist()), centroid_index=tuple(node.centroid.tolist()),
        bbox=tuple((s.start, s.stop) for s in node.box), nearest=_nearest(node.voxels, affine, surfaces)[:organs])
        for node in measured(nodes, affine, axial)]


def remove(nodes: np.ndarray, index: int) -> np.ndarray:
    """A copy of the instances without node `index`; the others keep their ids. LNSynthError if there is none."""
    if not (nodes == index).any():
        known = ", ".join(map(str, boxes(nodes))) or "none"
        raise LNSynthError(f"there is no node {index} to remove: the mask holds {known}")
    return np.where(nodes == index, 0, nodes).astype(nodes.dtype)


def shell(nodes: np.ndarray, index: int, spacing, inner_mm: float, outer_mm: float) -> tuple[Box, np.ndarray]:
    """A box around node `index` and, in it, the voxels (bool) of no node that lie > inner_mm, <= outer_mm from it."""
    from scipy import ndimage

    box = grow(boxes(nodes)[index], outer_mm, spacing, nodes.shape)
    distance = ndimage.distance_transform_edt(nodes[box] != index, sampling=spacing)
    return box, (distance > inner_mm) & (distance <= outer_mm) & (nodes[box] == 0)


def _organ_surfaces(labels, table, affine) -> dict:
    """KD-tree (mm) over the border voxels of each organ that is present."""
    from scipy import ndimage
    from scipy.spatial import cKDTree

    trees = {}
    for index, box in boxes(labels).items():
        if index in table.organs:
            organ = np.pad(labels[box] == index, 1)
            border = np.argwhere(organ & ~ndimage.binary_erosion(organ)) - 1 + [s.start for s in box]
            trees[table.names[index]] = cKDTree(border @ affine[:3, :3].T + affine[:3, 3])
    return trees


def _nearest(voxels, affine, surfaces) -> tuple[tuple[str, float], ...]:
    points = voxels @ affine[:3, :3].T + affine[:3, 3]
    distances = [(name, float(tree.query(points)[0].min())) for name, tree in surfaces.items()]
    return tuple(sorted(distances, key=lambda pair: pair[1]))
