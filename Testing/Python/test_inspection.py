"""`lnsynth inspect`: identifiers planted in every kind of file are found; what we write ourselves has none."""

import getpass
import gzip
import json
import socket
import struct
import zipfile

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image, PngImagePlugin
from test_dicom import AXIAL, edit, tissue, write_series

from LNSynthLib import cli
from LNSynthLib.images.ct_file import open_ct
from LNSynthLib.images.volume import Volume, read, write
from LNSynthLib.inspection import inspect
from LNSynthLib.runtime.errors import LNSynthError

WHO = "Doe^Jane"


def ct() -> np.ndarray:
    x, y, _ = np.ogrid[:20, :20, :6]
    return np.where((x - 10) ** 2 + (y - 10) ** 2 < 60, 40, -1000).astype(np.int16) + np.zeros((1, 1, 6), np.int16)


def planted_nifti(path):
    image = nibabel.Nifti1Image(ct(), np.diag([2, 2, 3, 1.0]))
    for field, text in (("descrip", "descrip"), ("aux_file", "aux"), ("db_name", "db"), ("intent_name", "intent")):
        image.header[field] = f"{text} {WHO}".encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", f"extension {WHO} 1970-01-31".encode()))
    nibabel.save(image, path)


def planted_itk(path):
    image = sitk.GetImageFromArray(ct().T)
    image.SetMetaData("PatientName", WHO)
    image.SetMetaData("StudyDate", "20240131")
    sitk.WriteImage(image, str(path))


@pytest.fixture
def folder(tmp_path):
    f = tmp_path / "shared"
    write_series(f / "dicom", tissue(), AXIAL)
    for file in (f / "dicom").iterdir():
        edit(file, InstitutionName="St. Elsewhere", StudyDate="20240131")
    planted_nifti(f / "a.nii.gz")
    planted_itk(f / "b.nrrd")
    planted_itk(f / "c.mha")
    with open(f / "d.nii.gz", "wb") as stream, gzip.GzipFile("Jane_Doe.nii", "wb", fileobj=stream) as packed:
        packed.write(gzip.open(f / "a.nii.gz").read())
    about = PngImagePlugin.PngInfo()
    about.add_text("Comment", f"png {WHO}")
    Image.new("L", (4, 4)).save(f / "e.png", pnginfo=about)
    head = json.dumps({"__metadata__": {"trained": f"weights {WHO}"}}).encode()
    (f / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    (f / "provenance.json").write_text(json.dumps({
        "source": {"case": f"case {WHO}", "file": "/Users/jane/scans/x.nii.gz"}, "made": "2024-01-31T10:00:00Z",
        "on": socket.gethostname(), "patients": {"P 77": {"patient": "P 77"}}}))
    (f / "review.csv").write_text("sample,reviewer,note\na-1,Jane Doe,\"see C:\\Users\\jane\\x.nii\"\n")
    (f / "run.log").write_text(f"{getpass.getuser()} began at /scratch/project/data on 31.01.2024\n")
    (f / "weights.pth").write_bytes(b"PK..")
    torch.save({"network_weights": {"a": torch.zeros(2)}}, f / "real.pth")
    np.savez(f / "trained_on.npz", **{"a" * 64: np.zeros((4, 4, 4)), "b" * 64: np.zeros((4, 4, 4))})
    np.savez(f / "fingerprint.npz", cells=np.zeros((4, 4, 4)), voxels="c" * 64, ct="d" * 64)
    np.savez(f / "case.npz", nodes=np.zeros(3))
    with zipfile.ZipFile(f / "all.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("Doe_Jane/ct.nii", (2024, 1, 31, 0, 0, 0)), b"")
        archive.comment = f"zip {WHO}".encode()
    exif = Image.Exif()
    exif[0x013B] = f"jpeg {WHO}"  # Artist
    Image.new("L", (4, 4)).save(f / "e.jpg", exif=exif, comment=f"comment {WHO}")
    (f / f"events.{socket.gethostname()}.log").write_text("")
    (f / "link.nii.gz").symlink_to("/archive/jane/secret.nii.gz")
    (f / "20240131_DOE_JANE.txt").write_text("")
    return f


def test_what_was_planted_is_found(folder, capsys):
    found = inspect(folder)

    def texts(kind, file):
        return " | ".join(f"{f.where}: {f.text}" for f in found if f.kind == kind and f.file == file)

    for text in ("descrip", "aux", "db", "intent", "extension"):
        assert f"{text} {WHO}" in texts("header", "a.nii.gz")
    assert "1970-01-31" in texts("date", "a.nii.gz")
    for file in ("b.nrrd", "c.mha"):
        assert f"PatientName: {WHO}" in texts("header", file) and "20240131" in texts("date", file), file
    assert "gzip name: Jane_Doe.nii" in texts("header", "d.nii.gz")
    assert f"Comment: png {WHO}" in texts("header", "e.png")
    assert f"trained: weights {WHO}" in texts("header", "model.safetensors")
    dicom = texts("header", "dicom/000.dcm")
    assert WHO in dicom and "St. Elsewhere" in dicom and "PatientID: P1" in dicom
    assert f"source.case: case {WHO}" in texts("id", "provenance.json") and "P 77" in texts("id", "provenance.json")
    assert "/Users/jane/scans/x.nii.gz" in texts("path", "provenance.json")
    assert "2024-01-31T10:00:00Z" in texts("date", "provenance.json")
    assert socket.gethostname() in texts("host", "provenance.json") and getpass.getuser() in texts("host", "run.log")
    assert "Jane Doe" in texts("id", "review.csv") and "C:\\Users\\jane\\x.nii" in texts("path", "review.csv")
    assert "/scratch/project/data" in texts("path", "run.log") and "31.01.2024" in texts("date", "run.log")
    assert "/archive/jane/secret.nii.gz" in texts("path", "link.nii.gz")
    assert "20240131_DOE_JANE.txt" in texts("name", "20240131_DOE_JANE.txt")
    assert "20240131" in texts("date", "20240131_DOE_JANE.txt")
    assert f"Artist: jpeg {WHO}" in texts("header", "e.jpg") and f"comment {WHO}" in texts("header", "e.jpg")
    assert "Doe_Jane/ct.nii" in texts("header", "all.zip") and f"zip {WHO}" in texts("header", "all.zip")
    assert "2024-01-31" in texts("date", "all.zip")
    assert "data.pkl" in texts("header", "real.pth") and "data/0" not in texts("header", "real.pth")
    assert "each CT: 2" in texts("images", "trained_on.npz")
    assert "each CT: 1" in texts("images", "fingerprint.npz")
    assert "nodes.npy" in texts("header", "case.npz") and "1 arrays" in texts("images", "case.npz")
    assert {f.file for f in found if f.kind == "unread"} == {"weights.pth", "real.pth", "all.zip", "link.nii.gz"}
    assert socket.gethostname() in texts("host", f"events.{socket.gethostname()}.log")
    assert cli.main(["inspect", str(folder)]) == 0 and WHO in capsys.readouterr().out
    assert cli.main(["inspect", str(folder), "--events", "json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["result"]["counts"]["header"] == sum(f.kind == "header" for f in found)


@pytest.mark.parametrize("name, plant", [("a.nii.gz", planted_nifti), ("b.nrrd", planted_itk), ("c.mha", planted_itk)])
def test_a_changed_ct_leaves_the_patients_header_behind(tmp_path, name, plant):
    plant(tmp_path / name)
    (tmp_path / "out").mkdir()
    source = open_ct(tmp_path / name)
    source.write(tmp_path / "out" / name, source.stored, "SYNTHETIC: test")
    assert [(f.kind, f.text) for f in inspect(tmp_path / "out")] == [("header", "SYNTHETIC: test"), ("name", name)]
    np.testing.assert_array_equal(read(tmp_path / "out" / name).array, source.stored.array)


@pytest.mark.parametrize("name", ["a.nii.gz", "b.nrrd", "c.mha"])
def test_what_we_write_says_nothing_but_its_description(tmp_path, name):
    write(tmp_path / name, Volume(ct(), np.diag([2, 2, 3, 1.0])), "ours")
    assert [(f.kind, f.text) for f in inspect(tmp_path)] == [("header", "ours"), ("name", name)]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(LNSynthError, match="no such folder"):
        inspect(tmp_path / "x")
