"""The library as notebooks use it: what it offers, and that it computes what the command line computes."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import mrml
import numpy as np
import pytest

import LNSynthLib as ln
from LNSynthLib import api, cli
from LNSynthLib.generators import model_folder
from LNSynthLib.images.synthetic import kind
from LNSynthLib.review.provenance import read_provenance
from LNSynthLib.synthesis.insert_file import insert_file
from LNSynthLib.synthesis.variants.run import VariantSettings

SETTINGS = ln.InsertSettings(steps=2, seed=3)


@pytest.fixture(scope="module")
def drawn():
    return mrml.phantom()


@pytest.fixture(scope="module")
def generator():
    return ln.load_generator(device="cpu")


@pytest.fixture(scope="module")
def made(drawn, generator):
    return ln.insert(drawn.ct, drawn.nodes, generator, drawn.anatomy, only=[1], settings=SETTINGS)


def test_importing_the_library_takes_nothing_with_it():
    code = ("import sys, LNSynthLib as ln; assert set(dir(ln)) >= {'__all__', '__version__'}; "
            "print([name for name in ('numpy', 'torch', 'LNSynthLib.api') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=cli.__file__.rsplit("LNSynthLib", 1)[0])
    assert done.stdout.strip() == "[]"


def test_every_name_is_there_documented_and_typed():
    for name in ln.__all__:
        what = getattr(ln, name)
        assert what is getattr(api, name) and inspect.getdoc(what)
        if inspect.isfunction(what):
            signature = inspect.signature(what)
            assert signature.return_annotation is not inspect.Signature.empty, name
            assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name
    public = {name for name, what in vars(api).items() if getattr(what, "__module__", "") == api.__name__
              and not name.startswith("_")}
    assert public <= set(ln.__all__)
    with pytest.raises(AttributeError, match="it has"):
        ln.make_tea  # noqa: B018


def test_a_room_hides_no_name():
    """`LNSynthLib.phantom` is a package as soon as it was imported, whatever `__getattr__` would give."""
    rooms = {path.stem for path in Path(ln.__file__).parent.iterdir()}
    assert "phantom" in rooms and not rooms & set(ln.__all__)


def test_insert_gives_the_voxels_of_the_command_line(drawn, generator, made, tmp_path):
    files = {name: tmp_path / f"{name}.nii.gz" for name in ("ct", "nodes", "anatomy")}
    for name, path in files.items():
        ln.write(path, getattr(drawn, name))
    ct, nodes = ln.read_ct(files["ct"]), ln.read_nodes(files["nodes"])
    anatomy = ln.read_anatomy(files["anatomy"], ct)
    record = insert_file(generator.folder, files["ct"], files["nodes"], tmp_path / "cli.nii.gz", SETTINGS,
                         anatomy=files["anatomy"], only=[1], device="cpu")
    read = ln.insert(ct, nodes, generator, anatomy, only=[1], settings=SETTINGS)
    by_command = ln.read_ct(tmp_path / "cli.nii.gz").array
    assert np.array_equal(read.ct.array, by_command) and np.array_equal(made.ct.array, by_command)
    assert read.patches == record["condition"]["patches"]
    changed = made.ct.array != drawn.ct.array
    assert changed.any() and not changed[:, :, :5].any()


def test_a_synthetic_ct_is_written_with_its_mark_and_provenance(made, tmp_path):
    path = ln.write(tmp_path / "synthetic.nii.gz", made)
    assert kind(path) == "synthetic" and np.array_equal(ln.read_ct(path).array, made.ct.array)
    record = read_provenance(path)
    assert record["what"] == "insertion" and record["sampling"] == {"seed": 3, "sampler": "dpmpp", "steps": 2}
    assert record["generator"]["weights_sha256"] == made.generator.facts["weights_sha256"]
    with pytest.raises(ln.LNSynthError, match="not written"):
        ln.write(tmp_path / "synthetic.png", made)


def test_nodes_are_measured_added_and_varied(drawn):
    measured = ln.measure_nodes(drawn.nodes, drawn.anatomy)
    assert [node.id for node in measured] == [1, 2, 3, 4, 5] and all(node.nearest for node in measured)
    more = ln.add_nodes(drawn.ct, drawn.anatomy, drawn.nodes, count=2, short_axis_mm=14, seed=1)
    assert more.array.max() == 7 and np.array_equal(np.where(more.array <= 5, more.array, 0), drawn.nodes.array)
    assert np.array_equal(more.array, ln.add_nodes(drawn.ct, drawn.anatomy, drawn.nodes, count=2, short_axis_mm=14,
                                                   seed=1).array)
    varied = ln.vary_nodes(drawn.ct, drawn.anatomy, more, seed=2, remove=0)
    assert set(np.unique(varied.array)) == set(range(8)) and not np.array_equal(varied.array, more.array)
    assert ln.add_nodes(drawn.ct, drawn.anatomy, seed=4).array.max() == 1
    with pytest.raises(ln.LNSynthError, match="sideways"):
        ln.vary_nodes(drawn.ct, drawn.anatomy, more, sideways=1)
    assert ln.score_nodes(drawn.nodes, drawn.nodes).dsc == 1 and ln.score_nodes(varied, more).dsc < 1


def test_wrong_input_is_refused_in_one_sentence(drawn, generator):
    part = ln.Volume(drawn.nodes.array[2:], drawn.nodes.affine)
    with pytest.raises(ln.LNSynthError, match="node mask"):
        ln.insert(drawn.ct, part, generator)
    with pytest.raises(ln.LNSynthError, match="empty"):
        ln.insert(drawn.ct, ln.Volume(np.zeros_like(drawn.nodes.array), drawn.nodes.affine), generator)
    with pytest.raises(ln.LNSynthError, match="no node 9"):
        ln.insert(drawn.ct, drawn.nodes, generator, only=[9])


def test_variants_and_patches_are_made_by_the_same_settings(drawn, tmp_path):
    for name in ("ct", "nodes", "anatomy"):
        ln.write(tmp_path / f"{name}.nii.gz", getattr(drawn, name))
    result = ln.make_variants(tmp_path / "ct.nii.gz", tmp_path / "nodes.nii.gz", tmp_path / "out", count=1, steps=1,
                              anatomy=tmp_path / "anatomy.nii.gz", vary={"remove": 0.0}, device="cpu")
    assert len(result["made"]) == 1 and VariantSettings().vary is None
    with pytest.raises(ln.LNSynthError, match="counts"):
        ln.make_variants(tmp_path / "ct.nii.gz", tmp_path / "nodes.nii.gz", tmp_path / "out", counts=1)
    with pytest.raises(ln.LNSynthError, match="no data set|prepared"):
        ln.synthesize(tmp_path, tmp_path / "patches", per_case=1)


def test_the_ten_lines_of_the_readme_insert_a_node_and_draw_it(tmp_path, monkeypatch):
    """As they stand but for fewer sampling steps."""
    readme = (Path(model_folder.__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.S)[1]
    quick = code.replace("ln.load_generator(), scene.anatomy)",
                         "ln.load_generator(), scene.anatomy, settings=ln.InsertSettings(steps=1))")
    assert quick != code and len([line for line in code.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    exec(compile(quick, "README.md", "exec"), {})  # noqa: S102
    assert kind(tmp_path / "synthetic.nii.gz") == "synthetic" and (tmp_path / "synthetic.png").stat().st_size > 10_000
