"""Scores node by node: which true nodes a prediction finds, and which of its components are false positives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..masks.nodes import axes_mm

NEIGHBOURS = {6: 1, 18: 2, 26: 3}  # as scipy counts: voxels that share a face, an edge, a corner


@dataclass(frozen=True)
class NodeScore:
    """A true node."""

    id: int                 # value in the truth
    short_axis_mm: float
    volume_ml: float
    best_dsc: float         # with the component that fits it best; 0 where none touches it
    found: bool


@dataclass(frozen=True)
class Candidate:
    """A connected component of the prediction."""

    volume_ml: float
    finds: tuple[int, ...]  # ids of the nodes that it finds
    false_positive: bool
    score: float | None     # from its probabilities; None without them


def components(mask: np.ndarray, connectivity: int) -> tuple[np.ndarray, int]:
    """Connected components 1..n of a boolean mask, and n. connectivity: 6, 18 or 26 neighbours."""
    from scipy import ndimage

    return ndimage.label(mask, ndimage.generate_binary_structure(3, NEIGHBOURS[connectivity]))


def pairwise_dsc(nodes: np.ndarray, labels: np.ndarray) -> dict[tuple[int, int], float]:
    """DSC of every (node, component) that share a voxel; of all others it is 0."""
    node_size, label_size = np.bincount(nodes.ravel()), np.bincount(labels.ravel())
    both = (nodes > 0) & (labels > 0)
    pairs, shared = np.unique(nodes[both].astype(np.int64) * len(label_size) + labels[both], return_counts=True)
    return {(int(i), int(j)): float(2 * n / (node_size[i] + label_size[j]))
            for i, j, n in zip(*np.divmod(pairs, len(label_size)), shared, strict=True)}


def match(predicted: np.ndarray, nodes: np.ndarray, spacing: Sequence[float], *, connectivity: int = 26,
          found_dsc: float = 0.1, strictly: bool = True, spare_touching: bool = False,
          probability: np.ndarray | None = None, score: str = "mean",
          ) -> tuple[tuple[NodeScore, ...], tuple[Candidate, ...]]:
    """The true nodes in order of id, and the predicted components.

    predicted       bool (X, Y, Z), canonical: the third axis runs across axial slices
    nodes           instances on the same grid; touching ones stay apart
    found_dsc       a component finds a node where their DSC is above it (the paper: > 0.1), or, not
                    `strictly`, reaches it. One component may find several nodes, and several may find one
    spare_touching  a component that finds no node is a false positive: always, or only if it touches none
    score           of a component: "mean" or "max" of the probability in it
    """
    from scipy import ndimage

    labels, count = components(predicted, connectivity)
    pairs = pairwise_dsc(nodes, labels)
    touching, finding, best = defaultdict(list), defaultdict(list), defaultdict(float)
    for (id, label), dsc in pairs.items():
        touching[label].append(id)
        if dsc > found_dsc if strictly else dsc >= found_dsc:
            finding[label].append(id)
        best[id] = max(best[id], dsc)
    found = {id for ids in finding.values() for id in ids}
    voxel_ml = float(np.prod(spacing)) / 1000
    records = []
    for id, box in enumerate(ndimage.find_objects(nodes), 1):
        if box is not None:
            node = nodes[box] == id
            records.append(NodeScore(id, axes_mm(node, np.diag(spacing))[1], int(node.sum()) * voxel_ml,
                                     best_dsc=best[id], found=id in found))
    size, scores = np.bincount(labels.ravel(), minlength=count + 1), _scores(labels, count, probability, score)
    candidates = [
        Candidate(int(size[label]) * voxel_ml, tuple(finding[label]), score=scores[label - 1],
                  false_positive=not finding[label] and not (spare_touching and touching[label]))
        for label in range(1, count + 1)]
    return tuple(records), tuple(candidates)


def _scores(labels, count: int, probability, score: str) -> list[float | None]:
    from scipy import ndimage

    if probability is None:
        return [None] * count
    measure = {"mean": ndimage.mean, "max": ndimage.maximum}[score]
    return [float(value) for value in measure(probability, labels, range(1, count + 1))] if count else []
