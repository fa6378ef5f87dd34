"""Lymph nodes as instances: separate them, and measure each the way radiologists do."""
from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from ..cases.labels import LabelTable
from ..cases.nodes import TOUCHING, axes_mm, instances, measured
from ..cases.volume import Box, grow
from ..runtime.errors import LNSynthError

__all__ = ["TOUCHING", "NodeMeasure", "axes_mm", "boxes", "instances", "measure", "remove", "shell"]


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
