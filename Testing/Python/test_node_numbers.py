"""Which node is number 2: the same one in every verb, however the mask's file stores its axes."""

import json

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff
from test_insert import Painter, body, grid

from LNSynthLib.cases.importers import Item, read_item
from LNSynthLib.cli import main
from LNSynthLib.evaluation.folders import score_folders
from LNSynthLib.evaluation.segmentation import ScoreSettings
from LNSynthLib.images.volume import Volume, canonical, read, write
from LNSynthLib.masks.nodes import numbered
from LNSynthLib.synthesis.insert import InsertSettings, insert
from LNSynthLib.synthesis.variants.difference import Wanted

CENTRES = [(-30, 20, 25), (-10, -25, -20), (35, 10, 0)]  # mm, RAS: in order from left to right alone
ORDERS = {"RAS": [[0, 1], [1, 1], [2, 1]], "LAS": [[0, -1], [1, 1], [2, 1]], "LPS": [[0, -1], [1, -1], [2, 1]],
          "SLP": [[2, -1], [1, 1], [0, -1]], "ASR": [[1, 1], [2, 1], [0, 1]], "IPL": [[1, -1], [2, -1], [0, -1]]}


def stored(volume: Volume, order: str) -> Volume:
    """The same voxels with their axes in another order and direction."""
    turn = np.array(ORDERS[order])
    return Volume(np.ascontiguousarray(apply_orientation(volume.array, turn)),
                  volume.affine @ inv_ornt_aff(turn, volume.shape))


def nearest(place) -> int:
    """Which of CENTRES a place is."""
    return int(np.argmin(np.linalg.norm(np.array(CENTRES) - place, axis=1)))


@pytest.fixture(scope="module")
def scene():
    """A CT of soft tissue in RAS order and a mask of one value whose pieces are the nodes."""
    shape, affine = grid(2.0)
    nodes = np.zeros(shape, np.uint8)
    ct, at = body(shape, affine)
    for centre in CENTRES:
        inside = np.linalg.norm(at - centre, axis=-1) <= 6
        nodes[inside] = 1
        ct.array[inside] += 140
    return ct, Volume(nodes, affine)


def places(mask: Volume) -> dict[int, int]:
    """{number: which of CENTRES} of instances."""
    found = {}
    for number in np.unique(mask.array[mask.array > 0]):
        index = np.argwhere(mask.array == number).mean(axis=0)
        found[int(number)] = nearest((mask.affine @ [*index, 1])[:3])
    return found


@pytest.mark.parametrize("order", ORDERS)
def test_every_verb_numbers_the_nodes_alike(tmp_path, scene, order):
    ct, mask = (stored(volume, order) for volume in scene)
    write(tmp_path / "ct.nii.gz", ct)
    write(tmp_path / "nodes.nii.gz", mask)
    expected = {1: 0, 2: 1, 3: 2}
    assert places(numbered(mask)) == expected
    assert main(["nodes", "--nodes", str(tmp_path / "nodes.nii.gz"), "--measure", "--out",
                 str(tmp_path / "table.json")]) == 0
    listed = json.loads((tmp_path / "table.json").read_text())["nodes"]
    assert {node["id"]: nearest(node["centroid_mm"]) for node in listed} == expected
    assert main(["nodes", "--nodes", str(tmp_path / "nodes.nii.gz"), "--remove", "2", "--out",
                 str(tmp_path / "fewer.nii.gz")]) == 0
    assert places(read(tmp_path / "fewer.nii.gz")) == {1: 0, 3: 2}
    case = read_item(Item("a", tmp_path / "ct.nii.gz", tmp_path / "nodes.nii.gz"), print)
    assert places(case.nodes) == expected
    assert places(Wanted.of(mask, None, 4.0).nodes) == expected
    (score,) = score_folders(tmp_path / "nodes.nii.gz", tmp_path / "fewer.nii.gz", None, ScoreSettings()).values()
    assert [node.id for node in score.nodes] == [1, 3], "as in the truth"


@pytest.mark.parametrize("left", [2, 3])
def test_the_last_node_is_listed_as_it_is_read(tmp_path, scene, left):
    _, mask = scene
    several = numbered(mask)
    if left == 3:  # in two pieces, which nothing but other nodes tells from two nodes
        several.array[several.array == 2] = 3
    write(tmp_path / "nodes.nii.gz", several)
    remove = [word for number in {1, 2, 3} & set(places(several)) - {left} for word in ("--remove", str(number))]
    assert main(["nodes", "--nodes", str(tmp_path / "nodes.nii.gz"), *remove, "--out",
                 str(tmp_path / "one.nii.gz")]) == 0
    assert main(["nodes", "--nodes", str(tmp_path / "one.nii.gz"), "--out", str(tmp_path / "again.json")]) == 0
    listed, read_again = (json.loads((tmp_path / f"{name}.json").read_text())["nodes"] for name in ("one", "again"))
    assert listed == read_again and [node["id"] for node in listed] == list(range(1, left))


@pytest.mark.parametrize("order", ["RAS", "LAS", "SLP"])
def test_the_node_that_is_removed_is_the_one_that_was_listed(scene, order):
    ct, mask = (stored(volume, order) for volume in scene)
    result = insert(ct, mask, Painter(), InsertSettings(steps=2), only=[2], remove=True).ct
    changed = np.argwhere(result.array != ct.array)
    assert nearest((ct.affine @ [*changed.mean(axis=0), 1])[:3]) == 1


def test_a_mask_may_be_stored_in_another_order_than_its_ct(tmp_path, scene):
    ct, mask = scene
    write(tmp_path / "ct.nii.gz", ct)
    write(tmp_path / "nodes.nii.gz", stored(mask, "LPS"))
    write(tmp_path / "organs.nii.gz", stored(Volume(np.roll(mask.array, 9, 1) * 5, mask.affine), "SLP"))
    where = ["--ct", str(tmp_path / "ct.nii.gz"), "--nodes", str(tmp_path / "nodes.nii.gz")]
    assert main(["nodes", *where, "--remove", "2", "--out", str(tmp_path / "fewer.nii.gz"), "--anatomy",
                 str(tmp_path / "organs.nii.gz")]) == 0
    fewer = read(tmp_path / "fewer.nii.gz")
    assert np.allclose(fewer.affine, ct.affine, atol=1e-3), "as the CT is stored"
    assert places(fewer) == {1: 0, 3: 2}
    (score,) = score_folders(tmp_path / "nodes.nii.gz", tmp_path / "fewer.nii.gz", None, ScoreSettings()).values()
    assert [node.id for node in score.nodes] == [1, 3] and score.recall == 1
    assert canonical(fewer).shape == mask.shape
