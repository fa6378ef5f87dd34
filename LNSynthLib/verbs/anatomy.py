"""Label the organs of a CT, or of every case of a data set, with TotalSegmentator; or bring existing labels into its
v2 ids.

The result is a mask in TotalSegmentator v2 `total` ids on the CT's grid, with the structures of the label table. Of a
data set, cases that have an anatomy mask keep it; after an interruption, the same command goes on from there.
"""

import argparse

from ..options import add_anatomy_version, add_device

WRITES = ("out", "data")  # see `cli`


def add_arguments(parser):
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ct", metavar="CT", help="NIfTI, NRRD, MHA or the folder of a DICOM series")
    what.add_argument("--data", metavar="DATASET", help="folder that import or fetch made")
    parser.add_argument("--out", metavar="FILE", help="with --ct, the mask to write: .nii.gz, .nrrd or .mha")
    parser.add_argument("--fast", action="store_true", help="use the 3 mm model: much faster, but coarser")
    add_device(parser)
    parser.add_argument("--table", default="abdomen14", metavar="NAME|YAML",
                        help="label table with the structures to segment (default abdomen14)")
    parser.add_argument("--labels", metavar="MASK",
                        help="with --ct: take these TotalSegmentator labels instead of running it")
    add_anatomy_version(parser)
    parser.add_argument("--version", type=int, choices=(1, 2), dest="anatomy_version", default=argparse.SUPPRESS,
                        help=argparse.SUPPRESS)  # as the option was called once


def run(args, callback):
    from ..masks.labels import LabelTable
    from ..runtime.errors import LNSynthError

    if bool(args.ct) != bool(args.out) or (args.data and args.labels):
        raise LNSynthError("`lnsynth anatomy` takes --ct and --out, with or without --labels; or --data alone.")
    table = LabelTable.load(args.table)
    return _data_set(args, table, callback) if args.data else _one(args, table, callback)


def _one(args, table, callback) -> dict:
    from pathlib import Path

    import numpy as np

    from ..conditions.anatomy import check_weights, load, segment
    from ..images.checks import check_ct
    from ..images.volume import read, write
    from ..runtime.errors import LNSynthError
    from ..runtime.files import check_apart

    check_apart([Path(args.out)], [Path(path) for path in (args.ct, args.labels) if path])
    if args.labels:
        ct = read(Path(args.ct))
        check_ct(ct, args.ct)
        labels = load(Path(args.labels), ct, args.anatomy_version, table)
        if not table.from_totalsegmentator(labels.array).any():
            raise LNSynthError(f"{args.labels}: it holds none of the structures of {table.name}; give TotalSegmentator "
                               "`total` labels, and say --anatomy-version 1 if they are of its version 1.")
    else:
        check_weights(args.fast)  # before a large CT is read
        labels = segment(read(Path(args.ct)), table, args.fast, args.device, args.ct, callback)
    write(Path(args.out), labels, "TotalSegmentator v2 ids")
    ids = table.from_totalsegmentator(labels.array)
    voxel_ml = abs(np.linalg.det(labels.affine[:3, :3])) / 1000
    counts = np.bincount(ids.ravel(), minlength=table.channels)
    volumes = {table.names[i]: round(float(counts[i] * voxel_ml), 1) for i in table.organs}
    print("\n".join(f"{name:<30}{volume:>9.1f} mL" if volume else f"{name:<30}   absent"
                    for name, volume in volumes.items()))
    return {"out": str(args.out), "volumes_ml": volumes}


def _data_set(args, table, callback) -> dict:
    from pathlib import Path

    from ..cases.dataset import Dataset
    from ..conditions.anatomy import check_weights, segment
    from ..images.volume import read
    from ..runtime.events import Event, Progress

    dataset = Dataset.open(Path(args.data))
    missing = [entry["id"] for entry in dataset.cases() if "anatomy" not in entry["files"]]
    if missing:
        check_weights(args.fast)
    with Progress("anatomy", len(missing), callback) as progress:
        def told(event):  # its own progress starts anew with each model: here it is a message under the cases' count
            if event.message:
                callback(Event("anatomy", progress.done, progress.total, message=event.message))

        for id in missing:
            path = dataset.checked_path(id, "ct")
            assert path is not None  # every case has a CT
            dataset.attach_anatomy(id, segment(read(path), table, args.fast, args.device, str(path), told))
            progress.step(message=id)
    print(f"{dataset.folder}: {len(missing)} cases labelled, {len(dataset.cases()) - len(missing)} had labels")
    return {"data": str(dataset.folder), "labelled": missing}
