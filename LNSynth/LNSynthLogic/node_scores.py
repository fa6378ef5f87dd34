"""A predicted segmentation against a reference, node by node: found, missed and false, as `lnsynth evaluate` counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LNSynthLib.images.boxes import box_at
from LNSynthLib.runtime.errors import LNSynthError

from .grids import affine_of, to_world
from .segments import node_crop, node_ids
from .volumes import check_transform
from .words import _


@dataclass(frozen=True)
class Row:
    """A node of the reference, or a component of the prediction that finds none."""

    verdict: str                           # "found", "missed" or "false"
    name: str                              # of the segment; of a false one, of the segment that most of it lies in
    volume_ml: float
    short_axis_mm: float
    dsc: float | None                      # with the component that fits it best; None for a false one
    center_mm: tuple[float, float, float]  # RAS, world: a voxel of it


@dataclass(frozen=True)
class Comparison:
    rows: tuple[Row, ...]      # nodes of the reference in its order, then the false ones, the largest first
    dsc: float | None          # of all nodes together; None where both are empty
    found_dsc: float           # a node is found where its DSC is above this

    def count(self, verdict: str) -> int:
        return sum(row.verdict == verdict for row in self.rows)

    @property
    def sentence(self) -> str:
        found, missed, false = (self.count(verdict) for verdict in ("found", "missed", "false"))
        if not self.rows:
            return _("Neither segmentation has a node in the CT.")
        if not found + missed:
            return _("The reference has no node in the CT; {false} false positives.").format(false=false)
        return _("{found} of {all} nodes found, {missed} missed, {false} false positives; overall DSC {dsc}.").format(
            found=found, all=found + missed, missed=missed, false=false, dsc=f"{self.dsc:.2f}")


def what_is_missing(ct, prediction, reference) -> str:
    """Why two segmentations (nodes or None) cannot be compared; empty when they can."""
    if ct is None or ct.GetImageData() is None:
        return _("Choose the CT that both segmentations were drawn on (section Input).")
    if prediction is None:
        return _("Choose the prediction.")
    if reference is None:
        return _("Choose a reference to compare it with.")
    if prediction is reference:
        return _("Prediction and reference are the same segmentation: choose two.")
    return ""


def compare(prediction, reference, ct) -> Comparison:
    """Compares two segmentation nodes on a CT's grid, with the rules and default settings of `lnsynth evaluate`.

    Connected voxels of the prediction (all segments taken together) are its components; every segment of the reference
    is a node, and where segments overlap the later one has the voxels. Work is in proportion to the boxes of the
    segments. Raises LNSynthError for a transform that is not rigid.
    """
    from LNSynthLib.evaluation.overlap import Overlap
    from LNSynthLib.evaluation.segmentation import ScoreSettings

    if missing := what_is_missing(ct, prediction, reference):
        raise LNSynthError(missing)
    check_transform(ct)
    settings = ScoreSettings()
    parts = [_Part(side, value, node.GetSegmentation().GetSegment(segment_id).GetName(), *crop)
             for side, node in enumerate((prediction, reference))
             for value, segment_id in enumerate(node_ids(node), start=1)
             if (crop := node_crop(node, segment_id, ct))[1].size]
    nodes, false, counts = [], [], np.zeros(3, int)
    for group in _apart(parts):
        found, surplus, counted = _compare(group, ct, settings)
        nodes += found
        false += surplus
        counts += (counted.both, counted.predicted_only, counted.truth_only)
    nodes.sort(key=lambda pair: pair[0])
    false.sort(key=lambda row: -row.volume_ml)
    return Comparison((*(row for _value, row in nodes), *false), Overlap(*counts.tolist()).dsc, settings.found_dsc)


@dataclass(frozen=True, eq=False)
class _Part:
    """A segment of the prediction (side 0) or the reference (1) as a crop on the CT's grid."""

    side: int
    value: int  # 1, 2, … in its segmentation
    name: str
    start: tuple[int, int, int]
    mask: np.ndarray

    def meets(self, other: _Part) -> bool:
        """Whether a voxel of one box may touch one of the other."""
        return all(a <= d + m and d <= a + n for a, n, d, m in
                   zip(self.start, self.mask.shape, other.start, other.mask.shape, strict=True))


def _apart(parts: list[_Part]) -> list[list[_Part]]:
    """Groups of segments whose boxes do not meet: no component reaches from one into another."""
    groups: list[list[_Part]] = []
    for part in parts:
        met = [group for group in groups if any(part.meets(other) for other in group)]
        groups = [group for group in groups if group not in met] + [[part, *(p for group in met for p in group)]]
    return groups


def _compare(group: list[_Part], ct, settings):
    """([(value, row of a reference's node)], [rows of false components], Overlap) of one group."""
    from LNSynthLib.evaluation.nodewise import components, match
    from LNSynthLib.evaluation.overlap import overlap
    from LNSynthLib.images.volume import Volume, canonical

    low = np.min([part.start for part in group], axis=0)
    shape = np.max([np.add(part.start, part.mask.shape) for part in group], axis=0) - low
    arrays = np.zeros((2, *shape), np.uint16)
    for part in sorted(group, key=lambda part: part.value):
        at = box_at(part.start - low, part.mask.shape)
        arrays[part.side][at][part.mask] = part.value
    affine = affine_of(ct)
    affine[:3, 3] = (affine @ [*low, 1.0])[:3]
    # Slices are axial along the third axis from here on, as short axes are measured.
    predicted, truth = (canonical(Volume(array, affine)) for array in arrays)
    foreground, there = predicted.array > 0, truth.array.astype(np.int32)
    scores, candidates = match(foreground, there, truth.spacing, connectivity=settings.connectivity,
                               found_dsc=settings.found_dsc, strictly=settings.found_strictly,
                               spare_touching=settings.false_positive == "touches_none")
    world = to_world(ct) @ truth.affine
    names = {(part.side, part.value): part.name for part in group}
    nodes = [(score.id, Row("found" if score.found else "missed", names[1, score.id], score.volume_ml,
                            score.short_axis_mm, score.best_dsc, place))
             for score, (_voxels, place) in zip(scores, _pieces(there, world), strict=True)]
    labels, _count = components(foreground, settings.connectivity)
    false = [_false(candidate, voxels, place, predicted.array, names, truth.spacing)
             for candidate, (voxels, place) in zip(candidates, _pieces(labels, world), strict=True)
             if candidate.false_positive]
    return nodes, false, overlap(foreground, there > 0)


def _false(candidate, voxels, place, predicted, names, spacing) -> Row:
    from LNSynthLib.masks.nodes import axes_mm

    most = int(np.bincount(predicted[tuple(voxels.T)]).argmax())
    mask = np.zeros(np.ptp(voxels, axis=0) + 1, bool)
    mask[tuple((voxels - voxels.min(axis=0)).T)] = True
    return Row("false", names[0, most], candidate.volume_ml, axes_mm(mask, np.diag(spacing))[1], None, place)


def _pieces(labels: np.ndarray, world: np.ndarray):
    """Of each value above 0 that occurs: its voxels (N, 3) and, in the world, the one nearest to their middle."""
    from scipy import ndimage

    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            voxels = np.argwhere(labels[box] == value) + [b.start for b in box]
            away = np.linalg.norm((voxels - voxels.mean(axis=0)) @ world[:3, :3].T, axis=1)
            yield voxels, tuple(float(v) for v in (world @ [*voxels[away.argmin()], 1.0])[:3])
