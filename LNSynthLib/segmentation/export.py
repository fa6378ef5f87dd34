"""From cases and samples to a data set in nnU-Net's raw format: images in HU, masks of 0 and 1.

RUN/nnUNet_raw/Dataset001_LNSynth/{imagesTr,labelsTr,dataset.json}. Real and synthetic images come the same way: whole
HU within the window, on an isotropic grid with axes in RAS order.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..cases.dataset import Case, Dataset
from ..cases.prepare import PrepareSettings, checked, compute, prepare_case
from ..cases.prepared import PreparedCase
from ..conditions.encode import unscale_hu
from ..images.synthetic import mark, mark_of
from ..images.volume import Volume, canonical, read, write
from ..masks.labels import LabelTable
from ..review.samples import read_record
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress, ignore
from ..runtime.files import sha256, write_json
from .model import DATASET
from .settings import SegmentSettings
from .splits import SAME_SPACING, Division, Item, in_place

ENDING = ".nii.gz"


def preparation(settings: SegmentSettings, margin_mm: float | None = None) -> PrepareSettings:
    """How cases are prepared for a segmenter; margin_mm is 50 in the paper to test one, None to train.

    Organs are ignored, so cases without an anatomy mask will do.
    """
    margin = settings.margin_mm if margin_mm is None else margin_mm
    return PrepareSettings(settings.spacing_mm, margin, settings.window, settings.labels,
                           f"segment-{settings.spacing_mm:g}mm-{margin:g}", allow_no_anatomy=True)


def prepared_case(item: Item, settings: SegmentSettings, margin_mm: float | None = None) -> PreparedCase:
    """The prepared case of a real item, made where it is missing.

    Raises LNSynthError where the case cannot be prepared, or `settings.prepared` names a preparation that does not fit.
    """
    if settings.prepared is None:
        return prepare_case(Dataset.open(item.folder), item.case, preparation(settings, margin_mm))[0]
    case = PreparedCase.open(item.folder / "prepared" / settings.prepared / item.case)
    margin = settings.margin_mm if margin_mm is None else margin_mm
    for what, have, want in (("voxels of", case.spacing[0], settings.spacing_mm),
                             ("a margin of", case.info["settings"]["margin_mm"], margin),
                             ("a window from", case.info["window"][0], settings.window[0]),
                             ("a window to", case.info["window"][1], settings.window[1]),
                             ("patient", case.info["patient"], item.patient), ("split", case.split, item.split)):
        if have != want and not (what == "voxels of" and np.isclose(have, want, rtol=SAME_SPACING)):
            raise LNSynthError(f"{case.folder} was prepared with {what} {have}, not {want}; prepare the data set again "
                               "or leave `prepared` out.")
    return case


def export(division: Division, settings: SegmentSettings, raw: Path, callback: Callback = ignore) -> dict[str, dict]:
    """Writes the data set to RAW/Dataset001_LNSynth, dataset.json last. Images of the train side and of the val side.

    Returns for each identifier {"images": [SHA-256], "label": SHA-256}. Called again, it writes the same again.
    """
    folder, hashes, listed = raw / DATASET, {}, {}
    with Progress("exporting", len(division.used()), callback) as progress:
        for item in division.used():
            image, label = f"imagesTr/{item.name}_0000{ENDING}", f"labelsTr/{item.name}{ENDING}"
            hu, nodes, said = _sample(item, settings) if item.kind == "synthetic" else _case(item, settings)
            hu.array = np.rint(np.clip(hu.array, *settings.window)).astype(np.int16)
            write(folder / image, hu, said)
            write(folder / label, Volume((nodes.array > 0).astype(np.uint8), nodes.affine), said)
            listed[item.name] = {"images": [image], "label": label}
            hashes[item.name] = {"images": [sha256(folder / image)], "label": sha256(folder / label)}
            progress.step()
    write_json(folder / "dataset.json", {
        # By nnU-Net's rules a channel called CT is normalised as a CT: clipped to the 0.5 and 99.5 % quantiles of the
        # HU in nodes, then shifted and scaled by their mean and deviation. The quantiles lie within our window, so that
        # clipping to the window changes nothing for nnU-Net, and its own commands can take CTs as they are.
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "node": 1}, "numTraining": len(listed),
        "file_ending": ENDING, "overwrite_image_reader_writer": "SimpleITKIO", "name": "LNSynth", "dataset": listed,
        # What prediction needs to know besides, kept by nnU-Net with the model.
        "lnsynth": {"window": list(settings.window), "checkpoint": f"checkpoint_{settings.trainer.checkpoint}.pth",
                    "mirror": settings.trainer.mirror_prediction, "tiles": settings.trainer.tiles,
                    "trained_on": division.trained_on.plain()}})
    return hashes


def _case(item: Item, settings: SegmentSettings) -> tuple[Volume, Volume, str]:
    case = prepared_case(item, settings)
    said = mark_of(case.kind)
    hu = unscale_hu(case.ct(), case.info["window"])
    return Volume(hu, case.affine), Volume(case.nodes(), case.affine), said


def _sample(item: Item, settings: SegmentSettings) -> tuple[Volume, Volume, str]:
    if sha256(item.folder / "ct.nii.gz") != item.sha256:
        raise LNSynthError(f"{item.folder}: ct.nii.gz is not the one its provenance tells of; make the sample again.")
    said = mark()
    ct, nodes = (read(item.folder / f"{what}.nii.gz") for what in ("ct", "nodes"))
    if not in_place(read_record(item.folder)):
        return canonical(ct), canonical(nodes), said
    where = {role: str(item.folder / f"{role}.nii.gz") for role in ("ct", "nodes")}
    how, table = replace(preparation(settings), allow_no_nodes=True), LabelTable.load(settings.labels)
    arrays, info, hu = compute(checked(Case(item.name, ct, nodes), where, how, table), where, how, table)
    affine = np.array(info["affine"])
    return Volume(hu, affine), Volume(arrays["nodes"], affine), said
