"""From a CT and organ labels to the label map that conditions a generator: body mask, HU thresholds, expected HU.

Arrays are indexed (x, y, z) with z along the body (a canonical volume), because cavities are closed slice by slice.
Give whole CTs: in a crop, a lung or a bowel loop that the border cuts open no longer counts as enclosed.
"""
from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..runtime.errors import LNSynthError
from .labels import AIR, BODY, LabelTable

LOWEST_HU = -1024        # air; what is lower is padding or a metal artefact and counts as air
SKIN_HU = -300.0         # halfway between air and fat, so that the skin sits where partial volume puts it
COARSE_MM = 3.0          # grid on which table and body are told apart
TABLE_MM = 9.0           # thinner things than this beside the body are table, sheet or tube
SMOOTHING_MM = 1.0       # Gaussian sigma before HU thresholds: noise must not speckle the labels
NODE_MARGIN_MM = 2.0     # rim around a node that partial volume makes look like it


def body_mask(ct_hu: np.ndarray, spacing) -> np.ndarray:
    """The patient: largest component above SKIN_HU with its cavities (lungs, bowel gas), without the table.

    ct_hu: (X, Y, Z) HU of a canonical volume; spacing: three mm. Returns bool (X, Y, Z).
    Thin structures (table, tubes, clothes) fall to a morphological opening on a coarse grid; whatever that grid says is
    body is then refined at full resolution. Raises LNSynthError when nothing is denser than SKIN_HU.
    """
    step = tuple(max(1, int(round(COARSE_MM / mm))) for mm in spacing)
    dense = _block_mean(np.maximum(ct_hu, LOWEST_HU), step) > SKIN_HU
    radius = [TABLE_MM / 2 / (mm * s) for mm, s in zip(spacing[:2], step[:2], strict=True)]
    opened = _open_in_plane(_close_slices(dense), radius)
    main = _largest(opened)
    if main is None:
        raise LNSynthError("no body was found in the CT: nothing thick is denser than -300 HU; "
                           "check that its values are Hounsfield units")
    # One coarse voxel of tolerance, then the skin's own threshold at full resolution.
    main = ndimage.binary_dilation(main, ndimage.generate_binary_structure(3, 1)) & _close_slices(dense)
    near = ndimage.binary_dilation(main, ndimage.generate_binary_structure(3, 3))
    fine = _upsample(near, step, ct_hu.shape) & (ct_hu > SKIN_HU)
    fine |= _upsample(ndimage.binary_erosion(main, ndimage.generate_binary_structure(3, 3), border_value=1),
                      step, ct_hu.shape)  # inside for certain: keeps the largest component in one piece
    return _close_slices(_largest(fine))


def label_map(ct_hu: np.ndarray, raw_anatomy: np.ndarray | None, spacing, table: LabelTable,
              nodes: np.ndarray | None = None, version: int = 2, body: np.ndarray | None = None) -> np.ndarray:
    """The table's label of every voxel: organs, air, body, then the labels that HU thresholds define.

    ct_hu: (X, Y, Z) HU of a whole canonical CT; raw_anatomy: TotalSegmentator ids of `version`, or None without organs;
    nodes: instances, or None; body: bool, or None to find it. Returns uint8 (X, Y, Z). Organs outside the body mask
    are dropped.
    Under and around nodes the HU thresholds are replaced by the nearest tissue outside, so that the anatomy never
    shows where a node was: else a generator would learn to read nodes from the anatomy.
    """
    body = body_mask(ct_hu, spacing) if body is None else body
    if raw_anatomy is None:
        labels = np.zeros(ct_hu.shape, np.uint8)
    else:
        labels = table.from_totalsegmentator(raw_anatomy, version)
    labels[body & (labels == AIR)] = BODY
    labels[~body] = AIR
    if table.thresholds:
        organ = table.is_organ(labels)
        # Air outside would smear into the skin and make it gas: put fat there for the smoothing.
        inside = np.where(body, np.maximum(ct_hu, LOWEST_HU).astype(np.float32), np.float32(-100))
        smooth = ndimage.gaussian_filter(inside, [SMOOTHING_MM / mm for mm in spacing], truncate=3)
        for label in table.thresholds:
            assert label.threshold is not None  # that is what they have
            low, high = label.threshold
            where = body if label.over_organs else body & ~organ
            labels[where & (smooth >= low) & (smooth < high)] = label.id
        if nodes is not None and nodes.any():
            _hide_nodes(labels, nodes, spacing, table)
    return labels


def organ_hu(ct_hu: np.ndarray, labels: np.ndarray, table: LabelTable, least_voxels: int = 50) -> list[float | None]:
    """Mean HU of each label, robust to spill: what is beyond 2.5 scaled MAD of the median is cut, three times.

    Returns one number per label id, None where the label has fewer than `least_voxels` voxels.
    """
    values: list[float | None] = []
    for label in table.labels:
        hu = np.maximum(ct_hu[labels == label.id], LOWEST_HU).astype(np.float32)
        if hu.size < least_voxels:
            values.append(None)
            continue
        hu = hu[:: max(1, hu.size // 200_000)]  # plenty for a mean; a whole body need not be sorted
        for _ in range(3):
            deviation = np.abs(hu - np.median(hu))
            hu = hu[deviation <= max(2.5 * 1.4826 * float(np.median(deviation)), 1.0)]
        values.append(float(hu.mean()))
    return values


def node_hu(ct_hu: np.ndarray, nodes: np.ndarray) -> float | None:
    """HU of the nodes' cores: the 75th percentile of all their voxels, None where there is no node.

    ct_hu: (X, Y, Z) HU; nodes: instances or mask, (X, Y, Z). Partial volume at the rim, most of a small node, would
    drag a mean towards fat.
    """
    inside = ct_hu[nodes > 0]
    return float(np.percentile(inside, 75)) if inside.size else None


def _hide_nodes(labels, nodes, spacing, table) -> None:
    """Rewrite `labels` in place where thresholds saw a node: take the nearest body or fat outside its rim."""
    pad = [int(np.ceil(8 * NODE_MARGIN_MM / mm)) for mm in spacing]
    for box in ndimage.find_objects(nodes):
        if box is None:
            continue
        box = tuple(slice(max(0, s.start - p), s.stop + p) for s, p in zip(box, pad, strict=True))
        here, node = labels[box], nodes[box] > 0
        rim = ndimage.distance_transform_edt(~node, sampling=spacing) <= NODE_MARGIN_MM
        source = table.free(here) & ~rim
        # In the rim only soft tissue and fat are in doubt; bone and gas there are real, an organ is another's business.
        doubtful = np.where(node, ~table.is_organ(here) & (here != AIR), rim & table.free(here))
        if not source.any():
            here[doubtful] = BODY
            continue
        nearest = ndimage.distance_transform_edt(~source, sampling=spacing, return_distances=False, return_indices=True)
        here[doubtful] = here[tuple(nearest[:, doubtful])]


def _block_mean(array, step) -> np.ndarray:
    """Mean over blocks of `step` voxels; the last block of an axis repeats the border."""
    pad = [(0, -n % s) for n, s in zip(array.shape, step, strict=True)]
    array = np.pad(np.asarray(array, np.float32), pad, mode="edge") if any(p[1] for p in pad) else array
    x, y, z = (n // s for n, s in zip(array.shape, step, strict=True))
    return array.reshape(x, step[0], y, step[1], z, step[2]).mean((1, 3, 5), dtype=np.float32)


def _upsample(mask, step, shape) -> np.ndarray:
    for axis, s in enumerate(step):
        mask = np.repeat(mask, s, axis)
    return mask[: shape[0], : shape[1], : shape[2]]


def _open_in_plane(mask, radius) -> np.ndarray:
    """Opening by an ellipse in each axial slice; outside the field of view counts as body, which it often cuts."""
    rx, ry = (max(1, int(round(r))) for r in radius)
    x, y = np.ogrid[-rx:rx + 1, -ry:ry + 1]
    ellipse = ((x / (rx + 0.4)) ** 2 + (y / (ry + 0.4)) ** 2 <= 1)[:, :, None]
    return ndimage.binary_dilation(ndimage.binary_erosion(mask, ellipse, border_value=1), ellipse) & mask


def _close_slices(mask) -> np.ndarray:
    """Fill what each axial slice encloses: background that does not reach the slice's edge."""
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[:, :, 1] = ndimage.generate_binary_structure(2, 1)
    background, count = ndimage.label(~mask, in_plane)
    outside = np.zeros(count + 1, bool)
    for edge in (background[0], background[-1], background[:, 0], background[:, -1]):
        outside[np.unique(edge)] = True
    outside[0] = False
    return ~outside[background]


def _largest(mask) -> np.ndarray | None:
    components, count = ndimage.label(mask)
    if not count:
        return None
    return components == np.bincount(components[mask]).argmax()
