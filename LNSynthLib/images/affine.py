"""Plain geometry of 4x4 affines (voxel index to RAS+ mm)."""

from __future__ import annotations

import itertools

import numpy as np

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM and ITK count x to the left and y to the back


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """(3,) voxel size in mm along i, j and k: the column norms, never the diagonal."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def rotation_of(affine: np.ndarray) -> np.ndarray:
    """(3, 3) the orthonormal directions nearest to the affine's own (polar decomposition), reflections included."""
    u, _, vt = np.linalg.svd(affine[:3, :3] / spacing_of(affine))
    return u @ vt


def straightened(affine: np.ndarray) -> np.ndarray:
    """The affine without its shear: nearest orthonormal directions, spacing and first voxel kept."""
    result = affine.copy()
    result[:3, :3] = rotation_of(affine) * spacing_of(affine)
    return result


def furthest_apart(a: np.ndarray, b: np.ndarray, shape: tuple) -> float:
    """The largest distance, in mm, between the places that two affines give to a voxel of a grid of this shape."""
    corners = np.array([[*c, 1.0] for c in itertools.product(*((0, n - 1) for n in shape))]).T
    apart = float(np.linalg.norm(((a - b) @ corners)[:3], axis=0).max())
    # Axes of one voxel hide a wrong direction from the corners; a step along each axis shows it.
    return max(apart, float(np.abs(a[:3, :3] - b[:3, :3]).max()))


def nearly_orthonormal(affine: np.ndarray, shape: tuple) -> bool:
    """Whether leaving out the shear moves no voxel of the grid by more than half a voxel's smallest side."""
    return furthest_apart(affine, straightened(affine), shape) <= 0.5 * spacing_of(affine).min()
