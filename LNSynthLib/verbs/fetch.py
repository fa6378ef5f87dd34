"""Download a public collection of CTs with annotated lymph nodes, as a data set.

  ct_lymph_nodes              86 abdominal CTs (the paper's ABD-LN) and 90 mediastinal ones, CC BY 3.0, 57 GB
  mediastinal_lymph_node_seg  513 chest CTs (LNQ2023), CC BY 4.0, 35 GB

From the Imaging Data Commons, patient by patient; after an interruption, the same command goes on from there.
"""

from ..options import count, seed


def add_arguments(parser):
    parser.add_argument("collection", choices=("ct_lymph_nodes", "mediastinal_lymph_node_seg"), help="the collection")
    parser.add_argument("--out", required=True, metavar="DATASET", help="folder of the data set, new or to complete")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N patients")
    parser.add_argument("--region", default="", choices=("abdomen", "mediastinum"),
                        help="part of the collection (default: abdomen if it has one)")
    parser.add_argument("--split", default="paper", metavar="SHARES",
                        help="train:val:test by patient: paper (88:23:27, default), train, val, test or e.g. 70:15:15")
    parser.add_argument("--seed", type=seed, default=0, help="random seed of the split (default 0)")


def run(args, callback):
    from pathlib import Path

    from LNSynthLib.cases.fetch import fetch_collection
    from LNSynthLib.cases.splits import parse_shares

    dataset = fetch_collection(args.collection, Path(args.out), region=args.region, limit=args.limit,
                               shares=parse_shares(args.split), seed=args.seed, callback=callback)
    summary = dataset.summary()
    counts = ", ".join(f"{count} {name}" for name, count in summary.items())
    print(f"{args.out}: {counts}; cite {dataset.manifest['note']}")
    return {"dataset": str(args.out), **summary}
