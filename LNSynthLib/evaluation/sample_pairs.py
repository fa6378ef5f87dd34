"""Synthetic samples beside the real patches that they were made from, found again in their data sets."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..cases.prepared import PreparedCase, list_prepared
from ..cases.sides import Member
from ..cases.trained_on import TrainedOn, held_out
from ..conditions.encode import scale_hu, unscale_hu
from ..images.boxes import box_at, extent
from ..images.volume import read
from ..masks.labels import LabelTable, table_named
from ..review.provenance import ANONYMOUS_KEY
from ..review.samples import read_record
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event
from ..runtime.names import check_name, inside
from ..runtime.pseudonyms import pseudonym


@dataclass(frozen=True, eq=False)
class Sample:
    """A synthetic patch and the real one in its place: HU (X, Y, Z), their nodes, and the anatomy of both."""

    name: str
    case: PreparedCase
    start: tuple[int, int, int]
    table: LabelTable
    synthetic: np.ndarray
    nodes: np.ndarray
    real: np.ndarray
    real_nodes: np.ndarray
    anatomy: np.ndarray

    def scaled(self, hu: np.ndarray) -> np.ndarray:
        return scale_hu(hu, self.case.info["window"])


def check_unseen(folders: Iterable[Path], everyone: list[Member], callback: Callback) -> None:
    """Raises LNSynthError where a sample is of a case held out of training that its generator was trained on; tells
    of generators that do not say what they were trained on."""
    held, generators = {member.case: member for member in held_out(everyone)}, {}
    for folder in folders:
        record = read_record(folder)
        if (case := record.get("source", {}).get("case")) in held:
            said = record.get("generator", {}).get("trained_on")
            _, of = generators.setdefault(json.dumps(said, sort_keys=True), (
                TrainedOn.read(said, None, f"the generator of {folder.name}"), {}))
            of.setdefault(case, folder.name)
    for record, of in generators.values():
        for unknown in record.unknown:
            callback(Event("measuring", message=f"note: {unknown}; whether it has seen a case of split val or test "
                                                "cannot be checked"))
        for case, name in of.items():
            record.check([held[case]], f"The generator of {name}")


class SampleCases:
    """The prepared cases of some data sets, opened as samples ask for them."""

    def __init__(self, data: Iterable[Path]):
        self.data = [Path(folder) for folder in data]

    def sample(self, folder: Path) -> Sample:
        """A sample with its real patch. Raises LNSynthError where it is damaged, or its case not as it was."""
        record = read_record(folder)
        try:
            if record["what"] != "patch":
                raise LNSynthError(f"{folder}: it is not a synthetic patch of a prepared case but {record['what']!r}; "
                                   "give a folder of samples that `lnsynth synthesize` made.")
            condition = record["condition"]
            case, box = self.case(folder, record["source"]), box_at(condition["start"], condition["shape"])
            table = LabelTable.load(table_named(case.info["settings"]["labels"], case.folder / "case.json"))
            start = tuple(condition["start"])
        except (KeyError, ValueError):
            raise LNSynthError(f"{folder / 'provenance.json'}: it does not record which patch of which prepared case "
                               "the sample was made from; make the sample again.") from None
        hu, nodes, shape = read(folder / "ct.nii.gz").array, read(folder / "nodes.nii.gz").array, extent(box)
        if not hu.shape == nodes.shape == shape:
            raise LNSynthError(f"{folder}: CT {hu.shape}, nodes {nodes.shape} and provenance {shape} differ in "
                               "shape; make the sample again.")
        return Sample(folder.name, case, start, table, hu.astype(np.float32), nodes,
                      unscale_hu(case.ct(box), case.info["window"]), case.nodes(box), case.anatomy(box))

    def case(self, folder: Path, source: dict) -> PreparedCase:
        where = folder / "provenance.json"
        id = check_name(source["case"], where, "the case")
        names = [source["prepared_settings"]["name"]] if "prepared_settings" in source else self._preparations()
        found = [inside(data / "prepared", f"{name}/{id}", where, "the prepared case")
                 for data in self.data for name in names]
        found = [PreparedCase.open(path) for path in found if (path / "case.json").is_file()]
        for case in found:
            if case.info["key"] == source["prepared_key"]:
                return case
        if source["prepared_key"].startswith(f"{ANONYMOUS_KEY}-"):
            for case in self._prepared(source["prepared_settings"]["name"]):
                if pseudonym(ANONYMOUS_KEY, case.info["key"]) == source["prepared_key"]:
                    return case
        why = "it was prepared anew since" if found else "none of them has it"
        raise LNSynthError(f"{folder}: the case {source['case']} it was made from is not in "
                           f"{', '.join(map(str, self.data))} as it was ({why}); give its data set, or make the sample "
                           "again.")

    @cache  # noqa: B019 (as long as the evaluation)
    def _preparations(self) -> list[str]:
        """Names of all preparations: samples of the first versions do not say which one they are of."""
        return sorted({path.parent.name for data in self.data for path in data.glob("prepared/*/prepare.json")})

    @cache  # noqa: B019 (as long as the evaluation)
    def _prepared(self, name: str) -> list[PreparedCase]:
        """All cases of that preparation, for samples that do not say which one they are of."""
        return [PreparedCase.open(path.parent) for data in self.data
                for path in sorted((data / "prepared" / name).glob("[!.]*/case.json"))]

    def training(self, like: PreparedCase) -> list[PreparedCase]:
        """The training cases of all data sets that are prepared as this case is."""
        folders = [data / "prepared" / like.info["settings"]["name"] for data in self.data]
        return [case for folder in folders if folder.is_dir() for case in list_prepared(folder)
                if case.split == "train" and case.info["nodes"]
                and (case.spacing, case.info["window"]) == (like.spacing, like.info["window"])]


def form_of(case: PreparedCase, shape: tuple) -> tuple:
    """What patches must have in common to be compared: how their cases were prepared, and their shape."""
    return case.info["settings"]["name"], tuple(shape)
