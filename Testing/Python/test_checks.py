"""Each refusal names the file, says what is wrong and what to do; what is right passes."""

import numpy as np
import pytest

from LNSynthLib.cases import checks, volume
from LNSynthLib.cases.volume import Volume
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
    (ct(0, 2000), "no value below -500"),           # stored numbers without their intercept, or MR
    (ct(-400, 400), "no value below -500"),
    (ct(-3000, -900), "no value above -200"),       # an intercept applied twice
])
def test_what_is_no_ct_is_refused(image, why):
    with pytest.raises(LNSynthError, match=f"^some.nii: .*{why}.*; .*\\.$"):
        checks.check_ct(image, "some.nii")


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
