"""Organs in real MRML: one segmentation with TotalSegmentator's names, codes and colours, and its ids back from any."""

import csv
import importlib.util
import os
import time
from pathlib import Path

import mrml
import numpy as np
import pytest
from LNSynthLogic import anatomy, grids, segments, terminology, volumes
from LNSynthLogic.jobs import commands, process
from mrml import slicer

from LNSynthLib.images.volume import Volume, write
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.runtime.errors import LNSynthError

SHAPE = (30, 26, 20)
BOX = (slice(7, 23), slice(4, 20), slice(9, 15))


def organs(shape=SHAPE) -> np.ndarray:
    """Liver, spleen, aorta and a rib, in touch with each other, not near every edge."""
    array = np.zeros(shape, np.uint8)
    array[4:14, 5:18, 6:16], array[14:20, 5:12, 8:14], array[14:17, 13:16, 3:19], array[21:23, 3:20, 9] = 5, 1, 52, 92
    return array


def make_ct(scene, shape=SHAPE, affine=None):
    return mrml.add_ct(scene, np.zeros(shape, np.int16), mrml.oblique_affine() if affine is None else affine)


def test_ids_come_back_whole_and_in_any_box(scene):
    ct = make_ct(scene)
    node = mrml.add_anatomy(scene, ct, organs())
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    found = anatomy.labels(node, ct)
    assert found.dtype == np.uint8 and np.array_equal(found, organs())
    assert np.array_equal(anatomy.labels(node, ct, BOX), organs()[BOX])
    outside = (slice(27, 30), slice(0, 4), slice(0, 3))
    assert anatomy.labels(node, ct, outside).shape == (3, 4, 3) and not anatomy.labels(node, ct, outside).any()


def test_segments_have_totalsegmentators_names_codes_and_colours(scene):
    ct = make_ct(scene)
    study = mrml.add_patient(scene, ct)[1]
    node = mrml.add_anatomy(scene, ct, organs(), "Anatomy")
    inner = node.GetSegmentation()
    assert list(inner.GetSegmentIDs())[:3] == ["spleen", "liver", "aorta"]
    liver = inner.GetSegment("liver")
    assert liver.GetName() == "liver"
    assert tuple(round(c * 255) for c in liver.GetColor()) == (221, 130, 101)
    entry = slicer.vtkSlicerTerminologyEntry()
    logic = slicer.vtkSlicerTerminologiesModuleLogic
    assert logic.DeserializeTerminologyEntry(liver.GetTerminology(), entry)
    assert (entry.GetTypeObject().GetCodeValue(), entry.GetTypeObject().GetCodeMeaning()) == ("10200004", "Liver")
    assert entry.GetCategoryObject().GetCodeMeaning() == "Anatomical Structure"
    assert logic.SerializeTerminologyEntry(entry) == liver.GetTerminology()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert node.GetDisplayNode() is not None


@pytest.mark.parametrize("ct_file, labels_file", [
    ("ts_example_ct.nii.gz", "ts_example_labels.nii.gz"), ("ts_slab_dicom", "ts_slab_labels.nii.gz"),
    ("crlm1004_ct.nii.gz", "crlm1004_coarse_anatomy.nii.gz"),
    ("r01142_abd_ct.nii.gz", "r01142_abd_coarse_anatomy.nii.gz")])
def test_real_labels_survive_scene_and_file(scene, shared_data, tmp_path, ct_file, labels_file):
    volume, real = mrml.read_real(shared_data, ct_file), mrml.read_real(shared_data, labels_file)
    ct = mrml.add_ct(scene, volume.array, volume.affine)
    write(tmp_path / "labels.nii.gz", real)
    node = anatomy.load(scene, ct, tmp_path / "labels.nii.gz", "Anatomy")
    assert np.array_equal(anatomy.labels(node, ct), real.array)
    assert node.GetSegmentation().GetNumberOfSegments() == len(np.unique(real.array)) - 1
    assert anatomy.unknown(node) == []
    assert anatomy.missing_for_conditions(node) == ""
    again = through_file(scene, node, tmp_path)
    assert np.array_equal(anatomy.labels(again, ct), real.array)


def through_file(scene, node, folder: Path):
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(folder / "anatomy.seg.nrrd"))
    assert storage.WriteData(node)
    again = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(again)
    return again


def add_segment(node, ct, mask, id="", name="Segment", entry=""):
    segment = slicer.vtkSegment()
    segment.SetName(name)
    if entry:
        segment.SetTerminology(entry)
    start, crop = grids.tight((0, 0, 0), mask)
    segment.AddRepresentation("Binary labelmap",
                              grids.oriented_image(crop.astype(np.uint8), start, grids.affine_of(ct)))
    assert node.GetSegmentation().AddSegment(segment, id or node.GetSegmentation().GenerateUniqueSegmentID())


KIDNEY = ("Segmentation category and type - Total Segmentator~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney"
          "~SCT^7771000^Left~Anatomic codes - DICOM master list~^^~^^|")
CYST = ("Segmentation category and type - DICOM master list~SCT^49755003^Morphologically Altered Structure"
        "~SCT^367643001^Cyst~^^~Anatomic codes - DICOM master list~SCT^64033007^Kidney~SCT^7771000^Left|")


def test_segmentations_of_other_tools_are_understood(scene):
    """As SlicerTotalSegmentator leaves them: standard names with codes, or TotalSegmentator's names; each a layer."""
    ct = make_ct(scene)
    node = segments.new_segmentation(scene, ct, "Other")
    masks = {id: np.zeros(SHAPE, bool) for id in (3, 8, 5, 52)}
    masks[3][2:6, 2:6, 2:6], masks[8][8:11, 2:6, 2:6], masks[5][4:20, 8:16, 6:16] = True, True, True
    masks[52][12:14, 9:12, 2:18] = True  # overlaps the liver, and comes later
    mystery = np.zeros(SHAPE, bool)
    mystery[22:25, 2:9, 2:9] = True
    add_segment(node, ct, masks[3], name="left kidney", entry=KIDNEY)
    add_segment(node, ct, masks[8], name="Adrenal gland Right")
    node.GetSegmentation().GetNthSegment(1).SetName("adrenal gland right")
    add_segment(node, ct, masks[5], id="liver", name="Leber")
    add_segment(node, ct, mystery, name="ascites", entry=terminology.node_terminology())
    add_segment(node, ct, masks[52], name="Aorta")
    expected = np.zeros(SHAPE, np.uint8)
    for id, mask in masks.items():
        expected[mask] = id
    assert np.array_equal(anatomy.labels(node, ct), expected)
    assert np.array_equal(anatomy.labels(node, ct, BOX), expected[BOX])
    assert anatomy.unknown(node) == ["ascites"]
    assert sorted(anatomy.structure_ids(node).values()) == [3, 5, 8, 52]
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    assert np.array_equal(anatomy.labels(node, ct) == 3, masks[3])
    assert not anatomy.labels(node, ct)[mystery].any()


def test_codes_tell_a_cyst_of_the_kidney_from_the_kidney():
    pytest.importorskip("totalsegmentator")
    assert terminology.id_of(("x",), KIDNEY) == 3
    assert terminology.id_of(("x",), CYST) == 23
    assert terminology.id_of(("x",), terminology.node_terminology()) is None
    assert terminology.id_of(("x",), "") is None
    assert terminology.id_of(("x", None), "a~b~c~d") is None


def test_a_segmentation_on_another_grid_is_read_in_boxes_as_whole(scene):
    ct = make_ct(scene)
    other = mrml.oblique_affine(spacing=(1.1, 1.0, 1.9), degrees=(-20, 5, 9))
    node = mrml.add_anatomy(scene, make_ct(scene, affine=other), organs())
    mrml.move(node, mrml.add_transform(scene, mrml.rigid((2, 3, 4), (1, 2, 3))))
    whole = anatomy.labels(node, ct)
    assert len(np.unique(whole)) == 5
    for box in (BOX, (slice(0, 9), slice(10, 26), slice(0, 20)), (slice(29, 30), slice(0, 1), slice(0, 1))):
        assert np.array_equal(anatomy.labels(node, ct, box), whole[box])


def add_labelmap(scene, array, affine):
    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.T))
    return node


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_a_labelmap_is_imported_on_its_own_grid(scene, dtype):
    ct = make_ct(scene)
    for affine in (grids.affine_of(ct), mrml.oblique_affine(spacing=(1.1, 1.0, 1.9), degrees=(-20, 5, 9))):
        labelmap = add_labelmap(scene, organs().astype(dtype), affine)
        node = anatomy.from_labelmap(scene, labelmap, ct)
        same = np.array_equal(affine, grids.affine_of(ct))
        assert np.array_equal(anatomy.labels(node, ct), organs()) == same
        assert np.array_equal(anatomy.labels(node, labelmap), organs())


def test_what_are_no_ids_is_refused(scene):
    ct = make_ct(scene)
    count = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    affine = grids.affine_of(ct)
    whole, holes = organs().astype(np.int16), np.full(SHAPE, np.nan, np.float32)
    for array, words in ((whole * 3, "0 to 117"), (-whole, "0 to 117"), (whole * np.float32(0.5), "whole numbers"),
                         (holes, "0 to 117"), (np.zeros(SHAPE, np.uint8), "no organ")):
        with pytest.raises(LNSynthError, match=words):
            anatomy.from_labelmap(scene, add_labelmap(scene, array, affine), ct)
    far = affine.copy()
    far[2, 3] += 900
    with pytest.raises(LNSynthError, match="lies in CT"):
        anatomy.from_labelmap(scene, add_labelmap(scene, organs(), far), ct)
    with pytest.raises(LNSynthError, match="choose the CT"):
        anatomy.add_anatomy(scene, ct, Volume(np.ones((3, 3, 3), np.uint8), affine), "Anatomy")
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == count  # nothing half made stays


def test_what_a_generator_needs_is_said(scene):
    ct = make_ct(scene)
    assert "anatomy step" in anatomy.missing_for_conditions(None)
    node = segments.new_segmentation(scene, ct, "Organs")
    assert "no segment" in anatomy.missing_for_conditions(node)
    assert not anatomy.labels(node, ct).any()
    add_segment(node, ct, organs() == 92, name="rib_left_1")
    assert "none of the organs" in anatomy.missing_for_conditions(node)
    add_segment(node, ct, organs() == 5, name="liver")
    assert anatomy.missing_for_conditions(node) == ""
    assert "spleen" in anatomy.absent(node) and "liver" not in anatomy.absent(node)


@pytest.mark.parametrize("table", ["abdomen14", "abdomen17"])
def test_the_code_table_is_that_of_the_label_tables(table):
    organs = [label for label in LabelTable.load(table).labels if label.totalsegmentator_v2]
    assert sorted(id for label in organs for id in label.totalsegmentator_v2) == sorted(terminology.wanted())
    for label in organs:
        own = terminology.structure(label.totalsegmentator_v2[0])
        assert (own.name, own.color) == (label.name, label.color)


def test_codes_are_totalsegmentators():
    spec = importlib.util.find_spec("totalsegmentator")
    if spec is None:
        pytest.skip("TotalSegmentator is not installed")
    path = Path(spec.submodule_search_locations[0]) / "resources" / "totalsegmentator_snomed_mapping.csv"
    rows = {row["Structure"]: row for row in csv.DictReader(open(path, encoding="utf-8"))}
    own = Path(__file__).resolve().parents[2] / "Resources" / "labels" / "terminology.csv"
    for row in csv.DictReader(open(own, encoding="utf-8")):
        theirs = rows[row["name"]]
        assert theirs["SegmentedPropertyCategoryCodeSequence.CodeValue"] == terminology.ANATOMY[1]
        assert theirs["SegmentedPropertyTypeCodeSequence.CodeValue"] == row["code"]
        assert theirs["SegmentedPropertyTypeCodeSequence.CodeMeaning"] == row["meaning"]
        assert theirs["SegmentedPropertyTypeModifierCodeSequence.CodeValue"] == row["modifier_code"]
        assert theirs["SegmentedPropertyTypeModifierCodeSequence.CodeMeaning"] == row["modifier_meaning"]
    assert sorted(terminology.structures()) == list(range(1, terminology.LAST_ID + 1))
    assert len({s.codes for s in terminology.structures().values()}) == terminology.LAST_ID


def test_without_totalsegmentator_the_rest_has_numbers_for_names(scene, monkeypatch):
    monkeypatch.setattr(terminology, "_from_totalsegmentator", dict)
    caches = (terminology.structures, terminology._by_name, terminology._by_codes)
    for cached in caches:
        cached.cache_clear()
    try:
        ct = make_ct(scene)
        node = mrml.add_anatomy(scene, ct, organs())
        assert list(node.GetSegmentation().GetSegmentIDs()) == ["spleen", "liver", "aorta", "structure_92"]
        assert np.array_equal(anatomy.labels(node, ct), organs())
    finally:
        for cached in caches:
            cached.cache_clear()


def test_missing_weights_come_back_as_the_jobs_sentence(scene, tmp_path):
    pytest.importorskip("totalsegmentator")
    ct = mrml.add_ct(scene)
    volumes.write_volume(ct, tmp_path / "ct.nii")
    ended = []
    job = process.Job(commands.anatomy(tmp_path / "ct.nii", tmp_path / "out.nii", True, "cpu"), on_end=ended.append,
                   environment={**os.environ, "TOTALSEG_WEIGHTS_PATH": str(tmp_path / "none")})
    job.start()
    while not ended:
        job.poll()
        time.sleep(0.02)
    assert job.state is process.State.FAILED
    assert "weights" in job.error and str(tmp_path / "none") in job.error
    assert not (tmp_path / "out.nii").exists()
