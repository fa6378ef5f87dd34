"""Measure the lymph nodes of a mask; remove, add or vary nodes.

Nodes are numbered as in the mask, or by connected component where it holds one value. In one call nodes are removed
first, then added, then varied. Beside each mask that is written lie its table (.csv) and, with the parameters of every
change, a .json. Adding and varying need the CT, for the body, and the anatomy, which no node may cover.

  lnsynth nodes --nodes nodes.nii.gz --anatomy anatomy.nii.gz --measure --out table.csv
  lnsynth nodes --ct ct.nii.gz --anatomy anatomy.nii.gz --add 3 --out new.nii.gz
  lnsynth nodes --ct ct.nii.gz --anatomy anatomy.nii.gz --nodes nodes.nii.gz --vary 4 --out varied.nii.gz
  lnsynth nodes --ct DICOM_FOLDER --nodes nodes.nii.gz --out seg.dcm
"""

from ..options import add_anatomy_version, add_mask_options, count, number, real, seed


def add_arguments(parser):
    parser.add_argument("--nodes", metavar="MASK", help="node mask; without it, --add starts with no nodes")
    parser.add_argument("--ct", metavar="CT", help="NIfTI, NRRD, MHA or the folder of a DICOM series")
    parser.add_argument("--anatomy", metavar="MASK", help="TotalSegmentator labels on the same grid")
    add_anatomy_version(parser)
    add_mask_options(parser)
    parser.add_argument("--measure", action="store_true", help="write only the table: --out is a .csv or .json")
    parser.add_argument("--remove", type=count, action="append", default=[], metavar="ID", help="remove this node")
    parser.add_argument("--add", type=number, default=0, metavar="K", help="add K nodes of random shape")
    parser.add_argument("--short-axis", type=real(3, 80), metavar="MM", help="short axis of added nodes (default: "
                                                                             "drawn from real nodes)")
    parser.add_argument("--vary", type=number, default=0, metavar="K",
                        help="write K masks with every node changed at random (K > 1: _1, _2, ... in their names)")
    parser.add_argument("--seed", type=seed, default=0, help="random seed (default 0)")
    parser.add_argument("--table", default="abdomen17", metavar="NAME|YAML",
                        help="label table (default abdomen17, which knows fat)")
    parser.add_argument("--out", metavar="FILE", help="the mask to write (.nii.gz, .nrrd, .mha), the "
                        "table (.csv, .json), or, of the mask as it is, a DICOM SEG (.dcm) on the --ct of a folder")


def run(args, callback):
    from pathlib import Path

    from ..conditions.edit_nodes import NodeEdits, edited
    from ..images.synthetic import kind
    from ..images.volume import Volume, stem
    from ..masks.labels import LabelTable
    from ..masks.nodes import numbered
    from ..masks.read import telling
    from ..runtime.events import Progress
    from ..runtime.files import check_apart, write_json

    _check(args)
    if args.out:
        check_apart(_outputs(args), [Path(path) for path in (args.nodes, args.ct, args.anatomy) if path])
    if args.out and args.out.lower().endswith(".dcm"):
        return _seg(args, callback)
    table, outs = LabelTable.load(args.table), _outputs(args)
    edits = NodeEdits(args.remove, args.add, args.short_axis, args.vary, seed=args.seed)
    ct, anatomy, nodes = _read(args, table, telling(callback))
    grid = ct or nodes
    made = bool(args.add or args.vary or nodes and kind(Path(args.nodes), nodes) or ct and kind(Path(args.ct), ct))
    changing = bool(args.remove or args.add or args.vary)
    written, results = [], []
    with Progress("nodes", max(1, args.vary), callback) as progress:
        for variant, (mask, records) in enumerate(edited(nodes, ct, anatomy, table, edits), 1):
            # By the numbers that every verb will read: a node that is left alone is number 1, and its pieces are nodes.
            measures = _measure(numbered(Volume(mask, grid.affine)).array, grid, anatomy, table)
            results.append({"nodes": measures, "changes": records})
            if args.out and changing:
                out = outs[variant - 1]
                _write_mask(out, mask, grid, nodes, made)
                _write_csv(out.with_name(stem(out) + ".csv"), measures)
                how = {"seed": args.seed, "vary": edits.how.record() if args.vary else None}  # for `replay`
                write_json(out.with_name(stem(out) + ".json"), {**how, **results[-1]})
                written.append(str(out))
            progress.step()
    if args.out and not changing:
        if args.out.endswith(".json"):
            write_json(args.out, results[0])
        else:
            _write_csv(Path(args.out), measures)
        written.append(args.out)
    for n, result in enumerate(results):
        if changing:
            print(f"{chr(10) if n else ''}{written[n]}:")
        _print(**result)
    return {"out": written, "results": results}


def _check(args) -> None:
    """Arguments that make no sense together."""
    from ..images.volume import WRITTEN
    from ..runtime.errors import LNSynthError

    changing = args.remove or args.add or args.vary
    if not args.nodes and not (args.add and args.ct):
        raise LNSynthError("--nodes is missing: give a node mask, or --ct with --add to begin without nodes.")
    if (args.add or args.vary) and not (args.ct and args.anatomy):
        raise LNSynthError("--add and --vary need --ct and --anatomy, so that no node covers an organ or leaves the "
                           "body; make the anatomy with `lnsynth anatomy`.")
    if args.measure and changing:
        raise LNSynthError("--measure writes only the table; leave it out, the table comes beside the mask anyway.")
    if changing and not args.out:
        raise LNSynthError("--out is missing: name the mask to write.")
    endings = WRITTEN if changing else (".csv", ".json", ".dcm")
    if args.out and not args.out.endswith(endings):
        what = "mask" if changing else "table, or a DICOM SEG,"
        raise LNSynthError(f"{args.out}: a {what} is written here, so its name must end in {', '.join(endings)}.")


def _outputs(args) -> list:
    """The files that --out stands for: one a variant."""
    from pathlib import Path

    from ..images.volume import stem

    out = Path(args.out) if args.out else None
    if args.vary < 2 or out is None:
        return [out] if out else []
    return [out.with_name(f"{stem(out)}_{n}{out.name[len(stem(out)):]}") for n in range(1, args.vary + 1)]


def _seg(args, callback) -> dict:
    """Writes the mask as DICOM SEG, one segment a node."""
    from pathlib import Path

    from ..images.checks import check_nodes
    from ..images.synthetic import check_real
    from ..masks.dicom_seg import write_seg
    from ..masks.nodes import numbered
    from ..masks.plausibility import check_plausible, doubts
    from ..masks.read import read_nodes, telling
    from ..runtime.errors import LNSynthError

    if not args.ct or not args.nodes or not Path(args.ct).is_dir():
        raise LNSynthError(f"{args.out}: a DICOM SEG refers to the DICOM series that the nodes were drawn on; give its "
                           "folder as --ct and the mask as --nodes, or write the mask as NIfTI.")
    nodes = read_nodes(Path(args.nodes), None, telling(callback), source=Path(args.ct), names=args.segments)
    check_nodes(nodes, args.nodes)
    why = "no DICOM SEG is written of such; give the nodes that were drawn on the patient's CT"
    check_real(Path(args.nodes), nodes, why)
    check_real(Path(args.ct), cure=why)
    nodes = numbered(nodes)
    check_plausible(doubts(nodes), args.nodes, args.anyway, telling(callback))
    write_seg(Path(args.out), nodes, Path(args.ct))
    measures = _measure(nodes.array, nodes, None, None)
    _print(measures, [])
    return {"out": [args.out], "results": [{"nodes": measures, "changes": []}]}


def _read(args, table, tell):
    """CT, raw anatomy and nodes as given (volumes or None), checked and on one grid: the CT's, as it is stored."""
    from pathlib import Path

    from ..conditions.anatomy import load
    from ..images.checks import check_ct, check_nodes
    from ..images.volume import read
    from ..masks.nodes import numbered
    from ..masks.plausibility import check_plausible, doubts
    from ..masks.read import read_nodes

    ct = read(Path(args.ct)) if args.ct else None
    if ct is not None:
        check_ct(ct, args.ct)
    source, nodes, anatomy = Path(args.ct) if args.ct else None, None, None
    if args.nodes:
        nodes = read_nodes(Path(args.nodes), ct, tell, source=source, names=args.segments)
        check_nodes(nodes, args.nodes)
    if args.anatomy:
        anatomy = load(Path(args.anatomy), ct or nodes, args.anatomy_version, table, tell=tell, source=source)
    if nodes is not None:
        only_told = args.anyway or not (args.remove or args.add or args.vary)
        check_plausible(doubts(numbered(nodes), ct, shown=False, organs=anatomy), args.nodes, only_told, tell)
    return ct, anatomy, nodes


def _measure(mask, grid, anatomy, table) -> list[dict]:
    from ..masks.nodes import measure

    labels = None if anatomy is None else table.from_totalsegmentator(anatomy.array)
    return [node.as_dict() for node in measure(mask, grid.affine, labels, table)]


def _write_mask(out, mask, grid, before, made: bool) -> None:
    """before: the mask that it was changed from, or None; made: whether it holds what is not in the patient."""
    import numpy as np

    from ..images.synthetic import mark, remember_mask
    from ..images.volume import Volume, write

    nodes = Volume(mask, grid.affine)
    if made:
        remember_mask(nodes, before)
    write(out, nodes, mark("lymph nodes, instances") if made else "lymph nodes, instances",
          np.uint16 if mask.max() > 255 else np.uint8)


def _write_csv(out, measures) -> None:
    from ..runtime.files import write_text
    from ..runtime.tables import csv_text

    measured = ("volume_ml", "short_axis_mm", "long_axis_mm")
    place = ("right_mm", "anterior_mm", "superior_mm", "i", "j", "k")
    rows = []
    for node in measures:
        organ, distance = node["nearest"][0] if node["nearest"] else ("", None)
        numbers = {name: node[name] for name in measured} | dict(
            zip(place, (*node["centroid_mm"], *node["centroid_index"]), strict=True))
        rows.append({"id": node["id"], **{name: f"{number:.3f}" for name, number in numbers.items()},
                     "nearest_organ": organ, "distance_mm": f"{distance:.1f}" if organ else ""})
    write_text(out, csv_text(("id", *measured, *place, "nearest_organ", "distance_mm"), rows))


def _print(nodes, changes) -> None:
    print(f"{'node':>5}{'volume mL':>11}{'short mm':>10}{'long mm':>9}   centre (RAS mm)          nearest organs")
    for node in nodes:
        centre = " ".join(f"{value:7.1f}" for value in node["centroid_mm"])
        nearest = ", ".join(f"{name} {distance:.0f} mm" for name, distance in node["nearest"])
        print(f"{node['id']:>5}{node['volume_ml']:>11.2f}{node['short_axis_mm']:>10.1f}{node['long_axis_mm']:>9.1f}   "
              f"{centre}  {nearest}")
    for change in changes:
        if "reason" in change:
            print(f"node {change['id'] or '(new)'}: {change['reason']}")
