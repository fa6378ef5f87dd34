"""Run the paper's comparisons as one resumable experiment, and write its report.

  lnsynth experiment run --plan mini --data-root DATA --out OUT [--workers 2]
  lnsynth experiment report OUT

A plan is a YAML: paper, mini, smoke (Resources/experiments), or a file like theirs. Killed at any moment, the same
command goes on; a changed plan reruns only what its change touches. Many machines that share OUT may work at once: a
scheduler's array with --shard I/N, or torchrun --nproc-per-node N -m LNSynthLib experiment run ...
"""

from ..options import MACHINE, add_anyway, count

WRITES = ("out", "folder")  # see `cli`


def add_arguments(parser) -> None:
    parser.add_argument("what", choices=("run", "report"), metavar="run|report",
                        help="run: compute what is missing; report: write the report")
    parser.add_argument("folder", nargs="?", metavar="OUT", help="folder of the experiment (same as --out)")
    parser.add_argument("--plan", metavar="NAME|FILE", help="paper, mini, smoke, or a YAML file like theirs")
    parser.add_argument("--out", metavar="OUT", help="folder of the experiment")
    parser.add_argument("--data-root", default=".", metavar="DIR",
                        help="folder that the plan's data paths are relative to (default: the current folder)")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="change settings of the plan, e.g. multiple=5 budget.steps=100")
    parser.add_argument("--workers", type=count, default=1, metavar="N", help="number of processes (default 1)")
    parser.add_argument("--shard", metavar="I/N", help="this process is number I (from 0) of N that share OUT")
    add_anyway(parser, MACHINE)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto",
                        help="auto: a GPU where there is one (default); cpu leaves it alone; "
                             "CUDA_VISIBLE_DEVICES chooses among several")


def run(args, callback) -> dict:
    from ..runtime.errors import LNSynthError

    out = args.out or args.folder
    if out is None or (args.what == "run" and not args.plan):
        raise LNSynthError("`lnsynth experiment` needs: run --plan PLAN --out OUT, or report OUT.")
    return (_run if args.what == "run" else _report)(args, out, callback)


def _run(args, out: str, callback) -> dict:
    from dataclasses import replace
    from pathlib import Path

    from ..experiment.plan import load_plan
    from ..experiment.run import shard_of_environment
    from ..runtime.errors import LNSynthError
    from ..runtime.events import Event

    if args.workers > 1 and args.shard:
        raise LNSynthError("--workers must be 1 with --shard.")
    callback(Event("loading torch"))
    plan = load_plan(args.plan, args.assignments)
    shard = _shard(args.shard) if args.shard else shard_of_environment()
    if not args.anyway:
        from ..experiment.cells import layout
        from ..experiment.cost import need
        from ..runtime.machine import check, this_machine

        wanted = need(layout(plan, Path(args.data_root)), Path(out), f"Plan {args.plan}", args.workers, callback)
        check(replace(wanted, flop=wanted.flop / shard[1]), this_machine(args.device))
    if args.workers > 1:
        from ..experiment.workers import run_workers

        result = run_workers(args.plan, args.assignments, Path(out), Path(args.data_root), args.workers, args.device,
                             callback)
    else:
        from ..experiment.run import run

        result = run(plan, Path(out), Path(args.data_root), shard=shard, device=args.device, callback=callback)
    print(f"{result['folder']}: {len(result['made'])} of {result['cells']} cells made now; see the report with "
          f"`lnsynth experiment report {out}`")
    return result


def _shard(text: str) -> tuple[int, int]:
    from ..runtime.errors import LNSynthError

    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise LNSynthError(f"--shard {text} is not of the form I/N with I from 0 to N - 1.")
    return int(number), int(count)


def _report(args, out: str, callback) -> dict:
    from pathlib import Path

    from ..experiment.report.write import write_report

    result = write_report(Path(out), callback=callback)
    print(f"{result['page']}: {result['done']} of {result['cells']} cells done")
    return result
