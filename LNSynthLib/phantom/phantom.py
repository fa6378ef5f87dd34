"""The phantom: a procedural abdomen with its CT, anatomy and lymph nodes, different for each seed.

It is drawn, not measured: it contains no patient's image. The demo, tests and benchmarks use it where there is no
other data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from ..cases.dataset import Case, Dataset
from ..cases.splits import PAPER, split_in_turn
from ..images.volume import Volume
from ..runtime import seeds
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress, ignore
from ..runtime.processes import WorkerDied, each
from .body import Habitus, draw_frame
from .gut import draw_colon, draw_small_bowel
from .nodes import draw_nodes
from .organs import draw_organs
from .scene import Scene

# Mean HU by contrast phase (native, arterial, portal venous), and the spread between persons
HU = {
    "fat": (-106, -106, -104, 5),
    "skin": (20, 30, 35, 8),
    "muscle": (52, 56, 62, 5),
    "disc": (75, 78, 80, 8),
    "cortex": (620, 620, 620, 80),
    "marrow": (170, 175, 185, 35),
    "cartilage": (90, 90, 95, 12),
    "cord": (32, 34, 36, 4),
    "lung": (-850, -845, -840, 20),
    "blood": (42, 220, 145, 10),
    "aorta": (42, 300, 148, 14),
    "cava": (40, 95, 135, 12),
    "portal": (42, 115, 165, 14),
    "hepatic_vein": (46, 70, 158, 12),
    "liver_portal": (46, 90, 165, 12),
    "liver": (58, 68, 112, 10),
    "spleen": (48, 122, 122, 10),
    "spleen_stripes": (0, 16, 1, 0.5),
    "cortex_kidney": (33, 178, 195, 14),
    "medulla": (29, 85, 168, 12),
    "pelvis": (8, 8, 12, 5),
    "pancreas": (42, 105, 98, 10),
    "adrenal": (24, 68, 74, 8),
    "bile": (8, 8, 10, 5),
    "bowel_wall": (40, 78, 86, 8),
    "node": (40, 68, 88, 11),
}
PARTS = 27  # of the drawing of one phantom, for its progress
PHASES = {"native": 0.15, "arterial": 0.2, "portal venous": 0.65}  # and how often each is drawn


@dataclass(frozen=True)
class Phantom:
    """One drawn abdomen, all on one grid.

    ct       HU, int16
    anatomy  TotalSegmentator v2 `total` ids, uint8, 0 where nothing
    nodes    instances 1..n, uint16, 0 background
    phase    native, arterial or portal venous
    """

    ct: Volume
    anatomy: Volume
    nodes: Volume
    phase: str
    seed: int


def phantom(seed: int, spacing: float | Sequence[float] = 1.0, nodes: int | None = None,
            step: Callable[[], None] = lambda: None) -> Phantom:
    """Draws the abdomen that belongs to `seed`.

    spacing  voxel size in mm, one number or three
    nodes    how many lymph nodes (1 to 10 at random where None); fewer only if there is no room left
    step     called after each of the PARTS parts of the drawing

    The same seed and spacing give the same arrays; another spacing gives another person.
    """
    sides = np.broadcast_to(np.asarray(spacing, float), 3)
    rng = seeds.rng(seed, "phantom")
    phase = str(rng.choice(list(PHASES), p=list(PHASES.values())))
    hu = draw_hu(rng, phase)
    habitus = Habitus.draw(rng)
    half_width = habitus.width + habitus.wall + habitus.fat + 22
    bottom, top = rng.uniform(-150, -95), rng.uniform(135, 170)
    back = habitus.back - habitus.wall - 1.5 * habitus.fat - 45
    scene = Scene(
        rng,
        (-half_width, back, bottom),
        (half_width, habitus.back + 2 * habitus.depth + habitus.wall + habitus.fat + 18, top),
        sides,
        step=step,
    )
    draw_frame(scene, habitus, hu)
    draw_organs(scene, habitus, hu)
    count = int(nodes if nodes is not None else np.clip(rng.lognormal(np.log(4.5), 0.6), 1, 10))
    instances = draw_nodes(scene, hu, count)
    step()
    draw_colon(scene, habitus, hu)
    step()
    draw_small_bowel(scene, habitus, hu)
    step()
    draw_table(scene)
    step()
    ct = scan(scene)
    step()
    return Phantom(
        Volume(ct, scene.affine), Volume(scene.label, scene.affine), Volume(instances, scene.affine), phase, seed
    )


def phantom_dataset(
    folder: Path,
    cases: int,
    seed: int,
    spacing: float | Sequence[float] = 1.0,
    nodes: int | None = None,
    workers: int = 0,
    callback: Callback = ignore,
    shares: tuple = PAPER,
) -> Dataset:
    """Writes (or completes) a data set of `cases` phantoms, kind "phantom".

    shares  of train, val and test, in any unit: the first three phantoms are one of each, later ones keep the shares

    Case i depends on `seed` and i alone, whatever the number of workers (0: this process), its split on i and the
    shares. Cases that are there stay. Raises LNSynthError where the folder holds another kind of data set.
    """
    note = "Procedural phantoms drawn by LNSynth: no patient's image. SYNTHETIC."
    dataset = Dataset.open_or_create(folder, kind="phantom", note=note)
    there = {e["id"] for e in dataset.cases()}
    numbers = [i for i in range(cases) if _case_id(seed, i) not in there]
    orders = [(i, seeds.derive(seed, "phantom case", i), spacing, nodes) for i in numbers]
    splits = split_in_turn(cases, shares)
    parts = len(numbers) * (PARTS + 1)  # and its writing
    with Progress("drawing phantoms", parts, callback) as progress, closing(
            each(_draw if workers > 0 else partial(_draw, step=progress.step), orders, workers)) as made:
        for (i, *_), drawn in made:
            if isinstance(drawn, WorkerDied):
                raise LNSynthError(f"{folder}: {drawn} while it drew {_case_id(seed, i)}, probably for want of memory; "
                                   "use fewer workers or a coarser --spacing.")
            if workers > 0:
                progress.step(PARTS)
            entry = {
                "split": splits[i],
                "source": "LNSynth phantom",
                "anatomy_version": 2,
                "phase": drawn.phase,
                "seed": drawn.seed,
            }
            dataset.add(Case(_case_id(seed, i), drawn.ct, drawn.nodes, drawn.anatomy, entry))
            progress.step(message=f"{_case_id(seed, i)}: {drawn.phase}, {int(drawn.nodes.array.max())} nodes")
    return dataset


def _case_id(seed: int, number: int) -> str:
    return f"phantom-{seed}-{number:04d}"


def _draw(order: tuple, step: Callable[[], None] = lambda: None) -> Phantom:
    _number, seed, spacing, nodes = order
    return phantom(seed, spacing, nodes, step)


def draw_hu(rng: np.random.Generator, phase: str) -> dict[str, float]:
    """One person's mean HU of each tissue in a contrast phase; "oral" is what fills the bowel (fluid or contrast)."""
    column = list(PHASES).index(phase)
    timing = rng.normal(1, 0.07 if phase != "native" else 0.0)  # early or late: all enhancement moves together
    drawn = {name: row[0] + (row[column] - row[0]) * timing + row[3] * rng.normal() for name, row in HU.items()}
    drawn["oral"] = float(rng.uniform(160, 380)) if rng.random() < 0.3 else 20.0
    return {name: float(value) for name, value in drawn.items()}


def draw_table(scene: Scene) -> None:
    """The scanner's table: a thin curved shell filled with foam, some air below the skin."""
    x, y = (scene.lo[a] + scene.spacing[a] * np.arange(scene.shape[a]) for a in (0, 1))
    skin = y[np.nonzero((scene.hu > -400).any(axis=(0, 2)))[0][0]]
    surface = skin - scene.rng.uniform(3, 7) + x[:, None] ** 2 / scene.rng.uniform(900, 1600)
    depth = surface - y[None, :]  # mm below it
    shell, foam = np.maximum(-depth, depth - 22), np.maximum(3.0 - depth, depth - 19)
    air = scene.hu < -500
    for d, level in ((shell, 300.0), (foam, -930.0)):
        cover = np.clip(0.5 - d / scene.voxel, 0, 1).astype(np.float32)[:, :, None]
        scene.hu += np.where(air, cover * (level - scene.hu), 0)


def scan(scene: Scene) -> np.ndarray:
    """What a scanner makes of the scene: blur by its PSF and slice profile, and grainy noise, strongest in the middle.

    Returns whole HU, int16, -1024..3071. The noise has a std of about 8 to 25 HU, median 13, in the middle of the body.
    """
    rng = scene.rng
    blur = np.array([1.0, 1.0, rng.uniform(0.9, 1.8)]) * rng.uniform(0.55, 0.85)  # std in mm
    hu = gaussian_filter(scene.hu, blur / scene.spacing, mode="nearest")
    scene.step()
    white = rng.standard_normal(scene.shape, np.float32)
    # Reconstruction kernels pass a band: fine grain without slow waves.
    grain = np.array([0.75, 0.75, 0.5]) / scene.spacing
    noise = gaussian_filter(white, grain) - 0.75 * gaussian_filter(white, 2.5 * grain)
    noise *= np.exp(rng.normal(np.log(13), 0.28)).clip(8, 25) / noise.std()
    x, y, _ = (scene.lo[a] + scene.spacing[a] * np.arange(scene.shape[a]) for a in range(3))
    radial = (x[:, None] / 150) ** 2 + ((y[None, :] - 16) / 110) ** 2
    noise *= (0.55 + 0.6 * np.exp(-radial)).astype(np.float32)[:, :, None]
    return np.clip(np.rint(hu + noise), -1024, 3071).astype(np.int16)
