"""Damaged and hostile inputs through every reader: each must be refused in one sentence, or read for what it is.

    nice -n 10 python Testing/Benchmarks/fuzz_readers.py [--inputs 1000] [--seed 0] [--only KIND ...] [--keep FOLDER]

An input is a whole file or folder (fuzz/fuzz_images.py, fuzz_records.py) with one change (fuzz_damages.py): bytes
flipped, cut off, moved; numbers in headers 0, -1, NaN or huge; fields gone or of another type; names that lead out of
the folder; links. Outcomes, by kind of file:

    clean         refused: an LNSynthError of one line that names the file
    right         read, with the content of the whole input
    undetectable  read with another content, which an independent reader finds as well: the file says so, and nothing
                  in it tells that it said something else before
    WRONG         anything else: another exception, more than 10 s of processor time or 2 GB, other content, a file
                  outside the folder touched

Exit status 1 where there is a WRONG. --keep: copies those inputs there.
"""

import argparse
import contextlib
import hashlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

sys.path.append(str(Path(__file__).resolve().parent / "fuzz"))  # the kinds of input, and what is done to them

OUTCOMES = ("clean", "right", "undetectable", "WRONG")
SECONDS, BYTES = 10.0, 2_000_000_000


def kinds() -> dict:
    import fuzz_images
    import fuzz_records

    return fuzz_images.KINDS | fuzz_records.KINDS


def judge(kind, whole, folder: Path) -> tuple[str, str]:
    """(outcome, what happened) of one damaged input; whole: the content of the undamaged one."""
    from fuzz_damages import same

    from LNSynthLib.runtime.errors import LNSynthError

    try:
        content = kind.read(folder)
    except LNSynthError as error:
        text, names = str(error), {path.name for path in folder.rglob("*")} | {str(folder)}
        if "\n" in text or "\r" in text:
            return "WRONG", f"several lines: {text!r}"
        return ("clean", text) if any(name in text for name in names) else ("WRONG", f"names no file: {text}")
    except Exception as error:
        return "WRONG", "".join(traceback.format_exception(error)[-4:])
    if same(content, whole):
        return "right", ""
    if kind.other is None:
        return "WRONG", f"read as {str(content)[:300]}"
    try:
        said = kind.other(folder)
        agree = (kind.says or same)(content, said)
    except Exception as error:
        return "WRONG", f"read as {str(content)[:300]}, and the independent reader fails: {error!r}"
    return ("undetectable", "") if agree else ("WRONG", f"read as {str(content)[:300]}, which is {str(said)[:300]}")


def damage(name: str, template: Path, folder: Path, seed: list[int]) -> str:
    """Copies the whole input to `folder` and changes it; returns the name of the change."""
    random = np.random.default_rng(seed)
    shutil.copytree(template, folder)
    kind = kinds()[name]
    change = kind.damages[random.integers(len(kind.damages))]
    change(random, folder)
    return getattr(change, "__qualname__", str(change)).replace("<locals>.", "")


def work(connection, home: str) -> None:
    """A process that reads what it is told to: (name, number, seed) -> (outcome, what happened)."""
    warnings.simplefilter("ignore")
    os.environ["LNSYNTH_HOME"] = str(Path(home) / "registry")
    wholes, home = {}, Path(home)
    while (task := connection.recv()) is not None:
        name, number, seed = task
        kind, template = kinds()[name], home / "whole" / name
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            if name not in wholes:
                if not template.exists():
                    template.mkdir(parents=True)
                    kind.make(template)
                wholes[name] = kind.read(template)
                if kind.other is not None and number < 0:
                    connection.send(("whole", str((kind.says or _same)(wholes[name], kind.other(template)))))
                    continue
            if number < 0:
                connection.send(("whole", "True"))
                continue
            folder = home / "work" / f"{number}"
            how = damage(name, template, folder, seed)
            connection.send(("ready", how))
            outcome = judge(kind, wholes[name], folder)
        connection.send(outcome)


def _same(a, b) -> bool:
    from fuzz_damages import same

    return same(a, b)


class Worker:
    """The process, started again when it had to be killed; it is watched while it reads."""

    def __init__(self, home: Path):
        self.home, self.process = home, None

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, str(self.home)), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is seen here
        self.watched = psutil.Process(self.process.pid)

    def ask(self, name: str, number: int, seed: list[int]) -> tuple[str, str, str]:
        """(outcome, what happened, the change)"""
        if self.process is None or not self.process.is_alive():
            self.start()
        how = "?"
        try:
            self.pipe.send((name, number, seed))
            first = self.pipe.recv()
            if first[0] == "whole":
                return "right" if first[1] == "True" else "WRONG", "the whole input is read otherwise", "none"
            how = first[1]
            before, base = sum(self.watched.cpu_times()[:2]), self.watched.memory_info().rss
            while not self.pipe.poll(0.01):
                if sum(self.watched.cpu_times()[:2]) - before > SECONDS:
                    return self.kill(f"more than {SECONDS:g} s", how)
                if self.watched.memory_info().rss - base > BYTES:
                    return self.kill(f"more than {BYTES / 1e9:g} GB", how)
            return (*self.pipe.recv(), how)
        except (EOFError, OSError, psutil.Error):
            self.process.join()
            return "WRONG", f"the process died ({self.process.exitcode})", how

    def kill(self, why: str, how: str) -> tuple[str, str, str]:
        self.process.kill()
        self.process.join()
        return "WRONG", why, how

    def end(self) -> None:
        if self.process is not None and self.process.is_alive():
            self.pipe.send(None)
            self.process.join()


def run(home: Path, inputs: int, seed: int = 0, only: list[str] | None = None, keep: Path | None = None,
        watch=lambda line: None) -> tuple[dict[str, Counter], list[str]]:
    """({kind: outcomes}, a line for each WRONG)"""
    names, rows, faults = only or list(kinds()), {}, []
    precious = home / "precious"
    for place in (precious, home / "work" / "precious"):
        place.mkdir(parents=True)
        (place / "thesis.txt").write_text("years of work")
    worker = Worker(home)
    for name in names:
        rows[name] = Counter()
        outcome, what, _ = worker.ask(name, -1, [])
        if outcome == "WRONG":
            raise RuntimeError(f"{name}: {what}")
    for number in range(inputs):
        name = names[number % len(names)]
        code = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        outcome, what, how = worker.ask(name, number, [seed, code, number])
        folder = home / "work" / str(number)
        touched = [place for place in (precious, home / "work" / "precious")
                   if [path.read_text() for path in place.iterdir()] != ["years of work"]]
        if touched:
            outcome, what = "WRONG", f"{touched[0]} was touched"
        rows[name][outcome] += 1
        if outcome == "WRONG":
            faults.append(f"{name}, input {number}, {how}: {what}".replace(str(home), "HOME"))
            if keep is not None and folder.is_dir():
                shutil.rmtree(keep / f"{number}", ignore_errors=True)
                shutil.copytree(folder, keep / f"{number}", symlinks=True)
        shutil.rmtree(folder, ignore_errors=True)
        watch(f"{number + 1}/{inputs} {name} {how}: {outcome}")
    worker.end()
    return rows, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="KIND")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        rows, faults = run(Path(home), args.inputs, args.seed, args.only, args.keep,
                           lambda line: print(line, file=sys.stderr, flush=True))
    print(f"{'kind of file':<22}" + "".join(f"{name:>14}" for name in OUTCOMES))
    for name, row in [*rows.items(), ("all", sum(rows.values(), Counter()))]:
        print(f"{name:<22}" + "".join(f"{row[outcome]:>14}" for outcome in OUTCOMES))
    print("\n".join(["", *faults, f"{args.inputs} inputs, seed {args.seed}, {time.monotonic() - began:.0f} s"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
