"""README and the documentation: links lead somewhere, options exist, commands and Python run from top to bottom."""

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from LNSynthLib import __version__, cli
from LNSynthLib.images.volume import write
from LNSynthLib.phantom.phantom import phantom

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md",
                                           "Testing/README.md")]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))
# Pages whose commands follow on each other, in one folder; a tutorial has a folder of its own.
GUIDE = [REPOSITORY / name for name in ("README.md", *(f"docs/{name}.md" for name in (
    "install", "own-ct", "data-sets", "training", "segmenters", "experiment")))]
TUTORIALS = sorted((REPOSITORY / "docs" / "tutorials").glob("*.md"))

# Appended to a command, so that it ends in seconds. The last of an option that is given twice counts.
TINY_GENERATOR = ("--set generator.form.spacing_mm=4 generator.form.patch=[16,16,16] generator.denoiser.blocks=1 "
                  "generator.denoiser.channels=[8,16] generator.denoiser.groups=4 generator.denoiser.heads=2 "
                  "generator.denoiser.head_width=8 generator.denoiser.token_width=8 training.steps=4 "
                  "training.checkpoint_every=2 training.sample_every=0 training.workers=0")
TINY_SEGMENTER = ("--trainer-preset mini --set spacing_mm=4 trainer.epochs=1 trainer.iterations=2 "
                  "trainer.val_iterations=1")
SMALLER = {
    "lnsynth demo": "--steps 2",
    "lnsynth phantom": "--cases 4 --spacing 4 --nodes 3",
    "lnsynth prepare DATASET": "--spacing 4",
    "lnsynth anatomy --ct": "--labels labels.nii.gz",       # its weights are not here; its fast model takes minutes
    "lnsynth insert": "--steps 2",
    "lnsynth pseudo": "--variants 1",
    "lnsynth train --preset paper --data": TINY_GENERATOR,
    "lnsynth synthesize --generator": "--steps 2 --per-case 4 --threshold 0",
    "lnsynth synthesize --data": "--steps 2 --per-case 1",
    "lnsynth segment train --real DATASET --strategy": TINY_SEGMENTER,
    # Two steps of training find no node, and the filter leaves nothing.
    "lnsynth segment train --real DATASET --synthetic": f"{TINY_SEGMENTER} filtered=false",
}
# One of four ways to make DATASET is taken, the last; the others make a data set of their own.
INSTEAD = {"lnsynth import": ("--out DATASET", "--out IMPORTED"), "lnsynth pseudo": ("--out DATASET", "--out PAINTED")}
NOT_RUN = {
    "make demo": "installs gigabytes; `lnsynth demo` is run, and test_demo.py runs it whole",
    "lnsynth fetch": "needs the internet",
    "Slicer": "needs Slicer; test_train_cli.py runs the script as Slicer does",
    "lnsynth experiment": "takes more than an hour; test_experiment_smoke.py runs the smallest plan",
}


SMALLER_IN_TUTORIALS = {
    "lnsynth phantom": "--spacing 4",
    "lnsynth insert": "--steps 2",
    "lnsynth variants": "--steps 2",
    "lnsynth train --preset mini --data": "--set training.steps=4 training.checkpoint_every=2 training.sample_every=0",
    "lnsynth synthesize": "--steps 2",
}


def blocks(page: Path) -> list[str | list[str]]:
    """The page's code that is to run, in order: blocks of Python that follow on each other as one text, a block of
    commands as a list of lines.

    Other blocks carry the name of what they are (text, yaml). Commands come without their comments.
    """
    made = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
        if language == "python" and made and isinstance(made[-1], str):
            made[-1] += block
        elif language in ("", "python"):
            made.append(block if language else _commands(block))
    return made


def _commands(block: str) -> list[str]:
    lines = [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    lines = [" ".join(shlex.split(line, comments=True)) if '"' not in line else line.split("  #")[0].rstrip()
             for line in lines]
    return [line.removeprefix(".venv/bin/") for line in lines
            if line.split()[0].removeprefix(".venv/bin/") in ("lnsynth", "make", "Slicer", "python", "torchrun")]


def commands(pages: list[Path]) -> list[str]:
    """The distinct commands of the pages, in order."""
    return list(dict.fromkeys(line for page in pages for block in blocks(page) if isinstance(block, list)
                              for line in block))


def mentions(pages: list[Path]) -> list[str]:
    """What pages say about commands in the text: `lnsynth VERB ...` between backquotes."""
    texts = [re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S) for page in pages]
    found = (" ".join(quoted.split()) for text in texts for quoted in re.findall(r"`([^`]+)`", text))
    return sorted({quoted for quoted in found if quoted.startswith("lnsynth ") and quoted.split()[1] in cli.VERBS})


def reason_not_to_run(command: str) -> str:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), "")


def arguments(command: str) -> list[str]:
    """What `lnsynth` is given: the command itself, or what Slicer hands to its script."""
    words = shlex.split(command)
    return ["train", *words[words.index("--") + 1:]] if words[0] == "Slicer" else words[1:]


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
            if not link.startswith(("https://", "http://"))]


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in re.findall("^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if target == REPOSITORY / "docs" / "options.md":  # made with the site, of the verbs' --help
            continue
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_navigation():
    named = set(re.findall(r"[\w/-]+\.md", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")))
    docs = REPOSITORY / "docs"
    assert {page.relative_to(docs).as_posix() for page in PAGES if page.is_relative_to(docs)} <= named


def test_the_commands_are_found():
    found = commands(GUIDE)
    assert len(found) > 25 and {line.split()[1] for line in found if line.startswith("lnsynth")} > {
        "phantom", "prepare", "train", "synthesize", "insert", "segment", "evaluate", "experiment"}
    assert len(mentions(PAGES)) > 5
    for start in (*SMALLER, *INSTEAD, *NOT_RUN):
        assert any(command.startswith(start) for command in found), f"{start} is on no page any more"
    for start in SMALLER_IN_TUTORIALS:
        assert any(command.startswith(start) for command in commands(TUTORIALS)), f"{start} is in no tutorial any more"


@pytest.mark.parametrize("command", [c for c in commands(PAGES) if not c.startswith("make")])
def test_every_command_is_one_that_the_parser_takes(command):
    cli.parse(arguments(command), argparse.Namespace())


@pytest.mark.parametrize("mention", mentions(PAGES))
def test_every_option_that_is_mentioned_exists(mention):
    words = shlex.split(mention)[1:]
    parser = cli._Parser()
    cli.verb_module(words[0]).add_arguments(parser)
    known, waiting = set(), [parser]
    while waiting:
        for action in waiting.pop()._actions:
            known.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                known.update(action.choices)
                waiting += action.choices.values()
    assert {word for word in words if word.startswith("--")} <= known


def test_the_module_has_what_the_page_about_it_names():
    page = (REPOSITORY / "docs" / "slicer.md").read_text(encoding="utf-8")
    form = (REPOSITORY / "LNSynth" / "Resources" / "UI" / "LNSynth.ui").read_text(encoding="utf-8")
    shown = {re.sub("&amp;|…", "", words) for words in re.findall("<string>([^<]+)</string>", form)}
    named = {" ".join(words.split()) for words in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", page)}
    assert len(named) > 12 and not {words for words in named if not any(words in known for known in shown)} - {
        "In place", "Cancel"}  # choices and captions that the panels add


def test_every_verb_is_in_the_table():
    page = REPOSITORY / "docs" / "command-line.md"
    table = re.findall(r"^\| `([a-z]+)` \|", page.read_text(encoding="utf-8"), re.M)
    assert [verb for verb in cli.VERBS if verb not in table] == []


def run(command: str, smaller: dict[str, str], capsys) -> None:
    """Runs a command as `lnsynth` would, made small; it must end well and without a warning."""
    more = next((more for start, more in smaller.items() if command.startswith(start)), "")
    status = cli.main([*arguments(command), *shlex.split(more)])
    told = capsys.readouterr()
    assert status == 0, f"{command}\n{told.out}\n{told.err}"
    assert "Traceback" not in told.err and "Warning" not in told.err, f"{command}\n{told.err}"


@pytest.mark.slow
def test_the_guide_runs_from_the_top_to_the_bottom(tmp_path, monkeypatch, capsys):
    """Every command that can run here is typed in the guide's order, in one folder, on a CT and masks of a phantom."""
    monkeypatch.chdir(tmp_path)
    drawn = phantom(7, spacing=4.0, nodes=4)
    for name, volume in (("ct", drawn.ct), ("labels", drawn.anatomy), ("truth", drawn.nodes)):
        write(tmp_path / f"{name}.nii.gz", volume)
    for folder, name in (("CTS", "ct"), ("MASKS", "truth"), ("LABELS", "labels"), ("TRUTH", "truth")):
        (tmp_path / folder).mkdir()
        shutil.copy(tmp_path / f"{name}.nii.gz", tmp_path / folder / "case7.nii.gz")
    chosen = [command for command in commands(GUIDE) if not reason_not_to_run(command)]
    for command in chosen:
        for start, (old, new) in INSTEAD.items():
            if command.startswith(start):
                assert old in command
                command = command.replace(old, new)
        run(command, SMALLER, capsys)
    assert len(chosen) > 20


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs_from_the_top_to_the_bottom(page, tmp_path, monkeypatch, capsys):
    """Its commands in order, in an empty folder, and then its Python as one program."""
    monkeypatch.chdir(tmp_path)
    for command in commands([page]):
        if not reason_not_to_run(command):
            run(command, SMALLER_IN_TUTORIALS, capsys)
    program = "\n".join(block for block in blocks(page) if isinstance(block, str))
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", program], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr


def test_the_site_builds_offline_and_its_pages_load_nothing_from_elsewhere(tmp_path):
    """Strictly, as `make docs` does: a link, an anchor or a page that is missing is an error."""
    site = tmp_path / "site"
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
                          cwd=REPOSITORY, capture_output=True, text=True,
                          env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    loads = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]+\"")
    texts = {page.name: page.read_text(encoding="utf-8") for page in pages}
    assert [found for text in texts.values() for found in loads.findall(text)] == []
    assert [(name, found) for name, text in texts.items() for found in re.findall(r"<img\b[^>]*>", text)
            if not re.search(r'alt="[^"]+"', found)] == []


def test_columns_in_docstrings_become_lists(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    from docstring_lists import with_lists

    text = "Reads.\n\nct     HU; of\n       a file\nlabels ids\n`n`  nodes\n\nTwo  spaces here,\nand no list."
    made = "Reads.\n\n- `ct`: HU; of a file\n- `labels`: ids\n- `n`: nodes\n\nTwo  spaces here,\nand no list."
    assert with_lists(text) == made


@pytest.fixture
def drawing(monkeypatch):
    """The script that draws the architecture."""
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    import draw_architecture

    return draw_architecture


def test_the_architecture_names_every_room_and_its_picture_is_drawn_from_the_code(drawing):
    assert sorted(drawing.phrases()) == sorted(drawing.rooms())
    packages = (REPOSITORY / "LNSynthLib").rglob("__init__.py")
    assert [path for path in packages if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []
    drawn = drawing.PICTURE.read_text(encoding="utf-8")
    assert drawn == drawing.picture(), "rooms or imports have changed: python docs/draw_architecture.py draws them anew"
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(\w+/\w+\.py)`", text):
        assert any((REPOSITORY / folder / name).is_file() for folder in (".", "LNSynthLib")), name


def test_arrows_that_others_imply_are_left_out_and_rooms_lie_below_what_imports_them(drawing):
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"c"}}
    assert drawing.reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}
    assert drawing.floors(graph) == {"a": 0, "d": 0, "b": 1, "c": 2}
    assert drawing.ways({"a": {"c"}, "c": set()}, {"a": 0, "c": 2}) == [["a", "a c 1", "c"]]
    with pytest.raises(ValueError, match="a, b"):
        drawing.floors({"a": {"b"}, "b": {"a"}})


def test_the_formats_have_the_numbers_that_the_code_has():
    from LNSynthLib.cases import dataset, prepare, prepared
    from LNSynthLib.conditions import transforms
    from LNSynthLib.experiment import cells
    from LNSynthLib.synthesis import synthesize
    from LNSynthLib.synthesis.variants import make
    from LNSynthLib.training import loop

    page = (REPOSITORY / "docs" / "formats" / "index.md").read_text(encoding="utf-8")
    rows = {row.split("|")[1].strip(): row for row in page.splitlines() if row.startswith("| ")}
    assert f"`format` {dataset.FORMAT} " in rows["data set"]
    assert f"`format` {prepared.FORMAT}, `version` {prepare.VERSION} " in rows["prepared case"]
    assert f"`draws` {loop.DRAWS} " in rows["generator and training run"]
    assert synthesize.FORMAT == make.FORMAT
    sample = f"in `key` {synthesize.FORMAT}, in node changes {transforms.VERSION} "
    assert sample in rows["sample with its provenance"]
    said = (REPOSITORY / "docs" / "formats" / "experiment.md").read_text(encoding="utf-8")
    assert cells.FORMATS == {"generator": 2} and "generators are at 2" in said and "all others at 1" in said


def test_there_is_one_source_of_the_version():
    """LNSynthLib/__init__.py: the package takes it from there, and nothing else repeats it but the changelog."""
    assert re.search(rf"^## \[{re.escape(__version__)}\]", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.M)
    for name in ("CMakeLists.txt", "LNSynth/CMakeLists.txt", "LNSynthLib/CMakeLists.txt", "LNSynth.s4ext",
                 "LNSynth.json", "mkdocs.yml", "README.md"):
        assert __version__ not in (REPOSITORY / name).read_text("utf-8"), name


def test_continuous_integration_and_pre_commit_run_what_make_runs():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.M))
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "checks.yml").read_text("utf-8"))["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    assert matrix["python"] == ["3.11", "3.12"]
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {"make lint", "make docs"} <= set(lines)
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    lines += [hook["entry"] for hook in hooks]
    assert {line.removeprefix("make ") for line in lines if line.startswith("make ")} <= targets
    tests = next(line for line in lines if "pytest" in line)
    assert all(word in tests for word in ('-m "not slow"', "Testing/Python"))
