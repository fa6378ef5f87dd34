"""Lymph nodes as instances: separate them, and measure each the way radiologists do."""
from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from ..cases.labels import LabelTable
from ..runtime.errors import LNSynthError

TOUCHING = np.ones((3, 3, 3), bool)  # 26 neighbours: voxels that share a corner belong together


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


def instances(mask: np.ndarray) -> np.ndarray:
    """Instances 1..n (uint16) of a node mask.

    A mask with one positive value is split into connected components (26 neighbours). A mask with several holds
    instances already, which may touch: each keeps its voxels, and ids become 1..n in ascending order.
    Raises LNSynthError for more than 65535 nodes.
    """
    from scipy import ndimage

    mask = np.asarray(mask)
    values = np.unique(mask)
    values = values[values > 0]
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


def boxes(nodes: np.ndarray) -> dict[int, tuple[slice, slice, slice]]:
    """Bounding box of each instance, by id."""
    from scipy import ndimage

    found = ndimage.find_objects(nodes)
    return {index: box for index, box in enumerate(found, 1) if box is not None}


def padded(box, pad, shape) -> tuple[slice, slice, slice]:
    """The box grown by `pad` voxels (one number an axis) on each side, cut at the volume."""
    return tuple(slice(max(0, s.start - p), min(n, s.stop + p)) for s, p, n in zip(box, pad, shape, strict=True))


def measure(nodes: np.ndarray, affine: np.ndarray, labels: np.ndarray | None = None,
            table: LabelTable | None = None, organs: int = 3) -> list[NodeMeasure]:
    """Measures of every instance, in order of id.

    nodes: (X, Y, Z) instances; affine: 4x4, index to RAS+ mm; labels: ids of `table` on the same grid, for the
    nearest `organs` organs of each node. Work is in proportion to nodes and organ surfaces.
    """
    affine = np.asarray(affine, float)
    axial = int(np.argmax(np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)))
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    surfaces = _organ_surfaces(labels, table, affine) if labels is not None else {}
    found = []
    for index, box in boxes(nodes).items():
        node = nodes[box] == index
        voxels = np.argwhere(node) + [s.start for s in box]
        centroid = voxels.mean(0)
        long_axis, short_axis = axes_mm(node, affine[:3, :3], axial)
        found.append(NodeMeasure(
            id=index, volume_ml=float(len(voxels) * voxel_ml), short_axis_mm=short_axis, long_axis_mm=long_axis,
            centroid_mm=tuple(float(v) for v in affine[:3, :3] @ centroid + affine[:3, 3]),
            centroid_index=tuple(float(v) for v in centroid), bbox=tuple((s.start, s.stop) for s in box),
            nearest=_nearest(voxels, affine, surfaces)[:organs]))
    return found


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


def remove(nodes: np.ndarray, index: int) -> np.ndarray:
    """A copy of the instances without node `index`; the others keep their ids. LNSynthError if there is none."""
    if not (nodes == index).any():
        known = ", ".join(map(str, boxes(nodes))) or "none"
        raise LNSynthError(f"there is no node {index} to remove: the mask holds {known}")
    return np.where(nodes == index, 0, nodes).astype(nodes.dtype)


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
