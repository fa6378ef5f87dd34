"""The phantom's solid organs and great vessels, each fitted into the room that the earlier ones left."""

from __future__ import annotations

import numpy as np

from .body import Habitus
from .gut import draw_duodenum, draw_stomach
from .scene import FAR, Scene, Solid, ellipsoid, smooth_curve, smooth_max, smooth_min

# TotalSegmentator v2 `total` ids
SPLEEN, KIDNEY_RIGHT, KIDNEY_LEFT, GALLBLADDER, LIVER = 1, 2, 3, 4, 5
PANCREAS, ADRENAL_RIGHT, ADRENAL_LEFT = 7, 8, 9
AORTA, CAVA, PORTAL = 52, 63, 64
ILIAC_ARTERY, ILIAC_VEIN = {-1: 65, 1: 66}, {-1: 67, 1: 68}


def draw_organs(scene: Scene, habitus: Habitus, hu: dict[str, float]) -> None:
    """Paints all organs but the bowel loops, from the back to the front."""
    _great_vessels(scene, habitus, hu)
    scene.step()
    _kidneys(scene, hu)
    scene.step()
    _adrenals(scene, hu)
    scene.step()
    _portal_system(scene, hu)
    scene.step()
    _pancreas(scene, hu)
    scene.step()
    _gallbladder(scene, habitus, hu)
    scene.step()
    draw_duodenum(scene, hu)
    scene.step()
    _liver(scene, habitus, hu)
    scene.step()
    _spleen(scene, habitus, hu)
    scene.step()
    draw_stomach(scene, habitus, hu)
    scene.step()


def _great_vessels(scene, habitus, hu) -> None:
    rng, size = scene.rng, scene.rng.normal(1, 0.08)
    shift = rng.normal(0, 2)
    scene.vessel(
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
    scene.vessel(
        [(21, 11, -88), (22, 11, -40), (24, 12, 10), (27, 16, 50), (28, 22, 85), (24, 28, 118), (20, 34, 150)],
        np.array([10, 10, 11, 12, 12, 13, 13]) * rng.normal(1, 0.07),
        hu["cava"],
        CAVA,
        scale=(1 / flat**0.5, flat**0.5, 1.0),
    )
    for side in (-1, 1):
        scene.vessel(
            [(side * 4 - 3, 13, -82), (side * 14 - 2, 14, -105), (side * 32, 6, -135), (side * 46, 6, -170)],
            [7, 6, 5.5, 5],
            hu["aorta"],
            ILIAC_ARTERY[side],
        )
        scene.vessel(
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
        scene.place(crus, hu["muscle"], None, gap=0.3)
        # renal artery behind, vein in front; the left vein crosses before the aorta
        low = rng.normal(4, 5) - 6 * (side > 0)
        start = (side * 8 - 8, 13, low + 5)
        scene.vessel([start, (side * 30, 2, low), (side * 47, -12, low)], [2.8, 2.6, 2.4], hu["aorta"], gap=-2.5)
        path = (
            [(-48, -10, low), (-28, 14, low + 3), (-8, 27, low + 3), (14, 16, low + 1)]
            if side < 0
            else [(24, 8, low), (47, -8, low - 3)]
        )
        scene.vessel(path, [5, 5, 3.6, 4.5][: len(path)], hu["cava"], gap=-4 if side > 0 else -1)
    # coeliac trunk with splenic and hepatic arteries; superior and inferior mesenteric arteries
    top = rng.normal(27, 3)
    scene.vessel([(-8, 20, top + 2), (-7, 34, top)], [3.4, 3.2], hu["aorta"])
    scene.vessel(
        [(-7, 34, top), (10, 42, top + 4), (34, 46, top + 6), (44, 44, top + 16)],
        [2.8, 2.6, 2.2, 1.8],
        hu["aorta"],
    )
    scene.vessel(
        [(-7, 34, top), (-30, 30, top + 14), (-52, 10, top + 20), (-80, -10, top + 24)],
        [2.8, 2.6, 2.4, 2.0],
        hu["aorta"],
    )
    scene.vessel(
        [(-8, 20, top - 10), (-6, 34, top - 20), (-3, 42, top - 45), (0, 46, top - 80), (10, 50, top - 120)],
        [3.6, 3.6, 3.2, 2.6, 1.8],
        hu["aorta"],
    )
    scene.vessel([(-8, 21, -45), (-16, 24, -65), (-26, 16, -95), (-28, 10, -130)], [1.8, 1.7, 1.6, 1.4], hu["aorta"])
    for side in (-1, 1):  # ureters and gonadal veins on the psoas
        scene.vessel(
            [(side * 44, -6, -20), (side * 42, 2, -60), (side * 40, 12, -100), (side * 36, 18, -140)],
            2.0,
            hu["pelvis"] + 15,
            gap=0.2,
        )
        scene.vessel([(side * 36, 4, -15), (side * 48, 4, -60), (side * 52, 18, -110)], 1.5, hu["cava"], gap=0.2)


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
            scene.place(solid, hu["adrenal"], label, gap=0.7, margin=2.5)


def _portal_system(scene, hu) -> None:
    """Splenic, superior mesenteric and portal vein up to the porta hepatis."""
    size = scene.rng.normal(1, 0.1)
    scene.vessel(
        [(14, 31, 10), (24, 35, 24), (36, 38, 38), (47, 37, 50)],
        np.array([6.8, 6.8, 6.5, 6.0]) * size,
        hu["portal"],
        PORTAL,
    )
    scene.vessel(
        [(14, 31, 10), (-8, 33, 17), (-35, 24, 27), (-62, 4, 38), (-82, -8, 44)],
        np.array([5.0, 4.6, 4.4, 4.2, 3.4]) * size,
        hu["portal"],
        PORTAL,
    )
    scene.vessel(
        [(14, 31, 10), (12, 38, -15), (13, 45, -45), (14, 49, -80), (20, 52, -112)],
        np.array([6.0, 5.6, 5.0, 4.0, 2.6]) * size,
        hu["portal"],
    )


def _pancreas(scene, hu) -> None:
    size = scene.rng.normal(1, 0.1)
    points = scene.jitter(
        [(32, 22, -26), (36, 28, -6), (28, 39, 6), (8, 43, 14), (-18, 40, 23), (-46, 26, 33), (-72, 6, 42)],
        2.0,
    )
    gland = scene.tube(points, np.array([8, 14, 11, 8, 9, 9.5, 8]) * size, margin=8, scale=(1, 1, 0.85))
    if gland is None:
        return
    gland.d += 1.6 * scene.noise(9.0, gland.box) + 0.8 * scene.noise(4.5, gland.box)
    lobules = -28 * np.maximum(scene.noise(6.0, gland.box) - 0.7, 0)  # fat between the lobules
    scene.place(gland, hu["pancreas"] + lobules, PANCREAS, gap=0.8)
    duct = scene.tube(points[1:], 1.0)
    duct.d = np.where(scene.label[duct.box] == PANCREAS, duct.d, FAR)
    scene.paint(duct, 20.0)


def _gallbladder(scene, habitus, hu) -> None:
    size, front = scene.rng.normal(1, 0.13), habitus.middle + habitus.depth
    points = scene.jitter([(50, 44, 26), (56, 52, 14), (63, front - 42, -2), (68, front - 28, -20)], 2.0)
    bladder = scene.tube(points, np.array([3.5, 8, 13, 12.5]) * size, margin=6)
    if bladder is None:
        return
    bladder = scene.place(bladder, hu["bowel_wall"] - 20, GALLBLADDER, gap=1.0)
    scene.paint(bladder, hu["bile"], offset=1.3)


def _liver(scene, habitus, hu) -> None:
    """Right lobe below the right dome, left lobe across the midline, a slanting lower surface; then its vessels."""
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
    scene.place(liver, hu["liver"] + 3 * scene.noise(40.0, liver.box), LIVER, gap=-0.3, round_mm=1.5)
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
            points = scene.jitter(trunk, 3.0)
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
    scene.place(solid, hu["spleen"] + moire, SPLEEN, gap=0.3)
