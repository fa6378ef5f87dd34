"""The whole chain on one CT, for people to look at: four variants of its nodes, a node put in place, a page."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ..cases.dataset import Case, Dataset
from ..cases.prepare import PrepareSettings, prepare
from ..cases.prepared import PreparedCase
from ..conditions.placement import add
from ..conditions.shape_prior import ShapePrior
from ..conditions.transforms import VarySettings, vary
from ..generators import model_folder
from ..images import synthetic
from ..images.boxes import box_at, padded
from ..images.checks import check_ct
from ..images.pictures import widest, write_png
from ..images.volume import Volume, canonical, read, write
from ..masks.labels import LabelTable
from ..masks.nodes import boxes, remove
from ..masks.read import read_anatomy, telling
from ..masks.shapes import on_grid
from ..phantom.phantom import phantom_dataset
from ..review.provenance import Sampled, description, prepared_source, provenance
from ..runtime.devices import pick
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress, ignore
from ..runtime.files import check_apart, write_text
from ..runtime.locks import alone_in
from ..runtime.reproducible import exact
from ..runtime.seeds import derive, rng
from ..synthesis.insert import InsertSettings
from ..synthesis.insert_file import insert_file
from ..synthesis.machine_check import check_fits
from ..synthesis.patch_draft import Draft
from ..synthesis.write_sample import to_hu, write_sample
from . import page

PHANTOM_MM = 1.5
VARIANTS = 4
NEW_NODE_MM = 13.0  # short axis of the node that is put in place: the median of real abdominal ones


def demo(out: Path, generator: Path, *, ct: Path | None = None, anatomy: Path | None = None, seed: int = 0,
         steps: int = 25, anyway: bool = False, device: str = "auto", callback: Callback = ignore) -> dict:
    """Writes `out`/index.html, montage.png and all that they show; returns {"page", "kind", "seconds"}.

    ct, anatomy  a CT and its TotalSegmentator v2 labels; without them, the phantom of `seed`
    anyway       go on where the machine is too small (`machine_check`)
    """
    check_fits(generator, VARIANTS + 1, steps, device, anyway)
    began, out, device = time.monotonic(), Path(out), pick(device)
    check_apart([out / name for name in ("data", "variants", "in-place", "index.html", "montage.png")],
                [path for path in (ct, anatomy, model_folder.find(generator)) if path is not None])
    model, facts = model_folder.load(generator, device)  # fails early where weights are missing
    form = model.form
    with alone_in(out, 0, "another demo is being made here; wait until it has ended, or choose another --out"):
        dataset, id = _dataset(out / "data", ct, anatomy, seed, callback)
        settings = PrepareSettings(spacing_mm=form.spacing_mm, window=form.window, labels=form.labels,
                                   name=f"{form.labels}-{form.spacing_mm:g}mm", allow_no_nodes=True,
                                   allow_no_anatomy=True)
        prepare(dataset, settings, callback=callback)
        case = PreparedCase.open(dataset.folder / "prepared" / settings.name / id)
        drafts = _variants(case, form, seed)
        made = {}
        with exact(), Progress("synthesising", len(drafts) * steps, callback) as progress:
            for name, draft in drafts.items():
                made[name] = _sample(name, draft, model, facts, out, seed, steps, device, progress)
        placed = _in_place(dataset, case, form, generator, out, seed, steps, anyway, str(device), callback)
        seconds = time.monotonic() - began
        montage = page.variants_picture(drafts, made)
        write_png(out / "montage.png", montage, description(facts))
        write_text(out / "index.html", page.page(case.kind, drafts, made, montage, placed, facts, seconds))
    return {"page": str(out / "index.html"), "kind": case.kind, "seconds": round(seconds, 1)}


def _dataset(folder: Path, ct: Path | None, anatomy: Path | None, seed: int, callback) -> tuple[Dataset, str]:
    """The data set of one case, and that case's id."""
    if ct is None:
        if anatomy is not None:
            raise LNSynthError("--anatomy needs the CT it belongs to; give --ct too.")
        dataset = phantom_dataset(folder / "phantom", 1, seed, PHANTOM_MM, nodes=8, callback=callback)
        return dataset, f"phantom-{seed}-0000"
    volume = read(ct)
    check_ct(volume, str(ct))
    home = folder / "ct"
    dataset = Dataset.open_or_create(home)
    about: dict = {"source": Path(ct).name} | ({"synthetic": said} if (said := synthetic.kind(ct, volume)) else {})
    organs = None
    if anatomy is not None:
        organs, about["anatomy_version"] = read_anatomy(anatomy, volume, 2, telling(callback), source=ct)
    dataset.add(Case("ct", volume, None, organs, about))
    return dataset, "ct"


def _variants(case: PreparedCase, form, seed: int) -> dict[str, Draft]:
    """Four node masks for one patch, by name. Where the case has no nodes, new ones are placed first."""
    table, anatomy, nodes = LabelTable.load(form.labels), case.anatomy(), case.nodes()
    records: list[dict] = []
    if not nodes.any():
        nodes, records = add(nodes, anatomy, case.spacing, table, 5, rng(seed, "demo nodes"), ShapePrior.load())
        if not nodes.any():
            raise LNSynthError("There is no room for a lymph node in this CT; give one of the abdomen, with --anatomy.")
    start = _richest(nodes, form.patch)
    box = box_at(start, form.patch)
    base = Draft(case, form, start, case.anatomy(box), padded(nodes, box), records)

    def change(name, **settings):
        changed, how = vary(base.nodes, base.anatomy, case.spacing, rng(seed, "demo", name),
                            VarySettings(**settings), table)
        return base.with_nodes(changed, how)

    # The node that goes is the one most seen in the picture's slice; the two that come are those nearest to it.
    level = widest(base.nodes, "axial")
    seen = np.bincount(base.nodes[:, :, level].ravel(), minlength=2)
    gone = int(seen[1:].argmax()) + 1
    fewer = remove(base.nodes, gone)
    more, added = add(fewer, base.anatomy, case.spacing, table, 8, rng(seed, "demo add"), ShapePrior.load())
    added = sorted((a for a in added if a["placed"]), key=lambda a: abs(a["centroid_index"][2] - level))[:2]
    swapped = np.where(np.isin(more, [a["id"] for a in added]) | (fewer > 0), more, 0).astype(more.dtype)
    records = [{"id": gone, "operation": "removed"}] + [{"operation": "added", **a} for a in added]
    return {
        "as they are": base,
        "affine": change("affine", elastic=0.0, remove=0.0),
        "elastic": change("elastic", elastic=1.0, remove=0.0, elastic_amplitude=0.25),
        "one gone, two new": base.with_nodes(swapped, records),
    }


def _richest(nodes: np.ndarray, patch) -> tuple[int, int, int]:
    """First voxel of the patch, centred on one of the nodes, that holds most of all of them."""
    most, best = -1, (0, 0, 0)
    for box in boxes(nodes).values():
        i, j, k = [int(np.clip((b.start + b.stop - n) // 2, min(0, m - n), max(0, m - n)))
                 for b, n, m in zip(box, patch, nodes.shape, strict=True)]
        held = int(np.count_nonzero(padded(nodes, box_at((i, j, k), patch))))
        if held > most:
            most, best = held, (i, j, k)
    return best


def _sample(name: str, draft: Draft, model, facts, out: Path, run_seed: int, steps: int, device,
            progress) -> np.ndarray:
    """Samples one variant, writes its folder and returns its HU."""
    seed = derive(run_seed, "demo", name)
    scaled = model.sample(draft.condition().to(device), seeds=[seed], steps=steps,
                          callback=lambda *_: progress.step())
    hu = to_hu(scaled.float().cpu().numpy()[0, 0], model.form.window)

    def about(outputs: dict) -> dict:
        return provenance(
            "patch", facts, Sampled(seed, "dpmpp", steps, device, {"run_seed": run_seed, "sample": name}),
            labels=model.form.labels, source=prepared_source(draft.case),
            condition={"start": list(draft.start), "shape": list(hu.shape), "nodes": draft.records},
            outputs=outputs)

    write_sample(out / "variants" / name.replace(",", "").replace(" ", "-"), draft, hu, facts, about)
    return hu


def _in_place(dataset: Dataset, case: PreparedCase, form, generator: Path, out: Path, seed: int, steps: int,
              anyway: bool, device: str, callback) -> dict:
    """Puts one new node into the full CT; {"before", "after", "nodes" (canonical volumes), "record", "placement"}."""
    table, nodes = LabelTable.load(form.labels), case.nodes()
    more, records = add(nodes, case.anatomy(), case.spacing, table, 1, rng(seed, "demo in place"), ShapePrior.load(),
                        NEW_NODE_MM)
    if not records[0]["placed"]:
        raise LNSynthError(f"There was no room for a new node in place ({records[0]['reason']}); try another --seed.")
    path = dataset.checked_path(case.id, "ct")
    assert path is not None  # every case has a CT
    source, new = read(path), np.where(more == records[0]["id"], 1, 0).astype(np.uint8)
    mask = Volume(on_grid(Volume(new, case.affine), source.affine, source.shape), source.affine)
    folder = out / "in-place"
    write(folder / "node.nii.gz", mask, synthetic.mark("lymph node to insert"))
    organs = dataset.checked_path(case.id, "anatomy")
    record = insert_file(generator, path, folder / "node.nii.gz", folder / "ct.nii.gz",
                         InsertSettings(seed=seed, steps=steps), anatomy=organs, anyway=anyway, device=device,
                         callback=callback)
    views = {name: canonical(v) for name, v in
             (("before", source), ("after", read(folder / "ct.nii.gz")), ("nodes", mask))}
    return {**views, "record": record, "placement": records[0]}
