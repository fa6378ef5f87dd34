"""Generate CT patches from the prepared cases of data sets, their lymph nodes changed at random.

Each sample is a folder under --out: CT in HU, nodes, anatomy, montage and provenance, marked SYNTHETIC. Run again, it
makes only what is missing. The samples are the same whatever the number of workers. Several GPUs:
torchrun --nproc-per-node N -m LNSynthLib synthesize ...
"""

from ..options import MACHINE, Sampling, add_anonymous, add_anyway, count, real


def add_arguments(parser) -> None:
    parser.add_argument("--data", nargs="+", required=True, metavar="DATASET",
                        help="data sets that `lnsynth prepare` prepared in the generator's form")
    parser.add_argument("--prepared", metavar="NAME",
                        help="preparation of the data sets to take, where several fit the generator")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the samples")
    parser.add_argument("--per-case", type=count, default=1, metavar="K", help="samples per case (default 1; paper: "
                                                                               "10)")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), default="train",
                        help="cases to start from (default train, so that no test case leaks into training data)")
    Sampling.add_to(parser)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="change how nodes vary, e.g. remove=0 translation_mm=4")
    parser.add_argument("--workers", type=count, default=1, metavar="N", help="number of processes (default 1)")
    parser.add_argument("--threads", type=count, default=1, metavar="N",
                        help="CPU threads for one sample (default 1; another number changes a sample's last bits)")
    parser.add_argument("--filter", metavar="MODEL",
                        help="a trained segmenter that judges the samples afterwards: those whose nodes it does not "
                             "find are listed in FOLDER/filter.csv and left out of training")
    parser.add_argument("--threshold", type=real(0, 1), default=0.7, metavar="T",
                        help="with --filter: a node is found where more than this share of it is (default 0.7)")
    parser.add_argument("--filter-rule", choices=("every", "any", "mean"), default="every",
                        help="with --filter: how many of a sample's nodes must be found (default every)")
    add_anonymous(parser, "pseudonyms for the cases in names, pictures and provenance; seeds follow from them, so that "
                          "the samples are others than without")
    add_anyway(parser, MACHINE)


def run(args, callback) -> dict:
    import os
    from pathlib import Path

    from ..runtime.errors import LNSynthError

    if args.filter and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise LNSynthError("--filter judges all samples at once; when torchrun has made them, run the same command "
                           "without torchrun.")
    _check(args, callback)
    judge = _judge(args) if args.filter else None  # before the samples: a wrong path is told at once
    result = _shared(args, callback) if args.workers > 1 else _here(args, callback)
    replaced = f", {len(result['replaced'])} of them in place of others" if result["replaced"] else ""
    print(f"{result['folder']}: {len(result['made'])} samples made{replaced}, {len(result['unchanged'])} unchanged "
          "(SYNTHETIC)")
    if judge is not None:
        from ..segmentation.filter import filter_samples, report

        result["filter"] = filter_samples(Path(args.out), judge, args.threshold, rule=args.filter_rule,
                                          callback=callback)
        print(report(result["filter"]))
    return result


def _check(args, callback) -> None:
    """Refuses what this machine has not the memory or, by far, not the time for."""
    from pathlib import Path

    from ..runtime.events import Event

    callback(Event("loading torch"))
    from ..generators.model_folder import generator_path
    from ..runtime.machine import check, this_machine
    from ..synthesis.synthesize import need

    wanted = need(generator_path(args.generator), [Path(d) for d in args.data], Path(args.out), _settings(args),
                  args.workers)
    check(wanted, this_machine(args.device), args.anyway)


def _judge(args):
    from pathlib import Path

    from ..cases.sides import members
    from ..cases.trained_on import held_out
    from ..segmentation.filter import check
    from ..segmentation.predict import Segmenter

    check(args.threshold, args.filter_rule)
    judge = Segmenter.open(Path(args.filter), args.device)
    judge.trained_on.check(held_out(members(args.data)), f"The segmenter {args.filter}")
    return judge


def _settings(args):
    from ..conditions.transforms import VarySettings
    from ..runtime.settings import build, override
    from ..synthesis.synthesize import SynthesizeSettings

    return SynthesizeSettings(
        per_case=args.per_case, seed=args.seed, sampler=args.sampler, steps=args.steps, threads=args.threads,
        split=None if args.split == "all" else args.split, prepared=args.prepared, anonymous=args.anonymous,
        vary=build(VarySettings, override({}, args.assignments), "--set"))


def _here(args, callback) -> dict:
    from pathlib import Path

    from ..generators.model_folder import generator_path
    from ..synthesis.synthesize import synthesize

    return synthesize(generator_path(args.generator), [Path(d) for d in args.data], Path(args.out), _settings(args),
                      args.device, callback)


def _shared(args, callback) -> dict:
    from ..runtime.shares import run_shares

    arguments = ["synthesize", "--data", *args.data, "--out", args.out, "--anyway"]  # the whole has been checked
    arguments += ["--per-case", str(args.per_case), "--split", args.split, "--threads", str(args.threads)]
    arguments += Sampling.of(args).to_argv()
    arguments += ["--prepared", args.prepared] if args.prepared else []
    arguments += ["--anonymous"] if args.anonymous else []
    arguments += ["--set", *args.assignments] if args.assignments else []
    shares = run_shares(arguments, args.workers, callback)
    return {"folder": shares[0]["folder"]} | {
        what: sorted(name for share in shares for name in share[what]) for what in ("made", "unchanged", "replaced")}
