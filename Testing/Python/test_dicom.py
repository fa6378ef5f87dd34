"""DICOM CT series and DICOM SEG: written here slice by slice and read back, with SimpleITK as a second reader."""

import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from itk_volume import from_sitk
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from LNSynthLib.images.dicom_series import ct_grid
from LNSynthLib.images.volume import LPS, Volume, canonical, read, same_grid
from LNSynthLib.masks.dicom_seg import find_seg, is_seg, write_seg
from LNSynthLib.masks.read import EVERY, read_nodes
from LNSynthLib.runtime.errors import Cancelled, LNSynthError

SHAPE = (16, 12, 9)
AXIAL = np.array([[-0.7, 0, 0, 40], [0, -0.9, 0, 30], [0, 0, 2.5, -100], [0, 0, 0, 1.0]])


def turned(seed: int) -> np.ndarray:
    """Any orientation with the slice axis along the normal, as scanners write it."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation[:, 2] *= np.linalg.det(rotation)
    affine = np.eye(4)
    affine[:3, :3] = LPS[:3, :3] @ rotation * [0.7, 0.9, 2.5]
    affine[:3, 3] = rng.normal(size=3) * 50
    return affine


def tissue(seed: int = 0, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)


def write_series(folder, hu, affine, patient="P1", slopes=None):
    """Write (X, Y, Z) HU as a single-frame CT series; file names are shuffled: order must come from positions."""
    folder.mkdir(parents=True, exist_ok=True)
    uid, study, frame = generate_uid(), generate_uid(), generate_uid()
    lps = LPS @ affine
    columns = lps[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    for k in range(hu.shape[2]):
        slope, intercept = slopes[k] if slopes else (1, -1024)
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, uid, frame
        data.Modality, data.PatientID, data.PatientName = "CT", patient, "Doe^Jane"
        data.PatientBirthDate = data.PatientSex = data.StudyDate = data.StudyTime = data.AccessionNumber = ""
        data.StudyID, data.SeriesNumber, data.InstanceNumber, data.SeriesDescription = "1", 1, k + 1, "abdomen"
        data.Manufacturer, data.PositionReferenceIndicator, data.SliceThickness = "test", "", 3
        data.Rows, data.Columns, data.SamplesPerPixel = hu.shape[1], hu.shape[0], 1
        data.PhotometricInterpretation, data.BitsAllocated, data.BitsStored, data.HighBit = "MONOCHROME2", 16, 16, 15
        data.PixelRepresentation, data.RescaleSlope, data.RescaleIntercept = 0, slope, intercept
        data.ImageOrientationPatient = [*columns[:, 0].round(9), *columns[:, 1].round(9)]
        data.ImagePositionPatient = list((lps @ [0, 0, k, 1])[:3].round(6))
        data.PixelSpacing = [float(n) for n in np.linalg.norm(affine[:3, :3], axis=0)[[1, 0]].round(9)]
        data.PixelData = np.ascontiguousarray(((hu[:, :, k].T - intercept) / slope).round().astype(np.uint16)).tobytes()
        data.save_as(folder / f"{(k * 7) % hu.shape[2]:03d}.dcm", enforce_file_format=True)
    return folder


def read_seg(path, ct, names=()):
    return read_nodes(path, ct, lambda _: None, names=names)


def edit(path, **tags):
    data = pydicom.dcmread(path)
    for tag, value in tags.items():
        setattr(data, tag, value)
    data.save_as(path)


# --- CT series ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [AXIAL, AXIAL @ np.diag([1, 1, -1, 1]), turned(1), turned(2), turned(3)])
def test_a_series_comes_back_in_hu_and_in_place(tmp_path, affine):
    hu = tissue()
    write_series(tmp_path / "ct", hu, affine)
    (tmp_path / "ct" / "notes.txt").write_text("not DICOM")
    ours = read(tmp_path / "ct")
    theirs = sitk.ImageSeriesReader()
    theirs.SetFileNames(theirs.GetGDCMSeriesFileNames(str(tmp_path / "ct")))
    theirs = from_sitk(theirs.Execute())
    for found in (ours, theirs):  # both may run through the slices from the other end
        assert same_grid(canonical(found), canonical(Volume(hu, affine)), tol=1e-3)[0]
        np.testing.assert_array_equal(canonical(found).array, canonical(Volume(hu, affine)).array)


def test_each_slice_has_its_own_rescale(tmp_path):
    hu = tissue()
    slopes = [(1, -1024) if k % 2 else (0.5, -2000) for k in range(SHAPE[2])]
    write_series(tmp_path / "ct", hu, AXIAL, slopes=slopes)
    found = read(tmp_path / "ct")
    np.testing.assert_allclose(canonical(found).array, canonical(Volume(hu, AXIAL)).array, atol=0.5)


def test_a_tilted_gantry_is_kept_as_shear(tmp_path):
    affine = AXIAL.copy()
    affine[1, 2] = 0.6
    hu = tissue()
    found = read(write_series(tmp_path / "ct", hu, affine))
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(found.array, hu)


def missing_slice(folder):
    (folder / "003.dcm").unlink()
    return "slices are missing or irregular, 5.00 mm lie between"


def doubled_slice(folder):
    shutil.copy(folder / "003.dcm", folder / "copy.dcm")
    edit(folder / "copy.dcm", SOPInstanceUID=generate_uid())
    return "lie at the same position"


def two_series(folder):
    write_series(folder / "other", tissue(), AXIAL)
    for file in (folder / "other").iterdir():
        file.rename(folder / f"b{file.name}")
    (folder / "other").rmdir()
    return "holds 2 CT series \\(9 slices of 'abdomen'"


def other_orientation(folder):
    edit(folder / "003.dcm", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    return "its orientation differs"


def other_spacing(folder):
    edit(folder / "003.dcm", PixelSpacing=[0.9, 0.8])
    return "its pixel spacing differs"


def other_size(folder):
    edit(folder / "003.dcm", Rows=11, PixelData=bytes(16 * 11 * 2))
    return "its size differs"


def localizer(folder):
    data = pydicom.dcmread(folder / "003.dcm")
    del data.ImagePositionPatient
    data.save_as(folder / "003.dcm")
    return "does not say where it lies"


def multi_frame(folder):
    edit(folder / "003.dcm", NumberOfFrames=2)
    return "enhanced multi-frame"


def colour(folder):
    edit(folder / "003.dcm", SamplesPerPixel=3)
    return "colour image"


def single_slice(folder):
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()
    return "single slice"


def no_ct(folder):
    for file in folder.iterdir():
        edit(file, Modality="MR")
    return "no DICOM CT slice"


def empty(folder):
    for file in folder.iterdir():
        file.unlink()
    return "no DICOM CT slice"


def crooked(folder):
    positions = pydicom.dcmread(folder / "003.dcm").ImagePositionPatient
    edit(folder / "003.dcm", ImagePositionPatient=[positions[0] + 4, positions[1], positions[2]])
    return "not lie on one straight line"


def truncated(folder):
    file = folder / "003.dcm"
    file.write_bytes(file.read_bytes()[:-200])
    return "its pixels cannot be read"


@pytest.mark.parametrize("spoil", [missing_slice, doubled_slice, two_series, other_orientation, other_spacing,
                                   other_size, localizer, multi_frame, colour, single_slice, no_ct, empty, crooked,
                                   truncated])
def test_what_is_no_single_regular_series_is_refused(tmp_path, spoil):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    why = spoil(folder)
    with pytest.raises(LNSynthError, match=why) as refusal:
        read(folder)
    assert str(folder) in str(refusal.value) and ";" in str(refusal.value)


def test_slices_of_other_modalities_are_passed_over(tmp_path):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    shutil.copy(folder / "003.dcm", folder / "dose.dcm")
    edit(folder / "dose.dcm", Modality="RTDOSE", SeriesInstanceUID=generate_uid())
    assert read(folder).shape == SHAPE


# --- SEG ------------------------------------------------------------------------------------------------------------


def nodes_on(affine, shape=SHAPE) -> Volume:
    nodes = np.zeros(shape, np.uint16)
    nodes[3:6, 4:7, 2:4] = 1
    nodes[9:11, 2:5, 6] = 2
    nodes[6, 4:6, 2] = 3  # touches the first
    return Volume(nodes, affine)


@pytest.mark.parametrize("affine", [AXIAL, turned(4), turned(5)])
def test_nodes_survive_the_way_through_a_seg(tmp_path, affine):
    folder = write_series(tmp_path / "ct", tissue(), affine)
    nodes = nodes_on(affine)
    write_seg(tmp_path / "seg.dcm", canonical(nodes), folder)
    assert is_seg(tmp_path / "seg.dcm") and not is_seg(folder / "003.dcm")
    ct = read(folder)
    for image in (ct, canonical(ct)):
        found = read_seg(tmp_path / "seg.dcm", image)
        assert same_grid(found, image)[0] and found.array.dtype == np.uint16
        np.testing.assert_array_equal(canonical(found).array, canonical(nodes).array)


def test_a_seg_says_what_it_is(tmp_path):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL, patient="P7")
    write_seg(tmp_path / "seg.dcm", nodes_on(AXIAL), folder)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.PatientID == "P7" and seg.Modality == "SEG" and len(seg.SegmentSequence) == 3
    code = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("59441001", "SCT")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == pydicom.dcmread(folder / "003.dcm").SeriesInstanceUID


def test_a_seg_of_one_slice_finds_its_place(tmp_path):
    """The distance of slices cannot be seen from one frame, and the thickness, 3 mm here, is not those 2.5 mm."""
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    nodes = np.zeros(SHAPE, np.uint16)
    nodes[3:6, 4:7, 5] = 1
    write_seg(tmp_path / "seg.dcm", Volume(nodes, AXIAL), folder)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SliceThickness = 3
    if "SpacingBetweenSlices" in measures:
        measures.SpacingBetweenSlices = 3
    seg.save_as(tmp_path / "seg.dcm")
    found = read_seg(tmp_path / "seg.dcm", read(folder))
    np.testing.assert_array_equal(canonical(found).array, canonical(Volume(nodes, AXIAL)).array)


def test_a_seg_that_skips_slices_fills_none_of_them(tmp_path):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    nodes = np.zeros(SHAPE, np.uint16)
    nodes[3:6, 4:7, [0, 4, 8]] = 1
    write_seg(tmp_path / "seg.dcm", Volume(nodes, AXIAL), folder)
    found = read_seg(tmp_path / "seg.dcm", read(folder))
    np.testing.assert_array_equal(canonical(found).array, canonical(Volume(nodes, AXIAL)).array)


def test_only_lymph_nodes_are_taken_unless_all_are_wanted(tmp_path):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    write_seg(tmp_path / "seg.dcm", nodes_on(AXIAL), folder)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    for segment, label in zip(seg.SegmentSequence, ("liver", "Lymph Node 2", "spleen"), strict=True):
        segment.SegmentLabel = label
        segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "10200004"
        segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning = "Organ"
    seg.save_as(tmp_path / "mixed.dcm")
    ct, nodes = read(folder), canonical(nodes_on(AXIAL)).array
    np.testing.assert_array_equal(canonical(read_seg(tmp_path / "mixed.dcm", ct)).array, nodes == 2)
    np.testing.assert_array_equal(canonical(read_seg(tmp_path / "mixed.dcm", ct, EVERY)).array, nodes)
    seg.SegmentSequence[1].SegmentLabel = "kidney"
    seg.save_as(tmp_path / "organs.dcm")
    with pytest.raises(LNSynthError, match="organs.dcm: no segment is called a lymph node .but liver, kidney, spleen"):
        read_seg(tmp_path / "organs.dcm", ct)


def test_a_seg_of_another_ct_is_refused(tmp_path):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    write_seg(tmp_path / "seg.dcm", nodes_on(AXIAL), folder)
    ct = read(folder)
    for affine, shape, why in (
        (AXIAL @ np.diag([1.1, 1, 1, 1]), SHAPE, "voxels are not the CT's"),
        (AXIAL + np.array([[0, 0, 0, 0.3], *[[0] * 4] * 3]), SHAPE, "voxels are not the CT's"),
        (AXIAL, (16, 12, 3), "lies outside the CT"),
    ):
        with pytest.raises(LNSynthError, match=f"seg.dcm: .*{why}"):
            read_seg(tmp_path / "seg.dcm", Volume(np.zeros(shape), affine))
    assert read_seg(tmp_path / "seg.dcm", ct).array.any()


def test_a_damaged_seg_is_refused(tmp_path):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    write_seg(tmp_path / "seg.dcm", nodes_on(AXIAL), folder)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    del seg.SegmentSequence
    seg.save_as(tmp_path / "seg.dcm")
    with pytest.raises(LNSynthError, match="seg.dcm: the DICOM SEG cannot be read"):
        read_seg(tmp_path / "seg.dcm", read(folder))


def test_cancelling_while_a_seg_is_read_is_no_damage(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise Cancelled("stopped by SIGINT")

    write_seg(tmp_path / "seg.dcm", nodes_on(AXIAL), write_series(tmp_path / "ct", tissue(), AXIAL))
    monkeypatch.setattr("highdicom.seg.Segmentation.from_dataset", stopped)
    with pytest.raises(Cancelled):
        read_seg(tmp_path / "seg.dcm", Volume(tissue(), AXIAL))


def test_an_empty_mask_gives_no_seg(tmp_path):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    with pytest.raises(LNSynthError, match="the node mask is empty"):
        write_seg(tmp_path / "seg.dcm", Volume(np.zeros(SHAPE, np.uint16), AXIAL), folder)
    assert not (tmp_path / "seg.dcm").exists()


def test_which_seg_of_a_folder(tmp_path):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    with pytest.raises(LNSynthError, match="holds 0 DICOM SEG files"):
        find_seg(folder)
    write_seg(folder / "seg.dcm", nodes_on(AXIAL), folder)
    assert find_seg(folder) == folder / "seg.dcm"
    assert read(folder).shape == SHAPE  # the SEG beside the slices does not disturb the CT


# --- real DICOM -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_series(shared_data, tmp_path_factory):
    """The real slab with the identifiers that its de-identification blanked, as the SEG must refer to them."""
    folder, series, study = tmp_path_factory.mktemp("slab"), generate_uid(), generate_uid()
    for file in (shared_data / "ts_slab_dicom").iterdir():
        data = pydicom.dcmread(file)
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.StudyInstanceUID, data.PatientID = series, study, "slab"
        data.save_as(folder / file.name)
    return folder


def test_a_real_series_reads_as_simpleitk_reads_it(shared_data):
    ours = read(shared_data / "ts_slab_dicom")
    theirs = sitk.ImageSeriesReader()
    theirs.SetFileNames(theirs.GetGDCMSeriesFileNames(str(shared_data / "ts_slab_dicom")))
    theirs = from_sitk(theirs.Execute())
    assert same_grid(ours, theirs, tol=1e-6)[0] and np.array_equal(ours.array, theirs.array)
    assert ours.shape == (512, 512, 20) and -1100 < ours.array.min() < -900


def test_real_labels_survive_the_way_through_a_seg_on_real_dicom(shared_data, real_series, tmp_path):
    """The aorta of the NIfTI labels, which count rows the other way, as a node of the DICOM series."""
    labels = read(shared_data / "ts_slab_labels.nii.gz")
    aorta = Volume((labels.array == 52).astype(np.uint16), labels.affine)
    assert aorta.array.sum() > 1000
    write_seg(tmp_path / "seg.dcm", aorta, real_series)
    found = read_seg(tmp_path / "seg.dcm", read(real_series))
    np.testing.assert_array_equal(canonical(found).array, canonical(aorta).array)
    assert ct_grid(real_series)[2] == found.shape
