"""Check what a JSON file holds, once, where it is read: a wrong type is one sentence, not a traceback.

A shape is a type, a tuple of types (one of them), a set (one of its values), [shape] for a list of any length,
[shape, shape] for one of just so many entries, {name: shape} for a mapping that has at least these names ("name?" may
be missing), {str: shape} for a mapping of any names, or a function that takes (value, where).
"""

from __future__ import annotations

import math
from typing import Any

from .errors import LNSynthError, shown

NONE = type(None)
NUMBER = (int, float)
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping",
         list: "a list", NONE: "null"}


def check(value: Any, shape: Any, where: object, at: str = "") -> Any:
    """The value itself. Raises LNSynthError, naming `where` and the place in it, unless it has the shape.

    Numbers must be finite; true and false are not numbers.
    """
    if isinstance(shape, dict):
        _typed(value, (dict,), where, at)
        for name, inner in shape.items():
            if name is str:
                for key in value:
                    check(value[key], inner, where, _join(at, key))
            elif name.rstrip("?") in value:
                check(value[name.rstrip("?")], inner, where, _join(at, name.rstrip("?")))
            elif not name.endswith("?"):
                raise LNSynthError(f"{where}: {_join(at, name)} is missing; restore the file from a copy.")
    elif isinstance(shape, list):
        _typed(value, (list,), where, at)
        if len(shape) > 1 and len(value) != len(shape):
            raise LNSynthError(f"{where}: {at} must have {len(shape)} entries, not {len(value)}; correct it, or "
                               "restore the file from a copy.")
        for number, entry in enumerate(value):
            check(entry, shape[number if len(shape) > 1 else 0], where, f"{at}[{number}]")
    elif isinstance(shape, set | frozenset):
        if not isinstance(value, str | int | NONE) or value not in shape:
            known = ", ".join(sorted(map(str, shape)))
            raise LNSynthError(f"{where}: {at} is one of {known}, not {shown(value)}; correct it.")
    elif isinstance(shape, type | tuple):
        _typed(value, shape if isinstance(shape, tuple) else (shape,), where, at)
    else:
        shape(value, f"{where}: {at}" if at else where)
    return value


def check_format(content: Any, ours: int, where: object) -> None:
    """Raises LNSynthError where "format" of a file's content is the number of a later version's: above `ours`."""
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found > ours:
        raise LNSynthError(f"{where} has format {found}, and this version of LNSynth reads formats up to {ours}; use "
                           "the version that wrote it, or a later one.")


def count(value: Any, where: object) -> None:
    """A shape: a whole number from 1 up."""
    positive(_typed(value, (int,), where, "it"), where)


def positive(value: Any, where: object) -> None:
    """A shape: a number above 0."""
    if _typed(value, NUMBER, where, "it") <= 0:
        raise LNSynthError(f"{where}: it must be above 0, not {shown(value)}; correct it, or restore the file from a "
                           "copy.")


def _typed(value: Any, types: tuple, where: object, at: str) -> Any:
    allowed = (*types, int) if float in types else types
    fits = isinstance(value, allowed) and (not isinstance(value, bool) or bool in types)
    if not fits or isinstance(value, float) and not math.isfinite(value):
        wanted = " or ".join(WORDS.get(kind, kind.__name__) for kind in types)
        what = f"{at} must be" if at else "the file must hold"
        raise LNSynthError(f"{where}: {what} {wanted}, not {shown(value)}; correct it, or restore the file from a "
                           "copy.")
    return value


def _join(at: str, name: object) -> str:
    return f"{at}.{name}" if at else str(name)
