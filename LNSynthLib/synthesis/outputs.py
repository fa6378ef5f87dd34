"""Where results may go: never onto what they are made from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..runtime.errors import LNSynthError


def check_apart(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises LNSynthError where a file or folder to be written is an input, lies in one, or holds one."""
    given = [(path, Path(path).resolve()) for path in inputs]
    for target in targets:
        place = Path(target).resolve()
        for path, at in given:
            if place.is_relative_to(at) or at.is_relative_to(place):
                raise LNSynthError(f"{target}: writing it would change the input {path}; choose another --out.")
