"""Show the whole chain: a phantom or your CT, its condition, four synthetic variants, a node put in place, a web page.

Everything is written to the folder --out; open its index.html. Takes some minutes on two CPU cores.
"""

from ..options import MACHINE, Sampling, add_anyway


def add_arguments(parser) -> None:
    parser.add_argument("--out", default="demo_out", metavar="FOLDER", help="output folder (default demo_out)")
    parser.add_argument("--ct", metavar="CT", help="your CT instead of the phantom: NIfTI, NRRD, MHA or a DICOM folder")
    parser.add_argument("--anatomy", metavar="MASK", help="its TotalSegmentator v2 labels (see `lnsynth anatomy`)")
    Sampling.add_to(parser, sampler=False)
    add_anyway(parser, MACHINE)


def run(args, callback) -> dict:
    from pathlib import Path

    from ..runtime.events import Event

    callback(Event("loading torch"))
    from ..generators.model_folder import generator_path

    generator = generator_path(args.generator)  # before the heavy imports: missing weights are told at once

    from ..demo.demo import demo

    result = demo(Path(args.out), generator, ct=Path(args.ct) if args.ct else None,
                  anatomy=Path(args.anatomy) if args.anatomy else None, seed=args.seed, steps=args.steps,
                  anyway=args.anyway, device=args.device, callback=callback)
    print(f"{result['page']} (SYNTHETIC, from {'a phantom' if result['kind'] == 'phantom' else 'your CT'})")
    return result
