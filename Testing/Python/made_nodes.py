"""Nodes for tests: ellipsoids of known size, alone in fat."""
import numpy as np

from LNSynthLib.masks.labels import LabelTable

TABLE = LabelTable.load("abdomen17")


def ellipsoid(shape, spacing, center, radii, matrix=None):
    """True inside the image of an ellipsoid (radii mm about center mm) under a 3x3 map about its center."""
    points = np.indices(shape).reshape(3, -1) * np.array(spacing)[:, None] - np.array(center, float)[:, None]
    local = np.linalg.inv(np.eye(3) if matrix is None else matrix) @ points / np.array(radii, float)[:, None]
    return ((local ** 2).sum(0) <= 1).reshape(shape)


def free_space(mask, spacing, margin_mm=24):
    room = np.ceil(margin_mm / np.asarray(spacing)).astype(int)
    labels = np.full(mask.shape + 2 * room, TABLE.index("fat"), np.uint8)
    return room, np.zeros(labels.shape, np.uint16), labels
