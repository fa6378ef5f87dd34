"""The command `lnsynth VERB ...`: finds the verb, parses its arguments, runs it, and returns an exit status.

Only the module of the verb that was asked for is imported, and that imports nothing heavy before it runs, so that
`--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from LNSynthLib import __version__
from LNSynthLib.runtime import events, temporary
from LNSynthLib.runtime.cancel import cancellable, end_with_application
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.files import WHY, check_output

VERBS = {
    "doctor": "what is installed here, what is missing, and the cure",
    "phantom": "make a data set of procedural abdomens with lymph nodes",
    "import": "make a data set of your own images and node masks",
    "fetch": "download a public collection and make a data set of it",
    "prepare": "crop, resample and window a data set for training",
    "anatomy": "label the organs of a CT with TotalSegmentator",
    "nodes": "measure, vary, add or remove lymph nodes of a mask",
    "pseudo": "paint nodes into CTs that have none, for practice data",
    "train": "train a generator",
    "synthesize": "generate CT patches with transformed nodes from a data set",
    "insert": "generate or remove nodes in place in a full CT",
    "variants": "several synthetic samples of one CT and its nodes, to choose from",
    "review": "accept or reject synthetic samples, and list those that training may use",
    "segment": "train nnU-Net on real and synthetic pairs, or segment a CT with it",
    "evaluate": "measure segmentations or synthetic images against real ones",
    "export": "write a generator as a MONAI bundle",
    "inspect": "list the identifiers that would travel with a folder",
    "experiment": "the paper's comparisons as one resumable run, and its report",
    "demo": "the whole chain on a phantom, or on your CT, as a web page",
}

SWEPT_FLOORS = 4  # below a verb's output: OUT/data/phantom/cases/ID of a demonstration

EXIT_OK, EXIT_FAILED, EXIT_REFUSED, EXIT_CANCELLED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints end like every other refused input: one sentence, exit status 2."""

    def error(self, message: str):
        message = message.replace("the following arguments are required: ", "missing: ")
        raise LNSynthError(f"{message}; see `{self.prog} --help`")


def _common_options() -> argparse.ArgumentParser:
    """What every verb understands, anywhere on the line."""
    parser = _Parser(prog="lnsynth", add_help=False, allow_abbrev=False)
    parser.add_argument("--events", choices=("bar", "json"), default="bar",
                        help="progress as a bar (default), or one JSON object a line on stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _verb_choice() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {name:<12}{text}" for name, text in VERBS.items())
    parser = _Parser(
        prog="lnsynth", usage="lnsynth VERB ...  (`lnsynth VERB --help` tells more)",
        description="Synthesises abdominal lymph nodes in CT (LN-DDPM). For research; not a medical device.",
        epilog=f"verbs:\n{verbs}", parents=[_common_options()], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"lnsynth {__version__}")
    parser.add_argument("verb", metavar="VERB", choices=VERBS, help="what to do, see below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def verb_module(verb: str):
    """The module of a verb; `import` is a keyword of Python, so its module is `import_`."""
    return importlib.import_module(f"LNSynthLib.verbs.{verb}{'_' if verb == 'import' else ''}")


def parse(argv: Sequence[str], args: argparse.Namespace) -> argparse.Namespace:
    """Fills `args` with `events`, `debug`, `verb`, its `module` and what the verb itself declares.

    Raises LNSynthError for arguments that make no sense; SystemExit(0) after --help and --version.
    """
    _, rest = _common_options().parse_known_args(argv, args)
    chosen = _verb_choice().parse_args(rest or ["--help"])
    args.verb, args.module = chosen.verb, verb_module(chosen.verb)
    return verb_parser(chosen.verb).parse_args(chosen.rest, args)


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """The parser of what follows a verb on the line."""
    module = verb_module(verb)
    parser = _Parser(prog=f"lnsynth {verb}", description=module.__doc__, parents=[_common_options()],
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    return parser


def _clear_the_way(args: argparse.Namespace) -> None:
    """Looks whether the verb will be able to write where it is told to, and removes what killed runs left there.

    `WRITES` of a verb's module names its arguments that are places it writes to; most have --out alone.
    """
    temporary.sweep_once(Path(tempfile.gettempdir()))
    for name in getattr(args.module, "WRITES", ("out",)):
        if place := getattr(args, name, None):
            check_output(place)
            temporary.sweep_once(Path(place).absolute().parent)
            if Path(place).is_dir():
                temporary.sweep_below(Path(place).absolute(), SWEPT_FLOORS)


def _end(error: BaseException) -> tuple[int, str]:
    """Exit status and the one line that tells a person how it ended."""
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return EXIT_CANCELLED, "cancelled"
    if isinstance(error, LNSynthError):
        return EXIT_REFUSED, str(error)
    if isinstance(error, OSError) and (why := WHY.get(error.errno or 0)):
        return EXIT_REFUSED, f"{error.filename or 'A file'}: {why}."
    if isinstance(error, MemoryError):
        return EXIT_REFUSED, ("There is not enough memory for this; close other programs, use fewer --workers or a "
                              "coarser spacing, or a machine with more memory.")
    first_line = str(error).strip().partition("\n")[0]
    return EXIT_FAILED, f"{type(error).__name__}: {first_line} (--debug shows where)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lnsynth` with these arguments (default: the process's) and returns its exit status.

    0 done; 2 refused (a wrong input or argument, one sentence on stderr); 130 cancelled; 1 anything unforeseen.
    With `--events json` stdout carries events alone, the last one with `result` or `error`; what a verb prints goes to
    stderr then.
    """
    # Threads that wait in a spin loop slow down everything else on a busy CPU; libgomp reads this when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    args = argparse.Namespace(events="bar", debug=False, verb="lnsynth")
    stdout = sys.stdout
    try:
        parse(sys.argv[1:] if argv is None else argv, args)
        as_json = args.events == "json"
        callback = events.json_lines(stdout) if as_json else events.console(sys.stderr)
        with (cancellable(), contextlib.redirect_stdout(sys.stderr if as_json else stdout),
              events.signs_of_life(callback, args.verb) as callback, events.warnings_told(callback)):
            end_with_application()
            _clear_the_way(args)
            result = args.module.run(args, callback)
        last, status = events.Event(stage=args.verb, result=result or {}), EXIT_OK
    except BrokenPipeError:  # whoever read the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (Exception, KeyboardInterrupt, Cancelled) as error:
        status, line = _end(error)
        last = events.Event(stage=args.verb, error=line)
        if args.debug:
            traceback.print_exc()
        print(f"lnsynth: {line}", file=sys.stderr)
    if args.events == "json":
        events.json_lines(stdout)(last)
    return status
