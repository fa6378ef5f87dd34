"""What the generator makes of a few fixed patches, as a picture: the real patch beside the synthetic one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..cases.store import PreparedCase
from ..conditions.encode import unscale_hu
from ..runtime.files import atomic_path
from ..runtime.seeds import derive, rng
from .data import patch, random_start
from .settings import Preset, make_generator


def write_montage(path: Path, preset: Preset, weights: dict[str, torch.Tensor], cases: Sequence[PreparedCase],
                  device: torch.device, title: str) -> None:
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
        condition = real["condition"][None].to(device)
        synthetic = generator.sample(condition, seeds=[derive(preset.training.seed, "montage", i)],
                                     steps=preset.training.sample_steps)
        nodes = real["condition"][generator.form.anatomy_channels].numpy() > 0
        hu = [unscale_hu(image, generator.form.window) for image in (real["image"][0], synthetic[0, 0].cpu())]
        rows.append((case.id, *hu, nodes))
    _picture(path, rows, generator.form.window, title)


def _picture(path: Path, rows: list, window: tuple[float, float], title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = ("real", "synthetic", "real, coronal", "synthetic, coronal")
    figure = Figure(figsize=(3 * len(columns), 3.2 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: SYNTHETIC images, with the node mask outlined")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for (id, real, synthetic, nodes), line in zip(rows, axes, strict=True):
        for column, (volume, axis) in enumerate(((real, 2), (synthetic, 2), (real, 1), (synthetic, 1))):
            other = tuple(i for i in range(3) if i != axis)
            index = int(np.argmax(nodes.sum(other))) if nodes.any() else volume.shape[axis] // 2
            show = line[column]
            show.imshow(np.take(volume, index, axis).T, cmap="gray", vmin=window[0], vmax=window[1], origin="lower")
            outline = np.take(nodes, index, axis).T
            if outline.any():
                show.contour(outline, [0.5], colors="yellow", linewidths=0.8)
            show.set_title(f"{id}: {columns[column]}", fontsize=8)
            show.axis("off")
    with atomic_path(path) as beside:
        figure.savefig(beside, dpi=100, format="png")
