"""The label table: dense ids, mapping from TotalSegmentator by name, and its refusals."""
import numpy as np
import pytest

from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.runtime.errors import LNSynthError


@pytest.mark.parametrize("name, channels", [("abdomen14", 14), ("abdomen17", 17)])
def test_table_is_dense_and_starts_with_air_and_body(name, channels):
    table = LabelTable.load(name)
    assert table.channels == channels
    assert [label.id for label in table.labels] == list(range(channels))
    assert table.names[:2] == ["air", "body"]
    assert table.organs == tuple(range(2, 14))
    assert len({label.color for label in table.labels}) == channels
    assert set(table.node_space) == {i for i, n in enumerate(table.names) if n in ("body", "fat")}


@pytest.mark.parametrize("version, task", [(1, "total_v1"), (2, "total")])
def test_ids_agree_with_totalsegmentator_by_name(version, task):
    class_map = pytest.importorskip("totalsegmentator.map_to_binary").class_map[task]
    table = LabelTable.load("abdomen14")
    ids = np.arange(len(class_map) + 1)
    mapped = table.from_totalsegmentator(ids, version)
    named = {class_map[i]: int(mapped[i]) for i in ids[1:] if mapped[i]}
    assert named == {label.name: label.id for label in table.labels if label.id > 1}
    assert mapped[0] == 0


def test_rois_are_names_totalsegmentator_knows():
    class_map = pytest.importorskip("totalsegmentator.map_to_binary").class_map["total"]
    rois = LabelTable.load("abdomen17").totalsegmentator_rois()
    assert len(rois) == 12 and set(rois) <= set(class_map.values())


def test_round_trip_to_totalsegmentator():
    table = LabelTable.load("abdomen14")
    ids = np.array([[0, 1, 7], [52, 63, 64]])
    assert np.array_equal(table.to_totalsegmentator(table.from_totalsegmentator(ids)), ids)


def test_a_label_may_join_several_structures(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nlabels:\n"
                    "  - {id: 0, name: air, hu: -1000, color: [0, 0, 0]}\n"
                    "  - {id: 1, name: body, hu: 0, color: [1, 1, 1], holds_nodes: true}\n"
                    "  - {id: 2, name: bowel, hu: 40, color: [2, 2, 2], totalsegmentator: "
                    "{small_bowel: {v2: 18, v1: 55}, colon: {v2: 20, v1: 57}}}\n")
    table = LabelTable.load(path)
    assert table.from_totalsegmentator(np.array([18, 19, 20])).tolist() == [2, 0, 2]
    assert table.from_totalsegmentator(np.array([55, 56, 57]), version=1).tolist() == [2, 0, 2]
    assert table.totalsegmentator_rois() == ["small_bowel", "colon"]


def test_free_and_organ_partition_the_table():
    table = LabelTable.load("abdomen17")
    ids = np.arange(17, dtype=np.uint8)
    assert [table.names[i] for i in ids[table.free(ids)]] == ["body", "fat"]
    assert ids[table.is_organ(ids)].tolist() == list(range(2, 14))


@pytest.mark.parametrize("values, version, words", [
    ([0, 118], 2, "0 to 117"), ([0, 105], 1, "0 to 104"), ([-1, 3], 2, "-1"), ([0.5, 3.0], 2, "nearest"),
    ([0, 3], 3, "version 3"), ([0.0, np.nan], 2, "nan")])
def test_refuses_what_cannot_be_ids(values, version, words):
    with pytest.raises(LNSynthError, match=words):
        LabelTable.load("abdomen14").from_totalsegmentator(np.array(values), version)


HEAD = ("name: t\nlabels:\n  - {id: 0, name: air, hu: 0, color: [0, 0, 0]}\n"
        "  - {id: 1, name: body, hu: 0, color: [0, 0, 0]}\n")


@pytest.mark.parametrize("text, words", [
    ("name: t\nlabels: 3\n", "not a label table"),
    (HEAD + "  - {id: 3, name: x, hu: 0, color: [0, 0, 0]}\n", "in order"),
    (HEAD + "  - {id: 2, name: body, hu: 0, color: [0, 0, 0]}\n", "twice"),
    (HEAD + "  - {id: 2, name: x, hu: 0, color: [0, 0, 300]}\n", "color"),
    (HEAD + "  - {id: 2, name: x, hu: 0, colour: [0, 0, 0]}\n", "color"),
    (HEAD.replace("air", "body2") + "", "air and body")])
def test_refuses_ill_formed_tables(tmp_path, text, words):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(LNSynthError, match=words) as error:
        LabelTable.load(path)
    assert "t.yaml" in str(error.value)


def test_unknown_names_list_what_there_is():
    with pytest.raises(LNSynthError, match="abdomen14"):
        LabelTable.load("abdomen99")
    with pytest.raises(LNSynthError, match="liver"):
        LabelTable.load("abdomen14").index("lung")
