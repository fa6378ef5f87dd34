"""Names and paths that come from a file: proved harmless before anything is read, written or removed by them.

A manifest, a table or a record may come from anybody. An id such as `../../precious` must never become a path.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import LNSynthError

LONGEST = 200  # bytes of a name: file systems hold 255, and suffixes and temporary prefixes come on top
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # devices of Windows
FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")  # which file managers leave everywhere
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of what we make ourselves: safe in every program and shell


def problem(name: object) -> str:
    """Why something cannot name one file or folder on every system; empty where it can."""
    if not isinstance(name, str):
        return "is not text"
    if not name:
        return "is empty"
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    if FORBIDDEN.search(name) or any("\ud800" <= c <= "\udfff" for c in name):
        return "holds a character that no file name may have"
    if name[0] in ". " or name[-1] in ". ":
        return "begins or ends with a dot or a space"
    if RESERVED.fullmatch(name):
        return "is a reserved name in Windows"
    return ""


def check_name(name: object, where: object, what: str = "the id") -> str:
    """The name itself. Raises LNSynthError, naming `where` it stands and `what` it is, unless it can name a folder."""
    if why := problem(name):
        raise LNSynthError(f"{where}: {what} {_shown(name)} cannot name a folder (it {why}); use letters, digits, dots "
                           "and dashes.")
    return name


def check_id(name: object, where: object, what: str = "the id") -> str:
    """As `check_name`, for what is about to be made: ASCII letters, digits, dots and dashes, a letter or digit first.
    """
    check_name(name, where, what)
    if not ID.fullmatch(name):
        raise LNSynthError(f"{where}: {what} {_shown(name)} cannot name a folder; use letters, digits, dots and "
                           "dashes, a letter or digit first.")
    return name


def inside(folder: Path, relative: object, where: object, what: str = "the path") -> Path:
    """FOLDER/RELATIVE, once it is seen to lie below the folder, symbolic links followed.

    Raises LNSynthError, naming `where` the path stands, for an absolute path, a drive, a way up, and a link that leads
    out of the folder.
    """
    folder = Path(folder)
    parts = PurePosixPath(relative).parts if isinstance(relative, str) else ()
    if not parts or PureWindowsPath(relative).is_absolute() or any(problem(part) for part in parts):
        raise LNSynthError(f"{where}: {what} {_shown(relative)} is not a path inside {folder}; correct it.")
    path = folder.joinpath(*parts)
    try:
        real, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):  # links in a circle
        real, home = None, folder
    if real is None or real == home or not real.is_relative_to(home):
        raise LNSynthError(f"{where}: {what} {_shown(relative)} leads out of {folder} through a link; put the file "
                           "itself there.")
    return path


def check_replaceable(old: Path, new: Path, also: Iterable[str] = ()) -> None:
    """Raises LNSynthError unless all that the folder `old` holds is ours: a file of the same name is in `new`.

    also  patterns of further files, below the folder, that may go (`fnmatch`)
    A folder takes another's place only so: what somebody else put there is never removed.
    """
    for file in old.rglob("*"):
        relative = file.relative_to(old)
        if file.is_dir() and not file.is_symlink() or (new / relative).exists() or file.name in SYSTEM_FILES:
            continue
        if not any(fnmatch(relative.as_posix(), pattern) for pattern in also):
            raise LNSynthError(f"{old}: it holds {relative.as_posix()}, which LNSynth did not put there, so the folder "
                               "is not replaced; move that file, or choose another place.")


def remove_ours(folder: Path, names: Iterable[str]) -> bool:
    """Removes a folder whose files all have one of these names; another is left as it is, and a link to one too.

    Returns whether it is gone.
    """
    ours = {*names, *SYSTEM_FILES}
    if folder.is_symlink() or not folder.is_dir() or any(entry.name not in ours or entry.is_dir() and
                                                         not entry.is_symlink() for entry in folder.iterdir()):
        return False
    shutil.rmtree(folder)
    return True


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
