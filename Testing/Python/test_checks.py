"""Each refusal names the file, says what is wrong and what to do; what is right passes."""

import numpy as np
import pytest

from LNSynthLib.images import checks, volume
from LNSynthLib.images.volume import Volume
from LNSynthLib.phantom.phantom import phantom
from LNSynthLib.runtime.errors import LNSynthError

GRID = np.diag([0.8, 0.8, 2.0, 1.0])


def ct(low=-1000.0, high=400.0, dtype=np.float32) -> Volume:
    return Volume(np.linspace(low, high, 6 * 6 * 6).reshape(6, 6, 6).astype(dtype), GRID)


def mask(values=(0, 1), dtype=np.uint8) -> Volume:
    return Volume(np.resize(np.array(values, dtype), (6, 6, 6)), GRID)


def test_good_cases_pass():
    checks.check_ct(ct(), "ct")
    checks.check_ct(ct(dtype=np.int16), "ct")
    checks.check_pair(ct(), mask(), "mask")
    checks.check_nodes(mask((0, 1, 300), np.uint16), "mask")
    checks.check_nodes(mask((0.0, 2.0), np.float32), "mask")
    checks.check_labels(mask((0, 0)), "mask")


def with_voxel(value) -> Volume:
    image = ct()
    image.array[1, 2, 3] = value
    return image


@pytest.mark.parametrize("image, why", [
    (with_voxel(np.nan), "1 voxels are NaN or infinite"),
    (with_voxel(np.inf), "1 voxels are NaN or infinite"),
    (ct(0, 2000), "shows no air .*values run from 0 to 2000"),         # stored numbers without their intercept, or MR
    (ct(-400, 400), "shows no air .*values run from -400 to 400"),
    (ct(-3000, -900), "89% of its values lie below -1100"),         # an intercept applied twice
    (ct(-1100, -250), "0% has values of soft tissue"),
    (ct(-1000, 3000), "71% those of dense bone"),
])
def test_what_is_no_ct_is_refused(image, why):
    with pytest.raises(LNSynthError, match=f"^some.nii: .*{why}.*; .*\\.$"):
        checks.check_ct(image, "some.nii")


def test_a_ct_without_noise_passes():
    hu = np.full((20, 20, 4), -1000)
    hu[5:15, 5:15] = 40
    checks.check_ct(Volume(hu, GRID), "ct")


def padded(hu, by, radius=0.5) -> np.ndarray:
    """Numbers as scanners store them: `by` outside the round field of view."""
    x, y = (np.abs(np.linspace(-1, 1, n)) for n in hu.shape[:2])
    outside = x[:, None] ** 2 + y[None, :] ** 2 > (2 * radius) ** 2
    return np.where(outside[:, :, None], by, hu)


def crops(hu, share, count=40):
    """Parts of a CT, `share` of each side, that hold some air and some tissue."""
    rng = np.random.default_rng(0)
    size = [max(3, int(n * share)) for n in hu.shape]
    for _ in range(count):
        part = hu[tuple(slice(i, i + s) for i, s in zip(rng.integers(0, np.subtract(hu.shape, size) + 1), size,
                                                        strict=True))]
        if (part > -200).mean() > 0.2 and ((part > -1000) & (part < -500)).mean() > 0.001:
            yield part


@pytest.fixture(scope="module", params=["phantom", "ts_example_ct.nii.gz", "crlm1004_ct.nii.gz", "r01142_abd_ct.nii.gz",
                                        "ts_slab_dicom"])
def scan(request) -> np.ndarray:
    """A CT in HU, canonical."""
    if request.param == "phantom":
        return phantom(3, spacing=(3.5, 3.5, 5), nodes=3).ct.array
    return volume.canonical(volume.read(request.getfixturevalue("shared_data") / request.param)).array


def test_hounsfield_units_pass_padded_or_cropped(scan):
    for hu in (scan, padded(scan, -1024), padded(scan, -2000), padded(scan, -3024)):
        checks.check_ct(Volume(hu, GRID), "ct")
    half, quarter = list(crops(scan, 1 / 2)), list(crops(scan, 1 / 4))
    assert len(half) > 5 and len(quarter) > 5
    for part in half + quarter:
        checks.check_ct(Volume(part, GRID), "ct")


def head(skull_mm, side=96, mm=2.2) -> np.ndarray:
    """A head: scalp, a skull with denser outer tables, brain, noise."""
    x, y, z = np.indices((side, side, side // 2)) - np.array([side / 2, side / 2, side / 4])[:, None, None, None]
    depth = (1 - np.sqrt((x * mm / 75) ** 2 + (y * mm / 95) ** 2 + (z * mm / 85) ** 2)) * 85
    bone = (depth > 5) & (depth <= 5 + skull_mm)
    hu = np.select([depth <= 0, bone, depth <= 5], [-1000, 900 + 700 * abs((depth - 5) / skull_mm * 2 - 1), 20], 36)
    return np.rint(hu + np.random.default_rng(0).normal(0, 12, hu.shape)).astype(np.int16)


def limb(metal) -> np.ndarray:
    """A thigh with its femur, and a nail in that where there is metal, clipped as 12 bits do."""
    x, y, z = np.indices((80, 80, 20)) - np.array([40, 40, 0])[:, None, None, None]
    r = np.hypot(x, y) * 2
    hu = np.select([r < 6 * metal, r < 9, r < 16, r < 70], [3071, 80, 1300 + 20 * (12 - r), 50], -1000)
    return np.rint(hu + np.random.default_rng(0).normal(0, 15, hu.shape)).astype(np.int16)


@pytest.mark.parametrize("skull_mm", [5, 8, 12, 15])
def test_heads_pass_and_only_in_hounsfield_units(skull_mm):
    hu = head(skull_mm)
    for image in (hu, padded(hu, -3024), hu[:, :, 6:-6]):
        checks.check_ct(Volume(image, GRID), "head")
    for wrong in (np.maximum(hu, -1024) + 1024, (np.maximum(hu, -1024) + 1024) * 2, hu - 1024, hu - 2048,
                  np.clip((hu + 100) / 2, 0, 255).astype(np.uint8)):
        with pytest.raises(LNSynthError, match="not in Hounsfield units"):
            checks.check_ct(Volume(wrong, GRID), "head")


@pytest.mark.parametrize("metal", [False, True])
def test_limbs_pass(metal):
    checks.check_ct(Volume(limb(metal), GRID), "thigh")


@pytest.mark.parametrize("file", ["lidc0001_upper_ct.nii.gz", "c3l00189_ct.nii.gz", "acrinflt001_abdpel_ct.nii.gz"])
def test_all_real_cts_pass_and_only_in_hounsfield_units(shared_data, file):
    hu = volume.read(shared_data / file).array
    checks.check_ct(Volume(hu, GRID), file)
    for wrong in ((np.maximum(hu, -1024).astype(np.int32) + 1024) * 2, hu.astype(np.int32) - 1024):
        with pytest.raises(LNSynthError, match="not in Hounsfield units"):
            checks.check_ct(Volume(wrong, GRID), file)


def test_numbers_with_a_slope_alone_are_refused(scan):
    stored = (np.maximum(scan, -1024).astype(np.float32) + 1024) * 2
    with pytest.raises(LNSynthError, match="not in Hounsfield units"):
        checks.check_ct(Volume(stored, GRID), "some.nii")


@pytest.mark.parametrize("padding", [None, -1024, -2000, -3024])
def test_numbers_without_their_intercept_are_refused(scan, padding):
    """Air 0, water 1024: the padding must not stand in for the air, not even where resampling has blurred its rim."""
    stored = np.maximum(scan, -1024).astype(np.float32) + 1024
    if padding is not None:
        stored = padded(stored, padding)
    for numbers in (stored, (stored[1:] + stored[:-1]) / 2):
        with pytest.raises(LNSynthError, match="^some.nii: .* not in Hounsfield units; export it .*slope"):
            checks.check_ct(Volume(numbers, GRID), "some.nii")


def test_a_thin_patient_in_a_wide_padded_field_without_intercept_is_refused():
    stored = np.full((60, 60, 4), 0.0)
    stored[25:35, 25:35] = 1060  # a tenth of what is not padding
    for padding in (-1024, -2000):
        with pytest.raises(LNSynthError, match="shows no air"):
            checks.check_ct(Volume(padded(stored, padding), GRID), "some.nii")


def test_every_phantom_is_in_hounsfield_units():
    for spacing in ((4, 4, 4), (8, 8, 8)):
        checks.check_ct(phantom(5, spacing=spacing, nodes=2).ct, str(spacing))


@pytest.mark.parametrize("image, why", [
    (mask((0, 0)), "the node mask is empty"),
    (mask((0, 0.3), np.float32), "fractions"),
    (mask((0, -1), np.int16), "values run from -1 to 0, not 0 to 65535"),
    (mask((0, 70000), np.int32), "values run from 0 to 70000"),
    (mask((0, np.nan), np.float32), "NaN"),
])
def test_what_is_no_node_mask_is_refused(image, why):
    with pytest.raises(LNSynthError, match=f"^some.nii: .*{why}.*; .*\\.$"):
        checks.check_nodes(image, "some.nii")


def test_an_anatomy_has_small_numbers():
    with pytest.raises(LNSynthError, match="0 to 300, not 0 to 255"):
        checks.check_labels(mask((0, 300), np.uint16), "some.nii")


@pytest.mark.parametrize("shift_mm, accepted", [(0.0, True), (0.07, True), (0.1, False), (2.0, False)])
def test_a_mask_beside_the_ct_is_refused(shift_mm, accepted):
    other = mask()
    other.affine = GRID.copy()
    other.affine[0, 3] = shift_mm
    if accepted:
        checks.check_pair(ct(), other, "some.nii")
    else:
        with pytest.raises(LNSynthError, match="^some.nii: the mask does not lie on the CT's grid.*; resample"):
            checks.check_pair(ct(), other, "some.nii")


def test_real_cts_pass_with_their_labels(shared_data):
    for name in ("ts_example", "crlm1004", "r01142_abd"):
        image = volume.read(shared_data / f"{name}_ct.nii.gz")
        (file,) = [f for f in shared_data.glob(f"{name}_*.nii.gz") if f.name != f"{name}_ct.nii.gz"]
        labels = volume.read(file)
        checks.check_ct(image, name)
        checks.check_pair(image, labels, name)
        checks.check_labels(labels, name)
    slab, labels = volume.read(shared_data / "ts_slab_dicom"), volume.read(shared_data / "ts_slab_labels.nii.gz")
    checks.check_ct(slab, "slab")
    with pytest.raises(LNSynthError, match="grid"):  # NIfTI and DICOM count rows in opposite directions
        checks.check_pair(slab, labels, "slab")
    checks.check_pair(volume.canonical(slab), volume.canonical(labels), "slab")
