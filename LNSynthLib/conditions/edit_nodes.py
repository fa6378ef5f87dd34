"""Remove, add and vary the nodes of a mask, on the grid of its CT whatever that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..images.volume import Volume, canonical
from ..masks.body import label_map
from ..masks.labels import LabelTable
from ..masks.nodes import numbered, remove
from ..runtime.seeds import rng
from .placement import add, kept_clear
from .shape_prior import ShapePrior
from .transforms import VarySettings, vary


@dataclass(frozen=True)
class NodeEdits:
    """What is done to the nodes of a mask: first some are removed, then some added, then all varied.

    remove        numbers of nodes, one after the other
    add           how many nodes of random shape; short_axis_mm: of these, None for sizes as of real nodes
    vary          how many masks are wanted with every node changed at random; 0 for one mask without that
    """

    remove: Sequence[int] = ()
    add: int = 0
    short_axis_mm: float | None = None
    vary: int = 0
    how: VarySettings = field(default_factory=VarySettings)
    seed: int = 0


def edited(nodes: Volume | None, ct: Volume | None, anatomy: Volume | None, table: LabelTable,
           edits: NodeEdits) -> Iterator[tuple[np.ndarray, list[dict]]]:
    """(instances, records of the changes) of each mask that the edits ask for, on the grid of the nodes.

    nodes    on the CT's grid, or None for no nodes yet; only to remove some, nothing else is needed
    ct       in HU, for the body
    anatomy  TotalSegmentator v2 ids on its grid, for the organs, which no node may cover; `table` names what it tells
    """
    if nodes is not None:
        mask = numbered(nodes).array
    elif ct is not None:
        mask = np.zeros(ct.shape, np.uint16)
    else:
        raise ValueError("without nodes, their grid is that of a CT")
    records: list[dict] = []
    for index in edits.remove:
        mask = remove(mask, index)
        records.append({"id": index, "operation": "removed"})
    if not (edits.add or edits.vary):
        yield mask, records
        return
    if ct is None or anatomy is None:
        raise ValueError("adding and varying nodes needs the CT and the anatomy")
    image = canonical(ct)
    raw, mask = (canonical(Volume(array, ct.affine)).array for array in (anatomy.array, mask))
    labels = kept_clear(label_map(image.array, raw, image.spacing, table, nodes=mask), raw, table)
    if edits.add:
        mask, added = add(mask, labels, image.spacing, table, edits.add, rng(edits.seed, "add"), ShapePrior.load(),
                          edits.short_axis_mm)
        records += [{"operation": "added", **record} for record in added]
    for variant in range(max(1, edits.vary)):
        changed, changes = mask, list[dict]()
        if edits.vary:
            changed, changes = vary(mask, labels, image.spacing, rng(edits.seed, "vary", variant), edits.how, table)
        yield _as_stored(np.asarray(changed), ct), records + changes


def _as_stored(array: np.ndarray, original: Volume) -> np.ndarray:
    """An array of the canonical volume on the grid that `original` came with."""
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    upright = np.array([[0, 1], [1, 1], [2, 1]])
    return np.ascontiguousarray(apply_orientation(array, ornt_transform(upright, io_orientation(original.affine))))
