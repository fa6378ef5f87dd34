"""The phantom's frame: outline, fat, muscles, spine, ribs, pelvis, diaphragm, chest and the table underneath.

Millimetres, RAS+: the origin lies on the front of the second lumbar vertebra; x grows towards the patient's right, y
towards the belly, z towards the head. Sizes are those of textbook adults.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

from ..images.boxes import box_of
from .scene import Scene, Solid, ellipse, ellipsoid, smooth_max, smooth_min

# TotalSegmentator v2 ids, and the height (mm) of each vertebra's centre
VERTEBRAE = {27: -110.0, 28: -73.0, 29: -36.0, 30: 0.0, 31: 36.0, 32: 71.0, 33: 104.0, 34: 135.0, 35: 163.0, 36: 190.0}
SACRUM, HIP_LEFT, HIP_RIGHT, CORD, CARTILAGE, HEART, ESOPHAGUS = 25, 77, 78, 79, 117, 51, 15
AUTOCHTHON = {-1: 86, 1: 87}
ILIOPSOAS = {-1: 88, 1: 89}
LUNG_LOWER, LUNG_FRONT = {-1: 11, 1: 14}, {-1: 10, 1: 13}
RIBS = {7: 218.0, 8: 190.0, 9: 163.0, 10: 135.0, 11: 104.0, 12: 71.0}  # number: height of its vertebra


@dataclass(frozen=True)
class Habitus:
    """One person's proportions (mm): the cavity's half width, half depth and back; wall; fat; heights of the domes."""

    width: float
    depth: float
    back: float
    wall: float
    fat: float
    dome_right: float
    dome_left: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Habitus:
        weight = rng.random()  # 0 slim .. 1 stout: cavity and fat grow together
        return cls(
            width=float(118 + 18 * weight + rng.normal(0, 4)),
            depth=float(78 + 20 * weight + rng.normal(0, 4)),
            back=float(-72 + rng.normal(0, 2)),
            wall=float(rng.uniform(12, 17)),
            fat=float(np.clip(6 + 22 * weight**1.3 + rng.normal(0, 3), 5, 35)),
            dome_right=float(rng.uniform(122, 142)),
            dome_left=float(rng.uniform(108, 128)),
        )

    @property
    def middle(self) -> float:
        """y of the cavity's centre."""
        return self.back + self.depth

    def cavity(self, x, y, z, grow: float = 0.0):
        """Distance (mm, in the axial plane) to the cavity's wall moved outwards by `grow`; negative inside."""
        level = (np.abs(z - 20) / np.float32(150)) ** 2  # a slight waist below the ribs
        a, b = self.width * (0.97 + 0.05 * level) + grow, self.depth + grow
        y = y - np.float32(self.middle)
        radius = np.sqrt(x * x + y * y + 1e-3)
        scaled = (np.abs(x) / a) ** 2.4 + (np.abs(y) / b) ** 2.4
        return radius * (1 - np.maximum(scaled, 1e-4) ** np.float32(-1 / 2.4))

    def outline(self, x, y, cavity):
        """Distance to the skin around wall and fat; fat is thickest behind the flanks, the spine leaves a furrow."""
        back = np.clip(-(y - self.middle) / self.depth, 0, 1)
        side = np.clip(np.abs(x) / self.width, 0, 1)
        thickness = self.wall + self.fat * (1 + 0.5 * back * side - 0.35 * side * (1 - back)) + 8 * back
        furrow = 7 * back**4 * np.exp(-((x / 16) ** 2))
        return cavity - thickness + furrow

    def dome(self, x, y):
        """Height of the diaphragm over (x, y): two domes with deep edges."""

        def one(top, centre, radius):
            rho = ((x - centre) / radius) ** 2 + ((y - self.middle - 8) / (self.depth * 1.02)) ** 2
            return top - 38 * rho - 30 * np.minimum(rho, 1.6) ** 3

        right, left = (
            one(self.dome_right, self.width * 0.5, self.width * 0.56),
            one(self.dome_left, -self.width * 0.52, self.width * 0.52),
        )
        bridge = (
            np.float32(min(self.dome_right, self.dome_left) - 16)
            - np.abs(x) * 0.3
            - 40 * ((y - self.middle - 12) / self.depth) ** 2
        )
        return smooth_max(smooth_max(right, left, 25.0), bridge, 20.0)


def draw_frame(scene: Scene, habitus: Habitus, hu: dict[str, float]) -> None:
    """Paints everything that is not an abdominal organ; afterwards scene.free measures the room left in the abdomen."""
    x, y, z = scene.xyz
    whole = box_of(scene.shape)
    cavity = habitus.cavity(x, y, z)
    skin = Solid(whole, habitus.outline(x, y, cavity))
    fat = hu["fat"] + 5 * scene.noise(35.0) + 7 * scene.noise(7.0)
    scene.paint(skin, fat)
    scene.step()
    scene.paint(Solid(whole, np.abs(skin.d + 1.0) - 1.0), hu["skin"])
    _muscle_wall(scene, habitus, hu, skin.d, cavity)
    scene.step()

    dome = (habitus.dome(x, y) - z) * np.float32(0.7)  # positive below the diaphragm
    inside = Solid(whole, cavity + np.float32(0.3))
    scene.paint(inside, fat)
    scene.free = -inside.d
    scene.paint(Solid(whole, np.maximum(inside.d, np.abs(dome) - 1.5)), hu["muscle"])
    scene.step()

    _back(scene, habitus, hu, skin.d)
    scene.step()
    _spine(scene, hu)
    scene.step()
    _ribs(scene, habitus, hu)
    scene.step()
    _pelvis(scene, habitus, hu, skin.d)
    scene.step()
    _chest(scene, habitus, hu, dome)
    scene.step()
    scene.free = smooth_min(scene.free, dome - 2.0, 6.0)


def _muscle_wall(scene, habitus, hu, skin, cavity) -> None:
    """Three flat muscles at the flanks, the rectus in front with the white line between; intercostals above."""
    x, y, z = scene.xyz
    whole = box_of(scene.shape)
    front = np.clip((y - habitus.middle) / habitus.depth, 0, 1)
    thick = habitus.wall * (1 - 0.35 * front**2)
    ring = np.maximum(np.maximum(cavity - thick, -cavity), skin + 4)
    gap = 3.0 - np.abs(x) + 14 * np.exp(-(((np.abs(x) - 68) / 7.0) ** 2)) - 30 * (front < 0.75) * (np.abs(x) < 40)
    ring = np.maximum(ring, np.where(front > 0.5, gap * 0.5, -50)).astype(np.float32)
    muscle = hu["muscle"] + 4 * scene.noise(12.0) - 18 * np.maximum(scene.noise(6.0) - 0.9, 0)
    scene.paint(Solid(whole, ring), muscle)
    for part in (0.36, 0.68):  # the thin fat between the flat muscles
        sheet = np.maximum(np.abs(cavity - thick * part) - 0.2, 0.7 - np.abs(x) / habitus.width)
        scene.paint(
            Solid(whole, np.maximum(np.maximum(sheet, front - 0.7), np.maximum(z - 40, habitus.middle - 40 - y))),
            hu["fat"] + 60,
        )


def _back(scene, habitus, hu, skin) -> None:
    """Erector spinae, quadratus lumborum and psoas on either side."""
    size = scene.rng.normal(1, 0.08)
    for side in (-1, 1):
        muscle = scene.rng.normal(hu["muscle"], 2)
        erector = ellipse((side * 30, habitus.back - 1), (27, 21), 2.4)
        quadratus = ellipsoid((side * 62, -54, -35), (22, 11, 80), (0, 0, -20 * side))
        inner, outer = sorted((0, side * 95))
        for distance, label in ((erector, AUTOCHTHON[side]), (quadratus, None)):
            solid = scene.solid(distance, (inner, -130, -400), (outer, -35, 400))
            solid.d = np.maximum(solid.d, skin[solid.box] + 2 + 0.6 * habitus.fat)
            streak = -45 * np.maximum(scene.noise(6.0, solid.box) - 0.8, 0) + 5 * scene.noise(14.0, solid.box)
            scene.paint(solid, muscle + streak, label)
            scene.claim(solid)
        psoas = scene.tube(
            [
                (side * 27, -32, 60),
                (side * 33, -29, 20),
                (side * 41, -24, -30),
                (side * 49, -16, -80),
                (side * 54, -4, -130),
                (side * 58, 8, -190),
            ],
            np.array([4, 9, 15, 20, 22, 20]) * size * scene.rng.normal(1, 0.03),
            scale=(1.12, 0.95, 1.0),
            margin=14,
        )
        scene.paint(psoas, muscle + 4 * scene.noise(14.0, psoas.box), ILIOPSOAS[side])
        scene.claim(psoas)


def _bone(scene, solid, hu, label, cortex: float = 1.6, marrow: float | None = None) -> None:
    """A bone: cortical shell around cancellous texture."""
    cancellous = (
        (hu["marrow"] if marrow is None else marrow)
        + 45 * scene.noise(5.0, solid.box)
        + 25 * scene.noise(14.0, solid.box)
    )
    scene.paint(solid, hu["cortex"], label)
    scene.paint(solid, cancellous, offset=cortex)
    scene.claim(solid)


def _spine(scene, hu) -> None:
    """Vertebrae with canal, pedicles, laminae and processes; discs between them; the cord or the cauda in the canal."""
    discs = scene.solid(ellipse((0, -17.5), (25, 18), 2.3), (-30, -40, -140), (30, 5, 400))
    scene.paint(discs, hu["disc"] + 8 * scene.noise(9.0, discs.box))
    scene.claim(discs)
    canal = scene.solid(ellipse((0, -46), (11.5, 9.0)), (-14, -60, -400), (14, -34, 400))
    for label, height in VERTEBRAE.items():
        size = 0.78 + 0.22 * np.clip((140 - height) / 170, 0, 1)  # thoracic vertebrae are smaller
        slope = -14 if height < 90 else -24  # the spinous process points down, more so in the chest

        def body(x, y, z, h=height, s=size):
            waist = 2.2 * (1 - np.minimum(((z - h) / 12.0) ** 2, 1))
            round_body = ellipse((0, -17.5 * s), (24 * s, 17 * s), 2.3)(x, y, z) + waist
            return smooth_max(round_body, np.abs(z - h) - 13.5 * s, 4.0)

        def arch(x, y, z, h=height, s=size, slope=slope):
            ring = np.sqrt((x / 1.25) ** 2 + (y + 46) ** 2)
            lamina = np.maximum(np.abs(ring - 11.5) - 1.9, np.maximum(np.abs(z - h + 5) - 8, y + 44))
            pedicle = np.maximum(
                np.maximum(np.abs(np.abs(x) - 14.5 * s) - 3.6 * s, np.abs(z - h - 4) - 6), np.abs(y + 38) - 10
            )
            down = h + slope * np.clip((-58 - y) / 30, 0, 1.4)
            spine = np.maximum(
                np.maximum(np.abs(x) - 2.8 - 0.05 * np.abs(y + 58), np.abs(z - down) - 8), np.abs(y + 73) - 17
            )
            facet = np.sqrt((np.abs(x) - 18 * s) ** 2 + (y + 53) ** 2 + ((z - h + 10) * 0.6) ** 2) - 6.0 * s
            transverse = np.sqrt((y + 50 + 0.22 * (np.abs(x) - 15)) ** 2 + ((z - h) * 0.8) ** 2) - 3.4
            transverse = np.maximum(np.maximum(transverse, np.abs(x) - (40 * s if h < 60 else 30)), 15 - np.abs(x))
            return reduce(lambda a, b: smooth_min(a, b, 3.0), (lamina, pedicle, spine, facet, transverse))

        for distance, lo, hi in (
            (body, (-28, -38, height - 16), (28, 4, height + 16)),
            (arch, (-46, -95, height - 36), (46, -26, height + 24)),
        ):
            solid = scene.solid(distance, lo, hi)
            if solid is not None:
                solid.d += np.float32(0.5) * scene.noise(9.0, solid.box)
                marrow = hu["marrow"] if distance is body else hu["cortex"] * 0.55
                _bone(scene, solid, hu, label, 1.3 if distance is body else 2.0, marrow)
    scene.paint(canal, hu["fat"] + 60)
    scene.paint(canal, hu["cord"], CORD, offset=2.0)
    scene.claim(canal)


def _ribs(scene, habitus, hu) -> None:
    """Ribs 7 to 12 in the chest wall, sloping down to the front, and the cartilage that joins the upper ones."""
    a, b = habitus.width + habitus.wall * 0.45, habitus.depth + habitus.wall * 0.45
    for side in (-1, 1):
        for number, height in RIBS.items():
            end = {12: -22, 11: 5}.get(number, 38)  # degrees from the side towards the front, where the bone ends
            turn = np.radians(np.linspace(-66, end, 14))
            x, y = a * np.cos(turn) ** 0.83, habitus.middle + b * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** 0.83
            fall = np.linspace(0.12, 1, 14) * {12: 50, 11: 75, 10: 95, 9: 105, 8: 105, 7: 100}[number]
            start = [(20, -42, height + 7), (32, -52, height), (46, -62, height - 10)]
            points = np.r_[start, np.c_[x, y, height - 5 - fall]] * (side, 1, 1)
            rib = scene.tube(points, 4.3, margin=4, scale=(1.0, 1.0, 0.68), step=5.0)
            if rib is not None:
                _bone(scene, rib, hu, (91 if side < 0 else 103) + number, 1.8, hu["marrow"] * 1.1)
            if number <= 10:  # cartilage climbs from the rib's end to the breastbone
                last = points[-1]
                goal = np.array([side * 12, habitus.middle + b - 1, max(105.0, last[2] + 30)])
                bow = (last + goal) / 2 + (side * 12, 9, -16)
                cartilage = scene.tube([last, bow, goal], 6.5, margin=3, scale=(1.0, 1.3, 1.0), step=5.0)
                if cartilage is not None:
                    scene.paint(cartilage, hu["cartilage"] + 25 * scene.noise(6.0, cartilage.box), CARTILAGE)
                    scene.claim(cartilage)


def _pelvis(scene, habitus, hu, skin) -> None:
    """Top of the sacrum and the iliac wings with their muscles, where the scan reaches so low."""
    sacrum = scene.solid(
        lambda x, y, z: ellipsoid((0, -42, -165), (62, 26, 42), (-25, 0, 0), 2.6)(x, y, z),
        (-64, -80, -215),
        (64, -5, -118),
    )
    if sacrum is not None:
        _bone(scene, sacrum, hu, SACRUM)
    for side in (-1, 1):

        def wing(x, y, z, s=side):
            along = np.clip((s * x - 52) / 78, 0, 1.3)  # from the sacrum outwards and forwards
            sheet = (y + 74 - 88 * along**1.2) * 0.66 - (s * x - 52 - 78 * along) * 0.5
            crest = z + 92 + 55 * (along - 0.55) ** 2 * 2.2
            return smooth_max(
                np.maximum(np.abs(sheet) - 4.5 - 3 * (along < 0.15), crest), np.abs(along - 0.6) * 78 - 54, 6.0
            )

        solid = scene.solid(wing, (min(52 * side, 150 * side), -90, -400), (max(52 * side, 150 * side), 60, -80))
        if solid is None:
            continue
        muscle = Solid(solid.box, solid.d - 13)
        limit = skin[solid.box] + 4 + 0.5 * habitus.fat
        muscle.d = np.maximum(muscle.d, np.maximum(limit, scene.xyz[2][solid.box] + 96))
        scene.paint(muscle, hu["muscle"] + 5 * scene.noise(10.0, solid.box))
        scene.claim(muscle)
        _bone(scene, solid, hu, HIP_LEFT if side < 0 else HIP_RIGHT, 2.0)


def _chest(scene, habitus, hu, dome) -> None:
    """Heart, oesophagus and lungs above the diaphragm."""
    x, y, z = scene.xyz
    depth = habitus.middle
    heart = scene.solid(
        ellipsoid((-22, depth + 22, habitus.dome_left + 42), (62, 46, 42), (0, 20, -25)),
        (-90, -60, 100),
        (60, 130, 260),
    )
    if heart is not None:
        heart.d = smooth_max(heart.d, dome[heart.box] + 3, 8.0)
        heart = scene.fit(heart, 3.0)
        scene.paint(heart, hu["blood"] + 8 * scene.noise(30.0, heart.box), HEART)
        scene.claim(heart, 1.5)
    gullet = scene.tube(
        [(-2, 16, 230), (-6, 18, 160), (-14, 24, 122), (-30, 24, 104), (-52, 18, 96)],
        [9, 9, 8, 7, 7],
        scale=(1.0, 1.25, 1.0),
    )
    if gullet is not None:
        scene.paint(gullet, hu["bowel_wall"] - 15, ESOPHAGUS)
        scene.claim(gullet)
    lung = Solid(
        box_of(scene.shape), np.maximum(np.maximum(dome + 2, 3 - scene.free), 7 - np.abs(x - 2))
    )
    vessels = np.clip(scene.noise(9.0) * 1.6 - 2.4, 0, 1) + np.clip(scene.noise(4.0) * 1.2 - 2.4, 0, 0.6)
    scene.paint(lung, hu["lung"] + 25 * scene.noise(20.0) + 650 * vessels)
    for side in (-1, 1):
        mine = (lung.d < 0) & (np.sign(x) == side)
        lower = y < depth + 5 + 0.4 * (z - 120)
        scene.label[mine & lower] = LUNG_LOWER[side]
        scene.label[mine & ~lower] = LUNG_FRONT[side]
