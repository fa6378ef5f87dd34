"""Measures segmentations, or synthetic images, against real ones.

  lnsynth evaluate segmentation --predicted predictions --truth labels --out scores
"""

SUBJECTS = {
    "segmentation": "predicted node masks against the true ones: DSC, IOU, Recall, Precision, ASSD, NodeRecall",
}


def add_arguments(parser) -> None:
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    _segmentation_arguments(subjects.add_parser("segmentation", help=SUBJECTS["segmentation"],
                                                description=SUBJECTS["segmentation"]))


def run(args, callback) -> dict:
    return {"segmentation": _segmentation}[args.subject](args, callback)


def _segmentation_arguments(parser) -> None:
    parser.add_argument("--predicted", required=True, metavar="DIR|FILE",
                        help="predicted masks, CASE.nii.gz in a folder as nnU-Net writes them, or one file")
    parser.add_argument("--truth", required=True, metavar="DIR|FILE",
                        help="true masks of the same names: one number a node, or one value for all")
    parser.add_argument("--probability", metavar="DIR|FILE",
                        help="probabilities of the same names, or nnU-Net's .npz: adds FROC")
    parser.add_argument("--out", metavar="DIR", help="folder for scores.csv, scores.json and froc.png")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="change how it is scored, e.g. connectivity=6 node_recall=pooled one_empty_assd=exclude")


def _segmentation(args, callback) -> dict:
    from pathlib import Path

    from ..evaluation.folders import score_folders, summary, table, write_scores
    from ..evaluation.segmentation import ScoreSettings
    from ..runtime.settings import build, override

    settings = build(ScoreSettings, override({}, args.assignments), "--set")
    probability = Path(args.probability) if args.probability else None
    scores = score_folders(Path(args.predicted), Path(args.truth), probability, settings, callback)
    result = summary(scores, settings)
    _print_table(table(scores, settings))
    _print_strata(result["pooled"]["node_recall_by_short_axis"])
    written = write_scores(Path(args.out), scores, settings) if args.out else []
    for path in written:
        print(path)
    return {name: result[name] for name in ("pooled", "intervals", "settings")} | {"written": list(map(str, written))}


def _print_table(rows: list[dict]) -> None:
    """Columns as wide as their widest entry; the case to the left, numbers to the right; - where not defined."""
    def text(value) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [list(rows[0])] + [[text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *rest = (f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        print("  ".join([f"{first.strip():<{widths[0]}}", *rest]))


def _print_strata(strata: dict) -> None:
    print("nodes found by short axis: " + ", ".join(
        f"{name} mm {stratum['found']}/{stratum['nodes']}" for name, stratum in strata.items()))
