"""Read NumPy's .npz files from untrusted sources: plain arrays only, and no more bytes than the file can hold."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import LNSynthError
from .stream import RATIO, check_room

MOST_ARRAYS = 10_000
LONGEST_HEADER = 1 << 16


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file by name, or those of these names.

    Their sizes are compared with what the file can hold, and with the memory, before anything is unpacked; zip's
    checksums are compared at the end. Raises LNSynthError for a file that is absent, damaged, lacks a name, holds
    objects or announces too much.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as file:
            members = {member.filename.removesuffix(".npy"): member for member in file.infolist()}
            if len(members) > MOST_ARRAYS:
                raise ValueError(f"it holds {len(members)} arrays")
            if missing := [name for name in names or () if name not in members]:
                raise ValueError(f"{missing[0]!r} is missing")
            chosen = {name: members[name] for name in (names if names is not None else members)}
            for member in chosen.values():
                if member.flag_bits & 1 or member.file_size > RATIO * (member.compress_size + 1):
                    raise ValueError(f"{member.filename!r} announces {member.file_size} bytes")
            if sum(member.compress_size for member in chosen.values()) > path.stat().st_size:
                raise ValueError("its arrays are larger than the file")
            check_room(path, sum(member.file_size for member in chosen.values()))
            return {name: _array(file, member) for name, member in chosen.items()}
    except LNSynthError:
        raise
    except Exception as error:  # zipfile and numpy raise whatever a malformed file makes them stumble over
        why = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        raise LNSynthError(f"{path}: the arrays cannot be read ({why}); copy or make the file again.") from None


def _array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with file.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename!r} has format {version}")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream, max_header_size=LONGEST_HEADER)
        if dtype.hasobject or min(shape, default=1) < 0:
            raise ValueError(f"{member.filename!r} holds objects")
        content = stream.read()  # zip's checksum is compared at its end
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{member.filename!r} does not hold what its header announces")
    array = np.frombuffer(bytearray(content), dtype)
    return array.reshape(shape, order="F" if fortran else "C")
