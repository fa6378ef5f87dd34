"""Training, validation and test stay apart, whatever a CT's form, a patient's spelling, or who trained on them."""

import json

import numpy as np
import pytest
from test_synthesize import make_generator

from LNSynthLib.cases.dataset import Case, Dataset
from LNSynthLib.cases.fingerprint import fingerprint, near_duplicates
from LNSynthLib.cases.importers import import_folder
from LNSynthLib.cases.prepare import PrepareSettings, prepare
from LNSynthLib.cases.sides import check_sides, members, person
from LNSynthLib.cases.trained_on import TrainedOn, held_out
from LNSynthLib.experiment.data import check_apart as check_plan
from LNSynthLib.experiment.plan import load_plan
from LNSynthLib.generators import model_folder
from LNSynthLib.images.ct_file import open_ct
from LNSynthLib.images.volume import Volume, read, write
from LNSynthLib.phantom.phantom import phantom
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.synthesis.insert import InsertSettings
from LNSynthLib.synthesis.insert_file import insert_file
from LNSynthLib.synthesis.synthesize import SynthesizeSettings, synthesize
from LNSynthLib.synthesis.variants.inputs import seen


@pytest.fixture(scope="module")
def drawn():
    """Two abdomens of different seeds, on 3 mm."""
    return [phantom(seed, spacing=3.0, nodes=2) for seed in (11, 12)]


def changed(ct: Volume) -> dict[str, Volume]:
    """One CT in many forms."""
    rng = np.random.default_rng(0)
    one = ct.array.copy()
    one[tuple(n // 2 for n in one.shape)] += 1
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[0, 3] = ct.shape[0] - 1
    later = ct.affine.copy()
    later[:3, 3] += later[:3, 2]
    return {
        "float32": Volume(ct.array.astype(np.float32), ct.affine),
        "axes in another order": Volume(ct.array.transpose(2, 0, 1), ct.affine[:, [2, 0, 1, 3]]),
        "stored flipped": Volume(ct.array[::-1], ct.affine @ mirrored),
        "mirrored": Volume(ct.array[::-1], ct.affine),
        "cropped by a slice": Volume(ct.array[:, :, 1:], later),
        "one voxel changed": Volume(one, ct.affine),
        "noise of 5 HU": Volume(ct.array + rng.normal(0, 5, ct.shape).astype(np.float32), ct.affine),
        "window clipped": Volume(np.clip(ct.array, -120, 240), ct.affine)}


def test_a_ct_is_known_in_every_form_and_no_other_is_taken_for_it(drawn):
    first, second = (fingerprint(case.ct) for case in drawn)
    forms = changed(drawn[0].ct)
    looks = [fingerprint(volume) for volume in forms.values()]
    assert [i for i, _, _ in near_duplicates(looks, [first])] == list(range(len(forms)))
    assert near_duplicates([*looks, first], [second]) == []
    assert looks[1].voxels == looks[2].voxels == first.voxels != looks[3].voxels


def test_spellings_of_one_patient():
    assert len({person(id) for id in ("Case 12", "case-12", " CASE_12 ", "case.12")}) == 1
    assert person("case1-2") != person("case12")


def dataset(folder, cases, kind="real"):
    """cases: id -> (patient, split, Case of which CT and nodes are taken, whether with nodes)"""
    made = Dataset.create(folder, kind=kind)
    for id, (patient, split, case, annotated) in cases.items():
        made.add(Case(id, case.ct, case.nodes if annotated else None, None, {"patient": patient, "split": split}))
    return made.folder


@pytest.mark.parametrize("kind", ["real", "pseudo"])
def test_two_sides_that_show_one_ct_are_refused_with_both_names(drawn, tmp_path, kind):
    other = Case("x", changed(drawn[0].ct)["mirrored"], drawn[0].nodes)
    folders = [dataset(tmp_path / "a", {"one": ("P", "train", drawn[0], True)}),
               dataset(tmp_path / "b", {"two": ("Q", "test", other, False)}, kind)]
    with pytest.raises(LNSynthError, match="case one in .*split train.*case two in .*split test.*one CT"):
        check_sides(members(folders))


def test_a_patient_spelt_otherwise_on_the_other_side_is_refused(drawn, tmp_path):
    folder = dataset(tmp_path / "a", {"one": ("Case 12", "train", drawn[0], True),
                                      "two": ("case-12", "test", drawn[1], False)})
    with pytest.raises(LNSynthError, match="patient Case 12 .also spelt 'case-12'.* case one .* case two.*two people"):
        check_sides(members([folder]))


def test_what_was_found_apart_is_not_compared_again_until_it_is_another(drawn, tmp_path):
    folder = dataset(tmp_path / "a", {"one": ("P", "train", drawn[0], False), "two": ("Q", "test", drawn[1], False)})
    check_sides(members([folder]))
    prints = [folder / "cases" / id / "fingerprint.npz" for id in ("one", "two")]
    for path in prints:
        path.unlink()
    check_sides(members([folder]))
    assert not any(path.exists() for path in prints)
    copy = Case("three", changed(drawn[0].ct)["noise of 5 HU"], entry={"patient": "R", "split": "test"})
    Dataset.open(folder).add(copy)
    for _ in range(2):
        with pytest.raises(LNSynthError, match="case one .*split train.*case three .*split test.*one CT"):
            check_sides(members([folder]))


def sources(folder, cases):
    for name, case in cases.items():
        write(folder / "ct" / f"{name}.nii.gz", case.ct)
        write(folder / "nodes" / f"{name}.nii.gz", case.nodes)
    return folder / "ct", folder / "nodes"


def test_a_second_import_leaves_a_patient_on_his_side_and_refuses_his_ct_under_another_name(drawn, tmp_path):
    out, table = tmp_path / "set", tmp_path / "pairs.csv"
    images, nodes = sources(tmp_path / "in", {"a": drawn[0], "b": drawn[1]})
    table.write_text("image,nodes,patient\na.nii.gz,a.nii.gz,Anna 1\n")
    import_folder(images, nodes, out, table=table, shares=(0, 0, 1))
    table.write_text("image,nodes,patient\nb.nii.gz,b.nii.gz,anna-1\n")
    import_folder(images, nodes, out, table=table, shares=(1, 0, 0))
    assert {e["id"]: e["split"] for e in Dataset.open(out).cases()} == {"a": "test", "b": "test"}
    table.write_text("image,nodes,patient,split\nb.nii.gz,b.nii.gz,ANNA 1,train\n")
    with pytest.raises(LNSynthError, match="ANNA 1 is of split test in this data set"):
        import_folder(images, nodes, out, table=table)
    write(images / "c.nii.gz", changed(drawn[0].ct)["one voxel changed"])
    table.write_text("image,nodes,patient,split\nc.nii.gz,a.nii.gz,Berta,train\n")
    with pytest.raises(LNSynthError, match="case c .*c.nii.gz.*Berta.*case a in .*Anna 1.*one CT"):
        import_folder(images, nodes, out, table=table)
    assert [e["id"] for e in Dataset.open(out).cases()] == ["a", "b"]


BOTH = r"case one in .*split train.*case two in .*split test.*one CT"


def test_what_uses_a_data_set_asks_first(drawn, tmp_path):
    """Prepare and experiments: before any work, though the case under another name has no nodes."""
    folder = dataset(tmp_path / "a", {"one": ("P", "train", drawn[0], True), "two": ("Q", "test", drawn[0], False)})
    with pytest.raises(LNSynthError, match=BOTH):
        prepare(Dataset.open(folder), PrepareSettings(spacing_mm=4.0, allow_no_anatomy=True, allow_no_nodes=True))
    assert not (folder / "prepared").exists()
    plan = load_plan("smoke", ["data=[{name: a, dataset: a}]"])
    with pytest.raises(LNSynthError, match=BOTH):
        check_plan(plan, tmp_path)


def test_samples_of_a_set_whose_case_moved_to_another_side_are_refused(drawn, tmp_path):
    folder = dataset(tmp_path / "a", {"one": ("P", "train", drawn[0], True), "two": ("Q", "train", drawn[0], True)})
    settings = PrepareSettings(spacing_mm=4.0, labels="abdomen17", allow_no_anatomy=True)
    prepare(Dataset.open(folder), settings)
    changed_set = Dataset.open(folder)
    with changed_set.changing():
        changed_set.entry("two")["split"] = "test"
    weights = make_generator(tmp_path / "weights")
    with pytest.raises(LNSynthError, match=BOTH):
        synthesize(weights, [folder], tmp_path / "out", SynthesizeSettings(steps=1))
    assert not (tmp_path / "out").exists()


def test_an_experiment_s_painted_cts_are_apart_from_its_data_sets(drawn, tmp_path):
    dataset(tmp_path / "a", {"one": ("P", "train", drawn[0], True)})
    write(tmp_path / "ct.nii.gz", changed(drawn[0].ct)["noise of 5 HU"])
    write(tmp_path / "organs.nii.gz", drawn[0].anatomy)
    plan = load_plan("smoke", ["data=[{name: a, dataset: a}, {name: p, painted: [{ct: ct.nii.gz, "
                               "anatomy: organs.nii.gz, split: test, variants: 1}]}]"])
    with pytest.raises(LNSynthError, match="case one in .*split train.*the CT .*ct.nii.gz .*split test"):
        check_plan(plan, tmp_path)


def test_a_generator_tells_what_it_was_trained_on_without_telling_the_ids(drawn, tmp_path):
    folder = dataset(tmp_path / "a", {"one": ("Mrs Smith", "train", drawn[0], True)})
    weights = make_generator(tmp_path / "weights")
    model, facts = model_folder.load(weights)
    model_folder.save(weights, model, {k: v for k, v in facts.items() if k in ("training",)},
                    trained_on=TrainedOn.of(members([folder])))
    text = json.dumps(model_folder.facts(weights))
    assert "Smith" not in text and "one" not in json.loads(text)["trained_on"]["parts"][0]["cases"]
    held = {"spelling": ("mrs_smith", drawn[1]), "copy": ("Q", drawn[0]),
            "form": ("Q", Case("x", changed(drawn[0].ct)["noise of 5 HU"], drawn[0].nodes))}
    for name, (patient, case) in held.items():
        other = dataset(tmp_path / name, {"two": (patient, "test", case, True)})
        with pytest.raises(LNSynthError, match="The generator .* was trained on .*case two in .* split test"):
            model_folder.check_unseen(weights, members([other]), print)
    fresh = dataset(tmp_path / "fresh", {"two": ("Q", "test", drawn[1], True)})
    model_folder.check_unseen(weights, members([fresh]), print)
    assert [m.case for m in held_out(members([fresh, folder]))] == ["two"]


def test_an_older_generator_is_taken_with_a_word(tmp_path):
    told = []
    model_folder.check_unseen(make_generator(tmp_path / "weights"), [], told.append)
    assert len(told) == 1 and "does not say what it was trained on" in told[0]


@pytest.mark.parametrize("place, side", [("loose", ""), ("set", "test"), ("set", "train")])
def test_an_insertion_says_that_its_generator_was_trained_on_the_ct(drawn, tmp_path, place, side):
    trained = dataset(tmp_path / "a", {"one": ("P", "train", drawn[0], True)})
    weights = make_generator(tmp_path / "weights", spacing_mm=3.0)
    model, _ = model_folder.load(weights)
    model_folder.save(weights, model, trained_on=TrainedOn.of(members([trained])))
    ct = tmp_path / "ct.nii.gz"
    if side:
        other = dataset(tmp_path / "b", {"two": ("p", side, drawn[0], True)})
        ct = Dataset.open(other).path("two", "ct")
    else:
        write(ct, changed(drawn[0].ct)["noise of 5 HU"])
    write(tmp_path / "nodes.nii.gz", drawn[0].nodes)
    told = []
    record = insert_file(weights, ct, tmp_path / "nodes.nii.gz", tmp_path / "out.nii.gz", InsertSettings(steps=1),
                         only=[1], anyway=True, device="cpu", callback=lambda event: told.append(event.message or ""))
    assert record["source"]["seen"].startswith("this patient" if side else "this CT in another form")
    notes = [text for text in told if "was trained on" in text]
    assert len(notes) == (side != "train") and all(f"of split {side}" in text for text in notes if side)
    fresh = tmp_path / "fresh.nii.gz"
    write(fresh, drawn[1].ct)
    assert seen(open_ct(fresh), weights, print) == {}


def test_a_fingerprint_is_kept_beside_its_case_and_not_trusted_for_another_ct(drawn, tmp_path):
    folder = dataset(tmp_path / "a", {"one": ("P", "train", drawn[0], True)})
    member, = members([folder])
    assert member.fingerprint.voxels == fingerprint(drawn[0].ct).voxels
    assert (folder / "cases" / "one" / "fingerprint.npz").is_file()
    Dataset.open(folder).add(Case("one", drawn[1].ct, drawn[1].nodes, None, {"patient": "P"}))
    again, = members([folder])
    assert again.fingerprint.voxels == fingerprint(read(Dataset.open(folder).path("one", "ct"))).voxels
    assert again.fingerprint.voxels != member.fingerprint.voxels
