"""Masks of every kind come in by one door, and nothing in them is lost or ignored in silence."""

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from test_dicom import edit, write_series
from test_insert import body, grid
from test_provenance import generator  # noqa: F401

from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.cli import main
from LNSynthLib.images.volume import Volume, canonical, read, write
from LNSynthLib.masks.read import EVERY, read_anatomy, read_nodes
from LNSynthLib.masks.segment_names import dicom_codes, is_lymph_node, structure_id
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import read_json

TISSUE = ("85756007", "SCT", "Tissue")
NODE = ("59441001", "SCT", "Lymph node")
AFFINE = grid((4.0, 4.0, 5.0))[1] @ np.diag([-1.0, -1, 1, 1])
AFFINE[:3, 3] = -AFFINE[:3, :3] @ ((np.array(grid((4.0, 4.0, 5.0))[0]) - 1) / 2)


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """(folder of a DICOM series, its CT): a cylinder of fat with a wall of muscle, and LN1 in it."""
    shape = grid((4.0, 4.0, 5.0))[0]
    hu = body(shape, AFFINE)[0].array
    hu[blocks(shape)["LN1"]] += 150
    folder = write_series(tmp_path_factory.mktemp("patient") / "ct", hu, AFFINE, "P1")
    return folder, read(folder)


def blocks(shape) -> dict[str, np.ndarray]:
    """LN1 lies half in LN2, which is larger; LN3 and a liver apart."""
    masks = {name: np.zeros(shape, bool) for name in ("LN2", "LN1", "LN3", "liver")}
    masks["LN2"][15:20, 12:17, 8:12] = True
    masks["LN1"][18:22, 14:16, 9:11] = True
    masks["LN3"][24:26, 20:22, 14:16] = True
    masks["liver"][10:14, 20:26, 14:18] = True
    return masks


def write_segments(path, masks, folder, codes=None):
    """A binary DICOM SEG; segments may overlap. codes: of each segment's type, in order."""
    files = sorted(folder.iterdir(), key=lambda f: pydicom.dcmread(f).ImagePositionPatient[2])
    source = [pydicom.dcmread(file) for file in files]
    described = [highdicom.seg.SegmentDescription(
        n, label, highdicom.sr.CodedConcept(*TISSUE), highdicom.sr.CodedConcept(*code), "MANUAL")
        for n, (label, code) in enumerate(zip(masks, codes or [TISSUE] * len(masks), strict=True), 1)]
    pixels = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], -1).astype(np.uint8)
    highdicom.seg.Segmentation(
        source, pixels, "BINARY", described, highdicom.UID(), 300, highdicom.UID(), 1, "test", "test", "1", "1",
    ).save_as(path)
    return path


def write_slicer(path, masks, affine, layers, crop=(slice(None),) * 3):
    """A .seg.nrrd as Slicer writes it. layers: the names in each; crop: the part of the CT that it covers."""
    arrays, fields, n = [], {}, 0
    for layer, names in enumerate(layers):
        array = np.zeros(next(iter(masks.values())).shape, np.uint8)
        for value, name in enumerate(names, 1):
            array[masks[name]] = value
            fields |= {f"Segment{n}_ID": f"S{n}", f"Segment{n}_Name": name, f"Segment{n}_Layer": str(layer),
                       f"Segment{n}_LabelValue": str(value)}
            n += 1
        arrays.append(sitk.GetImageFromArray(np.ascontiguousarray(array[crop].T)))
    image = arrays[0] if len(arrays) == 1 else sitk.Compose(arrays)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((lps @ [*(s.start or 0 for s in crop), 1])[:3].tolist())
    for key, value in fields.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def sizes(mask: Volume) -> list[int]:
    return np.bincount(mask.array.ravel())[1:].tolist()


# --- what is a lymph node -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "LK paraaortal", "Lymphknoten 2", "LN1", "LN-4R", "LymphNode_3", "paraaortic LNs", "lymph node no. 2", "Node 4",
    "Ganglion lymphatique", "Adénopathie", "Ganglio linfático 2", "Linfonodo", "Węzeł chłonny 1", "Mízní uzlina",
    "Lymfkörtel", "lymfeklier links", "лимфоузел", "リンパ節1", "淋巴结", "림프절 2", "lenf nodu", "λεμφαδένας",
    "عقدة لمفاوية",
])
def test_names_of_lymph_nodes(name):
    assert is_lymph_node(name)


@pytest.mark.parametrize("name", ["liver", "AV node", "celiac ganglion", "non-lymph node", "no lymph nodes", "kidney",
                                  "lung nodule", "lymphatic vessel", "Lymphom", "milk", "balkon", "vertebrae_L1"])
def test_names_of_what_is_none(name):
    assert not is_lymph_node(name)


def test_codes_say_what_names_do_not():
    assert is_lymph_node("target 1", "", (("SCT", "59441001"),)) and is_lymph_node("target 1", "Abdominal lymph node")
    assert is_lymph_node("target 1", "", (("SCT", "91394001"),)), "a retroperitoneal lymph node"
    assert not is_lymph_node("target 1", "Liver", (("SCT", "10200004"),))
    assert 150 < len(dicom_codes()) < 300


def test_structures_by_name_and_code():
    assert [structure_id(name) for name in ("aorta", "Right Kidney", "kidney_right", "vertebrae_L1", "IVC")] == [
        52, 2, 2, 31, 63]
    assert structure_id("tumour") is None and structure_id("x", (("SCT", "64033007"), ("SCT", "24028007"))) == 2


# --- DICOM SEG ------------------------------------------------------------------------------------------------------


def test_overlapping_segments_lose_no_node_and_are_told(patient, tmp_path):
    folder, ct = patient
    masks, told = blocks(ct.shape), []
    del masks["liver"]
    seg = write_segments(tmp_path / "seg.dcm", masks, folder)
    found = read_nodes(seg, ct, told.append, source=folder)
    expected = np.where(masks["LN2"], 1, 0)
    expected[masks["LN1"]], expected[masks["LN3"]] = 2, 3
    np.testing.assert_array_equal(found.array, expected)
    assert told == [f"{seg}: the segments 'LN2' and 'LN1' overlap in 8 voxels (0.64 mL), which count to 'LN1', the "
                    "smaller of the two"]


def test_a_node_that_another_covers_is_told(patient, tmp_path):
    folder, ct = patient
    masks, told = {"LN1": blocks(ct.shape)["LN1"], "LN2": blocks(ct.shape)["LN1"]}, []
    found = read_nodes(write_segments(tmp_path / "seg.dcm", masks, folder), ct, told.append)
    assert sizes(found) == [0, 16] and "'LN1' lies under others and gives no node" in told[-1]


def test_what_is_not_called_a_node_is_listed_with_the_way_to_name_it(patient, tmp_path, capsys):
    folder, ct = patient
    masks, told = blocks(ct.shape), []
    seg = write_segments(tmp_path / "seg.dcm", masks, folder)
    assert sizes(read_nodes(seg, ct, told.append)) == [92, 16, 8]
    assert "1 of 4 segments are not called lymph nodes and are ignored (liver); name those that are nodes with " \
           "--segments. Taken: 1 'LN2', 2 'LN1', 3 'LN3'" in told[-1]
    assert sizes(read_nodes(seg, ct, told.append, names=["Liver", "ln 3"])) == [8, 96]
    assert len(sizes(read_nodes(seg, ct, told.append, names=EVERY))) == 4
    with pytest.raises(LNSynthError, match="there is no segment 'spleen'; it has LN2, LN1, LN3, liver"):
        read_nodes(seg, ct, told.append, names=["spleen"])
    assert main(["nodes", "--ct", str(folder), "--nodes", str(seg), "--measure", "--segments", "LN3"]) == 0
    assert main(["nodes", "--ct", str(folder), "--nodes", str(seg), "--measure"]) == 0
    assert "ignored (liver)" in capsys.readouterr().err


@pytest.mark.parametrize("keyword, value, what", [("PatientID", "P2", "patient is P2, and that of .*ct is P1"),
                                                  ("FrameOfReferenceUID", "1.2.3", "frame of reference is 1.2.3")])
def test_a_seg_of_another_patient_is_refused_with_both_named(patient, tmp_path, keyword, value, what):
    folder, ct = patient
    seg = write_segments(tmp_path / "seg.dcm", {"LN": blocks(ct.shape)["LN3"]}, folder)
    edit(seg, **{keyword: value})
    with pytest.raises(LNSynthError, match=f"seg.dcm: the SEG was drawn on another CT .its {what}"):
        read_nodes(seg, ct, print, source=folder)
    edit(seg, **{keyword: ""})  # blank after de-identification
    assert sizes(read_nodes(seg, ct, print, source=folder)) == [8]


def test_every_verb_takes_a_seg(patient, tmp_path, generator, capsys):  # noqa: F811
    folder, ct = patient
    masks = blocks(ct.shape)
    seg = write_segments(tmp_path / "case.dcm", {"LN1": masks["LN1"], "LN3": masks["LN3"]}, folder, [NODE, NODE])
    plain = Volume(np.where(masks["LN1"], 1, 0) + np.where(masks["LN3"], 2, 0), ct.affine)
    write(tmp_path / "nodes.nii.gz", canonical(plain), dtype=np.uint8)
    where = ["--ct", str(folder), "--nodes", str(seg)]
    assert main(["nodes", "--nodes", str(seg), "--measure", "--out", str(tmp_path / "a.json")]) == 0
    assert main(["nodes", *where, "--remove", "1", "--out", str(tmp_path / "fewer.nii.gz")]) == 0
    assert sizes(read(tmp_path / "fewer.nii.gz")) == [0, 8]
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "images" / "case").symlink_to(folder)
    (tmp_path / "masks" / "case.dcm").symlink_to(seg)
    assert main(["import", "--images", str(tmp_path / "images"), "--nodes", str(tmp_path / "masks"), "--out",
                 str(tmp_path / "data"), "--anyway"]) == 0
    assert sizes(Dataset.open(tmp_path / "data").load("case").nodes) == [16, 8]
    options = ["--generator", str(generator), "--steps", "1", "--device", "cpu"]
    assert main(["insert", *where, *options, "--only", "2", "--out", str(tmp_path / "out.nii.gz")]) == 0
    changed = np.argwhere(read(tmp_path / "out.nii.gz").array != ct.array).mean(axis=0)
    assert np.allclose(changed, [24.5, 20.5, 14.5], atol=1.5)
    assert main(["variants", *where, *options, "--out", str(tmp_path / "samples"), "--prefix", "v"]) == 0
    assert sizes(read(tmp_path / "samples" / "v-001" / "nodes.nii.gz")) == [16, 8]
    for predicted, truth in ((seg, tmp_path / "nodes.nii.gz"), (tmp_path / "nodes.nii.gz", seg), (seg, seg)):
        assert main(["evaluate", "segmentation", "--predicted", str(predicted), "--truth", str(truth), "--out",
                     str(tmp_path / "scores")]) == 0
        (case,) = read_json(tmp_path / "scores" / "scores.json")["cases"].values()
        assert case["dsc"] == 1 and [node["id"] for node in case["nodes"]] == [1, 2]


# --- .seg.nrrd ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [[["liver", "LN1", "LN3"]], [["liver", "LN2"], ["LN1", "LN3"]]])
@pytest.mark.parametrize("crop", [(slice(None),) * 3, (slice(8, 30), slice(9, 28), slice(5, 20))])
def test_nodes_of_a_seg_nrrd_in_layers_and_of_a_part_of_the_ct(patient, tmp_path, layers, crop):
    _, ct = patient
    masks, told = blocks(ct.shape), []
    path = write_slicer(tmp_path / "nodes.seg.nrrd", masks, ct.affine, layers, crop)
    found = read_nodes(path, canonical(ct), told.append)
    names = [name for names in layers for name in names if name != "liver"]
    expected = np.zeros(ct.shape, np.uint16)
    for name in sorted(names, key=lambda name: -masks[name].sum()):
        expected[masks[name]] = names.index(name) + 1
    np.testing.assert_array_equal(found.array, canonical(Volume(expected, ct.affine)).array)
    assert "ignored (liver)" in told[-1] and len(told) == len(layers)


def test_a_seg_nrrd_knows_slicers_terminology(patient, tmp_path):
    _, ct = patient
    path = write_slicer(tmp_path / "a.seg.nrrd", blocks(ct.shape), ct.affine, [["liver", "LN1"]])
    image = sitk.ReadImage(str(path))
    image.SetMetaData("Segment0_Name", "Segment_1")
    image.SetMetaData("Segment1_Name", "Segment_2")
    image.SetMetaData("Segment1_Tags", "Segmentation.Status:inprogress|TerminologyEntry:Segmentation category and type"
                      " - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^59441001^Lymph node~^^~Anatomic codes"
                      " - DICOM master list~^^~^^|")
    sitk.WriteImage(image, str(path))
    assert sizes(read_nodes(path, ct, print)) == [16]


def test_a_segmentation_without_a_node_is_refused(patient, tmp_path):
    _, ct = patient
    path = write_slicer(tmp_path / "a.seg.nrrd", blocks(ct.shape), ct.affine, [["liver"]])
    with pytest.raises(LNSynthError, match="a.seg.nrrd: no segment is called a lymph node .but liver.; name those"):
        read_nodes(path, ct, print)


# --- label tables ---------------------------------------------------------------------------------------------------


def labelled(path, volume: Volume, names: dict[int, str]):
    """A NIfTI with a label table in its header, as TotalSegmentator writes it."""
    rows = "\n".join(f'<Label Key="{key}" Red="1.0" Green="0.0" Blue="0.0" Alpha="1"><![CDATA[{name}]]></Label>'
                     for key, name in names.items())
    image = nibabel.Nifti1Image(volume.array, volume.affine)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(
        0, f"<CaretExtension><VolumeInformation><LabelTable>{rows}</LabelTable></VolumeInformation></CaretExtension>"
        .encode()))
    nibabel.save(image, path)
    return path


def test_an_anatomy_is_read_by_its_own_names(tmp_path):
    labels = Volume(np.array([0, 1, 5, 9], np.uint8).reshape(1, 2, 2).repeat(2, 0), np.diag([2.0, 2, 2, 1]))
    told = []
    path = labelled(tmp_path / "named.nii.gz", labels, {1: "liver", 5: "aorta", 9: "tumour"})
    found, version = read_anatomy(path, None, 1, told.append)
    assert version == 2 and found.array[0].ravel().tolist() == [0, 5, 52, 0]
    assert "1 of its 3 names are not structures of TotalSegmentator and are ignored (tumour)" in told[0]
    assert "read by the names in its header, not as ids of TotalSegmentator v1 (1 liver, 5 aorta)" in told[1]
    told.clear()
    path = labelled(tmp_path / "same.nii.gz", labels, {1: "spleen", 5: "liver", 9: "adrenal_gland_left"})
    found, _ = read_anatomy(path, None, 2, told.append)
    assert np.array_equal(found.array, labels.array) and told == []
    with pytest.raises(LNSynthError, match="none of its names is a structure"):
        read_anatomy(labelled(tmp_path / "x.nii.gz", labels, {1: "a", 5: "b", 9: "c"}), None, 2, told.append)


def test_organs_of_a_seg_nrrd_and_of_a_seg(patient, tmp_path):
    folder, ct = patient
    masks = {"Right kidney": blocks(ct.shape)["LN3"], "liver": blocks(ct.shape)["liver"]}
    for path in (write_slicer(tmp_path / "a.seg.nrrd", masks, ct.affine, [list(masks)]),
                 write_segments(tmp_path / "seg.dcm", masks, folder)):
        found, version = read_anatomy(path, ct, 1, print, source=folder)
        assert version == 2 and np.array_equal(found.array, 2 * masks["Right kidney"] + 5 * masks["liver"])


def test_a_mask_whose_table_names_organs_is_no_node_mask(tmp_path):
    labels = Volume(np.array([0, 1, 5, 5], np.uint8).reshape(1, 2, 2).repeat(2, 0), np.diag([2.0, 2, 2, 1]))
    with pytest.raises(LNSynthError, match="no segment is called a lymph node .but spleen, liver."):
        read_nodes(labelled(tmp_path / "a.nii.gz", labels, {1: "spleen", 5: "liver"}), None, print)
    told = []
    found = read_nodes(labelled(tmp_path / "b.nii.gz", labels, {1: "lymph node", 5: "liver"}), None, told.append)
    assert sizes(found) == [2] and "ignored (liver)" in told[0]
