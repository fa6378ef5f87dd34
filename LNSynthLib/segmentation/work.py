"""The process that trains: nnU-Net reads where its folders are from the environment, once, when it is imported.

`python -m LNSynthLib.segmentation.work RUN DEVICE` with the nnUNet_* environment set to RUN's folders. It prints one
JSON object a line for each event, and whatever nnU-Net prints.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from ..runtime.cancel import cancellable, end_with_application, forks_end_with_this
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, json_lines
from ..runtime.files import read_json, write_text
from ..runtime.settings import build
from ..runtime.temporary import home
from .model import CONFIGURATION, DATASET, PLANS
from .plan import plan, preprocess
from .settings import SegmentSettings
from .trainer import nnUNetTrainer


def work(run: Path, device: str, callback: Callback) -> None:
    """Plans, preprocesses and trains what RUN/segmenter.json and the raw data set say; what is done already stays."""
    settings = build(SegmentSettings, read_json(run / "segmenter.json")["settings"], str(run / "segmenter.json"))
    preprocessed = Path(os.environ["nnUNet_preprocessed"])
    done = preprocessed / "done"
    if not done.exists():
        raw = read_json(Path(os.environ["nnUNet_raw"]) / DATASET / "dataset.json")
        callback(Event("planning", message="nnU-Net's fingerprint and plan"))
        plan(preprocessed, settings)
        preprocess(len(raw["dataset"]), callback)
        write_text(done, "")
    os.environ["nnUNet_n_proc_DA"] = str(settings.trainer.workers)
    trainer = nnUNetTrainer(read_json(preprocessed / DATASET / f"{PLANS}.json"), CONFIGURATION, 0,
                            read_json(preprocessed / DATASET / "dataset.json"), torch.device(device))

    def log(records: list[dict]) -> None:
        write_text(run / "log.jsonl", "".join(json.dumps(record) + "\n" for record in records))

    trainer.begin(settings, log, callback)
    trainer.run_training()


if __name__ == "__main__":
    end_with_application()
    forks_end_with_this()
    report = json_lines(sys.stdout)
    try:
        with cancellable(), home():
            work(Path(sys.argv[1]), sys.argv[2], report)
    except LNSynthError as error:
        report(Event("failed", error=str(error)))
        sys.exit(2)
