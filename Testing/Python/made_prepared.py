"""Prepared cases for tests of training: bodies at their typical HU with noise, in each a node, if asked a liver."""

import numpy as np

from LNSynthLib.cases.dataset import Case, Dataset
from LNSynthLib.cases.prepared import write_prepared
from LNSynthLib.images.volume import Volume

LIVER = 6  # of abdomen14


def enlist(folder, id, patient, split, hu, kind="phantom", affine=None):
    """Puts a case into the data set in `folder`, new where there is none; hu: its CT, (X, Y, Z)."""
    dataset = Dataset.open(folder) if (folder / "dataset.json").exists() else Dataset.create(folder, kind=kind)
    ct = Volume(np.rint(hu).astype(np.int16), np.eye(4) if affine is None else affine)
    dataset.add(Case(id, ct, entry={"patient": patient, "split": split}))


def write_case(folder, number, split="train", node=True, side=24, liver=False):
    """Case `case<number>` of DATASET `folder`, prepared as `default`; its noise is that of its number."""
    random = np.random.default_rng(number)
    anatomy, nodes = np.ones((side,) * 3, np.uint8), np.zeros((side,) * 3, np.uint16)
    if liver:
        anatomy[14:, :, 4:16] = LIVER
    nodes[4:9, 12:16, 10:14] = node
    ct = np.where(nodes > 0, 0.1, np.where(anatomy == LIVER, 0.4, -0.4))
    scaled = ct + 0.05 * random.standard_normal(nodes.shape)
    enlist(folder, f"case{number}", f"p{number}", split, 60 + 180 * scaled)
    return write_prepared(
        folder / "prepared" / "default" / f"case{number}", scaled, anatomy, nodes, {
            "id": f"case{number}", "split": split, "kind": "phantom", "spacing_mm": [1.0, 1.0, 1.0],
            "affine": np.eye(4).tolist(), "window": [-120.0, 240.0], "labels": "abdomen14", "key": f"key{number}",
            "version": 3,
            "organ_hu": [None] * 14, "node_hu": None, "sha256": {},
            "settings": {"name": "default", "labels": "abdomen14"},
            "nodes": [{"id": 1, "bbox": [[4, 9], [12, 16], [10, 14]]}] if node else []})
