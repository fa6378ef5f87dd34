"""What is made to be given away says nothing of the patient: headers, ids, names of files, paths, this computer."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
from test_synthesize import make_generator

from LNSynthLib import cli
from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.cases.fingerprint import Fingerprint
from LNSynthLib.cases.prepare import PrepareSettings, prepare
from LNSynthLib.cases.sides import Member, check_sides, person
from LNSynthLib.cases.trained_on import TrainedOn
from LNSynthLib.evaluation.generation import ImageSettings, evaluate_samples
from LNSynthLib.images.volume import read
from LNSynthLib.inspection import inspect
from LNSynthLib.phantom.phantom import phantom_dataset
from LNSynthLib.review import provenance
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import read_json, write_json
from LNSynthLib.runtime.pseudonyms import pseudonym
from LNSynthLib.segmentation.settings import SegmentSettings
from LNSynthLib.segmentation.splits import divide
from LNSynthLib.segmentation.train import _data
from LNSynthLib.synthesis.synthesize import SynthesizeSettings, synthesize
from LNSynthLib.synthesis.variants.inputs import Files
from LNSynthLib.synthesis.variants.make import variants
from LNSynthLib.synthesis.variants.run import VariantSettings

SETTINGS = VariantSettings(count=1, seed=4, steps=2, remake=True)
DOE = b"Doe^Jane"


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return make_generator(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two cases of a patient Doe to train on and validate with, prepared."""
    dataset = phantom_dataset(tmp_path_factory.mktemp("data") / "set", 2, seed=1, spacing=4.0, nodes=3,
                              shares=(1, 0, 0))
    manifest = read_json(dataset.folder / "dataset.json")
    for entry, who, split in zip(manifest["cases"], ("Doe Jane", "Roe Richard"), ("train", "val"), strict=True):
        old, entry["id"], entry["patient"], entry["split"] = entry["id"], who.replace(" ", "-"), who, split
        (dataset.folder / "cases" / old).rename(dataset.folder / "cases" / entry["id"])
        entry["files"] = {role: path.replace(old, entry["id"]) for role, path in entry["files"].items()}
    write_json(dataset.folder / "dataset.json", manifest)
    prepare(Dataset.open(dataset.folder), PrepareSettings(spacing_mm=4.0, labels="abdomen17", name="coarse"))
    return dataset.folder


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    """A case's CT, nodes and anatomy in files whose headers and names say whose they are."""
    folder, dataset = tmp_path_factory.mktemp("Doe"), Dataset.open(data)
    for role in ("ct", "nodes", "anatomy"):
        volume = read(dataset.path("Doe-Jane", role))
        image = nibabel.Nifti1Image(volume.array.astype(np.int16), volume.affine)
        for field in ("descrip", "aux_file", "db_name", "intent_name"):
            image.header[field] = DOE
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", DOE))
        nibabel.save(image, folder / f"doe-jane-{role}.nii.gz")
    given = {role: folder / f"doe-jane-{role}.nii.gz" for role in ("ct", "nodes", "anatomy")}
    return Files(**given, present=given["nodes"])


@pytest.mark.parametrize("mode", ["in-place", "patch"])
def test_no_sample_keeps_the_headers_of_what_it_was_made_from(generator, files, tmp_path, mode):
    variants(generator, files, tmp_path, replace(SETTINGS, mode=mode), prefix="v", device="cpu", anyway=True)
    assert all((tmp_path / "v-001" / f"{role}.nii.gz").is_file() for role in ("ct", "nodes", "anatomy"))
    said = {(f.where, f.text) for f in inspect(tmp_path) if f.kind == "header"}
    assert said and all("SYNTHETIC" in text for _, text in said), said


@pytest.fixture(scope="module")
def patches(generator, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("patches") / "out"
    synthesize(generator, [data], out, SynthesizeSettings(per_case=2, steps=2, anonymous=True), "cpu")
    return out


def told(folder):
    """Every name and text of a folder, as one."""
    return "".join(f"{f.file} {f.where} {f.text}\n" for f in inspect(folder)) + "".join(
        path.read_text(errors="replace") for path in folder.rglob("*") if path.suffix in (".json", ".csv", ".html"))


def nobody(folder):
    return not [who for who in ("doe-", "jane", "roe-", "richard") if who in told(folder).lower()]


@pytest.mark.parametrize("mode", ["in-place", "patch"])
def test_anonymous_variants_name_nobody(generator, files, tmp_path, mode):
    settings = replace(SETTINGS, mode=mode)
    made = [variants(generator, files, tmp_path / "out", settings, device="cpu", anyway=True, anonymous=True)
            for _ in range(2)]
    assert made[0]["samples"] == made[1]["unchanged"] == [f"{pseudonym('case', 'doe-jane-ct')}-001"]
    assert nobody(tmp_path / "out")


def test_anonymous_samples_name_nobody_and_are_the_same_again(generator, data, patches):
    assert nobody(patches) and {p.name for p in patches.iterdir()} == {
        f"{pseudonym('case', 'Doe-Jane')}-00{n}" for n in (0, 1)}
    settings = SynthesizeSettings(per_case=2, steps=2, anonymous=True)
    assert len(synthesize(generator, [data], patches, settings, "cpu")["unchanged"]) == 2


def test_the_owner_s_data_know_their_anonymous_samples_again(data, patches):
    rows = evaluate_samples(patches, [data], ImageSettings())["samples"]
    assert {row["patient"] for row in rows} == {"Doe Jane"}


def test_an_anonymous_segmenter_names_nobody(data, patches):
    settings = SegmentSettings(strategy="both", multiple=1, spacing_mm=4.0, anonymous=True)
    division = divide([data], [patches], settings)
    assert [item.case for item in division.used()] == ["Doe-Jane", "Doe-Jane", "Roe-Richard"]  # here they are known
    words = str([_data(division, True), division.left_out, [item.name for item in division.used()]]).lower()
    assert "doe" not in words and "roe" not in words and len(division.left_out) == 1
    plain = divide([data], [patches], replace(settings, anonymous=False))
    assert division.trained_on.plain() == plain.trained_on.plain()  # whoever knows the patient can still check


def test_nothing_is_left_that_a_guessed_id_could_be_tested_with():
    record = {"key": "k", "what": "patch", "source": {
        "case": "Doe", "files": {"ct": "doe.nii"}, "segments": ["Doe"], "prepared_key": "p",
        "sha256": {"ct": {"doe-1.dcm": "b", "doe-2.dcm": "a"}, "nodes": "c"}},
        "sampling": {"seed": 1, "run_seed": 0, "sample": 0, "steps": 2}}
    assert provenance.anonymous(record) == {"what": "patch", "sampling": {"steps": 2}, "source": {
        "case": pseudonym("case", "Doe"), "sha256": {"ct": ["a", "b"], "nodes": "c"}}}
    own = {"source": {"ct": {"file": "doe.nii", "sha256": "a"}}, "sampling": {"seed": 1}}
    assert provenance.anonymous(own) == {"source": {"ct": {"sha256": "a"}}, "sampling": {"seed": 1}}


@pytest.mark.parametrize("turned", [False, True])
def test_a_patient_and_his_pseudonym_are_one_person_where_it_was_given(tmp_path, monkeypatch, turned):
    monkeypatch.setenv("LNSYNTH_HOME", str(tmp_path / "home"))
    names = ["Doe, Jane", pseudonym("patient", person("doe, jane"))]
    looks = [Fingerprint(np.zeros((2, 2, 2), np.int8), voxels) for voxels in "ab"]
    train, test = (Member(f"case {side}", side, side, who, "", lambda look=look: look) for side, who, look in zip(
        ("train", "test"), names[::-1] if turned else names, looks, strict=True))
    model = TrainedOn.of([train])
    with pytest.raises(LNSynthError, match="on both sides"):
        check_sides([train, test])
    with pytest.raises(LNSynthError, match="was trained on this patient"):
        model.check([test], "It")
    monkeypatch.setenv("LNSYNTH_HOME", str(tmp_path / "elsewhere"))
    check_sides([train, test])
    model.check([test], "It")


def test_a_pseudonym_is_its_own():
    assert pseudonym("case", pseudonym("case", "Doe")) == pseudonym("case", "Doe")


def test_the_options_are_there(capsys):
    for verb in ("import", "pseudo", "synthesize", "variants", "insert", "segment train", "review export"):
        with pytest.raises(SystemExit):
            cli.main([*verb.split(), "--help"])
        assert "--anonymous" in capsys.readouterr().out
