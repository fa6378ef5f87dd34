"""The phantom's stomach and bowel: walls with folds, and content of fluid, oral contrast, stool and gas on top."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from .body import Habitus
from .scene import Scene, Solid, smooth_curve

STOMACH, SMALL_BOWEL, DUODENUM, COLON = 6, 18, 19, 20  # TotalSegmentator v2 `total` ids


def draw_duodenum(scene, hu) -> None:
    points = scene.jitter(
        [
            (40, 62, 18),
            (52, 44, 10),
            (55, 26, -18),
            (46, 20, -44),
            (20, 31, -52),
            (-14, 34, -50),
            (-34, 32, -30),
            (-36, 44, -14),
        ],
        1.5,
    )
    _gut(
        scene,
        scene.tube(points, [11, 12, 13, 12, 10, 10, 11, 11], margin=6),
        points,
        11.0,
        hu,
        DUODENUM,
        gas=0.35,
        gap=1.0,
    )


def draw_stomach(scene, habitus, hu) -> None:
    rng, front, wide = scene.rng, habitus.middle + habitus.depth, habitus.width
    full = rng.uniform(0.8, 1.15)
    points = scene.jitter(
        [
            (-wide * 0.46, 10, habitus.dome_left - 34),
            (-wide * 0.56, 22, 66),
            (-wide * 0.52, front - 48, 32),
            (-22, front - 34, 6),
            (14, front - 34, 8),
            (36, 66, 18),
        ],
        3.0,
    )
    tube = scene.tube(points, np.array([39, 37, 30, 23, 17, 9]) * full, margin=12)
    if tube is None:
        return
    tube.d += 1.5 * scene.noise(25.0, tube.box)
    tube = scene.fit(tube, 1.5, 6.0)
    scene.paint(tube, hu["bowel_wall"] - 8, STOMACH)
    scene.claim(tube)
    lumen = tube.d + 3.5 + 2.2 * np.abs(scene.noise(11.0, tube.box))  # the wall with its folds
    contrast = hu["oral"] > 100
    content = (hu["oral"] * 0.8 if contrast else rng.uniform(5, 35)) + rng.uniform(3, 14) * scene.noise(8.0, tube.box)
    scene.paint(Solid(tube.box, lumen), content)
    level = front - rng.uniform(28, 75)  # the patient lies on the back: gas collects in front
    surface = scene.xyz[1][tube.box]
    scene.paint(Solid(tube.box, np.maximum(lumen, level - surface)), -960.0)


def _gut(scene, tube, points, radius, hu, label, gas: float, gap: float, stool: bool = False) -> None:
    """A piece of bowel: wall, folds, content that changes along it (collapsed, fluid, contrast, stool), gas on top."""
    if tube is None:
        return
    rng = scene.rng
    tube = scene.fit(tube, gap, 3.0)
    if not (tube.d < 0).any():
        return
    curve, _, length = smooth_curve(points, 1.0, 3.0)
    # content as a function of the arc length, one random value every 40 mm
    knots = np.arange(0, length[-1] + 80, 40.0)
    fluid = rng.uniform(8, 45, len(knots))
    if hu["oral"] > 100:
        fluid = np.where(rng.random(len(knots)) < 0.6, hu["oral"] * rng.uniform(0.5, 1.1, len(knots)), fluid)
    wall = np.interp(tube.along, knots, rng.uniform(1.6, 3.2 if stool else 6.0, len(knots)))
    folds = 0.0 if stool else 1.3 * np.maximum(np.sin(tube.along * (2 * np.pi / 6.5)), 0)
    lumen = tube.d + (wall + folds + 0.5 * scene.noise(7.0, tube.box)).astype(np.float32)
    scene.paint(tube, hu["bowel_wall"] + 8 * scene.noise(10.0, tube.box), label)
    content = np.interp(tube.along, knots, fluid).astype(np.float32)
    if stool:
        froth = scene.noise(6.5, tube.box) + 0.6 * scene.noise(3.5, tube.box)
        content = np.where(hu["oral"] > 100, 0.35 * content, content) + 12 * froth - 900 * np.clip(froth - 0.9, 0, 0.8)
    scene.paint(Solid(tube.box, lumen), content + 5 * scene.noise(9.0, tube.box))
    has_gas = rng.random(len(knots)) < gas
    level = np.where(has_gas, rng.uniform(-0.8, 0.5, len(knots)), 3.0) * radius
    height = scene.xyz[1][tube.box] - np.interp(tube.along, length, curve[:, 1]).astype(np.float32)
    scene.paint(
        Solid(tube.box, np.maximum(lumen, np.interp(tube.along, knots, level).astype(np.float32) - height)), -930.0
    )
    scene.claim(tube)


def draw_colon(scene: Scene, habitus: Habitus, hu: dict[str, float]) -> None:
    """Ascending, transverse and descending colon with haustra."""
    rng, front, w = scene.rng, habitus.middle + habitus.depth, habitus.width
    sag = rng.uniform(-55, -15)  # how low the transverse colon hangs
    points = scene.jitter(
        [
            (w * 0.70, 12, -175),
            (w * 0.74, 2, -120),
            (w * 0.76, -4, -75),
            (w * 0.72, 8, -38),
            (w * 0.60, 38, -22),
            (w * 0.46, front - 30, -32),
            (w * 0.15, front - 22, sag),
            (-w * 0.2, front - 22, sag + 4),
            (-w * 0.52, front - 28, sag * 0.4 + 4),
            (-w * 0.74, front - 62, 28),
            (-w * 0.84, 12, 46),
            (-w * 0.85, -12, 20),
            (-w * 0.83, -16, -30),
            (-w * 0.82, -8, -85),
            (-w * 0.72, 6, -130),
            (-w * 0.6, 16, -175),
        ],
        4.0,
    )
    curve, _, length = smooth_curve(points, 1.0, 4.0)
    base = np.interp(length / length[-1], [0, 0.3, 0.55, 0.7, 1], [25, 22, 18, 14, 12]) * rng.uniform(0.85, 1.15)
    haustra = 1 - 0.22 * np.abs(np.cos(length * np.pi / 27)) ** 3
    tube = scene.tube(curve, base * haustra, margin=6)
    _gut(scene, tube, curve, 17.0, hu, COLON, gas=0.65, gap=1.2, stool=True)


def draw_small_bowel(scene: Scene, habitus: Habitus, hu: dict[str, float]) -> None:
    """Loops that wind through the room in front of the retroperitoneum, and the mesenteric vessels that feed them."""
    rng = scene.rng
    stride = tuple(max(1, round(4.0 / s)) for s in scene.spacing)
    coarse = tuple(slice(None, None, n) for n in stride)
    room = distance_transform_edt(scene.free[coarse] > 0, sampling=scene.spacing * stride)
    x, y, z = (c[coarse] for c in scene.xyz)
    room[(y < 12) & (np.abs(x) < 75) | (y < -5) | (z > 45) | (np.hypot(x, y - 18) < 34)] = 0
    spots, radius = [], float(rng.uniform(10.5, 13.0))
    left = np.stack([x, y, z], -1)[room > radius - 2].astype(float)
    rng.shuffle(left)
    while len(left):  # loops lie side by side: no two turns closer than a diameter and a bit
        spots.append(left[0])
        left = left[np.sum((left - left[0]) ** 2, axis=1) > (2.25 * radius) ** 2]
    if len(spots) < 2:
        return
    for loop in _loops(np.array(spots), 3.6 * radius):
        points = scene.jitter(loop, 2.0)
        _gut(
            scene,
            scene.tube(points, radius * rng.uniform(0.75, 1.08, len(points)), margin=5, step=4.0),
            points,
            radius,
            hu,
            SMALL_BOWEL,
            gas=0.12,
            gap=1.2,
        )
    roots = np.array([(-2, 44, -20), (1, 47, -45), (5, 49, -70), (12, 51, -95), (14, 48, -60), (12, 40, -25)], float)
    for spot in rng.permutation(spots)[:70]:
        root = roots[np.argmin(np.linalg.norm(roots - spot, axis=1) + rng.uniform(0, 25, len(roots)))]
        bow = (root + spot) / 2 + rng.normal(0, 7, 3)
        first = rng.uniform(1.0, 1.7)
        scene.vessel(
            [root, bow, spot],
            [first, first * 0.8, 0.8],
            hu["portal"] if rng.random() < 0.6 else hu["aorta"],
            gap=-0.3,
        )


def _loops(spots: np.ndarray, jump_mm: float) -> list[np.ndarray]:
    """Greedy paths through the spots, broken where the next one is further than jump_mm; singles are dropped."""
    left, paths, path = list(range(1, len(spots))), [], [0]
    while left:
        distances = np.linalg.norm(spots[left] - spots[path[-1]], axis=1)
        nearest = int(np.argmin(distances))
        if distances[nearest] > jump_mm:
            paths.append(path)
            path = []
        path.append(left.pop(nearest))
    return [spots[p] for p in [*paths, path] if len(p) > 1]
