"""The work of each kind of cell; every function can be killed and called again.

All take (cell, folders of its inputs by role, its own folder, context, callback) and return what `cell.json` keeps.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cases.prepared import PreparedCase, list_prepared
from ..conditions.encode import unscale_hu
from ..evaluation.generation import ImageSettings, evaluate_samples, write_images
from ..evaluation.segmentation import ScoreSettings, score_case
from ..images.volume import Volume, read
from ..review.samples import read_record, samples
from ..runtime.content import NUMBER, check
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress
from ..runtime.files import atomic_folder, atomic_path, read_json
from ..runtime.names import inside
from ..runtime.npz import read_npz
from ..runtime.places import relative
from ..runtime.seeds import derive
from ..runtime.settings import build
from ..synthesis.synthesize import SynthesizeSettings, synthesize
from .cells import Cell, preset_of
from .data import obtain, preparations
from .plan import Plan

CELL = "cell.json"
SHAPE = {"key": str, "amount": int, "seconds": NUMBER, "result": dict}


@dataclass(frozen=True)
class Context:
    """What cells are made with, on which their results do not depend (but for the last bits of the device)."""

    plan: Plan
    root: Path            # the folder of the data
    device: str = "auto"

    def __post_init__(self):
        import torch

        torch.set_num_threads(self.plan.threads)


Folders = dict[str, Path]
Work = Callable[[Cell, Folders, Path, Context, Callback], dict]


def data(cell: Cell, _inputs: Folders, folder: Path, context: Context, callback: Callback) -> dict:
    """A data set, made or found, and prepared for training and for testing."""
    source = next(s for s in context.plan.data if s.name == cell.settings["name"])
    dataset = obtain(source, context.root, folder / "dataset", context.plan.prepare, callback)
    cases = [{name: entry[name] for name in ("id", "patient", "split", "sha256")} for entry in dataset.cases()]
    return {"dataset": relative(dataset.folder, folder), "kind": dataset.kind, "name": dataset.name,
            "note": dataset.manifest.get("note", ""), "cases": cases}


def generator(cell: Cell, inputs: Folders, folder: Path, context: Context, callback: Callback) -> dict:
    from ..training.cost import parameters, training_flops
    from ..training.loop import train
    from ..training.settings import make_generator

    preset = preset_of(cell)
    result = train(preset, datasets(inputs), folder / "run", resume=True, device=context.device,
                   callback=callback)
    fresh = make_generator(preset)
    return {"steps": result["step"], "loss": result["loss"], "kind": preset.generator["kind"],
            "parameters": parameters(fresh), "training_flops": training_flops(fresh, preset.training)}


def pairs(cell: Cell, inputs: Folders, folder: Path, context: Context, callback: Callback) -> dict:
    """Samples of training cases: the pairs that segmenters are trained on."""
    return _samples(cell, inputs, folder, context, callback, "train", preparations(context.plan.prepare)[0].name)


def twins(cell: Cell, inputs: Folders, folder: Path, context: Context, callback: Callback) -> dict:
    """Samples of patches of cases that were not trained on, with their nodes as they are, to compare with the real."""
    return _samples(cell, inputs, folder, context, callback, cell.settings["split"],
                    preparations(context.plan.prepare)[1].name)


def _samples(cell, inputs, folder, context, callback, split: str, prepared: str) -> dict:
    settings = SynthesizeSettings(
        per_case=cell.amount, seed=cell.settings["seed"], sampler=cell.settings["sampler"],
        steps=cell.settings["steps"], split=split, prepared=prepared,
        vary=context.plan.vary if cell.settings["vary"] else None, threads=context.plan.threads)
    result = synthesize(inputs["generator"] / "run", datasets(inputs), folder / "samples", settings, context.device,
                        callback)
    return {"samples": len(result["made"]) + len(result["unchanged"])}


def segmenter(cell: Cell, inputs: Folders, folder: Path, context: Context, callback: Callback) -> dict:
    from ..segmentation.settings import SegmentSettings, TrainerSettings
    from ..segmentation.train import train_segmenter

    p, chosen = context.plan.prepare, cell.settings
    settings = SegmentSettings(
        strategy=chosen["strategy"], multiple=chosen.get("multiple", 1), spacing_mm=p.spacing_mm, margin_mm=p.margin_mm,
        window=p.window, labels=p.labels, prepared=preparations(p)[0].name, reviewed=False, filtered=False,
        seed=derive(chosen["seed"], "segmenter"),
        trainer=build(TrainerSettings, {**chosen["trainer"], **cell.manner}))
    synthetic = []
    if chosen["strategy"] != "real":
        synthetic = [inputs["filter"] / "kept" if chosen["filtered"] else inputs["pairs"] / "samples"]
        if chosen["filtered"] and not any(synthetic[0].iterdir()):
            raise LNSynthError("The filter kept none of the pairs: the segmenter trained on real cases found the nodes "
                               "of no sample; train the generator or that segmenter longer, or lower the threshold.")
    return train_segmenter(datasets(inputs), synthetic, folder / "run", settings, resume=True,
                           device=context.device, callback=callback)


def predictions(cell: Cell, inputs: Folders, folder: Path, context: Context, callback: Callback) -> dict:
    """What the segmenter makes of each test case: CASE.npz with `nodes` (instances) and `probability`."""
    from ..segmentation.predict import Segmenter

    judge = Segmenter.open(inputs["segmenter"] / "run", context.device)
    cases = test_cases(inputs, context.plan)
    with Progress("predicting", len(cases), callback) as progress:
        for case in cases:
            path = folder / f"{case.id}.npz"
            if not path.exists():
                found = judge.predict(_volume(case))
                with atomic_path(path) as beside, open(beside, "wb") as stream:
                    np.savez_compressed(stream, nodes=found.instances, probability=found.probability.astype(np.float16))
            progress.step()
    return {"cases": [case.id for case in cases]}


def read_prediction(folder: Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    """(instances uint16, probability float32) of a test case, from the folder of a cell of predictions."""
    stored = read_npz(folder / f"{case}.npz", ("nodes", "probability"))
    return stored["nodes"], stored["probability"].astype(np.float32)


def scores(cell: Cell, inputs: Folders, folder: Path, context: Context, callback: Callback) -> dict:
    """Scores of each test case: {"cases": [{"id", "patient", "kind", "score" (`CaseScore.to_dict`)}]}."""
    settings, found = build(ScoreSettings, cell.settings["score"]), []
    for case in test_cases(inputs, context.plan):
        nodes, probability = read_prediction(inputs["predictions"], case.id)
        score = score_case(nodes, case.nodes(), case.spacing, settings, probability)
        found.append({"id": case.id, "patient": case.info["patient"], "kind": case.kind, "score": score.to_dict()})
    return {"cases": found}


def filtering(cell: Cell, inputs: Folders, folder: Path, context: Context, callback: Callback) -> dict:
    """The pairs in which the segmenter trained on real cases finds the nodes (see `segmentation.filter`), as hard links
    in `kept`: the table beside the pairs themselves is of whoever judged them last."""
    from ..segmentation.filter import filter_samples
    from ..segmentation.predict import Segmenter

    judge, made = Segmenter.open(inputs["segmenter"] / "run", context.device), inputs["pairs"] / "samples"
    found = filter_samples(made, judge, cell.settings["threshold"], callback=callback)
    dropped = {entry["sample"] for entry in found["dropped"]}
    with atomic_folder(folder / "kept", also=["*/*"]) as beside:  # other samples, where another threshold kept them
        for sample in samples(made):
            if sample.name not in dropped:
                shutil.copytree(sample, beside / sample.name, copy_function=os.link)
    return found


def images(cell: Cell, inputs: Folders, folder: Path, context: Context, callback: Callback) -> dict:
    """Image metrics of the twins, and how many of their nodes the segmenter trained on real cases finds in them."""
    from ..segmentation.predict import Segmenter

    folders = samples(inputs["twins"] / "samples")
    judge, found = Segmenter.open(inputs["segmenter"] / "run", context.device), []
    settings = build(ScoreSettings, cell.settings["score"])
    with Progress("finding nodes", len(folders), callback) as progress:
        for sample in folders:
            ct, nodes = read(sample / "ct.nii.gz"), read(sample / "nodes.nii.gz")
            score = score_case(judge.predict(ct).instances, nodes.array, nodes.spacing, settings)
            found.append({"sample": sample.name, "case": read_record(sample)["source"]["case"],
                          "score": score.to_dict()})
            progress.step()
    return {**_measured(cell, inputs, inputs["twins"] / "samples", folder, context, callback), "nodes": found}


def memorisation(cell: Cell, inputs: Folders, folder: Path, context: Context, callback: Callback) -> dict:
    """Whether the pairs give back what their generator was trained on; see `evaluation.memorisation`."""
    return _measured(cell, inputs, inputs["pairs"] / "samples", folder, context, callback)


def _measured(cell, inputs, samples: Path, folder: Path, context: Context, callback: Callback) -> dict:
    """The summary of `evaluate_samples`; the rest of it goes to images.csv and images.json in the cell's folder."""
    from ..evaluation.features import FeatureNet

    weights = context.plan.images.features
    features = FeatureNet.load(context.root / weights, context.device) if weights else None
    measured = evaluate_samples(samples, datasets(inputs), build(ImageSettings, cell.settings["measures"]),
                                features=features, callback=callback)
    write_images(folder, measured)
    return {"summary": measured["summary"]}


def datasets(inputs: Folders) -> list[Path]:
    """The data sets of a cell's inputs."""
    return [dataset_of(path) for role, path in sorted(inputs.items()) if role.startswith("data")]


def dataset_of(cell: Path) -> Path:
    """The data set of a cell of data: in its folder, or the place of one that was there before (a path from the cell
    that leads upwards; earlier versions kept the whole path)."""
    said = read_cell(cell)["result"].get("dataset")
    if isinstance(said, str) and (said.startswith("../") or Path(said).is_absolute()) and not said.startswith("//"):
        return (cell.resolve() / said).resolve()
    return inside(cell, said, cell / CELL, "the data set")


def read_cell(folder: Path) -> dict:
    """A cell's `cell.json`. Raises LNSynthError where it is missing or not as SHAPE says."""
    return check(read_json(folder / CELL), SHAPE, folder / CELL)


def test_cases(inputs: Folders, plan: Plan) -> list[PreparedCase]:
    """The prepared test cases of a cell's data, with the margin for testing. LNSynthError where there is none."""
    name = preparations(plan.prepare)[1].name
    cases = [case for dataset in datasets(inputs) for case in list_prepared(dataset / "prepared" / name)
             if case.split == "test"]
    if not cases:
        raise LNSynthError("None of the plan's data has a test case; give some cases the split test.")
    ids = [case.id for case in cases]
    if twice := {id for id in ids if ids.count(id) > 1}:
        raise LNSynthError(f"The test case {min(twice)} is in two of the plan's data sets; rename it in one of them.")
    return cases


def _volume(case: PreparedCase) -> Volume:
    """A prepared case in HU."""
    return Volume(unscale_hu(case.ct(), case.info["window"]), case.affine)


WORK: dict[str, Work] = {
    "data": data, "generator": generator, "pairs": pairs, "twins": twins, "segmenter": segmenter,
    "predictions": predictions, "scores": scores, "filter": filtering, "images": images, "memorisation": memorisation}
