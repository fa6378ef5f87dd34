"""The extension: lists of files, what it says of itself, and that an installed tree runs without the repository."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import panels
import pytest
import ui_use
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE, LIBRARY, RESOURCES = REPOSITORY / "LNSynth", REPOSITORY / "LNSynthLib", REPOSITORY / "Resources"
SELF_TEST = REPOSITORY / "Testing" / "Slicer" / "LNSynthSelfTest"
CMAKE_FILES = [folder / "CMakeLists.txt" for folder in (REPOSITORY, MODULE, LIBRARY, SELF_TEST.parent, SELF_TEST)]

# Slicer's macros (v5.10.0 and v5.12.3: CMake/SlicerMacroBuildScriptedModule.cmake, SlicerMacroPythonTesting.cmake)
MACROS = {
    "slicerMacroBuildScriptedModule": {"NAME", "SCRIPTS", "RESOURCES", "WITH_GENERIC_TESTS", "WITH_SUBDIR", "VERBOSE"},
    "slicer_add_python_test": {"TESTNAME_PREFIX", "SCRIPT", "SLICER_ARGS", "SCRIPT_ARGS"},
    "slicer_add_python_unittest": {"TESTNAME_PREFIX", "SCRIPT", "SLICER_ARGS"},
}
# Keys of slicer-extension-catalog-entry-schema-v1.0.1.json, which allows no others
CATALOG = {"$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies", "build_subdirectory",
           "enabled", "tier"}


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """(command, arguments) of a CMake file; a quoted argument is one."""
    text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
    found = re.findall(r"(\w+)\s*\(((?:\"[^\"]*\"|[^()\"])*)\)", text)
    return [(name, [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', body)]) for name, body in found]


def variables(path: Path) -> dict[str, list[str]]:
    return {arguments[0]: arguments[1:] for name, arguments in commands(path) if name == "set"}


def listed(path: Path, name: str) -> list[str]:
    """A list of files; ${MODULE_NAME} and the like do not occur in ours."""
    return variables(path)[name]


def tree(folder: Path, pattern: str) -> list[str]:
    """The project's files under `folder`, relative to it: what git tracks or would track."""
    done = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", str(folder)],
                          cwd=REPOSITORY, capture_output=True, text=True)
    paths = ([REPOSITORY / name for name in done.stdout.split("\0") if name] if done.returncode == 0
             else [path for path in folder.rglob("*") if "__pycache__" not in path.parts])
    return sorted(str(path.relative_to(folder)) for path in set(paths) if path.is_file() and path.match(pattern))


def test_cmake_files_are_read(tmp_path):
    """The reader itself: comments, quotes, several lines."""
    path = tmp_path / "CMakeLists.txt"
    path.write_text('set(A "one (two)" b) # set(B no)\nmacro_of_slicer(\n  NAME ${A}\n  WITH_SUBDIR\n  )\n'
                    'if(X)\nendif()\n')
    assert commands(path) == [("set", ["A", "one (two)", "b"]), ("macro_of_slicer", ["NAME", "${A}", "WITH_SUBDIR"]),
                              ("if", ["X"]), ("endif", [])]


@pytest.mark.parametrize("cmake, name, folder, pattern", [
    (MODULE, "MODULE_PYTHON_SCRIPTS", MODULE, "*.py"),
    (MODULE, "MODULE_PYTHON_RESOURCES", MODULE / "Resources", "*"),
    (LIBRARY, "MODULE_PYTHON_SCRIPTS", LIBRARY, "*.py"),
    (LIBRARY, "LIBRARY_RESOURCES", RESOURCES, "*")])
def test_cmake_lists_every_file(cmake, name, folder, pattern):
    names = listed(cmake / "CMakeLists.txt", name)
    wanted = tree(folder, pattern)
    if folder == MODULE / "Resources":
        wanted = [f"Resources/{path}" for path in wanted]
    if folder == RESOURCES:
        scripts = [path for path in wanted if "/" not in path and path.endswith((".py", ".md"))]  # that made others
        wanted = [path for path in wanted if path not in scripts and not path.startswith("Pictures/")]
    assert len(names) == len(set(names)) and wanted
    missing, gone = sorted(set(wanted) - set(names)), sorted(set(names) - set(wanted))
    assert (missing, gone) == ([], []), f"{name} of {cmake.name}/CMakeLists.txt: add {missing}, drop {gone}"


def test_the_macros_and_their_arguments_exist():
    called = [(path.parent.name, *call) for path in CMAKE_FILES for call in commands(path) if call[0] in MACROS]
    assert len(called) == 5
    for where, name, arguments in called:
        keywords = {word for word in arguments if re.fullmatch(r"[A-Z][A-Z_]+", word)}
        assert keywords <= MACROS[name], f"{where}: {name}"
    builtin = {"cmake_minimum_required", "project", "set", "find_package", "include", "add_subdirectory", "if", "endif",
               "foreach", "endforeach", "configure_file"}
    assert {name for path in CMAKE_FILES for name, _ in commands(path)} <= builtin | set(MACROS)
    by_module = {where: arguments for where, name, arguments in called if name == "slicerMacroBuildScriptedModule"}
    assert "WITH_SUBDIR" in by_module["LNSynthLib"] and "WITH_GENERIC_TESTS" in by_module["LNSynth"]
    assert by_module["LNSynthSelfTest"] == ["NAME", "LNSynthSelfTest", "SCRIPTS", *tree(SELF_TEST, "*.py"),
                                            "WITH_SUBDIR"]
    tests = [arguments for _, name, arguments in called if name == "slicer_add_python_test"]
    assert all((REPOSITORY / "Testing" / "Slicer" / arguments[1]).is_file() for arguments in tests)
    top = [arguments[0] for name, arguments in commands(CMAKE_FILES[0]) if name in ("add_subdirectory", "include")]
    assert top == ["${Slicer_USE_FILE}", "LNSynthLib", "LNSynth", "Testing/Slicer",
                   "${Slicer_EXTENSION_GENERATE_CONFIG}", "${Slicer_EXTENSION_CPACK}"]


def test_what_the_extension_says_of_itself_agrees():
    said = {name.removeprefix("EXTENSION_").lower(): value
            for name, value in variables(REPOSITORY / "CMakeLists.txt").items() if name.startswith("EXTENSION_")}
    lines = (REPOSITORY / "LNSynth.s4ext").read_text(encoding="utf-8").splitlines()
    description = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    catalog = json.loads((REPOSITORY / "LNSynth.json").read_text(encoding="utf-8"))

    for name in ("homepage", "category", "contributors", "description", "iconurl", "screenshoturls", "depends"):
        assert said[name] == [description[name]], name
        assert ";" not in description[name], f"CMake takes {name} for a list"
    assert set(catalog) <= CATALOG and {"$schema", "category", "scm_url"} <= set(catalog)
    assert catalog["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert catalog["build_dependencies"] == description["depends"].split() == ["PyTorch"]
    assert (catalog["category"], catalog["scm_url"], catalog["scm_revision"], catalog["build_subdirectory"]) == (
        description["category"], description["scmurl"], description["scmrevision"], description["build_subdirectory"])
    assert str(catalog["tier"]) == description["tier"] and description["scm"] == "git"
    assert ("project", ["LNSynth"]) in commands(REPOSITORY / "CMakeLists.txt")
    for name in ("license_file", "readme_file"):
        assert (REPOSITORY / Path(said[name][0]).name).is_file()

    raw = description["homepage"].replace("github.com", "raw.githubusercontent.com") + f"/{description['scmrevision']}/"
    for url in (description["iconurl"], *description["screenshoturls"].split()):
        assert url.startswith(raw) and (REPOSITORY / url.removeprefix(raw)).is_file(), url
    module = ast.parse((MODULE / "LNSynth.py").read_text(encoding="utf-8"))
    strings = {ast.unparse(node.targets[0]): [leaf.value for leaf in ast.walk(node.value)
                                              if isinstance(leaf, ast.Constant)]
               for node in ast.walk(module) if isinstance(node, ast.Assign)}
    assert strings["self.parent.contributors"] == said["contributors"]
    assert said["category"][0] in strings["self.parent.categories"]


def test_module_search_paths_hold_one_module():
    """Slicer executes every .py that lies directly in a module search path; the root may be given as one, too."""
    assert tree(REPOSITORY, "*.py") and not [name for name in tree(REPOSITORY, "*.py") if "/" not in name]
    assert [name for name in tree(MODULE, "*.py") if "/" not in name] == ["LNSynth.py"]


def test_the_self_test_uses_what_the_form_and_the_parameters_have():
    """Its steps run in the real application alone; what they touch of the module is checked here."""
    names, parameters = panels.form_names(), set(ast_names(MODULE / "LNSynthPanels" / "parameter_node.py"))
    faults, seen = [], set()
    for path in sorted(SELF_TEST.glob("*.py")):
        for use in ui_use.uses(path, names):
            seen.add(use.widget)
            faults += ([f"{use.where}: the form has no {use.widget}"] if use.widget not in names
                       else [fault for fault in [ui_use.wrong(use, names[use.widget])] if fault])
        chosen = {node.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                  if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("parameters")}
        faults += [f"{path.name}: there is no parameter {name}" for name in sorted(chosen - parameters)]
    assert not faults, faults
    assert {"samplePhantomButton", "generateButton", "acceptButton", "undoButton", "compareButton"} <= seen
    steps = ast.parse((SELF_TEST / "steps.py").read_text(encoding="utf-8"))
    written = [node.name for node in steps.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    run_in_order = next(ast.unparse(node.value) for node in steps.body if isinstance(node, ast.Assign)
                        and ast.unparse(node.targets[0]) == "STEPS")
    assert run_in_order == f"({', '.join(written)})"


def ast_names(path: Path) -> list[str]:
    """Annotated names of a class."""
    return [node.target.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]


def test_the_help_page_is_whole_and_names_what_people_see():
    page = MODULE / "Resources" / "Help" / "help.html"
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r'(?:href|src)="([^"]+)"', text):
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in text, link
        elif "/" in link and not link.startswith("https://arxiv.org/"):
            assert (page.parent / link).is_file(), link  # nothing is fetched from the network
    pictures = re.findall(r'src="(\w+\.png)" onerror="fromSource\(this\)"', text)
    assert sorted(pictures) == listed(MODULE / "CMakeLists.txt", "HELP_PICTURES") and len(pictures) == 3
    found = re.search(r'image.src = "([^"]+)" \+', text)[1]
    assert all((page.parent / found / picture).is_file() for picture in pictures)
    form = (MODULE / "Resources" / "UI" / "LNSynth.ui").read_text(encoding="utf-8")
    shown = {re.sub("&amp;|…", "", words) for words in re.findall("<string>([^<]+)</string>", form)}
    named = {words for words in re.findall("<em>([^<]+)</em>", text)}
    unknown = {words for words in named if not any(words in known for known in shown)}
    assert unknown <= {"In place", "PyTorch"}, unknown  # choices that the panels add, and an extension
    assert set(re.findall(r"&amp;(\d\. \w+)", form)) == set(re.findall(r"<h2[^>]*>(\d\. \w+)</h2>", text))
    assert 'HERE / "Resources" / "Help" / "help.html"' in (MODULE / "LNSynth.py").read_text(encoding="utf-8")


def test_icons_are_there_and_the_png_is_the_svg():
    from PySide6.QtCore import Qt
    from PySide6.QtGui import QImage, QPainter
    from PySide6.QtSvg import QSvgRenderer

    icons = MODULE / "Resources" / "Icons"
    with Image.open(icons / "LNSynth.png") as icon:
        kept = np.asarray(icon.convert("RGBA"), int)
    assert kept.shape == (128, 128, 4)
    assert not kept[0, 0, 3] and kept[64, 64, 3] == 255 and kept[..., 3].any()
    drawn = QImage(128, 128, QImage.Format.Format_RGBA8888)
    drawn.fill(Qt.GlobalColor.transparent)
    renderer, painter = QSvgRenderer(str(icons / "LNSynth.svg")), QPainter(drawn)
    assert renderer.isValid()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    renderer.render(painter)
    painter.end()
    pixels = np.frombuffer(drawn.constBits(), np.uint8).reshape(128, 128, 4).astype(int)
    assert np.abs(pixels - kept).mean() < 2
    with Image.open(icons / "LNSynthPhantom.png") as thumbnail:
        assert thumbnail.size == (260, 280)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of scripted modules as `cmake --install` lays it out, from the CMake lists alone."""
    folder = tmp_path_factory.mktemp("Slicer") / "lib" / "Slicer-5.12" / "qt-scripted-modules"
    plan = [(MODULE, name, folder) for key in ("MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES")
            for name in listed(MODULE / "CMakeLists.txt", key)]
    plan += [(LIBRARY, name, folder / "LNSynthLib") for name in listed(LIBRARY / "CMakeLists.txt",
                                                                       "MODULE_PYTHON_SCRIPTS")]
    plan += [(RESOURCES, name, folder / "LNSynthLib" / "Resources")
             for name in listed(LIBRARY / "CMakeLists.txt", "LIBRARY_RESOURCES")]
    plan += [(RESOURCES / "Pictures" / "module", name, folder / "Resources" / "Help")
             for name in listed(MODULE / "CMakeLists.txt", "HELP_PICTURES")]
    for source, name, target in plan:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return folder


def run(installed: Path, *arguments: str, cwd: Path) -> str:
    """What a fresh interpreter prints that finds the installed tree as PythonSlicer does, by PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_tree_finds_itself(installed, tmp_path):
    code = ("import LNSynthLib, LNSynthLogic\n"
            "from LNSynthLib.runtime.settings import resources\n"
            "print(LNSynthLib.__file__, LNSynthLogic.__file__, resources(), sep='\\n')")
    library, logic, found = map(Path, run(installed, "-c", code, cwd=tmp_path).splitlines())
    assert library == installed / "LNSynthLib" / "__init__.py"
    assert logic == installed / "LNSynthLogic" / "__init__.py"
    assert found == (installed / "LNSynthLib" / "Resources").resolve()
    assert (installed / "Resources" / "Icons" / "LNSynth.png").is_file()  # the module's own, beside the library's


def test_an_installed_tree_works(installed, tmp_path):
    """Resources of every kind that jobs need: phantom, node prior, preset, label table, demo weights."""
    made = run(installed, "-m", "LNSynthLib", "phantom", "--out", "data", "--spacing", "5", "--nodes", "2",
               "--events", "json", cwd=tmp_path)
    assert json.loads(made.splitlines()[-1])["result"]["cases"] == 1
    ct, anatomy = (str(next((tmp_path / "data").rglob(f"*{name}*.nii.gz"))) for name in ("ct", "anatomy"))
    code = ("import sys\n"
            "from LNSynthLib.cli import main\n"
            "from LNSynthLib.generators.model_folder import generator_path\n"
            "assert main(['doctor']) == 0\n"
            "assert main(['nodes', *sys.argv[1:], '--add', '1', '--out', 'nodes.nii.gz']) == 0\n"
            "assert main(['train', '--preset', 'demo', '--dry-run']) == 0\n"
            "print(generator_path())\n")
    said = run(installed, "-c", code, "--ct", ct, "--anatomy", anatomy, cwd=tmp_path)
    assert "torch" in said and "parameters" in said and (tmp_path / "nodes.nii.gz").is_file()
    weights = Path(said.splitlines()[-1])
    assert weights == (installed / "LNSynthLib" / "Resources" / "generators" / "demo").resolve()
    assert (weights / "model.safetensors").stat().st_size > 1e6
