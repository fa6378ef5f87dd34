"""The phantom's abdominal organs, great vessels and bowel, each fitted into the room that earlier ones left (see phantom_scene)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from .phantom_body import Habitus
from .phantom_scene import FAR, Scene, Solid, ellipsoid, smooth_curve, smooth_max, smooth_min

# TotalSegmentator v2 `total` ids
SPLEEN, KIDNEY_RIGHT, KIDNEY_LEFT, GALLBLADDER, LIVER, STOMACH, PANCREAS, ADRENAL_RIGHT, ADRENAL_LEFT = range(1, 10)
SMALL_BOWEL, DUODENUM, COLON, AORTA, CAVA, PORTAL = 18, 19, 20, 52, 63, 64
ILIAC_ARTERY, ILIAC_VEIN = {-1: 65, 1: 66}, {-1: 67, 1: 68}


def draw_organs(scene: Scene, habitus: Habitus, hu: dict[str, float]) -> None:
    """Paints all organs but the bowel loops, from the back to the front."""
    _great_vessels(scene, habitus, hu)
    _kidneys(scene, hu)
    _adrenals(scene, hu)
    _portal_system(scene, hu)
    _pancreas(scene, hu)
    _gallbladder(scene, habitus, hu)
    _duodenum(scene, hu)
    _liver(scene, habitus, hu)
    _spleen(scene, habitus, hu)
    _stomach(scene, habitus, hu)


def organ(
    scene: Scene,
    solid: Solid | None,
    hu,
    label: int | None,
    gap: float = 1.0,
    margin: float = 0.0,
    round_mm: float = 2.0,
):
    """Fits a solid into the free room, paints and claims it; None where it lies outside the grid."""
    if solid is None:
        return None
    solid = scene.fit(solid, gap, round_mm)
    scene.paint(solid, hu, label)
    scene.claim(solid, margin)
    return solid


def vessel(
    scene: Scene, points, radii, hu: float, label: int | None = None, scale=(1.0, 1.0, 1.0), gap: float | None = None
) -> None:
    """A vessel through `points`; with a gap it yields to what is there, without one it runs through."""
    tube = scene.tube(jitter(scene.rng, points, 1.0), radii, scale=scale)
    if tube is None:
        return
    if gap is not None:
        tube = scene.fit(tube, gap, 0.5)
    scene.paint(tube, hu, label)
    scene.claim(tube)


def jitter(rng: np.random.Generator, points, std_mm: float) -> np.ndarray:
    """The points, each moved at random."""
    points = np.asarray(points, float)
    return points + rng.normal(0, std_mm, points.shape)


def _great_vessels(scene, habitus, hu) -> None:
    rng, size = scene.rng, scene.rng.normal(1, 0.08)
    shift = rng.normal(0, 2)
    vessel(
        scene,
        [
            (-14, 6, 230),
            (-13, 8, 160),
            (-9 + shift, 12, 95),
            (-8 + shift, 13, 40),
            (-7 + shift, 13, -30),
            (-3, 13, -84),
        ],
        np.array([12, 12, 11, 10, 9, 8.5]) * size,
        hu["aorta"],
        AORTA,
    )
    flat = rng.uniform(0.95, 1.3)
    vessel(
        scene,
        [(21, 11, -88), (22, 11, -40), (24, 12, 10), (27, 16, 50), (28, 22, 85), (24, 28, 118), (20, 34, 150)],
        np.array([10, 10, 11, 12, 12, 13, 13]) * rng.normal(1, 0.07),
        hu["cava"],
        CAVA,
        scale=(1 / flat**0.5, flat**0.5, 1.0),
    )
    for side in (-1, 1):
        vessel(
            scene,
            [(side * 4 - 3, 13, -82), (side * 14 - 2, 14, -105), (side * 32, 6, -135), (side * 46, 6, -170)],
            [7, 6, 5.5, 5],
            hu["aorta"],
            ILIAC_ARTERY[side],
        )
        vessel(
            scene,
            [(21 - 4 * (side < 0), 10, -86), (8 + 12 * side, 8, -102), (side * 30, 0, -130), (side * 44, -2, -170)],
            [8, 7.5, 7, 6.5],
            hu["cava"],
            ILIAC_VEIN[side],
        )
        crus = scene.tube(
            [(side * 11 - 4, 4, -12), (side * 16 - 5, 8, 40), (side * 20 - 6, 18, 85)],
            [3, 4, 4.5],
            scale=(1.0, 0.55, 1.0),
            margin=6,
        )
        organ(scene, crus, hu["muscle"], None, gap=0.3)
        # renal artery behind, vein in front; the left vein crosses before the aorta
        low = rng.normal(4, 5) - 6 * (side > 0)
        start = (side * 8 - 8, 13, low + 5)
        vessel(scene, [start, (side * 30, 2, low), (side * 47, -12, low)], [2.8, 2.6, 2.4], hu["aorta"], gap=-2.5)
        path = (
            [(-48, -10, low), (-28, 14, low + 3), (-8, 27, low + 3), (14, 16, low + 1)]
            if side < 0
            else [(24, 8, low), (47, -8, low - 3)]
        )
        vessel(scene, path, [5, 5, 3.6, 4.5][: len(path)], hu["cava"], gap=-4 if side > 0 else -1)
    # coeliac trunk with splenic and hepatic arteries; superior and inferior mesenteric arteries
    top = rng.normal(27, 3)
    vessel(scene, [(-8, 20, top + 2), (-7, 34, top)], [3.4, 3.2], hu["aorta"])
    vessel(
        scene,
        [(-7, 34, top), (10, 42, top + 4), (34, 46, top + 6), (44, 44, top + 16)],
        [2.8, 2.6, 2.2, 1.8],
        hu["aorta"],
    )
    vessel(
        scene,
        [(-7, 34, top), (-30, 30, top + 14), (-52, 10, top + 20), (-80, -10, top + 24)],
        [2.8, 2.6, 2.4, 2.0],
        hu["aorta"],
    )
    vessel(
        scene,
        [(-8, 20, top - 10), (-6, 34, top - 20), (-3, 42, top - 45), (0, 46, top - 80), (10, 50, top - 120)],
        [3.6, 3.6, 3.2, 2.6, 1.8],
        hu["aorta"],
    )
    vessel(scene, [(-8, 21, -45), (-16, 24, -65), (-26, 16, -95), (-28, 10, -130)], [1.8, 1.7, 1.6, 1.4], hu["aorta"])
    for side in (-1, 1):  # ureters and gonadal veins on the psoas
        vessel(
            scene,
            [(side * 44, -6, -20), (side * 42, 2, -60), (side * 40, 12, -100), (side * 36, 18, -140)],
            2.0,
            hu["pelvis"] + 15,
            gap=0.2,
        )
        vessel(scene, [(side * 36, 4, -15), (side * 48, 4, -60), (side * 52, 18, -110)], 1.5, hu["cava"], gap=0.2)


def _kidneys(scene, hu) -> None:
    rng = scene.rng
    for side, label in ((1, KIDNEY_RIGHT), (-1, KIDNEY_LEFT)):
        size = rng.normal(1, 0.07)
        centre = np.array([side * (61 + rng.normal(0, 2)), -17 + rng.normal(0, 2), rng.normal(4, 8) - 10 * (side > 0)])
        radii = np.array([27, 25, 55]) * size
        tilt = (rng.normal(-8, 4), -side * rng.normal(10, 3), side * rng.normal(-28, 8))
        box = centre - 66, centre + 66
        kidney = scene.solid(ellipsoid(centre, radii, tilt, 2.2), *box)
        if kidney is None:
            continue
        kidney.d += 1.0 * scene.noise(22.0, kidney.box)
        hilum = centre + np.array([-side * 17, 11, 0]) * size
        sinus = scene.solid(ellipsoid(hilum, np.array([17, 10, 24]) * size, tilt), *box)
        sinus.d += 3.0 * scene.noise(13.0, sinus.box)
        gate = scene.solid(
            ellipsoid(centre + np.array([-side * 32, 18, 0]) * size, np.array([15, 11, 13]) * size, tilt), *box
        )
        sinus.d = smooth_min(sinus.d, gate.d, 6.0)
        kidney = scene.fit(Solid(kidney.box, smooth_max(kidney.d, -sinus.d, 3.0)), 2.0)
        scene.paint(kidney, hu["cortex_kidney"], label)
        # pyramids: lobes of medulla between the cortex and the sinus, columns of cortex between them
        depth = np.maximum(kidney.d + 7.5 * size, 1.5 - sinus.d)
        pyramids = smooth_max(depth, 5.0 * scene.noise(17.0, kidney.box) - 3.0, 2.0)
        scene.paint(Solid(kidney.box, pyramids), hu["medulla"])
        pelvis = scene.solid(ellipsoid(hilum - (side * 2, 0, 4), np.array([9, 5, 14]) * size, tilt), *box)
        pelvis.d = np.maximum(pelvis.d + 2.5 * scene.noise(9.0, pelvis.box), 1.5 - kidney.d)
        scene.paint(pelvis, hu["pelvis"])
        scene.claim(Solid(kidney.box, np.minimum(kidney.d, sinus.d)), margin=rng.uniform(1.5, 5))


def _adrenals(scene, hu) -> None:
    """Thin Y-shaped plates above the kidneys: a ridge and two limbs."""
    rng = scene.rng
    for side, label, at in ((1, ADRENAL_RIGHT, (31, 2, 56)), (-1, ADRENAL_LEFT, (-29, 8, 48))):
        centre = np.asarray(at) + rng.normal(0, 2, 3)
        body, thick = centre[:2], rng.uniform(2.0, 2.8)
        tips = [body + (side * 1, 9), body + (side * 12, -14), body + (-side * 1 + side * 4 * (side < 0), -15)]

        def plate(x, y, z, body=body, tips=tips, height=centre[2], thick=thick):
            d = FAR
            for tip in tips:
                leg = tip - body
                t = np.clip(((x - body[0]) * leg[0] + (y - body[1]) * leg[1]) / (leg @ leg), 0, 1)
                d = np.minimum(
                    d, np.sqrt((x - body[0] - t * leg[0]) ** 2 + (y - body[1] - t * leg[1]) ** 2) - thick + 0.6 * t
                )
            return smooth_max(d, np.abs(z - height) - 12, 3.0)

        solid = scene.solid(plate, centre - 20, centre + 20)
        if solid is not None:
            solid.d += np.float32(0.4) * scene.noise(8.0, solid.box)
            organ(scene, solid, hu["adrenal"], label, gap=0.7, margin=1.5)


def _portal_system(scene, hu) -> None:
    """Splenic, superior mesenteric and portal vein up to the porta hepatis."""
    size = scene.rng.normal(1, 0.1)
    vessel(
        scene,
        [(14, 31, 10), (24, 35, 24), (36, 38, 38), (47, 37, 50)],
        np.array([6.8, 6.8, 6.5, 6.0]) * size,
        hu["portal"],
        PORTAL,
    )
    vessel(
        scene,
        [(14, 31, 10), (-8, 33, 17), (-35, 24, 27), (-62, 4, 38), (-82, -8, 44)],
        np.array([5.0, 4.6, 4.4, 4.2, 3.4]) * size,
        hu["portal"],
        PORTAL,
    )
    vessel(
        scene,
        [(14, 31, 10), (12, 38, -15), (13, 45, -45), (14, 49, -80), (20, 52, -112)],
        np.array([6.0, 5.6, 5.0, 4.0, 2.6]) * size,
        hu["portal"],
    )


def _pancreas(scene, hu) -> None:
    size = scene.rng.normal(1, 0.1)
    points = jitter(
        scene.rng,
        [(32, 22, -26), (36, 28, -6), (28, 39, 6), (8, 43, 14), (-18, 40, 23), (-46, 26, 33), (-72, 6, 42)],
        2.0,
    )
    gland = scene.tube(points, np.array([8, 14, 11, 8, 9, 9.5, 8]) * size, margin=8, scale=(1, 1, 0.85))
    if gland is None:
        return
    gland.d += 1.6 * scene.noise(9.0, gland.box) + 0.8 * scene.noise(4.5, gland.box)
    lobules = -28 * np.maximum(scene.noise(6.0, gland.box) - 0.7, 0)  # fat between the lobules
    organ(scene, gland, hu["pancreas"] + lobules, PANCREAS, gap=0.8)
    duct = scene.tube(points[1:], 1.0)
    duct.d = np.where(scene.label[duct.box] == PANCREAS, duct.d, FAR)
    scene.paint(duct, 20.0)


def _gallbladder(scene, habitus, hu) -> None:
    size, front = scene.rng.normal(1, 0.13), habitus.middle + habitus.depth
    points = jitter(scene.rng, [(50, 44, 26), (56, 52, 14), (63, front - 42, -2), (68, front - 28, -20)], 2.0)
    bladder = scene.tube(points, np.array([3.5, 8, 13, 12.5]) * size, margin=6)
    if bladder is None:
        return
    bladder = organ(scene, bladder, hu["bowel_wall"] - 20, GALLBLADDER, gap=1.0)
    scene.paint(bladder, hu["bile"], offset=1.3)


def _duodenum(scene, hu) -> None:
    points = jitter(
        scene.rng,
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


def _liver(scene, habitus, hu) -> None:
    """Right lobe filling the right dome, left lobe across the midline, cut below by a slanting visceral surface; then its vessels."""
    rng = scene.rng
    right = ellipsoid(
        (habitus.width * 0.55, habitus.middle - 8, 48),
        (habitus.width * 0.62, habitus.depth * 1.06, 108),
        (0, -8, 0),
        2.3,
    )
    reach = rng.uniform(-75, -35)  # how far the left lobe reaches to the left
    left = ellipsoid(
        ((60 + reach) / 2, habitus.middle + habitus.depth * 0.50, 82), ((60 - reach) / 2, 48, 44), (10, -10, 0), 2.3
    )
    low, slope = rng.normal(-42, 10), rng.uniform(0.45, 0.65)

    def shape(x, y, z):
        under = low + slope * (habitus.width * 0.8 - x) - z + 0.12 * (y - habitus.middle)
        whole = smooth_max(smooth_min(right(x, y, z), left(x, y, z), 22.0), under * 0.85, 10.0)
        # the fissure of the round ligament, open to the front and below
        fissure = np.maximum(
            np.abs(x - 22 + 0.15 * y) - 1.5 - 0.03 * np.maximum(y - 40, 0), 0.7 * np.maximum(40 - y, z - 62)
        )
        return smooth_max(whole, -fissure, 3.0)

    liver = scene.solid(shape, (-95, -90, -75), (150, 140, 170))
    if liver is None:
        return
    liver.d += 2.0 * scene.noise(38.0, liver.box)
    organ(scene, liver, hu["liver"] + 3 * scene.noise(40.0, liver.box), LIVER, gap=-0.3, round_mm=1.5)
    _liver_vessels(scene, hu)


def _liver_vessels(scene, hu) -> None:
    rng = scene.rng
    veins = [
        [(24, 26, 116), (48, 16, 108), (80, 0, 84), (98, -8, 50)],
        [(23, 30, 118), (40, 46, 104), (58, 62, 78), (66, 68, 48)],
        [(21, 33, 118), (10, 48, 108), (-8, 66, 92)],
    ]
    portal = [
        [(45, 37, 48), (62, 28, 56), (80, 26, 66), (96, 32, 78)],
        [(60, 29, 55), (74, 8, 44), (86, -8, 28), (94, -12, 6)],
        [(45, 37, 50), (30, 48, 62), (18, 62, 70), (-6, 72, 76)],
    ]
    for trunks, level, thick in ((veins, hu["hepatic_vein"], 4.5), (portal, hu["liver_portal"], 5.0)):
        for trunk in trunks:
            points = jitter(rng, trunk, 3.0)
            paths = [(points, np.linspace(thick, 1.6, len(points)))]
            curve = smooth_curve(points, 1.0, 4.0)[0]
            for _ in range(7):
                at = int(rng.integers(len(curve) // 4, len(curve)))
                end = curve[at] + rng.normal(0, 1, 3) * 20 + (curve[-1] - curve[0]) * rng.uniform(0.1, 0.4)
                bow = (curve[at] + end) / 2 + rng.normal(0, 4, 3)
                paths.append((np.array([curve[at], bow, end]), np.array([2.2, 1.7, 1.0]) * rng.uniform(0.7, 1.1)))
            for path, radii in paths:
                tube = scene.tube(path, radii)
                if tube is not None:
                    tube.d = np.where(scene.label[tube.box] == LIVER, tube.d, FAR)
                    scene.paint(tube, level)


def _spleen(scene, habitus, hu) -> None:
    size = scene.rng.normal(1, 0.1)
    centre = (-habitus.width * 0.76, habitus.middle - 30, 60 + scene.rng.normal(0, 6))
    outer = ellipsoid(centre, np.array([36, 50, 54]) * size, (25, 0, 22), 2.2)
    hollow = ellipsoid((centre[0] + 46, centre[1] + 22, centre[2]), (38, 52, 75), (25, 0, 22))
    solid = scene.solid(
        lambda x, y, z: smooth_max(outer(x, y, z), -hollow(x, y, z), 8.0), np.add(centre, -80), np.add(centre, 80)
    )
    solid.d += 1.5 * scene.noise(30.0, solid.box)
    moire = hu["spleen_stripes"] * scene.noise(14.0, solid.box)  # uneven enhancement in the arterial phase
    organ(scene, solid, hu["spleen"] + moire, SPLEEN, gap=0.3)


def _stomach(scene, habitus, hu) -> None:
    rng, front, wide = scene.rng, habitus.middle + habitus.depth, habitus.width
    full = rng.uniform(0.8, 1.15)
    points = jitter(
        rng,
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
    """A piece of bowel: wall, folds, and content that changes along it (collapsed, fluid, contrast, stool) with gas on top."""
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
    points = jitter(
        rng,
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
    """Loops that wind through the room left in front of the retroperitoneum, and the mesenteric vessels that feed them."""
    rng = scene.rng
    stride = tuple(max(1, round(4.0 / s)) for s in scene.spacing)
    coarse = tuple(slice(None, None, n) for n in stride)
    room = distance_transform_edt(scene.free[coarse] > 0, sampling=scene.spacing * stride)
    x, y, z = (c[coarse] for c in scene.xyz)
    room[(y < 12) & (np.abs(x) < 75) | (y < -5) | (z > 45) | (np.hypot(x, y - 18) < 34)] = 0
    spots, radius = [], float(rng.uniform(10.5, 13.0))
    candidates = np.argwhere(room > radius - 2)
    rng.shuffle(candidates)
    place = np.stack([x, y, z], -1)
    for index in candidates:
        p = place[tuple(index)].astype(float)
        if all(np.sum((p - q) ** 2) > (2.25 * radius) ** 2 for q in spots):
            spots.append(p)
    if len(spots) < 2:
        return
    for loop in _loops(np.array(spots), 3.6 * radius):
        points = jitter(rng, loop, 2.0)
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
        vessel(
            scene,
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
