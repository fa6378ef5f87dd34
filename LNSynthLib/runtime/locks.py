"""One process at a time: a lock on a file, which the system lets go of when its process dies. Standard library only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone(lock: Path, wait_s: float) -> Iterator[None]:
    """Holds a lock on the file `lock`, which is there only meanwhile (or after a process that died).

    Raises TimeoutError where another process keeps it for `wait_s` seconds, OSError where it cannot be made or the file
    system has no locks.
    """
    deadline = time.monotonic() + wait_s
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT)
        try:
            with suppress(OSError):  # only its owner may, and has done it
                os.chmod(lock, 0o666)
            while not _locked(handle):
                if time.monotonic() > deadline:
                    raise TimeoutError("another program keeps it locked")
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


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _locked(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except (BlockingIOError, PermissionError):  # the latter on Windows
        return False
