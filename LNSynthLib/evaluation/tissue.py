"""Do tissues have the right HU? Each organ's mean, and the contrast of nodes with what is around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..images.boxes import bounding_box, grow
from ..masks.labels import LabelTable
from ..masks.nodes import boxes, shell


@dataclass(frozen=True)
class TissueSettings:
    core_mm: float = 4.0                           # an organ's core lies further than this from what is not the organ
    least_voxels: int = 50                         # of a label in a patch, or there is no row for it
    shell_mm: tuple[float, float] = (2.0, 6.0)     # from a node's surface: nearer voxels hold some of the node
    least_shell: int = 20                          # voxels of free tissue in the shell, or there is no contrast


def core(mask: np.ndarray, spacing, depth_mm: float) -> np.ndarray:
    """The voxels of a mask whose centres lie further than `depth_mm` from that of any voxel outside it.

    The patch's border is not an outside: an organ goes on beyond it.
    """
    deep, box = mask.copy(), bounding_box(mask)
    if box is not None and not mask.all():
        box = grow(box, min(spacing), spacing, mask.shape)  # one voxel of what is around it, where there is any
        deep[box] = ndimage.distance_transform_edt(mask[box], sampling=spacing) > depth_mm
    return deep


def organ_errors(synthetic: np.ndarray, real: np.ndarray, anatomy: np.ndarray, table: LabelTable, spacing,
                 nodes: np.ndarray | None = None, settings: TissueSettings | None = None) -> list[dict]:
    """HU of each label of a patch in the synthetic and the real volume, under one mask.

    synthetic, real  (X, Y, Z) HU, clipped to one window
    anatomy          (X, Y, Z) ids of `table`
    nodes            (X, Y, Z), left out where > 0; give the union of both volumes' nodes
    A row a label and part: "label", "part" ("whole", or "core", where a coarse label does not spill into what is
    around it), "organ" (whether it is one of the table's organs), "voxels", "real_mean", "real_sd", "synthetic_mean",
    "synthetic_sd", "error" (synthetic - real mean) and "mae", the mean absolute difference voxel by voxel, which
    independent noise in both makes larger than 0 for a perfect generator.
    """
    settings, rows = settings or TissueSettings(), []
    for label in table.labels:
        whole = anatomy == label.id
        if whole.sum() < settings.least_voxels:
            continue
        for part, where in (("whole", whole), ("core", core(whole, spacing, settings.core_mm))):
            where = where if nodes is None else where & (nodes == 0)
            if where.sum() < settings.least_voxels:
                continue
            made, true = synthetic[where].astype(np.float64), real[where].astype(np.float64)
            rows.append({
                "label": label.name, "part": part, "organ": label.id in table.organs, "voxels": int(where.sum()),
                "real_mean": float(true.mean()), "real_sd": float(true.std()),
                "synthetic_mean": float(made.mean()), "synthetic_sd": float(made.std()),
                "error": float(made.mean() - true.mean()), "mae": float(np.abs(made - true).mean())})
    return rows


def node_contrast(hu: np.ndarray, nodes: np.ndarray, anatomy: np.ndarray, table: LabelTable, spacing,
                  settings: TissueSettings | None = None) -> list[dict]:
    """How far each node stands out: its mean HU less that of the free tissue in a shell around it.

    hu, nodes (instances), anatomy (ids of `table`): (X, Y, Z). Free tissue is what the table lets nodes lie in and no
    node takes. A row a node: "id", "hu", "around_hu" and "contrast", both None where the shell holds too little of it.
    """
    settings, rows = settings or TissueSettings(), []
    free = table.free(anatomy)
    for index in boxes(nodes):
        box, around = shell(nodes, index, spacing, *settings.shell_mm)
        around &= free[box]
        node = float(hu[box][nodes[box] == index].mean())
        enough = around.sum() >= settings.least_shell
        outside = float(hu[box][around].mean()) if enough else None
        rows.append({"id": index, "hu": node, "around_hu": outside, "contrast": node - outside if enough else None})
    return rows
