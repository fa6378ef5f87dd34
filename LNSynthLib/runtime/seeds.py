"""Random numbers by name: each stream is a pure function of a seed and of what it is for.

A sample's numbers therefore do not depend on the batch, the worker or the device that happens to compute it.
"""

import hashlib


def derive(seed: int, *keys: str | int) -> int:
    """A 63-bit seed for the stream that `keys` name, the same on every machine and Python version."""
    text = "\x1f".join([str(int(seed)), *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def rng(seed: int, *keys: str | int):
    """numpy Generator of that stream."""
    import numpy as np
    return np.random.default_rng(derive(seed, *keys))


def torch_rng(seed: int, *keys: str | int):
    """torch Generator of that stream. On the CPU whatever the device, so that every device gets the same numbers."""
    import torch
    return torch.Generator("cpu").manual_seed(derive(seed, *keys))
