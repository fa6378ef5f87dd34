"""What is installed, what is missing for which job, and how it would be installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from LNSynthLogic.jobs import environment
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]


def machine(**versions):
    """Versions by name as a machine that has only these would tell them."""
    return lambda name: versions.get(name.replace("-", "_"), "")


def test_requirements_say_what_they_are_for():
    packages = {p.name: p for p in environment.read_requirements()}
    assert packages["torch"].groups == ("synthesis",) and packages["torch"].mb == 860
    assert packages["nnunetv2"].groups == ("anatomy", "segmentation")
    assert packages["TotalSegmentator"].alone and not packages["nnunetv2"].alone
    assert all(p.purpose and p.mb > 0 for p in packages.values())


def test_requirements_are_those_of_the_project():
    """The same bounds as pyproject.toml, but for what Slicer brings; nnU-Net's upper bound is explained in the file."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = {r.name: r for r in map(Requirement, [*project["dependencies"],
                                                  *project["optional-dependencies"]["anatomy"]])}
    here = {p.name: Requirement(p.requirement) for p in environment.read_requirements()}
    assert set(asked) - set(here) == {"numpy", "SimpleITK", "pillow"}
    for name, wanted in asked.items():
        if name in here:
            assert set(map(str, wanted.specifier)) <= set(map(str, here[name].specifier)), name


def test_every_dependency_of_totalsegmentator_is_listed_or_left_out_on_purpose():
    from importlib.metadata import requires
    packages = environment.read_requirements()
    with_theirs = {"torch", "numpy", "requests", "simpleitk", *(p.name.lower() for p in packages),
                   *environment.UNWANTED}
    for package in packages:
        if not package.alone and package.name != "torch":
            with_theirs |= {Requirement(r).name.lower().replace("_", "-") for r in requires(package.name) or []}
    assert {Requirement(r).name.lower() for r in requires("TotalSegmentator") if ";" not in r} \
        - with_theirs <= {"jinja2", "networkx"}  # which torch brings


def test_this_environment_has_everything():
    found = environment.inspect()
    assert found.missing() == [] and environment.describe(found) == ""
    assert [found.missing_words(job) for job in environment.JOBS] == ["", "", ""]
    assert not environment.plan(found)


def test_an_empty_slicer():
    version_of = machine(numpy="2.4.6", SimpleITK="2.5.0", requests="2.34.2", vtk="9.5", pydicom="3.0.2")
    found = environment.inspect(version_of=version_of)
    assert {"torch", "TotalSegmentator", "nnunetv2"} <= {p.name for p in found.missing()}
    assert "pydicom" not in {p.name for p in found.missing()}
    assert {p.name for p in found.missing("anatomy")} - {p.name for p in found.missing("segmentation")} == {
        "TotalSegmentator", "pyarrow", "blosc", "xmltodict", "dicom2nifti"}
    for job in environment.JOBS:
        assert "Setup" in found.missing_words(job) and "torch" in found.missing_words(job)
    words = environment.describe(found)
    assert "GB" in words and "nnunetv2" in words

    plan = environment.plan(found, version_of=version_of)
    assert plan.torch == ">=2.5" and plan.alone == ("TotalSegmentator>=2.4",)
    assert not any(p.startswith(("torch", "TotalSegmentator")) for p in plan.packages)
    assert plan.constraints == ("numpy==2.4.6", "SimpleITK==2.5.0", "vtk==9.5", "requests==2.34.2")
    assert {"vtk", "fury", "dipy", "torch", "SimpleITK", "numpy", "requests"} <= set(plan.skip)
    assert 1000 < plan.mb < 3000
    assert environment.plan(found, "synthesis", version_of).alone == ()


def test_what_is_too_old_is_missing_and_what_is_newer_is_left_alone():
    here = {p.name.replace("-", "_"): "99" for p in environment.read_requirements()}
    found = environment.inspect(version_of=machine(**{**here, "scipy": "1.13.1", "nnunetv2": "2.8.1"}))
    assert [p.name for p in found.missing()] == ["scipy"]
    found = environment.inspect(version_of=machine(**{**here, "nnunetv2": ""}))
    assert environment.plan(found, version_of=machine()).packages == (
        ("nnunetv2>=2.7",) if sys.platform == "darwin" else ("nnunetv2<2.7,>=2.6",))


def test_builds_of_torch_count_and_stay():
    found = environment.inspect(version_of=machine(torch="2.8.0+cu126"))
    assert found.versions["torch"] == "2.8.0+cu126"
    assert "torch==2.8.0+cu126" in environment.plan(found, version_of=machine(torch="2.8.0+cu126")).constraints


def test_pip_understands_the_commands(tmp_path):
    """pip itself reads them; nothing is installed, since all of it is here."""
    found = environment.inspect(version_of=machine())
    plan = environment.plan(found)
    constraints = environment.write_constraints(plan, tmp_path / "kept.txt")
    with_deps, alone = environment.pip_commands(plan, sys.executable, constraints)
    assert "--no-deps" not in with_deps and alone[-2:] == ["--no-deps", "TotalSegmentator>=2.4"]
    assert "numpy==" in constraints.read_text()
    done = subprocess.run([*with_deps, "--dry-run", "--no-index", "--no-deps", "--quiet"], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr


def test_a_line_without_its_facts_is_refused(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# synthesis, 3 MB: something\nnumpy>=1\nscipy\n")
    with pytest.raises(environment.LNSynthError, match="scipy"):
        environment.read_requirements(path)


def test_nothing_heavy_is_imported():
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from LNSynthLogic.jobs import environment as e; e.inspect(); "
            "print([m for m in ('torch', 'monai', 'scipy', 'nibabel', 'SimpleITK') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code, str(REPOSITORY / "LNSynth")], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
