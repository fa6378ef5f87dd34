"""The rules of the house, read off the source: who may import whom, what is never used, how long a file may be."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from LNSynthLib import cli

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = REPOSITORY / "LNSynthLib"

# From the ground up; what stands directly in LNSynthLib (cli.py, train.py, ...) and the verbs are the roof.
FLOORS = ("runtime", "images", "masks", "cases", "phantom", "conditions", "diffusion", "generators", "training",
          "review", "synthesis", "segmentation", "evaluation", "experiment", "demo")
MODULES = sorted(path for path in LIBRARY.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in MODULES}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in MODULES}


def floor(module: str) -> int:
    parts = module.split(".")
    if parts == ["LNSynthLib"]:  # it holds the version alone
        return -1
    if parts[1] in FLOORS:
        return FLOORS.index(parts[1])
    assert parts[1] == "verbs" or len(parts) == 2, f"{module}: no such floor in the house"
    return len(FLOORS)


def imports(path: Path, top_level_only: bool = False) -> list[tuple[int, str]]:
    """(line, absolute module name) of every import; a name that is itself a module counts as that module."""
    nodes = TREES[path].body if top_level_only else ast.walk(TREES[path])
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_name(path).split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                package = package[:len(package) - node.level + 1]
                base = ".".join([*package, *filter(None, [node.module])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.append((node.lineno, whole if whole in NAMES else base))
    return found


def test_imports_are_resolved(tmp_path):
    """The reader of imports itself: relative, absolute and function-level ones all count."""
    seen = {name for _, name in imports(LIBRARY / "cli.py")}
    assert {"argparse", "LNSynthLib", "LNSynthLib.runtime.events", "LNSynthLib.runtime.errors"} <= seen
    seen = {name for _, name in imports(LIBRARY / "runtime" / "settings.py")}
    assert {"LNSynthLib.runtime.errors", "yaml"} <= seen
    assert "yaml" not in {name for _, name in imports(LIBRARY / "runtime" / "settings.py", top_level_only=True)}


def test_a_floor_imports_only_floors_below():
    face = LIBRARY / "__init__.py"  # the library's public face: it imports `api` when a name of it is first used
    wrong = [f"{path.relative_to(REPOSITORY)}:{line} imports {name}"
             for path in MODULES if path != face for line, name in imports(path)
             if name.split(".")[0] == "LNSynthLib" and floor(name) > floor(module_name(path))]
    assert wrong == []


def test_library_modules_that_are_imported_exist():
    wrong = [f"{path.relative_to(REPOSITORY)}:{line} imports {name}"
             for path in MODULES for line, name in imports(path)
             if name.split(".")[0] == "LNSynthLib" and name not in NAMES]
    assert wrong == []


def test_the_library_never_imports_slicer():
    forbidden = {"slicer", "qt", "vtk", "ctk", "mrml", "PythonQt"}
    wrong = [f"{path.relative_to(REPOSITORY)}:{line} imports {name}"
             for path in MODULES for line, name in imports(path) if name.split(".")[0] in forbidden]
    assert wrong == []


def test_the_parser_reaches_the_standard_library_alone():
    """cli.py, the verbs and every module of ours that they import at the top, followed all the way down."""
    waiting = [LIBRARY / "cli.py", LIBRARY / "__main__.py", *sorted((LIBRARY / "verbs").glob("*.py"))]
    seen, wrong = set(), []
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for line, name in imports(path, top_level_only=True):
            if name in NAMES:  # importing a module imports the packages around it
                parts = name.split(".")
                around = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
                waiting += [NAMES[outer] for outer in around if outer in NAMES]
            elif name.split(".")[0] not in sys.stdlib_module_names:
                wrong.append(f"{path.relative_to(REPOSITORY)}:{line} imports {name}")
    assert wrong == []


def unsafe(tree: ast.AST) -> list[tuple[int, str]]:
    """Calls and imports that run what a file says, or ask a shell."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [(node.lineno, name) for name in names if name.split(".")[0] in ("pickle", "dill", "cloudpickle",
                                                                                     "joblib", "marshal", "shelve")]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (called == "torch.load" and given.get("weights_only") != "True" or called in ("eval", "exec", "os.system")
                or called in ("yaml.load", "yaml.unsafe_load") or given.get("allow_pickle") == "True"
                or given.get("shell") == "True"):
            found.append((node.lineno, called))
    return found


@pytest.mark.parametrize("code", [
    "import pickle", "from joblib import load", "torch.load('a.pt')", "torch.load('a.pt', weights_only=False)",
    "np.load('a.npz', allow_pickle=True)", "eval('1')", "subprocess.run('ls', shell=True)", "yaml.load(stream)"])
def test_unsafe_code_is_seen(code):
    assert len(unsafe(ast.parse(code))) == 1


def test_nothing_runs_what_a_file_says():
    assert unsafe(ast.parse("torch.load('a.pt', weights_only=True); yaml.safe_load(s); model.eval()")) == []
    wrong = [f"{path.relative_to(REPOSITORY)}:{line} {what}"
             for path in MODULES for line, what in unsafe(TREES[path])]
    assert wrong == []


def source_files() -> list[Path]:
    """The files of the project: what git tracks or would track; all but the environments outside a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY,
                            capture_output=True, text=True)
    if listed.returncode == 0:
        paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [p for p in REPOSITORY.rglob("*") if not {".venv", "build", "__pycache__"} & set(p.parts)]
    return sorted({path for path in paths if path.is_file()})


def test_files_are_short():
    """A file past about 400 lines is usually two ideas; a little over that is let pass."""
    long = {str(path.relative_to(REPOSITORY)): lines for path in source_files() if path.suffix == ".py"
            if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 450}
    assert long == {}


# Those that are longer or take more than the rule below allows, each as far as it goes: the list may only shrink.
LONG = {"cases/fetch.py fetch_collection": (9, 0), "cases/importers.py import_folder": (14, 0),
        "conditions/placement.py place": (9, 0), "conditions/pseudo_pairs.py pseudo_dataset": (12, 0),
        "demo/demo.py demo": (9, 0), "demo/demo.py _sample": (9, 0), "demo/demo.py _in_place": (10, 0),
        "evaluation/nodewise.py match": (9, 0), "generators/denoising.py sample": (11, 0),
        "images/pictures.py view": (9, 0), "phantom/gut.py _gut": (9, 0),
        "phantom/organs.py _great_vessels": (0, 81), "api.py insert": (9, 0), "bundle.py infer": (9, 0),
        "synthesis/insert.py insert": (13, 0), "synthesis/insert_file.py insert_file": (14, 0),
        "synthesis/variants/make.py variants": (9, 0), "synthesis/write_sample.py compare": (10, 0),
        "training/loop.py _train": (0, 97)}


def test_functions_are_short_and_take_few_things():
    """No more than 8 parameters and 80 lines: more is a settings dataclass, or two ideas."""
    most = {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                taken = len([name for name in names if name not in ("self", "cls")])
                lines = node.end_lineno - node.lineno + 1
                if taken > 8 or lines > 80:
                    name = f"{path.relative_to(LIBRARY).as_posix()} {node.name}"
                    most[name] = (taken * (taken > 8), lines * (lines > 80))
    wrong = {name: (found, LONG.get(name)) for name, found in most.items()
             if any(a > b for a, b in zip(found, LONG.get(name, (0, 0)), strict=True))}
    assert wrong == {}
    assert {name for name in LONG if name not in most} == set(), "shorter now: take it off the list"


def test_the_project_speaks_of_itself_alone():
    """No package registries' hosts and no folders of the machine that it was written on."""
    hosts = r"pypi\.org|pythonhosted\.org|registry\.npmjs|deb\.debian"
    foreign = re.compile(hosts + r"|(?<![\w.}])/(?:work|home|root|farm)/")
    wrong = [f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}"
             for path in source_files() if path.suffix in (".py", ".md", ".yaml", ".toml", ".lock", ".txt", ".json", "")
             for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
             if foreign.search(line) and path != Path(__file__).resolve()]
    assert wrong == []


def test_nothing_is_left_unfinished():
    """Stand-ins in tests may leave out what is never called; the library leaves out nothing."""
    marks = re.compile(r"\b(?:TODO|FIXME|XXX)\b"), re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b")
    wrong = [f"{path.relative_to(REPOSITORY)}:{number}"
             for path in source_files() if path.suffix == ".py" and path != Path(__file__).resolve()
             for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
             if marks[path.is_relative_to(LIBRARY)].search(line)]
    assert wrong == []


def test_every_verb_has_its_module_and_every_module_its_verb():
    modules = {path.stem.rstrip("_") for path in (LIBRARY / "verbs").glob("*.py")} - {"__init"}
    assert modules == set(cli.VERBS)
    for name in cli.VERBS:
        functions = {node.name: [a.arg for a in node.args.args]
                     for node in TREES[Path(cli.verb_module(name).__file__)].body if isinstance(node, ast.FunctionDef)}
        assert functions["add_arguments"] == ["parser"] and functions["run"] == ["args", "callback"]


def pinned() -> dict[str, str]:
    lines = "\n".join((REPOSITORY / name).read_text() for name in ("requirements.lock", "requirements-nodeps.lock"))
    pins = [Requirement(line) for line in lines.splitlines() if line and not line.startswith("#")]
    return {pin.name.lower().replace("_", "-"): str(next(iter(pin.specifier))).removeprefix("==") for pin in pins}


def test_the_lock_is_exact_and_serves_what_the_project_asks_for():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"],
             *(line for lines in project["project"]["optional-dependencies"].values() for line in lines)]
    pins = pinned()
    for line in asked:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[wanted.name.lower().replace("_", "-")]), line
    assert version("lnsynth") == re.search('__version__ = "(.+)"', (LIBRARY / "__init__.py").read_text())[1]


def test_the_wheel_carries_the_library_and_its_resources(tmp_path):
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
                    "--wheel-dir", str(tmp_path), str(REPOSITORY)], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("lnsynth-*.whl"))) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    wanted = {str(path.relative_to(REPOSITORY)) for path in MODULES}
    wanted |= {f"LNSynthLib/{path.relative_to(REPOSITORY)}" for path in source_files()
               if path.is_relative_to(REPOSITORY / "Resources")}
    assert wanted - names == set()
    code = "from LNSynthLib.runtime.settings import resources; print(resources())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True)
    assert Path(done.stdout.strip()) == (tmp_path / "site" / "LNSynthLib" / "Resources").resolve()
