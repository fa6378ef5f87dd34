"""Encode label arrays as the tensor that conditions a generator."""

from collections.abc import Sequence

import numpy as np
import torch

from ..masks.labels import LabelTable

NODE_HU = 88.0      # typical mean of a lymph node in the portal venous phase
VESSELS = ("inferior_vena_cava", "portal_vein_and_splenic_vein")
NODE_SHARE = 0.45   # of the veins' enhancement that a node takes part in: about 36 HU without contrast medium


def scale_hu(hu, window: tuple[float, float]):
    """HU to [-1, 1]: the window's ends map to -1 and 1, what is outside is clipped (as the paper's)."""
    low, high = window
    return np.clip((np.asarray(hu, dtype=np.float32) - low) * (2 / (high - low)) - 1, -1, 1).astype(np.float32)


def unscale_hu(values, window: tuple[float, float]):
    """[-1, 1] back to HU."""
    low, high = window
    return (np.asarray(values, dtype=np.float32) + 1) * ((high - low) / 2) + low


def expected_hu(table: LabelTable, organ_hu: Sequence[float | None], node_hu: float | None,
                window: tuple[float, float]) -> np.ndarray:
    """(channels + 1,) mean HU of each label, then of nodes, scaled to [-1, 1]: what `encode` takes as `expected`.

    organ_hu  of the CT to be matched, by label id (`masks.body.organ_hu`); None where it has no such label, which then
              gets the table's typical value
    node_hu   of its nodes; None where they are unknown: then the veins say how far a node is enhanced
    """
    typical = [label.hu for label in table.labels]
    hu = [t if measured is None else measured for t, measured in zip(typical, organ_hu, strict=True)]
    if node_hu is None:
        veins = [table.index(name) for name in VESSELS if name in table.names]
        enhancement = float(np.mean([hu[i] - typical[i] for i in veins])) if veins else 0.0
        node_hu = float(np.clip(NODE_HU + NODE_SHARE * enhancement, 30, 120))
    return scale_hu([*hu, node_hu], window)


def encode(anatomy: np.ndarray, nodes: np.ndarray, channels: int, expected: np.ndarray | None = None) -> torch.Tensor:
    """Condition (channels + 1 [+ 1], X, Y, Z) float32: one-hot anatomy, node mask, expected HU.

    anatomy   (X, Y, Z) label table ids, 0 .. channels - 1
    nodes     (X, Y, Z), instances; any of them is 1 in the mask
    channels  labels of the table
    expected  (channels + 1,) mean HU scaled to [-1, 1] of each label, then of nodes; the last channel holds at each
              voxel what is expected there. None where a generator does not take it.
    """
    labels = torch.from_numpy(np.ascontiguousarray(anatomy).astype(np.int64))
    condition = torch.zeros(channels + 1 + (expected is not None), *anatomy.shape)
    condition[:channels].scatter_(0, labels[None], 1.0)
    condition[channels] = torch.from_numpy(np.ascontiguousarray(nodes > 0)).float()
    if expected is not None:
        if len(expected) != channels + 1:
            raise ValueError(f"expected HU of {len(expected)} tissues; {channels} labels and the nodes need a value")
        values = torch.from_numpy(np.asarray(expected, dtype=np.float32))
        condition[channels + 1] = torch.where(condition[channels] > 0, values[channels], values[labels])
    return condition
