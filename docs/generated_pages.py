"""The site's pages that nobody writes by hand, and links that work on the site as they do in the repository.

mkdocs calls `on_config`, `on_files` and `on_page_markdown` (see `hooks` in mkdocs.yml). Added are: pages that lie
elsewhere in the repository, the pictures, one page with every verb's --help, and one page for each room of the library.
"""

from __future__ import annotations

import argparse
import functools
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.structure.files import File

from LNSynthLib import __version__, cli

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = REPOSITORY / "LNSynthLib"
SOURCE = "https://github.com/lnsynth/LNSynth/blob/main"
ELSEWHERE = {  # place in the repository: place on the site
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "Testing/README.md": "testing.md",
    "Resources/paper_choices.md": "paper-choices.md",
    "Resources/confidence_intervals.md": "confidence-intervals.md",
    "Resources/generators/demo/README.md": "demo-generator.md",
    "LNSynth/Resources/Icons/LNSynth.svg": "assets/lnsynth.svg",
}
PICTURES = "Resources/Pictures"
LINK = re.compile(r"(\]\()([^)\s]+)(\))|((?:src|srcset|href)=\")([^\"]+)(\")")
WIDTH = 100  # characters of a line of --help


def rooms() -> dict[str, list[str]]:
    """The library's rooms from the top of the tree down: {name: its modules}, both dotted."""
    found = {}
    for package in sorted(LIBRARY.rglob("__init__.py")):
        modules = sorted(path for path in package.parent.glob("*.py") if path.name != "__init__.py")
        found[_dotted(package.parent)] = [_dotted(path.with_suffix("")) for path in modules]
    return found


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).parts)


def on_config(config):
    """Appends the rooms' pages to the navigation, and says at the foot of each page which version it describes."""
    config.copyright = f"LNSynth {__version__}. {config.copyright}"
    pages = [{room.removeprefix("LNSynthLib.").replace(".", " / "): f"api/{room}.md"} for room in rooms()]
    config.nav.append({"Library": pages})
    return config


def on_files(files, config):
    for source, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(REPOSITORY / source)))
    for path in sorted((REPOSITORY / PICTURES).rglob("*.*")):
        place = f"pictures/{path.relative_to(REPOSITORY / PICTURES).as_posix()}"
        files.append(File.generated(config, place, abs_src_path=str(path)))
    files.append(File.generated(config, "options.md", content=every_option()))
    for room, modules in rooms().items():
        parts = [f"# {room}", f"::: {room}\n    options: {{show_root_heading: false, members: false}}"]
        parts += [f"::: {module}" for module in modules]
        files.append(File.generated(config, f"api/{room}.md", content="\n\n".join(parts) + "\n"))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files of the repository become links to their pages here, or to the source on the web."""
    place = page.file.src_uri
    here = next((source for source, there in ELSEWHERE.items() if there == place), f"docs/{place}")

    def replaced(found: re.Match) -> str:
        before, target, after = (found.group(n) or found.group(n + 3) for n in (1, 2, 3))
        return before + _link(target, here, place) + after

    return LINK.sub(replaced, markdown)


def _link(target: str, here: str, place: str) -> str:
    """`target`, a link in the repository's file `here`, as a link of the page at `place` on the site."""
    path, mark, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target):
        return target
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
    if wanted.startswith("docs/"):
        there = wanted.removeprefix("docs/")
    elif wanted.startswith(PICTURES):
        there = "pictures" + wanted.removeprefix(PICTURES)
    elif wanted in ELSEWHERE:
        there = ELSEWHERE[wanted]
    elif (REPOSITORY / wanted).exists():
        return f"{SOURCE}/{wanted}{mark}{anchor}"
    else:
        return target  # mkdocs warns
    return posixpath.relpath(there, posixpath.dirname(place) or ".") + mark + anchor


def every_option() -> str:
    """The page with the --help of every verb and of what each verb consists of."""
    parts = ["# Every option",
             "What `lnsynth VERB --help` prints, verb by verb. [Command line](command-line.md) says what they share."]
    for verb, about in cli.VERBS.items():
        parts += [f"## {verb}", about[0].upper() + about[1:] + "."]
        parts += [f"```text\n{parser.format_help().rstrip()}\n```" for parser in _parsers(cli.verb_parser(verb))]
    return "\n\n".join(parts) + "\n"


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of its sub-commands, all of one width."""
    parser.formatter_class = functools.partial(argparse.RawDescriptionHelpFormatter, width=WIDTH)
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _parsers(inner)
