"""A picture of training so far: a few fixed patches, each real one beside the generator's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..cases.prepared import PreparedCase
from ..conditions.encode import unscale_hu
from ..images.pictures import montage, view, write_png
from ..runtime.seeds import derive, rng
from .data import patch, random_start
from .settings import Preset, make_generator

PIXELS = 240  # the longest side of a slice in the picture


def write_montage(path: Path, preset: Preset, weights: dict[str, torch.Tensor], cases: Sequence[PreparedCase],
                  device: torch.device, caption: str) -> None:
    """Samples one patch of each case, always the same with the same noise, and writes the picture.

    weights  of the preset's generator (the moving average); a copy of the generator is made for them, because the
             one in training may be wrapped or spread over several processes
    """
    generator = make_generator(preset)
    generator.load_state_dict(weights)
    generator.to(device).eval()
    rows = []
    for i, case in enumerate(cases):
        start = random_start(case, generator.form.patch, rng(preset.training.seed, "montage", i), at_node=True)
        real = patch(case, start, generator.form)
        synthetic = generator.sample(real["condition"][None].to(device), steps=preset.training.sample_steps,
                                     seeds=[derive(preset.training.seed, "montage", i)])
        nodes = real["condition"][generator.form.anatomy_channels].numpy() > 0
        hu = [unscale_hu(image, generator.form.window) for image in (real["image"][0], synthetic[0, 0].cpu())]
        rows.append([view(volume, case.spacing, plane, nodes=nodes, window=generator.form.window,
                          mm_per_pixel=max(np.multiply(nodes.shape, case.spacing)) / PIXELS)
                     for plane in ("axial", "coronal") for volume in hu])
    columns = [f"{what}, {plane}" for plane in ("axial", "coronal") for what in ("real", "synthetic")]
    write_png(path, montage(rows, [case.id for case in cases], columns, "SYNTHETIC", caption), "SYNTHETIC " + caption)
