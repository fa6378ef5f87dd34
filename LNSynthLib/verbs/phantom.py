"""Make a data set of procedural abdomens with lymph nodes."""

from __future__ import annotations

from pathlib import Path

from ..options import count, number, real, seed


def add_arguments(parser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="folder of the data set, new or to "
                                                                                   "complete")
    parser.add_argument("--cases", type=count, default=1, metavar="N", help="number of abdomens (default 1)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="random seed (default 0)")
    parser.add_argument("--spacing", type=real(0.4, 6), default=1.5, metavar="MM",
                        help="voxel side in mm (default 1.5)")
    parser.add_argument("--nodes", type=number, metavar="K", help="lymph nodes per case (default: 1 to 10 at random)")
    parser.add_argument("--split", default="paper", metavar="SHARES",
                        help="train:val:test: paper (88:23:27, default; the first three cases are one of each), train, "
                             "val, test or e.g. 70:15:15")
    parser.add_argument("--workers", type=number, default=0, metavar="W", help="worker processes (default 0: none "
                                                                               "beside this one)")


def run(args, callback) -> dict:
    from ..cases.splits import parse_shares
    from ..phantom.phantom import phantom_dataset

    dataset = phantom_dataset(args.out, args.cases, args.seed, args.spacing, args.nodes, args.workers, callback,
                              parse_shares(args.split))
    counts = ", ".join(f"{count} {name}" for name, count in dataset.summary().items())
    print(f"{args.out}: {counts} (PHANTOM)")
    return {"dataset": str(args.out), "kind": dataset.kind, "cases": len(dataset.cases())}
