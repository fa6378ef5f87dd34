"""One process at a time: a lock on a file, which the system lets go of when its process dies. Standard library only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone(lock: Path, wait_s: float) -> Iterator[None]:
    """Holds a lock on the file `lock`, which is made where it is missing and stays.

    Raises TimeoutError where another process keeps it for `wait_s` seconds, OSError where it cannot be made or the file
    system has no locks.
    """
    handle = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        with suppress(OSError):  # only its owner may, and has done it
            os.chmod(lock, 0o666)
        deadline = time.monotonic() + wait_s
        while not _locked(handle):
            if time.monotonic() > deadline:
                raise TimeoutError("another program keeps it locked")
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)  # and with it the lock


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
