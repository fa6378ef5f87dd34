"""What an experiment is to compare: a YAML plan with data, methods, the rows of each table, seeds and a budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..cases.dataset import SPLITS
from ..conditions.transforms import VarySettings
from ..evaluation.generation import ImageSettings
from ..evaluation.segmentation import ScoreSettings
from ..images.volume import stem
from ..runtime.errors import LNSynthError
from ..runtime.names import check_name
from ..runtime.settings import build, load_yaml, override, preset_path

Strategy = Literal["real", "synthetic", "both"]


@dataclass(frozen=True)
class Painted:
    """Copies of a CT without annotated nodes into which nodes are painted; files lie below the data root."""

    ct: str
    anatomy: str
    variants: int
    split: Literal["train", "val", "test"] = "train"


@dataclass(frozen=True)
class DataSource:
    """One data set of the experiment: a folder that exists (`dataset`), or one that is made for it."""

    name: str
    dataset: str | None = None         # folder of a data set, below the data root unless absolute
    phantoms: dict[str, int] = field(default_factory=dict)  # or a data set of phantoms: cases of each split
    spacing_mm: float = 2.0            # of the phantoms
    nodes: int | None = None           # of each phantom; None: as many as patients have
    painted: tuple[Painted, ...] = ()  # or a data set of CTs with painted nodes
    seed: int = 0
    optional: bool = False             # left out, and the report says so, where its files are not there

    def __post_init__(self):
        check_name(self.name, "plan", "the name of data")
        if sum(map(bool, (self.dataset, self.phantoms, self.painted))) != 1 or not set(self.phantoms) <= set(SPLITS):
            raise LNSynthError(f"plan: data {self.name!r} needs one of dataset, painted, and phantoms (cases of "
                               f"{', '.join(SPLITS)}); correct the plan.")
        stems = [stem(Path(painted.ct)) for painted in self.painted]  # which name cases and patients
        if len(set(stems)) < len(stems):
            raise LNSynthError(f"plan: the CTs painted in {self.name!r} need names that differ; rename one.")


@dataclass(frozen=True)
class Method:
    """A generator: a preset of a kind, with settings of its own."""

    kind: str
    preset: str = "paper"
    set: tuple[str, ...] = ()          # KEY=VALUE, as for `lnsynth train --set`
    sampler: str = "dpmpp"
    steps: int = 25                    # of the sampler


@dataclass(frozen=True)
class Row:
    """One row of a table: a segmenter, and what it is trained on."""

    label: str
    strategy: Strategy = "synthetic"
    method: str | None = None          # of the synthetic pairs
    set: tuple[str, ...] = ()          # changes of the method's settings (an ablation)
    multiple: int | None = None        # synthetic pairs a real one; None: the plan's
    vary: bool = True                  # whether nodes are transformed before sampling
    filtered: bool = False             # only pairs in which the segmenter trained on real cases finds the nodes
    published: dict[str, float] = field(default_factory=dict)  # the paper's figures, to be shown beside

    def __post_init__(self):
        if (self.strategy == "real") != (self.method is None):
            raise LNSynthError(f"plan: row {self.label!r} needs a method for synthetic pairs, and none for strategy "
                               "real; correct the plan.")


@dataclass(frozen=True)
class Table:
    title: str
    rows: tuple[Row, ...]
    measure: Literal["segmentation", "images"] = "segmentation"  # what its columns are
    reference: str | None = None       # label of the row that the others are compared with


@dataclass(frozen=True)
class Budget:
    """What each generator may spend, the same for all: optimiser steps or FLOPs; neither: what its preset says."""

    steps: int = 0
    tflop: float = 0.0

    def __post_init__(self):
        if self.steps > 0 and self.tflop > 0 or min(self.steps, self.tflop) < 0:
            raise LNSynthError("plan: budget is steps or tflop, one of them; correct the plan.")


@dataclass(frozen=True)
class Preparation:
    """How cases are prepared; the defaults are the paper's, but for which labels there are."""

    spacing_mm: float = 1.0
    margin_mm: float = 100.0           # around the nodes, for training
    test_margin_mm: float = 50.0       # around the nodes, for testing segmenters
    window: tuple[float, float] = (-120.0, 240.0)
    labels: str = "abdomen14"


@dataclass(frozen=True)
class Images:
    """How images are judged: samples of test patches whose nodes are left as they are."""

    per_case: int = 1
    split: Literal["val", "test"] = "test"
    features: str | None = None        # weights of MedicalNet, below the data root; None: no feature distance is given
    memorisation: bool = True          # whether the training pairs of each method are looked through for copies
    measures: ImageSettings = field(default_factory=ImageSettings)


@dataclass(frozen=True)
class Plan:
    about: str
    data: tuple[DataSource, ...]
    methods: dict[str, Method]
    tables: dict[str, Table]
    budget: Budget = field(default_factory=Budget)
    prepare: Preparation = field(default_factory=Preparation)
    multiple: int = 10                 # synthetic pairs a real training case
    vary: VarySettings = field(default_factory=VarySettings)
    trainer: str = "paper"             # preset of the segmenter, in Resources/segmenters
    trainer_set: tuple[str, ...] = ()
    filter_threshold: float = 0.7
    filter_methods: tuple[str, ...] = ()  # methods whose pairs are filtered for the report, whether or not a row asks
    images: Images = field(default_factory=Images)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    seeds: tuple[int, ...] = (0,)      # the whole experiment once for each
    threads: int = 1                   # CPU threads of a cell; another number, other last bits
    examples: int = 4                  # test patches shown in the figures

    def __post_init__(self):
        if odd := [name for name in self.methods if not name.isidentifier()]:
            raise LNSynthError(f"plan: {odd[0]!r} cannot name a method; use letters, digits and underscores.")
        for name in self.tables:  # of which the report makes files
            check_name(name, "plan", "the table")
        changes = [*(m.set for m in self.methods.values()), *(r.set for t in self.tables.values() for r in t.rows)]
        if self.budget != Budget() and any("training.steps=" in change for those in changes for change in those):
            raise LNSynthError("plan: its budget gives the steps of every generator; leave training.steps out of set.")
        rows = [(name, row) for name, table in self.tables.items() for row in table.rows]
        for name, row in rows:
            if row.method is not None and row.method not in self.methods:
                raise LNSynthError(f"plan: row {row.label!r} of {name} names the method {row.method!r}; known are "
                                   f"{', '.join(self.methods)}.")
        for name, table in self.tables.items():
            labels = [row.label for row in table.rows]
            if len(set(labels)) < len(labels) or table.reference not in (None, *labels):
                raise LNSynthError(f"plan: the labels of {name} must differ, and its reference be one of them.")
        names = [source.name for source in self.data]
        if len(set(names)) < len(names):
            raise LNSynthError("plan: the names of the data must differ; correct the plan.")
        if not self.data or not rows or not self.seeds:
            raise LNSynthError("plan: an experiment needs data, tables with rows, and seeds; correct the plan.")


def load_plan(name: str | Path, assignments: list[str] = ()) -> Plan:
    """The plan of that name in Resources/experiments, or in that YAML file, with "a.b=value" assignments applied.

    Raises LNSynthError for an unknown plan, key or type, and for rows that name what is not there.
    """
    path = preset_path("experiments", name)
    return build(Plan, override(load_yaml(path), list(assignments)), str(path))
