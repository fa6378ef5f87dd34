"""The accepted samples of a folder as a data set for other programs: NIfTI pairs, or nnU-Net's raw format."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Literal

import numpy as np

from .. import __version__
from ..images.synthetic import WORD, mark
from ..images.volume import Volume, read, same_grid, write
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress, ignore
from ..runtime.files import atomic_folder, check_apart, sha256, write_json, write_text
from ..runtime.pseudonyms import pseudonym
from ..runtime.tables import csv_text
from . import provenance
from .samples import PAIR, read_record
from .standings import Standing, standings
from .verdicts import Rule

Layout = Literal["nifti", "nnunet"]
COLUMNS = ("case", "image", "mask", "nodes", "source_case", "what", "reviewer", "note", "time", "pair", "image_sha256")
NNUNET_NAME = re.compile(r"Dataset\d{3}_\w+")
DEFAULT_NAME = "Dataset501_LNSynth"
README = """SYNTHETIC images, made by a generative model (LNSynth {version}) for research. No patient's images.

{count} pairs that a person accepted, from {folder}. How each was made, and from what, is in provenance/<case>.json.
"""


def export(folder: Path, out: Path, layout: Layout, *, rule: Rule = "any-reject", anonymous: bool = False,
           callback: Callback = ignore) -> dict:
    """Writes the accepted samples of a folder to a new folder, whole or not at all.

    nifti   OUT/images/<case>.nii.gz, OUT/masks/<case>.nii.gz (instances) and OUT/dataset.csv
    nnunet  imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz (0 and 1) and dataset.json, in OUT where its name is as
            nnU-Net wants it (Dataset501_Name), else in OUT/Dataset501_LNSynth
    anonymous  pseudonyms (`runtime.pseudonyms`) for the samples, their cases and reviewers; no notes and file names
    rule    which decision counts where reviewers disagree (`verdicts.review`)

    Samples that nobody judged, that were rejected, dropped by the filter or regenerated since are left out. Each case
    keeps its provenance beside. Returns {"folder", "cases" (names), "left_out": {status: number}}. Raises LNSynthError
    where none is accepted, a sample is not what its provenance tells, or the target exists.
    """
    if layout not in ("nifti", "nnunet"):
        raise LNSynthError(f"There is no layout {layout!r}; choose nifti or nnunet.")
    folder, out = Path(folder), Path(out)
    found = standings(folder, rule=rule)
    chosen = [s for s in found if s.status == "accepted"]
    left_out = {status: n for status in ("rejected", "undecided", "dropped", "damaged")
                if (n := sum(s.status == status for s in found))}
    if not chosen:
        said = ", ".join(f"{n} {status}" for status, n in left_out.items())
        raise LNSynthError(f"{folder}: no sample is accepted ({said}); review them with `lnsynth review decide`, or in "
                           "the module's review.")
    if layout == "nnunet" and not NNUNET_NAME.fullmatch(out.name):
        out = out / DEFAULT_NAME
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LNSynthError(f"{out}: there is something here already; choose another --out.")
    check_apart([out], [folder])
    with atomic_folder(out) as beside, Progress("exporting", len(chosen), callback) as progress:
        rows = []
        for standing in chosen:
            rows.append(_case(standing, beside, layout, anonymous))
            progress.step(message=f"{standing.sample.name} exported")
        _describe(beside, layout, rows, "a folder of samples" if anonymous else folder.resolve().name, out.name)
    return {"folder": str(out), "cases": [row["case"] for row in rows], "left_out": left_out}


def _case(standing: Standing, out: Path, layout: Layout, anonymous: bool) -> dict:
    """Copies one sample; returns its row of the table."""
    sample, name, decision = standing.sample, standing.sample.name, standing.decision
    assert decision is not None  # it was accepted
    record, reviewer, note = read_record(sample), decision.reviewer, decision.note
    for file in PAIR:
        if sha256(sample / file) != record.get("outputs", {}).get(file):
            raise LNSynthError(f"{sample / file}: it is not the file that was accepted; make the sample again, or "
                               "reject it.")
    ct, nodes = (read(sample / file) for file in PAIR)
    same, why = same_grid(ct, nodes)
    if not same:
        raise LNSynthError(f"{sample}: CT and nodes do not lie on one grid ({why}); make the sample again.")
    if anonymous:
        name, reviewer, note, record = (pseudonym("sample", name), pseudonym("reviewer", reviewer), "",
                                        provenance.anonymous(record))
    images, masks, channel = ("imagesTr", "labelsTr", "_0000") if layout == "nnunet" else ("images", "masks", "")
    image, mask = f"{images}/{name}{channel}.nii.gz", f"{masks}/{name}.nii.gz"
    (out / images).mkdir(exist_ok=True)
    (out / masks).mkdir(exist_ok=True)
    shutil.copyfile(sample / PAIR[0], out / image)  # marked SYNTHETIC in its header
    if layout == "nnunet":
        binary = Volume((nodes.array > 0).astype(np.uint8), ct.affine)
        write(out / mask, binary, mark())
    else:
        shutil.copyfile(sample / PAIR[1], out / mask)
    (out / "provenance").mkdir(exist_ok=True)
    write_json(out / "provenance" / f"{name}.json", record)
    return {
        "case": name, "image": image, "mask": mask, "nodes": len(np.unique(nodes.array[nodes.array > 0])),
        "source_case": record.get("source", {}).get("case", ""), "what": record.get("what", ""),
        "reviewer": reviewer, "note": note, "time": decision.time, "pair": decision.pair,
        "image_sha256": record["outputs"][PAIR[0]]}


def _describe(out: Path, layout: Layout, rows: list[dict], origin: str, name: str) -> None:
    write_text(out / "dataset.csv", csv_text(COLUMNS, rows))
    write_text(out / "README.md", README.format(version=__version__, count=len(rows), folder=origin))
    if layout == "nnunet":
        write_json(out / "dataset.json", {
            "channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph_node": 1}, "numTraining": len(rows),
            "file_ending": ".nii.gz", "overwrite_image_reader_writer": "SimpleITKIO", "name": name,
            "synthetic": True,
            "description": f"{WORD}, made by LNSynth {__version__} for research: no patient's images. Accepted by "
                           f"{', '.join(sorted({row['reviewer'] for row in rows} - {''})) or 'a reviewer'}."})
