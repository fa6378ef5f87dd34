"""Make several synthetic samples of one CT, to choose from: its nodes made as a mask has them, or changed at random.

Each sample is a folder under OUT (CT, nodes, anatomy, montage, provenance; SYNTHETIC) that `lnsynth review` takes.
Samples that are there already stay, corrected ones too; run again, it makes only what is missing.

  lnsynth variants --ct ct.nii.gz --nodes new.nii.gz --present old.nii.gz --anatomy anatomy.nii.gz --out samples
  lnsynth variants --ct ct.nii.gz --nodes new.nii.gz --anatomy anatomy.nii.gz --vary --count 5 --out samples
"""

from ..options import MACHINE, add_anonymous, add_mask_options, count, seed


def add_arguments(parser) -> None:
    parser.add_argument("--generator", metavar="WEIGHTS|RUN",
                        help="folder of a generator or of a training run (default: the demo weights)")
    parser.add_argument("--ct", required=True, metavar="CT", help="NIfTI, NRRD, MHA or the folder of a DICOM series")
    parser.add_argument("--nodes", required=True, metavar="MASK", help="the nodes wanted, on the CT's grid")
    parser.add_argument("--present", metavar="MASK",
                        help="the nodes that the CT shows: those that are not wanted any more, or changed, are "
                             "removed, those that are wanted voxel for voxel stay (default: it shows none)")
    parser.add_argument("--anatomy", metavar="MASK", help="TotalSegmentator labels on the CT's grid (recommended)")
    parser.add_argument("--anatomy-version", type=int, choices=(1, 2), default=2,
                        help="major version of TotalSegmentator whose ids the labels are (default 2)")
    add_mask_options(parser, MACHINE)
    add_anonymous(parser, "a pseudonym for the case, and no names of files in the provenance")
    parser.add_argument("--case", metavar="ID",
                        help="the case's id in your data set (default: as the file lies in one, else NAME of "
                             "--prefix, else the CT's name)")
    parser.add_argument("--out", required=True, metavar="OUT", help="folder for the samples")
    parser.add_argument("--prefix", metavar="NAME",
                        help="of the samples' names: NAME-001, ... (default: the case's id)")
    parser.add_argument("--mode", choices=("in-place", "patch"), default="in-place",
                        help="in-place: the full CT, changed at the nodes alone (default); patch: a patch, every voxel "
                             "of which is generated")
    parser.add_argument("--count", type=count, default=1, metavar="K", help="number of variants (default 1)")
    parser.add_argument("--vary", action="store_true", help="change the nodes at random in each variant")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="with --vary: how nodes vary, e.g. remove=0 translation_mm=4")
    parser.add_argument("--remake", action="store_true", help="regenerate nodes that the CT shows already, too")
    parser.add_argument("--sampler", choices=("dpmpp", "ddim", "ddpm"), default="dpmpp",
                        help="dpmpp: DPM-Solver++, good in 25 steps (default); ddim; ddpm: wants hundreds of steps")
    parser.add_argument("--steps", type=count, default=25, metavar="N", help="sampling steps (default 25)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of what is random (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default auto)")


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
