"""The demo weights that ship: what they must be able to do on a phantom that they were not trained on."""

import numpy as np
import pytest
from scipy import ndimage

from LNSynthLib.conditions.encode import encode, expected_hu, unscale_hu
from LNSynthLib.generators import model_folder
from LNSynthLib.masks.body import label_map, node_hu, organ_hu
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.phantom.phantom import phantom
from LNSynthLib.runtime.settings import resources

FOLDER = resources() / "generators" / "demo"
SIDE, STEPS = 48, 15


def test_it_ships_small_with_its_card_and_its_labels():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 15e6
    generator, facts = model_folder.load(FOLDER)
    assert (FOLDER / "labels.yaml").read_bytes() == (resources() / "labels" / "abdomen17.yaml").read_bytes()
    assert facts["training"]["cases"] == {"phantom": 16, "pseudo": 16} and generator.form.spacing_mm == 2
    assert "painted" in (FOLDER / "README.md").read_text() and "{" not in (FOLDER / "README.md").read_text()


@pytest.fixture(scope="module")
def scene():
    """A phantom's patch around its largest node in fat, and the same node 8 mm or more away, also in fat."""
    case, table = phantom(7, 2.0, nodes=8), LabelTable.load("abdomen17")
    hu, nodes = case.ct.array, case.nodes.array
    labels = label_map(hu, case.anatomy.array, (2, 2, 2), table, nodes)
    expected = expected_hu(table, organ_hu(hu, labels, table), node_hu(hu, nodes), (-120.0, 240.0))
    random, fat = np.random.default_rng(0), table.index("fat")
    for number in np.argsort(-np.bincount(nodes.ravel())[1:]) + 1:
        where = np.argwhere(nodes == number)
        corner = np.clip(np.round(where.mean(0)).astype(int) - SIDE // 2, 0, np.array(hu.shape) - SIDE)
        box, where = tuple(slice(c, c + SIDE) for c in corner), where - corner
        if where.min() < 0 or where.max() >= SIDE:
            continue
        for shift in random.integers(-12, 13, (500, 3)):
            there = where + shift
            if np.abs(shift).max() >= 4 and there.min() >= 2 and there.max() < SIDE - 2 \
                    and (labels[box][tuple(there.T)] == fat).mean() > 0.95:
                masks = [np.zeros((SIDE,) * 3, bool) for _ in range(2)]
                masks[0][tuple(where.T)] = masks[1][tuple(there.T)] = True
                return hu[box], labels[box], masks, expected, table
    raise AssertionError("no node of this phantom can be moved within fat: choose another seed")


@pytest.mark.slow
def test_nodes_stand_out_and_follow_the_mask_and_organs_have_their_hu(scene):
    real, labels, masks, expected, table = scene
    generator, _ = model_folder.load(FOLDER)
    fat = table.index("fat")
    for mask in masks:
        condition = encode(labels, mask, table.channels, expected)[None]
        hu = unscale_hu(generator.sample(condition, seeds=[1], steps=STEPS).numpy()[0, 0], (-120.0, 240.0))
        near = ndimage.binary_dilation(mask, iterations=2) & (mask | (labels == fat))
        ring = near & ~ndimage.binary_dilation(mask)
        inside, outside = hu[mask].mean(), hu[ring].mean()
        assert inside - outside > 60
        found = near & (hu > (inside + outside) / 2)
        assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.7
    clipped = np.clip(real, -120, 240)
    for organ in table.organs:
        core = ndimage.binary_erosion(labels == organ) & ~masks[1]
        if core.sum() > 300 and table.names[organ] != "stomach":  # its content is anybody's guess
            assert hu[core].mean() == pytest.approx(clipped[core].mean(), abs=15), table.names[organ]
