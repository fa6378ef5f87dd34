"""What a node in place costs in CTs of growing size: everything but the generator's own forward passes.

    python Testing/Benchmarks/insert_locality.py [--repeats 3]

The same node in the same surroundings, in ever larger CTs. Copying the voxels, which a new CT needs whatever is done,
and looking for the node in the mask grow with the CT; the rest must not. A generator that costs nothing stands in.
"""

import argparse
import time

import numpy as np
import torch

from LNSynthLib.conditions.form import DataForm
from LNSynthLib.images.boxes import bounding_box
from LNSynthLib.images.volume import Volume
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.synthesis.insert import InsertSettings, insert

SPACING = (0.8, 0.8, 1.0)
SIZES = [(320, 320, 150), (512, 512, 150), (512, 512, 300), (512, 512, 600), (512, 512, 900)]


class Free:
    """A generator of no cost: what was there, 160 HU brighter in the nodes."""

    kind, stride = "free", 8
    form = DataForm(labels="abdomen17", anatomy_channels=LabelTable.load("abdomen17").channels, expected_hu=True,
                    spacing_mm=1.0, patch=(128, 128, 128))

    def sample(self, condition, *, seeds, steps=None, sampler="dpmpp", known=None, keep=None, callback=None):
        callback(1, 1)
        return torch.where(keep > 0, known, known + 160 / 180 * condition[:, 17:18]).clamp(-1, 1)


def abdomen(shape) -> tuple[Volume, Volume]:
    """A cylinder of fat with noise in air, and a node of 13 mm in its middle."""
    x, y, z = (np.arange(n, dtype=np.float32) * mm - (n - 1) / 2 * mm for n, mm in zip(shape, SPACING, strict=True))
    inside = (x[:, None] / 1.2) ** 2 + y[None] ** 2 < 100**2
    noise = np.random.default_rng(0).normal(0, 12, shape[:2])
    hu = np.where(inside, -100 + noise, -1000).astype(np.int16)
    ct = np.ascontiguousarray(np.broadcast_to(hu[:, :, None], shape))
    nodes = np.zeros(shape, np.uint8)
    middle = tuple(slice(n // 2 - 12, n // 2 + 12) for n in shape)
    at = np.meshgrid(*(axis[box] for axis, box in zip((x, y, z), middle, strict=True)), indexing="ij")
    nodes[middle] = sum(a * a for a in at) < 6.5**2
    affine = np.diag([*SPACING, 1.0])
    return Volume(ct, affine), Volume(nodes, affine)


def fastest(repeats: int, work) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(f"{'CT':<18}{'Mvoxel':>8}{'insert s':>10}{'copy s':>9}{'find s':>9}{'rest s':>9}")
    for shape in SIZES:
        ct, nodes = abdomen(shape)
        whole = fastest(repeats, lambda ct=ct, nodes=nodes: insert(ct, nodes, Free(), InsertSettings(steps=1)))
        copy = fastest(repeats, lambda ct=ct: ct.array.copy(order="K"))
        find = fastest(repeats, lambda nodes=nodes: bounding_box(nodes.array))
        name = " x ".join(map(str, shape))
        print(f"{name:<18}{np.prod(shape) / 1e6:>8.1f}{whole:>10.2f}{copy:>9.2f}{find:>9.2f}"
              f"{whole - copy - find:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
