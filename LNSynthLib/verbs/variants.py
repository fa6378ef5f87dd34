"""Make several synthetic samples of one CT, to choose from: its nodes made as a mask has them, or changed at random.

Each sample is a folder under --out (CT, nodes, anatomy, montage, provenance; SYNTHETIC) that `lnsynth review` takes.
Samples that are there already stay, corrected ones too; run again, it makes only what is missing.

  lnsynth variants --ct ct.nii.gz --nodes new.nii.gz --present old.nii.gz --anatomy anatomy.nii.gz --out samples
  lnsynth variants --ct ct.nii.gz --nodes new.nii.gz --anatomy anatomy.nii.gz --vary --count 5 --out samples
"""

from ..options import MACHINE, Sampling, add_anatomy_version, add_anonymous, add_mask_options, count


def add_arguments(parser) -> None:
    parser.add_argument("--ct", required=True, metavar="CT", help="NIfTI, NRRD, MHA or the folder of a DICOM series")
    parser.add_argument("--nodes", required=True, metavar="MASK", help="the nodes wanted, on the CT's grid")
    parser.add_argument("--present", metavar="MASK",
                        help="the nodes in the CT: those that --nodes has voxel by voxel stay, the others are removed "
                             "(default: it shows none)")
    parser.add_argument("--anatomy", metavar="MASK", help="TotalSegmentator labels on the CT's grid (recommended)")
    add_anatomy_version(parser)
    add_mask_options(parser, MACHINE)
    add_anonymous(parser, "a pseudonym for the case, and no names of files in the provenance")
    parser.add_argument("--case", metavar="ID",
                        help="the case's id in your data set (default: as the file lies in one, else NAME of "
                             "--prefix, else the CT's name)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the samples")
    parser.add_argument("--prefix", metavar="NAME",
                        help="start of the samples' names: NAME-001, ... (default: the case's id)")
    parser.add_argument("--mode", choices=("in-place", "patch"), default="in-place",
                        help="in-place: the full CT, changed at the nodes alone (default); patch: a patch, every voxel "
                             "of which is generated")
    parser.add_argument("--count", type=count, default=1, metavar="K", help="number of variants (default 1)")
    parser.add_argument("--vary", action="store_true", help="change the nodes at random in each variant")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="with --vary: how nodes vary, e.g. remove=0 translation_mm=4")
    parser.add_argument("--remake", action="store_true", help="also regenerate nodes that the CT shows already")
    Sampling.add_to(parser)


def run(args, callback) -> dict:
    from pathlib import Path

    from ..runtime.events import Event

    callback(Event("loading torch"))
    from ..conditions.transforms import VarySettings
    from ..generators.model_folder import generator_path
    from ..runtime.errors import LNSynthError
    from ..runtime.settings import build, override
    from ..synthesis.variants.inputs import Files
    from ..synthesis.variants.make import variants
    from ..synthesis.variants.run import VariantSettings

    if args.assignments and not args.vary:
        raise LNSynthError("--set says how nodes vary, and needs --vary.")
    vary = build(VarySettings, override({}, args.assignments), "--set") if args.vary else None
    settings = VariantSettings(count=args.count, mode=args.mode, seed=args.seed, sampler=args.sampler,
                               steps=args.steps, vary=vary, remake=args.remake)
    present, anatomy = (Path(path) if path else None for path in (args.present, args.anatomy))
    files = Files(Path(args.ct), Path(args.nodes), present, anatomy, args.anatomy_version, args.case,
                  tuple(args.segments))
    result = variants(generator_path(args.generator), files, Path(args.out), settings, prefix=args.prefix,
                      anyway=args.anyway, anonymous=args.anonymous, device=args.device, callback=callback)
    print(f"{args.out}: {len(result['made'])} samples made, {len(result['unchanged'])} unchanged (SYNTHETIC)")
    for left_out in result["skipped"]:
        print(f"variant {left_out['variant']} left out: {left_out['reason']}")
    return result
