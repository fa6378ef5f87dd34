"""An experiment's folder for tests of its report: small cases, made-up predictions and samples, real functions."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import yaml
from made_prepared import enlist
from scipy import ndimage

from LNSynthLib.cases.prepared import PreparedCase, write_prepared
from LNSynthLib.conditions.encode import scale_hu, unscale_hu
from LNSynthLib.conditions.form import DataForm
from LNSynthLib.evaluation.generation import evaluate_samples, write_images
from LNSynthLib.evaluation.segmentation import score_case
from LNSynthLib.experiment import run as runner
from LNSynthLib.experiment.cells import layout_of
from LNSynthLib.experiment.data import preparations
from LNSynthLib.experiment.plan import load_plan
from LNSynthLib.experiment.work import Context
from LNSynthLib.images.volume import read
from LNSynthLib.masks.labels import BODY, LabelTable
from LNSynthLib.masks.nodes import records
from LNSynthLib.review.provenance import prepared_source, provenance
from LNSynthLib.review.samples import samples
from LNSynthLib.runtime.events import ignore
from LNSynthLib.runtime.files import read_json, write_json, write_text
from LNSynthLib.segmentation.filter import filter_samples
from LNSynthLib.synthesis.patch_draft import Draft
from LNSynthLib.synthesis.write_sample import to_hu, write_sample

WINDOW, SPACING, SIDE = (-120.0, 240.0), 4.0, 16
TABLE = LabelTable.load("abdomen14")
FORM = DataForm("abdomen14", TABLE.channels, False, SPACING, WINDOW, (SIDE,) * 3)
MADE_BY = {"kind": "lnddpm", "weights_sha256": "0" * 64, "settings": {}}
FILES = {"absent": ["elsewhere"], "features": None, "data": [
    {"name": "phantoms", "phantoms": {"train": 1, "test": 3}, "painted": [], "content": []},
    {"name": "painted", "phantoms": {}, "painted": [{"ct": "a"}], "content": ["hash"]}]}
CASES = {  # id: (data set, kind, patient, split)
    "phantom-0": (0, "phantom", "phantom-0", "train"), "phantom-1": (0, "phantom", "phantom-1", "test"),
    "phantom-2": (0, "phantom", "phantom-2", "test"), "phantom-3": (0, "phantom", "phantom-3", "test"),
    "painted-0": (1, "pseudo", "ct-0", "train"), "painted-1": (1, "pseudo", "ct-1", "test"),
    "painted-2": (1, "pseudo", "ct-1", "test")}
TESTED = [name for name, (*_, split) in CASES.items() if split == "test"]

PLAN = {
    "about": "a made-up experiment <of tests>",
    "data": [{"name": "phantoms", "phantoms": {"train": 1, "test": 3}},
             {"name": "painted", "painted": [{"ct": "a", "anatomy": "b", "variants": 1}], "optional": True}],
    "prepare": {"spacing_mm": SPACING},
    "methods": {"gan": {"kind": "pix2pix", "preset": "mini"}, "lnddpm": {"kind": "lnddpm", "preset": "mini"}},
    "budget": {"steps": 40}, "multiple": 2, "trainer": "mini", "filter_methods": ["lnddpm"], "examples": 3,
    "tables": {
        "images": {"title": "Table 1. Images", "measure": "images", "rows": [
            {"label": "GAN", "method": "gan", "published": {"mse_01": 0.0421}},
            {"label": "LN-DDPM", "method": "lnddpm"}]},
        "main": {"title": "Table 2. Segmentation", "reference": "Both", "rows": [
            {"label": "Real", "strategy": "real", "published": {"dsc": 0.5273}},
            {"label": "GAN", "method": "gan"}, {"label": "LN-DDPM", "method": "lnddpm"},
            {"label": "Both", "method": "lnddpm", "strategy": "both", "published": {"dsc": 0.5655}}]}}}


def make_experiment(out: Path, seeds=(0,)) -> SimpleNamespace:
    """A finished experiment: out, plan, layout, cases, and the predictions {(label, seed): {case: (nodes, p)}}."""
    write_text(out / "plan.yaml", yaml.safe_dump(PLAN | {"seeds": list(seeds)}))
    plan = load_plan(out / "plan.yaml")
    write_json(out / "plan.json", {"plan": {**yaml.safe_load((out / "plan.yaml").read_text())}, "files": FILES})
    whole = layout_of(plan, FILES)
    for number, cell in enumerate(whole.data):
        _data(out, plan, number, cell)
    name = preparations(plan.prepare)[1].name
    cases = {case: PreparedCase.open(_dataset(out, whole.data[CASES[case][0]]) / "prepared" / name / case)
             for case in CASES}
    for cell in whole.cells:
        if cell.kind in MAKE:
            MAKE[cell.kind](out, cell, cases, whole)
    predicted = {}
    for outcome in whole.tables["main"]:
        for seed, cell in zip(plan.seeds, outcome.predictions, strict=True):
            predicted[outcome.row.label, seed] = _predict(out, cell, cases, [len(predicted), seed])
    for cell in whole.cells:
        if cell.kind == "scores":
            runner._make(cell, Context(plan, out), out, ignore)
    return SimpleNamespace(out=out, plan=plan, layout=whole, cases=cases, predicted=predicted)


def forget(out: Path, *cells) -> None:
    """These are not done any more."""
    for cell in cells:
        (cell.folder(out) / "cell.json").unlink()


def finish(out: Path, cell, result: dict, seconds: float = 60.0) -> None:
    """As the runner writes the cell."""
    write_json(cell.folder(out) / "cell.json", {
        "kind": cell.kind, "name": cell.name, "key": cell.key, "amount": cell.amount, "settings": cell.settings,
        "inputs": {role: str(c.folder(out).relative_to(out)) for role, c in cell.inputs.items()},
        "seconds": seconds, "lnsynth": "0.0.test", "machine": "test", "result": result})


def _dataset(out, cell) -> Path:
    return cell.folder(out) / "dataset"


def _data(out, plan, number, cell):
    chosen = {name: facts for name, facts in CASES.items() if facts[0] == number}
    kind = next(iter(chosen.values()))[1]
    finish(out, cell, {"dataset": str(_dataset(out, cell)), "kind": kind, "name": cell.name, "note": f"note of {kind}",
                       "cases": [{"id": name, "patient": facts[2], "split": facts[3],
                                  "sha256": {"ct": f"ct-{name}", "nodes": f"nodes-{name}"}}
                                 for name, facts in chosen.items()]})
    for settings in preparations(plan.prepare):
        for name, facts in chosen.items():
            case = write_case(_dataset(out, cell), settings, name, *facts[1:])
            enlist(_dataset(out, cell), name, facts[2], facts[3], unscale_hu(case.ct(), WINDOW), kind, case.affine)


def write_case(dataset, settings, name, kind, patient, split, shape=(30, 28, 26)):
    """A lump of liver in soft tissue, and three nodes of 8, 12 and 20 mm."""
    random = np.random.default_rng([ord(letter) for letter in name])
    lump = ndimage.gaussian_filter(random.normal(size=shape), 4)
    anatomy = np.where(lump > np.quantile(lump, 0.7), TABLE.index("liver"), BODY).astype(np.uint8)
    nodes, corner = np.zeros(shape, np.uint16), random.integers(0, 3, 3)
    for id, (place, size) in enumerate((((8, 8, 8), 2), ((18, 8, 10), 3), ((10, 17, 12), 5)), 1):
        nodes[tuple(slice(p + c, p + c + size) for p, c in zip(place, corner, strict=True))] = id
    anatomy[ndimage.binary_dilation(nodes, iterations=2)] = BODY
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    info = {"id": name, "patient": patient, "split": split, "kind": kind, "window": list(WINDOW),
            "labels": "abdomen14", "settings": {"name": settings.name, "spacing_mm": SPACING, "labels": "abdomen14",
                                                "window": list(WINDOW)}, "key": f"key-{name}", "sha256": {},
            "spacing_mm": [SPACING] * 3, "affine": affine.tolist(), "nodes": records(nodes, affine),
            "organ_hu": [None] * TABLE.channels, "node_hu": 60.0}
    return write_prepared(dataset / "prepared" / settings.name / name, scan(anatomy, nodes, random), anatomy, nodes,
                          info)


def scan(anatomy, nodes, random):
    hu = np.select([nodes > 0, anatomy == TABLE.index("liver")], [70.0, 110.0], -60.0)
    return scale_hu(ndimage.gaussian_filter(hu, 0.5) + random.normal(0, 12, hu.shape), WINDOW)


def _predict(out, cell, cases, seed) -> dict:
    """Nodes shifted and some of them lost, a false alarm, and their blurred mask as probability."""
    made, random = {}, np.random.default_rng(seed)
    for name in TESTED:
        nodes = cases[name].nodes()
        kept = np.isin(nodes, [i for i in (1, 2, 3) if random.random() < 0.7])
        found = np.roll(kept, random.integers(-1, 2, 3), (0, 1, 2))
        if random.random() < 0.6:
            found[2:4, 20:23, 18:20] = True
        chance = np.clip(ndimage.gaussian_filter(found.astype(np.float32), 0.6) + 0.4 * found, 0, 1)
        instances = ndimage.label(found)[0].astype(np.uint16)
        made[name] = instances, chance.astype(np.float16).astype(np.float32)
        cell.folder(out).mkdir(parents=True, exist_ok=True)
        np.savez_compressed(cell.folder(out) / f"{name}.npz", nodes=instances, probability=chance.astype(np.float16))
    finish(out, cell, {"cases": TESTED})
    return made


def _generator(out, cell, cases, whole):
    steps = cell.settings["training"]["steps"]
    log = [json.dumps({"step": i + 1, "loss": 1 / (i + 1), "seconds": 0.5 * (i + 1)}) for i in range(steps)]
    write_text(cell.folder(out) / "run" / "log.jsonl", "\n".join(log) + "\n")
    finish(out, cell, {"steps": steps, "loss": 1 / steps, "kind": "lnddpm", "parameters": 1_500_000,
                       "training_flops": 3 * 10**12})


def _segmenter(out, cell, cases, whole):
    log = [json.dumps({"epoch": n, "pseudo_dice": None if n == 1 else n / 10}) for n in (1, 2, 3)]
    write_text(cell.folder(out) / "run" / "log.jsonl", "\n".join(log) + "\n")
    finish(out, cell, {"versions": {"nnunetv2": "2.0.test", "torch": "2.1.test"}})


def _samples(out, cell, cases, whole):
    """A patch of each case, blurred by GANs, grained anew by others."""
    split = "test" if cell.kind == "twins" else "train"
    random = np.random.default_rng([len(cell.name), len(cell.kind)])
    for name in (name for name, facts in CASES.items() if facts[3] == split):
        start = (6, 6, 5)
        box = tuple(slice(s, s + SIDE) for s in start)
        anatomy, nodes = cases[name].anatomy(box), cases[name].nodes(box)
        made = (ndimage.gaussian_filter(cases[name].ct(box), 1) if cell.name.startswith("gan")
                else scan(anatomy, nodes, random))

        def about(outputs, name=name, start=start):
            return provenance("patch", MADE_BY, labels="abdomen14", seed=1, sampler="dpmpp", steps=2, device="cpu",
                              source=prepared_source(cases[name]), outputs=outputs,
                              condition={"start": list(start), "shape": [SIDE] * 3, "nodes": []})

        write_sample(cell.folder(out) / "samples" / f"{name}-000",
                     Draft(cases[name], FORM, start, anatomy, nodes, []), to_hu(made, WINDOW), MADE_BY, about)
    finish(out, cell, {"samples": len(samples(cell.folder(out) / "samples"))}, seconds=8.0)


def _measured(out, cell, folder, whole) -> dict:
    measured = evaluate_samples(folder, [_dataset(out, data) for data in whole.data])
    write_images(cell.folder(out), measured)
    return {"summary": measured["summary"]}


class Judge:
    """Finds what is bright and no larger than a node."""

    identity = "judge"

    def predict(self, volume):
        return SimpleNamespace(instances=ndimage.label((volume.array > 30) & (volume.array < 95))[0])


def _images(out, cell, cases, whole):
    folder = cell.inputs["twins"].folder(out) / "samples"
    found = []
    for sample in samples(folder):
        nodes = read(sample / "nodes.nii.gz")
        score = score_case(Judge().predict(read(sample / "ct.nii.gz")).instances, nodes.array, nodes.spacing)
        found.append({"sample": sample.name, "case": read_json(sample / "provenance.json")["source"]["case"],
                      "score": score.to_dict()})
    finish(out, cell, {**_measured(out, cell, folder, whole), "nodes": found})


def _memorisation(out, cell, cases, whole):
    finish(out, cell, _measured(out, cell, cell.inputs["pairs"].folder(out) / "samples", whole))


def _filter(out, cell, cases, whole):
    finish(out, cell, filter_samples(cell.inputs["pairs"].folder(out) / "samples", Judge(), cell.settings["threshold"]))


MAKE = {"generator": _generator, "segmenter": _segmenter, "pairs": _samples, "twins": _samples, "images": _images,
        "memorisation": _memorisation, "filter": _filter}
