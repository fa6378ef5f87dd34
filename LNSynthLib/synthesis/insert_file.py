"""Synthesis in place from file to file: read, check, insert or remove, write the CT and its provenance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..generators import model_folder
from ..images.checks import check_nodes
from ..images.ct_file import open_ct
from ..images.synthetic import sidecar
from ..images.volume import check_target
from ..masks.nodes import numbered
from ..masks.plausibility import check_plausible, doubts
from ..masks.read import read_anatomy, read_nodes, telling
from ..review.provenance import Sampled, description, provenance, replaced
from ..review.provenance import anonymous as nameless
from ..runtime.devices import pick
from ..runtime.events import Callback, Event, ignore
from ..runtime.files import atomic_path, check_apart, digest, sha256, write_json
from ..runtime.reproducible import exact
from .insert import InsertSettings, insert
from .machine_check import check_fits
from .variants.inputs import seen


def insert_file(generator: Path, ct: Path, nodes: Path, out: Path, settings: InsertSettings, *,
                anatomy: Path | None = None, anatomy_version: int = 2, only: Sequence[int] | None = None,
                remove: bool = False, segments: Sequence[str] = (), anyway: bool = False, anonymous: bool = False,
                device: str = "auto", callback: Callback = ignore) -> dict:
    """Makes (or removes) the nodes of a mask in a CT and writes it as `out`, `out`'s provenance beside it.

    Where `out` is the same kind of file as the CT, its header, voxel type and scaling stay, and so does every stored
    number away from the nodes. Arguments as for `insert`; segments: of a SEG or .seg.nrrd that are nodes; anyway: go on
    where nodes are doubted (`masks.plausibility`) or the machine is too small (`machine_check`); anonymous: no names of
    files in the record. Returns the content of the
    provenance file, with "file". Raises LNSynthError for inputs that do not fit together, before any work.
    """
    inputs = {"ct": ct, "nodes": nodes} | ({"anatomy": anatomy} if anatomy is not None else {})
    check_target(out)
    check_apart([out], inputs.values())
    check_fits(generator, 1, settings.steps, device, anyway)
    device = pick(device)
    callback(Event("loading the generator"))
    model, facts = model_folder.load(generator, device)
    if not model.samplers:
        settings = replace(settings, sampler="none", steps=1)
    callback(Event("reading the CT"))
    source = open_ct(ct)
    tell, organs = telling(callback), None
    known = seen(source, generator, tell)
    mask = read_nodes(nodes, source.stored, tell, source=ct, names=segments)
    check_nodes(mask, str(nodes))
    if anatomy is not None:
        organs, anatomy_version = read_anatomy(anatomy, source.stored, anatomy_version, tell, source=ct)
    mask = numbered(mask)
    every = set(np.unique(mask.array[mask.array > 0]).tolist())
    chosen = every if only is None else every & set(only)
    found = doubts(mask, source.stored, shown=chosen if remove else every - chosen, scaling=source.scaling,
                   organs=organs)
    check_plausible(found, str(nodes), anyway, tell)
    with exact():
        made = insert(source.stored, mask, model, settings, anatomy=organs, anatomy_version=anatomy_version, only=only,
                      remove=remove, scaling=source.scaling, device=device, name=str(nodes), callback=callback)

    def about(outputs: dict) -> dict:
        record = provenance(
            "removal" if remove else "insertion", facts,
            Sampled(settings.seed, settings.sampler, settings.steps, device), labels=model.form.labels,
            source={name: {"file": Path(p).name, "sha256": digest(p)} for name, p in inputs.items()} | known,
            condition={"settings": asdict(settings), "anatomy_version": anatomy_version, "patches": made.patches},
            outputs=outputs)
        return nameless(record) if anonymous else record

    source.remember(made.ct, made.patches)
    callback(Event("writing the CT"))
    return {"file": str(out),
            **write_recorded(out, lambda beside: source.write(beside, made.ct, description(facts)), about)}


def write_recorded(out: Path, write: Callable[[Path], None], about: Callable[[dict], dict]) -> dict:
    """Writes a synthetic CT and, beside it, its provenance; returns that.

    write: writes the CT to the path it is given; about(outputs): the record, outputs: {file name: SHA-256}
    """
    with atomic_path(out) as beside:
        write(beside)
        record = about({Path(out).name: sha256(beside)})
        # Before the CT gets its name: no synthetic CT is ever without it. Until then, and should this be killed, the
        # record of the CT that is there stays too: `read_provenance` takes the one that fits.
        write_json(sidecar(out), {**record, **replaced(out)})
    write_json(sidecar(out), record)
    return record
