"""Paths that may be shared with others: nothing of the user's folders or of this computer."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path


def relative(path: str | Path, folder: str | Path) -> str:
    """From a folder to a path, links followed, so that both can move together; whole where no relative path leads
    there (another drive). `Path(folder).resolve() / relative(path, folder)` leads there again."""
    try:
        return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(folder))).as_posix()
    except ValueError:
        return str(Path(path).resolve())


def unplaced(text: str, folder: str | Path) -> str:
    """A text, of a log say, in which the folder is called ., this Python's folder PYTHON and the user's home ~."""
    known = {str(place): name for place, name in ((Path(folder), "."), (Path(folder).resolve(), "."),
                                                  (Path(sys.prefix), "PYTHON"), (Path(sys.base_prefix), "PYTHON"),
                                                  (Path.home(), "~")) if len(place.parts) > 1 and place.is_absolute()}
    for place in sorted(known, key=len, reverse=True):  # the home may hold the others
        text = re.sub(rf"{re.escape(place)}(?![\w.-])", known[place], text)  # names without a backslash
    return text
