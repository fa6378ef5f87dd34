"""The input step: what there is to say about a CT and its nodes before any work, and the phantom as sample data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LNSynthLib.images.boxes import box_at
from LNSynthLib.runtime.errors import LNSynthError

from . import anatomy, nodes_in_ct, segments, synthetic, volumes
from .grids import affine_of, to_world, voxels
from .jobs.process import library_command
from .words import _

SAMPLED = 200_000             # voxels of a CT that are looked at, whatever its size
THICKEST_MM = 6.0             # half of a median node's long axis: thicker slices do not show its shape
SHORTEST_MM = 30.0            # less than this cannot hold a node and what lies around it
SOFT_TISSUE = (400.0, 40.0)   # window and level, HU
UNSEEN = ("", False)          # for `follow_nodes`, at first
AXES = ((_("left"), _("right")), (_("back"), _("front")), (_("feet"), _("head")))  # of the patient: -, +


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, in words; not ok: what is wrong and what to do."""

    ok: bool
    text: str


def missing(ct) -> str:
    """What the input step still needs; empty where it has all."""
    return "" if ct is not None else _("Choose a CT, or make the sample phantom.")


def first_ct(scene):
    """The first volume of the scene that is an image, and not a synthetic one; None where there is none."""
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode")
        if not (node.IsA("vtkMRMLLabelMapVolumeNode") or node.GetHideFromEditors() or synthetic.is_synthetic(node)):
            return node
    return None


def show_soft_tissue(ct) -> None:
    """A soft tissue window for a CT on which nobody has set one: Slicer's own, from air to bone, shows no node."""
    display = ct.GetDisplayNode()
    if display is not None and display.GetAutoWindowLevel():
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(*SOFT_TISSUE)


def checks(ct) -> list[Check]:
    """What is known about a CT volume node, in words. Looks at a fixed number of voxels, spread over the volume."""
    try:
        volume = volumes.volume_of(ct)
    except LNSynthError as error:
        return [Check(False, str(error))]
    found = [_spacing(volume), _extent(volume), _values(volume, ct.GetName()), _orientation(volume), _transform(ct)]
    if synthetic.is_synthetic(ct):
        found.append(Check(False, _("This CT is synthetic itself; choose the real one for results that are worth a "
                                    "review.")))
    return found


def node_checks(segmentation, ct) -> list[Check]:
    """What is known about a node segmentation beside the CT."""
    count = len(segments.node_ids(segmentation))
    found = [Check(True, {0: _("No lymph node yet: draw one, or add one below."), 1: _("1 lymph node.")}.get(
        count, _("{count} lymph nodes.").format(count=count)))]
    if segmentation.GetParentTransformNode() != ct.GetParentTransformNode():
        try:
            to_world(segmentation)
            found.append(Check(True, _("{name} lies under another transform than the CT, which is taken into account."
                                       ).format(name=segmentation.GetName())))
        except LNSynthError as error:
            found.append(Check(False, str(error)))
            return found
    # While a scene is loaded or closed, the CT's voxels may not be there.
    return found + (_doubts(segmentation, ct) if ct.GetImageData() is not None else [])


def _doubts(segmentation, ct) -> list[Check]:
    """Nodes that cannot be lymph nodes of this CT, by the library's limits: too large, or in air, or dense as bone."""
    from LNSynthLib.masks.plausibility import NodeLimits

    limits = NodeLimits()
    voxel_ml, hu = abs(np.linalg.det(affine_of(ct)[:3, :3])) / 1000, voxels(ct.GetImageData())[1]
    large, odd, kept = [], [], nodes_in_ct.kept_of(segmentation)
    there = nodes_in_ct.crops(kept, ct) if kept is not None else {}
    for segment_id in segments.node_ids(segmentation):
        start, mask = segments.node_crop(segmentation, segment_id, ct)
        if not mask.size:
            continue
        name = segmentation.GetSegmentation().GetSegment(segment_id).GetName()
        if (volume_ml := np.count_nonzero(mask) * voxel_ml) > limits.volume_ml:
            large.append(_("{name} ({ml:.0f} mL)").format(name=name, ml=volume_ml))
        low, high = limits.shown_hu if nodes_in_ct.is_among((start, mask), there) else limits.made_hu
        mean = float(hu[box_at(start, mask.shape)].mean(where=mask))
        if not low <= mean <= high:
            odd.append(_("{name} ({hu:.0f} HU)").format(name=name, hu=mean))
    found = []
    if large:
        found.append(Check(False, _("Too large for a lymph node: {names}. Check that the mask is not of an organ."
                                    ).format(names=", ".join(large))))
    if odd:
        found.append(Check(False, _("The CT shows no lymph node here: {names}. Check that the mask is of this CT "
                                    "and not flipped.").format(names=", ".join(odd))))
    return found


def follow_nodes(parameters, seen: tuple[str, bool]) -> tuple[str, bool]:
    """Keeps "these nodes are in the CT", the copy of them as they were, and the chosen segmentation in step.

    Switched on: the copy is made (`nodes_in_ct.keep`); switched off: it goes. Another segmentation chosen: what was
    said of that one counts. `seen` is what this function returned the last time.
    """
    nodes, in_ct = parameters.nodes, parameters.nodesInCT
    chosen = nodes.GetID() if nodes is not None else ""
    former, was_in_ct = seen
    kept = nodes_in_ct.kept_of(nodes)
    if chosen != former and (was_in_ct or not in_ct):
        in_ct = kept is not None
    elif in_ct and nodes is not None and parameters.ct is not None and kept is None:
        kept = nodes_in_ct.keep(nodes, parameters.ct)
    elif not in_ct and kept is not None:
        nodes_in_ct.forget(nodes)
        kept = None
    if parameters.nodesInCT != in_ct:
        parameters.nodesInCT = in_ct
    if parameters.keptNodes != kept:
        parameters.keptNodes = kept
    return chosen, in_ct


def phantom_command(folder: Path, seed: int) -> list[str]:
    """The job that draws the sample phantom into a new folder."""
    return library_command("phantom", "--out", folder, "--cases", 1, "--seed", seed, "--spacing", 1.5)


def load_phantom(scene, folder: Path):
    """(ct, nodes, anatomy): the first phantom of a data set that `phantom_command` made, as nodes of the scene.

    The CT is called PHANTOM, and shows the nodes (`nodes_in_ct`).
    Raises LNSynthError where the folder holds no phantom.
    """
    from LNSynthLib.cases.dataset import Dataset
    from LNSynthLib.images.volume import description

    dataset = Dataset.open(Path(folder))
    if dataset.kind != "phantom" or not dataset.cases():
        raise LNSynthError(f"{folder}: there is no phantom in this folder; make the sample again.")
    case = dataset.load(dataset.cases()[0]["id"])
    ct = volumes.add_volume(scene, case.ct, _("PHANTOM CT"))
    ct.SetAttribute(synthetic.HEADER, description(dataset.path(dataset.cases()[0]["id"], "ct")))
    show_soft_tissue(ct)
    organs = anatomy.add_anatomy(scene, ct, case.anatomy, _("PHANTOM anatomy"))
    nodes = segments.new_segmentation(scene, ct, _("PHANTOM nodes"))
    segments.add_instances(nodes, ct, case.nodes.array)
    nodes_in_ct.keep(nodes, ct)
    return ct, nodes, organs


def _spacing(volume) -> Check:
    text = _("Voxels of {x:.2f} x {y:.2f} x {z:.2f} mm.").format(**dict(zip("xyz", volume.spacing, strict=True)))
    if max(volume.spacing) > THICKEST_MM:
        return Check(False, text + " " + _("That is too thick for lymph nodes; load a series of {mm:.0f} mm or "
                                           "thinner.").format(mm=THICKEST_MM))
    return Check(True, text)


def _extent(volume) -> Check:
    text = _("{nx} x {ny} x {nz} voxels, {x:.0f} x {y:.0f} x {z:.0f} mm.").format(
        **dict(zip(("nx", "ny", "nz"), volume.shape, strict=True)), **dict(zip("xyz", volume.extent_mm, strict=True)))
    if min(volume.extent_mm) < SHORTEST_MM:
        return Check(False, text + " " + _("A node and its surroundings need {mm:.0f} mm each way; load the whole "
                                           "series.").format(mm=SHORTEST_MM))
    return Check(True, text)


def _values(volume, name: str) -> Check:
    """Whether the values are HU, by the library's own rule on a part of the voxels."""
    from LNSynthLib.images.checks import AIR_HU, check_ct
    from LNSynthLib.images.volume import Volume

    step = max(1, int(np.ceil((volume.array.size / SAMPLED) ** (1 / 3))))
    sample = Volume(volume.array[tuple(slice((n % step) // 2, None, step) for n in volume.shape)], volume.affine)
    try:
        check_ct(sample, name)
    except LNSynthError as error:
        return Check(False, str(error))
    hu = sample.array
    air = np.count_nonzero(hu <= AIR_HU[1]) / hu.size
    return Check(True, _("Values from about {low:.0f} to {high:.0f} HU, {air:.0%} air.").format(
        low=hu.min(), high=hu.max(), air=air))


def _orientation(volume) -> Check:
    directions = volume.affine[:3, :3] / np.array(volume.spacing)
    nearest = np.abs(directions).argmax(axis=0)
    toward = [AXES[axis][int(directions[axis, column] > 0)] for column, axis in enumerate(nearest)]
    text = _("Axes run to {i}, {j} and {k}").format(i=toward[0], j=toward[1], k=toward[2])
    tilt = float(np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0), 0, 1)).max()))
    if tilt > 0.5:
        text += _(", tilted by up to {degrees:.0f} degrees").format(degrees=tilt)
    return Check(True, text + ".")


def _transform(ct) -> Check:
    try:
        volumes.check_transform(ct)
    except LNSynthError as error:
        return Check(False, str(error))
    transform = ct.GetParentTransformNode()
    if transform is None:
        return Check(True, _("No transform."))
    return Check(True, _("Under the transform {name} (rigid): results go under it too.").format(
        name=transform.GetName()))
