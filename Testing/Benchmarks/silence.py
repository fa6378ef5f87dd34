"""How long each verb keeps silent: the longest gap between two signs of life, from the start of the process to its end.

    python Testing/Benchmarks/silence.py [--only WORD ...] [--ct CT --anatomy MASK] [--limit 2]

Runs every verb as a person would, in a temporary folder, one after the other, each on what those before have made. Any
line counts as a sign of life, be it an event or text; news are those that say something new, where a repeated event
only says how long the step has taken so far (`Event.waited_s`). CPU seconds are those that the process and its children
have spent in the longest gap without news: on a busy machine a gap is longer than the work in it. Exit status 1 when a
gap between signs of life is longer than the limit.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from LNSynthLib.runtime.events import Event

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = ["generator.form.patch=[16,16,16]", "generator.denoiser.channels=[16,32]", "training.steps=6",
        "training.sample_every=3", "training.sample_steps=2", "training.sample_cases=1"]


@dataclass(frozen=True)
class Gap:
    seconds: float
    cpu: float
    after: str      # the line before it


@dataclass(frozen=True)
class Run:
    silence: Gap    # between two lines
    news: Gap       # between two lines that say something new
    status: int
    seconds: float
    last: str


def watch(arguments: list[str], folder: Path) -> Run:
    """Runs `lnsynth` with these arguments in a folder and times its lines."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-m", "LNSynthLib", *arguments, "--events", "json"], cwd=folder,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    began = time.monotonic()
    told = {"silence": (began, 0.0, "start"), "news": (began, 0.0, "start")}
    longest = {name: Gap(0, 0, "") for name in told}
    last = "start"
    watched = psutil.Process(process.pid)

    def sign(names, line: str, spent: float) -> None:
        now = time.monotonic()
        for name in names:
            since, cpu, before = told[name]
            if now - since > longest[name].seconds:
                longest[name] = Gap(now - since, spent - cpu, before)
            told[name] = now, spent, line

    spent = 0.0
    for line in process.stdout:
        event = Event.from_json(line)
        if event is None or event.stage == arguments[0] and event.message:
            last = line.strip()
        text = f"{event.stage} {event.done}/{event.total} {event.message}" if event else line.strip()
        spent = max(spent, _spent(watched))
        sign(("silence",) if event and event.waited_s else ("silence", "news"), text, spent)
    status = process.wait()
    sign(("silence", "news"), "end", spent)
    return Run(longest["silence"], longest["news"], status, time.monotonic() - began, last)


def _spent(process: psutil.Process) -> float:
    """CPU seconds of a process and its children, those that have ended among them."""
    try:
        total = sum(process.cpu_times()[:4])
        return total + sum(sum(child.cpu_times()[:4]) for child in process.children(recursive=True))
    except psutil.NoSuchProcess:
        return 0.0


def verbs(ct: str, anatomy: str) -> dict[str, list[str]]:
    """What is run, in order, by what the table calls it. Later ones take what earlier ones have made."""
    phantom = "phantoms/cases/phantom-0-0000"
    real = ["--ct", ct, "--anatomy", anatomy]
    return {
        "doctor": ["doctor"],
        "phantom, 1 mm": ["phantom", "--out", "fine", "--spacing", "1"],
        "phantom": ["phantom", "--out", "phantoms", "--cases", "3", "--spacing", "3"],
        "prepare, 1 mm": ["prepare", "fine"],
        "prepare, 2 mm": ["prepare", "phantoms", "--name", "demo", "--spacing", "2", "--labels", "abdomen17"],
        "import": ["import", "--images", "import/ct", "--nodes", "import/nodes", "--out", "imported"],
        "fetch": ["fetch", "ct_lymph_nodes", "--out", "fetched", "--limit", "1"],
        "anatomy, labels": ["anatomy", "--ct", ct, "--labels", anatomy, "--out", "anatomy.nii.gz"],
        "anatomy": ["anatomy", "--ct", f"{phantom}/ct.nii.gz", "--out", "organs.nii.gz", "--fast"],
        "nodes, add": ["nodes", *real, "--add", "2", "--out", "nodes.nii.gz"],
        "nodes, vary": ["nodes", *real, "--nodes", "nodes.nii.gz", "--vary", "2", "--out", "varied.nii.gz"],
        "nodes, measure": ["nodes", *real, "--nodes", "nodes.nii.gz"],
        "pseudo": ["pseudo", *real, "--case", "real", "--variants", "1", "--out", "painted"],
        "train, dry run": ["train", "--preset", "paper", "--dry-run"],
        "train": ["train", "--preset", "demo", "--data", "phantoms", "--out", "run", "--device", "cpu", "--set", *TINY,
                  "training.shares={phantom: 1}"],
        "train, refused": ["train", "--preset", "paper", "--data", "fine", "--out", "paper", "--device", "cpu"],
        "synthesize": ["synthesize", "--data", "phantoms", "--out", "pairs", "--steps", "2", "--device", "cpu"],
        "insert": ["insert", *real, "--nodes", "nodes.nii.gz", "--steps", "2", "--device", "cpu",
                   "--out", "inserted.nii.gz"],
        "variants": ["variants", *real, "--nodes", "nodes.nii.gz", "--steps", "2", "--device", "cpu", "--out",
                     "samples"],
        "review list": ["review", "list", "pairs"],
        "review page": ["review", "page", "pairs"],
        "review decide": ["review", "decide", "pairs", "phantom-0-0000-000", "--accept", "--reviewer", "A"],
        "review export": ["review", "export", "pairs", "--as", "nnunet", "--out", "exported"],
        "segment train": ["segment", "train", "--real", "phantoms", "--synthetic", "pairs", "--strategy", "both",
                          "--out", "segmenter", "--trainer-preset", "mini", "--device", "cpu", "--set",
                          "spacing_mm=[2, 2, 2]", "trainer.epochs=1", "trainer.iterations=2",
                          "trainer.val_iterations=1"],
        "segment predict": ["segment", "predict", "--model", "segmenter", "--ct", ct, "--out", "found.nii.gz",
                            "--device", "cpu"],
        "review filter": ["review", "filter", "pairs", "--model", "segmenter", "--device", "cpu"],
        "evaluate segm.": ["evaluate", "segmentation", "--predicted", "found.nii.gz", "--truth", "nodes.nii.gz"],
        "evaluate images": ["evaluate", "images", "--samples", "pairs", "--data", "phantoms", "--device", "cpu"],
        "experiment run": ["experiment", "run", "--plan", "smoke", "--out", "experiment", "--device", "cpu"],
        "experiment report": ["experiment", "report", "experiment"],
        "demo": ["demo", "--out", "shown", "--steps", "2", "--device", "cpu"],
    }


def supplies(folder: Path, name: str) -> None:
    """Files that a verb is given and no verb has made: links to a phantom's CT and nodes for `import`."""
    if name == "import":
        for kind in ("ct", "nodes"):
            (folder / "import" / kind).mkdir(parents=True, exist_ok=True)
            (folder / "import" / kind / "one.nii.gz").symlink_to(
                folder / f"phantoms/cases/phantom-0-0000/{kind}.nii.gz")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("LNSYNTH_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    parser.add_argument("--ct", default=str(data / "acrinflt001_abdpel_ct.nii.gz"), help="a large CT")
    parser.add_argument("--anatomy", default=str(data / "acrinflt001_abdpel_pseudo_organs.nii.gz"), help="its organs")
    parser.add_argument("--only", nargs="+", default=[], help="rows whose name holds one of these words, and no others")
    parser.add_argument("--folder", help="work here and leave all there, instead of in a temporary folder")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds (default 2)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        folder.mkdir(exist_ok=True)
        ct, anatomy = args.ct, args.anatomy
        if not Path(ct).exists():
            ct, anatomy = (f"fine/cases/phantom-0-0000/{name}.nii.gz" for name in ("ct", "anatomy"))
        print(f"{'verb':<18}{'exit':>5}{'took':>7}{'silence':>9}{'no news':>9}{'CPU':>7}   after")
        worst = 0.0
        for name, arguments in verbs(ct, anatomy).items():
            if args.only and not any(word in name for word in args.only):
                continue
            supplies(folder, name)
            found = watch(arguments, folder)
            worst = max(worst, found.silence.seconds)
            print(f"{name:<18}{found.status:>5}{found.seconds:>6.1f}s{found.silence.seconds:>8.1f}s"
                  f"{found.news.seconds:>8.1f}s{found.news.cpu:>6.1f}s   {found.news.after[:70]}", flush=True)
            if found.status:
                print(f"{'':<18}  {found.last[:200]}", flush=True)
    print(f"longest silence {worst:.1f} s")
    return int(worst > args.limit)


if __name__ == "__main__":
    sys.exit(main())
