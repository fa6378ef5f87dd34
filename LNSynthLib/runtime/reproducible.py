"""Bit-reproducible arithmetic: a fixed number of threads, no algorithm chosen by timing.

A convolution's last bits depend on the number of threads and on the batch, so that samples are computed one by one.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch


@contextmanager
def exact(threads: int | None = None):
    """Within the block torch computes with `threads` CPU threads (None: as many as before) and deterministically."""
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        torch.set_num_threads(threads or before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]
