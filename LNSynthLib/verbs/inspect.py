"""List what identifies people in a folder before you share it: identifiers in headers, names, paths, hosts, dates.

It reads NIfTI, NRRD, MHA, DICOM, PNG, JPEG, weights, tables, texts, and the names inside archives and checkpoints; it
judges and changes nothing, and names every file that it cannot read. Pictures and voxels are ignored: look
for burnt-in text and faces yourself.
"""


def add_arguments(parser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="samples, an export, a generator, a segmenter, a report ...")


def run(args, callback) -> dict:
    from collections import defaultdict
    from dataclasses import asdict
    from pathlib import Path

    from ..inspection import KINDS, inspect

    found, alike = inspect(Path(args.folder)), defaultdict(list)
    for entry in found:
        alike[entry.kind, entry.where if entry.kind in ("header", "id") else "", entry.text].append(entry)
    titles = {"header": "Header fields", "id": "Ids and names in records", "name": "File names", "path": "Paths",
              "host": "This computer's and user's name", "date": "Dates",
              "images": "Arrays, which may show a patient: look yourself", "unread": "Not read: look yourself"}
    for kind in KINDS:
        rows = [(where, text, entries) for (which, where, text), entries in alike.items() if which == kind]
        print(f"{titles[kind]}: {len(rows) or 'none'}")
        for where, text, entries in rows:
            more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
            print(f"  {f'{where}: ' if where else ''}{text}   ({entries[0].file}{more})")
    return {"found": [asdict(entry) for entry in found],
            "counts": {kind: sum(entry.kind == kind for entry in found) for kind in KINDS}}
