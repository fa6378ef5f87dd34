"""Edits of lymph nodes, each one undo step: change one at random, remove it, add one at a point or from a job's mask.

Each computes first on a crop around the node, then calls `save_state` once, then writes; what does not fit is an
LNSynthError and changes nothing. Masks never cover an organ, bone, gas, another node or the outside of the patient.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from LNSynthLib.images.boxes import box_at
from LNSynthLib.runtime.errors import LNSynthError

from . import nodes_in_ct, segments
from .anatomy import labels as organ_labels
from .grids import affine_of, shape_of, to_world
from .surroundings import Surroundings, around, label_table, tissue_name
from .volumes import check_transform
from .words import _

FREE, TAKEN = 1, 0    # body and air of every label table: all that the library has to know about a place
LARGEST_MM = 60.0     # a new node is no longer than this
REACH_MM = 5.0        # a new node gives way by this much where it was to go


def vary(segmentation, segment_id: str, ct, anatomy, kind: str, rng: np.random.Generator, save_state) -> str:
    """Changes one node at random ("affine" or "elastic") and says how."""
    from LNSynthLib.conditions.transforms import VarySettings, vary_one
    from LNSynthLib.images.boxes import grow

    check_transform(ct)
    name = name_of(segmentation, segment_id)
    start, mask = crop_of(segmentation, segment_id, ct)
    settings = VarySettings(elastic={"affine": 0.0, "elastic": 1.0}[kind])
    spacing = np.linalg.norm(affine_of(ct)[:3, :3], axis=0)
    reach = settings.translation_mm + np.linalg.norm(mask.shape * spacing) / 4 + 5
    box = grow(box_at(start, mask.shape), reach, spacing, shape_of(ct))
    place = around(segmentation, ct, anatomy, box, without=segment_id)
    upright, first = place.canonical(mask), _canonical_start(place, start, mask.shape)
    changed, at, record = vary_one(upright, first, place.canonical(place.nodes), _labels(place),
                                   place.canonical_spacing, rng, settings, label_table())
    if record["operation"] == "unchanged":
        raise LNSynthError(_refused(segmentation, name, place, start, mask, record["tries"]))
    moved = np.linalg.norm((np.argwhere(changed).mean(0) + at - np.argwhere(upright).mean(0) - first)
                           * place.canonical_spacing)
    save_state()
    segments.set_node(segmentation, segment_id, ct, *place.back(at, changed))
    voxel_ml = spacing.prod() / 1000
    said = {"affine": _("{name} changed by a random affine map: moved by {mm:.1f} mm, {before:.2f} to {after:.2f} mL."),
            "elastic": _("{name} changed elastically at random: moved by {mm:.1f} mm, {before:.2f} to {after:.2f} mL.")}
    return said[kind].format(name=name, mm=moved, before=mask.sum() * voxel_ml,
                             after=changed.sum() * voxel_ml) + _caveat(place)


def remove(segmentation, segment_id: str, save_state) -> str:
    """Takes one node away."""
    name = name_of(segmentation, segment_id)
    save_state()
    segments.remove_node(segmentation, segment_id)
    return _("{name} removed.").format(name=name)


def add_at(segmentation, ct, anatomy, point_mm, short_axis_mm: float | None, rng: np.random.Generator,
           save_state) -> str:
    """Adds a node at a point (world RAS mm) or a few mm beside it; short_axis_mm None: as real nodes are.

    The new node is the last segment.
    """
    from LNSynthLib.conditions.placement import place as put
    from LNSynthLib.conditions.shape_prior import ShapePrior
    from LNSynthLib.images.boxes import grow

    check_transform(ct)
    shape, affine = shape_of(ct), affine_of(ct)
    index = np.rint((np.linalg.inv(to_world(ct) @ affine) @ [*point_mm, 1.0])[:3]).astype(int)
    if (index < 0).any() or (index >= shape).any():
        raise LNSynthError(_("The crosshair lies outside the CT; move it to where the node should be."))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    reach = min(LARGEST_MM, 2.0 * short_axis_mm if short_axis_mm else LARGEST_MM) / 2 + REACH_MM + 5
    place = around(segmentation, ct, anatomy, grow(tuple(slice(i, i + 1) for i in index), reach, spacing, shape))
    placed = put(place.canonical_index(index), place.canonical(place.nodes), _labels(place), place.canonical_spacing,
                 label_table(), rng, ShapePrior.load(), short_axis_mm, REACH_MM)
    if placed is None:
        raise LNSynthError(_no_room(segmentation, place, index))
    mask, at, moved = placed
    save_state()
    segment_id = segments.add_node(segmentation, ct, *place.back(at, mask))
    said = _("{name} added at the crosshair.") if moved == 0 else _("{name} added {mm:.0f} mm beside the crosshair, "
                                                                   "where there was room.")
    return said.format(name=name_of(segmentation, segment_id), mm=moved) + _caveat(place)


def crosshair(scene) -> tuple[float, float, float]:
    """Where the crosshair is (world RAS mm). LNSynthError in a scene that has none."""
    node = scene.GetSingletonNode("default", "vtkMRMLCrosshairNode")
    if node is None:
        raise LNSynthError(_("There is no crosshair; open a slice view and move it there with Shift and the mouse."))
    return tuple(node.GetCrosshairRAS())


def write_organs(anatomy, ct, path: Path) -> None:
    """Writes the organs as TotalSegmentator ids on the CT's whole grid, for a job."""
    from LNSynthLib.images.volume import Volume, write

    write(path, Volume(organ_labels(anatomy, ct), affine_of(ct)))


def plausible_arguments(ct: Path, anatomy: Path, nodes: Path | None, out: Path, short_axis_mm: float | None,
                        seed: int) -> list[str]:
    """`lnsynth nodes` with these arguments adds one node where nodes lie; `out` is an uncompressed .nii."""
    arguments = ["--ct", str(ct), "--anatomy", str(anatomy), "--add", "1", "--seed", str(seed), "--out", str(out)]
    if nodes is not None:
        arguments += ["--nodes", str(nodes)]
    return arguments + (["--short-axis", str(short_axis_mm)] if short_axis_mm else [])


def vary_arguments(ct: Path, anatomy: Path, nodes: Path, out: Path, count: int, seed: int) -> list[str]:
    """`lnsynth nodes` with these arguments writes `count` masks with every node changed at random."""
    return ["--ct", str(ct), "--anatomy", str(anatomy), "--nodes", str(nodes), "--vary", str(count),
            "--seed", str(seed), "--out", str(out)]


def add_from_job(segmentation, ct, result: dict, save_state) -> str:
    """The node that a job with `plausible_arguments` has found becomes a segment. LNSynthError where it found none."""
    outcome = result["results"][0]
    added = [change for change in outcome["changes"] if change.get("operation") == "added" and change.get("placed")]
    if not added:
        raise LNSynthError(_("No room for a new node was found; try another size, or put one at the crosshair."))
    start, mask = next(_crop_in_file(Path(result["out"][0]), node) for node in outcome["nodes"]
                       if node["id"] == added[0]["id"])
    box = box_at(start, mask.shape)
    if around(segmentation, ct, None, box).covered(start, mask)[1]:
        raise LNSynthError(_("Another node was drawn meanwhile where the new one was to be; look for a place again."))
    save_state()
    segment_id = segments.add_node(segmentation, ct, start, mask)
    return _("{name} added ({station}, short axis {mm:.1f} mm).").format(
        name=name_of(segmentation, segment_id), station=added[0]["station"], mm=added[0]["short_axis_mm"])


def variants_from_job(scene, segmentation, ct, ids: dict[int, str], result: dict) -> list:
    """The masks of a job with `vary_arguments` as segmentations "<name> variant i", all but the first hidden.

    ids: {value in the job's mask: segment id in `segmentation`}, whose names the nodes keep; a node that is as it was
    is in the CT as it was. Each refers to the nodes in the CT (`nodes_in_ct`) as `segmentation` does.
    Returns the new segmentation nodes.
    """
    made, kept = [], nodes_in_ct.kept_of(segmentation)
    for number, (path, outcome) in enumerate(zip(result["out"], result["results"], strict=True), start=1):
        name = _("{name} variant {number}").format(name=segmentation.GetName(), number=number)
        variant = segments.new_segmentation(scene, ct, name)
        for node in outcome["nodes"]:
            start, mask = _crop_in_file(Path(path), node)
            known = ids.get(node["id"])
            known = known if known in segments.node_ids(segmentation) else None
            segments.add_node(variant, ct, start, mask, name=name_of(segmentation, known) if known else None)
        if kept is not None:
            nodes_in_ct.keep(variant, ct, of=kept)
        variant.GetDisplayNode().SetVisibility(number == 1)
        made.append(variant)
    return made


def name_of(segmentation, segment_id: str) -> str:
    """The node's name. LNSynthError where there is no such node (any more)."""
    segment = segmentation.GetSegmentation().GetSegment(segment_id) if segment_id else None
    if segment is None:
        raise LNSynthError(_("No node is selected; choose one in the table."))
    return segment.GetName()


def crop_of(segmentation, segment_id: str, ct) -> tuple[tuple, np.ndarray]:
    """`segments.node_crop` of a node that must have voxels in the CT, else LNSynthError."""
    start, mask = segments.node_crop(segmentation, segment_id, ct)
    if not mask.any():
        raise LNSynthError(_("{name} has no voxels in the CT; draw it with the editor below, or remove it.").format(
            name=name_of(segmentation, segment_id)))
    return start, mask


def listed(segmentation, place_covered) -> str:
    """In words what `Surroundings.covered` found."""
    organs, nodes, outside = place_covered
    found = [name for name, _count in organs] + [name_of(segmentation, node) for node, _count in nodes]
    return ", ".join([*found, *([_("the outside of the patient")] if outside else [])])


def _labels(place: Surroundings) -> np.ndarray:
    return np.where(place.canonical(place.tissue) == 0, FREE, TAKEN).astype(np.uint8)


def _canonical_start(place: Surroundings, start, shape) -> np.ndarray:
    ends = (place.canonical_index(start), place.canonical_index(np.add(start, shape) - 1))
    return np.minimum(*ends)


def _caveat(place: Surroundings) -> str:
    return "" if place.organs_known else " " + _("Without an anatomy, organs are unknown: only bone, gas and the "
                                                  "outside were kept clear.")


def _refused(segmentation, name: str, place: Surroundings, start, mask, tries: int) -> str:
    already = listed(segmentation, place.covered(start, mask))
    if already:
        return _("{name} stays as it was: it already overlaps {what}; move it with the handles first, or draw it "
                 "again.").format(name=name, what=already)
    return _("{name} stays as it was: {tries} random changes met an organ, another node or the outside; try again, or "
             "move it to where there is more room.").format(name=name, tries=tries)


def _no_room(segmentation, place: Surroundings, index) -> str:
    at = tuple(index - [b.start for b in place.box])
    if place.nodes[at]:
        there = name_of(segmentation, place.ids[place.nodes[at] - 1])
    elif place.tissue[at]:
        there = tissue_name(place.tissue[at])
    else:
        return _("There is no room for a node of this size at the crosshair; choose a smaller short axis or another "
                 "place.")
    return _("No node fits here: the crosshair lies in {what}; move it into fat or soft tissue.").format(what=there)


def _crop_in_file(path: Path, node: dict) -> tuple[list[int], np.ndarray]:
    """One node of a mask file: only its box is read."""
    import nibabel

    box = tuple(slice(low, high) for low, high in node["bbox"])
    return [b.start for b in box], np.asarray(nibabel.load(path).dataobj[box]) == node["id"]
