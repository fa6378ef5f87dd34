"""Pseudonyms for the ids of patients and cases, the same for the same id in all work of this installation.

    HOME/pseudonyms.key   a secret of this installation, from which they follow
    HOME/pseudonyms.csv   kind, id and pseudonym of each that was given, to find a patient again

HOME is `runtime.home`. Neither file is ever part of what is shared; without them nobody can tell an id or test a guess.
"""

from __future__ import annotations

import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path

from .errors import LNSynthError
from .files import write_text
from .home import home
from .locks import turn
from .tables import csv_text, read_table

COLUMNS = ("kind", "id", "pseudonym")


def pseudonym(kind: str, id: str) -> str:
    """Such as case-3f9a1c2b70; "" for "", and a pseudonym that was given for itself. Raises LNSynthError where HOME
    cannot be read or written."""
    if not id:
        return ""
    try:
        home().mkdir(parents=True, exist_ok=True)
        if id in {row["pseudonym"] for row in _noted(home() / "pseudonyms.csv")}:
            return id
        secret = _secret(home() / "pseudonyms.key")
        found = f"{kind}-{hmac.new(secret, f'{kind} {id}'.encode(), 'sha256').hexdigest()[:10]}"
        _note(home() / "pseudonyms.csv", {"kind": kind, "id": id, "pseudonym": found})
    except OSError as error:
        raise LNSynthError(f"{home()}: the key of the pseudonyms cannot be kept there ({error.strerror}); set "
                           "LNSYNTH_HOME to a folder of yours that can be written to.") from None
    return found


def known(kind: str, name: str) -> str:
    """The id of a pseudonym, and the pseudonym of an id, as far as this installation gave it; "" for what it did not.
    """
    path = home() / "pseudonyms.csv"
    try:
        about = path.stat()
    except OSError:
        return ""
    return _both_ways(path, about.st_mtime_ns, about.st_size).get((kind, name), "")


@lru_cache(maxsize=2)
def _both_ways(path: Path, _time: int, _size: int) -> dict[tuple[str, str], str]:
    rows = _noted(path)
    return {(row["kind"], row["id"]): row["pseudonym"] for row in rows} | {
        (row["kind"], row["pseudonym"]): row["id"] for row in rows}


def _secret(path: Path) -> bytes:
    with turn(path):
        try:
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(32))
        except FileExistsError:
            pass
    key = path.read_text(encoding="ascii", errors="replace").strip()
    if len(key) != 64:
        raise LNSynthError(f"{path}: the key of the pseudonyms is damaged; restore it from a copy, or remove it, and "
                           "all pseudonyms will be others.")
    return key.encode()


def _note(path: Path, row: dict[str, str]) -> None:
    with turn(path):
        rows = _noted(path)
        if row not in rows:
            write_text(path, csv_text(COLUMNS, [*rows, row]))
            path.chmod(0o600)


def _noted(path: Path) -> list[dict[str, str]]:
    return [row for _, row in read_table(path, COLUMNS).rows] if path.exists() else []
