"""Samples on disk brought into a scene: their voxels, their marks, and gone again without leaving anything."""

import json

import mrml
import numpy as np
import pytest
from LNSynthLogic import compare_layout, nodes_in_ct, samples, segments, synthetic, volumes

from LNSynthLib.images.volume import Volume, read, write
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import sha256


def make_sample(folder, ct, mask, **facts):
    """A sample's folder as the library writes it: the pair and a provenance with their hashes."""
    folder.mkdir(parents=True)
    write(folder / "ct.nii.gz", ct)
    write(folder / "nodes.nii.gz", mask)
    outputs = {name: sha256(folder / name) for name in ("ct.nii.gz", "nodes.nii.gz")}
    (folder / "provenance.json").write_text(json.dumps({"synthetic": True, "outputs": outputs, **facts}))
    return folder


@pytest.fixture
def sample(tmp_path):
    """The phantom as a sample; its second node is said to be made, the others kept."""
    nodes = [{"id": i, "state": "made" if i == 2 else "kept"} for i in range(1, 6)]
    return make_sample(tmp_path / "case-001", mrml.phantom().ct, mrml.phantom().nodes, nodes=nodes,
                       source={"case": "p", "sha256": {"ct": "abc", "nodes": {"a.dcm": "def"}}})


def count(scene):
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}


def test_a_sample_is_loaded_exactly_marked_and_gone_again(scene, sample):
    ct = mrml.add_ct(scene)
    ct.GetDisplayNode().SetAutoWindowLevel(False)
    ct.GetDisplayNode().SetWindowLevel(360, 60)
    mrml.move(ct, mrml.add_transform(scene, mrml.rigid()))
    before = count(scene)
    volume, segmentation = samples.load_sample(scene, sample, like=ct)
    assert volume.GetName() == "SYNTHETIC case-001"
    assert synthetic.is_synthetic(volume) and synthetic.is_synthetic(segmentation)
    assert synthetic.provenance_of(volume)["source"]["case"] == "p"
    assert np.array_equal(volumes.volume_of(volume).array, mrml.phantom().ct.array)
    assert np.array_equal(volumes.volume_of(volume).affine, volumes.volume_of(ct).affine)
    assert volume.GetParentTransformNode() is ct.GetParentTransformNode() is segmentation.GetParentTransformNode()
    assert volume.GetDisplayNode().GetWindow() == 360
    array, _ = segments.instances(segmentation, volume)
    assert np.array_equal(array, mrml.phantom().nodes.array)
    assert all(nodes_in_ct.are_in_ct(segmentation, volume).values())
    ids = segments.node_ids(segmentation)
    assert samples.nodes_to_look_at(segmentation) == [ids[1], ids[0], *ids[2:]]
    assert samples.nodes_of(volume) is segmentation and samples.nodes_of(ct) is None
    assert samples.unload_sample(volume, segmentation)
    assert count(scene) - before <= {"vtkMRMLColorTableNodeGrey"}


def test_looking_at_a_sample_does_not_count_as_changing_it(scene, sample):
    from slices import SliceViews

    views = SliceViews(scene)
    volume, segmentation = samples.load_sample(scene, sample)
    compare_layout.open_layout(scene)
    compare_layout.show(scene, None, volume, None, segmentation)
    views.view(compare_layout.SYNTHETIC[0]).picture()
    segmentation.CreateClosedSurfaceRepresentation()
    segmentation.GetSegmentation().CollapseBinaryLabelmaps()
    assert samples.unload_sample(volume, segmentation)


@pytest.mark.parametrize("change", ["voxels", "one more", "one less"])
def test_nodes_that_a_person_has_corrected_are_not_thrown_away(scene, sample, change):
    volume, segmentation = samples.load_sample(scene, sample)
    first = segments.node_ids(segmentation)[0]
    start, mask = segments.node_crop(segmentation, first, volume)
    if change == "voxels":
        mask = mask.copy()
        mask[tuple(np.argwhere(mask)[0])] = False
        segments.set_node(segmentation, first, volume, start, mask)
    elif change == "one more":
        segments.add_node(segmentation, volume, start, mask)
    else:
        segments.remove_node(segmentation, first)
    assert not samples.unload_sample(volume, segmentation)
    assert volume.GetScene() is scene and segmentation.GetScene() is scene


def test_what_a_user_has_removed_already_is_no_trouble(scene, sample):
    volume, segmentation = samples.load_sample(scene, sample)
    scene.RemoveNode(segmentation)
    assert samples.unload_sample(volume, segmentation) and volume.GetScene() is None
    assert samples.unload_sample(volume, segmentation)


def test_a_sample_without_nodes_is_loaded_too(scene, tmp_path):
    nodes = Volume(np.zeros((8, 9, 7), np.uint16), np.eye(4))
    folder = make_sample(tmp_path / "s", Volume(np.full((8, 9, 7), 40, np.int16), np.eye(4)), nodes)
    volume, segmentation = samples.load_sample(scene, folder)
    assert segments.node_ids(segmentation) == [] and samples.unload_sample(volume, segmentation)


def damage(folder, how):
    if how == "missing":
        (folder / "nodes.nii.gz").unlink()
    elif how == "another file":
        write(folder / "ct.nii.gz", Volume(read(folder / "ct.nii.gz").array + 1, np.eye(4)))
    elif how == "no hash":
        (folder / "provenance.json").write_text("{}")
    elif how == "no provenance":
        (folder / "provenance.json").unlink()
    elif how == "another grid":
        ct = read(folder / "ct.nii.gz")
        write(folder / "nodes.nii.gz", Volume(np.zeros(ct.shape, np.uint16), np.eye(4)))
        record = json.loads((folder / "provenance.json").read_text())
        record["outputs"]["nodes.nii.gz"] = sha256(folder / "nodes.nii.gz")
        (folder / "provenance.json").write_text(json.dumps(record))


@pytest.mark.parametrize("how, complaint", [
    ("missing", "the file is missing"), ("another file", "not the one that provenance.json"), ("no hash", "SHA-256"),
    ("no provenance", "does not exist"), ("another grid", "do not lie on one grid")])
def test_what_is_no_whole_sample_leaves_the_scene_as_it_was(scene, sample, how, complaint):
    damage(sample, how)
    before = count(scene)
    with pytest.raises(LNSynthError, match=complaint):
        samples.load_sample(scene, sample)
    assert count(scene) == before


def test_a_sample_knows_which_ct_it_was_made_from(scene, tmp_path):
    write(tmp_path / "ct.nii", mrml.phantom().ct)
    source = {"case": "p", "sha256": {"ct": sha256(tmp_path / "ct.nii"), "nodes": {"a.dcm": "def"}}}
    folder = make_sample(tmp_path / "s", mrml.phantom().ct, mrml.phantom().nodes, source=source)
    (tmp_path / "other.nii").write_bytes(b"another")
    assert samples.made_from(folder, [tmp_path / "none.nii", tmp_path / "other.nii", tmp_path / "ct.nii"])
    assert not samples.made_from(folder, [tmp_path / "other.nii"]) and not samples.made_from(folder, [])


def test_the_source_of_a_synthetic_ct_is_known_by_its_voxels_or_by_its_file(scene, tmp_path):
    phantom = mrml.phantom()
    ct = mrml.add_ct(scene)
    changed = phantom.ct.array.copy()
    changed[phantom.nodes.array > 0] = -100
    in_place = Volume(changed, phantom.ct.affine)

    def never():
        raise AssertionError("nothing has to be exported")

    assert samples.is_source(ct, in_place, None, never)
    other = Volume(phantom.ct.array[::-1].copy(), phantom.ct.affine)  # air where the first has air, for the most part
    assert not samples.is_source(ct, other, None, never)
    assert not samples.is_source(ct, Volume(changed[:-1], phantom.ct.affine), tmp_path / "no sample", never)
    patch = Volume(np.zeros((20, 20, 20), np.int16), phantom.ct.affine)
    write(tmp_path / "ct.nii", phantom.ct)
    (tmp_path / "other.nii").write_bytes(b"another")
    folder = make_sample(tmp_path / "s", patch, Volume(np.zeros((20, 20, 20), np.uint16), phantom.ct.affine),
                         source={"sha256": {"ct": sha256(tmp_path / "ct.nii")}})
    assert samples.is_source(ct, patch, folder, lambda: tmp_path / "ct.nii")
    assert not samples.is_source(ct, patch, folder, lambda: tmp_path / "other.nii")


def test_the_file_of_a_volume_counts_only_while_the_volume_is_as_read(scene, tmp_path):
    import slicer

    write(tmp_path / "ct.nii.gz", mrml.phantom().ct)
    ct = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    assert samples.file_of(ct) is None
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(tmp_path / "ct.nii.gz"))
    ct.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.ReadData(ct) and samples.file_of(ct) == tmp_path / "ct.nii.gz"
    slicer.util.updateVolumeFromArray(ct, slicer.util.arrayFromVolume(ct) + 1)
    assert samples.file_of(ct) is None


def test_a_sample_that_is_in_the_scene_as_in_its_files_is_found_there(scene, sample):
    assert samples.loaded(scene, sample) is None
    volume, segmentation = samples.load_sample(scene, sample)
    assert samples.loaded(scene, sample) == (volume, segmentation)
    segments.remove_node(segmentation, segments.node_ids(segmentation)[0])
    assert samples.loaded(scene, sample) is None
    again, _ = samples.load_sample(scene, sample)
    assert samples.loaded(scene, sample)[0] is again
    record = json.loads((sample / "provenance.json").read_text())
    record["outputs"]["ct.nii.gz"] = "made anew"
    (sample / "provenance.json").write_text(json.dumps(record))
    assert samples.loaded(scene, sample) is None


def test_a_real_ct_keeps_every_voxel(scene, tmp_path, shared_data):
    """As samples in place are: the whole CT, with what its file says about HU."""
    ct = mrml.read_real(shared_data)
    nodes = np.zeros(ct.shape, np.uint16)
    nodes[tuple(slice(n // 2, n // 2 + 4) for n in ct.shape)] = 7
    folder = make_sample(tmp_path / "s", ct, Volume(nodes, ct.affine))
    volume, segmentation = samples.load_sample(scene, folder)
    assert np.array_equal(volumes.volume_of(volume).array, read(folder / "ct.nii.gz").array)
    assert np.allclose(volumes.volume_of(volume).affine, ct.affine, atol=1e-5)
    assert len(segments.node_ids(segmentation)) == 1
