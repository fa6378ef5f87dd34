"""The phantom's lymph nodes: sizes as in patients, in the fat where radiologists look for them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .scene import FAR, Scene, Solid, ellipsoid

# Share of the nodes, the curve (mm) they lie along, and how far they stray from it (mm). The places are those of the
# abdominal node stations; their shares are assumed, not measured.
STATIONS = (
    (0.24, ((-26, 12, 40), (-26, 10, 0), (-24, 10, -80)), 6),  # left of the aorta
    (0.12, ((8, 20, 20), (8, 21, -20), (9, 20, -78)), 4),  # between aorta and vena cava
    (0.14, ((36, 16, 15), (36, 12, -30), (32, 10, -80)), 5),  # right of the vena cava
    (0.28, ((4, 46, -12), (2, 58, -40), (6, 62, -85)), 14),  # root of the mesentery
    (0.14, ((36, 44, 28), (28, 46, 20), (14, 50, 26)), 8),  # porta hepatis
    (0.08, ((-12, 42, 30), (-30, 42, 34), (-48, 34, 40)), 7),  # coeliac trunk and splenic artery
)
TRIES = 60  # places tried for a node before it is left out


def node_short_axis(rng: np.random.Generator) -> float:
    """A short axis in mm, distributed as in 557 real abdominal nodes: 8.4, 13.4 and 26.8 mm at 5, 50 and 95 %.

    Log-normal with a width of its own on either side of the median, cut at 6 and 32 mm.
    """
    z = rng.normal()
    return float(np.clip(13.4 * np.exp(z * np.log(26.8 / 13.4 if z > 0 else 13.4 / 8.4) / 1.645), 6.0, 32.0))


def draw_nodes(scene: Scene, hu: dict[str, float], count: int) -> np.ndarray:
    """Paints up to `count` nodes, the largest first, each in one piece; returns instances 1..n, uint16, on the grid."""
    instances = np.zeros(scene.shape, np.uint16)
    for short in sorted((node_short_axis(scene.rng) for _ in range(count)), reverse=True):
        node = _find_room(scene, short)
        if node is not None:
            scene.paint(node, _appearance(scene, node, short, hu["node"]))
            scene.claim(node)
            instances[node.box][node.d < 0] = instances.max() + 1
    return instances


def _find_room(scene: Scene, short: float) -> Solid | None:
    """A bumpy ellipsoid of that short axis at some station, of which its neighbours leave at least three quarters."""
    rng = scene.rng
    shares = np.array([share for share, _, _ in STATIONS])
    for _ in range(TRIES):
        _, path, stray = STATIONS[rng.choice(len(STATIONS), p=shares / shares.sum())]
        at = rng.uniform(0, len(path) - 1)
        along = [np.interp(at, range(len(path)), column) for column in np.transpose(path)]
        centre = np.array(along) + rng.normal(0, stray, 3)
        radii = short / 2 * np.array([1.0, rng.uniform(1.0, 1.35), rng.uniform(1.15, 1.8)])
        reach = radii.max() + 2
        node = scene.solid(ellipsoid(centre, radii, rng.uniform(-180, 180, 3)), centre - reach, centre + reach)
        if node is None:
            continue
        node.d += 0.06 * short * scene.noise(0.7 * short, node.box)
        whole = np.count_nonzero(node.d < 0)
        node = scene.fit(node, 0.8)
        pieces, _ = ndimage.label(node.d < 0)
        sizes = np.bincount(pieces.ravel())[1:]
        if len(sizes) and sizes.max() >= max(0.75 * whole, 8):
            node.d[(pieces != sizes.argmax() + 1) & (node.d < 0)] = FAR
            return node
    return None


def _appearance(scene: Scene, node: Solid, short: float, mean: float) -> np.ndarray:
    """HU over the node's box: a level of its own, slight texture, sometimes a necrotic centre or a fatty hilum."""
    rng = scene.rng
    hu = mean + rng.normal(0, 9) + 5 * scene.noise(max(4.0, short / 2), node.box)
    if short > 18 and rng.random() < 0.4:
        return hu - np.clip((-node.d / (short / 2) - 0.35) * 90, 0, 40)
    if rng.random() < 0.2:
        return hu - 60 * np.clip(1.5 * scene.noise(0.8 * short, node.box) - 1, 0, 1)
    return hu
