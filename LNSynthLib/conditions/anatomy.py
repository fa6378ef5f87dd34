"""Organ labels of a CT: from TotalSegmentator, run in a child process, or from a label file that exists already.

Labels on disk are in TotalSegmentator v2 `total` ids. TotalSegmentator runs in a process of its own because it rewrites
the nnUNet_* environment and can only be stopped from outside; this module is also what that process executes.
"""
from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np

from ..images.checks import check_ct, check_pair
from ..images.volume import Volume, read, write
from ..masks.labels import LabelTable
from ..masks.read import Tell, read_anatomy
from ..runtime.cancel import end_with_application, run_child
from ..runtime.devices import pick
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, ignore
from ..runtime.temporary import scratch

ROUGH_MODEL = 298  # the 6 mm model with which TotalSegmentator finds the region of a roi_subset
BAR = re.compile(r"\| (\d+)/(\d+) \[")  # nnU-Net's progress bar: its tiles are the only progress there is
DOWNLOADS = "https://github.com/wasserth/TotalSegmentator/releases"


def weights_folder() -> Path:
    """Where TotalSegmentator looks for its weights (its own order; it need not be installed)."""
    if "TOTALSEG_WEIGHTS_PATH" in os.environ:
        return Path(os.environ["TOTALSEG_WEIGHTS_PATH"])
    home = Path("/tmp") if str(Path.home()) == "/" else Path.home()  # as TotalSegmentator does in a bare container
    return Path(os.environ.get("TOTALSEG_HOME_DIR", home / ".totalsegmentator")) / "nnunet" / "results"


def missing_weights(fast: bool = False) -> list[str]:
    """Names of the weight folders that a run needs and that are not there.

    Raises LNSynthError where TotalSegmentator is not installed.
    """
    try:
        config = importlib.import_module("totalsegmentator.map_tasks_config")
    except ImportError as error:
        raise LNSynthError("TotalSegmentator is not installed here or is older than 2.16: install it with "
                           "`pip install TotalSegmentator`, or give labels that exist already") from error
    models = config.TASK_CONFIGS["total"]["sub_modes"]["fast" if fast else "default"]["task_id"]
    models = [*(models if isinstance(models, list) else [models]), ROUGH_MODEL]
    names = [config.TASK_ID_WEIGHTS_CONFIGS[model]["foldername"] for model in models]
    return [name for name in names if not (weights_folder() / name).is_dir()]


def check_weights(fast: bool = False) -> None:
    """LNSynthError that says which weights are missing, where they belong and how to get them."""
    missing = missing_weights(fast)
    if missing:
        raise LNSynthError(
            f"TotalSegmentator's weights {', '.join(missing)} are not in {weights_folder()}: run "
            f"`totalseg_download_weights -t {'total_fast' if fast else 'total'}` on a machine with internet access, or "
            f"unpack their zip files from {DOWNLOADS} into that folder")


def arguments(ct: Path, out: Path, table: LabelTable, fast: bool, device: str) -> dict:
    """The keyword arguments of `totalsegmentator.python_api.totalsegmentator` for one CT and one multilabel file."""
    return {"input": str(ct), "output": str(out), "ml": True, "task": "total", "fast": fast,
            "roi_subset": table.totalsegmentator_rois(), "device": device, "nr_thr_saving": 1}


def device_name(name: str = "auto") -> str:
    """The device in TotalSegmentator's words: cpu, mps, gpu or gpu:N."""
    device = pick(name)
    if device.type != "cuda":
        return device.type
    return "gpu" if device.index is None else f"gpu:{device.index}"


def segment(ct: Volume, table: LabelTable, fast: bool = False, device: str = "auto", name: str = "the CT",
            callback: Callback = ignore) -> Volume:
    """Labels of a CT by TotalSegmentator, on the CT's grid: uint8 TotalSegmentator v2 ids of the table's structures.

    fast: the 3 mm model instead of the 1.5 mm ones; device: auto, cpu, cuda, cuda:N or mps; name: for messages.
    Raises LNSynthError before any work when weights are missing, and with the child's own words when it fails. Usage
    statistics are not sent.
    """
    check_ct(ct, name)
    check_weights(fast)
    with scratch() as folder:
        image, result = folder / "ct.nii.gz", folder / "labels.nii.gz"
        write(image, ct)
        _run(arguments(image, result, table, fast, device_name(device)), callback, folder)
        if not result.is_file():
            raise LNSynthError(f"{name}: TotalSegmentator ended without labels; run it by hand to see why")
        labels = read(result)
    check_pair(ct, labels, f"TotalSegmentator's labels of {name}")
    return Volume(labels.array.astype(np.uint8), ct.affine)


def load(path: Path, ct: Volume | None = None, version: int = 2, table: LabelTable | None = None, *,
         tell: Tell = lambda _: None, source: Path | None = None) -> Volume:
    """Labels from a file in TotalSegmentator ids of `version` (1 or 2), or that names its labels, as v2 ids (uint8).

    ct, tell, source: as for `masks.read.read_anatomy`. Ids of version 1 become those of version 2 for the structures of
    `table` (default abdomen14); the others are dropped. Raises LNSynthError for what cannot be such labels.
    """
    labels, version = read_anatomy(path, ct, version, tell, source=source)
    if version == 2:
        return labels
    table = table or LabelTable.load("abdomen14")
    return Volume(table.to_totalsegmentator(table.from_totalsegmentator(labels.array, version)), labels.affine)


def _run(keywords: dict, callback: Callback, temporary: Path) -> None:
    """One TotalSegmentator call in a child process; its lines become messages, its failure an LNSynthError.

    temporary: folder for what it writes besides, and would leave behind when it is killed
    """
    lines: list[str] = []

    def on_line(line: str) -> None:
        tiles = BAR.search(line)
        if tiles:
            callback(Event("anatomy", int(tiles[1]), int(tiles[2])))
        elif line.strip():
            lines.append(line.strip())
            callback(Event("anatomy", message=line.strip()))

    status = run_child([sys.executable, "-m", "LNSynthLib.conditions.anatomy", json.dumps(keywords)], on_line,
                       {"PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)})
    if status:
        last = lines[-1] if lines else "it printed nothing"
        raise LNSynthError(f"TotalSegmentator failed (exit status {status}): {last}")


def _child(keywords: dict) -> None:
    from totalsegmentator import python_api

    # A hospital's machine does not report home because of us; the user's own settings stay as they are.
    python_api.send_usage_stats = lambda *_: None
    python_api.totalsegmentator(**keywords)


if __name__ == "__main__":
    end_with_application()
    _child(json.loads(sys.argv[1]))
