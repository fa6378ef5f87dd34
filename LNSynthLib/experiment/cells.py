"""The cells of an experiment: each piece of work, what it is made from, and the hash that says whether it is done.

    data ─┬─> generator ─┬─> pairs ─┬─> memorisation
          │              │          ├─> filter ─┐        (of the pairs, by the segmenter trained on real cases)
          │              │          └─> segmenter ─> predictions ─> scores
          │              └─> twins ──> images
          └─> segmenter (real)

A cell's key hashes its kind, its settings and the keys of its inputs, so that a changed setting changes the keys of
just the cells that it touches. Rows of different tables that ask for the same thing share the cell.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

from ..masks.labels import LabelTable
from ..runtime.seeds import derive
from ..runtime.settings import build
from ..segmentation.settings import FREE as TRAINER_FREE
from ..segmentation.settings import load_trainer
from ..training.settings import FREE, Preset, load_preset, make_generator
from .data import known, preparations
from .plan import Plan, Row

FORMATS = {"generator": 2}  # by kind of cell, else 1: raise it when the same settings give other results
REAL = Row("real", "real")


@dataclass(frozen=True, eq=False)
class Cell:
    """One piece of work.

    kind      what is done, a key of `work.WORK`
    name      for people, and in its folder's name
    settings  JSON-able; with the inputs, all that the result depends on
    inputs    the cells whose results it needs, by role
    amount    how many samples a case are needed; a cell done with more serves too, and fewer are added to
    manner    how it is made (how often it is saved, processes that load data), which the result does not depend on
    """

    kind: str
    name: str
    settings: dict
    inputs: dict[str, Cell] = field(default_factory=dict)
    amount: int = 0
    manner: dict = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        content = {"format": FORMATS.get(self.kind, 1), "kind": self.kind, "settings": self.settings,
                   "inputs": {role: cell.key for role, cell in self.inputs.items()}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def folder(self, out: Path) -> Path:
        return Path(out) / "cells" / self.kind / f"{self.name}-{self.key[:12]}"


@dataclass(frozen=True, eq=False)
class Outcome:
    """The cells that one row of a table is read from, one of each kind a seed."""

    row: Row
    segmenters: list[Cell]
    predictions: list[Cell]
    scores: list[Cell]
    pairs: list[Cell]        # none for strategy real
    images: list[Cell]


@dataclass(frozen=True, eq=False)
class Layout:
    """All of an experiment: its cells in an order in which they can be run, and what each table is read from."""

    cells: list[Cell]
    tables: dict[str, list[Outcome]]
    generators: dict[str, list[Cell]]     # by method, one a seed: trained as the plan says, without a row's changes
    twins: dict[str, list[Cell]]
    images: dict[str, list[Cell]]
    memorisation: dict[str, list[Cell]]
    filters: dict[str, list[Cell]]
    data: list[Cell]


def layout(plan: Plan, root: Path) -> Layout:
    """The cells of a plan. root: the folder below which its data lie. Raises LNSynthError where data are missing."""
    return layout_of(plan, known(plan, root))


def layout_of(plan: Plan, files: dict) -> Layout:
    """The cells of a plan whose files are what `data.known` told of them; looks at none."""
    return _Builder(plan, files).build()


class _Builder:
    def __init__(self, plan: Plan, files: dict):
        self.plan, self.features, self.cells = plan, files["features"], {}
        self.presets = cache(lambda method, changes, seed: _within_budget(plan, method, changes, seed))
        prepare = asdict(plan.prepare)
        self.data = {f"data{i}": self._cell("data", source["name"], {**source, "prepare": prepare})
                     for i, source in enumerate(files["data"])}

    def build(self) -> Layout:
        plan = self.plan
        methods = [m for m in plan.methods if any(m == r.method for t in plan.tables.values() for r in t.rows)]
        own = {m: Row(m, "synthetic", m) for m in methods}

        def each(make, names=methods) -> dict[str, list[Cell]]:
            return {m: [make(own[m], seed) for seed in plan.seeds] for m in names}

        # Long work first, so that several processes end together.
        generators = each(self._generator)
        for seed in plan.seeds:
            self._segmenter(REAL, seed)
        twins, images = each(self._twins), each(self._images)
        tables = {name: [self._outcome(row) for row in table.rows] for name, table in plan.tables.items()}
        memorisation = each(self._memorisation) if plan.images.memorisation else {}
        filters = each(self._filter, [m for m in methods if m in plan.filter_methods])
        return Layout(_in_order(self.cells.values()), tables, generators, twins, images, memorisation, filters,
                      list(self.data.values()))

    def _cell(self, kind: str, name: str, settings: dict, inputs: dict | None = None, amount: int = 0,
              manner: dict | None = None) -> Cell:
        """The one cell of this content; asked for again with a larger amount, it grows."""
        cell = Cell(kind, name, json.loads(json.dumps(settings)), inputs or {}, amount, manner or {})
        known = self.cells.setdefault(cell.key, cell)
        if known.amount < amount:
            object.__setattr__(known, "amount", amount)
        return known

    def _outcome(self, row: Row) -> Outcome:
        seeds = self.plan.seeds
        synthetic = row.method is not None
        return Outcome(row, [self._segmenter(row, s) for s in seeds], [self._predictions(row, s) for s in seeds],
                       [self._scores(row, s) for s in seeds],
                       [self._pairs(row, s) for s in seeds] if synthetic else [],
                       [self._images(row, s) for s in seeds] if synthetic else [])

    def _generator(self, row: Row, seed: int) -> Cell:
        plain = self.presets(row.method, row.set, seed).plain()
        training, manner = _parted(plain["training"], set(FREE) - {"steps", "micro_batch", "precision"})
        return self._cell("generator", _name(row, seed), {"generator": plain["generator"], "training": training},
                          self.data, manner=manner)

    def _sampling(self, row: Row, seed: int, vary: bool) -> dict:
        method = self.plan.methods[row.method]
        return {"sampler": method.sampler, "steps": method.steps, "seed": seed,
                "vary": self.plan.vary.record() if vary else None}

    def _pairs(self, row: Row, seed: int) -> Cell:
        name = _name(row, seed) + ("" if row.vary else "-unvaried")
        return self._cell("pairs", name, self._sampling(row, seed, row.vary),
                          {"generator": self._generator(row, seed), **self.data}, row.multiple or self.plan.multiple)

    def _twins(self, row: Row, seed: int) -> Cell:
        images = self.plan.images  # every one is measured, so their number is part of what the cell is
        settings = {**self._sampling(row, seed, vary=False), "split": images.split, "per_case": images.per_case}
        return self._cell("twins", _name(row, seed), settings,
                          {"generator": self._generator(row, seed), **self.data}, images.per_case)

    def _segmenter(self, row: Row, seed: int) -> Cell:
        trainer, manner = _parted(asdict(load_trainer(self.plan.trainer, self.plan.trainer_set)), TRAINER_FREE)
        settings = {"strategy": row.strategy, "filtered": row.filtered, "seed": seed, "trainer": trainer}
        inputs = dict(self.data)
        if row.method is not None:
            settings["multiple"] = row.multiple or self.plan.multiple
            inputs["pairs"] = self._pairs(row, seed)
        if row.filtered:
            inputs["filter"] = self._filter(row, seed)
        return self._cell("segmenter", _segmenter_name(self.plan, row, seed), settings, inputs, manner=manner)

    def _predictions(self, row: Row, seed: int) -> Cell:
        return self._cell("predictions", _segmenter_name(self.plan, row, seed), {"split": "test"},
                          {"segmenter": self._segmenter(row, seed), **self.data})

    def _scores(self, row: Row, seed: int) -> Cell:
        return self._cell("scores", _segmenter_name(self.plan, row, seed), {"score": asdict(self.plan.score)},
                          {"predictions": self._predictions(row, seed), **self.data})

    def _filter(self, row: Row, seed: int) -> Cell:
        pairs = self._pairs(row, seed)
        return self._cell("filter", pairs.name, {"threshold": self.plan.filter_threshold},
                          {"pairs": pairs, "segmenter": self._segmenter(REAL, seed)}, pairs.amount)

    def _images(self, row: Row, seed: int) -> Cell:
        twins = self._twins(row, seed)
        return self._cell("images", _name(row, seed), {**self._measures(), "score": asdict(self.plan.score)},
                          {"twins": twins, "segmenter": self._segmenter(REAL, seed), **self.data}, twins.amount)

    def _memorisation(self, row: Row, seed: int) -> Cell:
        pairs = self._pairs(row, seed)
        return self._cell("memorisation", pairs.name, self._measures(), {"pairs": pairs, **self.data}, pairs.amount)

    def _measures(self) -> dict:
        return {"measures": asdict(self.plan.images.measures), "features": self.features}


def _within_budget(plan: Plan, method: str, changes: tuple[str, ...], seed: int) -> Preset:
    """The preset of a method with a row's changes, and with as many steps as the plan's budget, if any, buys it."""
    method = plan.methods[method]
    form = {"spacing_mm": plan.prepare.spacing_mm, "window": list(plan.prepare.window), "labels": plan.prepare.labels,
            "anatomy_channels": LabelTable.load(plan.prepare.labels).channels}
    ours = [f"generator.form.{name}={value}" for name, value in form.items()]
    ours += [f"training.seed={derive(seed, 'generator')}", f"training.prepared={preparations(plan.prepare)[0].name}"]
    preset = load_preset(method.preset, [*method.set, *changes, *ours], method.kind)
    steps = plan.budget.steps or preset.training.steps
    if plan.budget.tflop:
        from ..training.cost import training_flops

        cost = training_flops(make_generator(preset), preset.training) / preset.training.steps
        steps = max(1, round(plan.budget.tflop * 1e12 / cost))
    return replace(preset, training=replace(preset.training, steps=steps))


def _parted(settings: dict, free) -> tuple[dict, dict]:
    """Settings that decide a result, and those that are free."""
    return ({name: value for name, value in settings.items() if name not in free},
            {name: value for name, value in settings.items() if name in free})


def _name(row: Row, seed: int) -> str:
    return f"{row.method}{'-changed' if row.set else ''}-seed{seed}"


def _segmenter_name(plan: Plan, row: Row, seed: int) -> str:
    if row.method is None:
        return f"real-seed{seed}"
    return f"{row.strategy}-{row.multiple or plan.multiple}x-{_name(row, seed)}"


def _in_order(cells) -> list[Cell]:
    """Each cell after its inputs, otherwise in the order given."""
    ordered = {}

    def take(cell: Cell) -> None:
        if cell.key not in ordered:
            for needed in cell.inputs.values():
                take(needed)
            ordered[cell.key] = cell

    for cell in cells:
        take(cell)
    return list(ordered.values())


def preset_of(cell: Cell) -> Preset:
    """What a generator's cell trains."""
    training = {**cell.settings["training"], **cell.manner, "max_minutes": 0.0}  # a cell is whole or not done
    return build(Preset, {"generator": cell.settings["generator"], "training": training}, cell.name)
