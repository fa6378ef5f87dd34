"""Synthesis in place: lymph nodes made or removed in a full CT, on its own grid.

Run time depends on the nodes, not on the size of the CT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from ..conditions.encode import unscale_hu
from ..generators.protocol import Generator
from ..images.boxes import grow, size_mm, union, within
from ..images.canvas import Canvas
from ..images.volume import Volume, canonical_view, resample_to
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress, ignore
from ..runtime.seeds import derive, rng
from .composite import Composite, blend, grain, replace
from .patches import LEAST_CONTEXT_MM, Grid, covered, groups, patch_grid, patch_shape
from .scene import Nodes, Patch, Scene, Seen


@dataclass(frozen=True)
class InsertSettings:
    seed: int = 0
    sampler: str = "dpmpp"
    steps: int = 25
    composite: Composite = "residual"
    margin_mm: float = 6.0    # around a node the CT is regenerated, fading into the CT's own
    context_mm: float = 24.0  # of the CT around a node the generator sees, where its patch has room

    def __post_init__(self):
        if not 0 < self.margin_mm <= LEAST_CONTEXT_MM - 2 or self.context_mm < LEAST_CONTEXT_MM:
            raise LNSynthError(f"A margin of {self.margin_mm:g} mm and a context of {self.context_mm:g} mm do not go "
                               f"together; choose a margin up to {LEAST_CONTEXT_MM - 2:g} mm and a context from "
                               f"{LEAST_CONTEXT_MM:g} mm.")


@dataclass(eq=False)
class Inserted:
    """ct: the CT given, with the changed voxels; patches: what was done, one JSON-ready dictionary a patch."""

    ct: Volume
    patches: list[dict] = field(default_factory=list)


def insert(ct: Volume, nodes: Volume | Nodes, generator: Generator, settings: InsertSettings, *,
           anatomy: Volume | None = None, anatomy_version: int = 2, only: Sequence[int] | None = None,
           remove: bool = False, scaling: tuple[float, float] = (1.0, 0.0), device="cpu", seen: Seen | None = None,
           name: str = "The node mask", callback: Callback = ignore) -> Inserted:
    """Makes the nodes of a mask appear in a CT, or disappear from it; every other voxel keeps its stored bits.

    ct        any type, orientation, spacing and obliquity; HU = scaling[0] * voxel + scaling[1]
    nodes     node mask on the CT's grid: instances, or one value whose connected components are the instances; or
              instances that are known already, of the canonical CT
    anatomy   TotalSegmentator ids of `anatomy_version` on the CT's grid; None leaves the organs out of the condition
    only      numbers of the instances to make or remove, as in the mask (or 1..n in the order of `instances`, where
              it has one value); the others are taken to be in the CT already and stay. None means all
    remove    True: fill the nodes with what the generator expects there without them
    seen      of an earlier look at this CT, before it was changed; None: the CT given is looked at
    name      what errors call the mask

    Nodes near each other share a patch; patches are done one after the other, each seeing those before. Voxels change
    within settings.margin_mm of the chosen nodes and nowhere else, and not in nodes that stay. Raises LNSynthError for
    an empty mask, an unknown node or one outside the body, and a margin that the generator's voxels are too large for.
    """
    if settings.margin_mm <= generator.form.spacing_mm:
        raise LNSynthError(f"A margin of {settings.margin_mm:g} mm is too narrow for this generator's voxels of "
                           f"{generator.form.spacing_mm:g} mm; choose a wider margin, up to "
                           f"{LEAST_CONTEXT_MM - 2:g} mm.")
    known = nodes if isinstance(nodes, Nodes) else Nodes.of(canonical_view(nodes), region_margin(settings, ct))
    chosen = _chosen(known.boxes, only)
    present = set(known.boxes) if remove else set(known.boxes) - chosen
    result = Volume(ct.array.copy(order="K"), ct.affine)
    scene = Scene.of(Canvas(canonical_view(result), *scaling),
                     canonical_view(anatomy) if anatomy is not None else None, anatomy_version, known,
                     set(known.boxes) - chosen, present, generator.form, seen)
    for i in sorted(chosen):
        share = scene.seen.survey.share_inside(known.points_mm(i))
        if share < 0.5:
            raise LNSynthError(f"{name}: only {share:.0%} of node {i} lies in the body; move it into the patient, or "
                               "leave it out.")
    plan = groups({i: known.boxes[i] for i in chosen}, scene.ct.spacing, scene.form, generator.stride,
                  settings.context_mm)
    inserted = Inserted(result)
    with Progress("removing nodes" if remove else "inserting nodes", len(plan) * settings.steps, callback) as progress:
        for ids in plan:
            present = present - set(ids) if remove else present | set(ids)
            box = union([known.boxes[i] for i in ids])
            shape = patch_shape(size_mm(box, scene.ct.spacing), scene.form, generator.stride, settings.context_mm)
            grid = patch_grid(scene.ct.affine, scene.ct.shape, box, scene.form.spacing_mm, shape)
            patch = scene.patch(grid, ids, present, settings.margin_mm)
            seed = derive(settings.seed, "insert", *ids)
            made = generator.sample(
                patch.condition.to(device), seeds=[seed], steps=settings.steps, sampler=settings.sampler,
                known=patch.known.to(device), keep=patch.keep.to(device), callback=lambda *_: progress.step())
            record = _paint(scene, grid, patch, made.float().cpu().numpy()[0, 0], ids, seed, settings)
            inserted.patches.append({"nodes": ids, "seed": seed, **record})
    return inserted


def region_margin(settings: InsertSettings, ct: Volume) -> float:
    """Around the nodes (mm): room for the margin and for the voxels that a box grown by it is rounded up to."""
    return settings.margin_mm + 2 * max(ct.spacing)


def _chosen(known, only) -> set[int]:
    if only is None:
        return set(known)
    if unknown := sorted(set(only) - set(known)):
        raise LNSynthError(f"The mask has no node {unknown[0]}; it has {', '.join(map(str, known))}.")
    return set(only)


def _paint(scene: Scene, grid: Grid, patch: Patch, made: np.ndarray, ids: list[int], seed: int,
           settings: InsertSettings) -> dict:
    """Puts the sampled patch into the CT around its nodes; returns what a record says about it."""
    ct, form = scene.ct, scene.form
    box = grow(union([scene.nodes.boxes[i] for i in ids]), settings.margin_mm, ct.spacing, ct.shape)
    nodes = scene.nodes.mask(ids, box)
    distance = ndimage.distance_transform_edt(~nodes, sampling=ct.spacing)
    # The patch on the CT's grid, with room for a calm place that shows its noise, as far as the patch holds data.
    around = covered(grow(box, settings.context_mm / 2, ct.spacing, ct.shape), ct.affine, grid)
    around = union([box, around])
    wide = ct.hu(around)
    known, new = (resample_to(Volume(unscale_hu(a, form.window), grid.affine), wide.affine, wide.shape, order=3,
                              cval=form.window[0]).array for a in (patch.known.numpy()[0, 0], made))
    place = within(box, around)
    native = wide.array[place]
    if settings.composite == "replace":
        result = replace(native, new[place], distance, settings.margin_mm)
    else:
        noise = grain(wide.array, known, native.shape, form.window, ct.spacing, rng(seed, "grain"))
        result = blend(native, known[place], new[place], distance, noise, settings.margin_mm, form.spacing_mm,
                       form.window)
    ct.paint(box, result, (distance < settings.margin_mm) & ~scene.nodes.mask(scene.stay, box))
    after = ct.hu(box).array
    return {
        "patch": {"affine": grid.affine.tolist(), "shape": list(grid.shape)},
        "box": [[b.start, b.stop] for b in box],  # of the canonical (RAS-ordered) CT
        "voxels_changed": int((after != native).sum()),
        "mean_hu_before": float(native[nodes].mean()),
        "mean_hu_after": float(after[nodes].mean()),
    }
