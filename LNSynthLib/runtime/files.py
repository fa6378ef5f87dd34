"""Files that are either whole or absent: written beside, synced, then renamed into place."""

import errno
import functools
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import temporary
from .content import check
from .errors import LNSynthError
from .names import check_name, check_replaceable

FULL = "the disk is full; free some space, or choose another place"
LEAST_FREE = 1 << 16  # bytes: a disk with less is full, whatever a library said when it could not write
WHY = {errno.ENOSPC: FULL, errno.EDQUOT: "your quota on that disk is used up; free some space, or choose another place",
       errno.EFBIG: "files of that size are not allowed there; choose another place",
       errno.EROFS: "that disk can only be read; choose another place",
       errno.EACCES: "you may not write there; choose another place, or ask for the right to",
       errno.EPERM: "you may not write there; choose another place, or ask for the right to",
       errno.ENAMETOOLONG: "its name is too long; choose a shorter one",
       errno.ENOTDIR: "a part of its path is a file and not a folder; choose another place",
       errno.EISDIR: "there is a folder of that name; choose another name"}


def why_not_written(error: BaseException, folder: str | Path) -> str:
    """What a failed write into a folder failed of, and the cure; empty where the error is about something else."""
    if isinstance(error, OSError):
        named = error.filename if isinstance(error.filename, str | os.PathLike) else None
        ours = named is None or Path(os.path.abspath(named)).is_relative_to(os.path.abspath(folder))
        return WHY.get(error.errno or 0, "") if ours else ""  # or else an input cannot be read
    if not isinstance(error, Exception) or isinstance(error, LNSynthError):
        return ""
    if any(said in str(error) for said in ("No space left on device", "os error 28")):
        return FULL
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return FULL if free < LEAST_FREE else ""  # SimpleITK, blosc2 and torch say only that they failed


def _unwritten(path: str | Path, why: str) -> LNSynthError:
    return LNSynthError(f"{path}: it cannot be written: {why}.")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Within the block, what keeps `path` from being written becomes an LNSynthError that says so."""
    try:
        yield
    except Exception as error:
        if why := why_not_written(error, path.parent):
            raise _unwritten(path, why) from error
        raise


def check_output(path: str | Path) -> None:
    """Raises LNSynthError where it can be seen before any work that `path`, a file or folder, cannot be written."""
    path = Path(path)
    place = Path(os.path.abspath(path))
    for part in place.parts[1:]:
        if len(os.fsencode(part)) > 255:
            raise _unwritten(path, f"{part[:20]}... is a name of more than 255 bytes; choose a shorter one")
    try:
        while not place.exists():
            if place.is_symlink():
                raise _unwritten(path, f"{place} is a link that leads nowhere; remove it, or choose another place")
            place = place.parent
        if not place.is_dir() and place != Path(os.path.abspath(path)):
            raise _unwritten(path, f"{place} is a file and not a folder; choose another place")
        folder = place if place.is_dir() else place.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            only = sys.platform != "win32" and os.statvfs(folder).f_flag & os.ST_RDONLY
            raise _unwritten(path, WHY[errno.EROFS if only else errno.EACCES])
        if shutil.disk_usage(folder).free < LEAST_FREE:
            raise _unwritten(path, FULL)
    except OSError as error:
        raise _unwritten(path, WHY.get(error.errno or 0, f"{error.strerror}; choose another place")) from None


def _sync(path: Path) -> None:
    """Forces a file, or the entries of a folder, to the disk, as far as the system can (a folder cannot on Windows).

    Raises OSError where the disk had no room for what was written, which some file systems tell only now.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, with the same suffixes; renamed to `path` on success, removed on failure.

    A new file gets the rights that the umask gives; one that takes another's place, that one's. Raises LNSynthError
    where the file cannot be written (disk full, no right to, name too long).
    """
    path = Path(path)
    with _writing(path):
        _check_name(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        temporary.sweep_once(path.parent)
        beside = temporary.new_file(path)
        rights = stat.S_IMODE(os.stat(beside).st_mode)
        try:
            yield beside
            if path.is_file() and not path.is_symlink():
                rights = stat.S_IMODE(os.stat(path).st_mode)
            if stat.S_IMODE(os.stat(beside).st_mode) != rights:  # some writers keep their files to their owner
                os.chmod(beside, rights)
            _sync(beside)
            os.replace(beside, path)
            _sync(path.parent)
        except BaseException as error:
            why = why_not_written(error, path.parent)  # asked before there is room again
            beside.unlink(missing_ok=True)
            if why:
                raise _unwritten(path, why) from error
            raise


@contextmanager
def atomic_folder(path: str | Path, also: Iterable[str] = ()) -> Iterator[Path]:
    """A folder beside `path` to fill; takes the place of `path` on success, removed on failure.

    Rights and errors as for `atomic_path`; LNSynthError, too, where the folder at `path` holds files that the new one
    does not, other than those of the patterns `also` (`names.check_replaceable`).
    """
    path = Path(path)
    with _writing(path):
        _check_name(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise _unwritten(path, "there is a file of that name; choose another name")
        temporary.sweep_once(path.parent)
        beside = temporary.new_folder(path)
        rights = stat.S_IMODE(os.stat(beside).st_mode)
        try:
            yield beside
            for entry in beside.rglob("*"):
                about = entry.lstat()
                if stat.S_ISDIR(about.st_mode):
                    os.chmod(entry, rights)
                elif stat.S_ISREG(about.st_mode) and about.st_nlink == 1:  # other names of a file are not ours
                    os.chmod(entry, rights & 0o666)
                    _sync(entry)
            if path.is_dir():
                check_replaceable(path, beside, also)
            if path.is_dir() and not path.is_symlink():
                os.chmod(beside, stat.S_IMODE(os.stat(path).st_mode))
            _sync(beside)
            _replace_folder(beside, path)
            _sync(path.parent)
        except BaseException as error:
            why = why_not_written(error, path.parent)
            _remove(beside)
            if why:
                raise _unwritten(path, why) from error
            raise
        _remove(beside)


def _replace_folder(new: Path, path: Path) -> None:
    """Gives `new` the name `path`. What had it has the name `new` afterwards, or is gone."""
    for _ in range(100):  # others may be at the same
        if os.path.lexists(path):
            if _exchanged(new, path):
                return
            # A folder cannot replace a full one in a single step: the old one moves aside first and goes last.
            aside = temporary.new_folder(path.with_name(temporary.ASIDE))
            try:
                os.replace(path, aside / path.name)
                os.replace(new, path)
                return
            except FileNotFoundError:
                continue
            except BaseException as error:
                if os.path.lexists(aside / path.name) and not os.path.lexists(path):
                    os.replace(aside / path.name, path)
                if not (isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST)):
                    raise
            finally:
                _remove(aside)
        else:
            try:
                os.replace(new, path)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
    raise _unwritten(path, "another program writes the same; let one of them end first")


def _exchanged(a: Path, b: Path) -> bool:
    """Whether the two have swapped names, in one step: Linux can, on most of its file systems."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _check_name(path: Path) -> None:
    if len(os.fsencode(path.name)) > 255:
        raise OSError(errno.ENAMETOOLONG, "name too long", str(path))


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
    except OSError as error:
        raise LNSynthError(f"{path} cannot be read ({error.strerror}); check that it is a file you may read.") from None
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise LNSynthError(f"{path} is not valid JSON ({error}); restore it or make it again.") from None


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_once(path: str | Path) -> str:
    """`sha256`, read once a process while the file stays the same by its number, size and time of change."""
    about = os.stat(path)
    return _sha256_known(os.fspath(path), about.st_ino, about.st_size, about.st_mtime_ns)


@functools.lru_cache(1 << 16)
def _sha256_known(path: str, *_about: int) -> str:
    return sha256(path)


HASHES = "sha256.json"


def write_hashes(folder: Path) -> None:
    """Writes FOLDER/sha256.json: the hashes of all files directly in the folder."""
    write_json(folder / HASHES, {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()})


def add_hash(path: Path, content: Path) -> None:
    """Records in sha256.json beside `path` the hash of what is about to replace it, and still that of what it is."""
    record = path.parent / HASHES
    known = _recorded(path.parent)
    before = known.get(path.name, [])
    write_json(record, known | {path.name: [sha256(content), *before[:1]]})


def check_hashes(folder: Path) -> None:
    """Raises LNSynthError where a file of a folder is not the one that its sha256.json records, or is gone.

    A folder without one is taken as it is: earlier versions wrote none.
    """
    for name in _recorded(folder):
        check_hash(folder / name)


def check_hash(path: Path) -> None:
    """`check_hashes` for one file; one that sha256.json beside it does not name is taken as it is."""
    known = _recorded(path.parent).get(path.name)
    if known is None:
        return
    if not path.is_file():
        raise LNSynthError(f"{path} is missing ({HASHES} beside it names it); copy the folder again.")
    if sha256_once(path) not in (known if isinstance(known, list) else [known]):
        raise LNSynthError(f"{path} is damaged (its SHA-256 is not that in {HASHES}); copy the folder again.")


def _recorded(folder: Path) -> dict:
    recorded = read_json(folder / HASHES) if os.path.lexists(folder / HASHES) else {}
    for name in check(recorded, {str: (str, list)}, folder / HASHES):
        check_name(name, folder / HASHES, "the file")
    return recorded


def sha256_array(array) -> str:
    """Hex digest of a numpy array's type, shape and values."""
    import numpy as np
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_apart(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises LNSynthError where a file or folder to be written is an input, lies in one, or holds one."""
    given = [(path, Path(path).resolve()) for path in inputs]
    for target in targets:
        place = Path(target).resolve()
        for path, at in given:
            if place.is_relative_to(at) or at.is_relative_to(place):
                raise LNSynthError(f"{target}: writing it would change the input {path}; choose another --out.")


def digest(path: Path) -> str | dict:
    """SHA-256 of a file, or of each file of a DICOM folder."""
    path = Path(path)
    return sha256(path) if path.is_file() else {p.name: sha256(p) for p in sorted(path.iterdir()) if p.is_file()}
