"""Draws docs/assets/architecture.svg from the imports in the code: `python docs/draw_architecture.py`.

A box is a room, a folder of the library or of the Slicer module; an arrow leads to what it imports. A room stands one
row below the lowest that imports it. Arrows that others imply are left out: where A imports B, B imports C and A
imports C, that from A to C is not drawn.
"""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURE = REPOSITORY / "docs" / "assets" / "architecture.svg"
ROOF = "verbs"  # with what stands directly in LNSynthLib: cli.py, train.py, ...
MODULE = ("LNSynthPanels", "LNSynthLogic")
BOX, SLOT, GAP, ROW = (196, 52), 8, 22, 100  # pixels: a box, the gap of a passing arrow, between both, row to row
PAGE = 960
COLORS = {"module": "#7a4a9e", "library": "#0b6e69"}  # under white text, and on a white or a black page


def rooms() -> dict[str, list[Path]]:
    """{room: its Python files}, those of the module first, then the library's in order of the alphabet."""
    found = {name: sorted((REPOSITORY / "LNSynth" / name).rglob("*.py")) for name in MODULE}
    found[MODULE[0]].append(REPOSITORY / "LNSynth" / "LNSynth.py")
    library = REPOSITORY / "LNSynthLib"
    for folder in sorted(path.parent for path in library.glob("*/__init__.py")):
        found[folder.name] = sorted(folder.rglob("*.py"))
    found[ROOF] = found[ROOF] + sorted(library.glob("*.py"))
    return found


def room_of(name: str, known: set[str]) -> str | None:
    """The room of a module by its dotted name; None for what is not ours."""
    parts = name.split(".")
    if parts[0] in MODULE:
        return parts[0]
    if parts[0] != "LNSynthLib" or len(parts) == 1:
        return None
    if parts[1] in known:
        return parts[1]
    return ROOF if (REPOSITORY / "LNSynthLib" / f"{parts[1]}.py").is_file() else None  # else a name: the version


def imported(path: Path) -> set[str]:
    """Dotted names of what a file imports, at its top or inside functions."""
    package = list(path.relative_to(REPOSITORY).parts[:-1])
    package = package[1:] if package[0] == "LNSynth" else package  # the module's folder is on the path itself
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def arrows() -> dict[str, set[str]]:
    """{room: the rooms that it imports}"""
    found = rooms()
    known = set(found)
    return {name: {room_of(one, known) for path in paths for one in imported(path)} - {name, None}
            for name, paths in found.items()}


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without arrows that a way over other rooms implies."""
    def reach(start: str) -> set[str]:
        found, waiting = set(), [start]
        while waiting:
            for below in graph[waiting.pop()] - found:
                found.add(below)
                waiting.append(below)
        return found

    below = {name: reach(name) for name in graph}
    return {name: {one for one in to if not any(one in below[other] for other in to - {one})}
            for name, to in graph.items()}


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """The row of each room, 0 at the top: below all that import it. Raises ValueError where imports go round."""
    found: dict[str, int] = {}
    above = {name: {one for one in graph if name in graph[one]} for name in graph}
    while len(found) < len(graph):
        ready = [name for name in graph if name not in found and above[name] <= found.keys()]
        if not ready:
            raise ValueError(f"rooms import each other: {', '.join(sorted(graph.keys() - found.keys()))}")
        found |= {name: 1 + max((found[one] for one in above[name]), default=-1) for name in ready}
    return found


def ways(graph: dict[str, set[str]], row: dict[str, int]) -> list[list[str]]:
    """Each arrow as a way from row to row: its ends are rooms, what lies between are gaps left free for it."""
    return [[name, *(f"{name} {one} {between}" for between in range(row[name] + 1, row[one])), one]
            for name in graph for one in sorted(graph[name])]


def middles(found: list[list[str]], row: dict[str, int]) -> dict[str, float]:
    """The middle, in pixels from the left, of each box and gap; below the mean of what leads to it, if it can."""
    above: dict[str, list[str]] = {}
    rows: dict[int, list[str]] = {}
    for name in row:
        rows.setdefault(row[name], []).append(name)
    for way in found:
        for number, (upper, lower) in enumerate(zip(way, way[1:], strict=False), row[way[0]] + 1):
            above.setdefault(lower, []).append(upper)
            if lower not in row:
                rows.setdefault(number, []).append(lower)
    at: dict[str, float] = {}
    for number in sorted(rows):
        def wish(name: str) -> float:
            return sum(at[one] for one in above[name]) / len(above[name]) if name in above else PAGE / 2

        ordered = sorted(rows[number], key=lambda name: (wish(name), name))
        widths = [BOX[0] if name in row else SLOT for name in ordered]
        left = (PAGE - sum(widths) - GAP * (len(widths) - 1)) / 2
        for name, width in zip(ordered, widths, strict=True):
            at[name] = left + width / 2
            left += width + GAP
    return at


def curve(way: list[str], at: dict[str, float], row: dict[str, int]) -> str:
    """The arrow's path: down from the first box, straight through the gaps, to the last box."""
    x, y = at[way[0]], _top(row[way[0]]) + BOX[1]
    parts = [f"M{x:g} {y:g}"]
    for number, name in enumerate(way[1:], row[way[0]] + 1):
        u, v = at[name], _top(number) - 2 * (name == way[-1])
        parts.append(f"C{x:g} {y + 34:g} {u:g} {v - 34:g} {u:g} {v:g}")
        x, y = u, _top(number) + BOX[1]
        if name != way[-1]:
            parts.append(f"V{y:g}")
    return "".join(parts)


def _top(row: int) -> int:
    return 12 + row * ROW


def phrases() -> dict[str, str]:
    """{room: what it is}, from the headings of ARCHITECTURE.md: "### `room`: what it is"."""
    return dict(re.findall(r"^### `(\w+)`: (.+)$", (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.M))


def picture() -> str:
    """The SVG, the same for the same code."""
    graph, said = reduced(arrows()), phrases()
    row = floors(graph)
    found = ways(graph, row)
    at, (width, height) = middles(found, row), BOX
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PAGE} {_top(max(row.values())) + height + 12}" '
             'font-family="system-ui, sans-serif" text-anchor="middle" role="img">',
             "<title>The rooms of LNSynth, and which imports which</title>",
             '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
             'orient="auto"><path d="M0 0 8 4 0 8z" fill="#808a94"/></marker></defs>']
    parts += [f'<path d="{curve(way, at, row)}" fill="none" stroke="#808a94" stroke-width="1.5" '
              'marker-end="url(#tip)"/>' for way in found]
    for name in row:
        x, y, color = at[name], _top(row[name]), COLORS["module" if name in MODULE else "library"]
        parts += [f'<rect x="{x - width / 2:g}" y="{y}" width="{width}" height="{height}" rx="6" fill="{color}"/>',
                  f'<text x="{x:g}" y="{y + 22}" font-size="15" font-weight="600" fill="#fff">{name}</text>',
                  f'<text x="{x:g}" y="{y + 41}" font-size="12" fill="#fff">{html.escape(said.get(name, ""))}</text>']
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(PICTURE)
