"""Options that verbs share, and the ranges of their numbers: a value that makes no sense is refused as it is read.

The parser imports this, so it uses the standard library alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

HIGHEST_SEED = 2**63 - 1
MOST = 10**6  # cases, variants, steps, workers: more is a slip of the hand


def whole(least: int = 0, most: int = MOST) -> Callable[[str], int]:
    """A whole number from `least` to `most`, as argparse's `type`."""
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        _check(value, least, most)
        return value
    return read


def real(least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf) -> Callable[[str], float]:
    """A finite number from `least` to `most`, and greater than `above`, as argparse's `type`."""
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text} is not a finite number")
        if value <= above:
            raise argparse.ArgumentTypeError(f"it must be more than {above:g}, not {text}")
        _check(value, least, most)
        return value
    return read


def _check(value, least, most) -> None:
    if not least <= value <= most:
        wanted = f"from {least:g} to {most:g}" if value > most or most < MOST else f"{least:g} or more"
        raise argparse.ArgumentTypeError(f"it must be {wanted}, not {value:g}")


seed = whole(0, HIGHEST_SEED)
count = whole(1)   # of things of which there is one at least: steps, variants, samples a case
number = whole(0)  # of things of which there may be none: workers beside this process, nodes to add


@dataclass(frozen=True)
class Sampling:
    """How samples are made, as verbs, the module's jobs and the batch ask for it, all in the same words."""

    generator: str | None = None  # a folder; None: the demo generator
    sampler: str = "dpmpp"
    steps: int = 25
    seed: int = 0
    device: str = "auto"

    @staticmethod
    def add_to(parser: argparse.ArgumentParser, sampler: bool = True) -> None:
        """The options --generator, --sampler (unless the verb chooses it itself), --steps, --seed and --device."""
        parser.add_argument("--generator", metavar="FOLDER",
                            help="folder of a generator or of a training run (default: the demo generator)")
        if sampler:
            parser.add_argument("--sampler", choices=("dpmpp", "ddim", "ddpm"), default="dpmpp",
                                help="dpmpp: DPM-Solver++, good in 25 steps (default); ddim; ddpm: wants hundreds of "
                                     "steps")
        parser.add_argument("--steps", type=count, default=25, metavar="N", help="sampling steps (default 25)")
        parser.add_argument("--seed", type=seed, default=0, metavar="S", help="random seed (default 0)")
        add_device(parser)

    @classmethod
    def of(cls, args: argparse.Namespace) -> Sampling:
        """What was chosen on the command line."""
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls) if hasattr(args, field.name)})

    def to_argv(self) -> list[str]:
        """The options that say the same again, for a process that is started."""
        chosen = {name: str(value) for name, value in asdict(self).items() if value is not None}
        return [word for name, value in chosen.items() for word in (f"--{name}", value)]


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="DEVICE",
                        help="where to compute: auto, cpu, cuda, cuda:1 or mps (default auto)")


def add_anatomy_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--anatomy-version", type=int, choices=(1, 2), default=2,
                        help="TotalSegmentator version of the anatomy labels' ids (default 2)")


SEGMENTS = ("segments of a DICOM SEG or .seg.nrrd to take as nodes; all takes every one (default: those named lymph "
            "node)")


def add_anonymous(parser: argparse.ArgumentParser, what: str) -> None:
    """The option that puts pseudonyms (`runtime.pseudonyms`) for what is said of people and places."""
    parser.add_argument("--anonymous", action="store_true", help=f"{what}; the list of names and pseudonyms stays on "
                        "this computer, in pseudonyms.csv of LNSynth's data folder ($LNSYNTH_HOME)")


NODES = "a mask does not look like lymph nodes in this CT (size, HU, place)"
MACHINE = "this machine has too little memory or would take days"


def add_mask_options(parser: argparse.ArgumentParser, *others: str) -> None:
    """Options of every verb that reads a node mask; others: what --anyway goes on with besides."""
    parser.add_argument("--segments", nargs="+", default=[], metavar="NAME", help=SEGMENTS)
    add_anyway(parser, NODES, *others)


def add_anyway(parser: argparse.ArgumentParser, *where: str) -> None:
    """The option that goes on where a verb would refuse, in cases that the help names."""
    parser.add_argument("--anyway", action="store_true", help=f"continue even if {', or if '.join(where)}")
