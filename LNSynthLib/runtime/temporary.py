"""Temporary files and folders that name the process they belong to, so that what a killed process left can be removed.

Their names end in `.lns-HOST-PID-START-RANDOM`, before the suffixes. HOST stands for the machine (in containers: its
process table), START for the moment at which the process began. Only what a dead process of this machine and this user
left is ever removed. Standard library only, where the system is Linux.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = re.compile(r"\.lns-([0-9a-f]{8})-(\d+)-([0-9a-f]{8})-[0-9a-f]{12}(?=\.|$)")
UNKNOWN = "0" * 8  # START where the system does not tell: then nothing is removed
ASIDE = "replaced"  # in a folder of this name and a mark: what was about to be replaced
MOST_FOLDERS = 10_000
_swept: set[tuple[int, Path]] = set()


def mark() -> str:
    """What the names of this process's temporary files end in; different each time, and not to be guessed."""
    return f".lns-{_host()}-{os.getpid()}-{_start(os.getpid()) or UNKNOWN}-{secrets.token_hex(6)}"


def new_file(path: Path) -> Path:
    """An empty file beside `path`, with its suffixes and the rights that the umask gives a new file."""
    suffixes = "".join(Path(_plain(path)).suffixes[-2:])  # .nii.gz
    if len(suffixes) > 24:
        suffixes = path.suffix if len(path.suffix) <= 24 else ""
    while True:
        beside = path.with_name(f".{_head(path)}{mark()}{suffixes}")
        with suppress(FileExistsError):
            os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))  # follows no link
            return beside


def new_folder(path: Path) -> Path:
    """An empty folder beside `path`, with the rights that the umask gives a new folder."""
    while True:
        beside = path.with_name(f".{_head(path)}{mark()}")
        with suppress(FileExistsError):
            os.mkdir(beside)
            return beside


def _plain(path: Path) -> str:
    """The name, without what made it temporary: a temporary file may be written by way of another."""
    return MARK.sub("", path.name.removeprefix("."))


def _head(path: Path) -> str:
    return os.fsencode(_plain(path))[:40].decode(errors="ignore")


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A folder for the block alone, for this user alone; in the system's folder for temporary files unless `parent`."""
    parent = Path(parent or tempfile.gettempdir())
    sweep_once(parent)
    folder = parent / f".lnsynth{mark()}"
    os.mkdir(folder, 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def home() -> Iterator[None]:
    """Within the block libraries' temporary files (of loader processes, say) lie in a `scratch` folder, so that they
    go as ours do."""
    before = tempfile.tempdir
    with scratch() as folder:
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before


def sweep_once(folder: Path) -> None:
    """`sweep`, but at most once a process and folder: nobody dies so often that it pays to look again."""
    key = os.getpid(), Path(folder)
    if key not in _swept:
        _swept.add(key)
        sweep(folder)


def sweep(folder: Path) -> None:
    """Removes what dead processes of this machine and user left directly in a folder.

    A folder that was moved aside to be replaced, and never was, comes back.
    """
    try:
        with os.scandir(folder) as entries:
            left = [entry for entry in entries if entry.name.startswith(".") and _is_left(entry)]
    except OSError:
        return
    for entry in sorted(left, key=lambda e: not e.name.startswith(f".{ASIDE}.")):
        path = Path(entry.path)
        if not entry.is_dir(follow_symlinks=False):
            with suppress(OSError):
                path.unlink()
            continue
        if entry.name.startswith(f".{ASIDE}."):
            for aside in list(path.iterdir()):
                if not os.path.lexists(path.parent / aside.name):
                    with suppress(OSError):
                        os.replace(aside, path.parent / aside.name)
        shutil.rmtree(path, ignore_errors=True)


def sweep_below(folder: Path, depth: int) -> None:
    """`sweep` for a folder and those in it, `depth` floors down; follows no link, and looks at MOST_FOLDERS at most."""
    floor, looked = [str(folder)], 0
    for _ in range(depth + 1):
        below = []
        for path in floor[:max(0, MOST_FOLDERS - looked)]:
            sweep_once(Path(path))
            with suppress(OSError), os.scandir(path) as entries:
                below += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        looked += len(floor)
        floor = below


def _is_left(entry: os.DirEntry) -> bool:
    found = MARK.search(entry.name)
    if not found:
        return False
    host, pid, start = found.groups()
    if host != _host() or start == UNKNOWN or _start(int(pid)) in (start, UNKNOWN):
        return False
    try:
        return sys.platform == "win32" or entry.stat(follow_symlinks=False).st_uid == os.getuid()
    except OSError:
        return False


@functools.cache
def _host() -> str:
    try:
        table = str(os.stat("/proc/self/ns/pid").st_ino)  # containers number their processes for themselves
    except OSError:
        table = ""
    return hashlib.sha256(f"{socket.gethostname()} {table}".encode()).hexdigest()[:8]


def _start(pid: int) -> str | None:
    """What tells a living process from all others of its number; UNKNOWN where nobody can say, None for no process."""
    # Not psutil's time of creation on Linux: that moves when the clock is set.
    if boot := _boot():
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        began = f"{boot} {int(fields[19])}" if fields[0] not in (b"Z", b"X") else None
    else:
        try:
            import psutil
        except ImportError:
            return UNKNOWN
        try:
            began = str(psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied:
            return UNKNOWN
    return began and hashlib.sha256(began.encode()).hexdigest()[:8]


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
