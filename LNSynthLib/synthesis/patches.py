"""Choose patches in a CT of any geometry: isotropic, around lymph nodes, with enough context."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from ..conditions.form import DataForm
from ..images.boxes import Box, box_at, size_mm, union

LEAST_CONTEXT_MM = 12.0  # seen around a node even where the patch must grow beyond what a generator was trained on


@dataclass(frozen=True, eq=False)
class Grid:
    """An isotropic, orthogonal voxel grid: 4x4 affine (RAS+ mm) and shape."""

    affine: np.ndarray
    shape: tuple[int, int, int]


def patch_shape(size_mm, form: DataForm, stride: int, context_mm: float) -> tuple[int, int, int]:
    """Voxels of the patch for a node region of `size_mm`, each a multiple of `stride`.

    The region and `context_mm` on either side, but no more than the generator's own patch, unless the region itself
    and LEAST_CONTEXT_MM need more.
    """
    def sides(context):
        return [math.ceil((mm + 2 * context) / form.spacing_mm / stride) * stride for mm in size_mm]

    most = [max(stride, side // stride * stride) for side in form.patch]
    return tuple(max(least, min(wanted, cap)) for least, wanted, cap
                 in zip(sides(min(LEAST_CONTEXT_MM, context_mm)), sides(context_mm), most, strict=True))


def groups(boxes: dict[int, Box], spacing, form: DataForm, stride: int, context_mm: float) -> list[list[int]]:
    """Node ids that share a patch: two groups join where their one patch has no more voxels than their two."""
    def cost(box):
        return math.prod(patch_shape(size_mm(box, spacing), form, stride, context_mm))

    found = {place: [i] for place, i in enumerate(sorted(boxes))}
    around = {place: boxes[i] for place, (i,) in found.items()}
    costs = {place: cost(box) for place, box in around.items()}
    gone = np.iinfo(np.int64).min
    saved = np.full((len(found), len(found)), gone)  # by each pair, above the diagonal

    def weigh(i, j):
        saved[i, j] = costs[i] + costs[j] - cost(union([around[i], around[j]]))

    for i, j in itertools.combinations(found, 2):
        weigh(i, j)
    while len(found) > 1:
        i, j = map(int, np.unravel_index(saved.argmax(), saved.shape))  # of equal ones the first
        if saved[i, j] < 0:
            break
        found[i] += found.pop(j)
        around[i] = union([around[i], around.pop(j)])
        costs[i] = cost(around[i])
        saved[j], saved[:, j] = gone, gone
        for other in found:
            if other != i:
                weigh(min(i, other), max(i, other))
    return [sorted(group) for group in found.values()]


def covered(box: Box, affine: np.ndarray, grid: Grid) -> Box:
    """The part of a box of a volume that lies on a grid along its axes (see `patch_grid`) in every one of its voxels.

    What `resample_to` brings from the grid to the volume holds data there; elsewhere it fills in a constant.
    """
    matrix = np.linalg.inv(grid.affine) @ affine
    found: list[slice] = []
    for a, (side, size) in enumerate(zip(box, grid.shape, strict=True)):
        # A sheared volume's other axes move the index along this one too.
        ends = [sorted((matrix[a, b] * other.start, matrix[a, b] * (other.stop - 1)))
                for b, other in enumerate(box) if b != a]
        low, high = (matrix[a, 3] + sum(end[k] for end in ends) for k in (0, 1))
        first = math.ceil((-0.5 - low) / matrix[a, a] - 1e-6)
        last = math.floor((size - 0.5 - high) / matrix[a, a] + 1e-6)
        found.append(slice(max(side.start, first), min(side.stop, last + 1)))
    i, j, k = found
    return i, j, k


def patch_grid(affine: np.ndarray, shape, box: Box, spacing_mm: float, patch) -> Grid:
    """The isotropic grid of `patch` voxels, along the volume's own axes, centred on a box of it.

    Where the patch would stick out of the volume it is moved inside; a volume smaller than the patch lies in its
    middle. A sheared volume gets the nearest rotation.
    """
    u, _, vt = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    directions = u @ vt

    def along(edges):  # lowest and highest coordinate along each direction of a box of voxel edges
        corners = np.array(list(itertools.product(*edges)))
        reached = (corners @ affine[:3, :3].T + affine[:3, 3]) @ directions
        return reached.min(axis=0), reached.max(axis=0)

    low, high = along([(-0.5, n - 0.5) for n in shape])
    first, last = along([(b.start - 0.5, b.stop - 0.5) for b in box])
    sides = np.array(patch)
    half = sides * spacing_mm / 2
    centre = np.where(high - low >= 2 * half, np.clip((first + last) / 2, low + half, high - half), (low + high) / 2)
    grid = np.eye(4)
    grid[:3, :3] = directions * spacing_mm
    grid[:3, 3] = directions @ (centre - (sides - 1) / 2 * spacing_mm)
    i, j, k = sides.tolist()
    return Grid(grid, (i, j, k))


def source_box(grid: Grid, affine: np.ndarray, shape) -> Box | None:
    """The box of a volume that resampling to the grid reads, its smoothing included; None where they do not meet."""
    corners = np.array([[*c, 1.0] for c in itertools.product(*((0, n - 1) for n in grid.shape))]).T
    matrix = np.linalg.inv(affine) @ grid.affine
    index = (np.linalg.inv(affine) @ grid.affine @ corners)[:3]
    # The smoothing of `resample_to` reaches four times its sigma, (factor - 1) / 2.
    reach = 2 + np.ceil(2 * np.maximum(0, np.linalg.norm(matrix[:3, :3], axis=1) - 1))
    start = np.maximum(0, np.floor(index.min(axis=1) - reach)).astype(int)
    stop = np.minimum(shape, np.ceil(index.max(axis=1) + reach + 1)).astype(int)
    return box_at(start.tolist(), (stop - start).tolist()) if (start < stop).all() else None
