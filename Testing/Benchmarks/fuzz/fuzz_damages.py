"""Kinds of input of fuzz_readers.py, and what it does to them: functions (random, folder) that change one thing.

Kind.make(folder) writes the whole input, Kind.read(folder) reads it through LNSynth's door, Kind.other(folder) by
another library; what they return is compared by `same`: plain values, numbers, arrays.


Bytes are flipped, cut off or moved; lines of texts and values of JSON are dropped, doubled or replaced by what is
hostile: numbers at and beyond all limits, names that lead elsewhere, other types.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Damage = Callable[[np.random.Generator, Path], None]
NUMBERS = (0, -1, 1, 2, 255, 65536, 2**31 - 1, 2**31, -2**31, 2**63, 10**30, 0.5, -0.0, 1e-30, 1e308, math.nan,
           math.inf, -math.inf)
NAMES = ("../../../precious", "/precious", "..", ".", "", "a/b", "a\\b", "C:\\precious", "\\\\host\\share", "a\0b",
         "a\nb", "nul", "x" * 5000, "\ud800", "=1+1", "é" * 150, " ", "case-1.")
OTHERS = (None, True, False, [], {}, "text", 7, 1.5, [[]], {"a": {"b": []}}, [None] * 3)


@dataclass(frozen=True)
class Kind:
    make: Callable[[Path], None]
    read: Callable[[Path], object]
    damages: tuple[Damage, ...]
    other: Callable[[Path], object] | None = None  # None: every change must be noticed
    says: Callable[[object, object], bool] | None = None  # whether the reader's content is what `other` found


# Bytes

def files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file() and not path.is_symlink())


def any_file(random, folder: Path, pattern: str = "*") -> Path:
    found = files(folder, pattern)
    return found[random.integers(len(found))]


def flipped(random, content: bytes) -> bytes:
    content = bytearray(content)
    for _ in range(random.integers(1, 9)):
        at = random.integers(len(content) if random.random() < 0.5 else min(len(content), 400))
        content[at] ^= 1 << random.integers(8)
    return bytes(content)


def truncated(random, content: bytes) -> bytes:
    return content[:random.integers(len(content))]


def spliced(random, content: bytes) -> bytes:
    a, b = sorted(random.integers(0, len(content) + 1, 2))
    put = (content[a:b], random.bytes(random.integers(1, 200)), b"", bytes(int(b - a)))[random.integers(4)]
    at = int(random.integers(0, len(content) + 1))
    return content[:at] + put + content[at + int(random.integers(0, 100)):] if put else content[:a] + content[b:]


def on_bytes(pattern: str = "*") -> tuple[Damage, ...]:
    def damage(how):
        def change(random, folder):
            path = any_file(random, folder, pattern)
            if content := path.read_bytes():
                path.write_bytes(how(random, content))
        return change

    def swapped(random, folder):
        path = any_file(random, folder, pattern)
        other = (b"", random.bytes(300), b"\x1f\x8b" + random.bytes(50), b"PK\3\4" + random.bytes(80), b"{}", b"null",
                 b"[" * 20_000, b"\xff\xfe" + "a,b".encode("utf-16-le"))
        path.write_bytes(other[random.integers(len(other))])

    def linked(random, folder):  # another file's content under this name, or nothing's
        path = any_file(random, folder, pattern)
        path.unlink()
        path.symlink_to(("/nowhere", folder, path)[random.integers(3)])

    return (*(damage(how) for how in (flipped, flipped, truncated, spliced)), swapped, linked)


# Texts and of plain values

def hostile(random):
    """A value for a header or a table."""
    values = (*NUMBERS, *NAMES) if random.random() < 0.7 else tuple(f"{n} {n} {n}" for n in NUMBERS)
    return values[random.integers(len(values))]


def on_lines(pattern: str) -> tuple[Damage, ...]:
    """A line of a text (or of a header before voxels): its value, or a number in it, another; or gone, or twice."""
    def change(random, folder):
        path = any_file(random, folder, pattern)
        content = path.read_bytes()
        end = next((content.index(mark) for mark in (b"\n\n", b"ElementDataFile") if mark in content), len(content))
        lines = content[:end].decode("latin-1").split("\n")
        at = int(random.integers(len(lines)))
        value = str(hostile(random)).encode("utf-8", "replace").decode("latin-1")
        numbers = list(re.finditer(r"-?\d+(\.\d+)?", lines[at]))
        way = random.integers(4)
        if way == 0:
            lines.pop(at)
        elif way == 1:
            lines.insert(at, lines[random.integers(len(lines))])
        elif way == 2 and numbers:
            found = numbers[random.integers(len(numbers))]
            lines[at] = lines[at][:found.start()] + value + lines[at][found.end():]
        else:
            parts = re.split(r"([:=,;])", lines[at])
            parts[random.integers(len(parts))] = value
            lines[at] = "".join(parts)
        path.write_bytes("\n".join(lines).encode("latin-1") + content[end:])

    return (change,) * 4


def places(value, at=()):
    """The paths to all values inside one."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*at, key))


def on_json(pattern: str = "*.json") -> tuple[Damage, ...]:
    def change(random, folder):
        path = any_file(random, folder, pattern)
        content = json.loads(path.read_text())
        found = list(places(content))
        at = found[random.integers(len(found))]
        if not at:
            content = OTHERS[random.integers(len(OTHERS))]
        else:
            parent = content
            for key in at[:-1]:
                parent = parent[key]
            old, way = parent[at[-1]], random.integers(5)
            if way == 0:
                del parent[at[-1]]
            elif way == 1:
                parent[at[-1]] = OTHERS[random.integers(len(OTHERS))]
            elif way == 2 and isinstance(parent, dict):
                parent[NAMES[random.integers(len(NAMES))]] = parent.pop(at[-1])
            elif isinstance(old, list) and old:
                parent[at[-1]] = [old[:-1], [*old, old[0]], [*old, None]][random.integers(3)]
            else:
                values = NAMES if isinstance(old, str) else NUMBERS
                parent[at[-1]] = values[random.integers(len(values))]
        path.write_text(json.dumps(content))

    return (change,) * 6


def same(a, b) -> bool:
    """Whether two readers found the same."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind in "US" or b.dtype.kind in "US" or a.shape != b.shape:
            return a.shape == b.shape and bool((a == b).all())
        with np.errstate(all="ignore"):
            return np.allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-5, atol=1e-3, equal_nan=True)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or a != a and b != b
    return a == b
