"""Variants of one CT: what changes and what stays, that they are samples like others, and that no run is in vain."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from test_synthesize import make_generator

from LNSynthLib import cli
from LNSynthLib.cases.dataset import Dataset, origin
from LNSynthLib.conditions.transforms import VarySettings
from LNSynthLib.images.volume import Volume, read, same_grid, write
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.phantom.phantom import phantom, phantom_dataset
from LNSynthLib.review import verdicts
from LNSynthLib.review.contact_sheet import contact_sheet
from LNSynthLib.review.samples import samples
from LNSynthLib.review.standings import pairs, standings
from LNSynthLib.runtime import temporary
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.events import Event
from LNSynthLib.runtime.files import sha256
from LNSynthLib.segmentation import filter as sample_filter
from LNSynthLib.segmentation.export import export
from LNSynthLib.segmentation.model import DATASET
from LNSynthLib.segmentation.settings import SegmentSettings
from LNSynthLib.segmentation.splits import divide
from LNSynthLib.synthesis.insert import InsertSettings
from LNSynthLib.synthesis.insert_file import insert_file
from LNSynthLib.synthesis.scene import Nodes
from LNSynthLib.synthesis.variants import in_place
from LNSynthLib.synthesis.variants.difference import Wanted, difference
from LNSynthLib.synthesis.variants.inputs import Files
from LNSynthLib.synthesis.variants.make import variants
from LNSynthLib.synthesis.variants.run import VariantSettings

SETTINGS, MARGIN = VariantSettings(count=2, seed=4, steps=2), InsertSettings().margin_mm


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return make_generator(tmp_path_factory.mktemp("weights") / "tiny", spacing_mm=3.0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A phantom that shows nodes 1 to 4; wanted: 1 as it is (as number 7), 2 moved, a new one, 3 and 4 gone."""
    folder = tmp_path_factory.mktemp("scene")
    drawn = phantom(1, 3.0, nodes=4)
    present = drawn.nodes.array
    assert set(np.unique(present)) == {0, 1, 2, 3, 4}
    wanted = np.where(present == 1, 7, 0).astype(np.uint16)
    wanted[np.roll(present == 2, 3, axis=0) & (present == 0)] = 2
    wanted[np.roll(present == 4, -6, axis=2) & (present == 0) & (wanted == 0)] = 9
    write(folder / "ct.nii.gz", drawn.ct, "SYNTHETIC (phantom), not a patient's image")
    write(folder / "anatomy.nii.gz", drawn.anatomy)
    write(folder / "present.nii", drawn.nodes)
    write(folder / "nodes.nii", Volume(wanted, drawn.nodes.affine))
    return Files(folder / "ct.nii.gz", folder / "nodes.nii", folder / "present.nii", folder / "anatomy.nii.gz")


@pytest.fixture(scope="module")
def made(generator, scene, tmp_path_factory):
    """(folder, result, events) of two variants in place."""
    out, events = tmp_path_factory.mktemp("made"), []
    return out, variants(generator, scene, out, SETTINGS, prefix="v", device="cpu", callback=events.append), events


def record(folder):
    return json.loads((folder / "provenance.json").read_text())


def near(mask, spacing):
    return ndimage.distance_transform_edt(mask == 0, sampling=spacing) < MARGIN


def everything(folder):
    """All files below a folder, hidden ones too, by their hash."""
    return {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}


def test_what_is_gone_is_removed_what_is_new_is_made_and_the_rest_stays_bit_for_bit(made, scene):
    out, result, _ = made
    ct, present, wanted = read(scene.ct), read(scene.present).array, read(scene.nodes).array
    assert result["made"] == ["v-001", "v-002"] == [p.name for p in samples(out)]
    for name in result["made"]:
        new, nodes = read(out / name / "ct.nii.gz"), read(out / name / "nodes.nii.gz")
        assert same_grid(ct, new)[0] and new.array.dtype == ct.array.dtype
        assert np.array_equal(nodes.array, wanted) and same_grid(ct, nodes)[0]
        may = near(np.isin(wanted, [2, 9]) | np.isin(present, [2, 3, 4]), ct.spacing) & (wanted != 7)
        differs = new.array != ct.array
        assert not differs[~may].any()
        for changed in (wanted == 2, wanted == 9, present == 3, present == 4):
            assert differs[changed].mean() > 0.9
        about = record(out / name)
        assert about["synthetic"] and about["what"] == "insertion" and about["source"]["kind"] == "phantom"
        assert [about["condition"][k] for k in ("made", "kept", "removed")] == [[2, 9], [7], [2, 3, 4]]
        assert about["source"]["sha256"] == {role: sha256(path) for role, path in scene.named().items()}
        assert about["source"]["case"] == "v" and about["source"]["anatomy_version"] == 2
        assert about["outputs"] == {n: sha256(out / name / n) for n in about["outputs"]}
        assert {n["id"]: n["state"] for n in about["nodes"]} == {2: "made", 7: "kept", 9: "made"}
        assert nibabel.load(out / name / "ct.nii.gz").header["descrip"].item().startswith(b"SYNTHETIC: LNSynth")
    first, second = (read(out / name / "ct.nii.gz").array for name in result["made"])
    assert (first[wanted == 9] != second[wanted == 9]).mean() > 0.5, "two variants are two draws"
    gone = (present == 3) & ~near(np.isin(wanted, [2, 9]), ct.spacing)
    assert np.array_equal(first[gone], second[gone]), "what is removed is removed once"


def test_events_tell_of_each_sample_as_it_is_finished(made):
    out, result, events = made
    told = [e for e in events if e.stage == "sample"]
    assert [(e.done, e.total, e.result["id"]) for e in told] == [(1, 2, "v-001"), (2, 2, "v-002")]
    assert told[0].result == {"sample": str(out / "v-001"), "id": "v-001", "nodes": record(out / "v-001")["nodes"]}
    progress = [e for e in events if e.stage == "synthesising"]
    assert events.index(told[0]) < events.index(progress[-1])
    assert [e.done for e in progress] == sorted(e.done for e in progress) and progress[-1].done == progress[-1].total


def test_without_present_nodes_a_variant_is_what_insert_makes_of_its_seed(generator, scene, tmp_path):
    files = replace(scene, present=None)
    variants(generator, files, tmp_path / "s", replace(SETTINGS, count=1), prefix="v", device="cpu")
    about = record(tmp_path / "s" / "v-001")
    assert about["condition"]["made"] == [2, 7, 9] and about["condition"]["removal"] is None
    insert_file(generator, files.ct, files.nodes, tmp_path / "ct.nii.gz",
                InsertSettings(seed=about["sampling"]["seed"], steps=2), anatomy=files.anatomy, device="cpu")
    assert sha256(tmp_path / "ct.nii.gz") == about["outputs"]["ct.nii.gz"]


def test_a_folder_of_variants_is_reviewed_filtered_and_paired_like_any_other(made, tmp_path):
    out = shutil.copytree(made[0], tmp_path / "samples")

    class Finds:
        identity = "all"

        def predict(self, volume):
            nodes = next(read(p / "nodes.nii.gz") for p in samples(out))
            return type("Found", (), {"instances": nodes.array})

    verdicts.record(out, "v-001", "accept", reviewer="a")
    verdicts.record(out, "v-002", "reject", "odd", reviewer="a")
    assert sample_filter.filter_samples(out, Finds())["kept"] == 2
    kept, left_out = pairs(out)
    assert [p.name for p in kept] == ["v-001"] and left_out[0]["sample"] == "v-002"
    assert "v-001" in contact_sheet("x", standings(out))


def test_a_segmenter_is_trained_on_variants_in_place_as_on_real_ones(generator, tmp_path):
    """The CT of a data set and a copy of it in another file, type and order of axes, with its id and without."""
    dataset = phantom_dataset(tmp_path / "data", 2, seed=3, spacing=4.0, nodes=3)
    for entry, split in zip(dataset.cases(), ("train", "val"), strict=True):
        entry["split"] = split
    dataset.save()
    mine, other = (entry["id"] for entry in dataset.cases())
    ct = read(dataset.path(mine, "ct"))
    turned = Volume(ct.array[::-1, :, ::-1].transpose(1, 0, 2).astype(np.float32),
                    ct.affine @ [[0, -1, 0, ct.shape[0] - 1], [1, 0, 0, 0], [0, 0, -1, ct.shape[2] - 1], [0, 0, 0, 1]])
    nodes = read(dataset.path(mine, "nodes"))
    write(tmp_path / "viewer.nrrd", turned)
    names = {}
    for number, (path, prefix, case) in enumerate((
            (dataset.path(mine, "ct"), "a", None), (tmp_path / "viewer.nrrd", "b", None),
            (tmp_path / "viewer.nrrd", "c", mine))):
        files = Files(path, dataset.path(mine, "nodes"), case=case)
        result = variants(generator, files, tmp_path / "samples", replace(SETTINGS, count=1, seed=number),
                          prefix=prefix, device="cpu")
        names[prefix] = f"{result['made'][0]}-synthetic1"
    settings = SegmentSettings(strategy="both", spacing_mm=5.0, margin_mm=30.0, labels="abdomen17")
    division = divide([dataset.folder], [tmp_path / "samples"], settings)
    assert {item.name: item.case for item in division.train if item.kind == "synthetic"} == {
        name: mine for name in names.values()}
    export(division, settings, tmp_path / "raw")
    real, synthetic = (read(tmp_path / "raw" / DATASET / "imagesTr" / f"{name}_0000.nii.gz")
                       for name in (f"{mine}-real", names["a"]))
    assert same_grid(real, synthetic)[0] and real.array.dtype == synthetic.array.dtype
    label = read(tmp_path / "raw" / DATASET / "labelsTr" / f"{names['a']}.nii.gz")
    assert np.array_equal(label.array, read(tmp_path / "raw" / DATASET / "labelsTr" / f"{mine}-real.nii.gz").array)
    assert 0 < label.array.sum() * 5**3 == pytest.approx((nodes.array > 0).sum() * 4**3, rel=0.3)
    far = ~near(label.array, (5.0,) * 3) & ~ndimage.binary_dilation(label.array, iterations=3)
    assert np.abs(real.array - synthetic.array)[far].max() <= 1
    # Its father is of split val: the child may not be trained on, by whatever file it came.
    for entry in dataset.cases():
        entry["split"] = {mine: "val", other: "train"}[entry["id"]]
    dataset.save()
    for prefix in "abc":
        with pytest.raises(LNSynthError, match="cannot be trained on"):
            shutil.rmtree(tmp_path / "one", ignore_errors=True)
            shutil.copytree(tmp_path / "samples" / f"{prefix}-001", tmp_path / "one" / f"{prefix}-001")
            divide([dataset.folder], [tmp_path / "one"], settings)


def test_nodes_that_stay_are_made_anew_only_when_asked(generator, scene, tmp_path):
    same = replace(scene, nodes=scene.present)
    with pytest.raises(LNSynthError, match="nothing to make.*--remake"):
        variants(generator, same, tmp_path / "s", SETTINGS, prefix="v", device="cpu")
    assert not list((tmp_path / "s").glob("*"))
    variants(generator, same, tmp_path / "s", replace(SETTINGS, count=1, remake=True), prefix="v", device="cpu")
    condition = record(tmp_path / "s" / "v-001")["condition"]
    assert (condition["made"], condition["kept"], condition["removed"]) == ([1, 2, 3, 4], [], [])


def test_removing_alone_leaves_a_sample_without_the_node(generator, scene, tmp_path):
    present = read(scene.present)
    for left, name in (([1, 2, 4], "fewer.nii"), ([], "none.nii")):
        write(tmp_path / name, Volume(np.where(np.isin(present.array, left), present.array, 0), present.affine))
        variants(generator, replace(scene, nodes=tmp_path / name), tmp_path / name[:-4], replace(SETTINGS, count=1),
                 prefix="v", device="cpu")
        sample = tmp_path / name[:-4] / "v-001"
        differs = read(sample / "ct.nii.gz").array != read(scene.ct).array
        gone = ~np.isin(present.array, left) & (present.array > 0)
        assert record(sample)["what"] == "removal" and differs[gone].mean() > 0.9
        assert not differs[~near(gone, present.spacing) | np.isin(present.array, [0, *left][1:])].any()


def test_varied_nodes_are_others_in_each_variant_and_lie_where_nodes_may(generator, scene, tmp_path):
    files = replace(scene, nodes=scene.present)
    settings = replace(SETTINGS, vary=VarySettings(remove=1.0, translation_mm=6))
    variants(generator, files, tmp_path, settings, prefix="v", device="cpu")
    masks = [read(p / "nodes.nii.gz").array for p in samples(tmp_path)]
    assert not np.array_equal(*masks)
    ct, present = read(scene.ct), read(scene.present).array
    organs = LabelTable.load("abdomen17").from_totalsegmentator(read(scene.anatomy).array)
    for path, mask in zip(samples(tmp_path), masks, strict=True):
        about = record(path)["condition"]
        assert len(about["changes"]) == 4 and about["changes"][0].keys() >= {"id", "operation"}
        assert not set(about["kept"]) & set(about["made"]) and about["made"]
        moved = np.isin(mask, about["made"]) & (mask > 0)
        assert not (organs[moved & (present == 0)] > 0).any()
        changed = moved | (np.isin(present, about["removed"]) & (present > 0))
        assert not (read(path / "ct.nii.gz").array != ct.array)[~near(changed, ct.spacing)].any()
    with pytest.raises(LNSynthError, match="--anatomy"):
        variants(generator, replace(files, anatomy=None), tmp_path, settings, device="cpu")


def test_varied_nodes_keep_clear_of_bowel_and_muscle(generator, scene, tmp_path):
    organs, nodes = read(scene.anatomy), read(scene.present)
    far = ndimage.distance_transform_edt(nodes.array == 0, sampling=nodes.spacing) > 15
    muscle = far & (organs.array == 0)
    write(tmp_path / "anatomy.nii", Volume(np.where(muscle, 86, organs.array).astype(np.uint8), organs.affine))
    way = VarySettings(remove=0.0, elastic=0.0, translation_mm=40.0, tries=40)
    files = replace(scene, nodes=scene.present, present=None)
    for name, anatomy in (("free", scene.anatomy), ("narrow", tmp_path / "anatomy.nii")):
        settings = replace(SETTINGS, steps=1, vary=way, seed=1)
        variants(generator, replace(files, anatomy=anatomy), tmp_path / name, settings, prefix="v", device="cpu")
    onto = {name: sum((read(p / "nodes.nii.gz").array[muscle] > 0).sum() for p in samples(tmp_path / name))
            for name in ("free", "narrow")}
    assert onto["free"] > 0 == onto["narrow"]


def test_a_node_at_the_end_of_its_room_is_seen_whole(scene):
    """Around a node that was moved far more than the region is looked at."""
    present = read(scene.present)
    whole = present.array == 1
    region = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(whole))
    nodes = Nodes.within(region, Volume(present.array[region] * whole[region].astype(np.uint16), present.affine))
    for before, after in ((4, 3), (-1, 0)):
        box = tuple(slice(r.start - before, r.stop + after) for r in region)
        assert np.array_equal(nodes.mask([1], box), whole[box]) and not nodes.mask([2], box).any()


def test_patches_are_samples_with_the_numbers_of_the_mask(generator, scene, tmp_path):
    settings = replace(SETTINGS, mode="patch", count=3)
    result = variants(generator, scene, tmp_path, settings, prefix="p", device="cpu")
    assert len(result["made"]) == 3
    wanted = read(scene.nodes)
    for path in samples(tmp_path):
        ct, nodes, anatomy = (read(path / f"{what}.nii.gz") for what in ("ct", "nodes", "anatomy"))
        assert ct.shape == nodes.shape == anatomy.shape == (16, 16, 16)
        assert set(np.unique(nodes.array)) - {0} <= {2, 7, 9} and nodes.array.any()
        about = record(path)
        assert about["what"] == "patch" and np.isin(nodes.array, [2, 9]).any(), "around a node that is new"
        for node in about["nodes"]:
            at = np.argwhere(wanted.array == node["id"]).mean(0)
            real = (wanted.affine @ [*at, 1])[:3]
            if (nodes.array == node["id"]).sum() == (wanted.array == node["id"]).sum():  # whole in the patch
                assert np.linalg.norm(real - node["centroid_mm"]) < 3
    assert len({sha256(p / "ct.nii.gz") for p in samples(tmp_path)}) == 3
    again = variants(generator, scene, tmp_path, settings, prefix="p", device="cpu")
    assert again["unchanged"] == result["made"] and again["made"] == []


def test_other_work_into_the_same_folder_replaces_nothing(generator, scene, made, tmp_path):
    out = shutil.copytree(made[0], tmp_path / "samples")
    before, events = everything(out), []
    same = variants(generator, scene, out, SETTINGS, prefix="v", device="cpu", callback=events.append)
    assert same["unchanged"] == ["v-001", "v-002"] and everything(out) == before
    assert [e.result["id"] for e in events if e.stage == "sample"] == ["v-001", "v-002"]
    more = variants(generator, scene, out, replace(SETTINGS, seed=5, count=1), prefix="v", device="cpu")
    assert more["made"] == ["v-003"] and before.items() <= everything(out).items()
    (out / "v-001" / "ct.nii.gz").unlink()
    healed = variants(generator, scene, out, SETTINGS, prefix="v", device="cpu")
    assert healed["made"] == ["v-001"] and before.items() <= everything(out).items()


def test_a_sample_that_a_person_corrected_is_not_made_again_over_it(generator, scene, made, tmp_path):
    out, settings = shutil.copytree(made[0], tmp_path / "samples"), replace(SETTINGS, count=1)
    corrected = out / "v-001" / "nodes.nii.gz"
    corrected.write_bytes((out / "v-002" / "ct.nii.gz").read_bytes())
    for lost in (None, "montage.png"):  # nor where it lacks a file besides
        if lost:
            (out / "v-001" / lost).unlink()
            shutil.rmtree(out / "v-003")
        before = everything(out)
        anew = variants(generator, scene, out, settings, prefix="v", device="cpu")
        assert anew["made"] == ["v-003"] and before.items() <= everything(out).items()
        assert sha256(out / "v-003" / "ct.nii.gz") == sha256(made[0] / "v-001" / "ct.nii.gz")
    assert variants(generator, scene, out, settings, prefix="v", device="cpu")["unchanged"] == ["v-003"]


def test_an_input_in_a_folder_that_would_be_made_again_is_refused(generator, scene, made, tmp_path):
    out = shutil.copytree(made[0], tmp_path / "samples")
    (out / "v-002" / "montage.png").unlink()
    inside = shutil.copy(scene.nodes, out / "v-002" / "nodes.nii")
    before = everything(out)
    with pytest.raises(LNSynthError, match="v-002: writing it would change the input"):
        variants(generator, replace(scene, nodes=inside), out, SETTINGS, prefix="v", device="cpu")
    assert everything(out) == before
    # A sample as the source of others beside it is in nobody's way.
    source = Files(out / "v-001" / "ct.nii.gz", scene.nodes, anatomy=scene.anatomy)
    result = variants(generator, source, out, replace(SETTINGS, count=1, steps=1), prefix="v", device="cpu")
    assert result["made"] == ["v-003"] and before.items() <= everything(out).items()


def test_two_runs_at_once_do_not_take_the_same_numbers(generator, scene, tmp_path):
    settings, second, living = replace(SETTINGS, count=1, steps=1), [], tmp_path / f".v-002{temporary.mark()}"

    def meanwhile(event: Event):
        if event.stage == "synthesising" and not second:
            living.mkdir()  # the first run's, which works on it
            with pytest.raises(LNSynthError, match="another run is making samples v-... here") as error:
                variants(generator, scene, tmp_path, replace(settings, seed=9), prefix="v", device="cpu")
            other = variants(generator, scene, tmp_path, settings, prefix="w", device="cpu")
            second.extend([error, other["made"]])

    variants(generator, scene, tmp_path, settings, prefix="v", device="cpu", callback=meanwhile)
    assert second[1] == ["w-001"] and living.exists()
    last = variants(generator, scene, tmp_path, replace(settings, seed=9), prefix="v", device="cpu")
    assert last["made"] == ["v-002"] and [p.name for p in samples(tmp_path)] == ["v-001", "v-002", "w-001"]


def test_a_variant_in_which_nothing_could_be_varied_costs_itself_alone(generator, scene, tmp_path, monkeypatch):
    files, events = replace(scene, nodes=scene.present), []
    settings = replace(SETTINGS, count=3, steps=1, vary=VarySettings(remove=1.0))
    as_it_is, calls = in_place.vary, []

    def second_finds_no_room(nodes, *rest):
        calls.append(nodes)
        return (nodes, []) if len(calls) == 2 else as_it_is(nodes, *rest)

    monkeypatch.setattr(in_place, "vary", second_finds_no_room)
    result = variants(generator, files, tmp_path / "a", settings, prefix="v", device="cpu", callback=events.append)
    assert result["made"] == ["v-001", "v-003"] == [p.name for p in samples(tmp_path / "a")] == result["samples"]
    assert [left["variant"] for left in result["skipped"]] == [2]
    assert "no node could be changed" in result["skipped"][0]["reason"]
    assert any(e.message.startswith("variant 2 left out: ") for e in events)
    monkeypatch.setattr(in_place, "vary", lambda nodes, *_: (nodes, []))
    with pytest.raises(LNSynthError, match="no node could be changed"):
        variants(generator, files, tmp_path / "b", settings, prefix="v", device="cpu")


def test_cancelled_it_leaves_whole_samples_alone(generator, scene, made, tmp_path):
    def stop(event: Event):
        if event.stage == "synthesising" and event.done > 0.6 * event.total:
            raise Cancelled

    with pytest.raises(Cancelled):
        variants(generator, scene, tmp_path, SETTINGS, prefix="v", device="cpu", callback=stop)
    assert {p.name for p in tmp_path.iterdir()} == {"v-001"}
    variants(generator, scene, tmp_path, SETTINGS, prefix="v", device="cpu")
    assert everything(tmp_path) == everything(made[0])


def test_killed_in_a_child_process_it_goes_on_to_the_same_end(generator, scene, made, repository, tmp_path):
    arguments = [sys.executable, "-m", "LNSynthLib", "variants", "--events", "json", "--out", str(tmp_path), "--seed",
                 "4", "--steps", "2", "--count", "2", "--prefix", "v", "--generator", str(generator), "--device", "cpu"]
    for role, path in scene.named().items():
        arguments += [f"--{role}", str(path)]
    threads = json.loads((made[0] / "v-001" / "provenance.json").read_text())["made_on"]["threads"]  # is recorded
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if Event.from_json(line).stage == "sample":
                process.send_signal(signal.SIGKILL)
                break
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")} == {"v-001"}
    (tmp_path / ".v-002.left").mkdir()
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True)
    events = [Event.from_json(line) for line in done.stdout.splitlines()]
    assert [e.result["id"] for e in events if e.stage == "sample"] == ["v-001", "v-002"]
    assert events[-1].stage == "variants" and events[-1].result["made"] == ["v-002"]
    assert everything(tmp_path) == everything(made[0])


def test_the_case_is_that_of_the_data_set_the_ct_lies_in(tmp_path):
    phantom_dataset(tmp_path / "data", 1, seed=2, spacing=6.0, nodes=2)
    entry = Dataset.open(tmp_path / "data").cases()[0]
    ct = tmp_path / "data" / entry["files"]["ct"]
    assert origin(ct) == (entry["id"], "phantom")
    (tmp_path / "My scan (1).nii.gz").write_bytes(ct.read_bytes())
    assert origin(tmp_path / "My scan (1).nii.gz") == ("My-scan-1", "phantom")
    assert origin(tmp_path / "My scan (1).nii.gz", "patient-3") == ("patient-3", "phantom")
    assert origin(tmp_path / "My scan (1).nii.gz", None, "CT-5") == ("CT-5", "phantom")  # a viewer's file
    assert origin(ct, None, "CT-5") == (entry["id"], "phantom")


def test_a_node_is_the_same_where_its_voxels_are_whatever_its_number():
    present = np.zeros((8, 8, 8), np.uint16)
    present[1:3, 1:3, 1:3], present[5:7, 5:7, 5:7], present[1, 6, 1] = 1, 2, 3
    wanted = np.where(present == 1, 9, 0).astype(np.uint16)
    wanted[5:7, 5:7, 5] = 1
    found = difference(wanted, present)
    assert (found.same, found.new, found.gone) == ({9: 1}, [1], [2, 3])
    # A mask of one value is split, but not a node of two pieces that the other mask has.
    two = np.where(present > 1, 2, 0) + np.where(present == 1, 1, 0)
    one = np.where(two == 2, 5, 0)
    for nodes, there, same, gone in ((one, two, 1, 1), (two, one, 1, 0)):
        both = Wanted.of(Volume(nodes, np.eye(4)), Volume(there, np.eye(4)), 1)
        found = difference(both.nodes.array, both.present.array)
        assert (len(found.same), len(found.gone)) == (same, gone)
    alone = Wanted.of(Volume(one, np.eye(4)), None, 1)
    assert len(difference(alone.nodes.array, alone.present.array).new) == 2


def test_refusals(generator, scene, tmp_path, capsys):
    base = ["variants", "--generator", str(generator), "--ct", str(scene.ct), "--nodes", str(scene.nodes)]
    out = ["--out", str(tmp_path / "o"), "--steps", "1"]
    for arguments, said in (
            (["--count", "0"], "--count"), (["--set", "remove=0"], "--vary"), (["--prefix", "../x"], "--prefix"),
            (["--present", str(scene.ct)], "ct.nii.gz"), (["--vary"], "--anatomy")):
        assert cli.main([*base, *out, *arguments]) == 2
        assert said in capsys.readouterr().err
    empty = read(scene.nodes)
    write(tmp_path / "empty.nii", Volume(np.zeros_like(empty.array), empty.affine))
    nothing = [*base[:-1], str(tmp_path / "empty.nii"), *out]
    assert cli.main(nothing) == 2 and "empty" in capsys.readouterr().err
    assert cli.main([*nothing, "--present", str(scene.present), "--mode", "patch"]) == 2
    assert "in-place" in capsys.readouterr().err
    absent = read(scene.nodes).array
    write(tmp_path / "absent.nii", Volume(np.where(absent == 9, 9, 0), empty.affine))
    assert cli.main([*base, *out, "--present", str(tmp_path / "absent.nii")]) == 2
    said = capsys.readouterr().err
    assert not list((tmp_path / "o").glob("*"))
    assert "absent.nii" in said and "fat" in said
