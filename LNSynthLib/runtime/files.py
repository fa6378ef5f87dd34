"""Files that are either whole or absent: written beside, synced, then renamed into place."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import LNSynthError


def _sync(path: Path) -> None:
    """Forces a file, or the entries of a folder, to the disk (a folder cannot be opened so on Windows)."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, with the same suffixes; renamed to `path` on success, removed on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffixes = "".join(path.suffixes[-2:])
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=suffixes, dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        os.chmod(beside, 0o644)
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A folder beside `path` to fill; takes the place of `path` on success, removed on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)), None
    try:
        yield beside
        os.chmod(beside, 0o755)
        for file in beside.rglob("*"):
            os.chmod(file, 0o755 if file.is_dir() else 0o644)  # some writers keep their files to their owner
            _sync(file)
        if path.exists():
            # A folder cannot replace a full one in a single step: the old one moves aside first and goes last.
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent)) / path.name
            os.replace(path, old)
        os.replace(beside, path)
        _sync(path.parent)
    except BaseException:
        if old is not None and old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(beside, ignore_errors=True)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old.parent, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """Numpy numbers and arrays, paths and other strangers as JSON knows them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def read_json(path: str | Path) -> Any:
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LNSynthError(f"{path} does not exist; check the path.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise LNSynthError(f"{path} is not valid JSON ({error}); restore it or make it again.") from None


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_array(array) -> str:
    """Hex digest of a numpy array's type, shape and values."""
    import numpy as np
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
