"""Records, tables, settings and weights for fuzz_readers.py: whole ones, LNSynth's readers, and independent ones."""

import csv
import json
import re
import shutil
import struct
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from fuzz_damages import Kind, files, on_bytes, on_json, on_lines, same
from fuzz_images import SHAPE, ct, mask

from LNSynthLib.cases import fingerprint
from LNSynthLib.cases.dataset import Case, Dataset
from LNSynthLib.cases.importers import pair_by_table
from LNSynthLib.cases.prepare import PrepareSettings, prepare
from LNSynthLib.cases.prepared import PreparedCase
from LNSynthLib.cases.trained_on import TrainedOn
from LNSynthLib.conditions.form import DataForm
from LNSynthLib.conditions.shape_prior import ShapePrior
from LNSynthLib.experiment.plan import load_plan
from LNSynthLib.experiment.work import dataset_of, read_cell
from LNSynthLib.generators import model_folder
from LNSynthLib.images.volume import Volume, write
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.review.samples import pair_id, read_record
from LNSynthLib.review.standings import read_filter
from LNSynthLib.review.verdicts import history
from LNSynthLib.runtime.content import check
from LNSynthLib.runtime.files import read_json, sha256, write_json
from LNSynthLib.runtime.npz import read_npz
from LNSynthLib.runtime.settings import resources
from LNSynthLib.segmentation import model as segmenter
from LNSynthLib.segmentation.settings import load_settings
from LNSynthLib.synthesis.patch_draft import prepared_cases
from LNSynthLib.synthesis.write_sample import standing
from LNSynthLib.training import checkpoints
from LNSynthLib.training.ema import MovingAverage
from LNSynthLib.training.settings import load_preset

# Data sets and what is made of them

def small_case() -> Case:
    z = np.indices((24, 24, 24))
    hu = np.where(((z - 12) ** 2)[:2].sum(0) < 100, 40, -1000).astype(np.int16)
    nodes = (((z - 12) ** 2).sum(0) < 9).astype(np.uint16)
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    return Case("a", Volume(hu, grid), Volume(nodes, grid), Volume(np.zeros(hu.shape, np.uint8), grid))


def make_dataset(folder: Path) -> Dataset:
    dataset = Dataset.create(folder / "data")
    dataset.add(small_case())
    return dataset


def manifest(folder: Path):
    dataset = Dataset.open(folder / "data")
    for entry in dataset.cases():
        for role in entry["files"]:
            dataset.checked_path(entry["id"], role)
    return dataset.manifest


def plain_json(name: str):
    return lambda folder: json.loads((folder / name).read_text())


def make_prepared(folder: Path) -> None:
    prepare(make_dataset(folder), PrepareSettings(spacing_mm=2.0, margin_mm=4.0))
    shutil.move(folder / "data" / "prepared" / "default" / "a", folder / "a")
    shutil.rmtree(folder / "data")
    (folder / "a" / "report.png").unlink()


def prepared(folder: Path):
    case = PreparedCase.open(folder / "a")
    return case.info, case.ct(), case.nodes((slice(-2, 4),) * 3), case.anatomy()


def make_preparation(folder: Path) -> None:
    prepare(make_dataset(folder), PrepareSettings(spacing_mm=2.0, margin_mm=4.0))


def preparation(folder: Path):
    form = DataForm("abdomen14", 14, False, 2.0, (-120.0, 240.0), (8,) * 3)
    return [case.id for case in prepared_cases([folder / "data"], form, "train")]


# Settings, tables, samples

def copied(source: Path, name: str):
    return lambda folder: shutil.copy(source, folder / name) and None


def same_settings(content, said) -> bool:
    """Whether what a YAML file says is in the settings that were read of it."""
    if isinstance(said, dict):
        return isinstance(content, dict) and all(key in content and same_settings(content[key], value)
                                                 for key, value in said.items())
    if isinstance(said, list):
        return isinstance(content, list | tuple) and len(content) == len(said) and all(
            map(same_settings, content, said))
    if isinstance(content, float) and isinstance(said, str):
        return content == float(said) or content != content
    return content == said or content != content and said != said


def by_yaml(name: str):
    return lambda folder: yaml.safe_load((folder / name).read_text(encoding="utf-8"))


def same_labels(content, said) -> bool:
    return len(content["labels"]) == len(said["labels"]) and content["name"] == str(said["name"]) and all(
        label["name"] == str(entry["name"]) and label["hu"] == float(entry["hu"]) and label["id"] == int(entry["id"])
        for label, entry in zip(content["labels"], said["labels"], strict=True))


def make_pairs(folder: Path) -> None:
    rows = ["image,nodes,id,patient,split,source"]
    for n in range(3):
        for place in ("images", "masks"):
            (folder / place).mkdir(exist_ok=True)
            (folder / place / f"{n}.nii.gz").write_bytes(b"")
        rows.append(f"{n}.nii.gz,{n}.nii.gz,case-{n},p{n},train,hospital {n}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")


def by_csv(name: str, columns: tuple[str, ...]):
    def content(folder: Path):
        text = (folder / name).read_bytes().decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        rows = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)
        rows.fieldnames = [column.strip().lower().removeprefix("'") for column in rows.fieldnames]
        return [[(row.get(column) or "").strip() for column in columns] for row in rows
                if any((value or "").strip() for value in row.values() if not isinstance(value, list))]
    return content


PAIRS = ("image", "nodes", "id", "patient", "split", "source")
DECISIONS = ("sample", "verdict", "note", "time", "reviewer", "pair")


def pairs_table(folder: Path):
    return [[str(item.image.relative_to(folder / "images")), str(item.nodes.relative_to(folder / "masks")), item.id,
             item.patient, item.split, item.source]
            for item in pair_by_table(folder / "pairs.csv", folder / "images", folder / "masks")]


def same_rows(content, said) -> bool:
    def plain(value: str) -> str:  # numbers as they are written shortest
        return re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):g}", value.removeprefix("'"))

    return len(content) == len(said) and all(plain(str(mine)).lower() == plain(theirs).lower() or not theirs
                                             for row, other in zip(content, said, strict=True)
                                             for mine, theirs in zip(row, other, strict=True))


def make_review(folder: Path) -> None:
    lines = [",".join(DECISIONS)]
    for n in range(3):
        make_sample(folder / f"s-{n}")
        lines.append(f"s-{n},accept,fine,2025-01-31T16:05:00Z,reader 1,{pair_id(folder / f's-{n}')}")
    (folder / "review.csv").write_text("\r\n".join(lines) + "\r\n")


def make_filter(folder: Path) -> None:
    (folder / "filter.csv").write_text(
        "sample,kept,least_coverage,coverage,threshold,rule,segmenter,reason,pair\n"
        "s-0,yes,0.8,1:0.8 2:0.9,0.7,every,abc,,pair-1\ns-1,no,0.1,1:0.1,0.7,every,abc,missed,pair-2\n")


def filtered(folder: Path):
    return [[v.sample, {True: "yes", False: "no"}[v.kept], " ".join(f"{n}:{c}" for n, c in v.coverage.items()),
             str(v.threshold), v.rule, v.segmenter, v.reason, v.pair] for v in read_filter(folder).values()]


def make_sample(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write(folder / "ct.nii.gz", ct())
    write(folder / "nodes.nii.gz", mask(np.uint16))
    write_json(folder / "provenance.json", {
        "key": "k", "synthetic": True, "what": "patch", "source": {
            "case": "a", "kind": "real", "sha256": {"ct": "0"}, "prepared_key": "k",
            "prepared_settings": {"name": "default", "labels": "abdomen14"}},
        "generator": {"kind": "lnddpm", "settings": {}, "trained_on": None}, "sampling": {"seed": 1, "sample": 0},
        "condition": {"start": [0, 0, 0], "shape": [*SHAPE]},
        "nodes": [{"id": 1, "state": "made", "centroid_mm": [1.0, 2.0, 3.0], "volume_ml": 1.0}],
        "outputs": {path.name: sha256(path) for path in files(folder)}})


def sample(folder: Path):
    return read_record(folder / "s"), pair_id(folder / "s"), standing(folder / "s", "k")


# Weights

TINY = {"form": {"patch": [16] * 3}, "denoiser": {"channels": [4, 8], "blocks": 1, "groups": 2, "heads": 1,
                                                  "head_width": 4, "token_width": 4}, "timesteps": 20}


def make_generator(folder: Path) -> None:
    part = {"salt": "s", "cases": ["c"], "patients": ["p"], "voxels": ["0" * 64]}
    model_folder.save(folder / "g", model_folder.create("lnddpm", TINY), {"training": {"step": 3}},
                    trained_on=TrainedOn((part,)))


def generator(folder: Path):
    made, about = model_folder.load(folder / "g")
    TrainedOn.read(about.get("trained_on"), folder / "g", f"the generator {folder / 'g'}")
    return about, sum(float(tensor.double().sum()) for tensor in made.state_dict().values())


def generator_by_hand(folder: Path):
    content = (folder / "g" / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    total = sum(float(np.frombuffer(content[8 + size:][slice(*said["data_offsets"])], "<f4").astype(float).sum())
                for name, said in json.loads(content[8:8 + size]).items() if name != "__metadata__")
    return json.loads((folder / "g" / "model.json").read_text()), total


def training():
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    return net, {"net": torch.optim.Adam(net.parameters())}, MovingAverage(net.parameters(), 0.9)


def make_checkpoint(folder: Path) -> None:
    net, optimizers, ema = training()
    net(torch.ones(1, 3)).sum().backward()
    optimizers["net"].step()
    checkpoints.write(folder, checkpoints.gather(net, optimizers, ema), {"step": 7, "seconds": 1.5})


def restored(folder: Path):
    net, optimizers, ema = training()
    state = checkpoints.restore(folder / "checkpoints" / "step-00000007", net, optimizers, ema)
    return state, [p.detach().numpy() for p in net.parameters()]


def make_arrays(folder: Path) -> None:
    np.savez_compressed(folder / "a.npz", nodes=mask().array, probability=np.linspace(0, 1, 99, dtype=np.float16))


def make_prints(folder: Path) -> None:
    cells = np.random.default_rng(0).integers(-127, 127, (12, 10, 8)).astype(np.int8)
    fingerprint.save(folder / "a.npz", [fingerprint.Fingerprint(cells, "0" * 64)])


def make_model(folder: Path) -> None:
    write_json(folder / "dataset.json", {
        "labels": {"background": 0, "node": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz",
        "lnsynth": {"window": [-120.0, 240.0], "checkpoint": "checkpoint_final.pth", "mirror": False, "tiles": 2,
                    "trained_on": {"parts": [], "unknown": []}}})
    write_json(folder / "plans.json", {"plans_name": "p", "configurations": {segmenter.CONFIGURATION: {
        "spacing": [1.0] * 3, "patch_size": [16] * 3, "architecture": {
            "network_class_name": "x", "arch_kwargs": {"n_stages": 2}, "_kw_requires_import": ["conv_op"]}}}})


def make_cell(folder: Path) -> None:
    write_json(folder / "cell.json", {"kind": "data", "name": "d", "key": "k", "amount": 0, "seconds": 1.0,
                                      "result": {"dataset": "dataset", "cases": [{"id": "a"}]}})


def cell(folder: Path):
    found = read_cell(folder)
    dataset_of(folder)
    return found


PRESET = resources() / "presets" / "mini.yaml"
SEGMENTER = resources() / "segmenters" / "mini.yaml"
PLAN = resources() / "experiments" / "mini.yaml"
LABELS = resources() / "labels" / "abdomen14.yaml"
IMAGE, JSON = on_bytes(), on_json

KINDS = {
    "dataset.json": Kind(lambda f: make_dataset(f) and None, manifest, (*on_bytes("*.json"), *JSON()),
                         plain_json("data/dataset.json")),
    "prepared case": Kind(make_prepared, prepared, (*IMAGE, *JSON()), lambda f: plain_json("a/case.json")(f),
                          lambda content, said: same(content[0], said)),
    "prepare.json": Kind(make_preparation, preparation, (*on_bytes("prepare.json"), *JSON("prepare.json")),
                         lambda f: ["a"]),
    "preset": Kind(copied(PRESET, "p.yaml"), lambda f: asdict(load_preset(f / "p.yaml")), (*IMAGE, *on_lines("*") * 2),
                   by_yaml("p.yaml"), same_settings),
    "segmenter's settings": Kind(copied(SEGMENTER, "p.yaml"), lambda f: asdict(load_settings(f / "p.yaml")),
                                 (*IMAGE, *on_lines("*") * 2), by_yaml("p.yaml"), same_settings),
    "plan": Kind(copied(PLAN, "p.yaml"), lambda f: asdict(load_plan(f / "p.yaml")), (*IMAGE, *on_lines("*") * 2),
                 by_yaml("p.yaml"), same_settings),
    "labels.yaml": Kind(copied(LABELS, "t.yaml"), lambda f: asdict(LabelTable.load(f / "t.yaml")),
                        (*IMAGE, *on_lines("*") * 2), by_yaml("t.yaml"), same_labels),
    "pairs.csv": Kind(make_pairs, pairs_table, (*on_bytes("*.csv"), *on_lines("*.csv") * 2), by_csv("pairs.csv", PAIRS),
                      same_rows),
    "review.csv": Kind(make_review, lambda f: [[getattr(d, c) for c in DECISIONS] for d in history(f)],
                       (*on_bytes("*.csv"), *on_lines("*.csv") * 2), by_csv("review.csv", DECISIONS), same_rows),
    "filter.csv": Kind(make_filter, filtered, (*IMAGE, *on_lines("*.csv") * 2), by_csv("filter.csv", (
        "sample", "kept", "coverage", "threshold", "rule", "segmenter", "reason", "pair")), same_rows),
    "provenance.json": Kind(lambda f: make_sample(f / "s"), sample, (*on_bytes("*.json"), *JSON()),
                            plain_json("s/provenance.json"), lambda content, said: same(content[0], said)),
    "model.json": Kind(make_generator, generator, (*IMAGE, *JSON("model.json")), generator_by_hand),
    "checkpoint": Kind(make_checkpoint, restored, (*IMAGE, *JSON("s*.json"))),
    "npz": Kind(make_arrays, lambda f: read_npz(f / "a.npz"), IMAGE,
                lambda f: dict(np.load(f / "a.npz", allow_pickle=False))),
    "fingerprints": Kind(make_prints, lambda f: [(p.voxels, p.cells) for p in fingerprint.load(f / "a.npz")], IMAGE,
                         lambda f: [*np.load(f / "a.npz", allow_pickle=False).items()]),
    "shape prior": Kind(copied(resources() / "node_prior.npz", "a.npz"), lambda f: asdict(ShapePrior.load(f / "a.npz")),
                        IMAGE),
    "segmenter": Kind(make_model, lambda f: (segmenter.read_dataset(f), check(
        read_json(f / "plans.json"), segmenter.PLAN, f / "plans.json")), (*IMAGE, *JSON()),
        lambda f: (plain_json("dataset.json")(f), plain_json("plans.json")(f))),
    "cell.json": Kind(make_cell, cell, (*IMAGE, *JSON()), plain_json("cell.json")),
}
