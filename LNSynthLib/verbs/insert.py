"""Generate lymph nodes in place in a full CT, or remove them.

The CT may have any size, orientation and spacing; it keeps its grid, and every voxel more than a few millimetres from
the nodes keeps its value. The result is marked SYNTHETIC in its header and has a provenance file beside it.
"""

from ..options import MACHINE, add_anonymous, add_mask_options, count, real, seed


def add_arguments(parser) -> None:
    parser.add_argument("--generator", metavar="WEIGHTS|RUN",
                        help="folder of a generator or of a training run (default: the demo weights)")
    parser.add_argument("--ct", required=True, metavar="CT", help="NIfTI, NRRD, MHA or the folder of a DICOM series")
    parser.add_argument("--nodes", required=True, metavar="MASK", help="node mask on the CT's grid")
    parser.add_argument("--anatomy", metavar="MASK", help="TotalSegmentator labels on the CT's grid (recommended)")
    parser.add_argument("--anatomy-version", type=int, choices=(1, 2), default=2,
                        help="major version of TotalSegmentator whose ids the labels are (default 2)")
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
    parser.add_argument("--sampler", choices=("dpmpp", "ddim", "ddpm"), default="dpmpp",
                        help="dpmpp: DPM-Solver++, good in 25 steps (default); ddim; ddpm: wants hundreds of steps")
    parser.add_argument("--steps", type=count, default=25, metavar="N", help="sampling steps (default 25)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of what is random (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default auto)")


def run(args, callback) -> dict:
    import os
    from pathlib import Path

    # Threads that wait in a spin loop slow down everything else on a busy CPU; libgomp reads this when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    from ..runtime.events import Event

    callback(Event("loading torch"))
    from ..synthesis.inplace import insert_file
    from ..synthesis.insert import InsertSettings
    from ..synthesis.weights import generator_path

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
