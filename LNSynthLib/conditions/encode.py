"""From label arrays to the tensor a generator is conditioned on."""

import numpy as np
import torch


def scale_hu(hu, window: tuple[float, float]):
    """HU to [-1, 1]: the window's ends map to -1 and 1, what is outside is clipped (paper, Sec. 3.1)."""
    low, high = window
    return np.clip((np.asarray(hu, dtype=np.float32) - low) * (2 / (high - low)) - 1, -1, 1).astype(np.float32)


def unscale_hu(values, window: tuple[float, float]):
    """[-1, 1] back to HU."""
    low, high = window
    return (np.asarray(values, dtype=np.float32) + 1) * ((high - low) / 2) + low


def encode(anatomy: np.ndarray, nodes: np.ndarray, channels: int, expected: np.ndarray | None = None) -> torch.Tensor:
    """Condition (channels + 1 [+ 1], X, Y, Z) float32: one-hot anatomy, node mask, expected HU.

    anatomy   (X, Y, Z) label table ids, 0 .. channels - 1
    nodes     (X, Y, Z), instances; any of them is 1 in the mask
    channels  labels of the table
    expected  (channels,) mean HU of each label scaled to [-1, 1]; each voxel of the last channel is its label's.
              Where a generator does not take it, None.
    """
    labels = torch.from_numpy(np.ascontiguousarray(anatomy).astype(np.int64))
    condition = torch.zeros(channels + 1 + (expected is not None), *anatomy.shape)
    condition[:channels].scatter_(0, labels[None], 1.0)
    condition[channels] = torch.from_numpy(np.ascontiguousarray(nodes > 0)).float()
    if expected is not None:
        condition[channels + 1] = torch.from_numpy(np.asarray(expected, dtype=np.float32))[labels]
    return condition
