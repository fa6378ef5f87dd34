"""Train a generator on prepared data sets.

The run's folder is self-contained: its settings, log, checkpoints, sample montages, and under `generator` the averaged
weights that `lnsynth synthesize` takes. Several GPUs: torchrun --nproc-per-node N -m LNSynthLib train ...
"""

from ..options import MACHINE, add_anyway, real


def add_arguments(parser) -> None:
    parser.add_argument("--preset", metavar="NAME|FILE", help="paper, small, demo, mini, or a YAML file like theirs")
    parser.add_argument("--generator-kind", default="lnddpm", help="generator of the preset (default lnddpm)", choices=(
        "lnddpm", "pix2pix", "spade", "brainldm", "medddpm", "nasdm", "echo"))
    parser.add_argument("--data", nargs="+", metavar="DATASET", help="data sets that `lnsynth prepare` prepared")
    parser.add_argument("--out", metavar="RUN", help="folder of the run")
    parser.add_argument("--resume", action="store_true",
                        help="go on from the last checkpoint in RUN; preset and data may then be left out")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="change settings of the preset, e.g. training.batch=4 generator.denoiser.blocks=1")
    parser.add_argument("--max-minutes", type=real(above=0), metavar="M", help="stop after M minutes; --resume goes on")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto",
                        help="auto: a GPU where there is one (default); cpu: never")
    add_anyway(parser, MACHINE)
    parser.add_argument("--dry-run", action="store_true", help="print the cost of the preset and exit")


def run(args, callback) -> dict | None:
    from pathlib import Path

    from ..cases.dataset import Dataset
    from ..runtime.errors import LNSynthError
    from ..runtime.events import Event

    preset, data = _preset_and_data(args)
    if args.dry_run:
        callback(Event("loading torch"))
        from ..training.cost import describe

        callback(Event("counting operations and memory"))

        cost = describe(preset)
        _print_cost(args.preset or args.out, preset.about, cost)
        return cost
    if not args.out or not data:
        raise LNSynthError("`lnsynth train` needs --data and --out; or --out of an earlier run with --resume.")
    for folder in data:
        Dataset.open(Path(folder))  # a wrong path is told at once
    callback(Event("loading torch"))
    from ..runtime.machine import check, this_machine
    from ..training.cost import training_need

    job = f"Training {args.preset or args.out}"
    check(training_need(preset, job, "take a machine with a larger GPU, or a smaller preset (small, demo)"),
          this_machine(args.device), args.anyway)
    from ..training.loop import train

    result = train(preset, data, args.out, resume=args.resume, device=args.device, callback=callback)
    print(f"{result['run']}: step {result['step']}, {result['stopped']}")
    return result


def _preset_and_data(args):
    """What the arguments say; when resuming, the run's own settings stand in for what they leave out."""
    from pathlib import Path

    from ..runtime.content import check
    from ..runtime.errors import LNSynthError
    from ..runtime.files import read_json
    from ..runtime.settings import override
    from ..training.settings import RUN, load_preset, make_preset

    assignments = list(args.assignments)
    if args.max_minutes is not None:
        assignments.append(f"training.max_minutes={args.max_minutes}")
    if args.preset:
        return load_preset(args.preset, assignments, args.generator_kind), args.data
    if args.resume and args.out and (path := Path(args.out) / "settings.json").exists():
        kept = check(read_json(path), RUN, path)
        data = args.data or [str((path.parent.resolve() / folder).resolve()) for folder in kept["data"]]
        return make_preset(override(kept["preset"], assignments), str(path)), data
    raise LNSynthError("`lnsynth train` needs --preset paper, small, demo, or a YAML file; or --resume with --out RUN.")


def _print_cost(name: str, about: str, cost: dict) -> None:
    patch = "x".join(map(str, cost["patch"]))
    rows = {
        "generator": cost["generator"],
        "parameters": f"{cost['parameters'] / 1e6:.2f} million",
        "one forward, 128x128x128": f"{cost['flops_per_forward_128'] / 1e12:.3f} TFLOP",
        f"one forward, {patch}": f"{cost['flops_per_forward_patch'] / 1e12:.3f} TFLOP, this preset's patch",
        "training memory": f"{cost['training_bytes'] / 1e9:.1f} GB in fp32, and the convolutions' workspace",
        "training": f"{cost['steps']} steps of batch {cost['batch']}, {cost['flops_training'] / 1e15:.2f} PFLOP",
    }
    print(f"{name}: {about}")
    for what, value in rows.items():
        print(f"  {what:<26}{value}")
