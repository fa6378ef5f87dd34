"""The anatomy label table: which tissue each channel of a condition means, and where it comes from.

A table is a YAML file (Resources/labels). Its ids are dense, so that a label id is also the channel index of the
one-hot anatomy. A label comes from one of three sources: TotalSegmentator structures, a range of HU inside the body
(`threshold`), or the body mask itself (air, body).
"""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PureWindowsPath

import numpy as np

from ..runtime.errors import LNSynthError
from ..runtime.names import problem
from ..runtime.settings import load_yaml, resources

AIR, BODY = 0, 1            # ids that every table starts with
LAST_ID = {1: 104, 2: 117}  # the highest id of TotalSegmentator's task `total`, by its major version


@dataclass(frozen=True)
class Label:
    """One tissue of the table."""

    id: int                                        # label value and channel index
    name: str                                      # TotalSegmentator's v2 name where it is one structure of it
    hu: float                                      # typical mean in the portal venous phase, HU
    color: tuple[int, int, int]                    # RGB, 0..255
    totalsegmentator_v2: tuple[int, ...] = ()      # ids in TotalSegmentator v2 `total`
    totalsegmentator_v1: tuple[int, ...] = ()      # ids in TotalSegmentator v1 `total`
    rois: tuple[str, ...] = ()                     # the same structures by TotalSegmentator's v2 names
    threshold: tuple[float, float] | None = None   # [lo, hi) in HU on a slightly smoothed CT, inside the body
    over_organs: bool = False                      # the threshold also applies to voxels that an organ label covers
    holds_nodes: bool = False                      # a lymph node may lie here


@dataclass(frozen=True)
class LabelTable:
    """Labels 0..C-1, in order. `LabelTable.load("abdomen14")` has as many as the paper's, which it does not name."""

    name: str
    labels: tuple[Label, ...] = field(repr=False)

    @classmethod
    def load(cls, name_or_path: str | Path) -> LabelTable:
        """Read a table: a name in Resources/labels, or the path of a YAML file.

        Raises LNSynthError for an unknown name, an ill-formed file, or ids that are not 0..C-1 in order.
        """
        path = table_path(name_or_path)
        content = load_yaml(path)
        try:
            labels = tuple(_label(entry) for entry in content["labels"])
            name = str(content["name"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LNSynthError(f"{path}: not a label table ({error!r}): compare it with Resources/labels/abdomen14.yaml"
                               ) from error
        if [label.id for label in labels] != list(range(len(labels))):
            raise LNSynthError(f"{path}: label ids must be 0, 1, 2, … in order: they are also channel indices")
        if [label.name for label in labels[:2]] != ["air", "body"]:
            raise LNSynthError(f"{path}: the first two labels must be named air and body: the body mask fills them")
        for names in ([label.name for label in labels], [roi for label in labels for roi in label.rois]):
            twice = {n for n in names if names.count(n) > 1}
            if twice:
                raise LNSynthError(f"{path}: {', '.join(sorted(twice))} appears twice: each must be in one label only")
        return cls(name, labels)

    @property
    def names(self) -> list[str]:
        return [label.name for label in self.labels]

    @property
    def channels(self) -> int:
        """Number of labels, C."""
        return len(self.labels)

    def index(self, name: str) -> int:
        """The id of the label called `name`; LNSynthError if there is none."""
        for label in self.labels:
            if label.name == name:
                return label.id
        raise LNSynthError(f"label table {self.name} has no label {name}: it has {', '.join(self.names)}")

    @cached_property
    def organs(self) -> tuple[int, ...]:
        """Ids that come from TotalSegmentator: the organs and vessels that a node never overlaps."""
        return tuple(label.id for label in self.labels if label.totalsegmentator_v2)

    @cached_property
    def node_space(self) -> tuple[int, ...]:
        """Ids of the tissues that a node may lie in (body, and fat where the table has it)."""
        return tuple(label.id for label in self.labels if label.holds_nodes)

    @cached_property
    def thresholds(self) -> tuple[Label, ...]:
        """Labels that are defined by a range of HU inside the body."""
        return tuple(label for label in self.labels if label.threshold is not None)

    def is_organ(self, labels: np.ndarray) -> np.ndarray:
        """Boolean array, True where `labels` (ids of this table) holds an organ or vessel."""
        return self._among(self.organs)[labels]

    def free(self, labels: np.ndarray) -> np.ndarray:
        """Boolean array, True where `labels` (ids of this table) leaves room for a node."""
        return self._among(self.node_space)[labels]

    @staticmethod
    def _among(ids) -> np.ndarray:
        lookup = np.zeros(256, bool)
        lookup[list(ids)] = True
        return lookup

    def totalsegmentator_rois(self) -> list[str]:
        """The TotalSegmentator v2 structures the table needs, by name, in table order: its `roi_subset`."""
        return [roi for label in self.labels for roi in label.rois]

    def from_totalsegmentator(self, array: np.ndarray, version: int = 2) -> np.ndarray:
        """Map TotalSegmentator `total` ids (of major version 1 or 2) to this table's ids.

        array: whole numbers, any shape. Returns uint8 of the same shape, 0 where the table has no such structure.
        Raises LNSynthError when a value cannot be an id of that version.
        """
        if version not in LAST_ID:
            raise LNSynthError(f"TotalSegmentator version {version} is unknown: say 1 or 2")
        ids = np.asarray(array)
        low, high = (ids.min(), ids.max()) if ids.size else (0, 0)
        if not np.isfinite(low + high) or low < 0 or high > LAST_ID[version]:
            raise LNSynthError(f"anatomy labels run from {low} to {high}, but TotalSegmentator v{version} ids are 0 to "
                               f"{LAST_ID[version]}: check the file and the version you named")
        if ids.dtype.kind == "f":
            whole = ids.astype(np.uint8)
            if not np.array_equal(whole, ids):
                raise LNSynthError("anatomy labels are not whole numbers: they were resampled with interpolation; "
                                   "use nearest neighbour")
            ids = whole
        lookup = np.zeros(256, np.uint8)
        for label in self.labels:
            lookup[list(label.totalsegmentator_v2 if version == 2 else label.totalsegmentator_v1)] = label.id
        return lookup[ids]

    def to_totalsegmentator(self, labels: np.ndarray) -> np.ndarray:
        """Map this table's ids to TotalSegmentator v2 ids (uint8; the first id where a label joins several)."""
        lookup = np.zeros(256, np.uint8)
        for label in self.labels:
            lookup[label.id] = label.totalsegmentator_v2[0] if label.totalsegmentator_v2 else 0
        return lookup[labels]


def table_path(name_or_path: str | Path) -> Path:
    """The file of a label table: a name in Resources/labels, or a path. Raises LNSynthError for an unknown name."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    path = resources() / "labels" / f"{name_or_path}.yaml"
    if problem(str(name_or_path)) or not path.is_file():
        known = ", ".join(sorted(p.stem for p in (resources() / "labels").glob("*.yaml")))
        raise LNSynthError(f"there is no label table named {name_or_path}: choose one of {known}, "
                           "or give the path of a .yaml file")
    return path


def told(name_or_path: str) -> str:
    """A label table as records may call it that are given away: a name in Resources, or a file's without its folder."""
    return PureWindowsPath(name_or_path).name


def table_named(name: object, where: object) -> str:
    """The label table that a file names, itself: a name in Resources/labels, or the path of a YAML file that a person
    gave when the file was made. Raises LNSynthError, naming `where` it stands, for what is neither, and for a path on
    another machine."""
    if not isinstance(name, str) or not name or "\0" in name or name.startswith(("//", "\\\\")):
        raise LNSynthError(f"{where}: {name!r} is not a label table; correct it, or restore the file from a copy.")
    table_path(name)
    return name


def _label(entry: dict) -> Label:
    """One entry of the YAML list; its `totalsegmentator` maps a v2 name to the ids {v2: …, v1: …}."""
    entry = dict(entry)
    structures = entry.pop("totalsegmentator", {})
    v1 = tuple(int(ids["v1"]) for ids in structures.values() if "v1" in ids)
    threshold = entry.pop("threshold", None)
    if threshold is not None:
        threshold = (float(threshold[0]), float(threshold[1]))
    color = tuple(int(c) for c in entry.pop("color"))
    if len(color) != 3 or not all(0 <= c <= 255 for c in color):
        raise ValueError(f"color of {entry['name']} is not three numbers 0..255")
    return Label(id=int(entry.pop("id")), name=str(entry.pop("name")), hu=float(entry.pop("hu")), color=color,
                 totalsegmentator_v2=tuple(int(ids["v2"]) for ids in structures.values()), totalsegmentator_v1=v1,
                 rois=tuple(structures), threshold=threshold, **entry)
