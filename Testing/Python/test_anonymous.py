"""What is made to be given away says nothing of the patient: headers, ids, names of files, paths, this computer."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
from test_synthesize import make_generator

from LNSynthLib.cases.phantom import phantom
from LNSynthLib.cases.volume import read, write
from LNSynthLib.inspection import inspect
from LNSynthLib.synthesis.given import Files
from LNSynthLib.synthesis.variants import VariantSettings, variants

SETTINGS = VariantSettings(count=1, seed=4, steps=2, remake=True)
DOE = b"Doe^Jane"


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return make_generator(tmp_path_factory.mktemp("weights") / "tiny", spacing_mm=3.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A phantom's CT, nodes and anatomy in files whose headers and names say whose they are."""
    folder, drawn = tmp_path_factory.mktemp("Doe"), phantom(1, 3.0, nodes=3)
    for role in ("ct", "nodes", "anatomy"):
        write(folder / f"{role}.nii.gz", getattr(drawn, role))
        volume = read(folder / f"{role}.nii.gz")
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
