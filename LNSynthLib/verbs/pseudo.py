"""`lnsynth pseudo`: paint nodes into a CT that has none annotated, as practice pairs."""

from __future__ import annotations

from pathlib import Path


def add_arguments(parser) -> None:
    parser.add_argument("--ct", type=Path, required=True, help="CT (NIfTI, NRRD, MHA or a DICOM folder)")
    parser.add_argument("--anatomy", type=Path, required=True, metavar="LABELS",
                        help="its organs, as TotalSegmentator ids on the CT's grid")
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="folder to make, or to add to")
    parser.add_argument("--variants", type=int, default=1, metavar="K", help="cases to make of this CT (default 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="what the nodes depend on (default 0)")
    parser.add_argument("--nodes", type=int, nargs=2, default=(2, 9), metavar=("MIN", "MAX"),
                        help="nodes a case (default 2 9)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train", help="default train")
    parser.add_argument("--anatomy-version", type=int, choices=(1, 2), default=2,
                        help="of the TotalSegmentator ids (default 2)")


def run(args, callback) -> dict:
    from ..conditions.pseudo import pseudo_dataset
    from ..runtime.errors import LNSynthError

    if args.variants < 1 or not 1 <= args.nodes[0] <= args.nodes[1]:
        raise LNSynthError("pseudo wants at least one variant and --nodes MIN MAX with 1 <= MIN <= MAX.")
    dataset = pseudo_dataset(args.out, args.ct, args.anatomy, args.variants, args.seed, version=args.anatomy_version,
                             nodes=tuple(args.nodes), split=args.split, callback=callback)
    return {"dataset": str(args.out), "kind": dataset.kind, "cases": len(dataset.cases())}
