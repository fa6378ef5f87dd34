"""Synthesis in place from file to file: what the files hold, and where they say they come from."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from LNSynthLib import cli
from LNSynthLib.generators import model_folder
from LNSynthLib.images.synthetic import sidecar
from LNSynthLib.images.volume import Volume, read, write
from LNSynthLib.masks.labels import table_path
from LNSynthLib.review.provenance import description, read_provenance
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.files import sha256
from LNSynthLib.synthesis.insert import InsertSettings
from LNSynthLib.synthesis.insert_file import insert_file

SETTINGS = InsertSettings(steps=2, seed=5)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A small LN-DDPM in the demo's form, its weights random but not zero, so that the network shows."""
    torch.manual_seed(0)
    model = model_folder.create("lnddpm", {
        "form": {"labels": "abdomen17", "anatomy_channels": 17, "expected_hu": True, "spacing_mm": 2.0,
                 "patch": [32, 32, 32]},
        "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8},
        "timesteps": 20})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model_folder.save(tmp_path_factory.mktemp("weights") / "tiny", model)


@pytest.fixture(scope="module")
def scene():
    """A cylinder of fat in air with a node mask, oblique: (CT in HU, mask, affine)."""
    rng = np.random.default_rng(0)
    shape = (60, 56, 30)
    x, y, z = np.ogrid[:60, :56, :30]
    hu = np.where((x - 30) ** 2 + (y - 28) ** 2 < 24**2, -100, -1000) + rng.normal(0, 12, shape)
    nodes = ((x - 32) ** 2 + (y - 26) ** 2 + (1.5 * (z - 14)) ** 2 < 4**2).astype(np.uint8)
    turn = np.deg2rad(10)
    affine = np.array([[-2 * np.cos(turn), 2 * np.sin(turn), 0, 50], [2 * np.sin(turn), 2 * np.cos(turn), 0, -70],
                       [0, 0, 3, 12], [0, 0, 0, 1]])
    return np.clip(np.rint(hu), -1024, 3071), nodes, affine


def scaled_nifti(path, hu, affine, dtype=">i2", slope=0.5, intercept=-512.0):
    """A NIfTI as scanners' converters write some: big-endian, scaled, with an extension and a descriptive header."""
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(dtype)
    header.set_data_shape(hu.shape)
    header.set_sform(affine, 2)
    header.set_qform(affine, 1)
    header["descrip"], header["aux_file"], header["intent_name"] = b"original", b"aux", b"kept"
    image = nibabel.Nifti1Image(((hu - intercept) / slope).astype(dtype), None, header)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a note from the hospital"))
    image.header.set_slope_inter(slope, intercept)
    image = nibabel.Nifti1Image(hu, affine, image.header)
    nibabel.save(image, path)


def stored(path):
    opened = gzip.open(path) if path.name.endswith(".gz") else open(path, "rb")
    with opened as stream:
        return stream.read()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_keeps_its_bytes_but_for_the_nodes_and_the_description(tmp_path, generator, scene, suffix):
    hu, nodes, affine = scene
    ct, mask, out = tmp_path / f"ct{suffix}", tmp_path / "nodes.nii.gz", tmp_path / f"out{suffix}"
    scaled_nifti(ct, hu, affine)
    write(mask, Volume(nodes, affine))
    insert_file(generator, ct, mask, out, SETTINGS, device="cpu")

    before, after = np.frombuffer(stored(ct), np.uint8), np.frombuffer(stored(out), np.uint8)
    made = nibabel.load(out).header
    assert b"SYNTHETIC" in made["descrip"].item() and not made.extensions
    assert not any(made[field].item() for field in ("aux_file", "intent_name", "db_name"))
    before, after = (array[nibabel.load(path).dataobj.offset:] for path, array in ((ct, before), (out, after)))
    changed = (before != after).reshape(-1, 2).any(axis=1).reshape(hu.shape, order="F")
    distance = ndimage.distance_transform_edt(nodes == 0, sampling=(2, 2, 3))
    assert changed.any() and not changed[distance >= SETTINGS.margin_mm].any()
    assert nibabel.load(out).get_data_dtype() == np.dtype(">i2")
    assert np.array_equal(nibabel.load(out).affine, nibabel.load(ct).affine)
    assert np.array_equal(read(out).array[distance >= 6], read(ct).array[distance >= 6])


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_nrrd_and_mha_keep_their_voxels_and_type(tmp_path, generator, scene, suffix, dtype):
    hu, nodes, affine = scene
    ct, mask, out = tmp_path / f"ct{suffix}", tmp_path / "nodes.nrrd", tmp_path / f"out{suffix}"
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.T.astype(dtype)))
    lps = np.diag([-1, -1, 1, 1]) @ affine
    image.SetSpacing((2, 2, 3))
    image.SetDirection((lps[:3, :3] / (2, 2, 3)).ravel())
    image.SetOrigin(lps[:3, 3])
    image.SetMetaData("series", "portal venous")
    sitk.WriteImage(image, str(ct))
    write(mask, Volume(nodes, affine))
    insert_file(generator, ct, mask, out, SETTINGS, device="cpu")
    result, original = sitk.ReadImage(str(out)), sitk.ReadImage(str(ct))
    assert result.GetPixelID() == original.GetPixelID()
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(result, get)() == pytest.approx(getattr(original, get)(), abs=1e-12)
    assert not result.HasMetaDataKey("series")  # it might name the patient
    assert "SYNTHETIC" in result.GetMetaData("description")
    differs = (sitk.GetArrayFromImage(result) != sitk.GetArrayFromImage(original)).T
    distance = ndimage.distance_transform_edt(nodes == 0, sampling=(2, 2, 3))
    assert differs.any() and not differs[distance >= 6].any()


def test_the_sidecar_says_how_to_make_it_again(tmp_path, generator, scene):
    hu, nodes, affine = scene
    ct, mask = tmp_path / "ct.nii.gz", tmp_path / "nodes.nii.gz"
    write(ct, Volume(hu.astype(np.int16), affine))
    write(mask, Volume(nodes, affine))
    first = insert_file(generator, ct, mask, tmp_path / "a.nii.gz", SETTINGS, device="cpu")
    record = json.loads((tmp_path / "a.nii.gz.provenance.json").read_text())
    assert record == {k: v for k, v in first.items() if k != "file"}
    assert record["synthetic"] is True and record["what"] == "insertion"
    facts = model_folder.facts(generator)
    assert record["generator"] == {k: facts[k] for k in ("kind", "weights_sha256", "settings")} | {
        "labels_sha256": sha256(table_path("abdomen17")), "trained_on": {
            "parts": [], "unknown": ["the generator does not say what it was trained on"]}}
    assert record["sampling"] == {"seed": 5, "sampler": "dpmpp", "steps": 2}
    assert record["source"]["ct"] == {"file": "ct.nii.gz", "sha256": sha256(ct)}
    assert record["outputs"] == {"a.nii.gz": sha256(tmp_path / "a.nii.gz")}
    assert record["condition"]["patches"][0]["nodes"] == [1]
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["versions"]["numpy"] == np.__version__

    s, c = record["sampling"], record["condition"]["settings"]
    again = InsertSettings(**{**c, **s})
    insert_file(generator, ct, mask, tmp_path / "b.nii.gz", again, device=record["made_on"]["device"])
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "a.nii.gz").read_bytes()
    insert_file(generator, ct, mask, tmp_path / "c.nii.gz", InsertSettings(steps=2, seed=6), device="cpu")
    assert (tmp_path / "c.nii.gz").read_bytes() != (tmp_path / "a.nii.gz").read_bytes()


def test_the_description_fits_a_nifti_header():
    assert len(description({"kind": "a kind with a very long name", "weights_sha256": "f" * 64}).encode()) <= 79


@pytest.mark.parametrize("name,beside", [
    ("ct.nii.gz", "ct.nii.gz.provenance.json"), ("ct.nrrd", "ct.nrrd.provenance.json")])
def test_each_volume_has_its_own_sidecar_beside_the_volume(name, beside):
    assert sidecar(Path("x") / name) == Path("x") / beside


def test_the_network_shows_in_the_result(tmp_path, generator, scene):
    hu, nodes, affine = scene
    ct, mask = tmp_path / "ct.nii.gz", tmp_path / "nodes.nii.gz"
    write(ct, Volume(hu.astype(np.int16), affine))
    write(mask, Volume(nodes, affine))
    model, _ = model_folder.load(generator)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(-1)
    other = model_folder.save(tmp_path / "other", model)
    made = [insert_file(folder, ct, mask, tmp_path / f"{name}.nii.gz", SETTINGS, device="cpu")
            for folder, name in ((generator, "a"), (other, "b"))]
    assert made[0]["condition"] != made[1]["condition"]
    assert (tmp_path / "a.nii.gz").read_bytes() != (tmp_path / "b.nii.gz").read_bytes()


def test_cancelled_work_leaves_nothing(tmp_path, generator, scene):
    hu, nodes, affine = scene
    ct, mask = tmp_path / "ct.nii.gz", tmp_path / "nodes.nii.gz"
    write(ct, Volume(hu.astype(np.int16), affine))
    write(mask, Volume(nodes, affine))
    before = {p.name for p in tmp_path.iterdir()}

    def stop(event):
        if event.done >= 1:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        insert_file(generator, ct, mask, tmp_path / "out.nii.gz", SETTINGS, device="cpu", callback=stop)
    assert {p.name for p in tmp_path.iterdir()} == before


def test_wrong_inputs_are_refused_before_any_work(tmp_path, generator, scene):
    hu, nodes, affine = scene
    ct, mask = tmp_path / "ct.nii.gz", tmp_path / "nodes.nii.gz"
    write(ct, Volume(hu.astype(np.int16), affine))
    write(mask, Volume(nodes, affine))
    write(tmp_path / "other.nii.gz", Volume(nodes[:-1], affine))
    write(tmp_path / "empty.nii.gz", Volume(nodes * 0, affine))
    write(tmp_path / "air.nii.gz", Volume(np.roll(nodes, -26, axis=0), affine))
    write(tmp_path / "mr.nii.gz", Volume((hu - hu.min()).astype(np.int16), affine))
    for arguments, said in (
        ((ct, mask, tmp_path / "out.jpg"), "type is not written"),
        ((ct, tmp_path / "other.nii.gz", tmp_path / "out.nii"), "other.nii.gz: the mask does not lie on the CT's grid"),
        ((ct, tmp_path / "air.nii.gz", tmp_path / "out.nii"), "air.nii.gz: .*as dark as fat, lung or air: node 1"),
        ((ct, tmp_path / "empty.nii.gz", tmp_path / "out.nii"), "empty"),
        ((tmp_path / "mr.nii.gz", mask, tmp_path / "out.nii"), "Hounsfield"),
    ):
        with pytest.raises(LNSynthError, match=said):
            insert_file(generator, *arguments, SETTINGS, device="cpu")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("role", ["ct", "nodes", "anatomy"])
def test_no_input_is_ever_overwritten(tmp_path, scene, role):
    hu, nodes, affine = scene
    files = {name: tmp_path / f"{name}.nii.gz" for name in ("ct", "nodes", "anatomy")}
    write(files["ct"], Volume(hu.astype(np.int16), affine))
    write(files["nodes"], Volume(nodes, affine))
    write(files["anatomy"], Volume(nodes * 0, affine))
    (tmp_path / "link").symlink_to(tmp_path)
    before = {p: p.read_bytes() for p in files.values()}
    for out in (files[role], tmp_path / "link" / files[role].name):
        with pytest.raises(LNSynthError, match=f"the input .*{role}.nii.gz; choose another --out"):
            # Before anything is loaded: the generator is not even there.
            insert_file(tmp_path / "none", files["ct"], files["nodes"], out, SETTINGS, anatomy=files["anatomy"],
                        device="cpu")
    assert {p: p.read_bytes() for p in files.values()} == before


def test_a_dicom_folder_becomes_a_nifti(tmp_path, generator, shared_data):
    folder = shared_data / "ts_slab_dicom"
    ct = read(folder)
    nodes = np.zeros(ct.shape, np.uint8)
    nodes[248:256, 232:240, 7:12] = 1
    write(tmp_path / "nodes.nii.gz", Volume(nodes, ct.affine))
    status = cli.main(["insert", "--generator", str(generator), "--ct", str(folder), "--nodes",
                       str(tmp_path / "nodes.nii.gz"), "--anatomy", str(shared_data / "ts_slab_labels.nii.gz"),
                       "--out", str(tmp_path / "out.nii.gz"), "--steps", "1", "--device", "cpu", "--anyway"])
    assert status == 0
    made = read(tmp_path / "out.nii.gz")
    assert made.array.dtype == ct.array.dtype and made.affine == pytest.approx(ct.affine, abs=1e-4)
    distance = ndimage.distance_transform_edt(nodes == 0, sampling=ct.spacing)
    assert np.array_equal(made.array[distance >= 6], ct.array[distance >= 6])
    record = json.loads((tmp_path / "out.nii.gz.provenance.json").read_text())
    assert len(record["source"]["ct"]["sha256"]) == 20


def test_a_ct_that_was_being_replaced_has_the_provenance_of_one_run(tmp_path, generator, scene, monkeypatch):
    """Stopped between any two of the writes: what is there is the old pair or the new one."""
    hu, nodes, affine = scene
    ct, mask, out = tmp_path / "ct.nii.gz", tmp_path / "nodes.nii.gz", tmp_path / "out.nii.gz"
    write(ct, Volume(hu.astype(np.int16), affine))
    write(mask, Volume(nodes, affine))
    old = insert_file(generator, ct, mask, out, SETTINGS, device="cpu")["sampling"]["seed"]
    rename, counted = os.replace, []

    def stopped(source, target):
        if Path(target).parent == tmp_path:
            counted.append(target)
            if len(counted) == last:
                raise KeyboardInterrupt
        rename(source, target)

    seeds = set()
    for last in (1, 2, 3, 4, 5):
        counted.clear()
        monkeypatch.setattr(os, "replace", stopped)
        try:
            insert_file(generator, ct, mask, out, replace(SETTINGS, seed=last + 10), device="cpu")
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(os, "replace", rename)
        record = read_provenance(out)
        assert record["outputs"] == {"out.nii.gz": sha256(out)} and record["sampling"]["seed"] in (old, last + 10)
        seeds.add(old := record["sampling"]["seed"])
    assert len(seeds) > 2 and old == 15 and "replaces" not in json.loads(sidecar(out).read_text())
    out.write_bytes(ct.read_bytes())
    with pytest.raises(LNSynthError, match="does not belong to out.nii.gz beside it"):
        read_provenance(out)
