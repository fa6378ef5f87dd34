"""Damaged, mislabelled and hostile volume files: read right or refused in a sentence, never read wrong."""

import gzip
import os
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from itk_volume import from_sitk

from LNSynthLib.images import volume as v
from LNSynthLib.images.affine import furthest_apart
from LNSynthLib.images.volume import Volume
from LNSynthLib.runtime.errors import LNSynthError

AXIAL = np.array([[-0.8, 0, 0, 90], [0, -0.8, 0, 60], [0, 0, 5, -300], [0, 0, 0, 1.0]])
SHAPE = (20, 18, 16)
PACKED = ("a.nii.gz", "a.nrrd", "a.mha")


def tissue(dtype=np.int16) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-20, 20, SHAPE)
    return (np.cumsum(noise, axis=0) - (0 if np.dtype(dtype).kind == "i" else noise.min())).astype(dtype)


def refused(path, why="damaged"):
    with pytest.raises(LNSynthError, match=why) as refusal:
        v.read(path)
    assert str(path) in str(refusal.value) and str(refusal.value).endswith("."), refusal.value


def same(path, affine=AXIAL):
    found = v.read(path)
    np.testing.assert_array_equal(found.array, tissue())
    assert furthest_apart(found.affine, affine, SHAPE) < 1e-3


def written(folder, name, affine=AXIAL):
    v.write(folder / name, Volume(tissue(), affine))
    return folder / name


def raw(folder, name, affine=AXIAL):
    sitk.WriteImage(v.to_sitk(Volume(tissue(), affine)), str(folder / name), useCompression=False)
    return folder / name


def replaced(path, old: str, new: str):
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    return path


# --- checksums and lengths ------------------------------------------------------------------------------------------


def test_every_changed_byte_of_a_packed_volume_is_noticed(tmp_path):
    for name in PACKED:
        path = written(tmp_path, name)
        whole = path.read_bytes()
        start = 10 if name.endswith("gz") else len(whole) - 4000  # behind gzip's own header, and NRRD's and MHA's
        for place in np.linspace(start, len(whole) - 1, 60).astype(int):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1:])
            refused(path)


@pytest.mark.parametrize("name", [*PACKED, "raw.nii", "raw.nrrd", "raw.mha"])
@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b[:-9], lambda b: b + b"garbage", lambda b: b + b[-9:]])
def test_what_is_shorter_or_longer_than_it_says_is_refused(tmp_path, name, spoil):
    path = (raw if name.startswith("raw") else written)(tmp_path, name)
    same(path)
    path.write_bytes(spoil(path.read_bytes()))
    refused(path)


def test_gzip_members_in_a_row_are_one_volume_if_each_is_whole(tmp_path):
    path = written(tmp_path, "a.nii")
    whole = path.read_bytes()
    parts = [gzip.compress(whole[:5000]), gzip.compress(whole[5000:])]
    packed = tmp_path / "a.nii.gz"
    for tail in (b"", bytes(700)):  # tapes and block devices pad with zeros
        packed.write_bytes(b"".join(parts) + tail)
        same(packed)
    packed.write_bytes(parts[0][:-5] + b"\0" + parts[0][-4:] + parts[1])
    refused(packed)
    packed.write_bytes(parts[0])
    refused(packed)
    packed.write_bytes(gzip.compress(whole) + gzip.compress(b"more"))
    refused(packed, "holds more than its header announces")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("compress", [True, False])
def test_every_type_reads_as_itk_reads_it(tmp_path, dtype, compress):
    array = tissue(dtype)
    image = sitk.GetImageFromArray(array.T)
    for name in ("a.nrrd", "a.mha", "a.mhd"):
        sitk.WriteImage(image, str(tmp_path / name), useCompression=compress)
        ours = v.read(tmp_path / name).array
        assert ours.dtype == ("float32" if array.dtype.kind == "f" else dtype), name
        np.testing.assert_array_equal(ours, array, err_msg=name)


def test_big_endian_files_read_right_and_are_written_right(tmp_path):
    image = nibabel.Nifti1Image(tissue(), AXIAL, nibabel.Nifti1Header(endianness=">"), dtype=np.int16)
    image.header.set_xyzt_units("mm")
    (tmp_path / "big.nii.gz").write_bytes(gzip.compress(image.to_bytes()))
    assert nibabel.load(tmp_path / "big.nii.gz").header.endianness == ">"
    same(tmp_path / "big.nii.gz")
    for name in ("a.nrrd", "a.mha", "a.nii.gz"):
        for array in (v.read(tmp_path / "big.nii.gz").array, tissue().astype(">i2")):
            v.write(tmp_path / name, Volume(array, AXIAL))
            same(tmp_path / name)
            assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))).T, tissue())
    path = replaced(raw(tmp_path, "a.nrrd"), "endian: little", "endian: big")
    header, voxels = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(header + b"\n\n" + np.frombuffer(voxels, "<i2").astype(">i2").tobytes())
    same(path)


# --- NIfTI headers --------------------------------------------------------------------------------------------------


def header_changed(folder, changes: dict, kind=nibabel.Nifti1Image, endianness="<"):
    image = kind(tissue(), AXIAL, kind.header_class(endianness=endianness), dtype=np.int16)
    image.set_sform(AXIAL, 1)
    image.set_qform(AXIAL, 1)
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    size = int(image.header["sizeof_hdr"])
    header = kind.header_class(content[:size], endianness, check=False)
    for key, value in changes.items():
        name, _, place = key.partition("@")
        if place:
            header[name][int(place)] = value
        else:
            header[name] = value
    path = folder / "a.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + content[size:]))
    return path


NIFTI_WRONG = {
    "offset inside the header": ({"vox_offset": 100}, "vox_offset"),
    "no offset": ({"vox_offset": 0}, "vox_offset"),
    "offset beyond the file": ({"vox_offset": 9e6}, "damaged"),
    "offset a little too far": ({"vox_offset": 368}, "damaged|vox_offset"),
    "intercept NaN": ({"scl_slope": 1, "scl_inter": np.nan}, "slope 1, intercept nan"),
    "intercept infinite": ({"scl_slope": 1, "scl_inter": np.inf}, "slope 1, intercept inf"),
    "slope infinite": ({"scl_slope": np.inf, "scl_inter": 0}, "slope inf"),
    "intercept without slope": ({"scl_slope": 0, "scl_inter": -1024}, "slope 0, intercept -1024"),
    "intercept and slope NaN": ({"scl_slope": np.nan, "scl_inter": -1024}, "slope nan, intercept -1024"),
    "voxel size 0": ({"pixdim@3": 0}, "0.8 x 0.8 x 0 mm"),
    "voxel size negative": ({"pixdim@1": -0.8}, "-0.8 x 0.8 x 5 mm"),
    "voxel size NaN": ({"pixdim@2": np.nan}, "0.8 x nan x 5 mm"),
    "voxel size not the sform's": ({"pixdim@3": 2.5, "qform_code": 0}, "sform and its voxel size"),
    "metres": ({"xyzt_units": 1}, "metres"),
    "micrometres": ({"xyzt_units": 3}, "micrometres"),
    "unknown unit": ({"xyzt_units": 5}, "unknown unit"),
    "sform NaN": ({"srow_x@3": np.nan}, "singular"),
    "sform elsewhere": ({"srow_y@3": -60}, "120 mm apart"),
    "qform NaN": ({"quatern_b": np.nan}, "qform is damaged"),
    "qform is no rotation": ({"quatern_b": 0.9, "quatern_c": 0.9}, "qform is damaged"),
    "qform elsewhere": ({"qoffset_x": 0}, "90 mm apart"),
    "handedness flipped": ({"pixdim@0": -1}, "mm apart"),
    "handedness unknown": ({"pixdim@0": 3}, "qform is damaged"),
    "origin far away": ({"srow_x@3": 1e8, "qform_code": 0}, "origin lies 1e.08 mm away"),
    "negative size": ({"dim@2": -18}, "no voxels"),
    "no size": ({"dim@2": 0}, "no voxels"),
    "larger": ({"dim@2": 19}, "damaged"),
    "smaller": ({"dim@2": 17}, "holds more"),
    "no dimension": ({"dim@0": 0}, "damaged"),
    "type unknown": ({"datatype": 77}, "damaged"),
    "type of other bits": ({"datatype": 16}, "damaged"),
    "a pair": ({"magic": b"ni1"}, ".hdr/.img"),
}


@pytest.mark.parametrize("changes, why", NIFTI_WRONG.values(), ids=NIFTI_WRONG)
def test_nifti_headers_that_programs_read_differently_are_refused(tmp_path, changes, why):
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for endianness in "<>":
            same(header_changed(tmp_path, {}, kind, endianness))
            refused(header_changed(tmp_path, changes, kind, endianness), why)


@pytest.mark.parametrize("changes", [
    {"sform_code": 0}, {"qform_code": 0}, {"sform_code": 4, "qform_code": 2}, {"pixdim@0": 0}, {"xyzt_units": 0},
    {"scl_slope": 0, "scl_inter": 0}, {"scl_slope": np.nan, "scl_inter": 0}, {"qform_code": 0, "quatern_b": np.nan},
])
def test_nifti_headers_that_mean_one_thing_are_read(tmp_path, changes):
    if changes.get("pixdim@0") == 0:  # right for what is not mirrored
        changes = {**changes, "sform_code": 0}
    same(header_changed(tmp_path, changes))


def test_scaled_numbers_are_scaled_in_double_precision(tmp_path):
    path = header_changed(tmp_path, {"scl_slope": 0.1, "scl_inter": -3.7})
    np.testing.assert_array_equal(v.read(path).array, np.float32(nibabel.load(path).get_fdata()))


def test_a_shape_that_only_programs_with_shear_can_read(tmp_path):
    """A tilted gantry: no qform, so that a program that follows it refuses the file and shows nothing misplaced."""
    sheared = AXIAL.copy()
    sheared[1, 2] = 1.5
    v.write(tmp_path / "a.nii.gz", Volume(tissue(), sheared))
    same(tmp_path / "a.nii.gz", sheared)
    assert nibabel.load(tmp_path / "a.nii.gz").header["qform_code"] == 0
    with pytest.raises(LNSynthError, match="sheared"):
        v.write(tmp_path / "a.nrrd", Volume(tissue(), sheared))


def test_a_mask_beside_a_rounded_affine_opens_where_its_ct_does(tmp_path):
    rounded = AXIAL.copy()
    rounded[1, 2] = 5e-3  # a shear of a thousandth, which ITK does not take for a direction
    image = nibabel.Nifti1Image(tissue(), rounded)
    image.set_sform(rounded, 1)
    image.set_qform(AXIAL, 1)
    nibabel.save(image, tmp_path / "ct.nii.gz")
    ct = v.read(tmp_path / "ct.nii.gz")
    np.testing.assert_allclose(ct.affine, rounded, atol=1e-5)
    theirs = from_sitk(sitk.ReadImage(str(tmp_path / "ct.nii.gz"))).affine
    for name in ("mask.nii.gz", "mask.nrrd", "mask.mha"):
        v.write(tmp_path / name, Volume(tissue(), ct.affine))
        mask = sitk.ReadImage(str(tmp_path / name))
        assert furthest_apart(from_sitk(mask).affine, theirs, SHAPE) < 0.1, name
        assert v.same_grid(ct, v.read(tmp_path / name))[0], name
    np.testing.assert_allclose(nibabel.load(tmp_path / "mask.nii.gz").affine, rounded, atol=1e-5)


# --- NRRD and MetaImage headers -------------------------------------------------------------------------------------

SPACING = "ElementSpacing = 0.80000000000000004 0.80000000000000004"
ITK_WRONG = {
    "NRRD origin NaN": ("a.nrrd", "space origin: (-90,", "space origin: (nan,", "damaged|singular"),
    "NRRD origin far away": ("a.nrrd", "space origin: (-90,", "space origin: (-9e8,", "origin lies"),
    "NRRD no origin": ("a.nrrd", "space origin", "space osigin", "damaged|does not say where"),
    "NRRD no directions": ("a.nrrd", "space directions", "#space directions", "does not say where"),
    "NRRD spacing 0": ("a.nrrd", "(0,0,5)", "(0,0,0)", "0.8 x 0.8 x 0 mm"),
    "NRRD spacing absurd": ("a.nrrd", "(0,0,5)", "(0,0,5000)", "0.8 x 0.8 x 5000 mm"),
    "NRRD spacing of metres": ("a.nrrd", "(0,0,5)", "(0,0,0.005)", "0.8 x 0.8 x 0.005 mm"),
    "NRRD metres": ("a.nrrd", "kinds:", 'space units: "m" "m" "m"\nkinds:', "lengths are in m "),
    "NRRD microns": ("a.nrrd", "kinds:", 'space units: "um" "um" "um"\nkinds:', "lengths are in um "),
    "NRRD scanner space": ("a.nrrd", "left-posterior-superior", "scanner-xyz", "names no space"),
    "NRRD text": ("a.nrrd", "encoding: gzip", "encoding: ascii", "'ascii' is not read"),
    "NRRD skips": ("a.nrrd", "encoding: gzip", "byte skip: 3\nencoding: gzip", "byte skip"),
    "NRRD larger": ("a.nrrd", "sizes: 20 18 16", "sizes: 20 18 17", "damaged"),
    "NRRD smaller": ("a.nrrd", "sizes: 20 18 16", "sizes: 20 18 15", "holds more"),
    "NRRD other type": ("a.nrrd", "type: short", "type: int", "damaged"),
    "NRRD other order": ("a.nrrd", "endian: little\n", "", "damaged"),
    "MHA origin NaN": ("a.mha", "Offset = -90", "Offset = nan", "damaged"),
    "MHA origin 1,5": ("a.mha", "Offset = -90 -60", "Offset = -90 -60,5", "damaged"),
    "MHA origin short": ("a.mha", "Offset = -90 -60 -300", "Offset = -90 -60", "damaged"),
    "MHA no origin": ("a.mha", "Offset", "Offsex", "does not say where"),
    "MHA no directions": ("a.mha", "TransformMatrix", "TransformMetrix", "does not say where"),
    "MHA spacing 0": ("a.mha", SPACING, "ElementSpacing = 0 0", "0 x 0 x 5 mm"),
    "MHA spacing negative": ("a.mha", SPACING, "ElementSpacing = -1 1", "-1 x 1 x 5 mm"),
    "MHA spacing NaN": ("a.mha", SPACING, "ElementSpacing = nan 1", "damaged"),
    "MHA spacing absurd": ("a.mha", SPACING, "ElementSpacing = 800 1", "800 x 1 x 5 mm"),
    "MHA microns": ("a.mha", "ElementType", "DistanceUnits = um\nElementType", "lengths are in um "),
    "MHA scaled": ("a.mha", "ElementType", "ElementToIntensityFunctionSlope = 2\nElementType", "scaling"),
    "MHA larger": ("a.mha", "DimSize = 20 18 16", "DimSize = 20 18 17", "damaged"),
    "MHA other type": ("a.mha", "MET_SHORT", "MET_INT", "damaged"),
    "MHA no length": ("a.mha", "CompressedDataSize = ", "CompressedDataSize = 9", "damaged"),
}


@pytest.mark.parametrize("name, old, new, why", ITK_WRONG.values(), ids=ITK_WRONG)
def test_nrrd_and_metaimage_headers_that_are_wrong_are_refused(tmp_path, name, old, new, why):
    path = written(tmp_path, name)
    same(path)
    refused(replaced(path, old, new), why)


def test_millimetres_may_be_said(tmp_path):
    same(replaced(written(tmp_path, "a.nrrd"), "kinds:", 'space units: "mm" "mm" "mm"\nkinds:'))
    same(replaced(written(tmp_path, "a.mha"), "ElementType", "DistanceUnits = mm\nElementType"))


# --- hostile files --------------------------------------------------------------------------------------------------


def detached(folder, kind, data):
    """A header in `folder` whose voxels lie in the file that it calls `data`; beside it lie good voxels, voxels.raw."""
    folder.mkdir(exist_ok=True)
    path = raw(folder, "whole.mha" if kind == "mhd" else "whole.nrrd")
    content = path.read_bytes()
    voxels = tissue().tobytes(order="F")
    assert content.endswith(voxels)
    (folder / "voxels.raw").write_bytes(voxels)
    header = content[: -len(voxels)]
    path.unlink()
    if kind == "mhd":
        (folder / "a.mhd").write_bytes(header.replace(b"LOCAL", data.encode()))
        return folder / "a.mhd"
    (folder / "a.nrrd").write_bytes(header.rstrip(b"\n") + f"\ndata file: {data}\n\n".encode())
    return folder / "a.nrrd"


@pytest.mark.parametrize("kind", ["mhd", "nrrd"])
def test_a_header_reaches_only_into_its_own_folder(tmp_path, kind):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    same(detached(inside, kind, "voxels.raw"))
    detached(outside, kind, "voxels.raw")
    (inside / "link.raw").symlink_to(outside / "voxels.raw")
    (inside / "ring").symlink_to(outside)
    for data in ("../outside/voxels.raw", str(outside / "voxels.raw"), str(inside) + "/../outside/voxels.raw",
                 "link.raw", "ring/voxels.raw", "LIST", "voxels%d.raw 1 1 1", "/dev/zero", "//x/voxels.raw"):
        refused(detached(inside, kind, data), "only a single file in the header's own folder")
    refused(detached(inside, kind, "absent.raw"), "there is no 'absent.raw' beside it")
    short = detached(inside, kind, "voxels.raw")
    (inside / "voxels.raw").write_bytes(bytes(5))
    refused(short)


def announcing(folder, name, shape):
    """A small file whose header announces voxels of that shape."""
    path = written(folder, name)
    if name.endswith("nii.gz"):
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[42:48] = np.array(shape, "<i2").tobytes()
        path.write_bytes(gzip.compress(bytes(content)))
        return path
    sizes = "sizes: " if name.endswith("nrrd") else "DimSize = "
    return replaced(path, sizes + "20 18 16", sizes + " ".join(map(str, shape)))


@pytest.mark.parametrize("name", PACKED)
def test_a_small_file_that_announces_gigabytes_allocates_nothing(tmp_path, name):
    """More than deflate can hold: refused before memory is asked for (1 TB here: numpy would refuse it too)."""
    for shape in ((30000, 30000, 600), (700, 700, 700)):
        path = announcing(tmp_path, name, shape)
        before = _peak()
        refused(path)
        assert _peak() - before < 100e6


def test_more_than_the_memory_is_refused_before_it_is_asked_for(tmp_path):
    path = written(tmp_path, "a.nii")
    content = bytearray(path.read_bytes())
    content[42:48] = np.array((30000, 30000, 3000), "<i2").tobytes()
    path.write_bytes(content[:352])
    try:
        os.truncate(path, 352 + 2 * 30000 * 30000 * 3000)  # a file of holes: all of it is there, nothing is on the disk
    except OSError:
        pytest.skip("the file system has no files with holes")
    refused(path, "5400.0 GB of voxels, more than the memory that is free")


@pytest.mark.parametrize("name", PACKED)
def test_no_more_is_unpacked_than_the_header_says(tmp_path, name):
    path = written(tmp_path, name)
    wrap = zlib.compress if name == "a.mha" else gzip.compress
    much = bytes(300_000_000)
    if name == "a.nii.gz":
        path.write_bytes(wrap(gzip.decompress(path.read_bytes()) + much, 1))
    else:
        end = b"LOCAL\n" if name == "a.mha" else b"\n\n"
        header = path.read_bytes().split(end)[0] + end
        packed = wrap(tissue().tobytes(order="F") + much, 1)
        path.write_bytes(header + packed)
        if name == "a.mha":
            size = header.split(b"CompressedDataSize = ")[1].split(b"\n")[0].decode()
            replaced(path, f"CompressedDataSize = {size}", f"CompressedDataSize = {len(packed)}")
    del much
    before = _peak()
    refused(path, "holds more than its header announces")
    assert _peak() - before < 100e6


def _peak() -> int:
    """Bytes that this process has held at most."""
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
