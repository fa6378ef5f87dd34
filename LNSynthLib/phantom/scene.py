"""A scene to draw anatomy in: a grid with smoothly deformed coordinates, on which solids are painted.

A solid is a function of the deformed coordinates, in about mm, negative inside. Three arrays hold the picture: `hu`,
painted with partial volumes; `label`, what is where; and `free`, the distance to whatever was claimed so far (negative
inside), by which a later solid yields to the earlier ones: organs press on each other and never overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline, PchipInterpolator

from ..images.boxes import Box, box_at, box_of, extent, within

DEFORMATION_MM = 9.0  # no point is moved further than this, so a box grown by it holds the whole solid
FAR = np.float32(60.0)  # distances are not followed beyond this


@dataclass
class Solid:
    """A solid in a part of the grid: its distance d (mm, float32) over `box`; of a tube, also the way along it (mm)."""

    box: tuple[slice, slice, slice]
    d: np.ndarray
    along: np.ndarray | None = None


class Scene:
    """A grid from lo to hi (mm, RAS+) of the given spacing (three mm), full of air, deformed at random by `rng`."""

    def __init__(self, rng: np.random.Generator, lo, hi, spacing, bend_mm: float = 3.5, ripple_mm: float = 0.7,
                 step: Callable[[], None] = lambda: None):
        self.rng = rng
        self.step = step  # called after each part of the drawing
        self.spacing = np.asarray(spacing, float)
        self.lo = np.asarray(lo, float)
        self.shape = tuple(int(n) for n in np.ceil((np.asarray(hi) - self.lo) / self.spacing))
        axes = [self.lo[a] + self.spacing[a] * np.arange(n) for a, n in enumerate(self.shape)]
        self.xyz = []
        for axis, line in enumerate(axes):
            moved = self.noise(95.0) * np.float32(bend_mm) + self.noise(18.0) * np.float32(ripple_mm)
            np.clip(moved, -DEFORMATION_MM, DEFORMATION_MM, out=moved)
            moved += line.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            self.xyz.append(moved)
            self.step()
        self.hu = np.full(self.shape, -1000, np.float32)
        self.label = np.zeros(self.shape, np.uint8)
        self.free = np.full(self.shape, FAR, np.float32)
        self.voxel = float(np.prod(self.spacing) ** (1 / 3))

    @property
    def affine(self) -> np.ndarray:
        """Maps voxel indices to RAS+ mm."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = self.lo
        return affine

    def noise(self, scale_mm: float, box=None) -> np.ndarray:
        """A smooth random field (float32, mean 0, std 1) with bumps about `scale_mm` wide, on the grid or in a box.

        A cubic B-spline with random coefficients every scale_mm / 2, evaluated axis by axis.
        """
        box = box or box_of(self.shape)
        bases = []
        for axis, part in enumerate(box):
            at = np.arange(part.start, part.stop) * self.spacing[axis] / (scale_mm / 2)
            at += self.rng.random() - at[0]
            knots = np.arange(-3, int(at[-1]) + 6)
            basis = BSpline.design_matrix(at, knots.astype(float), 3).toarray()
            bases.append(basis.astype(np.float32))
        field = self.rng.standard_normal([b.shape[1] for b in bases], np.float32)
        for basis in bases:  # contracts the first axis and appends the new one, so three turns restore the order
            field = np.tensordot(field, basis, axes=(0, 1))
        return field / np.float32(0.479**1.5)  # a cubic B-spline basis keeps .479 of the variance along each axis

    def box(self, lo, hi) -> Box | None:
        """The part of the grid that can hold a solid lying within lo..hi (mm), None where that is outside."""
        start = np.floor((np.asarray(lo, float) - DEFORMATION_MM - self.lo) / self.spacing).astype(int)
        stop = np.ceil((np.asarray(hi, float) + DEFORMATION_MM - self.lo) / self.spacing).astype(int) + 1
        start, stop = np.maximum(start, 0), np.minimum(stop, self.shape)
        return box_at(start.tolist(), (stop - start).tolist()) if np.all(start < stop) else None

    def solid(self, distance, lo, hi) -> Solid | None:
        """Evaluates distance(x, y, z) within lo..hi (mm)."""
        box = self.box(lo, hi)
        return box and Solid(box, distance(*(c[box] for c in self.xyz)).astype(np.float32, copy=False))

    def tube(self, points, radii, margin: float = 3.0, scale=(1.0, 1.0, 1.0), step: float = 3.0) -> Solid | None:
        """A tube along a smooth curve through `points` (n, 3), mm, with `radii` (n or one), mm.

        margin  distances are right up to this far outside; scale: > 1 flattens the tube along that axis
        """
        curve, radius, length = smooth_curve(points, radii, step)
        scale = np.asarray(scale, np.float32)
        reach = (radius.max() + margin) / scale
        box = self.box(curve.min(0) - reach, curve.max(0) + reach)
        if box is None:
            return None
        shape = extent(box)
        d, along = np.full(shape, FAR), np.zeros(shape, np.float32)
        for a, b, ra, rb, s in zip(curve[:-1], curve[1:], radius[:-1], radius[1:], length[:-1], strict=True):
            part = self.box(
                np.minimum(a, b) - (max(ra, rb) + margin) / scale, np.maximum(a, b) + (max(ra, rb) + margin) / scale
            )
            if part is None:
                continue
            axis = ((b - a) * scale).astype(np.float32)
            squared = float(axis @ axis) or 1.0
            p = [(self.xyz[i][part] - np.float32(a[i])) * scale[i] for i in range(3)]
            t = np.clip((p[0] * axis[0] + p[1] * axis[1] + p[2] * axis[2]) * np.float32(1 / squared), 0, 1)
            new = np.sqrt(sum((p[i] - t * axis[i]) ** 2 for i in range(3))) - (np.float32(ra) + t * np.float32(rb - ra))
            local = within(part, box)
            closer = new < d[local]
            d[local][closer] = new[closer]
            along[local][closer] = np.float32(s) + t[closer] * np.float32(np.linalg.norm(b - a))
        return Solid(box, d, along)

    def fit(self, solid: Solid, gap: float, round_mm: float = 2.0) -> Solid:
        """The solid without whatever comes nearer than `gap` mm to something claimed, its edges rounded."""
        return Solid(solid.box, smooth_max(solid.d, gap - self.free[solid.box], round_mm), solid.along)

    def claim(self, solid: Solid, margin: float = 0.0) -> None:
        """Later solids fitted into the scene keep off this one (and off `margin` mm around it)."""
        np.minimum(self.free[solid.box], solid.d - np.float32(margin), out=self.free[solid.box])

    def paint(self, solid: Solid, hu, label: int | None = None, offset: float = 0.0) -> None:
        """Fills the solid (shrunk by `offset` mm) with `hu` (a number, or an array over the box) and with its label."""
        d = solid.d + np.float32(offset)
        cover = np.clip(0.5 - d / np.float32(self.voxel), 0, 1)
        view = self.hu[solid.box]
        view += cover * (hu - view)
        if label is not None:
            self.label[solid.box][d < 0] = label

    def place(
        self, solid: Solid | None, hu, label: int | None, gap: float = 1.0, margin: float = 0.0, round_mm: float = 2.0
    ) -> Solid | None:
        """Fits a solid into the free room, paints and claims it; None where it lies outside the grid."""
        if solid is None:
            return None
        solid = self.fit(solid, gap, round_mm)
        self.paint(solid, hu, label)
        self.claim(solid, margin)
        return solid

    def vessel(
        self, points, radii, hu: float, label: int | None = None, scale=(1.0, 1.0, 1.0), gap: float | None = None
    ) -> None:
        """A vessel through `points`; with a gap it yields to what is there, without one it runs through."""
        tube = self.tube(self.jitter(points, 1.0), radii, scale=scale)
        if tube is None:
            return
        if gap is not None:
            tube = self.fit(tube, gap, 0.5)
        self.paint(tube, hu, label)
        self.claim(tube)

    def jitter(self, points, std_mm: float) -> np.ndarray:
        """The points (n, 3), each moved at random."""
        points = np.asarray(points, float)
        return points + self.rng.normal(0, std_mm, points.shape)


def smooth_curve(points, radii, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A curve through `points` without overshoot (PCHIP): points (m, 3) every `step` mm, radii (m,), lengths (m,)."""
    points = np.asarray(points, float)
    radii = np.broadcast_to(np.asarray(radii, float), len(points))
    knots = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    at = np.linspace(0, knots[-1], max(2, int(np.ceil(knots[-1] / step)) + 1))
    curve = PchipInterpolator(knots, points)(at)
    return (
        curve,
        PchipInterpolator(knots, radii)(at),
        np.r_[0, np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))],
    )


def smooth_max(a, b, k: float):
    """The intersection of two solids: the maximum of their distances, its edge rounded over k mm (Quilez)."""
    h = np.maximum(np.float32(k) - np.abs(a - b), 0) / np.float32(k)
    return np.maximum(a, b) + h * h * np.float32(k / 4)


def smooth_min(a, b, k: float):
    """The union of two solids: the minimum of their distances, the groove filled over k mm."""
    return -smooth_max(-a, -b, k)


def ellipse(centre, radii, power: float = 2.0):
    """Distance function of an upright cylinder, its axial section an ellipse; power > 2 makes it boxier."""

    def distance(x, y, z):
        p = [c - np.float32(m) for c, m in zip((x, y), centre, strict=True)]
        level = sum((np.abs(v) / np.float32(r)) ** power for v, r in zip(p, radii, strict=True)) ** np.float32(
            1 / power
        )
        return np.sqrt(p[0] ** 2 + p[1] ** 2 + 1e-6) * (1 - 1 / np.maximum(level, 0.05))

    return distance


def ellipsoid(centre, radii, tilt=(0.0, 0.0, 0.0), power: float = 2.0):
    """Distance function of an ellipsoid, `tilt` in degrees about x, y and z; power > 2 makes it boxier."""
    turn = _rotation(np.radians(tilt)).T / np.asarray(radii, float)[:, None]

    def distance(x, y, z):
        p = [c - np.float32(m) for c, m in zip((x, y, z), centre, strict=True)]
        q = [abs(sum(np.float32(row[i]) * p[i] for i in range(3))) for row in turn]
        level = sum(v**power for v in q) ** np.float32(1 / power)
        # to the surface along the ray from the centre, the ray's length being |p|
        return np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2 + 1e-6) * (1 - 1 / np.maximum(level, 0.05))

    return distance


def _rotation(angles) -> np.ndarray:
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
