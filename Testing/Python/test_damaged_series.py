"""Folders of DICOM slices that are damaged, incomplete, in units of their own, or hostile: right, told or refused."""

import json
import os
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from test_dicom import AXIAL, SHAPE, edit, tissue, write_series

from LNSynthLib import cli
from LNSynthLib.images.volume import Volume, read, write
from LNSynthLib.runtime.errors import LNSynthError


@pytest.fixture
def folder(tmp_path):
    return write_series(tmp_path / "ct", tissue(), AXIAL)


def field_as_text(file, name: str, text: str):
    """A field of exactly that text, as only another program would write it."""
    data = pydicom.dcmread(file)
    sevens = ["7" * len(part) for part in text.split("\\")]
    setattr(data, name, sevens)
    data.save_as(file)
    content, old = file.read_bytes(), "\\".join(sevens)
    assert content.count(old.encode()) == 1
    file.write_bytes(content.replace(old.encode(), text.encode()))


TEXTS = {
    "comma decimal": ("PixelSpacing", "0,7000000\\0,9000000", "PixelSpacing is '0,7000000, 0,9000000'"),
    "one number": ("PixelSpacing", "0.7654321", "PixelSpacing is '0.7654321', not 2 numbers"),
    "spacing 0": ("PixelSpacing", "0.00000000\\0.00000001", "PixelSpacing is 0 x 1e-08 mm"),
    "negative": ("PixelSpacing", "-0.7654321\\0.87654321", "PixelSpacing is -0.765"),
    "absurd": ("PixelSpacing", "0700000000\\0900000000", "which no CT has|pixel spacing differs"),
    "no number": ("ImagePositionPatient", "a2345678\\b2345678\\c2345678", "ImagePositionPatient is 'a2345678"),
    "NaN": ("ImagePositionPatient", "nan     \\12345678\\12345678", "ImagePositionPatient is"),
    "too few": ("ImagePositionPatient", "12345678\\87654321", "not 3 numbers"),
    "no directions": ("ImageOrientationPatient", "1.00\\0.00\\0.00\\1.00\\0.00\\0.00", "not a pair of directions"),
    "slope 0": ("RescaleSlope", "0.000000000000", "RescaleSlope is 0"),
    "slope NaN": ("RescaleSlope", "nan         ", "RescaleSlope is"),
    "intercept with comma": ("RescaleIntercept", "-1024,0000000", "RescaleIntercept is '-1024,0000000'"),
}


@pytest.mark.parametrize("name, text, why", TEXTS.values(), ids=TEXTS)
def test_fields_that_are_no_numbers_are_refused_by_name(folder, name, text, why):
    field_as_text(folder / "003.dcm", name, text)
    with pytest.raises(LNSynthError, match=why) as refusal:
        read(folder)
    assert "003.dcm: " in str(refusal.value)


@pytest.mark.parametrize("name, value, why", [
    ("RescaleSlope", None, "has no RescaleSlope"),
    ("RescaleIntercept", None, "has no RescaleIntercept"),
    ("RescaleType", "Z_EFF", "its values are Z_EFF"),
    ("PhotometricInterpretation", "MONOCHROME1", "stored as MONOCHROME1"),
    ("Rows", 0, "pixels cannot be read"),
    ("Rows", 60000, "pixels cannot be read"),
    ("NumberOfFrames", 500, "multi-frame"),
])
def test_slices_whose_numbers_are_no_hu_are_refused(folder, name, value, why):
    for file in folder.iterdir():
        edit(file, **{name: value})
    with pytest.raises(LNSynthError, match=why):
        read(folder)


@pytest.mark.parametrize("spoil", [
    lambda b: b"", lambda b: b[:140], lambda b: b[:20], lambda b: b[:420], lambda b: b[:-3],
    lambda b: b[:128] + b"XXXX" + b[132:], lambda b: b[:150] + b"\xff" * 60 + b[210:],
])
@pytest.mark.parametrize("which", ["000.dcm", "003.dcm"])  # an end of the series, where no gap would show it
def test_a_slice_that_cannot_be_read_is_not_passed_over(folder, spoil, which):
    (folder / which).write_bytes(spoil((folder / which).read_bytes()))
    with pytest.raises(LNSynthError, match=f"{which}: .*cannot be read"):
        read(folder)


def test_other_files_are_passed_over(folder):
    (folder / "notes.txt").write_text("not DICOM")
    (folder / "notes.dcm.txt").write_text("not DICOM")
    (folder / "README").write_bytes(bytes(200))
    assert read(folder).shape == SHAPE


def test_slices_that_may_be_missing_at_an_end_are_told(folder, caplog):
    assert read(folder).shape == SHAPE and not caplog.messages
    (folder / "000.dcm").unlink()  # number 1
    assert read(folder).shape == (*SHAPE[:2], SHAPE[2] - 1)
    assert "ct: its slices are numbered 2 to 9;" in caplog.messages[0]
    caplog.clear()
    for file in folder.iterdir():
        edit(file, ImagesInAcquisition=9, InstanceNumber=pydicom.dcmread(file).InstanceNumber - 1)
    read(folder)
    assert "said to have 9 images, and 8 are here" in caplog.messages[0] and len(caplog.messages) == 1


@pytest.mark.parametrize("events", ["json", "bar"])
def test_verbs_tell_that_slices_may_be_missing(folder, capsys, events):
    (folder / "000.dcm").unlink()
    nodes = folder.parent / "nodes.nii.gz"
    ct = read(folder)
    mask = np.zeros(ct.shape, np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    write(nodes, Volume(mask, ct.affine))
    cli.main(["nodes", "--ct", str(folder), "--nodes", str(nodes), "--measure", "--out",
              str(folder.parent / "nodes.csv"), "--anyway", "--events", events])
    out, err = capsys.readouterr()
    said = [line for line in (out if events == "json" else err).splitlines() if "slices are missing at one end" in line]
    assert len(said) == 1 and (json.loads(said[0])["stage"] == "note" if events == "json" else said[0][:5] == "note:")


def test_where_the_series_are_is_said(tmp_path):
    write_series(tmp_path / "study" / "b" / "thin", tissue(), AXIAL)
    write_series(tmp_path / "study" / "a", tissue(), AXIAL)
    for file in write_series(tmp_path / "study" / "mr", tissue(), AXIAL).iterdir():
        edit(file, Modality="MR")
    with pytest.raises(LNSynthError, match=r"study: the folder itself .*subfolders that do \(a, b/thin\)\."):
        read(tmp_path / "study")


def test_a_deflated_file_is_refused_before_it_is_unpacked(folder):
    file = folder / "003.dcm"
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(file)
    content = file.read_bytes()
    packed = zlib.compressobj(9, wbits=-15)
    bomb = packed.compress(bytes(50_000_000)) + packed.flush()
    for body in (content, content[:300] + bomb):
        file.write_bytes(body)
        with pytest.raises(LNSynthError, match="003.dcm: it is stored deflated"):
            read(folder)


def test_more_than_the_memory_is_refused_before_it_is_asked_for(folder):
    """Compressed slices may announce any size: one of 65535 x 65535 is 8.6 GB, and nine are 155 GB in memory."""
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        data.Rows = data.Columns = 65535
        data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f" * 50])
        data["PixelData"].is_undefined_length = True
        data.save_as(file)
    with pytest.raises(LNSynthError, match="its header announces 8.6 GB"):
        read(folder)
    for file in folder.iterdir():  # as large as such a slice may be
        os.truncate(file, 10_000_000)
    with pytest.raises(LNSynthError, match="155 GB|154.6 GB"):
        read(folder)
    assert np.prod((65535, 65535, 9)) * 4 > 150e9
