"""Labels the organs of a CT with TotalSegmentator, or brings existing labels into its v2 ids.

Writes one mask in TotalSegmentator v2 `total` ids on the CT's grid, with the structures of the label table.
"""


def add_arguments(parser):
    parser.add_argument("--ct", required=True, metavar="CT", help="NIfTI, NRRD, MHA or the folder of a DICOM series")
    parser.add_argument("--out", required=True, metavar="FILE", help="the mask to write: .nii.gz, .nrrd or .mha")
    parser.add_argument("--fast", action="store_true", help="the 3 mm model: much faster, coarser")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--table", default="abdomen14", metavar="NAME|YAML",
                        help="label table whose structures are wanted (default abdomen14)")
    parser.add_argument("--labels", metavar="MASK", help="existing TotalSegmentator labels: nothing is run")
    parser.add_argument("--version", type=int, choices=(1, 2), default=2,
                        help="TotalSegmentator version of the ids of --labels (default 2)")


def run(args, callback):
    from pathlib import Path

    import numpy as np

    from ..cases.checks import check_ct
    from ..cases.labels import LabelTable
    from ..cases.volume import read, write
    from ..conditions.anatomy import check_weights, load, segment

    table = LabelTable.load(args.table)
    if args.labels:
        ct = read(Path(args.ct))
        check_ct(ct, args.ct)
        labels = load(Path(args.labels), ct, args.version, table)
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
