"""What a result of the batch was made with: OUTPUT.made.json beside it, so that an outdated one is told apart.

The command without interpreter and device, and the sizes and times of the files that go in. A person's corrections of
the result itself change nothing of that, and so they stay.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import read_json, write_json

ENDING = ".made.json"


def is_current(arguments: Sequence[str], output: Path) -> bool:
    """Whether `output` is there, and was made by this command from the files as they are now."""
    try:
        return output.exists() and read_json(_record(output)) == _made(arguments, output)
    except LNSynthError:
        return False


def prepare(arguments: Sequence[str], output: Path) -> Path | None:
    """Makes room for the command's result and notes what it will have been made with.

    A file that is there may hold a person's work: it is kept as NAME.before-1.nii.gz or the next free number, the path
    of which is returned. Raises OSError or LNSynthError where that cannot be done.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    kept = None
    if output.exists():
        name, dot, ending = output.name.partition(".")
        number = 1
        while (kept := output.with_name(f"{name}.before-{number}{dot}{ending}")).exists():
            number += 1
        os.rename(output, kept)
        if _record(output).exists():
            os.replace(_record(output), _record(kept))
    write_json(_record(output), _made(arguments, output))
    return kept


def _record(output: Path) -> Path:
    return output.with_name(output.name + ENDING)


def _made(arguments: Sequence[str], output: Path) -> dict:
    """Paths by their names alone: a folder of results that was moved is still that one."""
    command, inputs, words = [], {}, iter(arguments[1:])
    for word in words:
        if word == "--device":
            next(words, None)
            continue
        path = Path(word)
        if path == output or not path.is_absolute():
            command.append(path.name if path == output else word)
            continue
        command.append(path.name)
        inputs[path.name] = _state(path)
    return {"command": command, "inputs": inputs}


def _state(path: Path) -> list[int]:
    """[files, bytes, time of the newest in ns] of a file or of all in a folder; no files where it is not there."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else []
    found = [file.stat() for file in files]
    return [len(found), sum(f.st_size for f in found), max((f.st_mtime_ns for f in found), default=0)]
