"""Measure segmentations, or synthetic images, against real ones.

  lnsynth evaluate segmentation --predicted predictions --truth labels --out scores
  lnsynth evaluate images --samples synthetic --data mydata --features resnet_10_23dataset.pth --out scores
"""

from ..options import SEGMENTS

SUBJECTS = {
    "segmentation": "predicted node masks against the true ones: DSC, IOU, Recall, Precision, ASSD, NodeRecall",
    "images": "synthetic patches against the real ones in their place: MSE, PSNR, MS-SSIM, LPIPS, HU of organs and "
              "nodes, FID, MMD, and copies of training patches",
}


def add_arguments(parser) -> None:
    subjects = parser.add_subparsers(dest="subject", metavar="segmentation|images", required=True)
    _segmentation_arguments(subjects.add_parser("segmentation", help=SUBJECTS["segmentation"],
                                                description=SUBJECTS["segmentation"]))
    _images_arguments(subjects.add_parser("images", help=SUBJECTS["images"], description=SUBJECTS["images"]))


def run(args, callback) -> dict:
    return {"segmentation": _segmentation, "images": _images}[args.subject](args, callback)


def _segmentation_arguments(parser) -> None:
    parser.add_argument("--predicted", required=True, metavar="DIR|FILE",
                        help="predicted masks, CASE.nii.gz in a folder as nnU-Net writes them, or one file")
    parser.add_argument("--truth", required=True, metavar="DIR|FILE",
                        help="true masks with the same names: one number per node, or one value for all")
    parser.add_argument("--segments", nargs="+", default=[], metavar="NAME", help=SEGMENTS)
    parser.add_argument("--probability", metavar="DIR|FILE",
                        help="probabilities with the same names, or nnU-Net's .npz: adds the FROC curve")
    parser.add_argument("--out", metavar="DIR", help="folder for scores.csv, scores.json and froc.png")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="change the scoring, e.g. connectivity=6 node_recall=pooled one_empty_assd=exclude")


def _segmentation(args, callback) -> dict:
    from pathlib import Path

    from ..evaluation.folders import score_folders, summary, table, write_scores
    from ..evaluation.segmentation import ScoreSettings
    from ..runtime.settings import build, override

    settings = build(ScoreSettings, override({}, args.assignments), "--set")
    probability = Path(args.probability) if args.probability else None
    scores = score_folders(Path(args.predicted), Path(args.truth), probability, settings, callback,
                           args.segments)
    result = summary(scores, settings)
    _print_table(table(scores, settings))
    _print_strata(result["pooled"]["node_recall_by_short_axis"])
    written = write_scores(Path(args.out), scores, settings) if args.out else []
    for path in written:
        print(path)
    return {name: result[name] for name in ("pooled", "intervals", "settings")} | {"written": list(map(str, written))}


def _images_arguments(parser) -> None:
    parser.add_argument("--samples", required=True, metavar="DIR", help="folder of samples")
    parser.add_argument("--data", nargs="+", required=True, metavar="DATASET",
                        help="data sets they were made from; copies are searched for in their training cases")
    parser.add_argument("--features", metavar="WEIGHTS",
                        help="MedicalNet weights, e.g. resnet_10_23dataset.pth, for LPIPS, FID and MMD (default: the "
                             "file that LNSYNTH_MEDICALNET names; without it they stay empty)")
    parser.add_argument("--out", metavar="DIR", help="folder for images.csv and images.json")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="change the measures, e.g. tissue.core_mm=3 memorisation.per_case=16")
    parser.add_argument("--device", default="auto",
                        help="where to compute features: auto, cpu, cuda, cuda:1 or mps (default auto)")


def _images(args, callback) -> dict:
    from pathlib import Path

    from ..runtime.events import Event

    callback(Event("loading torch"))
    from ..evaluation.features import FeatureNet, weights_path
    from ..evaluation.generation import ImageSettings, evaluate_samples, table, write_images
    from ..runtime.settings import build, override

    settings = build(ImageSettings, override({}, args.assignments), "--set")
    weights = weights_path(args.features)
    net = FeatureNet.load(weights, args.device) if weights else None
    result = evaluate_samples(Path(args.samples), [Path(d) for d in args.data], settings, features=net,
                              callback=callback)
    _print_table([{name: value for name, value in row.items() if name != "case"} for row in table(result)])
    _print_images(result["summary"])
    written = write_images(Path(args.out), result) if args.out else []
    for path in written:
        print(path)
    return {"summary": result["summary"], "settings": result["settings"], "written": list(map(str, written))}


def _print_images(said: dict) -> None:
    kinds = ", ".join(f"{count} from {kind} cases" for kind, count in said["kinds"].items())
    print(f"{said['samples']} SYNTHETIC samples, {kinds}, of {said['patients']} patient(s); in {said['nodes_changed']} "
          "the nodes are not those of the case")
    if said["features"] is None:
        print(f"LPIPS, FID and MMD are empty: {said['features_absent']}")
    elif said["fid"] is not None:
        caveat = f" ({said['fid_caveat']})" if said["fid_caveat"] else ""
        print(f"{said['features']['name']}: FID {said['fid']:.4g}{caveat}, MMD^2 {said['mmd']:.4g}")
    copies = said["memorisation"]
    print(f"{len(copies['flagged'])} of {copies['judged']} look like copies of training data (every place and flip of "
          f"{copies['training_cases']} cases of {copies['training_patients']} patients searched)"
          f"{': ' if copies['flagged'] else ''}{', '.join(copies['flagged'])}")
    if tried := copies["planted"]:
        print(f"the same search flags {tried['found']} of {tried['copies']} planted copies, and {tried['flagged']} of "
              f"{tried['honest']} real patches that are none")


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
