"""Kills every writing verb at random moments (SIGKILL), and looks what is left, and whether the next run succeeds.

    python Testing/Benchmarks/kills.py [--kills 100] [--seed 0] [--verbs phantom train ...]

After each kill nothing may be torn under its final name, no process may live on, the same command must succeed when it
is run again, and after that no hidden leftover may be there, neither beside the output nor in the folder for temporary
files. Everything is tiny: the moments matter, not the images. Prints a table, and each fault; exit status 1 where there
is one.
"""

import argparse
import csv
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.cases.prepare import PrepareSettings, prepare
from LNSynthLib.cases.prepared import PreparedCase
from LNSynthLib.images.volume import read, write
from LNSynthLib.phantom.phantom import phantom_dataset
from LNSynthLib.review.provenance import read_provenance
from LNSynthLib.review.verdicts import history
from LNSynthLib.runtime.files import check_hashes, read_json, write_text

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0  # for orphans to end, which takes seconds
TINY_GENERATOR = {
    "form": {"labels": "abdomen17", "anatomy_channels": 17, "expected_hu": True, "spacing_mm": 4.0,
             "patch": [16, 16, 16]},
    "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8},
    "timesteps": 20}
TINY_TRAINING = {"about": "for kills", "generator": {"kind": "lnddpm", **TINY_GENERATOR}, "training": {
    "steps": 8, "batch": 2, "checkpoint_every": 1, "sample_every": 4, "sample_cases": 1, "sample_steps": 2,
    "prepared": "coarse", "workers": 1}}
SEGMENTER = ("trainer.epochs=2 trainer.iterations=2 trainer.val_iterations=1 trainer.patch=[16,16,16] "
             "trainer.features=[4,8,8] trainer.batch=2 trainer.convolutions=1 trainer.save_every=1 spacing_mm=4 "
             "margin_mm=40 labels=abdomen17").split()


@dataclass(frozen=True)
class Verb:
    """A command, whether it is run over what an earlier one made, and whether its output must go first."""

    arguments: list[str]
    out: Path
    once: bool = False  # it refuses an output that is there


def materials(home: Path) -> dict[str, Verb]:
    """What the verbs need, made under HOME/given, and the commands."""
    import torch

    from LNSynthLib.generators import model_folder

    given, out = home / "given", home / "out"
    dataset = phantom_dataset(given / "data", 2, seed=1, spacing=6.0, nodes=3)
    with dataset.changing():
        for entry, split in zip(dataset.cases(), ("train", "val"), strict=True):
            entry["split"] = split
    prepare(dataset, PrepareSettings(spacing_mm=4.0, labels="abdomen17", name="coarse"))
    torch.manual_seed(0)
    generator = model_folder.save(given / "generator", model_folder.create("lnddpm", TINY_GENERATOR))
    write_text(given / "tiny.yaml", json.dumps(TINY_TRAINING))
    first = dataset.cases()[0]["id"]
    ct, nodes, anatomy = (dataset.path(first, role) for role in ("ct", "nodes", "anatomy"))
    for role in ("ct", "nodes"):
        (given / "import" / role).mkdir(parents=True)
        for entry in dataset.cases():
            volume = read(dataset.path(entry["id"], role))
            if role == "ct":  # a phantom as it is would be known as SYNTHETIC, and not imported
                volume.array = volume.array + np.int16(1)
            write(given / "import" / role / f"{entry['id']}.nii.gz", volume)
    subprocess.run(command(["synthesize", "--generator", str(generator), "--data", str(given / "data"), "--out",
                            str(given / "samples"), "--per-case", "2", "--steps", "1", "--device", "cpu"]),
                   check=True, env=environment(home), cwd=home, capture_output=True)
    samples = sorted(path.name for path in (given / "samples").iterdir())
    subprocess.run(command(["review", "decide", str(given / "samples"), *samples, "--accept", "--reviewer", "A"]),
                   check=True, env=environment(home), cwd=home, capture_output=True)
    shutil.copytree(given / "samples", out / "review" / "samples")
    shutil.copytree(given / "data", out / "prepare" / "data", ignore=shutil.ignore_patterns("prepared"))
    pair = ["--ct", ct, "--nodes", nodes, "--anatomy", anatomy]
    sampling = ["--generator", generator, "--steps", "2", "--device", "cpu"]
    verbs = {
        "phantom": (["phantom", "--cases", "3", "--spacing", "6", "--workers", "2", "--out"], "phantom/data", False),
        "import": (["import", "--images", given / "import/ct", "--nodes", given / "import/nodes", "--out"],
                   "import/data", False),
        "prepare": (["prepare", "--spacing", "4", "--workers", "2"], "prepare/data", False),
        "nodes": (["nodes", *pair, "--vary", "2", "--out"], "nodes/mask.nii.gz", False),
        "pseudo": (["pseudo", "--ct", ct, "--anatomy", anatomy, "--variants", "3", "--out"], "pseudo/data", False),
        "train": (["train", "--preset", given / "tiny.yaml", "--data", given / "data", "--device", "cpu", "--resume",
                   "--out"], "train/run", False),
        "synthesize": (["synthesize", "--data", given / "data", "--per-case", "3", *sampling, "--workers", "2",
                        "--out"], "synthesize/samples", False),
        "insert": (["insert", *pair, *sampling, "--seed", "{number}", "--out"], "insert/ct.nii.gz", False),
        "variants": (["variants", *pair, *sampling, "--count", "3", "--out"], "variants/samples", False),
        "review": (["review", "decide", out / "review/samples", *samples, "--reject", "--reviewer", "B"],
                   "review/samples", False),
        "export": (["review", "export", given / "samples", "--as", "nnunet", "--out"],
                   "export/Dataset501_LNSynth", True),
        "evaluate": (["evaluate", "segmentation", "--predicted", given / "import/nodes", "--truth",
                      given / "import/nodes", "--out"], "evaluate/scores", False),
        "segment": (["segment", "train", "--real", given / "data", "--strategy", "real", "--device", "cpu", "--resume",
                     "--set", *SEGMENTER, "--out"], "segment/run", False),
        "demo": (["demo", "--ct", ct, "--anatomy", anatomy, *sampling, "--out"], "demo/demo", False)}
    found = {}
    for name, (arguments, place, once) in verbs.items():
        last = [] if name == "review" else [out / place]
        found[name] = Verb([str(argument) for argument in [*arguments, *last]], out / place, once)
        (out / place).parent.mkdir(parents=True, exist_ok=True)
    return found


def command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "LNSynthLib", *arguments]


def environment(home: Path) -> dict[str, str]:
    (home / "tmp").mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(home / "tmp"), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive",
            "PYTHONPATH": str(REPOSITORY)}


def start(verb: Verb, number: int, home: Path) -> subprocess.Popen:
    with open(home / "said", "wb") as said:
        return subprocess.Popen(command([argument.format(number=number) for argument in verb.arguments]), cwd=home,
                                env=environment(home), stdout=said, stderr=said, stdin=subprocess.DEVNULL)


def kill(process: subprocess.Popen) -> list[str]:
    """Kills the command alone, as a system does that is short of memory; returns what it leaves behind alive."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    faults = []
    for orphan in alive:
        try:
            if orphan.status() != psutil.STATUS_ZOMBIE:
                faults.append(f"an orphan: {' '.join(orphan.cmdline())[:100]}")
                orphan.kill()
        except psutil.NoSuchProcess:
            pass
    return faults


def torn(name: str, place: Path) -> list[str]:
    """Files under their final names that are not whole."""
    files = [place] if place.is_file() else sorted(place.rglob("*")) if place.is_dir() else []
    files += [path for path in place.parent.glob(f"{place.name.partition('.')[0]}*") if path.is_file()]
    faults = []
    for path in files:
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(place.parent).parts):
            continue
        try:
            if problem := _look(path):
                faults.append(f"{path.relative_to(place.parent)}: {problem}")
        except FileNotFoundError:
            pass
        except Exception as error:
            faults.append(f"{path.relative_to(place.parent)}: {type(error).__name__}: {error}"[:200])
    if name == "insert" and place.is_file():
        read_provenance(place)
    return faults


def _look(path: Path) -> str:
    if path.stat().st_size == 0 and path.name != "done" and path.suffix not in (".log", ".txt", ".jsonl"):
        return "no bytes"
    if path.name.endswith(".gz"):
        with gzip.open(path) as stream:
            while stream.read(1 << 20):
                pass
    elif path.name == "sha256.json" and "fold_" not in str(path):
        check_hashes(path.parent)
    elif path.name == "case.json":
        PreparedCase.open(path.parent).check_intact()
    elif path.name == "dataset.json" and "nnUNet" not in str(path) and "Dataset501" not in str(path):
        dataset = Dataset.open(path.parent)
        for entry in dataset.cases():
            dataset.load(entry["id"])
    elif path.name == "review.csv":
        history(path.parent)
    elif path.name == "provenance.json" and path.parent.name != "provenance":
        lost = [name for name in read_json(path).get("outputs", {}) if not (path.parent / name).is_file()]
        return f"{', '.join(lost)} missing beside it" if lost else ""
    elif path.suffix == ".json":
        read_json(path)
    elif path.suffix == ".csv":
        with open(path, newline="") as stream:
            rows = list(csv.reader(stream, strict=True))
        return "rows of unlike length" if len({len(row) for row in rows}) > 1 else ""
    elif path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        load_file(path)
    elif path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            image.load()
    elif path.suffix in (".npz", ".npy"):
        np.load(path)
    return ""


def hidden(verb: Verb, home: Path) -> list[str]:
    """What must be gone after a run that succeeded."""
    found = [path for path in verb.out.parent.rglob(".*")]
    if verb.out.parent.exists():
        cache = "torchinductor_"  # torch's, for longer than a run
        found += [path for path in (home / "tmp").iterdir() if not path.name.startswith(cache)]
    return [str(path.relative_to(home)) for path in found]


def rounds(names: list[str], kills: int, rng: random.Random) -> list[str]:
    """Which verb is killed when: in turn, the slow ones a third as often."""
    slow, order = {"segment", "demo"}, []
    while len(order) < kills:
        turn = [name for name in names if name not in slow or len(order) == 0 or rng.random() < 1 / 3]
        rng.shuffle(turn)
        order += turn
    return order[:kills]


def run(home: Path, kills: int, seed: int, names: list[str] | None = None) -> tuple[list[dict], list[str]]:
    """(a row of counts a verb, all faults)"""
    rng, verbs = random.Random(seed), materials(home)
    names = names or list(verbs)
    took, rows, faults = {}, {name: Counter() for name in names}, []
    for number, name in enumerate(rounds(names, kills, rng)):
        verb, row = verbs[name], rows[name]
        if name not in took:  # once undisturbed: how long it takes
            began = time.monotonic()
            if start(verb, number, home).wait():
                raise RuntimeError(f"{name} fails undisturbed: {(home / 'said').read_text()[-2000:]}")
            took[name] = time.monotonic() - began
        over = rng.random() < 0.5 and not verb.once and name not in ("train", "segment")  # over what is there, or fresh
        if not over and name not in ("review", "prepare"):
            for path in verb.out.parent.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not over and name == "prepare":
            shutil.rmtree(verb.out / "prepared", ignore_errors=True)
        process, moment = start(verb, number, home), rng.uniform(0.2, 1.0) * took[name]
        try:
            process.wait(moment)
            row["ended before"] += 1
        except subprocess.TimeoutExpired:
            pass
        found = [("orphans", fault) for fault in kill(process)]
        try:
            found += [("torn", fault) for fault in torn(name, verb.out)]
        except Exception as error:
            found.append(("torn", str(error)))
        row["left hidden"] += bool(hidden(verb, home))
        if verb.once and verb.out.exists():
            shutil.rmtree(verb.out)
        if start(verb, number, home).wait():
            found.append(("next run fails", (home / "said").read_text()[-500:]))
        found += [("torn", f"after the next run: {fault}") for fault in torn(name, verb.out)]
        for path in hidden(verb, home):
            found.append(("still hidden", path))
            shutil.rmtree(home / path, ignore_errors=True)  # told once
        row["kills"] += 1
        row.update(kind for kind, _ in found)
        faults += [f"{name}, kill {number} at {moment:.2f} s of {took[name]:.2f}: {kind}: {what}"
                   for kind, what in found]
        print(f"{number + 1}/{kills} {name} at {moment:.1f} s: {'; '.join(k for k, _ in found) or 'well'}",
              file=sys.stderr, flush=True)
    return [{"verb": name, **rows[name]} for name in names], faults


COLUMNS = ("kills", "ended before", "left hidden", "torn", "orphans", "next run fails", "still hidden")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", nargs="+", metavar="VERB", help="default: all that write")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as home:
        rows, faults = run(Path(home), args.kills, args.seed, args.verbs)
    print(f"{'verb':<12}" + "".join(f"{name:>16}" for name in COLUMNS))
    total = {"verb": "all", **{name: sum(row.get(name, 0) for row in rows) for name in COLUMNS}}
    for row in [*rows, total]:
        print(f"{row['verb']:<12}" + "".join(f"{row.get(name, 0):>16}" for name in COLUMNS))
    print("\n".join(["", *faults]) if faults else "\nno fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
