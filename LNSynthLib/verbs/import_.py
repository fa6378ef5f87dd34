"""Make a data set of your own CTs and lymph node masks.

Images and masks belong together when they have the same name up to the file type (nnU-Net's _0000 is ignored); one
image is a file (NIfTI, NRRD, MHA) or a folder of DICOM slices, one mask a file, a DICOM SEG or a folder that holds one.
A mask with one value is split into connected nodes; a mask with several holds one node a value. Names that do not
match, and several CTs of a patient, are listed in a CSV with the columns image, nodes and, where wanted, id, anatomy,
patient, split, source.
"""

from ..options import add_anatomy_version, add_anonymous, add_mask_options, seed


def add_arguments(parser):
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of CTs")
    parser.add_argument("--nodes", required=True, metavar="DIR", help="folder of lymph node masks")
    parser.add_argument("--anatomy", metavar="DIR", help="folder of TotalSegmentator masks (task total)")
    add_anatomy_version(parser)
    add_mask_options(parser)
    parser.add_argument("--pairs", metavar="CSV", help="table of the files that belong together, with paths relative "
                                                       "to the folders")
    parser.add_argument("--out", required=True, metavar="DATASET", help="folder of the data set, new or to add to")
    parser.add_argument("--name", default="", help="name of the data set (default: its folder's)")
    parser.add_argument("--source", default="", help="where the CTs come from (default: the image folder's name)")
    add_anonymous(parser, "replace the ids of cases and patients and the names of sources by pseudonyms, the same ones "
                          "each time, so that all that is made of the data set has no others")
    parser.add_argument("--split", default="paper", metavar="SHARES",
                        help="train:val:test by patient: paper (88:23:27, default), train, val, test or e.g. 70:15:15")
    parser.add_argument("--seed", type=seed, default=0, help="random seed of the split (default 0)")


def run(args, callback):
    from pathlib import Path

    from LNSynthLib.cases.importers import import_folder
    from LNSynthLib.cases.splits import parse_shares

    dataset = import_folder(
        Path(args.images), Path(args.nodes), Path(args.out), Path(args.anatomy) if args.anatomy else None,
        table=Path(args.pairs) if args.pairs else None, name=args.name, source=args.source,
        anatomy_version=args.anatomy_version, segments=args.segments, anyway=args.anyway,
        anonymous=args.anonymous, shares=parse_shares(args.split), seed=args.seed, callback=callback)
    summary = dataset.summary()
    counts = ", ".join(f"{count} {name}" for name, count in summary.items())
    print(f"{args.out}: {counts}")
    return {"dataset": str(args.out), **summary}
