"""The shape prior: a statistical shape model of real abdominal nodes, from which new ones are drawn.

A node is described by its ellipsoid and by what the ellipsoid misses:

- L, the matrix logarithm of the square root of the covariance of its voxel positions (mm): six numbers that hold size,
  elongation and orientation in the patient at once, in a space where averaging makes sense (log-Euclidean);
- the node seen through exp(-L), where every ellipsoid is a ball of radius sqrt(5): a signed distance field on a small
  grid, written in principal components; and its roughness, how much of it the components leave over.

The prior keeps, over all nodes, the mean field, the components, a Gaussian copula of the 6 + K + 1 numbers (quantiles
of each, correlations between all), and what the rest looks like on average (standard deviation by place, spectrum), so
that samples are as rough as real outlines. No single node is kept. Resources/fit_node_prior.py makes the file.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..masks.nodes import TOUCHING, axes_mm
from ..runtime.errors import LNSynthError
from ..runtime.npz import read_npz
from ..runtime.settings import resources

EXTENT = 3.5      # the unit-covariance grid spans -EXTENT .. EXTENT on each axis; a ball there has radius sqrt(5)
GRID = 27         # its points an axis
FINER = 3         # points within each step of the grid, to measure what a field encloses
CLIP = 1.0        # distances beyond this do not move the surface: they carry no shape
SMOOTHING_MM = 1.0  # real nodes were outlined slice by slice, and their outlines jump from one slice to the next
SCALINGS = 4      # steps towards the short axis that is asked for
TRIES = 50        # shapes drawn before giving up on a connected one
LEAST_VOXELS = 8  # smaller than this a node has no shape on its grid

PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # order of L's six numbers


@dataclass(frozen=True)
class ShapePrior:
    """A distribution over node shapes in RAS+ mm. `ShapePrior.load()` reads the one that is shipped."""

    mean: np.ndarray          # (GRID,)*3 mean field
    components: np.ndarray    # (K, GRID, GRID, GRID), unit variance each: coefficients are of order 1
    rest_std: np.ndarray      # (GRID,)*3 standard deviation of what the components leave over, for roughness 1
    rest_gain: np.ndarray     # (GRID,)*3 root of its power spectrum, scaled so that unit white noise stays unit
    levels: np.ndarray        # (Q,) standard normal abscissae of the quantiles
    quantiles: np.ndarray     # (6 + K + 1, Q) of L's numbers, the coefficients and the roughness
    factor: np.ndarray        # (6 + K + 1,)*2 Cholesky factor of the copula's correlations
    attribution: str          # source and licence of the nodes it was learned from

    @classmethod
    def load(cls, path: str | Path | None = None) -> ShapePrior:
        """Read a prior file (default: Resources/node_prior.npz); LNSynthError when it is missing or not one."""
        path = resources() / "node_prior.npz" if path is None else Path(path)
        try:
            file = read_npz(path)
            scale = file["component_scale"][:, None, None, None]
            found = cls(mean=file["mean"].astype(np.float32), components=file["components"] * scale,
                        rest_std=file["rest_std"].astype(np.float32), rest_gain=file["rest_gain"].astype(float),
                        levels=file["levels"].astype(float), quantiles=file["quantiles"].astype(float),
                        factor=np.linalg.cholesky(file["correlations"].astype(float)),
                        attribution=str(file["attribution"]))
            found.check()
            return found
        except (LNSynthError, KeyError, ValueError, IndexError, TypeError, np.linalg.LinAlgError) as error:
            raise LNSynthError(f"{path}: not a node shape prior ({error}); make it with Resources/fit_node_prior.py"
                               ) from error

    def check(self) -> None:
        """Raises ValueError where the arrays do not fit together, or hold something that is not a number."""
        grid, count = (GRID,) * 3, len(self.components)
        wanted = {"mean": grid, "components": (count, *grid), "rest_std": grid, "rest_gain": grid,
                  "levels": (len(self.levels),), "quantiles": (count + 7, len(self.levels)),
                  "factor": (count + 7,) * 2}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape or not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} is not {shape} numbers")

    def sample(self, rng: np.random.Generator, spacing, short_axis_mm: float | None = None) -> np.ndarray:
        """One new node on a grid of `spacing` (mm, axes right, anterior, superior): bool, cut to its bounding box.

        short_axis_mm: scale the node to this short axis (axial, as measured); by default size follows the real ones.
        One connected component without cavities. Raises LNSynthError when the grid is too coarse for it.
        """
        spacing = np.asarray(spacing, float)
        for _ in range(TRIES):
            log_shape, field = self.draw(rng)
            node = rasterise(log_shape, field, spacing)
            if node is not None and short_axis_mm:
                node = _scaled(log_shape, field, spacing, node, short_axis_mm)
            if node is not None:
                return node
        raise LNSynthError(f"no node of this size could be drawn on a grid of {spacing.tolist()} mm: "
                           "resample to a finer spacing")

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """L (3 x 3) and field (GRID, GRID, GRID) of one new node, before any grid; half of them mirrored left to right,
        both together, since how a node is turned and how it is bent belong together."""
        normal = self.factor @ rng.standard_normal(len(self.factor))
        numbers = np.array([np.interp(z, self.levels, q) for z, q in zip(normal, self.quantiles, strict=True)])
        log_shape = np.empty((3, 3))
        for (i, j), value in zip(PAIRS, numbers[:6], strict=True):
            log_shape[i, j] = log_shape[j, i] = value
        rest = np.fft.ifftn(np.fft.fftn(rng.standard_normal(self.mean.shape)) * self.rest_gain).real * self.rest_std
        field = self.mean + np.tensordot(numbers[6:-1], self.components, 1) + numbers[-1] * rest
        return (log_shape, field) if rng.random() < 0.5 else (log_shape * MIRROR, field[::-1])


def _scaled(log_shape, field, spacing, node: np.ndarray, short_axis_mm: float) -> np.ndarray | None:
    """Of a few steps towards a short axis, the one that came nearest: on a coarse grid they go back and forth."""
    tried, reached = [], axes_mm(node, np.diag(spacing))[1]
    for _ in range(SCALINGS):
        log_shape = log_shape + np.log(short_axis_mm / reached) * np.eye(3)
        scaled = rasterise(log_shape, field, spacing)
        if scaled is None:
            break
        reached = axes_mm(scaled, np.diag(spacing))[1]
        tried.append((abs(np.log(reached / short_axis_mm)), scaled))
    return min(tried, key=lambda one: one[0])[1] if tried else None


MIRROR = np.outer([-1, 1, 1], [-1, 1, 1])  # the left-right mirror image of L


def describe(mask: np.ndarray, spacing) -> tuple[np.ndarray, np.ndarray]:
    """L (3 x 3) and field (GRID, GRID, GRID) of a real node, the inverse of `rasterise`.

    mask: bool, axes right, anterior, superior; spacing: mm. The field is the signed distance (positive inside) divided
    by the node's mean standard deviation, cut at CLIP. A curved surface loses some 2 % of its volume between the points
    of the field: L makes up for that, so that `rasterise` gives back the volume of the mask.
    """
    from scipy import ndimage

    spacing = np.asarray(spacing, float)
    mask = smoothed(np.pad(mask, 4), spacing)
    points = np.argwhere(mask) * spacing
    center = points.mean(0)
    # A voxel is a box, not a point: its own variance keeps flat and tiny nodes from collapsing.
    covariance = np.cov(points.T, bias=True) + np.diag(spacing**2 / 12)
    log_shape = _matrix(np.log, covariance) / 2
    distance = (ndimage.distance_transform_edt(mask, sampling=spacing)
                - ndimage.distance_transform_edt(~mask, sampling=spacing))
    # Where the sampled grid leaves the array, the distance to the array's edge still grows; nearest keeps it outside.
    axis = np.linspace(-EXTENT, EXTENT, GRID)
    unit = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)
    index = (_matrix(np.exp, log_shape) @ unit + center[:, None]) / spacing[:, None]
    values = ndimage.map_coordinates(distance, index, order=1, mode="nearest").reshape((GRID,) * 3)
    field = np.clip(values / np.exp(np.trace(log_shape) / 3), -CLIP, CLIP).astype(np.float32)
    lost = np.log(mask.sum() * spacing.prod() / unit_volume(field)) - np.trace(log_shape)
    return log_shape + lost / 3 * np.eye(3), field


def unit_volume(field: np.ndarray) -> float:
    """What a field encloses, by points FINER times as dense as its own; times exp(trace L) it is the node's in mm3."""
    from scipy import ndimage

    axis = np.linspace(0, GRID - 1, FINER * (GRID - 1) + 1)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    inside = ndimage.map_coordinates(field, points, order=1) > 0
    return float(np.count_nonzero(inside) * (2 * EXTENT / (GRID - 1) / FINER) ** 3)


def smoothed(mask: np.ndarray, spacing) -> np.ndarray:
    """The mask after a Gaussian of SMOOTHING_MM, cut where its volume stays: without the jumps between its slices."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(mask.astype(np.float32), SMOOTHING_MM / np.asarray(spacing, float))
    return blurred >= np.partition(blurred.ravel(), -int(mask.sum()))[-int(mask.sum())]


def rasterise(log_shape: np.ndarray, field: np.ndarray, spacing) -> np.ndarray | None:
    """The node's mask on a grid of `spacing` mm, cut to its bounding box; None when it is in pieces or too small.

    A stray piece of less than a fiftieth of the node is dropped; cavities are filled.
    """
    from scipy import ndimage

    spacing = np.asarray(spacing, float)
    shape_mm, inverse = _matrix(np.exp, log_shape), _matrix(np.exp, -log_shape)
    half = np.ceil(np.sqrt((shape_mm**2).sum(1)) * EXTENT / spacing).astype(int)  # the unit ball's reach, by axis
    index = np.stack(np.meshgrid(*[np.arange(-h, h + 1) for h in half], indexing="ij"))
    unit = np.tensordot(inverse * spacing, index, 1)
    where = (unit + EXTENT) * ((GRID - 1) / (2 * EXTENT))
    inside = ndimage.map_coordinates(field, where, order=1, mode="constant", cval=-CLIP) > 0
    pieces, count = ndimage.label(inside, TOUCHING)
    if count == 0:
        return None
    sizes = np.bincount(pieces.ravel())[1:]
    if sizes.max() < LEAST_VOXELS or sizes.max() < 0.98 * sizes.sum():
        return None
    node = ndimage.binary_fill_holes(pieces == 1 + sizes.argmax())
    return node[ndimage.find_objects(node.astype(np.uint8))[0]]


def _matrix(function, symmetric) -> np.ndarray:
    """A function of a symmetric matrix, by its eigenvalues."""
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * function(values)) @ vectors.T
