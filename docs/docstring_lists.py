"""Lists in docstrings: lines that read "name  what it is", in columns, become lists on the page.

An extension of griffe, which reads the docstrings for mkdocstrings (see mkdocs.yml).
"""

from __future__ import annotations

import re

import griffe

ENTRY = re.compile(r"(\S(?:.*?\S)??) {2,}(\S.*)")


class ListsFromColumns(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = with_lists(obj.docstring.value)


def with_lists(text: str) -> str:
    """The docstring with a Markdown list for each paragraph that begins with an entry in columns.

    A line that is no entry, being indented, goes on with the one above it.
    """
    return "\n\n".join(_listed(paragraph) for paragraph in re.split(r"\n[ \t]*\n", text))


def _listed(paragraph: str) -> str:
    lines = paragraph.split("\n")
    first = ENTRY.fullmatch(lines[0])
    if not first or not all(line.startswith("  ") or _entry(line, first.start(2)) for line in lines):
        return paragraph
    entries = []
    for line in lines:
        if not line.startswith("  ") and (found := _entry(line, first.start(2))):
            entries.append(f"- {found[0]}: {found[1]}" if "`" in found[0] else f"- `{found[0]}`: {found[1]}")
        else:
            entries[-1] += f" {line.strip()}"
    return "\n".join(entries)


def _entry(line: str, column: int) -> tuple[str, str] | None:
    """(name, what it is): a name may reach up to the column, or past it with two spaces after it."""
    if line[column - 1:column] == " " and line[column:column + 1].strip():
        return line[:column].strip(), line[column:]
    found = ENTRY.fullmatch(line)
    return (found[1], found[2]) if found else None
