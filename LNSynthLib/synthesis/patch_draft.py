"""The draft of a patch: a piece of a prepared case with its anatomy, and its nodes changed at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..cases.dataset import Dataset
from ..cases.prepared import PreparedCase
from ..conditions.encode import encode
from ..conditions.form import DataForm
from ..conditions.transforms import VarySettings, vary
from ..images.boxes import Box, box_at
from ..masks.labels import LabelTable
from ..runtime.content import NUMBER, check
from ..runtime.errors import LNSynthError
from ..runtime.files import read_json
from ..runtime.seeds import rng
from ..training.data import collect, expected, random_start

PREPARED = {"settings": {"spacing_mm": NUMBER, "labels": str, "window": [NUMBER] * 2}}  # of prepare.json
BEYOND_MM = 32.0  # of the case around a patch that node transforms see, so that a node at its border stays whole


@dataclass(frozen=True, eq=False)
class Draft:
    """start: first voxel of the patch in the case; anatomy, nodes: (X, Y, Z) of the patch; records: of `vary`."""

    case: PreparedCase
    form: DataForm
    start: tuple[int, int, int]
    anatomy: np.ndarray
    nodes: np.ndarray
    records: list[dict]

    @property
    def box(self) -> Box:
        return box_at(self.start, self.anatomy.shape)

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel of the patch to RAS+ mm."""
        affine = self.case.affine.copy()
        affine[:3, 3] = (affine @ [*self.start, 1.0])[:3]
        return affine

    def condition(self) -> torch.Tensor:
        """(1, form.condition_channels, X, Y, Z)."""
        return encode(self.anatomy, self.nodes, self.form.anatomy_channels, expected(self.case, self.form))[None]

    def with_nodes(self, nodes: np.ndarray, records: list[dict]) -> Draft:
        return replace(self, nodes=nodes, records=records)


def draft(case: PreparedCase, form: DataForm, seed: int, settings: VarySettings | None) -> Draft:
    """A random patch around one of the case's nodes, its nodes varied; None leaves them as they are."""
    random = rng(seed, "draft")
    start = random_start(case, form.patch, random, at_node=True)
    beyond = round(BEYOND_MM / form.spacing_mm)
    wide = box_at([s - beyond for s in start], [n + 2 * beyond for n in form.patch])
    patch = box_at([beyond] * 3, form.patch)
    anatomy, nodes = case.anatomy(wide), case.nodes(wide)
    records: list[dict] = []
    nodes = np.where(np.isin(nodes, np.unique(nodes[patch])), nodes, 0).astype(nodes.dtype)
    if settings is not None:
        nodes, records = vary(nodes, anatomy, case.spacing, random, settings, LabelTable.load(form.labels))
    i, j, k = start
    return Draft(case, form, (i, j, k), np.ascontiguousarray(anatomy[patch]), np.ascontiguousarray(nodes[patch]),
                 records)


def prepared_cases(folders: list[Path], form: DataForm, split: str | None,
                   prepared: str | None = None) -> list[PreparedCase]:
    """The prepared cases with nodes that a generator of this form can take, of one split or all (None).

    Of each data set, the preparation whose spacing, window and labels are the generator's, or that named `prepared`.
    LNSynthError without one, and where several fit and none is named.
    """
    cases = []
    for folder in map(Path, folders):
        Dataset.open(folder)  # refuses what is not a data set
        found = sorted(folder.glob("prepared/*/prepare.json"))
        settings = {path.parent.name: check(read_json(path), PREPARED, path)["settings"] for path in found}
        fitting = [name for name in settings if _fits(settings[name], form)]
        if not fitting:
            raise LNSynthError(
                f"{folder}: it has not been prepared for this generator; run `lnsynth prepare {folder} --spacing "
                f"{form.spacing_mm:g} --labels {form.labels} --window {form.window[0]:g} {form.window[1]:g} "
                f"--name {form.labels}-{form.spacing_mm:g}mm`.")
        if prepared is None and len(fitting) > 1:
            raise LNSynthError(f"{folder}: several of its preparations fit this generator ({', '.join(fitting)}); "
                               "choose one with --prepared.")
        if prepared not in (None, *fitting):
            raise LNSynthError(f"{folder}: it has no preparation {prepared} that fits this generator; "
                               f"choose --prepared {' or '.join(fitting)}.")
        cases += collect([folder], prepared or fitting[0], form, split)
    with_nodes = [case for case in cases if case.info["nodes"]]
    if not with_nodes:
        of = f" of split {split}" if split else ""
        raise LNSynthError(f"{', '.join(map(str, folders))}: there is no prepared case{of} with lymph nodes; "
                           "add nodes or choose another --split.")
    ids = [case.id for case in with_nodes]
    if twice := {i for i in ids if ids.count(i) > 1}:
        raise LNSynthError(f"The case {min(twice)} is in two of the data sets; rename it in one of them.")
    return with_nodes


def _fits(settings: dict, form: DataForm) -> bool:
    return (abs(settings["spacing_mm"] - form.spacing_mm) < 1e-3
            and _same_table(settings["labels"], form.labels)
            and tuple(settings["window"]) == tuple(form.window))


def _same_table(prepared: str, ours: str) -> bool:
    table = LabelTable.load(ours)
    try:
        return prepared in (ours, table.name) or LabelTable.load(prepared) == table
    except (LNSynthError, OSError):  # a file that is no longer there
        return False
