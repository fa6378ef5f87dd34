"""Train nnU-Net on real and synthetic pairs, or segment the lymph nodes of a CT with it.

    lnsynth segment train --real DATASET --synthetic SAMPLES --strategy both --multiple 10 --out RUN
    lnsynth segment predict --model RUN --ct CT --out MASK.nii.gz

Validation is always on real cases (split val), test cases are never used, and no patient is on both sides, nor a
synthetic sample made from one. RUN holds an ordinary nnU-Net model, which nnU-Net's own commands run too.
"""

from ..options import MACHINE, add_anonymous, add_anyway, add_device, count

WRITES = ("out", "probability")  # see `cli`


def add_arguments(parser) -> None:
    ways = parser.add_subparsers(dest="way", metavar="train|predict", required=True)
    train = ways.add_parser("train", help="train a segmenter", description="Train nnU-Net on real and synthetic pairs.")
    train.add_argument("--real", nargs="+", required=True, metavar="DATASET",
                       help="data sets: cases of split train are for training, those of split val for validation")
    train.add_argument("--synthetic", nargs="+", default=[], metavar="SAMPLES",
                       help="folders of samples made from cases of these data sets")
    train.add_argument("--strategy", choices=("real", "synthetic", "both"), help="images to train on (default real)")
    train.add_argument("--multiple", type=count, metavar="N",
                       help="at most N synthetic samples per real training case (default 10; paper: 5, 10 or 20)")
    train.add_argument("--out", required=True, metavar="RUN", help="folder of the run")
    train.add_argument("--trainer-preset", default="paper", metavar="NAME|FILE",
                       help="paper (default), mini, or a YAML file like theirs")
    train.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="assignments",
                       help="change settings of the preset, e.g. trainer.epochs=200 spacing_mm=1.5 seed=1")
    add_anonymous(train, "pseudonyms for the cases, patients and samples in the run's files and in the model")
    add_anyway(train, MACHINE)
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in RUN")
    predict = ways.add_parser("predict", help="segment a CT", description="Segment the lymph nodes of a CT.")
    predict.add_argument("--model", required=True, metavar="RUN", help="a run, or the nnU-Net model folder in it")
    predict.add_argument("--ct", required=True, metavar="CT",
                         help="CT in HU: NIfTI, NRRD, MHA or the folder of a DICOM series")
    predict.add_argument("--out", required=True, metavar="MASK", help="the node mask to write: each node has its own "
                                                                      "number")
    predict.add_argument("--probability", metavar="FILE", help="also write the probability of each voxel")
    for way in (train, predict):
        add_device(way)


def run(args, callback) -> dict:
    return {"train": _train, "predict": _predict}[args.way](args, callback)


def _train(args, callback) -> dict:
    from pathlib import Path

    from ..runtime.events import Event
    from ..runtime.machine import check, this_machine
    from ..segmentation.cost import training_need
    from ..segmentation.settings import load_settings

    chosen = {name: getattr(args, name) for name in ("strategy", "multiple") if getattr(args, name) is not None}
    if args.anonymous:
        chosen["anonymous"] = True
    settings = load_settings(args.trainer_preset, args.assignments, **chosen)
    callback(Event("loading torch"))
    check(training_need(settings, f"Training a segmenter with preset {args.trainer_preset}",
                        "take a machine with a GPU, or --trainer-preset mini"), this_machine(args.device), args.anyway)
    callback(Event("loading nnU-Net"))
    from ..segmentation.train import train_segmenter

    result = train_segmenter([Path(d) for d in args.real], [Path(d) for d in args.synthetic], Path(args.out), settings,
                             resume=args.resume, device=args.device, callback=callback)
    counts, trained = result["summary"], result["trained"]
    print(f"{args.out}: trained on {_counts(counts['train'])}, validated on {_counts(counts['val'])}; "
          f"{counts['left_out']} images left out (segmenter.json says why)")
    print(f"pseudo Dice {trained['last_epoch']['pseudo_dice'] or 0:.3f} after {trained['last_epoch']['epoch']} epochs; "
          f"model: {Path(args.out) / trained['model']}")
    return {"run": args.out, "summary": counts, "trained": trained}


def _counts(kinds: dict[str, int]) -> str:
    return " and ".join(f"{count} {kind}" for kind, count in kinds.items())


def _predict(args, callback) -> dict:
    from pathlib import Path

    from ..runtime.events import Event

    callback(Event("loading nnU-Net"))
    from ..segmentation.predict import predict_file

    result = predict_file(Path(args.model), Path(args.ct), Path(args.out), device=args.device, callback=callback,
                          probability=Path(args.probability) if args.probability else None)
    axes = ", ".join(f"{node['short_axis_mm']:.1f}" for node in result["nodes"])
    print(f"{args.out}: {len(result['nodes'])} lymph nodes{f', short axes {axes} mm' if axes else ''} (for research)")
    return result
