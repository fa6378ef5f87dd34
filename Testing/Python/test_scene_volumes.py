"""Volumes between MRML and the library: voxels bit for bit, geometry exact, transforms carried or refused."""

import json

import mrml
import numpy as np
import pytest
from LNSynthLogic import synthetic, volumes
from mrml import slicer

from LNSynthLib.images.volume import Volume, read
from LNSynthLib.runtime.errors import LNSynthError

GRIDS = {
    "axial": mrml.oblique_affine(degrees=(0, 0, 0)),
    "oblique": mrml.oblique_affine(),
    "flipped": mrml.oblique_affine(flip=(-1, 1, -1)),
    "sheared": mrml.oblique_affine() @ [[1, 0, 0.2, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
}
TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")


def noise(dtype, shape=(9, 8, 7)) -> np.ndarray:
    bits = np.random.default_rng(3).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    array = bits.view(dtype)[..., 0]
    return np.nan_to_num(array) if array.dtype.kind == "f" else array


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_volume_comes_back_from_the_scene_bit_for_bit(scene, dtype, grid):
    volume = Volume(noise(dtype), GRIDS[grid])
    back = volumes.volume_of(volumes.add_volume(scene, volume, "CT"))
    assert back.array.dtype == volume.array.dtype
    assert back.array.tobytes() == volume.array.tobytes()
    np.testing.assert_allclose(back.affine, volume.affine, rtol=0, atol=1e-12)


def test_the_order_of_the_array_in_memory_does_not_matter(scene):
    array = noise("int16")
    for same in (np.asfortranarray(array), array[::-1][::-1], array.astype(">i2")):
        node = volumes.add_volume(scene, Volume(same, np.eye(4)), "CT")
        assert np.array_equal(volumes.volume_of(node).array, array)
        assert volumes.volume_of(node).array.dtype == np.dtype("int16")


def test_volume_of_is_a_view_without_copy(scene):
    node = mrml.add_ct(scene, noise("int16"))
    array = volumes.volume_of(node).array
    assert np.shares_memory(array, slicer.util.arrayFromVolume(node))
    slicer.util.arrayFromVolume(node)[4, 3, 2] = 1234  # (k, j, i)
    assert array[2, 3, 4] == 1234


def test_types_that_slicer_cannot_show_are_widened_or_refused(scene):
    for dtype, shown in (("bool", "uint8"), ("float16", "float32"), ("int64", "int32")):
        node = volumes.add_volume(scene, Volume(np.ones((2, 3, 4), dtype), np.eye(4)), "mask")
        assert volumes.volume_of(node).array.dtype == np.dtype(shown)
    with pytest.raises(LNSynthError, match="32 bits"):
        volumes.add_volume(scene, Volume(np.full((2, 2, 2), 2**40), np.eye(4)), "mask")


@pytest.mark.parametrize("name", mrml.REAL)
def test_real_cts_survive_scene_and_file(scene, shared_data, tmp_path, name):
    volume = mrml.read_real(shared_data, name)
    node = volumes.add_volume(scene, volume, "CT")
    volumes.write_volume(node, tmp_path / "ct.nii")
    written = read(tmp_path / "ct.nii")
    assert written.array.dtype == volume.array.dtype and np.array_equal(written.array, volume.array)
    result = volumes.add_volume(scene, written, "result", like=node)
    assert np.array_equal(volumes.volume_of(result).array, volume.array)
    assert np.array_equal(volumes.affine_of(result), volumes.affine_of(node))  # bit for bit, past the file's 32 bits
    assert result.GetName() == "result"


def test_oblique_geometry_survives_the_file_to_the_bit(scene, tmp_path):
    for grid in GRIDS.values():
        node = mrml.add_ct(scene, noise("int16"), grid)
        volumes.write_volume(node, tmp_path / "ct.nii")
        written = read(tmp_path / "ct.nii")
        np.testing.assert_allclose(written.affine, grid, rtol=1e-6, atol=1e-4)
        result = volumes.add_volume(scene, written, "result", like=node)
        assert np.array_equal(volumes.affine_of(result), volumes.affine_of(node))


def test_another_grid_keeps_its_own_geometry(scene):
    node = mrml.add_ct(scene, noise("int16"), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 0.02
    for other in (Volume(noise("int16"), moved), Volume(noise("int16", (3, 4, 5)), np.eye(4))):
        result = volumes.add_volume(scene, other, "result", like=node)
        np.testing.assert_array_equal(volumes.affine_of(result), other.affine)


def test_a_result_goes_where_the_ct_is(scene):
    ct = mrml.add_ct(scene, noise("int16"), GRIDS["oblique"])
    study = mrml.add_patient(scene, ct)[1]
    mrml.move(ct, mrml.add_transform(scene, mrml.rigid()))
    display = ct.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(350, 40)
    result = volumes.add_volume(scene, volumes.volume_of(ct), "CT", like=ct)
    assert result.GetName() != ct.GetName()
    assert result.GetTransformNodeID() == ct.GetTransformNodeID()
    assert not result.GetDisplayNode().GetAutoWindowLevel()
    assert (result.GetDisplayNode().GetWindow(), result.GetDisplayNode().GetLevel()) == (350, 40)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(result)) == study


def test_a_labelmap_result_is_one(scene):
    ct = mrml.add_ct(scene, noise("int16"))
    mask = volumes.add_volume(scene, Volume(noise("uint16"), np.eye(4)), "mask", ct, "vtkMRMLLabelMapVolumeNode")
    assert mask.GetClassName() == "vtkMRMLLabelMapVolumeNode"
    assert np.array_equal(volumes.volume_of(mask).array, noise("uint16"))


def test_rigid_transforms_pass_and_others_are_refused_with_the_cure(scene, tmp_path):
    ct = mrml.add_ct(scene, noise("int16"))
    volumes.check_transform(ct)
    turned = mrml.add_transform(scene, mrml.rigid(), "Registration")
    mrml.move(ct, turned)
    volumes.check_transform(ct)
    volumes.write_volume(ct, tmp_path / "ct.nii")
    np.testing.assert_array_equal(read(tmp_path / "ct.nii").affine, np.eye(4))  # without its transform
    for matrix in (np.diag([1.1, 1, 1, 1]), np.diag([-1.0, 1, 1, 1]), GRIDS["sheared"]):
        scaled = mrml.add_transform(scene, matrix, "Scaling")
        mrml.move(ct, scaled)
        with pytest.raises(LNSynthError, match="Scaling.*[Hh]arden"):
            volumes.check_transform(ct)
        with pytest.raises(LNSynthError, match="Scaling"):
            volumes.write_volume(ct, tmp_path / "no.nii")
    mrml.move(ct, turned)
    mrml.move(turned, scaled)  # the whole chain to world counts
    with pytest.raises(LNSynthError):
        volumes.check_transform(ct)
    assert not (tmp_path / "no.nii").exists()


def test_a_warp_is_refused(scene):
    ct = mrml.add_ct(scene, noise("int16"))
    warp = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
    grid = slicer.vtkOrientedGridTransform()
    field = mrml.vtk.vtkImageData()
    field.SetDimensions(2, 2, 2)
    field.AllocateScalars(mrml.vtk.VTK_DOUBLE, 3)
    grid.SetDisplacementGridData(field)
    warp.SetAndObserveTransformFromParent(grid)
    mrml.move(ct, warp)
    with pytest.raises(LNSynthError, match="Warp.*warps.*[Hh]arden"):
        volumes.check_transform(ct)


def test_nodes_without_voxels_are_refused(scene):
    with pytest.raises(LNSynthError, match="no voxels"):
        volumes.volume_of(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    slicer.util.updateVolumeFromArray(colour, np.zeros((3, 4, 5, 3), np.uint8))
    with pytest.raises(LNSynthError, match="values a voxel"):
        volumes.volume_of(colour)


def test_synthetic_volumes_say_so(scene):
    node = mrml.add_ct(scene, noise("int16"), name="CT 5")
    assert not synthetic.is_synthetic(node)
    for _ in range(2):
        synthetic.mark_synthetic(node, {"seed": 4, "generator": "demo"})
    assert synthetic.is_synthetic(node)
    assert node.GetName() == "SYNTHETIC CT 5"
    assert node.GetAttribute("LNSynth.Synthetic") == "1"
    assert json.loads(node.GetAttribute("LNSynth.Provenance")) == {"seed": 4, "generator": "demo"}
    assert synthetic.provenance_of(node)["seed"] == 4


def test_the_mark_of_a_synthetic_or_drawn_ct_goes_into_its_files(scene, tmp_path):
    """Else what is made from it would pass for made from a patient's CT."""
    from LNSynthLib.cases.dataset import origin

    node, path = mrml.add_ct(scene, noise("int16")), tmp_path / "ct.nii"
    kinds = []
    for change in (lambda: None, lambda: synthetic.mark_synthetic(node, {}),
                   lambda: node.SetAttribute(synthetic.HEADER, "SYNTHETIC (phantom), not a patient's image")):
        change()
        volumes.write_volume(node, path)
        kinds.append(origin(path)[1])
    assert kinds == ["real", "synthetic", "phantom"]


@pytest.mark.parametrize("said", ["[1]", "{", "7", "null", "[" * 100_000])
def test_a_provenance_that_a_scene_file_made_up_is_none(scene, said):
    node = volumes.add_volume(scene, Volume(noise("int16"), GRIDS["axial"]), "CT")
    node.SetAttribute(synthetic.PROVENANCE, said)
    assert synthetic.provenance_of(node) == {}


@pytest.mark.parametrize("header", ["x" * 200, "SYNTHETIC " * 20, "a patient's image"])
def test_a_header_that_a_scene_file_made_up_is_not_written(scene, tmp_path, header):
    from LNSynthLib.images.volume import description

    node = volumes.add_volume(scene, Volume(noise("int16"), GRIDS["axial"]), "CT")
    synthetic.mark_synthetic(node, {})
    node.SetAttribute(synthetic.HEADER, header)
    volumes.write_volume(node, tmp_path / "ct.nii")
    assert description(tmp_path / "ct.nii") == "SYNTHETIC: LNSynth sample, not a patient's image"
