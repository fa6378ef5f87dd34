"""Check names and paths that come from a file before anything is read, written or removed by them.

A manifest, a table or a record may come from anybody. An id such as `../../precious` must never become a path.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import LNSynthError, shown
from .temporary import MARK

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
        raise LNSynthError(f"{where}: {what} {shown(name)} cannot name a folder (it {why}); use letters, digits, dots "
                           "and dashes.")
    assert isinstance(name, str)  # or it has a problem
    return name


def check_id(name: object, where: object, what: str = "the id") -> str:
    """As `check_name`, for what is about to be made: ASCII letters, digits, dots and dashes, a letter or digit first.
    """
    name = check_name(name, where, what)
    if not ID.fullmatch(name):
        raise LNSynthError(f"{where}: {what} {shown(name)} cannot name a folder; use letters, digits, dots and "
                           "dashes, a letter or digit first.")
    return name


def below(folder: Path, relative: object, where: object, what: str = "the path") -> Path:
    """FOLDER/RELATIVE of a list that a person wrote, whose links are that person's own.

    Raises LNSynthError, naming `where` the path stands, for an absolute path, a drive, and a way up.
    """
    text = relative if isinstance(relative, str) else ""
    windows = PureWindowsPath(text)
    if not text or "\0" in text or PurePosixPath(text).is_absolute() or windows.drive or windows.root \
            or ".." in windows.parts or any(len(os.fsencode(part)) > 255 for part in windows.parts):
        raise LNSynthError(f"{where}: {what} {shown(relative)} is not a path below {folder}; give one that begins in "
                           "that folder, or choose another folder.")
    return Path(folder) / text


def inside(folder: Path, relative: object, where: object, what: str = "the path",
           linked: Collection[str] = ()) -> Path:
    """FOLDER/RELATIVE, once it is seen to lie below the folder, symbolic links followed.

    linked  folders directly in `folder` that may be links to another disk: then the path must lie below that place
    Raises LNSynthError, naming `where` the path stands, for an absolute path, a drive, a way up, and a link that leads
    out of the folder.
    """
    folder = Path(folder)
    text = relative if isinstance(relative, str) else ""
    parts = PurePosixPath(text).parts
    if not parts or PureWindowsPath(text).is_absolute() or any(problem(part) for part in parts):
        raise LNSynthError(f"{where}: {what} {shown(relative)} is not a path inside {folder}; correct it.")
    path = folder.joinpath(*parts)
    try:
        real = path.resolve()
        home = (folder / parts[0] if parts[0] in linked and len(parts) > 1 else folder).resolve()
    except (OSError, RuntimeError):  # links in a circle
        real, home = None, folder
    if real is None or real == home or not real.is_relative_to(home):
        raise LNSynthError(f"{where}: {what} {shown(relative)} leads out of {folder} through a link; put the file "
                           "itself there.")
    return path


def check_replaceable(old: Path, new: Path, also: Iterable[str] = ()) -> None:
    """Raises LNSynthError unless all that the folder `old` holds is ours: a file of the same name is in `new`.

    also  patterns of further files, below the folder, that may go (`fnmatch`)
    A folder takes another's place only so: what somebody else put there is never removed.
    """
    for relative in _others(old, also):
        if not (new / relative).exists():
            raise LNSynthError(f"{old}: it holds {relative}, which LNSynth did not put there, so the folder "
                               "is not replaced; move that file, or choose another place.")


def check_own_link(link: Path, patterns: Iterable[str]) -> None:
    """Raises LNSynthError where `link` is a link to a folder that holds anything but files of these patterns.

    A link to a folder of its own on another disk is a person's wish; a link to a folder with other things in it may
    have come with a data set from anywhere.
    """
    if link.is_symlink() and not link.is_dir():
        raise LNSynthError(f"{link}: it is a link that leads to no folder; remove it, or make the folder.")
    if link.is_symlink() and (other := next(_others(link.resolve(), patterns), "")):
        raise LNSynthError(f"{link}: it is a link to {link.resolve()}, which holds {other} and so is not of this data "
                           "set alone; nothing is written there: let the link lead to a folder of its own.")


def remove_ours(folder: Path, patterns: Iterable[str]) -> bool:
    """Removes a folder whose files all are of these patterns (`fnmatch`, of the path below the folder); another is left
    as it is, and a link to one too.

    Returns whether it is gone.
    """
    if folder.is_symlink() or not folder.is_dir() or any(_others(folder, patterns)):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _others(folder: Path, patterns: Iterable[str]) -> Iterator[str]:
    """Files and links below a folder, relative to it, that no pattern names; not what file managers leave, nor what is
    temporary."""
    patterns = [*patterns]
    for file in folder.rglob("*"):
        relative = file.relative_to(folder).as_posix()
        if not (file.is_dir() and not file.is_symlink() or file.name in SYSTEM_FILES or MARK.search(relative)
                or any(fnmatch(relative, pattern) for pattern in patterns)):
            yield relative
