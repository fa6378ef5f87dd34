"""Accept or reject synthetic samples, list those that training may use, and export those that were accepted.

Verdicts are rows of FOLDER/review.csv; `lnsynth segment train` leaves out samples that were rejected there or dropped
by the filter. A reviewer's latest verdict on a sample counts; where reviewers disagree, one rejection excludes it.
"""

from ..options import add_anonymous, add_device, real


def add_arguments(parser) -> None:
    ways = parser.add_subparsers(dest="way", metavar="list|decide|filter|page|export", required=True)

    def way(name, text):
        sub = ways.add_parser(name, help=text, description=text)
        sub.add_argument("folder", metavar="FOLDER", help="folder of samples")
        return sub

    for name, text in (("list", "list the samples: accepted, rejected, dropped by the filter, or undecided"),
                       ("page", "write FOLDER/review.html: every sample's montage with its verdicts"),
                       ("export", "write the accepted pairs as a data set of their own")):
        sub = way(name, text)
        sub.add_argument("--rule", choices=("any-reject", "latest"), default="any-reject",
                         help="where reviewers disagree: any-reject excludes the sample (default), latest takes the "
                              "latest verdict")
        if name == "export":
            sub.add_argument("--as", choices=("nifti", "nnunet"), required=True, dest="layout",
                             help="nifti: images/, masks/ (one number a node) and dataset.csv; nnunet: imagesTr/, "
                                  "labelsTr/ (0 and 1) and dataset.json")
            sub.add_argument("--out", required=True, metavar="OUT",
                             help="a new folder; for nnunet one named like Dataset501_Name, else such a folder is "
                                  "made in "
                                  "it")
            add_anonymous(sub, "pseudonyms for the samples, the cases that they were made from and the reviewers; no "
                               "notes and no names of files")
    decide = way("decide", "accept or reject samples")
    decide.add_argument("samples", nargs="+", metavar="SAMPLE", help="name of a sample's folder")
    verdict = decide.add_mutually_exclusive_group(required=True)
    verdict.add_argument("--accept", dest="verdict", action="store_const", const="accept",
                         help="accept them: training may use them")
    verdict.add_argument("--reject", dest="verdict", action="store_const", const="reject",
                         help="reject them: training leaves them out")
    decide.add_argument("--note", default="", metavar="TEXT", help="the reason")
    decide.add_argument("--reviewer", metavar="NAME", help="who decides (default: your user name)")
    judge = way("filter", "keep only the samples whose nodes a segmenter finds: FOLDER/filter.csv")
    judge.add_argument("--model", required=True, metavar="MODEL", help="folder of a trained segmenter")
    judge.add_argument("--threshold", type=real(0, 1), default=0.7, metavar="T",
                       help="a node is found where more than this share of its voxels is (default 0.7)")
    judge.add_argument("--filter-rule", choices=("every", "any", "mean"), default="every",
                       help="how many of a sample's nodes must be found (default every)")
    add_device(judge)


def run(args, callback) -> dict:
    from pathlib import Path

    return {"list": _list, "decide": _decide, "filter": _filter, "page": _page, "export": _export}[args.way](
        args, Path(args.folder), callback)


def _list(args, folder, callback) -> dict:
    from ..review.standings import filter_table, reason, standings

    found = standings(folder, rule=args.rule)
    width = max(6, *(len(standing.sample.name) for standing in found))
    print(f"{'sample':<{width}}  {'status':<9}  {'found':>5}  why")
    rows = []
    for s in found:
        covered = "" if s.verdict is None or s.verdict.least is None else f"{s.verdict.least:.2f}"
        why = reason(s) or (f"{s.decision.reviewer} {s.decision.note}".strip() if s.decision else "")
        stale = "".join(f" [{d.verdict} by {d.reviewer} is about an earlier sample of this name]" for d in s.stale)
        print(f"{s.sample.name:<{width}}  {s.status:<9}  {covered:>5}  {why}{stale}".rstrip())
        rows.append({"sample": s.sample.name, "status": s.status, "reason": reason(s),
                     "stale": [d.reviewer for d in s.stale]})
    counts = {status: [row["status"] for row in rows].count(status)
              for status in ("accepted", "rejected", "undecided", "dropped", "damaged")}
    usable = counts["accepted"] + counts["undecided"]
    print(f"{len(rows)} samples: {', '.join(f'{n} {status}' for status, n in counts.items())}; "
          f"{usable} may be trained on")
    if filter_table(folder).exists() and (unjudged := sum(s.verdict is None for s in found)):
        print(f"{unjudged} samples came after the filter ran, so it leaves none of them out; run it again.")
    return {"samples": rows, "counts": counts, "usable": usable}


def _decide(args, folder, callback) -> dict:
    import getpass
    from dataclasses import asdict

    from ..review.verdicts import record

    reviewer = args.reviewer or getpass.getuser()
    made = [record(folder, sample, args.verdict, args.note, reviewer) for sample in args.samples]
    print(f"{folder / 'review.csv'}: {reviewer} {args.verdict}s {', '.join(d.sample for d in made)}")
    return {"decisions": [asdict(decision) for decision in made]}


def _filter(args, folder, callback) -> dict:
    from pathlib import Path

    from ..segmentation.filter import filter_samples, report
    from ..segmentation.predict import Segmenter

    segmenter = Segmenter.open(Path(args.model), args.device)
    result = filter_samples(folder, segmenter, args.threshold, rule=args.filter_rule, callback=callback)
    print(report(result))
    return result


def _page(args, folder, callback) -> dict:
    from ..review.contact_sheet import contact_sheet
    from ..review.standings import standings
    from ..runtime.files import write_text

    page = folder / "review.html"
    write_text(page, contact_sheet(folder.resolve().name, standings(folder, rule=args.rule)))
    print(f"{page} (SYNTHETIC)")
    return {"page": str(page)}


def _export(args, folder, callback) -> dict:
    from pathlib import Path

    from ..review.export import export

    result = export(folder, Path(args.out), args.layout, rule=args.rule, anonymous=args.anonymous,
                    callback=callback)
    left_out = ", ".join(f"{n} {status}" for status, n in result["left_out"].items())
    print(f"{result['folder']}: {len(result['cases'])} accepted pairs (SYNTHETIC)"
          + (f"; left out: {left_out}" if left_out else ""))
    return result
