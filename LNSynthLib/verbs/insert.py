"""Generate lymph nodes in place in a full CT, or remove them.

The CT may have any size, orientation and spacing; it keeps its grid, and every voxel more than a few millimetres from
the nodes keeps its value. The result is marked SYNTHETIC in its header and has a provenance file beside it.
"""

from ..options import MACHINE, Sampling, add_anatomy_version, add_anonymous, add_mask_options, count, real


def add_arguments(parser) -> None:
    parser.add_argument("--ct", required=True, metavar="CT", help="NIfTI, NRRD, MHA or the folder of a DICOM series")
    parser.add_argument("--nodes", required=True, metavar="MASK", help="node mask on the CT's grid")
    parser.add_argument("--anatomy", metavar="MASK", help="TotalSegmentator labels on the CT's grid (recommended)")
    add_anatomy_version(parser)
    add_mask_options(parser, MACHINE)
    add_anonymous(parser, "leave the names of the files out of the provenance")
    parser.add_argument("--out", required=True, metavar="FILE", help="the CT to write: .nii, .nii.gz, .nrrd or .mha")
    parser.add_argument("--remove", action="store_true", help="remove the nodes instead of generating them")
    parser.add_argument("--only", type=count, nargs="+", metavar="N",
                        help="numbers of the nodes to generate or remove, as `lnsynth nodes` lists them; the others "
                             "are taken to be in the CT already (default: all)")
    parser.add_argument("--composite", choices=("residual", "replace"), default="residual",
                        help="residual keeps the CT's own noise, bone and gas (default); replace fades to the "
                             "generator's smoother image")
    parser.add_argument("--margin", type=real(above=0), default=6.0, metavar="MM",
                        help="how far around a node the CT may change (default 6)")
    Sampling.add_to(parser)


def run(args, callback) -> dict:
    from pathlib import Path

    from ..runtime.events import Event

    callback(Event("loading torch"))
    from ..generators.model_folder import generator_path
    from ..synthesis.insert import InsertSettings
    from ..synthesis.insert_file import insert_file

    settings = InsertSettings(seed=args.seed, sampler=args.sampler, steps=args.steps, composite=args.composite,
                              margin_mm=args.margin)
    result = insert_file(generator_path(args.generator), Path(args.ct), Path(args.nodes), Path(args.out), settings,
                         anatomy=Path(args.anatomy) if args.anatomy else None, anatomy_version=args.anatomy_version,
                         only=args.only, remove=args.remove, segments=args.segments, anyway=args.anyway,
                         anonymous=args.anonymous, device=args.device, callback=callback)
    for patch in result["condition"]["patches"]:
        print(f"node {', '.join(map(str, patch['nodes']))}: mean {patch['mean_hu_before']:.0f} HU before, "
              f"{patch['mean_hu_after']:.0f} HU after, {patch['voxels_changed']} voxels changed")
    print(f"{args.out} (SYNTHETIC)")
    return result
