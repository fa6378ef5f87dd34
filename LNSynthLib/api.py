"""The library for notebooks and scripts, as `import LNSynthLib as ln`: volumes in memory to volumes in memory.

    import LNSynthLib as ln

    ct, nodes = ln.read_ct("ct.nii.gz"), ln.read_nodes("nodes.nii.gz")
    made = ln.insert(ct, nodes, ln.load_generator())
    ln.write("synthetic.nii.gz", made)

Errors that a user can mend are LNSynthError, one sentence each. What a generator made is marked SYNTHETIC, and written
with its provenance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .cases.dataset import voxels_sha256
from .conditions import anatomy as organs
from .conditions.edit_nodes import NodeEdits, edited
from .conditions.transforms import VarySettings
from .evaluation.segmentation import CaseScore, score_case
from .generators import model_folder
from .images import checks, volume
from .images.ct_file import CTFile
from .images.synthetic import remember_mask
from .images.volume import Volume, canonical
from .masks.labels import LabelTable
from .masks.nodes import NodeMeasure, measure, numbered
from .masks.plausibility import check_plausible, doubts
from .masks.read import read_nodes as read_mask
from .phantom.phantom import Phantom, phantom
from .review.provenance import Sampled, description, provenance
from .runtime.devices import pick
from .runtime.errors import LNSynthError
from .runtime.events import Callback, ignore
from .runtime.reproducible import exact
from .runtime.settings import build
from .synthesis import insert as in_place
from .synthesis.insert import InsertSettings
from .synthesis.insert_file import write_recorded
from .synthesis.synthesize import SynthesizeSettings
from .synthesis.synthesize import synthesize as synthesize_patches
from .synthesis.variants.inputs import Files
from .synthesis.variants.make import variants
from .synthesis.variants.run import VariantSettings

NODE_TABLE = "abdomen17"  # knows fat, in which new nodes are placed


@dataclass(frozen=True, eq=False)
class LoadedGenerator:
    """A generator ready to sample: its folder, its network on a device, and the facts of its model.json."""

    folder: Path
    model: Any
    facts: dict
    device: Any

    def __repr__(self) -> str:
        form = self.model.form
        return (f"{self.facts['kind']} on {self.device}: patches of {' x '.join(map(str, form.patch))} voxels of "
                f"{form.spacing_mm:g} mm ({self.folder})")


@dataclass(frozen=True, eq=False)
class SyntheticCT:
    """A CT in which nodes were generated or removed.

    ct       HU, on the grid of the CT given; only voxels near the nodes differ from it
    nodes    the node mask, (X, Y, Z) instances
    patches  what was done: for each patch "nodes", "voxels_changed", "mean_hu_before", "mean_hu_after", "seed" and more
    """

    ct: Volume
    nodes: Volume
    patches: list[dict]
    generator: LoadedGenerator
    about: Callable[[dict], dict]  # file hashes -> provenance


def read_ct(path: str | Path) -> Volume:
    """A CT in HU: NIfTI, NRRD, MetaImage, or the folder of one DICOM series. Returns array (X, Y, Z) and affine (RAS+,
    mm). Raises LNSynthError for what is not a CT in HU."""
    ct = volume.read(Path(path))
    checks.check_ct(ct, str(path))
    return ct


def read_nodes(path: str | Path, ct: Volume | None = None, segments: Sequence[str] = ()) -> Volume:
    """Lymph nodes as instances 1..n (0 background), from a mask, a DICOM SEG or a .seg.nrrd; on the grid of `ct`, where
    it is given. A mask with one value is split into connected nodes. segments: names of those to take as nodes."""
    nodes = read_mask(Path(path), ct, _say, names=tuple(segments))
    checks.check_nodes(nodes, str(path))
    return numbered(nodes)


def read_anatomy(path: str | Path, ct: Volume | None = None, version: int = 2) -> Volume:
    """Organs as TotalSegmentator v2 ids (uint8), from its labels of that version, or from a file that names its labels;
    on the grid of `ct`, where it is given."""
    return organs.load(Path(path), ct, version, tell=_say)


def make_phantom(seed: int = 0, spacing: float | Sequence[float] = 2.0, nodes: int | None = None) -> Phantom:
    """A procedural abdomen with `.ct` (HU), `.anatomy` (TotalSegmentator v2 ids) and `.nodes` (instances): no patient's
    image. spacing: voxel size in mm; nodes: how many, 1 to 10 at random where None."""
    return phantom(seed, spacing, nodes)


def load_generator(folder: str | Path | None = None, device: str = "auto") -> LoadedGenerator:
    """A generator from its folder or a training run; the demo generator where None. device: auto, cpu, cuda, cuda:1 or
    mps. Raises LNSynthError where the folder is damaged or holds no generator."""
    path, where = model_folder.generator_path(folder), pick(device)
    model, facts = model_folder.load(path, where)
    return LoadedGenerator(model_folder.find(path), model, facts, where)


def insert(ct: Volume, nodes: Volume, generator: LoadedGenerator, anatomy: Volume | None = None, *,
           only: Sequence[int] | None = None, remove: bool = False, anyway: bool = False,
           settings: InsertSettings | None = None, callback: Callback = ignore) -> SyntheticCT:
    """Generates lymph nodes in place in a CT, or removes them; voxels away from the nodes keep their values.

    ct, nodes  on one grid; nodes: instances, or one value
    anatomy    TotalSegmentator v2 ids on that grid (recommended)
    only       numbers of the nodes to generate or remove; the others are taken to be in the CT already (None: all)
    anyway     go on where the mask does not look like lymph nodes of this CT
    settings   seed, sampler, steps, composite, margin_mm (`synthesis.insert.InsertSettings`)

    The same arguments give the same voxels, bit for bit, as `lnsynth insert` does with them. Raises LNSynthError.
    """
    settings = settings or InsertSettings()
    if not generator.model.samplers:
        settings = replace(settings, sampler="none", steps=1)
    for mask, name in ((nodes, "The node mask"), (anatomy, "The anatomy")):
        if mask is not None:
            checks.check_pair(ct, mask, name)
    checks.check_nodes(nodes, "The node mask")
    nodes = numbered(nodes)
    every = set(np.unique(nodes.array[nodes.array > 0]).tolist())
    chosen = every if only is None else every & set(only)
    check_plausible(doubts(nodes, ct, shown=chosen if remove else every - chosen, organs=anatomy), "The node mask",
                    anyway, _say)
    with exact():
        made = in_place.insert(ct, nodes, generator.model, settings, anatomy=anatomy, only=only, remove=remove,
                               device=generator.device, callback=callback)

    def about(outputs: dict) -> dict:
        volumes = {"ct": ct, "nodes": nodes} | ({"anatomy": anatomy} if anatomy is not None else {})
        return provenance(
            "removal" if remove else "insertion", generator.facts,
            Sampled(settings.seed, settings.sampler, settings.steps, generator.device),
            labels=generator.model.form.labels,
            source={role: {"voxels_sha256": voxels_sha256(given)} for role, given in volumes.items()},
            condition={"settings": asdict(settings), "anatomy_version": 2, "patches": made.patches}, outputs=outputs)

    CTFile(Path(), ct, (1.0, 0.0), None).remember(made.ct, made.patches)
    return SyntheticCT(made.ct, nodes, made.patches, generator, about)


def write(path: str | Path, what: Volume | SyntheticCT) -> Path:
    """Writes a volume as .nii, .nii.gz, .nrrd or .mha, whole or not at all; returns the path.

    A SyntheticCT is marked SYNTHETIC in its header, and its provenance lies beside it.
    """
    path = Path(path)
    volume.check_target(path)
    if isinstance(what, SyntheticCT):
        write_recorded(path, lambda beside: volume.write(beside, what.ct, description(what.generator.facts)),
                       what.about)
    else:
        volume.write(path, what)
    return path


def measure_nodes(nodes: Volume, anatomy: Volume | None = None) -> list[NodeMeasure]:
    """Volume (mL), short and long axis (mm, as in RECIST 1.1), position and, with the anatomy, the nearest organs of
    each node of a mask, in order of their numbers."""
    table = LabelTable.load(NODE_TABLE)
    labels = None if anatomy is None else table.from_totalsegmentator(anatomy.array)
    return measure(numbered(nodes).array, nodes.affine, labels, table)


def add_nodes(ct: Volume, anatomy: Volume, nodes: Volume | None = None, *, count: int = 1,
              short_axis_mm: float | None = None, seed: int = 0) -> Volume:
    """The node mask with `count` more nodes of random shape, where lymph nodes lie in the abdomen; no organ is covered.

    nodes: those there are (None: none yet); short_axis_mm: of the new ones (None: as of real nodes). Raises
    LNSynthError where not all of them find room.
    """
    edits = NodeEdits(add=count, short_axis_mm=short_axis_mm, seed=seed)
    mask, records = next(edited(nodes, ct, anatomy, LabelTable.load(NODE_TABLE), edits))
    if missing := [record["reason"] for record in records if not record["placed"]]:
        raise LNSynthError(f"{len(missing)} of {count} nodes found no room ({missing[0]}); add fewer or smaller ones, "
                           "or take another seed.")
    return _changed(mask, ct, nodes)


def vary_nodes(ct: Volume, anatomy: Volume, nodes: Volume, *, seed: int = 0, **how: float) -> Volume:
    """The node mask with every node changed at random: moved, turned, scaled, bent, or one of several removed.

    how: any of `conditions.transforms.VarySettings`, e.g. remove=0 or translation_mm=4.
    """
    edits = NodeEdits(vary=1, how=build(VarySettings, how, "vary_nodes"), seed=seed)
    mask, _ = next(edited(nodes, ct, anatomy, LabelTable.load(NODE_TABLE), edits))
    return _changed(mask, ct, nodes)


def make_variants(ct: str | Path, nodes: str | Path, out: str | Path, *, anatomy: str | Path | None = None,
                  generator: str | Path | None = None, device: str = "auto", callback: Callback = ignore,
                  **settings: Any) -> dict:
    """Several synthetic samples of one CT in the folder `out`, as `lnsynth variants` makes them.

    ct, nodes, anatomy: files; generator: a folder; settings: of `synthesis.variants.run.VariantSettings`, e.g. count=3,
    seed=1, vary={} to change the nodes at random. Returns {"made", "unchanged", "skipped", ...}.
    """
    files = Files(Path(ct), Path(nodes), anatomy=Path(anatomy) if anatomy is not None else None)
    return variants(model_folder.generator_path(generator), files, Path(out),
                    build(VariantSettings, settings, "make_variants"), device=device, callback=callback)


def synthesize(data: str | Path | Sequence[str | Path], out: str | Path, *, generator: str | Path | None = None,
               device: str = "auto", callback: Callback = ignore, **settings: Any) -> dict:
    """Synthetic patches of prepared data sets in the folder `out`, as `lnsynth synthesize` makes them.

    data: one data set or several; settings: of `synthesis.synthesize.SynthesizeSettings`, e.g. per_case=10, seed=1.
    Returns {"folder", "made", "unchanged", "replaced"}.
    """
    several = [data] if isinstance(data, str | Path) else data
    return synthesize_patches(model_folder.generator_path(generator), [Path(one) for one in several], Path(out),
                              build(SynthesizeSettings, settings, "synthesize"), device, callback)


def score_nodes(predicted: Volume, truth: Volume) -> CaseScore:
    """DSC, IOU, recall, precision, ASSD (mm) and which nodes were found, of a predicted mask against the true one.

    Both lie on one grid; truth: instances, or one value.
    """
    checks.check_pair(truth, predicted, "The predicted mask")
    predicted, truth = canonical(predicted), canonical(numbered(truth))
    return score_case(predicted.array, truth.array, truth.spacing)


def _changed(mask: np.ndarray, ct: Volume, before: Volume | None) -> Volume:
    """The new mask, remembered as one that holds what is not in the patient."""
    nodes = Volume(mask, ct.affine)
    remember_mask(nodes, before)
    return nodes


def _say(sentence: str) -> None:
    print(sentence)
