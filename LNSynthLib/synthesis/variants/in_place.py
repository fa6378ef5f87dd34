"""Variants in place: full CTs in which nodes were removed, made or left as they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ...conditions.placement import kept_clear
from ...conditions.transforms import vary
from ...images.boxes import common, extent, grow, out_of, within
from ...images.canvas import Canvas
from ...images.pictures import write_png
from ...images.synthetic import remember_mask
from ...images.volume import Volume, canonical_view, crop, write
from ...masks.labels import LabelTable
from ...masks.nodes import boxes, instances, records
from ...review.provenance import Sampled, description, provenance
from ...runtime.errors import LNSynthError
from ...runtime.events import Event
from ...runtime.files import atomic_folder
from ...runtime.reproducible import exact
from ...runtime.seeds import derive, rng
from ...runtime.temporary import scratch
from ..body_survey import patch_labels
from ..insert import insert, region_margin
from ..patches import Grid
from ..scene import Nodes, look
from ..write_sample import compare, seal
from .difference import Difference, Wanted, difference

VARY_MM = 24.0      # around all nodes: room for what is varied
VARY_TABLE = "abdomen17"  # knows fat, bone and gas, whatever the generator's table knows
SHOWN_MM = 64.0     # around the changed nodes in the montage


def in_place(run, todo: list, shares) -> Iterator:
    """Makes the variants one after the other, each yielded with "" when its folder is there, or with the reason why
    there is nothing to make. See `variants.variants`."""
    with exact(), scratch() as folder:
        made = _InPlace(run, folder)
        for done, variant in enumerate(todo):
            reason = made.make(variant, lambda share, done=done: shares.at(done + share))
            shares.at(done + 1, f"{variant.folder.name} done" if not reason else
                      f"variant {variant.number + 1} left out: {reason}")
            yield variant, reason


class _InPlace:
    """One CT and what is seen of it once for all variants."""

    def __init__(self, run, folder: Path):
        self.run, self.source = run, run.given.ct
        ct = self.source.stored
        self.settings = replace(run.settings.insert, sampler=run.settings.sampler, steps=run.settings.steps)
        margin = max(region_margin(self.settings, ct), VARY_MM if run.settings.vary else 0)
        self.wanted = Wanted.of(run.given.nodes, run.given.present, margin)
        self.canvas = Canvas(canonical_view(ct), *self.source.scaling)
        self.anatomy = canonical_view(run.given.anatomy) if run.given.anatomy is not None else None
        there = Nodes.within(self.wanted.region, self.wanted.present)
        try:
            self.seen = look(self.canvas, self.anatomy, 2, there, set(there.boxes),
                             LabelTable.load(run.model.form.labels), run.model.form.window)
        except LNSynthError as error:
            raise LNSynthError(f"{run.files.present or run.files.ct}: {error}") from None
        self.labels = self._labels() if run.settings.vary else None
        self.removed: tuple[tuple, Volume, dict] | None = None  # which, the CT without them, how
        self.anatomy_file = None
        if self.anatomy is not None:
            self.anatomy_file = folder / "anatomy.nii.gz"
            write(self.anatomy_file, run.given.anatomy, description(run.facts))

    def _labels(self) -> np.ndarray:
        """Where nodes may lie: ids of VARY_TABLE in the region of the nodes."""
        table, region = LabelTable.load(VARY_TABLE), self.wanted.region
        assert self.anatomy is not None  # nodes are varied only with it
        hu, organs = self.canvas.hu(region), crop(self.anatomy, region).array
        labels = patch_labels(hu.array, organs, self.wanted.every(), Grid(hu.affine, hu.shape), self.seen.survey, table)
        return kept_clear(labels, organs, table)

    def make(self, variant, report) -> str:
        """Writes the variant's folder; where there is nothing to make, says why instead."""
        nodes, changes = self.wanted.nodes.array, list[dict]()
        if self.run.settings.vary and self.labels is not None:
            nodes, changes = vary(nodes, self.labels, self.canvas.spacing, rng(variant.seed, "vary"),
                                  self.run.settings.vary, LabelTable.load(VARY_TABLE))
        apart = difference(nodes, self.wanted.present.array)
        new = sorted([*apart.new, *(apart.same if self.run.settings.remake else ())])
        if not new and not apart.gone:
            return self._nothing()
        removing = len(apart.gone) / (len(apart.gone) + len(new))
        ct, removal = self._without(apart.gone, lambda share: report(share * removing))
        settings, patches = replace(self.settings, seed=variant.seed), []
        if new:
            inserted = insert(
                ct, Nodes.within(self.wanted.region, Volume(nodes, self.wanted.nodes.affine)), self.run.model,
                settings, anatomy=self.run.given.anatomy, only=new, scaling=self.source.scaling, seen=self.seen,
                device=self.run.device, name=str(self.run.files.nodes),
                callback=_share(lambda share: report(removing + share * (1 - removing))))
            ct, patches = inserted.ct, inserted.patches
        self._write(variant, ct, nodes, new, apart, {
            "mode": "in-place", "settings": asdict(settings), "remake": self.run.settings.remake,
            "vary": self.run.settings.vary and self.run.settings.vary.record(), "changes": changes, "made": new,
            "kept": [i for i in apart.same if i not in new], "removed": apart.gone, "removal": removal,
            "patches": patches})
        return ""

    def _nothing(self) -> str:
        if self.run.settings.vary:
            return (f"{self.run.files.nodes}: no node could be changed at random, since organs and other nodes leave "
                    "no room; move the nodes, or have them made as they are (without --vary, with --remake).")
        return (f"{self.run.files.nodes}: the CT shows all of these nodes already ({self.run.files.present}), so there "
                "is nothing to make; add, change or remove a node, or make them anew (--remake).")

    def _without(self, gone: list[int], report) -> tuple[Volume, dict | None]:
        """The CT without some of the present nodes; the same for all variants that want the same ones away."""
        if not gone:
            return self.source.stored, None
        if self.removed is None or self.removed[0] != tuple(gone):
            self.removed = None  # its memory first
            seed = derive(self.run.settings.seed, "removal")
            result = insert(
                self.source.stored, Nodes.within(self.wanted.region, self.wanted.present), self.run.model,
                replace(self.settings, seed=seed), anatomy=self.run.given.anatomy, only=gone, remove=True,
                scaling=self.source.scaling, seen=self.seen, device=self.run.device,
                name=str(self.run.files.present), callback=_share(report))
            self.removed = tuple(gone), result.ct, {"seed": seed, "patches": result.patches}
        _which, ct, how = self.removed
        return ct, how

    def _write(self, variant, ct: Volume, nodes: np.ndarray, new: list[int], apart: Difference,
               condition: dict) -> None:
        run, said = self.run, description(self.run.facts)
        mask = Volume(np.zeros(ct.shape, np.uint16), ct.affine)
        canonical_view(mask).array[self.wanted.region] = nodes
        listed = [{"state": "made" if record["id"] in new else "kept",
                   **{k: record[k] for k in ("id", "centroid_mm", "volume_ml", "short_axis_mm")}}
                  for record in records(nodes, self.wanted.nodes.affine)]

        def about(outputs: dict) -> dict:
            record = provenance(
                "insertion" if new else "removal", run.facts,
                Sampled(variant.seed, self.settings.sampler, self.settings.steps, run.device, {
                    "run_seed": run.settings.seed, "sample": variant.number}),
                labels=run.model.form.labels, source=run.source, condition=condition, outputs=outputs)
            return {"key": variant.key, "nodes": listed, **record}

        self.source.remember(ct, condition["patches"] + (condition["removal"] or {"patches": []})["patches"])
        if run.settings.vary:  # else a person drew these nodes, who may mean a patient's
            remember_mask(mask, before=run.given.present)
        with atomic_folder(variant.folder) as beside:
            self.source.write(beside / "ct.nii.gz", ct, said)
            write(beside / "nodes.nii.gz", mask, said)
            if self.anatomy_file is not None:
                shutil.copyfile(self.anatomy_file, beside / "anatomy.nii.gz")
            changed = np.isin(nodes, new) & (nodes > 0)
            if not changed.any():
                changed = np.isin(self.wanted.present.array, apart.gone) & (self.wanted.present.array > 0)
            write_png(beside / "montage.png", self._montage(ct, mask, changed), said)
            seal(beside, about)

    def _montage(self, ct: Volume, nodes: Volume, changed: np.ndarray) -> np.ndarray:
        """What is around the largest of the changed nodes (bool, of the region)."""
        pieces = instances(changed)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        at = boxes(pieces)[int(sizes.argmax())]
        at = out_of(at, self.wanted.region)
        box = grow(at, SHOWN_MM, ct.spacing, self.canvas.shape)
        table = LabelTable.load(self.run.model.form.labels)
        size = extent(box)
        labels = np.zeros(size, np.uint8)
        if self.anatomy is not None:
            labels = table.from_totalsegmentator(self.anatomy.array[box])
        real = self.canvas.hu(box).array
        hu = Canvas(canonical_view(ct), *self.source.scaling).hu(box).array
        whole = np.zeros((2, *size), np.uint16)  # the region's nodes in the box: present, changed
        both = common(box, self.wanted.region)
        there, here = within(both, box), within(both, self.wanted.region)
        for place, array in zip(whole, (self.wanted.present.array, changed), strict=True):
            place[there] = array[here]
        return compare(real, whole[0], hu, canonical_view(nodes).array[box], labels, table, self.canvas.spacing,
                       whole[1], self.run.source["kind"],
                       f"{self.run.source['case']}, in place, {' x '.join(f'{mm:.2g}' for mm in ct.spacing)} mm")


def _share(report):
    """A callback for `insert` that reports which share of it is done."""
    def on(event: Event) -> None:
        if event.total:
            report(event.done / event.total)
    return on
