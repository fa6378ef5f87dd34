"""What segments are called, in words, colours and SNOMED CT codes: lymph nodes, and TotalSegmentator's structures."""

from __future__ import annotations

import csv
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LAST_ID = 117                # the highest id of TotalSegmentator v2's task `total`
NODE_COLOR = (68, 172, 100)  # Slicer's for a lymph node, RGB 0..255
GENERAL = "Segmentation category and type - 3D Slicer General Anatomy list"
MASTER = "Segmentation category and type - DICOM master list"
REGIONS = "Anatomic codes - DICOM master list"
TISSUE = ("SCT", "85756007", "Tissue")
ANATOMY = ("SCT", "123037004", "Anatomical Structure")
NOTHING = ("", "", "")


@dataclass(frozen=True)
class Structure:
    """One structure of TotalSegmentator's task `total`; a code is (scheme, value, meaning), empty where it has none."""

    id: int                                        # TotalSegmentator v2 id
    name: str                                      # TotalSegmentator's name
    color: tuple[int, int, int]                    # RGB, 0..255
    category: tuple[str, str, str] = ANATOMY
    type: tuple[str, str, str] = NOTHING
    modifier: tuple[str, str, str] = NOTHING       # left, right
    region: tuple[str, str, str] = NOTHING         # where a finding lies: a cyst of the kidney
    region_modifier: tuple[str, str, str] = NOTHING
    conditions: bool = False                       # generators are told of it (label tables abdomen14 and abdomen17)

    @property
    def codes(self) -> tuple:
        """What tells this structure from the others, in any terminology context."""
        return self.type[1], self.modifier[1], self.region[1], self.region_modifier[1]

    @property
    def entry(self) -> str:
        """Slicer's terminology entry, as a segment keeps it."""
        return _entry(MASTER, self.category, self.type, self.modifier, self.region, self.region_modifier)


def node_terminology() -> str:
    """Slicer's terminology entry of a lymph node."""
    return _entry(GENERAL, TISSUE, ("SCT", "59441001", "Lymph node"))


@cache
def wanted() -> tuple[int, ...]:
    """Ids of the structures that generators are told of."""
    return tuple(id for id, structure in _own().items() if structure.conditions)


@cache
def structures() -> dict[int, Structure]:
    """All that is known by name, by id: the structures of our label tables, and the rest where TotalSegmentator is
    installed."""
    return _from_totalsegmentator() | _own()


def structure(id: int) -> Structure:
    """The structure with this id; one that has a number for a name where it is not known."""
    found = structures().get(id)
    return found or Structure(id, f"structure_{id}", _some_color(id), type=ANATOMY)


def id_of(names: tuple[str, ...], entry: str) -> int | None:
    """The id of a segment by its names (TotalSegmentator's own, with _ or blanks), else by its terminology entry."""
    for name in names:
        key = re.sub(r"[\s_]+", "_", (name or "").strip().lower())
        if key in _by_name():
            return _by_name()[key]
    return _by_codes().get(_codes(entry))


@cache
def _by_name() -> dict[str, int]:
    numbered = {f"structure_{id}": id for id in range(1, LAST_ID + 1)}
    return numbered | {s.name.lower(): s.id for s in structures().values()}


@cache
def _by_codes() -> dict[tuple, int]:
    return {s.codes: s.id for s in structures().values() if s.type[1] and s.type != ANATOMY}


def _codes(entry: str) -> tuple | None:
    """(type, modifier, region, region modifier) code values of a terminology entry, None where it is none."""
    fields = [field.split("^") for field in (entry or "").rstrip("|").split("~")]
    if len(fields) < 4 or any(len(field) < 2 for field in fields[1:4]):
        return None
    fields += [["", ""]] * (7 - len(fields))
    return tuple(field[1] if len(field) > 1 else "" for field in (fields[2], fields[3], fields[5], fields[6]))


def _entry(context: str, category, type, modifier=NOTHING, region=NOTHING, region_modifier=NOTHING) -> str:
    codes = ["^".join(code) for code in (category, type, modifier, region, region_modifier)]
    return "~".join([context, *codes[:3], REGIONS, *codes[3:]])


@cache
def _own() -> dict[int, Structure]:
    """Resources/labels/terminology.csv."""
    from LNSynthLib.runtime.settings import resources

    known = {}
    with open(resources() / "labels" / "terminology.csv", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            side = ("SCT", row["modifier_code"], row["modifier_meaning"]) if row["modifier_code"] else NOTHING
            known[int(row["id"])] = Structure(
                int(row["id"]), row["name"], tuple(int(row[c]) for c in ("red", "green", "blue")),
                type=("SCT", row["code"], row["meaning"]), modifier=side, conditions=row["conditions"] == "yes")
    return known


def _from_totalsegmentator() -> dict[int, Structure]:
    """TotalSegmentator's own class list and code table, where it is installed (importing its list pulls nothing)."""
    try:
        found = importlib.util.find_spec("totalsegmentator")
        if found is None:
            return {}
        from totalsegmentator.map_to_binary import class_map

        names = {int(id): name for id, name in class_map["total"].items()}
        table = Path(found.submodule_search_locations[0]) / "resources" / "totalsegmentator_snomed_mapping.csv"
        with open(table, encoding="utf-8", newline="") as stream:
            rows = {row["Structure"]: row for row in csv.DictReader(stream)}
        return {id: _from_row(id, name, rows[name]) if name in rows else Structure(id, name, _some_color(id))
                for id, name in names.items()}
    except (ImportError, OSError, LookupError, ValueError):  # a version with other files: our own table is enough
        return {}


def _from_row(id: int, name: str, row: dict) -> Structure:
    def code(field: str) -> tuple[str, str, str]:
        return tuple(row[f"{field}CodeSequence.{part}" if f"{field}CodeSequence.{part}" in row
                         else f"{field}Sequence.{part}"] for part in ("CodingSchemeDesignator", "CodeValue",
                                                                     "CodeMeaning"))

    color = tuple(int(c) for c in row["DicomRGBColor"].split(",")) if row["DicomRGBColor"] else _some_color(id)
    return Structure(id, name, color, *(code(field) for field in (
        "SegmentedPropertyCategory", "SegmentedPropertyType", "SegmentedPropertyTypeModifier", "AnatomicRegion",
        "AnatomicRegionModifier")))


def _some_color(id: int) -> tuple[int, int, int]:
    """A colour of its own for each id."""
    return 90 + id * 67 % 150, 90 + id * 101 % 150, 90 + id * 139 % 150
