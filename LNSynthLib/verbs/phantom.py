"""`lnsynth phantom`: a data set of procedural abdomens with lymph nodes."""

from __future__ import annotations

from pathlib import Path


def add_arguments(parser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="folder to make (or to complete)")
    parser.add_argument("--cases", type=int, default=1, metavar="N", help="how many abdomens (default 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="what the abdomens depend on (default 0)")
    parser.add_argument("--spacing", type=float, default=1.5, metavar="MM", help="voxel size in mm (default 1.5)")
    parser.add_argument("--nodes", type=int, metavar="K", help="lymph nodes a case (default: 1 to 10 at random)")
    parser.add_argument("--workers", type=int, default=0, metavar="W", help="processes (default 0: this one alone)")


def run(args, callback) -> dict:
    from ..cases.phantom import phantom_dataset
    from ..runtime.errors import LNSynthError

    if args.cases < 1 or args.spacing < 0.4 or args.spacing > 6 or (args.nodes is not None and args.nodes < 0):
        raise LNSynthError(
            "phantom wants at least one case, a spacing from 0.4 to 6 mm, and no negative number of nodes."
        )
    dataset = phantom_dataset(args.out, args.cases, args.seed, args.spacing, args.nodes, args.workers, callback)
    return {"dataset": str(args.out), "kind": dataset.kind, "cases": len(dataset.cases())}
