"""Write a synthetic sample: one folder with CT, nodes, anatomy, montage and provenance, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..conditions.encode import unscale_hu
from ..images import pictures
from ..images.synthetic import BANNER, remember, remember_mask
from ..images.volume import Volume, write
from ..masks.labels import LabelTable
from ..review.provenance import description
from ..review.samples import read_record
from ..runtime.errors import LNSynthError
from ..runtime.files import atomic_folder, sha256, write_json
from .patch_draft import Draft


def to_hu(sample: np.ndarray, window) -> np.ndarray:
    """[-1, 1] to whole HU, int16."""
    return np.rint(unscale_hu(sample, window)).astype(np.int16)


def write_sample(folder: Path, draft: Draft, hu: np.ndarray, facts: dict, about,
                 before: np.ndarray | None = None) -> None:
    """Writes a sample's folder; `about(outputs) -> dict` makes its provenance from the files' SHA-256.

    ct.nii.gz (HU), nodes.nii.gz (instances, with the ids they have in the case) and anatomy.nii.gz (TotalSegmentator v2
    ids) lie on the patch's grid. before: nodes that the source CT shows in the patch; None: the case's own.
    """
    table = LabelTable.load(draft.form.labels)
    said = description(facts)
    ct, nodes = Volume(hu, draft.affine), Volume(draft.nodes.astype(np.uint16), draft.affine)
    remember(ct)  # before there is a file of it
    remember_mask(nodes, before=Volume(draft.case.nodes(draft.box) if before is None else before, draft.affine))
    with atomic_folder(folder) as beside:
        write(beside / "ct.nii.gz", ct, said)
        write(beside / "nodes.nii.gz", nodes, said)
        write(beside / "anatomy.nii.gz", Volume(table.to_totalsegmentator(draft.anatomy), draft.affine), said)
        pictures.write_png(beside / "montage.png", montage(draft, hu, before), said)
        seal(beside, about)


def seal(folder: Path, about) -> None:
    """Writes the provenance of a sample's folder, all of whose other files are there; `about` as for `write_sample`."""
    outputs = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    write_json(folder / "provenance.json", about(outputs))


def standing(folder: Path, key: str) -> Literal["whole", "damaged", "changed", "other"]:
    """What a folder holds of the sample that `key` (see `synthesize.Job`) stands for.

    whole    every file as it was made
    damaged  a file is missing, the others are as they were made
    changed  a file has other content, as one that a person corrected
    other    not this sample
    """
    try:
        record = read_record(folder)
        if record.get("key") != key:
            return "other"
        outputs = record.get("outputs", {})
        there = {name: (folder / name).is_file() for name in outputs}
        if any(sha256(folder / name) != outputs[name] for name in there if there[name]):
            return "changed"
        return "whole" if all(there.values()) else "damaged"
    except LNSynthError:
        return "other"


def is_whole(folder: Path, key: str) -> bool:
    """Whether the folder holds the complete sample that `key` stands for, every file as it was made."""
    return standing(folder, key) == "whole"


def montage(draft: Draft, hu: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """Real CT, condition and synthetic CT in three planes through the nodes, as one picture."""
    real = unscale_hu(draft.case.ct(draft.box), draft.form.window)
    before = draft.case.nodes(draft.box) if before is None else before
    return compare(real, before, hu, draft.nodes, draft.anatomy, LabelTable.load(draft.form.labels),
                   draft.case.spacing, draft.nodes if draft.nodes.any() else before, draft.case.kind,
                   f"{draft.case.id}, patch at {draft.start}, {draft.case.spacing[0]:g} mm")


def compare(real: np.ndarray, before: np.ndarray, hu: np.ndarray, nodes: np.ndarray, labels: np.ndarray,
            table: LabelTable, spacing, through: np.ndarray, kind: str, caption: str) -> np.ndarray:
    """A picture: source CT with the nodes it shows, condition, synthetic CT with its nodes and without.

    Arrays (X, Y, Z) of one canonical grid: real, hu in HU; before, nodes instances; labels ids of `table`; through: the
    mask of which each plane shows most. kind: of the source (`cases.dataset.KINDS`).
    """
    colors, rows = {label.id: label.color for label in table.labels if label.id > 1}, []
    for plane in pictures.PLANES:
        size: dict[str, Any] = {"mm_per_pixel": 0.5, "index": pictures.widest(through, plane), "plane": plane}
        rows.append([
            pictures.view(real, spacing, nodes=before, **size),
            pictures.view(real, spacing, nodes=nodes, labels=labels, colors=colors, **size),
            pictures.view(hu, spacing, nodes=nodes, **size),
            pictures.view(hu, spacing, **size)])
    titles = {"phantom": "source (PHANTOM)", "pseudo": "source (painted nodes)", "synthetic": "source (SYNTHETIC)"}
    return pictures.montage(rows, list(pictures.PLANES),
                            [titles.get(kind, "source CT"), "condition", "with its mask", "synthetic"],
                            banner=BANNER, caption=caption)
