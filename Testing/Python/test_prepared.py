"""Prepared cases: what is written is read back, whole or any part of it, inside the volume or beyond."""

import pickle

import numpy as np
import pytest
from made_prepared import enlist, write_case

from LNSynthLib.cases.prepared import BLOCK, CHUNK, PreparedCase, list_prepared, write_prepared
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import write_json

SHAPE = (70, 83, 129)  # no multiple of chunks or blocks
RNG = np.random.default_rng(0)
CT = RNG.uniform(-1, 1, SHAPE).astype(np.float32)
ANATOMY = RNG.integers(0, 14, SHAPE).astype(np.uint8)
NODES = RNG.integers(0, 400, SHAPE).astype(np.uint16)
AFFINE = np.array([[1.0, 0, 0, -20], [0, 1, 0, 7], [0, 0, 1, 3], [0, 0, 0, 1]])


def info(id="a", split="train"):
    return {"id": id, "split": split, "kind": "phantom", "spacing_mm": [1, 1, 1], "affine": AFFINE.tolist()}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("store") / "a", CT, ANATOMY, NODES, info())


def test_a_case_comes_back(case):
    assert (case.id, case.split, case.kind, case.shape, case.spacing) == ("a", "train", "phantom", SHAPE, (1, 1, 1))
    np.testing.assert_array_equal(case.affine, AFFINE)
    assert case.ct().dtype == np.float32 and np.abs(case.ct() - CT).max() <= 0.5 * 2**-11  # half a step of float16 at 1
    np.testing.assert_array_equal(case.anatomy(), ANATOMY)
    np.testing.assert_array_equal(case.nodes(), NODES)
    assert case.anatomy().dtype == np.uint8 and case.nodes().dtype == np.uint16


def test_any_box_equals_the_same_part_of_the_padded_whole(case):
    margin = 40
    padded = {"ct": np.pad(case.ct(), margin, constant_values=-1), "anatomy": np.pad(ANATOMY, margin),
              "nodes": np.pad(NODES, margin)}
    rng = np.random.default_rng(1)
    for _ in range(60):
        start = [int(rng.integers(-margin, n)) for n in SHAPE]
        stop = [int(rng.integers(s + 1, n + margin + 1)) for s, n in zip(start, SHAPE, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        there = tuple(slice(a + margin, b + margin) for a, b in zip(start, stop, strict=True))
        for name, whole in padded.items():
            part = getattr(case, name)(box)
            np.testing.assert_array_equal(part, whole[there])
            assert part.dtype == (np.float32 if name == "ct" else whole.dtype)


def test_a_box_far_outside_is_air(case):
    box = (slice(500, 510), slice(-30, -20), slice(0, 5))
    assert (case.ct(box) == -1).all() and not case.anatomy(box).any() and not case.nodes(box).any()
    assert case.ct(box).shape == (10, 10, 5)


def test_a_case_can_be_sent_to_another_process(case):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(case)).nodes(), NODES)


def test_the_layout_suits_random_crops(case):
    import blosc2

    for name in ("ct", "anatomy", "nodes"):
        stored = blosc2.open(str(case.folder / f"{name}.b2nd"), mode="r")
        assert stored.chunks == (CHUNK,) * 3 and stored.blocks == (BLOCK,) * 3


def test_a_small_volume_is_stored_too(tmp_path):
    small = write_prepared(tmp_path / "s", CT[:5, :3, :1], ANATOMY[:5, :3, :1], NODES[:5, :3, :1], info("s"))
    np.testing.assert_array_equal(small.nodes((slice(-1, 6), slice(0, 3), slice(0, 1)))[1:6], NODES[:5, :3, :1])


def test_cases_are_listed_by_id_and_split(tmp_path):
    made = tmp_path / "prepared" / "default"
    for id, split in (("c", "val"), ("a", "train"), ("b", "train")):
        write_prepared(made / id, CT[:4, :4, :4], ANATOMY[:4, :4, :4], NODES[:4, :4, :4], info(id, split))
        enlist(tmp_path, id, id, split, CT[:4, :4, :4])
    (made / ".half-made").mkdir()
    (made / ".half-made" / "case.json").write_text("{")
    assert [c.id for c in list_prepared(made)] == ["a", "b", "c"]
    assert [c.id for c in list_prepared(made, "train")] == ["a", "b"]
    with pytest.raises(LNSynthError, match="no prepared case of split test here; run `lnsynth prepare`"):
        list_prepared(made, "test")


def test_what_is_no_prepared_case_is_refused(tmp_path):
    with pytest.raises(LNSynthError, match="no prepared case here"):
        PreparedCase.open(tmp_path)
    with pytest.raises(LNSynthError, match="no prepared case here"):
        list_prepared(tmp_path / "absent")
    folder = tmp_path / "a"
    write_prepared(folder, CT[:4, :4, :4], ANATOMY[:4, :4, :4], NODES[:4, :4, :4], info())
    (folder / "nodes.b2nd").unlink()
    with pytest.raises(LNSynthError, match="nodes.b2nd missing"):
        PreparedCase.open(folder)


def test_arrays_of_unequal_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match="differ in shape"):
        write_prepared(tmp_path / "a", CT, ANATOMY[1:], NODES, info())
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["ct", "anatomy", "nodes"])
def test_a_damaged_array_is_refused_when_it_is_read(tmp_path, name):
    write_prepared(tmp_path / "a", CT[:20, :20, :20], ANATOMY[:20, :20, :20], NODES[:20, :20, :20], info())
    case, path = PreparedCase.open(tmp_path / "a"), tmp_path / "a" / f"{name}.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for read in (getattr(case, name), case.check_intact):
        with pytest.raises(LNSynthError, match=rf"{name}.b2nd is damaged .*run `lnsynth prepare` again"):
            read()
    del case.info["files"]  # one of an earlier version has no hashes
    case.check_intact()


def test_cases_of_an_earlier_version_are_used_and_it_is_told(tmp_path, caplog):
    """What was prepared before nodes kept their volume names no version."""
    made = write_case(tmp_path / "ds", 1)
    assert list_prepared(made.folder.parent) and not caplog.text
    write_json(made.folder / "case.json", {name: value for name, value in made.info.items() if name != "version"})
    assert [case.id for case in list_prepared(made.folder.parent)] == ["case1"]
    assert "earlier version" in caplog.text and "lnsynth prepare" in caplog.text
