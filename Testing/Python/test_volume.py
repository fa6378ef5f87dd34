"""Volumes against SimpleITK as an independent reader and resampler, and against fields known everywhere."""

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from itk_volume import from_sitk

from LNSynthLib.images import volume as v
from LNSynthLib.images.boxes import bounding_box, grow
from LNSynthLib.images.volume import Volume
from LNSynthLib.runtime.errors import LNSynthError

FILES = ("a.nii", "a.nii.gz", "a.nrrd", "a.mha")
AXIAL = np.array([[-0.8, 0, 0, 90], [0, -0.8, 0, 60], [0, 0, 5, -300], [0, 0, 0, 1.0]])


def oblique(seed: int, shape=(14, 11, 9), scale=(0.6, 3.0)) -> np.ndarray:
    """A random affine: any rotation, flips, anisotropic voxels."""
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(*scale, 3)
    affine[:3, 3] = rng.normal(size=3) * 100
    return affine


def noise(seed: int, shape=(14, 11, 9), dtype=np.int16) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(dtype)


def world(affine, shape) -> np.ndarray:
    """(X, Y, Z, 3) mm of every voxel centre."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(4))
def test_written_volumes_come_back_as_they_were(tmp_path, name, seed):
    before = Volume(noise(seed), oblique(seed))
    v.write(tmp_path / name, before, "SYNTHETIC: not a patient's image")
    after = v.read(tmp_path / name)
    assert after.array.dtype == np.int16 and np.array_equal(after.array, before.array)
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", FILES)
def test_simpleitk_finds_every_voxel_at_the_same_place(tmp_path, name):
    ours = Volume(noise(1), oblique(7))
    v.write(tmp_path / name, ours)
    image = sitk.ReadImage(str(tmp_path / name))
    for index in ((0, 0, 0), (13, 0, 4), (3, 10, 8)):
        lps = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(np.array(lps) * [-1, -1, 1], (ours.affine @ [*index, 1])[:3], atol=1e-3)
        assert image[index] == ours.array[index]


def test_the_description_is_in_the_header(tmp_path):
    text = "SYNTHETIC: not a patient's image"
    for name in FILES:
        v.write(tmp_path / name, Volume(noise(0), AXIAL), text)
    assert nibabel.load(tmp_path / "a.nii.gz").header["descrip"].item().decode() == text
    assert sitk.ReadImage(str(tmp_path / "a.nrrd")).GetMetaData("description") == text
    with pytest.raises(ValueError, match="79 bytes"):
        v.write(tmp_path / "b.nii", Volume(noise(0), AXIAL), "x" * 80)


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        v.write(tmp_path / name, Volume(noise(0), AXIAL))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_types_on_disk(tmp_path):
    path = tmp_path / "a.nii.gz"
    for array, dtype, expected in (
        (np.ones((3, 3, 3), bool), None, np.uint8),
        (np.full((3, 3, 3), 0.5, np.float16), None, np.float32),
        (np.full((3, 3, 3), 7, np.int64), None, np.int32),
        (np.full((3, 3, 3), -99.6, np.float32), np.int16, np.int16),
    ):
        v.write(path, Volume(array, AXIAL), dtype=dtype)
        back = v.read(path).array
        assert back.dtype == expected and np.allclose(back, np.rint(array) if dtype else array)


def test_a_value_that_does_not_fit_leaves_no_file(tmp_path):
    with pytest.raises(LNSynthError, match="a.nii: values 0 to 300 do not fit uint8"):
        v.write(tmp_path / "a.nii", Volume(np.array([[[0, 300]]]), AXIAL), dtype=np.uint8)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_no_file(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(nibabel, "save", full_disk)
    with pytest.raises(OSError):
        v.write(tmp_path / "a.nii.gz", Volume(noise(0), AXIAL))
    assert list(tmp_path.iterdir()) == []


def test_spacing_is_the_length_of_the_columns():
    affine = oblique(3)
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(0))
    volume = Volume(np.zeros((4, 5, 6)), affine)
    np.testing.assert_allclose(volume.spacing, lengths)
    np.testing.assert_allclose(volume.extent_mm, lengths * [4, 5, 6])
    assert not np.allclose(volume.spacing, np.abs(np.diag(affine)[:3]))


@pytest.mark.parametrize("seed", range(6))
def test_canonical_moves_no_voxel(seed):
    volume = Volume(noise(seed), oblique(seed))
    turned = v.canonical(volume)
    assert nibabel.aff2axcodes(turned.affine) == ("R", "A", "S")
    before = {tuple(p): value for p, value in zip(world(volume.affine, volume.shape).round(3).reshape(-1, 3).tolist(),
                                                  volume.array.ravel(), strict=True)}
    after = zip(world(turned.affine, turned.shape).round(3).reshape(-1, 3).tolist(), turned.array.ravel(), strict=True)
    assert all(before[tuple(p)] == value for p, value in after)


def test_a_crop_keeps_its_place():
    volume = Volume(noise(2), oblique(2))
    box = (slice(3, 9), slice(0, 5), slice(8, 9))
    part = v.crop(volume, box)
    np.testing.assert_array_equal(part.array, volume.array[box])
    np.testing.assert_allclose(world(part.affine, part.shape), world(volume.affine, volume.shape)[box])
    with pytest.raises(ValueError, match="does not lie inside"):
        v.crop(volume, (slice(3, 15), slice(0, 5), slice(0, 9)))


def test_boxes():
    mask = np.zeros((20, 20, 20), np.uint8)
    assert bounding_box(mask) is None
    mask[3, 5:9, 19] = 2
    box = bounding_box(mask)
    assert box == (slice(3, 4), slice(5, 9), slice(19, 20))
    assert grow(box, 5.0, (1.0, 2.0, 2.5), mask.shape) == (slice(0, 9), slice(2, 12), slice(17, 20))


def test_same_grid():
    a = Volume(np.zeros((50, 50, 1)), AXIAL)
    assert v.same_grid(a, Volume(np.ones((50, 50, 1)), AXIAL + 1e-4 * np.ones((4, 4))))[0]
    for change, shape, why in (
        (np.diag([0, 0, 0, 0.0]), (50, 49, 1), "shapes"),
        (np.array([[0, 0, 0, 0.2], *[[0] * 4] * 3]), (50, 50, 1), "0.2 mm apart"),
        (np.array([[0.01, 0, 0, 0], *[[0] * 4] * 3]), (50, 50, 1), "0.49 mm apart"),
        (np.array([*[[0] * 4] * 2, [0, 0, 1, 0], [0] * 4]), (50, 50, 1), "1 mm apart"),  # one slice hides its thickness
    ):
        same, reason = v.same_grid(a, Volume(np.zeros(shape), AXIAL + change))
        assert not same and why in reason


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("order, interpolator", [(0, sitk.sitkNearestNeighbor), (1, sitk.sitkLinear)])
def test_resampling_equals_simpleitk(seed, order, interpolator):
    source = Volume(noise(seed, (30, 25, 20), np.float32), oblique(seed))
    shape, target = (33, 29, 31), oblique(seed + 100, scale=(0.6, 1.6))
    target[:3, 3] = (source.affine @ [15, 12, 10, 1])[:3] - target[:3, :3] @ [16, 14, 15]  # centre upon centre
    ours = v.resample_to(source, target, shape, order, cval=-777, antialias=False).array
    grid = v.to_sitk(Volume(np.zeros(shape, np.uint8), target))
    theirs = from_sitk(sitk.Resample(v.to_sitk(source), grid, sitk.Transform(), interpolator, -777.0)).array
    assert 0.01 < (ours == -777).mean() < 0.99
    differ = np.abs(ours - theirs) > 0.01
    assert differ.mean() < 1e-4  # a voxel whose centre falls on a border may go either way


def test_labels_keep_type_and_values():
    source = Volume(noise(1, (20, 20, 20), np.uint16) % 7, AXIAL)
    affine, shape = v.isotropic_grid(source, 1.3)
    result = v.resample_to(source, affine, shape, order=0)
    assert result.array.dtype == np.uint16 and set(np.unique(result.array)) <= set(np.unique(source.array))


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_linear_field_stays_what_it_is(order, seed):
    """f(p) = g.p + c in mm is reproduced by interpolation on any grid, so every voxel knows its right value."""
    gradient = np.array([1.5, -0.7, 0.3])
    affine, shape = oblique(seed, scale=(0.8, 2.5)), (40, 36, 30)
    source = Volume((world(affine, shape) @ gradient + 10).astype(np.float32), affine)
    target = oblique(seed + 50, scale=(0.9, 1.1))
    target[:3, 3] = (affine @ [20, 18, 15, 1])[:3] - target[:3, :3] @ [6, 6, 6]
    result = v.resample_to(source, target, (12, 12, 12), order, cval=np.nan, antialias=False).array
    inside = np.isfinite(result)
    assert inside.mean() > 0.5
    index = world(np.linalg.inv(affine) @ target, (12, 12, 12))
    deep = ((index > 8) & (index < np.array(shape) - 9)).all(-1)  # a spline feels the border over a few voxels
    wanted = world(target, (12, 12, 12)) @ gradient + 10
    assert deep.sum() > 50
    np.testing.assert_allclose(result[deep], wanted[deep], atol=0.05)


def test_going_coarser_averages():
    """A 1-voxel checkerboard has no place on a grid four times coarser: smoothed it is grey, unsmoothed it aliases."""
    board = Volume((np.indices((48, 48, 48)).sum(0) % 2 * 200.0 - 100).astype(np.float32), np.eye(4))
    affine, shape = v.isotropic_grid(board, 4.0)
    affine[:3, 3] += 0.5  # onto the middle of voxels, where interpolation alone averages nothing
    inner = (slice(1, -1),) * 3
    assert np.abs(v.resample_to(board, affine, shape, order=1).array[inner]).max() < 2
    assert np.abs(v.resample_to(board, affine, shape, order=1, antialias=False).array[inner]).min() > 90


@pytest.mark.parametrize("seed", range(4))
def test_the_isotropic_grid_covers_the_volume_along_its_axes(seed):
    volume = Volume(np.zeros((31, 17, 9)), oblique(seed))
    affine, shape = v.isotropic_grid(volume, 1.25)
    grid = Volume(np.broadcast_to(np.uint8(0), shape), affine)
    np.testing.assert_allclose(grid.spacing, 1.25)
    np.testing.assert_allclose(affine[:3, :3] / 1.25, volume.affine[:3, :3] / volume.spacing, atol=1e-9)
    assert np.abs(np.array(grid.extent_mm) - volume.extent_mm).max() <= 1.25 / 2 + 1e-9
    middle = [(np.array(x.shape) - 1) / 2 for x in (volume, grid)]
    np.testing.assert_allclose((volume.affine @ [*middle[0], 1])[:3], (affine @ [*middle[1], 1])[:3])


def test_a_tilted_gantry_is_straightened():
    sheared = AXIAL.copy()
    sheared[1, 2] = 1.5  # each slice 1.5 mm further back
    field = Volume((world(sheared, (40, 40, 20)) @ [1, 2, 3.0]).astype(np.float32), sheared)
    affine, shape = v.isotropic_grid(field, 2.0)
    straight = affine[:3, :3] / 2
    np.testing.assert_allclose(straight.T @ straight, np.eye(3), atol=1e-9)
    result = v.resample_to(field, affine, shape, cval=np.nan, antialias=False).array
    wanted = world(affine, shape) @ [1, 2, 3.0]
    index = world(np.linalg.inv(sheared) @ affine, shape)
    inner = ((index >= 0) & (index <= np.array(field.shape) - 1)).all(-1)
    assert inner.sum() > 2000
    np.testing.assert_allclose(result[inner], wanted[inner], atol=0.05)
    with pytest.raises(LNSynthError, match="sheared"):
        v.to_sitk(field)


def test_every_real_volume_reads_as_simpleitk_reads_it(shared_data):
    files = sorted(shared_data.glob("*.nii.gz"))
    assert len(files) >= 8
    for file in files:
        ours, theirs = v.read(file), from_sitk(sitk.ReadImage(str(file)))
        assert v.same_grid(ours, theirs, tol=1e-3)[0] and np.array_equal(ours.array, theirs.array), file.name


# --- refusals -------------------------------------------------------------------------------------------------------


def nifti(array, affine=AXIAL, codes=(1, 1)):
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    return image


def four_dimensional(folder):
    nibabel.save(nifti(np.zeros((3, 4, 5, 2), np.int16)), folder / "a.nii.gz")
    return folder / "a.nii.gz", "4 dimensions"


def two_dimensional(folder):
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkInt16), str(folder / "a.mha"))
    return folder / "a.mha", "2 dimensions"


def rgb_nifti(folder):
    nibabel.save(nifti(np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])), folder / "a.nii")
    return folder / "a.nii", "colour"


def rgb_nrrd(folder):
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), str(folder / "a.nrrd"))
    return folder / "a.nrrd", "each voxel has 3 values"


def complex_numbers(folder):
    nibabel.save(nifti(np.zeros((3, 4, 5), np.complex64)), folder / "a.nii")
    return folder / "a.nii", "complex"


def nowhere(folder):
    nibabel.save(nifti(np.zeros((3, 4, 5), np.int16), codes=(0, 0)), folder / "a.nii")
    return folder / "a.nii", "does not say where the volume lies"


def no_space(folder):
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nspacings: 1 1 1\nendian: little\nencoding: raw\n\n"
    (folder / "a.nrrd").write_bytes(header.encode() + bytes(16))
    return folder / "a.nrrd", "names no space"


def singular(folder):
    image = nifti(np.zeros((3, 4, 5), np.int16), codes=(1, 0))
    image.header["srow_z"] = 0
    image.header["sform_code"] = 1
    raw = bytearray(image.to_bytes())
    raw[312:328] = bytes(16)  # srow_z
    (folder / "a.nii").write_bytes(raw)
    return folder / "a.nii", "affine is singular"


def other_type(folder):
    (folder / "a.jpg").write_bytes(b"\xff\xd8")
    return folder / "a.jpg", "not read; convert it to NIfTI"


def absent(folder):
    return folder / "a.nii.gz", "no such file"


def not_what_it_says(folder):
    (folder / "a.nii.gz").write_bytes(gzip.compress(b"hello" * 200))
    return folder / "a.nii.gz", "damaged, truncated or not what its name says"


@pytest.mark.parametrize("make", [four_dimensional, two_dimensional, rgb_nifti, rgb_nrrd, complex_numbers, nowhere,
                                  no_space, singular, other_type, absent, not_what_it_says])
def test_what_is_no_volume_is_refused(tmp_path, make):
    path, why = make(tmp_path)
    with pytest.raises(LNSynthError, match=why) as refusal:
        v.read(path)
    assert str(path) in str(refusal.value) and str(refusal.value).endswith(".")


@pytest.mark.parametrize("name", [*FILES, "raw.mha", "raw.nrrd"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_truncated_files_are_refused(tmp_path, name, share):
    path = tmp_path / name
    if name.startswith("raw"):
        sitk.WriteImage(v.to_sitk(Volume(noise(0, (20, 20, 20)), AXIAL)), str(path), useCompression=False)
    else:
        v.write(path, Volume(noise(0, (20, 20, 20)), AXIAL))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(LNSynthError, match=f"{name}: the file is damaged, truncated"):
        v.read(path)


def test_a_single_frame_of_a_series_in_time_is_a_volume(tmp_path):
    nibabel.save(nifti(np.zeros((3, 4, 5, 1), np.int16)), tmp_path / "a.nii.gz")
    assert v.read(tmp_path / "a.nii.gz").shape == (3, 4, 5)


def test_stems():
    assert [v.stem(n) for n in ("a.nii.gz", "a.b.nii", "a.seg.nrrd", "A.NRRD", "a.mha")] == ["a", "a.b", "a", "A", "a"]
