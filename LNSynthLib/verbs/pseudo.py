"""Paint nodes into a CT that has none annotated, as practice pairs."""

from __future__ import annotations

from pathlib import Path

from ..options import add_anatomy_version, add_anonymous, count, seed


def add_arguments(parser) -> None:
    parser.add_argument("--ct", type=Path, required=True, help="CT (NIfTI, NRRD, MHA or a DICOM folder)")
    parser.add_argument("--anatomy", type=Path, required=True, metavar="LABELS",
                        help="its organs, as TotalSegmentator ids on the CT's grid")
    parser.add_argument("--case", metavar="ID",
                        help="id of the CT's case (default: its id in the data set that holds it)")
    parser.add_argument("--patient", metavar="ID", help="id of the patient (default: as in that data set, else --case)")
    add_anonymous(parser, "pseudonyms for case and patient, and no name of the CT's file")
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="folder to make, or to add to")
    parser.add_argument("--variants", type=count, default=1, metavar="K", help="number of cases to make from this CT "
                                                                               "(default 1)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="random seed (default 0)")
    parser.add_argument("--nodes", type=count, nargs=2, default=(2, 9), metavar=("MIN", "MAX"),
                        help="nodes per case (default 2 9)")
    parser.add_argument("--split", choices=("train", "val", "test"),
                        help="default: as in the data set that the CT lies in, else train")
    add_anatomy_version(parser)


def run(args, callback) -> dict:
    from ..conditions.pseudo_pairs import pseudo_dataset
    from ..runtime.errors import LNSynthError

    if args.nodes[0] > args.nodes[1]:
        raise LNSynthError("--nodes MIN MAX: MIN must not be more than MAX.")
    dataset = pseudo_dataset(args.out, args.ct, args.anatomy, args.variants, args.seed, version=args.anatomy_version,
                             nodes=tuple(args.nodes), split=args.split, case=args.case, patient=args.patient,
                             anonymous=args.anonymous, callback=callback)
    print(f"{args.out}: {len(dataset.cases())} cases with painted nodes (SYNTHETIC)")
    return {"dataset": str(args.out), "kind": dataset.kind, "cases": len(dataset.cases())}
