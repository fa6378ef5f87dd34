"""A folder of synthetic samples: which it holds, and a name for what each one is, that a regenerated sample changes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ..runtime.content import NONE, NUMBER, check
from ..runtime.errors import LNSynthError
from ..runtime.files import read_json
from ..runtime.names import check_name

PAIR = ("ct.nii.gz", "nodes.nii.gz")  # what a segmenter is trained on


def _hashes(value: object, where: object) -> None:
    """Of outputs: files directly in the folder."""
    for name in check(value, {str: str}, where):
        check_name(name, where, "the file")


RECORD = {"outputs?": _hashes, "key?": str, "what?": str,
          "generator?": {"settings?": dict, "trained_on?": (dict, NONE)},
          "source?": {"case?": str, "kind?": str, "sha256?": dict, "voxels_sha256?": str, "prepared_key?": str,
                      "prepared_settings?": {"name": check_name, "labels": str}},
          "sampling?": {"sample?": (int, str)}, "condition?": {"start?": [int] * 3, "shape?": [int] * 3},
          "nodes?": [{"id": int, "state?": str, "centroid_mm?": [NUMBER] * 3, "volume_ml?": NUMBER,
                      "short_axis_mm?": NUMBER}]}


def read_record(sample: Path) -> dict:
    """The provenance.json of a sample's folder. Raises LNSynthError where it is missing or not as RECORD says."""
    path = Path(sample) / "provenance.json"
    return check(read_json(path), RECORD, path)


def samples(folder: Path) -> list[Path]:
    """The whole samples in a folder (each a folder with provenance.json), in natural order: a-2 before a-10.

    Raises LNSynthError where there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LNSynthError(f"{folder}: there is no such folder; check the path.")
    if (folder / "provenance.json").is_file():
        raise LNSynthError(f"{folder}: this is a single sample; give the folder around it.")
    found = [path.parent for path in folder.glob("[!.]*/provenance.json")]
    if not found:
        raise LNSynthError(f"{folder}: there are no synthetic samples here; make some with `lnsynth synthesize`.")
    return sorted(found, key=lambda path: natural(path.name))


def natural(name: str) -> list:
    """A sort key by which numbers inside names count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)] + [(-2, name)]


def pair_id(sample: Path) -> str:
    """What the sample's CT and nodes are: "pair-" and 16 hex digits of a hash of their SHA-256 in its provenance.

    Verdicts carry it, so that one about a sample that was regenerated is known to be about another image. The prefix
    keeps spreadsheets from reading it as a number. Raises LNSynthError where the provenance does not tell.
    """
    record = read_record(sample)
    try:
        hashes = "".join(record["outputs"][name] for name in PAIR)
    except KeyError:
        raise LNSynthError(f"{sample / 'provenance.json'}: it does not record the SHA-256 of {' and '.join(PAIR)}; "
                           "make the sample again.") from None
    return f"pair-{hashlib.sha256(hashes.encode()).hexdigest()[:16]}"


def damage(sample: Path) -> str:
    """What is wrong with a sample's folder, for people; "" where its record can be read and its pair is there."""
    try:
        pair_id(sample)
    except LNSynthError as error:
        return str(error).removeprefix(str(sample)).lstrip("/\\")
    missing = ", ".join(name for name in PAIR if not (sample / name).is_file())
    return f"{missing} missing" if missing else ""
