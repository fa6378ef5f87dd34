"""Show what is installed here, what is missing, what will be slow or impossible, and how to mend it."""


def add_arguments(parser):
    parser.add_argument("--folder", default=".", metavar="DIR",
                        help="your working folder, to show its free space (default: the current folder)")


def run(args, callback):
    from pathlib import Path

    from LNSynthLib import doctor
    from LNSynthLib.runtime.errors import LNSynthError
    folder = Path(args.folder)
    if not folder.is_dir():
        raise LNSynthError(f"{folder} is not a folder; give one that exists.")
    rows = doctor.inspect(folder, callback)
    print(doctor.table(rows))
    return doctor.as_result(rows)
