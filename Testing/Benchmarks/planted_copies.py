"""Whether the search for copies finds copies that are planted, what it flags beside them, and how long it takes.

    python Testing/Benchmarks/planted_copies.py SHARED_DATA [--spacing 2 --side 48 --patches 8 --cells 16]
        [--generator Resources/generators/demo --steps 25]

Training cases are six real CTs (SHARED_DATA/README.md) and three phantoms. A patch of a case ("own", whose anatomy the
sample would have been given) and one of another case stand in for a sample: as they are, shifted by one voxel, with
noise of 5 HU, blurred by 1 mm, in each flip. Honest are each tissue's mean HU with noise of its own, and real patches
searched for in the other cases alone, and, with --generator, what that generator (of label table abdomen17 and this
spacing) makes of the anatomy. Prints how many are flagged, and the texture correlations. Exit status 1 where less than
95 % of the copies or more than 5 % of the honest ones are flagged.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from LNSynthLib.conditions.encode import encode, expected_hu
from LNSynthLib.evaluation.copies import FLIPS, Searched, Sought, flipped
from LNSynthLib.evaluation.memorisation import MemorisationSettings
from LNSynthLib.generators import model_folder
from LNSynthLib.images.boxes import padded
from LNSynthLib.images.volume import Volume, canonical, isotropic_grid, read, resample_to
from LNSynthLib.masks.body import label_map, organ_hu
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.phantom.phantom import phantom

TABLE = LabelTable.load("abdomen17")
REAL = (("ts_example_ct", "ts_example_labels"), ("crlm1004_ct", "crlm1004_coarse_anatomy"),
        ("r01142_abd_ct", "r01142_abd_coarse_anatomy"), ("acrinflt001_abdpel_ct", "acrinflt001_abdpel_pseudo_organs"),
        ("c3l00189_ct", "c3l00189_pseudo_organs"), ("lidc0001_upper_ct", "lidc0001_upper_pseudo_organs"))


def body(hu, organs, spacing) -> tuple[np.ndarray, np.ndarray]:
    """(CT in [0, 2], labels)."""
    return ((np.clip(hu, -120, 240) + 120) / 180).astype(np.float32), label_map(hu, organs, (spacing,) * 3, TABLE)


def bodies(folder: Path, spacing: float) -> list:
    found = []
    for names in REAL:
        image, raw = (canonical(read(folder / f"{name}.nii.gz")) for name in names)
        grid = isotropic_grid(image, spacing)
        hu = resample_to(Volume(np.maximum(image.array, -1024), image.affine), *grid, cval=-1000).array
        found.append(body(hu, resample_to(raw, *grid, order=0).array, spacing))
    made = (phantom(seed, spacing=(spacing,) * 3) for seed in range(3))
    return [*found, *(body(p.ct.array, p.anatomy.array, spacing) for p in made)]


def patches(number: int, cases: list, side: int, spacing: float) -> tuple[int, tuple, np.ndarray, dict]:
    """(own case, place, tissues, {kind: patch}) of one draw."""
    random = np.random.default_rng(number)
    own, other = random.choice(len(cases), 2, replace=False)

    def draw(which):
        for _ in range(200):
            start = [int(random.integers(min(0, n - side), max(0, n - side) + 1)) for n in cases[which][0].shape]
            box = tuple(slice(s, s + side) for s in start)
            ct, labels = (padded(part, box) for part in cases[which])
            if TABLE.is_organ(labels).mean() > 0.05:
                break
        return start, ct, labels

    (place, mine, tissues), (_, theirs, _) = draw(own), draw(other)
    moved = padded(cases[own][0], tuple(slice(s + d, s + d + side) for s, d in zip(
        place, random.choice([(1, 0, 0), (0, 1, 0), (0, 0, -1), (1, -1, 1)]), strict=True)))
    levels = np.zeros(tissues.shape)
    for tissue in np.unique(tissues):
        levels[tissues == tissue] = mine[tissues == tissue].mean()
    grain = 0.15 * ndimage.gaussian_filter(random.normal(size=levels.shape), 0.6)
    made = {"honest: levels and noise": np.clip(ndimage.gaussian_filter(levels, 0.6) + grain, 0, 2),
            "honest: real, not shown": mine, "own, shifted by a voxel": moved}
    for whose, patch in (("own", mine), ("other", theirs)):
        made |= {f"{whose}, exact": patch, f"{whose}, blurred by 1 mm": ndimage.gaussian_filter(patch, 1 / spacing),
                 f"{whose}, noise of 5 HU": np.clip(patch + random.normal(0, 5 / 180, patch.shape), 0, 2),
                 f"{whose}, flipped": flipped(patch, FLIPS[1 + number % 7])}
    return int(own), tuple(place), tissues, made


def generated(model, case: tuple, tissues: np.ndarray, seed: int, steps: int) -> np.ndarray:
    """What a generator makes, in [0, 2], of a place's tissues without nodes; HU are expected to be the case's."""
    form, hu = model.form, None
    if form.expected_hu:
        hu = expected_hu(TABLE, organ_hu(case[0] * 180 - 120, case[1], TABLE), None, form.window)
    condition = encode(tissues, np.zeros(tissues.shape, np.uint8), form.anatomy_channels, hu)[None]
    with torch.inference_mode():
        return model.sample(condition, seeds=[seed], steps=steps, sampler="dpmpp")[0, 0].float().numpy() + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--patches", type=int, default=8)
    parser.add_argument("--cells", type=int, default=MemorisationSettings().cells)
    parser.add_argument("--generator", type=Path, help="folder of a generator whose samples are honest ones too")
    parser.add_argument("--steps", type=int, default=25, help="of its sampling")
    args = parser.parse_args()
    model = model_folder.load(args.generator)[0] if args.generator else None
    settings, cases, found = MemorisationSettings(cells=args.cells), bodies(args.data, args.spacing), {}
    began = time.process_time()
    searched = [Searched(lambda box, ct=ct: padded(ct, box), ct.shape, (args.side,) * 3, settings) for ct, _ in cases]
    opened, seconds, searches = time.process_time() - began, 0.0, 0
    for number in range(args.patches):
        own, place, tissues, made = patches(number, cases, args.side, args.spacing)
        if model is not None:
            made["honest: generated"] = generated(model, cases[own], tissues, number, args.steps)
        for kind, patch in made.items():
            apart = kind == "honest: real, not shown"
            began = time.process_time()
            match = Sought(patch.astype(np.float32), tissues, (args.spacing,) * 3, settings).best(
                [s for i, s in enumerate(searched) if i != own or not apart], [] if apart else [(own, place)])
            seconds, searches = seconds + time.process_time() - began, searches + 1
            if match is not None:
                found.setdefault(kind, []).append(match.texture)
    for kind, textures in sorted(found.items()):
        print(f"{kind:26} {np.mean(np.array(textures) >= settings.detail_limit):5.0%} of {len(textures)} flagged, "
              f"texture {min(textures):.2f} to {max(textures):.2f}, median {np.median(textures):.2f}")
    print(f"{len(cases)} cases read in {opened:.1f} s, {seconds / searches:.2f} s of processor time a search; 100 "
          f"samples in 20 cases: about {100 * seconds / searches * 20 / len(cases) / 60:.1f} min at most")
    share = {honest: np.mean([t >= settings.detail_limit for kind, ts in found.items() for t in ts
                              if kind.startswith("honest") == honest]) for honest in (False, True)}
    return 0 if share[False] >= 0.95 and share[True] <= 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
