"""Training a segmenter: divide the data, export them, let nnU-Net train in a process of its own, record what was done.

RUN/segmenter.json      settings, which images were used and left out, why, versions; at the end what came of it;
                        "trained_on": see `cases.trained_on`
RUN/log.jsonl           one line an epoch (`trainer.records`): learning curves
RUN/nnunet.log          everything that nnU-Net printed
RUN/nnUNet_raw, nnUNet_preprocessed, nnUNet_results    nnU-Net's folders; the model is in the last (`model.MODEL`)
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from .. import __version__
from ..cases.sides import person
from ..runtime.cancel import run_child
from ..runtime.content import check
from ..runtime.devices import pick
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, ignore
from ..runtime.files import check_apart, read_json, write_hashes, write_json
from ..runtime.locks import alone_in
from ..runtime.names import remove_ours
from ..runtime.places import unplaced
from ..runtime.pseudonyms import pseudonym
from . import model
from .export import export
from .settings import FREE, SegmentSettings
from .splits import Division, Item, divide

LOCK_S = 1.0  # to wait for a training that is just ending
# Folders of a run that go when it is finished or begun again, and all that the export and nnU-Net put there.
MADE = {
    "nnUNet_raw": (f"{model.DATASET}/dataset.json", f"{model.DATASET}/imagesTr/*_0000.nii.gz",
                   f"{model.DATASET}/labelsTr/*.nii.gz"),
    "nnUNet_preprocessed": ("done", f"{model.DATASET}/*.json", f"{model.DATASET}/gt_segmentations/*.nii.gz",
                            *(f"{model.DATASET}/{model.PLANS}_*/*.{ending}"
                              for ending in ("b2nd", "pkl", "npz", "npy")))}


def train_segmenter(real: Sequence[Path], synthetic: Sequence[Path], out: Path, settings: SegmentSettings, *,
                    resume: bool = False, device: str = "auto", callback: Callback = ignore) -> dict:
    """Trains nnU-Net on data sets (real) and folders of samples (synthetic); returns RUN/segmenter.json's content.

    resume  go on with the run in `out` after its last checkpoint, if there is one; a finished run is returned as it is
    device  auto, cpu, cuda, cuda:1 or mps

    Killed at any moment it can be resumed; on the CPU without workers the weights are those of an uninterrupted run.
    Raises LNSynthError where training and validation cannot be kept apart (`splits`), an image does not fit, `out`
    holds another run, or nnU-Net fails.
    """
    out, device = Path(out), pick(device)
    model.check_installed()
    check_apart([out], [*real, *synthetic])
    with alone_in(out, LOCK_S, "another program trains in this folder; let it end first, or choose another"):
        return _train(real, synthetic, out, settings, resume, device, callback)


def _train(real: Sequence[Path], synthetic: Sequence[Path], out: Path, settings: SegmentSettings, resume: bool,
           device: torch.device, callback: Callback) -> dict:
    division = divide(real, synthetic, settings, callback)
    record = {"settings": settings.plain(), "data": _data(division, settings.anonymous)}
    before = _claim(out, record, resume)
    if "trained" in before:
        return before
    record |= {"left_out": division.left_out, "summary": _summary(division), "device": str(device),
               "trained_on": division.trained_on.plain(),
               "versions": {"lnsynth": __version__, "nnunetv2": version("nnunetv2"), "torch": torch.__version__}}
    write_json(out / "segmenter.json", record)
    for unknown in division.trained_on.unknown:
        callback(Event("training", message=f"note: {unknown}; whether it has seen a test case cannot be checked"))
    # At its end nnU-Net puts this in place of the checkpoint to resume from: without a look, it would train once more.
    if not (out / model.MODEL / "fold_0" / "checkpoint_final.pth").exists():
        if not (out / "nnUNet_preprocessed" / "done").exists():
            for name in MADE:
                if (out / name).is_dir() and not remove_ours(out / name, MADE[name]):
                    raise LNSynthError(f"{out / name}: it holds other files than nnU-Net's, so it is not made again; "
                                       "move it away.")
            export(division, settings, out / "nnUNet_raw", callback)
            write_json(out / "nnUNet_preprocessed" / model.DATASET / "splits_final.json",
                       [{side: [item.name for item in getattr(division, side)] for side in ("train", "val")}])
        _run(out, device, callback)
    division.trained_on.save_prints(out / model.MODEL)
    record["trained"] = _outcome(out, settings)
    if not settings.trainer.keep_data:
        for name in MADE:
            remove_ours(out / name, MADE[name])
    write_json(out / "segmenter.json", record)
    return record


def _data(division: Division, anonymous: bool) -> dict[str, list[dict]]:
    """What decides, with the settings, what is learned."""
    def said(item: Item) -> dict:
        case, patient = item.case, item.patient
        if anonymous:
            case, patient = pseudonym("case", case), pseudonym("patient", person(patient))
        return {"name": item.name, "kind": item.kind, "case": case, "patient": patient, "sha256": item.sha256}

    return {side: [said(item) for item in getattr(division, side)] for side in ("train", "val")}


def _summary(division: Division) -> dict:
    """Counts for people: images of each kind on each side, and how many synthetic ones a case has at least and most."""
    children = Counter(item.case for item in division.train if item.kind == "synthetic")
    return {side: dict(Counter(item.kind for item in getattr(division, side))) for side in ("train", "val")} | {
        "synthetic_per_case": [min(children.values()), max(children.values())] if children else [0, 0],
        "left_out": len(division.left_out)}


def _claim(out: Path, ours: dict, resume: bool) -> dict:
    """What the run in `out` has said of itself so far; empty for a new one. Raises LNSynthError for another run."""
    path = out / "segmenter.json"
    for name in (*MADE, model.MODEL.parts[0]):
        if (out / name).is_symlink():
            raise LNSynthError(f"{out / name}: it is a link, and nnU-Net would write wherever it leads; put the folder "
                               "itself there.")
    if not path.exists():
        # Hidden: what a run that was killed at its very beginning was about to write.
        if out.exists() and any(not entry.name.startswith(".") for entry in out.iterdir()):
            raise LNSynthError(f"{out} is not empty and holds no segmenter; choose another folder.")
        return {}
    if not resume:
        raise LNSynthError(f"{out} holds a segmenter already; add --resume to go on with it, or choose another folder.")
    theirs = check(read_json(path), {"settings": dict, "data": dict, "trained?": dict}, path)
    for what in ("settings", "data"):
        if (different := _difference(theirs.get(what), json.loads(json.dumps(ours[what])), what)):
            raise LNSynthError(f"{out} holds a segmenter with other {different}; resume it with its own settings and "
                               "data, or choose another folder.")
    return theirs


def _difference(theirs, ours, what: str) -> str:
    """The first place where they differ; empty where they do not, but for what a resumed run may change."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = [name for name in ours | theirs if name not in (*FREE, "about")]
        return next(filter(None, (_difference(theirs.get(n), ours.get(n), f"{what}.{n}") for n in names)), "")
    return "" if theirs == ours else what


def _run(out: Path, device: torch.device, callback: Callback) -> None:
    """`work` in a child process: nnU-Net wants its folders in the environment, seeds the whole process and prints."""
    environment = {f"nnUNet_{name}": str((out / f"nnUNet_{name}").resolve())
                   for name in ("raw", "preprocessed", "results")}
    environment |= {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "passive",
                    "OMP_NUM_THREADS": str(torch.get_num_threads())}
    if device.type == "cuda" and device.index is not None:  # nnU-Net takes the first it sees
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        environment["CUDA_VISIBLE_DEVICES"] = seen.split(",")[device.index] if seen else str(device.index)
    failures = ["it printed nothing"]
    with open(out / "nnunet.log", "a", encoding="utf-8", buffering=1) as log:
        def on_line(line: str) -> None:
            event = Event.from_json(line)
            if event is None:
                log.write(f"{unplaced(line, out)}\n")
            if event is None and line.strip() or event and event.error:
                failures.append(event.error if event else line.strip())
            elif event:
                callback(event)

        status = run_child([sys.executable, "-m", "LNSynthLib.segmentation.work", str(out), device.type], on_line,
                           environment)
    if status == 2:
        raise LNSynthError(failures[-1])
    if status:
        raise LNSynthError(f"nnU-Net failed (exit status {status}): {failures[-1]}; {out / 'nnunet.log'} has all that "
                           "it printed.")


def _outcome(out: Path, settings: SegmentSettings) -> dict:
    plan = read_json(out / model.MODEL / "plans.json")["configurations"][model.CONFIGURATION]
    checkpoint = f"checkpoint_{settings.trainer.checkpoint}.pth"
    state = model.load(out / model.MODEL / "fold_0" / checkpoint)
    write_hashes(out / model.MODEL)  # plans.json and dataset.json; the checkpoints' are beside them
    epochs = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "model": str(model.MODEL), "checkpoint": checkpoint, "epoch": state["current_epoch"],
        "weights": model.identity([state["network_weights"]]),
        "plan": {name: plan[name] for name in ("patch_size", "batch_size", "batch_dice", "spacing",
                                               "normalization_schemes")},
        "features": plan["architecture"]["arch_kwargs"]["features_per_stage"],
        "parameters": sum(tensor.numel() for tensor in state["network_weights"].values()),
        "last_epoch": epochs[-1], "best_ema_dice": max((e["ema_dice"] or 0) for e in epochs),
        "seconds": round(sum(e["seconds"] for e in epochs), 1)}
