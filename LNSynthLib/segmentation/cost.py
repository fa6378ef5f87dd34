"""Estimate a segmenter's training time and memory before nnU-Net has planned it."""

from __future__ import annotations

import math

from ..runtime.machine import Need
from .settings import SegmentSettings

# What nnU-Net plans for 8 GB and CTs of 1 mm; settings that name their own go before.
PATCH, BATCH, FEATURES, CONVOLUTIONS = (128, 128, 128), 2, (32, 64, 128, 256, 320, 320), 2
KERNEL = 27
KEPT = 3  # arrays that stay alive for the backward pass of a convolution: its output, normalised, activated


def training_need(settings: SegmentSettings, job: str, cure: str) -> Need:
    """Memory and operations of a whole training: convolutions on the way down and up, which are nearly all of it."""
    trainer = settings.trainer
    features, patch = trainer.features or FEATURES, trainer.patch or PATCH
    layers, batch = trainer.convolutions or CONVOLUTIONS, trainer.batch or BATCH
    multiplications = kept = 0.0
    below = 1
    for level, width in enumerate(features):
        voxels = math.prod(patch) / 8**level
        down = below * width + (layers - 1) * width**2
        up = 2 * width**2 + (layers - 1) * width**2 if level < len(features) - 1 else 0
        multiplications += voxels * KERNEL * (down + up)
        kept += voxels * width * KEPT * 4 * layers * (2 if up else 1)
        below = width
    passes = trainer.epochs * (3 * trainer.iterations + trainer.val_iterations)  # a backward pass is two forward ones
    return Need(job, batch * kept, 2 * multiplications * batch * passes, cure)
