"""Pictures as the paper's: test patches synthesised by each method, and test cases segmented by each row.

Examples are not chosen by how they look: the first of each case, in order, kinds of cases taking turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from ...cases.prepared import PreparedCase
from ...conditions.encode import unscale_hu
from ...images import pictures
from ...images.boxes import box_at
from ...images.volume import read
from ...masks.labels import LabelTable
from ...review.samples import read_record, samples
from ...runtime.errors import LNSynthError
from ..cells import Cell
from ..work import read_prediction
from .results import Results

SIDE_MM = 72.0            # of the square that a picture shows around the largest node
PIXELS = 264              # a side, about twice what the page shows
BAR = 26                  # rows below it that say what is made up
TRUTH, PREDICTION = (70, 215, 110), (235, 60, 50)
THICK = 3                 # pixels of an outline
KINDS = ("real", "pseudo", "phantom")
MARKS = {"real": "", "pseudo": "PAINTED NODES", "phantom": "PHANTOM"}


@dataclass(frozen=True)
class Tile:
    """A titled picture; without one, what it shows is not there yet."""

    title: str
    picture: np.ndarray | None
    note: str = ""


@dataclass(frozen=True)
class Example:
    """What a figure shows of one test case: lines of pictures."""

    title: str
    lines: list[list[Tile]]


@dataclass(frozen=True)
class Frame:
    """The square of one axial slice around a node: `show` draws arrays of the case (or patch) in it."""

    spacing: tuple[float, float, float]
    window: tuple[float, float]
    box: tuple[slice, slice]
    index: int

    @classmethod
    def around(cls, nodes: np.ndarray, spacing, window) -> Frame:
        """Through the largest node where it is widest; through the middle where there is none."""
        sizes = np.bincount(nodes.ravel())[1:]
        node = nodes == int(sizes.argmax()) + 1 if sizes.any() else np.zeros(nodes.shape, bool)
        index = pictures.widest(node, "axial")
        places = np.nonzero(node[:, :, index])
        centre = [float(p.mean()) if len(p) else n / 2 for p, n in zip(places, nodes.shape[:2], strict=True)]
        return cls(tuple(spacing), tuple(window), tuple(
            _span(c, SIDE_MM / mm, n) for c, mm, n in zip(centre, spacing[:2], nodes.shape[:2], strict=True)), index)

    def show(self, hu: np.ndarray, mark: str = "", outlines: Sequence[tuple[np.ndarray, tuple, bool]] = (),
             labels: np.ndarray | None = None, table: LabelTable | None = None) -> np.ndarray:
        """A picture (PIXELS + BAR, PIXELS, 3) of HU. outlines: (mask, color, whether inside the mask's border).

        labels  ids of `table`, in place of the CT
        """
        size = PIXELS, PIXELS
        if labels is None:
            picture = pictures.grey(pictures.stretch(self._cut(hu, self.window[0]), size, smooth=True), self.window)
        else:
            colors = {label.id: label.color for label in table.labels if label.id > 1} | {1: (84, 84, 88)}
            picture = pictures.tint(np.zeros((*size, 3), np.uint8), pictures.stretch(self._cut(labels), size), colors,
                                    alpha=0.8)
        for mask, color, inside in outlines:
            picture = _outline(picture, pictures.stretch(self._cut(mask), size), color, inside)
        return _marked(picture, mark)

    def _cut(self, array: np.ndarray, outside: float = 0) -> np.ndarray:
        slab = pictures.cut(array[(*self.box, slice(self.index, self.index + 1))], "axial", 0)
        short = max(slab.shape) - np.array(slab.shape)  # a patch that is narrower than the square stays undistorted
        return np.pad(slab, [(n // 2, n - n // 2) for n in short], constant_values=outside)


def _span(centre: float, length: float, size: int) -> slice:
    """`length` voxels around the centre, moved to where they lie inside; all of an axis that is shorter."""
    length = min(round(length), size)
    start = min(max(0, round(centre - length / 2)), size - length)
    return slice(start, start + length)


def _outline(picture: np.ndarray, mask: np.ndarray, color, inside: bool) -> np.ndarray:
    """THICK pixels, along the inner or the outer side of each instance's border."""
    from scipy import ndimage

    for _ in range(THICK):
        if inside:
            lesser = np.where(ndimage.minimum_filter(mask, 3) == ndimage.maximum_filter(mask, 3), mask, 0)
            picture = picture.copy()
            picture[(mask > 0) & (lesser == 0)] = color
            mask = lesser
        else:
            picture = pictures.contour(picture, mask, color)
            mask = np.where(mask > 0, mask, ndimage.maximum_filter(mask, 3))
    return picture


def _marked(picture: np.ndarray, mark: str) -> np.ndarray:
    """With words on a red bar below, which go with the picture wherever it goes; without words the bar is dark."""
    from PIL import Image, ImageDraw, ImageFont

    bar = Image.new("RGB", (picture.shape[1], BAR), pictures.WARNING if mark else pictures.PAPER)
    ImageDraw.Draw(bar).text((bar.width // 2, BAR // 2), mark, fill=(255, 255, 255), font=ImageFont.load_default(20),
                             anchor="mm")
    return np.concatenate([picture, np.asarray(bar)])


def in_turns(items: Sequence, kind: Callable[[object], str], count: int) -> list:
    """The first `count` items, kinds taking turns, each in its own order."""
    queues = [[item for item in items if kind(item) == name] for name in KINDS]
    return [item for turn in zip_longest(*queues) for item in turn if item is not None][:count]


def figure4(results: Results) -> list[Example]:
    """Conditions, the real patch, and one column a method: for each the same patch, nodes and seed (the first)."""
    made = {method: _folders(results, cells[0]) for method, cells in results.layout.twins.items()}
    tested = results.tested()
    # The first sample of each case comes before any case's second.
    names = sorted({name for folders in made.values() for name in folders}, key=lambda name: name.rpartition("-")[::-1])
    sources = {name: read_record(next(f[name] for f in made.values() if name in f)) for name in names}
    there = [name for name in names if sources[name]["source"]["case"] in tested]
    chosen = in_turns(there, lambda name: sources[name]["source"]["kind"], results.plan.examples)
    return [_patch(results, tested[sources[name]["source"]["case"]], sources[name], made, name) for name in chosen]


def _folders(results: Results, cell: Cell) -> dict[str, Path]:
    """The samples of a cell by name; none where it is not done or its files are gone."""
    if not results.result(cell):
        return {}
    try:
        return {folder.name: folder for folder in samples(cell.folder(results.out) / "samples")}
    except LNSynthError:
        return {}


def _patch(results: Results, case: PreparedCase, record: dict, made: dict[str, dict], name: str) -> Example:
    start, shape = record["condition"]["start"], record["condition"]["shape"]
    box = box_at(start, shape)
    nodes, window = case.nodes(box), case.info["window"]
    frame = Frame.around(nodes, case.spacing, window)
    real, mark = unscale_hu(case.ct(box), window), MARKS[case.kind]
    condition = frame.show(real, mark, [(nodes, (255, 255, 255), False)], case.anatomy(box),
                           LabelTable.load(results.plan.prepare.labels))
    source = {"real": "real", "pseudo": "real CT, painted nodes", "phantom": "phantom"}[case.kind]
    tiles = [Tile("condition", condition), Tile(source, frame.show(real, mark))]
    for method, folders in made.items():
        picture = frame.show(read(folders[name] / "ct.nii.gz").array, "SYNTHETIC") if name in folders else None
        tiles.append(Tile(method_label(results, method), picture))
    return Example(f"{case.id}, patch at {', '.join(map(str, start))}", [tiles])


def method_label(results: Results, method: str) -> str:
    """What the plan's tables call a method: the label of the first row of synthetic pairs that it makes unchanged."""
    rows = (row for table in results.plan.tables.values() for row in table.rows)
    return next((row.label for row in rows if (row.method, row.strategy) == (method, "synthetic") and not row.set
                 and row.vary and not row.filtered), method)


def figure5(results: Results, name: str) -> list[Example]:
    """Test cases: the truth, and what the segmenter (first seed) of each row of that table makes of them."""
    outcomes = results.layout.tables[name]
    scored = {o.row.label: {s.case: s.score for s in results.scored(o) if s.seed == results.plan.seeds[0]}
              for o in outcomes}
    cases = sorted(results.tested().values(), key=lambda case: case.id)
    cases = in_turns([case for case in cases if case.split == "test" and case.info["nodes"]], lambda case: case.kind,
                     results.plan.examples)
    return [_segmented(results, case, outcomes, scored) for case in cases]


def _segmented(results: Results, case: PreparedCase, outcomes, scored: dict[str, dict]) -> Example:
    nodes, window = case.nodes(), case.info["window"]
    frame, mark = Frame.around(nodes, case.spacing, window), MARKS[case.kind]
    hu, truth = unscale_hu(case.ct(), window), (nodes, TRUTH, False)
    lines = []
    for strategies in (("real", "synthetic"), ("both",)):
        tiles = []
        for outcome in (o for o in outcomes if o.row.strategy in strategies):
            score, picture = scored[outcome.row.label].get(case.id), None
            if score is not None:
                found, _ = read_prediction(outcome.predictions[0].folder(results.out), case.id)
                picture = frame.show(hu, mark, [truth, (found > 0, PREDICTION, True)])
            dsc = "" if score is None else "DSC –" if score.dsc is None else f"DSC {score.dsc:.2f}"
            tiles.append(Tile(outcome.row.label, picture, dsc))
        if tiles:
            lines.append([Tile("truth", frame.show(hu, mark, [truth])), *tiles])
    return Example(case.id, lines)
