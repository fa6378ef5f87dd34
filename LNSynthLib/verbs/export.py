"""Export a generator for other programs.

  lnsynth export bundle GENERATOR --out BUNDLE
"""


def add_arguments(parser) -> None:
    ways = parser.add_subparsers(dest="way", metavar="bundle", required=True)
    text = "a MONAI bundle, which `python -m monai.bundle run inference` runs where LNSynth is installed"
    bundle = ways.add_parser("bundle", help=text, description=f"Write {text}.")
    bundle.add_argument("generator", metavar="GENERATOR", help="folder of a generator or of a training run")
    bundle.add_argument("--out", required=True, metavar="FOLDER", help="the new folder to write")


def run(args, callback) -> dict:
    from pathlib import Path

    from ..runtime.events import Event

    callback(Event("loading torch"))
    from ..bundle import RUN, write_bundle

    out = write_bundle(Path(args.generator), Path(args.out))
    print(f"{out}: in this folder,\n{RUN}")
    return {"folder": str(out)}
