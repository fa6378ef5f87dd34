"""The results of an experiment so far: its finished cells, read as the report needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...cases.prepared import PreparedCase
from ...evaluation.segmentation import CaseScore
from ...runtime.errors import LNSynthError
from ...runtime.files import read_json
from ...runtime.names import check_name, inside
from ...runtime.settings import build
from ..cells import Cell, Outcome, layout_of
from ..data import preparations
from ..plan import Plan
from ..run import is_done
from ..work import CELL, dataset_of, read_cell

MADE_UP = {"phantom": "phantoms (procedural drawings, no patient's image)",
           "pseudo": "real CTs into which lymph nodes were painted", "real": "CTs of patients with their own nodes"}


@dataclass(frozen=True)
class Scored:
    """What a row's segmenter of one seed made of one test case."""

    seed: int
    case: str
    patient: str
    kind: str           # of the case: real, phantom, pseudo
    score: CaseScore


class Results:
    """An experiment's folder as it is now; every cell is looked at once.

    plan, files, layout   of the last `experiment run`
    Raises LNSynthError where the folder holds no experiment.
    """

    def __init__(self, out: Path):
        self.out = Path(out)
        if not (self.out / "plan.json").is_file():
            raise LNSynthError(f"{self.out} holds no experiment (no plan.json); make one with `lnsynth experiment "
                               "run`.")
        stored = read_json(self.out / "plan.json")
        try:
            self.files = stored["files"]
            self.plan = build(Plan, stored["plan"], str(self.out / "plan.json"))
        except (KeyError, TypeError):
            raise LNSynthError(f"{self.out / 'plan.json'} is not as this version writes it; run the experiment again, "
                               "with the same command.") from None
        self.layout = layout_of(self.plan, self.files)
        self._records = {cell.key: read_cell(cell.folder(self.out))
                         for cell in self.layout.cells if is_done(cell, self.out)}

    def record(self, cell: Cell) -> dict | None:
        """`cell.json` of a cell that is done, else None."""
        return self._records.get(cell.key)

    def result(self, cell: Cell) -> dict | None:
        """What its work returned; None where it is not done yet."""
        record = self.record(cell)
        return record and record["result"]

    def done(self, kind: str | None = None) -> list[Cell]:
        return [cell for cell in self.layout.cells if cell.key in self._records and kind in (None, cell.kind)]

    def of_kind(self, kind: str) -> list[Cell]:
        """All cells of a kind, done or not."""
        return [cell for cell in self.layout.cells if cell.kind == kind]

    def others(self) -> int:
        """How many cells in the folder are done that this plan, with the presets as they are now, does not ask for."""
        ours = {cell.folder(self.out) for cell in self.layout.cells}
        return sum(path.parent not in ours for path in self.out.glob("cells/*/*/cell.json"))

    def scored(self, outcome: Outcome) -> list[Scored]:
        """The test cases of a row, those of each seed that is done."""
        return [Scored(seed, case["id"], case["patient"], case["kind"], CaseScore.from_dict(case["score"]))
                for seed, cell in zip(self.plan.seeds, outcome.scores, strict=True)
                for case in (self.result(cell) or {"cases": []})["cases"]]

    def sources(self) -> list[dict]:
        """Of each data set: "name", "kind" (None where only its making will tell), "note", "cases" (None: not yet)."""
        found = []
        for cell in self.layout.data:
            made = self.result(cell) or {}
            planned = "phantom" if cell.settings.get("phantoms") else "pseudo" if cell.settings.get("painted") else None
            found.append({"name": cell.settings["name"], "kind": made.get("kind", planned),
                          "note": made.get("note", ""), "cases": made.get("cases")})
        return found

    def patients(self) -> dict[str, str]:
        """Whose each case is, by its id."""
        return {case["id"]: case["patient"] for source in self.sources() for case in source["cases"] or ()}

    def tested(self) -> dict[str, PreparedCase]:
        """The cases as segmenters are tested on them, by id; without those whose files are no longer there."""
        name, found = preparations(self.plan.prepare)[1].name, {}
        for cell in self.layout.data:
            made = self.result(cell) or {"cases": ()}
            for case in made["cases"]:
                where = cell.folder(self.out)
                id = check_name(case["id"], where / CELL, "the case")
                folder = inside(dataset_of(where) / "prepared", f"{name}/{id}", where / CELL, "the case")
                if (folder / "case.json").is_file():
                    found[case["id"]] = PreparedCase.open(folder)
        return found
