"""One process at a time: a lock on a file, which the system lets go of when its process dies. Standard library only:
a review is written by programs in which nothing is installed yet.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .errors import LNSynthError

TURN_S = 60.0  # to wait for another process's read and write of a table, which takes milliseconds
NO_LOCKS = {getattr(errno, name) for name in ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP") if hasattr(errno, name)}


@contextmanager
def alone(lock: Path, wait_s: float, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a lock on the file `lock`, which is there only meanwhile (or after a process that died).

    Raises TimeoutError where another process keeps it for `wait_s` seconds, OSError where it cannot be made, is a link
    or no plain file, or the file system has no locks. `waiting` is called once where another process has it.
    """
    deadline, told = time.monotonic() + wait_s, False
    while True:
        handle = _open(lock)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file; remove it", str(lock))
            while not _locked(handle):
                if time.monotonic() > deadline:
                    raise TimeoutError("another program keeps it locked")
                if not told:
                    told = True
                    waiting()
                time.sleep(0.01)
            if not _is(handle, lock):  # who had it before has removed it: others lock the one that is there now
                continue
            try:
                yield
            finally:
                if os.name != "nt":
                    with suppress(OSError):  # in a folder where only its owner may
                        lock.unlink()
            return
        finally:
            os.close(handle)  # and with it the lock
            if os.name == "nt":
                with suppress(OSError):  # a file that others have open cannot be removed there
                    lock.unlink()


@contextmanager
def turn(path: Path, wait_s: float = TURN_S, busy: str = "another program keeps it locked; try again when that has "
         "ended", waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While this block reads a file or folder, changes it and writes it back, no other process does.

    The lock is `.NAME.lock` beside it; where the file system has no locks, the block runs all the same.

    busy     what LNSynthError says where another process keeps it for `wait_s` seconds
    waiting  called once where another process has it
    """
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as held:
        try:
            held.enter_context(alone(lock, wait_s, waiting))
        except TimeoutError:
            raise LNSynthError(f"{path}: {busy}.") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise LNSynthError(f"{lock}: the lock cannot be made ({error.strerror}); check that you may write "
                                   "there and that it is not a link.") from None
        yield


@contextmanager
def alone_in(folder: Path, wait_s: float, busy: str) -> Iterator[None]:
    """While this block works in a folder, no other process does that asks so too. The folder is made; it goes again
    where nothing came into it. Errors as for `turn`."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with turn(folder / "run", wait_s, busy):
            yield
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def _open(lock: Path) -> int:
    flags = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(lock, os.O_RDWR | flags, 0o666)  # less what the umask takes away
    except PermissionError:  # another user's: to be allowed to read it is enough
        return os.open(lock, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _locked(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except (BlockingIOError, PermissionError):  # the latter on Windows
        return False
