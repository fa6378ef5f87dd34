"""Prepare a data set for training: node region, isotropic voxels, HU window, label map, stored for fast crops.

The result lies in DATASET/prepared/NAME, a report.png beside each case. Run again, it makes only what changed.
"""

from ..options import number, real

WRITES = ("dataset",)  # see `cli`


def add_arguments(parser):
    parser.add_argument("dataset", metavar="DATASET", help="folder that import, fetch, phantom or pseudo made")
    parser.add_argument("--name", default="default", help="name of this preparation (default: default)")
    parser.add_argument("--spacing", type=real(0.3, 10), default=1.0, metavar="MM", help="voxel size (default 1.0)")
    parser.add_argument("--margin", type=real(0), default=100.0, metavar="MM",
                        help="margin around the nodes, on each side (default 100, as in the paper; 50 for testing a "
                             "segmenter)")
    parser.add_argument("--window", type=real(), nargs=2, default=(-120.0, 240.0), metavar=("LOW", "HIGH"),
                        help="HU window, mapped to -1 and 1 (default -120 240)")
    parser.add_argument("--labels", default="abdomen14", metavar="TABLE",
                        help="label table: a name in Resources/labels or a YAML file (default abdomen14)")
    parser.add_argument("--allow-no-nodes", action="store_true", help="also prepare cases without nodes, uncropped")
    parser.add_argument("--allow-no-anatomy", action="store_true", help="also prepare cases without an anatomy mask")
    parser.add_argument("--accept-changes", action="store_true",
                        help="take files of the data set that were changed since they were added (a mask that you "
                             "corrected) as they are, and record them; else such a case is refused")
    parser.add_argument("--workers", type=number, default=0, metavar="N", help="worker processes (default 0: none "
                                                                               "beside this one)")


def run(args, callback):
    from pathlib import Path

    from LNSynthLib.cases.dataset import Dataset
    from LNSynthLib.cases.prepare import PrepareSettings, prepare

    settings = PrepareSettings(
        spacing_mm=args.spacing, margin_mm=args.margin, window=tuple(args.window), labels=args.labels, name=args.name,
        allow_no_nodes=args.allow_no_nodes, allow_no_anatomy=args.allow_no_anatomy)
    dataset = Dataset.open(Path(args.dataset))
    if args.accept_changes:
        for id in [entry["id"] for entry in dataset.cases()]:
            if changed := dataset.accept_changes(id):
                print(f"{id}: {' and '.join(changed)} recorded as now")
    result = prepare(dataset, settings, args.workers, callback)
    print(f"{result['folder']}: {len(result['prepared'])} cases prepared, {len(result['unchanged'])} unchanged")
    return result
