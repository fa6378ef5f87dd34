"""Node segmentations in real MRML: crops on the CT's grid are right to the voxel, whatever lies between the grids."""

import mrml
import numpy as np
import pytest
import SimpleITK as sitk
from LNSynthLogic import grids, nodes_in_ct, segments
from mrml import slicer, vtk

from LNSynthLib.images.volume import LPS, Volume, read, to_sitk
from LNSynthLib.runtime.errors import LNSynthError

SHAPE = (40, 36, 22)
LOGIC = slicer.vtkSlicerSegmentationsModuleLogic


def make_ct(scene, affine=None, shape=SHAPE):
    return mrml.add_ct(scene, np.zeros(shape, np.int16), mrml.oblique_affine() if affine is None else affine)


def full(ct, start, mask) -> np.ndarray:
    whole = np.zeros(grids.shape_of(ct), bool)
    whole[tuple(slice(s, s + n) for s, n in zip(start, mask.shape, strict=True))] = mask
    return whole


def crop_of(whole) -> tuple:
    return grids.tight((0, 0, 0), whole)


def by_simpleitk(segmentation, segment_id, ct) -> np.ndarray:
    """The segment on the CT's grid by SimpleITK's nearest neighbour."""
    image = segmentation.GetBinaryLabelmapInternalRepresentation(segment_id)
    start, labels = grids.voxels(image)
    value = segmentation.GetSegmentation().GetSegment(segment_id).GetLabelValue()
    affine = grids.image_affine(image)
    affine[:3, 3] = (affine @ [*start, 1.0])[:3]
    mask = to_sitk(Volume((labels == value).astype(np.uint8), affine))
    # ITK asks where a point of the output lies in the input: from the CT's coordinates to the segmentation's, in LPS.
    back = LPS @ np.linalg.inv(grids.to_world(segmentation)) @ grids.to_world(ct) @ LPS
    transform = sitk.AffineTransform(back[:3, :3].ravel().tolist(), back[:3, 3].tolist())
    reference = to_sitk(Volume(np.zeros(grids.shape_of(ct), np.uint8), grids.affine_of(ct)))
    return sitk.GetArrayFromImage(sitk.Resample(mask, reference, transform, sitk.sitkNearestNeighbor)).T > 0


def by_slicer(scene, segmentation, segment_id, ct) -> np.ndarray:
    """The segment on the CT's grid by Slicer's own export."""
    labelmap = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    assert LOGIC.ExportSegmentsToLabelmapNode(segmentation, [segment_id], labelmap, ct)
    exported = slicer.util.arrayFromVolume(labelmap).T > 0
    np.testing.assert_allclose(grids.to_world(labelmap) @ grids.affine_of(labelmap),
                               grids.to_world(ct) @ grids.affine_of(ct), atol=1e-9)
    assert exported.shape == grids.shape_of(ct)
    return exported


def by_points(segmentation, segment_id, ct) -> np.ndarray:
    """The segment on the CT's grid, voxel by voxel with MRML's own way of points through transforms."""
    image = segmentation.GetBinaryLabelmapInternalRepresentation(segment_id)
    start, labels = grids.voxels(image)
    value = segmentation.GetSegmentation().GetSegment(segment_id).GetLabelValue()
    found = np.zeros(grids.shape_of(ct), bool)
    ijk_to_ras, back = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    ct.GetIJKToRASMatrix(ijk_to_ras)
    image.GetWorldToImageMatrix(back)
    for index in np.ndindex(found.shape):
        world, local = [0.0] * 3, [0.0] * 3
        ct.TransformPointToWorld(ijk_to_ras.MultiplyPoint([*index, 1.0])[:3], world)
        segmentation.TransformPointFromWorld(world, local)
        at = np.rint(back.MultiplyPoint([*local, 1.0])[:3]).astype(int) - start
        found[index] = (at >= 0).all() and (at < labels.shape).all() and labels[tuple(at)] == value
    return found


def test_a_node_comes_back_to_the_voxel(scene):
    ct = make_ct(scene)
    segmentation = segments.new_segmentation(scene, ct, "Nodes")
    start, mask = crop_of(mrml.ball(SHAPE, (20, 12, 9), 6, (0.8, 1.3, 2.5)))
    padded = np.pad(mask, 2)
    segment_id = segments.add_node(segmentation, ct, np.array(start) - 2, padded)
    back = segments.node_crop(segmentation, segment_id, ct)
    assert back[0] == start and np.array_equal(back[1], mask)
    assert np.array_equal(by_slicer(scene, segmentation, segment_id, ct), full(ct, start, mask))
    image = segmentation.GetBinaryLabelmapInternalRepresentation(segment_id)
    assert image.GetNumberOfPoints() == mask.size  # no more memory than the node


def test_boxes_are_those_of_scipy():
    from scipy import ndimage

    rng = np.random.default_rng(1)
    touching = np.zeros((6, 5, 4), np.uint16)
    touching[:, 1:3, 1], touching[0, 4, 3], touching[5, 3, 3] = 3, 9, 9
    for array in (touching, rng.integers(0, 4, (7, 6, 5)).astype(np.uint8), np.zeros((3, 2, 2), np.int16),
                  np.full((3, 4, 5), 2, np.int32), np.asfortranarray(touching)):
        expected = {v: box for v, box in enumerate(ndimage.find_objects(array), start=1) if box is not None}
        assert grids.boxes(array) == expected


def test_a_new_segment_says_what_it_is(scene):
    ct = make_ct(scene)
    study = mrml.add_patient(scene, ct)[1]
    segmentation = segments.new_segmentation(scene, ct, "Nodes")
    ids = [segments.add_node(segmentation, ct, (i, 5, 5), np.ones((1, 2, 2))) for i in range(4)]
    assert segments.node_ids(segmentation) == ids and len(set(ids)) == 4
    inner = segmentation.GetSegmentation()
    assert [inner.GetSegment(i).GetName() for i in ids] == ["Node 1", "Node 2", "Node 3", "Node 4"]
    for colour in (inner.GetSegment(i).GetColor() for i in ids):
        assert colour[1] == max(colour) and min(colour) >= 0 and max(colour) <= 1  # greens
    assert len({inner.GetSegment(i).GetColor() for i in ids}) == 4
    assert "SCT^59441001^Lymph node" in inner.GetSegment(ids[0]).GetTerminology()
    assert "SCT^85756007^Tissue" in inner.GetSegment(ids[0]).GetTerminology()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(segmentation)) == study
    assert segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole()) == ct
    segments.remove_node(segmentation, ids[1])
    assert inner.GetSegment(segments.add_node(segmentation, ct, (9, 9, 9), np.ones((1, 1, 1)))).GetName() == "Node 5"


TRANSFORMS = {
    "none": (None, None),
    "both the same": ("rigid", "rigid"),
    "the CT's": ("rigid", None),
    "the segmentation's": (None, "rigid"),
    "the segmentation's, scaling": ("rigid", "scaling"),
}


@pytest.mark.parametrize("ct_under, nodes_under", TRANSFORMS.values(), ids=TRANSFORMS)
def test_what_is_written_under_any_transforms_is_read_back(scene, ct_under, nodes_under):
    matrices = {"rigid": mrml.rigid(), "scaling": mrml.rigid((5, 3, 80)) @ np.diag([1.2, 0.9, 1.0, 1.0])}
    nodes = {name: mrml.add_transform(scene, matrix) for name, matrix in matrices.items()}
    ct = make_ct(scene)
    segmentation = segments.new_segmentation(scene, ct, "Nodes")
    mrml.move(ct, nodes.get(ct_under))
    mrml.move(segmentation, nodes.get(nodes_under))
    start, mask = crop_of(mrml.ball(SHAPE, (20, 12, 9), 6, (0.8, 1.3, 2.5)))
    segment_id = segments.add_node(segmentation, ct, start, mask)
    back = segments.node_crop(segmentation, segment_id, ct)
    assert back[0] == start and np.array_equal(back[1], mask)
    exported, whole = by_slicer(scene, segmentation, segment_id, ct), full(ct, start, mask)
    if nodes_under == "scaling":  # a sheared labelmap: SimpleITK holds none, and Slicer's export resamples it twice
        assert 2 * (exported & whole).sum() / (exported.sum() + whole.sum()) > 0.8
    else:
        assert np.array_equal(by_simpleitk(segmentation, segment_id, ct), whole)
        assert np.array_equal(exported, whole)


def test_a_segmentation_under_a_scaling_is_right_to_the_voxel(scene):
    ct = make_ct(scene, mrml.oblique_affine(degrees=(0, 0, 0)))
    source = make_ct(scene, mrml.oblique_affine(degrees=(0, 0, 0), origin=(-70, 25, 12)))
    segmentation = segments.new_segmentation(scene, source, "Nodes")
    mrml.move(segmentation, mrml.add_transform(scene, np.diag([1.13, 0.87, 1.07, 1.0])))
    segment_id = segments.add_node(segmentation, source, *crop_of(mrml.ball(SHAPE, (20, 12, 9), 7, (0.8, 1.3, 2.5))))
    found = full(ct, *segments.node_crop(segmentation, segment_id, ct))
    assert found.sum() > 100
    assert np.array_equal(found, by_simpleitk(segmentation, segment_id, ct))
    assert np.array_equal(found, by_slicer(scene, segmentation, segment_id, ct))


@pytest.mark.parametrize("under", ["nothing", "a transform"])
@pytest.mark.parametrize("drawn_on", ["finer", "coarser", "oblique", "flipped", "shifted half"])
def test_a_segmentation_of_another_geometry_is_right_to_the_voxel(scene, drawn_on, under):
    ct = make_ct(scene)
    centre = (mrml.oblique_affine() @ [20, 18, 11, 1])[:3]
    other = {
        "finer": mrml.oblique_affine(spacing=(0.53, 0.61, 0.97)),
        "coarser": mrml.oblique_affine(spacing=(1.7, 1.9, 4.1)),
        "oblique": mrml.oblique_affine(degrees=(-31.0, 14.0, 3.0)),
        "flipped": mrml.oblique_affine(flip=(-1, 1, -1)),
        "shifted half": mrml.oblique_affine(),
    }[drawn_on]
    shape = (50, 44, 40)
    other[:3, 3] += centre - (other @ [24.3, 21.4, 19.2, 1])[:3]
    source = mrml.add_ct(scene, np.zeros(shape, np.int16), other, "Other")
    segmentation = segments.new_segmentation(scene, source, "Nodes")
    spacing = np.linalg.norm(other[:3, :3], axis=0)
    whole = mrml.ball(shape, (24, 21, 19), 7.0, spacing) & ~mrml.ball(shape, (26, 21, 19), 2.0, spacing)
    segment_id = segments.add_node(segmentation, source, *crop_of(whole))
    if under == "a transform":
        mrml.move(ct, mrml.add_transform(scene, mrml.rigid((3, 2, 1), (2.2, -1.1, 0.7))))
        mrml.move(segmentation, mrml.add_transform(scene, mrml.rigid((-4, 0, 6), (-1.4, 2.0, 1.7))))
    found = full(ct, *segments.node_crop(segmentation, segment_id, ct))
    assert found.sum() > 100
    assert np.array_equal(found, by_simpleitk(segmentation, segment_id, ct))
    exported = by_slicer(scene, segmentation, segment_id, ct)
    if under == "nothing":
        assert np.array_equal(found, exported)
    else:  # Slicer's export resamples twice here
        assert np.array_equal(found, by_points(segmentation, segment_id, ct))
        assert 2 * (exported & found).sum() / (exported.sum() + found.sum()) > 0.8
    # What is written then lies on the CT's grid, and is read back as it was written.
    segments.set_node(segmentation, segment_id, ct, *crop_of(found))
    assert np.array_equal(full(ct, *segments.node_crop(segmentation, segment_id, ct)), found)


def two_nodes(scene, ct):
    segmentation = segments.new_segmentation(scene, ct, "Nodes")
    a = mrml.ball(SHAPE, (14, 14, 9), 6, (0.8, 1.3, 2.5))
    b = mrml.ball(SHAPE, (26, 22, 12), 5, (0.8, 1.3, 2.5))
    return segmentation, a, b, *(segments.add_node(segmentation, ct, *crop_of(m)) for m in (a, b))


def test_segments_that_share_a_labelmap_are_edited_one_by_one(scene):
    ct = make_ct(scene)
    segmentation, a, b, first, second = two_nodes(scene, ct)
    inner = segmentation.GetSegmentation()
    inner.CollapseBinaryLabelmaps(False)
    assert inner.GetNumberOfLayers() == 1
    assert np.array_equal(full(ct, *segments.node_crop(segmentation, first, ct)), a)
    assert np.array_equal(full(ct, *segments.node_crop(segmentation, second, ct)), b)
    grown = mrml.ball(SHAPE, (20, 18, 10), 9, (0.8, 1.3, 2.5))
    assert (grown & b).any()
    segments.set_node(segmentation, first, ct, *crop_of(grown))
    assert np.array_equal(full(ct, *segments.node_crop(segmentation, first, ct)), grown)
    assert np.array_equal(full(ct, *segments.node_crop(segmentation, second, ct)), b)  # overlapped, not overwritten
    segments.remove_node(segmentation, first)
    assert np.array_equal(full(ct, *segments.node_crop(segmentation, second, ct)), b)
    assert segments.node_ids(segmentation) == [second]


def test_voxels_changed_in_a_shared_labelmap_are_seen(scene):
    ct = make_ct(scene)
    segmentation, a, b, first, second = two_nodes(scene, ct)
    segmentation.GetSegmentation().CollapseBinaryLabelmaps(False)
    segments.node_crop(segmentation, first, ct)
    array = slicer.util.arrayFromSegmentInternalBinaryLabelmap(segmentation, first)
    value = segmentation.GetSegmentation().GetSegment(first).GetLabelValue()
    array[0, -1, -1] = value  # far from the node; Slicer's documentation then asks for Modified of the segment alone
    segmentation.GetSegmentation().GetSegment(first).Modified()
    start, mask = segments.node_crop(segmentation, first, ct)
    assert mask.sum() == a.sum() + 1


def test_segments_drawn_by_people_are_nodes(scene):
    ct = make_ct(scene)
    segmentation = segments.new_segmentation(scene, ct, "Drawn")
    segment_id = segmentation.GetSegmentation().AddEmptySegment("", "Segment_1")
    assert segments.node_crop(segmentation, segment_id, ct)[1].shape == (0, 0, 0)
    whole = mrml.ball(SHAPE, (14, 14, 9), 6, (0.8, 1.3, 2.5))
    stroke = grids.oriented_image(whole.astype(np.uint8), (0, 0, 0), grids.affine_of(ct))
    LOGIC.SetBinaryLabelmapToSegment(stroke, segmentation, segment_id, LOGIC.MODE_MERGE_MAX)  # as the paint effect
    assert segments.node_ids(segmentation) == [segment_id]
    assert np.array_equal(full(ct, *segments.node_crop(segmentation, segment_id, ct)), whole)
    array, ids = segments.instances(segmentation, ct)
    assert ids == {1: segment_id} and np.array_equal(array > 0, whole)


def test_only_what_lies_in_the_ct_is_returned(scene):
    large = make_ct(scene)
    segmentation, a, b, first, second = two_nodes(scene, large)
    affine = grids.affine_of(large)
    affine[:3, 3] = (affine @ [14, 0, 0, 1])[:3]
    small = mrml.add_ct(scene, np.zeros((12, 36, 22), np.int16), affine, "Small")
    assert np.array_equal(full(small, *segments.node_crop(segmentation, first, small)), a[14:26])
    far = mrml.add_ct(scene, np.zeros((5, 5, 5), np.int16), mrml.rigid(shift=(900, 0, 0)), "Far")
    assert segments.node_crop(segmentation, first, far)[1].shape == (0, 0, 0)
    assert segments.instances(segmentation, far)[1] == {}


def test_a_crop_that_is_empty_or_outside_is_an_error_of_the_caller(scene):
    ct = make_ct(scene)
    segmentation, a, b, first, second = two_nodes(scene, ct)
    for start, mask in (((0, 0, 0), np.zeros((3, 3, 3), bool)), ((38, 0, 0), np.ones((3, 3, 3), bool)),
                        ((-1, 0, 0), np.ones((3, 3, 3), bool))):
        with pytest.raises(ValueError, match="crop"):
            segments.add_node(segmentation, ct, start, mask)
        with pytest.raises(ValueError, match="crop"):
            segments.set_node(segmentation, first, ct, start, mask)
    assert np.array_equal(full(ct, *segments.node_crop(segmentation, first, ct)), a)
    with pytest.raises(LNSynthError, match="no segment"):
        segments.node_crop(segmentation, "gone", ct)
    with pytest.raises(LNSynthError, match="no segment"):
        segments.set_node(segmentation, "gone", ct, (0, 0, 0), np.ones((1, 1, 1), bool))


def test_a_surface_becomes_a_labelmap(scene):
    ct = make_ct(scene)
    segmentation = segments.new_segmentation(scene, ct, "Surface")
    segmentation.SetSourceRepresentationToClosedSurface()
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter((grids.affine_of(ct) @ [20, 18, 11, 1])[:3])
    sphere.SetRadius(8)
    sphere.SetThetaResolution(60)
    sphere.SetPhiResolution(60)
    sphere.Update()
    segment_id = segmentation.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball")
    mask = segments.node_crop(segmentation, segment_id, ct)[1]
    volume = mask.sum() * 0.8 * 1.3 * 2.5
    assert volume == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.05)
    segments.set_node(segmentation, segment_id, ct, (2, 2, 2), np.ones((4, 4, 4), bool))
    start, mask = segments.node_crop(segmentation, segment_id, ct)
    assert start == (2, 2, 2) and mask.all() and mask.shape == (4, 4, 4)


def test_an_empty_segmentation_of_surfaces_takes_a_node(scene):
    ct = make_ct(scene)
    segmentation = segments.new_segmentation(scene, ct, "Surface")
    segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
    segment_id = segments.add_node(segmentation, ct, (2, 2, 2), np.ones((4, 4, 4), bool))
    assert segments.node_crop(segmentation, segment_id, ct)[0] == (2, 2, 2)


def test_closed_surfaces_follow_an_edit(scene):
    ct = make_ct(scene)
    segmentation, a, b, first, second = two_nodes(scene, ct)
    assert segmentation.CreateClosedSurfaceRepresentation()  # as "Show 3D" does
    before = segmentation.GetClosedSurfaceInternalRepresentation(first).GetLength()
    segments.set_node(segmentation, first, ct, *crop_of(mrml.ball(SHAPE, (16, 15, 9), 12, (0.8, 1.3, 2.5))))
    after = segmentation.GetClosedSurfaceInternalRepresentation(first).GetLength()
    assert after > 1.3 * before
    third = segments.add_node(segmentation, ct, (30, 3, 3), np.ones((4, 4, 4), bool))
    assert segmentation.GetClosedSurfaceInternalRepresentation(third).GetNumberOfPoints() > 0


def test_nodes_survive_a_file(scene, tmp_path):
    ct = make_ct(scene)
    segmentation, a, b, first, second = two_nodes(scene, ct)
    path = str(tmp_path / "nodes.seg.nrrd")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(path)
    assert storage.WriteData(segmentation)
    again = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(again)
    assert segments.node_ids(again) == [first, second]
    assert np.array_equal(full(ct, *segments.node_crop(again, first, ct)), a)
    assert np.array_equal(full(ct, *segments.node_crop(again, second, ct)), b)
    assert again.GetSegmentation().GetSegment(first).GetTerminology() == segments.node_terminology()


@pytest.mark.parametrize("name", mrml.REAL)
def test_masks_of_real_cts_survive_scene_and_file(scene, shared_data, tmp_path, name):
    volume = mrml.read_real(shared_data, name)
    ct = mrml.add_ct(scene, volume.array, volume.affine)
    mask = np.zeros(volume.shape, np.uint16)
    x, y, z = (n // 3 for n in volume.shape)
    mask[x:x + 9, y:y + 5, z:z + 3], mask[x + 9:x + 12, y:y + 5, z:z + 3], mask[0, 0, 0] = 2, 5, 7
    segmentation = segments.new_segmentation(scene, ct, "Nodes")
    ids = segments.add_instances(segmentation, ct, mask)
    assert segments.write_mask(segmentation, ct, tmp_path / "nodes.nii") == dict(zip((1, 2, 3), ids, strict=True))
    written = read(tmp_path / "nodes.nii")
    assert written.array.dtype == np.uint16 and np.array_equal(written.array, np.searchsorted([0, 2, 5, 7], mask))
    np.testing.assert_allclose(written.affine, volume.affine, atol=1e-4)


def test_a_mask_of_another_grid_is_refused(scene):
    ct = make_ct(scene)
    segmentation = segments.new_segmentation(scene, ct, "Nodes")
    with pytest.raises(LNSynthError, match="choose the CT"):
        segments.add_instances(segmentation, ct, np.ones((3, 3, 3), np.uint8))


def test_a_ct_that_scales_is_refused(scene):
    ct = make_ct(scene)
    mrml.move(ct, mrml.add_transform(scene, np.diag([2.0, 1, 1, 1])))
    with pytest.raises(LNSynthError, match="[Hh]arden"):
        segments.new_segmentation(scene, ct, "Nodes")


def test_the_kept_copy_stays_as_the_nodes_were(scene):
    ct = make_ct(scene)
    segmentation, a, b, first, second = two_nodes(scene, ct)
    segmentation.GetSegmentation().CollapseBinaryLabelmaps(False)  # one labelmap for both, as in a saved file
    mrml.move(ct, mrml.add_transform(scene, mrml.rigid()))
    mrml.move(segmentation, ct.GetParentTransformNode())
    copy = nodes_in_ct.keep(segmentation, ct)
    assert copy.GetHideFromEditors() and copy.GetScene() == scene and copy.GetDisplayNode() is None
    segments.set_node(segmentation, first, ct, (1, 1, 1), np.ones((3, 3, 3), bool))
    segments.remove_node(segmentation, second)
    assert segments.node_ids(copy) == [first, second]
    assert np.array_equal(full(ct, *segments.node_crop(copy, first, ct)), a)
    assert np.array_equal(full(ct, *segments.node_crop(copy, second, ct)), b)
    assert nodes_in_ct.are_in_ct(segmentation, ct) == {first: False}


def test_an_edit_can_be_undone(scene):
    ct = make_ct(scene)
    segmentation, a, b, first, second = two_nodes(scene, ct)
    history = slicer.vtkSegmentationHistory()
    history.SetSegmentation(segmentation.GetSegmentation())
    history.SaveState()
    segments.set_node(segmentation, first, ct, (1, 1, 1), np.ones((3, 3, 3), bool))
    segments.remove_node(segmentation, second)
    assert history.RestorePreviousState()
    assert np.array_equal(full(ct, *segments.node_crop(segmentation, first, ct)), a)
    assert np.array_equal(full(ct, *segments.node_crop(segmentation, second, ct)), b)
    assert history.RestoreNextState()
    assert segments.node_ids(segmentation) == [first]
    assert segments.node_crop(segmentation, first, ct)[0] == (1, 1, 1)
