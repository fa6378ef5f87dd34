"""Small files that announce much: refused in a sentence, and without the memory that they ask for."""

import io
import json
import re
import struct
import zipfile
import zlib

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import DeflatedExplicitVRLittleEndian
from test_dicom import AXIAL, SHAPE, tissue, write_series

from LNSynthLib.cases import fingerprint
from LNSynthLib.cases.prepared import write_prepared
from LNSynthLib.conditions.shape_prior import ShapePrior
from LNSynthLib.evaluation.folders import _probability
from LNSynthLib.generators import model_folder
from LNSynthLib.images import dicom_files
from LNSynthLib.images.volume import Volume, description, read, write
from LNSynthLib.masks.dicom_seg import write_seg
from LNSynthLib.masks.read import read_nodes, read_segmentation
from LNSynthLib.masks.segments import is_seg, label_table
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import read_json, sha256, write_json
from LNSynthLib.runtime.npz import read_npz
from LNSynthLib.runtime.weights import read_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """As on a machine with 100 MB free, so that what is refused is refused by the announcement."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 100 << 20}))


def bomb(size: int, wbits: int = -15) -> bytes:
    """So many zero bytes, packed."""
    packer, pieces = zlib.compressobj(9, wbits=wbits), []
    for _ in range(size >> 20):
        pieces.append(packer.compress(bytes(1 << 20)))
    return b"".join(pieces) + packer.flush()


# npz

def npz(path, shape, dtype="<f4", content=b"", name="probabilities.npy"):
    """An archive with one array whose header announces that shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, header.getvalue() + content)
    return path


def readers(path):
    mask = Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    return [lambda: read_npz(path), lambda: ShapePrior.load(path), lambda: fingerprint.load(path),
            lambda: _probability(path, path.with_name("mask.nii.gz"), mask)]


@pytest.mark.parametrize("shape", [(2, 2048, 2048, 1024), (2**40,), (2**62, 2**62), (-1,), (1, 0, 10**30)])
def test_an_array_that_is_not_in_its_file(tmp_path, shape):
    for reader in readers(npz(tmp_path / "a.npz", shape, content=bytes(100))):
        with pytest.raises(LNSynthError, match="a.npz: "):
            reader()


def test_an_archive_that_unpacks_to_more_than_the_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file, file.open(
            "probabilities.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (30 << 20,)})
        for _ in range(120):
            stream.write(bytes(1 << 20))
    assert (tmp_path / "a.npz").stat().st_size < 2_000_000
    for reader in readers(tmp_path / "a.npz"):
        with pytest.raises(LNSynthError, match="a.npz: its header announces 0.1 GB"):
            reader()


def test_objects_damage_and_what_is_missing(tmp_path):
    good = tmp_path / "good.npz"
    np.savez_compressed(good, a=np.arange(1000), b=np.asfortranarray(np.ones((3, 4))), c="text")
    found = read_npz(good)
    assert found["a"].tolist() == list(range(1000)) and found["b"].shape == (3, 4) and str(found["c"]) == "text"
    found["a"][0] = 5  # as np.load's, they may be changed
    np.savez(tmp_path / "objects.npz", a=np.array([{}, []], object))
    damaged = bytearray(good.read_bytes())
    damaged[200] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for path, names in ((tmp_path / "objects.npz", None), (tmp_path / "damaged.npz", None), (good, ("d",)),
                        (tmp_path / "absent.npz", None), (tmp_path, None)):
        with pytest.raises(LNSynthError, match="the arrays cannot be read"):
            read_npz(path, names)
    with pytest.raises(LNSynthError, match="not a CT fingerprint"):
        fingerprint.load(good)


# DICOM

@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("series") / "ct", tissue(), AXIAL)


@pytest.fixture(scope="module")
def seg(series):
    ct = read(series)
    mask = np.zeros(SHAPE, np.uint16)
    mask[2:4, 2:5, 2:5] = 1
    write_seg(series.parent / "seg.dcm", Volume(mask, ct.affine), series)
    return series.parent / "seg.dcm"


def deflated(source, target, more: bytes = b""):
    data = pydicom.dcmread(source)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(target)
    if more:
        start = 144 + pydicom.dcmread(target, stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
        target.write_bytes(target.read_bytes()[:start] + more)
    return target


def test_a_deflated_seg_is_read_if_it_is_small(seg, series, tmp_path):
    ct = read(series)
    packed = deflated(seg, tmp_path / "seg.dcm")
    assert is_seg(packed)
    assert np.array_equal(read_nodes(packed, ct, print).array, read_nodes(seg, ct, print).array)


def test_a_deflated_file_that_unpacks_to_much_is_refused(seg, tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_files, "MOST_INFLATED", 50_000_000)
    packed = deflated(seg, tmp_path / "seg.dcm", bomb(60 << 20))
    assert packed.stat().st_size < 300_000
    for reader in (is_seg, read_segmentation, lambda path: read_nodes(path, None, print)):
        with pytest.raises(LNSynthError, match="seg.dcm: it is stored deflated and unpacks to more"):
            reader(packed)
    with pytest.raises(LNSynthError, match="is stored deflated and is damaged"):
        is_seg(deflated(seg, tmp_path / "seg.dcm", b"\xff" * 1000))


def test_frames_far_apart_make_no_huge_volume(seg, tmp_path):
    data = pydicom.dcmread(seg)
    frames = data.PerFrameFunctionalGroupsSequence
    place = frames[-1].PlanePositionSequence[0]
    place.ImagePositionPatient = [*place.ImagePositionPatient[:2], place.ImagePositionPatient[2] + 5e9]
    data.save_as(tmp_path / "far.dcm")
    with pytest.raises(LNSynthError, match="far.dcm: "):
        read_segmentation(tmp_path / "far.dcm")


@pytest.mark.parametrize("field, value", [("Rows", 65535), ("NumberOfFrames", 10**9), ("Columns", 0), ("Rows", None)])
def test_a_seg_that_announces_more_than_it_holds(seg, tmp_path, field, value):
    data = pydicom.dcmread(seg)
    setattr(data, field, value)
    data.save_as(tmp_path / "seg.dcm")
    with pytest.raises(LNSynthError, match="seg.dcm: "):
        read_segmentation(tmp_path / "seg.dcm")


# .seg.nrrd, NIfTI's extensions

def test_layers_of_a_seg_nrrd_are_bounded_checked_and_in_the_folder(tmp_path):
    header = ("NRRD0004\ntype: uint8\ndimension: 4\nspace: left-posterior-superior\nsizes: 2 {sizes}\n"
              "kinds: list domain domain domain\nspace directions: none (1,0,0) (0,1,0) (0,0,1)\n"
              "space origin: (0,0,0)\nendian: little\nencoding: gzip\nSegment0_ID:=a\nSegment0_Name:=lymph node\n"
              "Segment0_Layer:={layer}\nSegment0_LabelValue:=1\n{data}")
    path = tmp_path / "a.seg.nrrd"

    def put(sizes="4 4 4", layer="1", data="\n", packed=None):
        content = zlib.compressobj(wbits=31)
        voxels = np.zeros((4, 4, 4, 2), np.uint8)
        voxels[1:3, 1:3, 2:3, 1] = 1  # z y x
        packed = content.compress(voxels.tobytes()) + content.flush() if packed is None else packed
        path.write_bytes(header.format(sizes=sizes, layer=layer, data=data).encode() + packed)
        return packed

    whole = put()
    mask = read_nodes(path, None, print)
    assert np.argwhere(mask.array).min(0).tolist() == [2, 1, 1] and mask.array.sum() == 4
    put(sizes="4096 4096 512")
    with pytest.raises(LNSynthError, match="a.seg.nrrd: "):
        read_segmentation(path)
    put(packed=whole[:-8] + b"\0" * 8)  # gzip's checksum
    with pytest.raises(LNSynthError, match="damaged"):
        read_segmentation(path)
    (tmp_path.parent / "secret.raw.gz").write_bytes(whole)
    put(data="data file: ../secret.raw.gz\n\n", packed=b"")
    with pytest.raises(LNSynthError, match="only a single file in the header's own folder"):
        read_segmentation(path)
    put(layer="9" * 30)
    with pytest.raises(LNSynthError, match="Segment0_Layer is '999.*no number"):
        read_segmentation(path)


@pytest.mark.parametrize("field, value", [("DimSize", "-3 -4 5"), ("NDims", "1" + "0" * 30), ("DimSize", "3 4"),
                                          ("TransformMatrix", "5 0 0 0 1 0 0 0 1"), ("ElementSpacing", "1 1 0")])
def test_a_metaimage_header_that_cannot_be(tmp_path, field, value):
    """ITK crashes over some of these."""
    write(tmp_path / "a.mha", Volume(np.zeros((3, 4, 5), np.int16), np.eye(4)))
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(re.sub(rb"(?m)^%s = .*$" % field.encode(), f"{field} = {value}".encode(), content,
                                            count=1))
    with pytest.raises(LNSynthError, match="a.mha: "):
        read(tmp_path / "a.mha")


@pytest.mark.parametrize("turned", [False, True])
def test_metaimages_lie_where_itk_puts_them(tmp_path, turned):
    import SimpleITK as sitk
    from itk_volume import from_sitk

    affine = np.diag([0.7, 0.9, 2.5, 1.0])
    affine[:3, 3] = 5, -7, 90
    if turned:
        affine[:3, :3] = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0] * [0.7, 0.9, 2.5]
    write(tmp_path / "a.mha", Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine), "SYNTHETIC: x = y")
    ours, theirs = read(tmp_path / "a.mha"), from_sitk(sitk.ReadImage(str(tmp_path / "a.mha")))
    assert np.array_equal(ours.array, theirs.array) and np.allclose(ours.affine, theirs.affine)
    assert description(tmp_path / "a.mha") == "SYNTHETIC: x = y"


def test_a_detached_nrrd_is_read_by_its_header(tmp_path):
    ct = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    write(tmp_path / "a.nrrd", ct)
    content = (tmp_path / "a.nrrd").read_bytes()
    at = content.index(b"\n\n")
    (tmp_path / "b.nhdr").write_bytes(content[:at] + b"\ndata file: b.raw.gz\n\n")
    (tmp_path / "b.raw.gz").write_bytes(content[at + 2:])
    assert np.array_equal(read(tmp_path / "b.nhdr").array, ct.array)


def test_an_extension_of_a_nifti_header_is_bounded(tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    table = b'<LabelTable><Label Key="3"><![CDATA[liver]]></Label></LabelTable>'
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", table))
    nibabel.save(image, tmp_path / "a.nii")
    assert label_table(tmp_path / "a.nii") == {3: "liver"}
    content = bytearray((tmp_path / "a.nii").read_bytes())
    for size in (2**31 - 1, -5, 0):
        content[352:356] = struct.pack("<i", size)
        (tmp_path / "b.nii").write_bytes(content)
        assert label_table(tmp_path / "b.nii") == {}


# Prepared cases

def test_a_stored_array_is_the_one_that_case_json_describes(tmp_path):
    array = np.zeros((8, 8, 8))
    info = {"id": "a", "patient": "a", "split": "train", "kind": "phantom", "spacing_mm": [1.0] * 3, "labels": "t",
            "affine": np.eye(4).tolist(), "window": [-120, 240], "nodes": []}
    case = write_prepared(tmp_path / "a", array, array, array, info)
    about = read_json(case.folder / "case.json")

    def again(change=lambda path: None, **changes):
        made = write_prepared(tmp_path / "a", array, array, array, info)
        change(made.folder / "nodes.b2nd")
        write_json(made.folder / "case.json", {name: value for name, value in (about | changes).items()
                                               if name != "files"})
        return type(made).open(made.folder)

    import blosc2

    def other(path):
        blosc2.asarray(np.zeros((900, 8, 8), np.uint16), urlpath=str(path), mode="w")

    def chunk(path):
        blosc2.zeros((8, 8, 8), np.uint16, urlpath=str(path), mode="w", chunks=(1024, 8, 8))

    for change in (other, chunk, lambda path: path.write_bytes(b"x" * 500), lambda path: path.write_bytes(b"")):
        with pytest.raises(LNSynthError, match="nodes.b2nd is damaged or not the array"):
            again(change).nodes()
    with pytest.raises(LNSynthError, match="nodes.b2nd"):
        again(shape=[100_000] * 3).nodes((slice(0, 4),) * 3)
    for wrong in ({"shape": [8, 8]}, {"shape": [8, 8, 0]}, {"affine": [[1]]}, {"spacing_mm": [0, 1, 1]},
                  {"window": [1]}, {"nodes": [{"id": 1, "bbox": [[1, 2]]}]}):
        with pytest.raises(LNSynthError, match="case.json: "):
            again(**wrong)


# Weights

@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    made = model_folder.create("lnddpm", {"form": {"patch": [16] * 3}, "denoiser": {
        "channels": [4, 8], "blocks": 1, "groups": 2, "heads": 1, "head_width": 4, "token_width": 4}})
    return model_folder.save(tmp_path_factory.mktemp("generator") / "g", made)


@pytest.mark.parametrize("changes", [
    {"denoiser": {"channels": [100_000, 100_000], "blocks": 1, "groups": 2}}, {"timesteps": 10**13},
    {"denoiser": {"channels": [4, 8], "blocks": 900_000, "groups": 2}}, {"denoiser": {"channels": [4] * 100}},
    {"denoiser": {"channels": []}}, {"denoiser": {"groups": 0}}, {"denoiser": {"channels": [-4, 8]}}])
def test_settings_of_a_network_that_is_not_in_the_weights(generator, tmp_path, changes):
    folder = tmp_path / "g"
    folder.mkdir()
    for path in generator.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    about = read_json(folder / "model.json")
    about["settings"] |= {name: about["settings"][name] | value if isinstance(value, dict) else value
                          for name, value in changes.items()}
    write_json(folder / "model.json", about)
    with pytest.raises(LNSynthError, match="does not fit the settings|model.json"):
        model_folder.load(folder)


@pytest.mark.parametrize("header", [
    {"w": {"dtype": "F32", "shape": [4 << 30], "data_offsets": [0, 16 << 30]}},
    {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16 << 30]}},
    {"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}},
    {"w": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}},
    {"w": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, {"w": 7}, []])
def test_safetensors_that_announce_what_they_do_not_hold(generator, tmp_path, header):
    folder = tmp_path / "g"
    folder.mkdir()
    for path in generator.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    text = json.dumps(header).encode()
    for size in (len(text), 2**63, 2**34):
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + text + bytes(16))
        write_json(folder / "model.json", read_json(folder / "model.json") | {
            "weights_sha256": sha256(folder / "model.safetensors")})
        with pytest.raises(LNSynthError, match="model.safetensors does not fit"):
            model_folder.load(folder)


def test_packed_weights_of_torch_are_refused(tmp_path):
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth")["w"].shape == (1 << 20,)
    with zipfile.ZipFile(tmp_path / "a.pth") as whole, zipfile.ZipFile(
            tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in whole.infolist():
            packed.writestr(member.filename, whole.read(member))
    with pytest.raises(ValueError, match="packed"):
        read_weights(tmp_path / "b.pth")
