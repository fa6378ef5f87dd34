"""Which nodes have to change: those that are wanted, compared voxel by voxel with those in the CT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...images.boxes import Box, bounding_box, grow, union
from ...images.volume import Volume, canonical_view, crop
from ...masks.nodes import boxes, told_apart
from ...runtime.errors import LNSynthError


@dataclass(frozen=True, eq=False)
class Wanted:
    """The nodes wanted and those present, as instances of a region of the canonical CT."""

    region: Box
    nodes: Volume    # uint16
    present: Volume  # uint16, numbered on its own

    @classmethod
    def of(cls, nodes: Volume, present: Volume | None, margin_mm: float) -> Wanted:
        """Node masks on the CT's grid (instances, or one value); the region reaches `margin_mm` beyond all nodes.

        A mask of one value is split into its connected components, but for those that together are one node of the
        other mask. Raises LNSynthError where both are empty.
        """
        nodes = canonical_view(nodes)
        present = canonical_view(present) if present is not None else None
        found = [box for mask in (nodes, present) if mask is not None and (box := bounding_box(mask.array))]
        if not found:
            raise LNSynthError("The node mask is empty; draw at least one node.")
        around = union(found)
        region = grow(around, margin_mm, nodes.spacing, nodes.shape)
        mine = crop(nodes, region)
        if present is None:
            there = np.zeros(mine.shape, np.uint16)
        else:
            there = crop(present, region).array
        wanted, there = _split(mine.array, there), _split(there, mine.array)
        return cls(region, Volume(wanted, mine.affine), Volume(there, mine.affine))

    def every(self) -> np.ndarray:
        """(X, Y, Z) uint16: the nodes wanted, then, with higher numbers, what else is of present ones."""
        first = int(self.nodes.array.max())
        return np.where((self.nodes.array == 0) & (self.present.array > 0), self.present.array + np.uint16(first),
                        self.nodes.array)


@dataclass(frozen=True)
class Difference:
    """same: numbers of nodes wanted that are present: {wanted: present}; new: those that are not; gone: of `present`,
    those that are not wanted."""

    same: dict[int, int]
    new: list[int]
    gone: list[int]


def difference(nodes: np.ndarray, present: np.ndarray) -> Difference:
    """Instances of one grid compared: a node is the same where it has the same voxels, whatever its number."""
    size, same, new = np.bincount(present.ravel()), {}, []
    for number, box in boxes(nodes).items():
        there = present[box][nodes[box] == number]
        match = int(there[0])
        if match and (there == match).all() and size[match] == there.size:
            same[number] = match
        else:
            new.append(number)
    return Difference(same, new, [i for i in boxes(present) if i not in same.values()])


def _split(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Instances (uint16) of a mask: its numbers where it has several, else pieces, joined as in `other`."""
    pieces = told_apart(mask)
    if len(np.unique(mask[mask > 0])) == 1 and len(np.unique(other[other > 0])) > 1:
        for number, box in boxes(other.astype(np.uint16)).items():
            its = np.unique(pieces[box][other[box] == number])
            together = np.isin(pieces, its)
            if len(its) > 1 and its[0] and np.array_equal(together, other == number):
                pieces[together] = its[0]
    return pieces
