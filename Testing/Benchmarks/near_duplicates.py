"""Whether the same CT is found whatever was done to it, and no other CT is taken for it, in one run.

    python Testing/Benchmarks/near_duplicates.py [--shared ../shared/data] [--phantoms 12] [--many 200]

Copies are made of each real CT: stored otherwise, mirrored, cropped, changed a little, resampled, windowed, painted
with nodes. Others are the other CTs, halves of one CT that do not overlap, and phantoms of different seeds. Then the
time for `--many` CTs against as many. Exit status 1 where a copy is missed or another CT is taken for one (adjacent
halves of a CT of 40 mm, which are one patient's and share their blur, are told apart from the rest).
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.cases.fingerprint import ALIKE, Fingerprint, fingerprint, likeness, near_duplicates
from LNSynthLib.conditions.pseudo_pairs import pseudo_dataset
from LNSynthLib.images.volume import Volume, canonical, read, resample_to
from LNSynthLib.phantom.phantom import phantom

CTS = {"acrinflt001_abdpel_ct.nii.gz": "acrinflt001_abdpel_pseudo_organs.nii.gz",
       "c3l00189_ct.nii.gz": "c3l00189_pseudo_organs.nii.gz",
       "crlm1004_ct.nii.gz": "crlm1004_coarse_anatomy.nii.gz",
       "lidc0001_upper_ct.nii.gz": "lidc0001_upper_pseudo_organs.nii.gz",
       "r01142_abd_ct.nii.gz": "r01142_abd_coarse_anatomy.nii.gz",
       "ts_example_ct.nii.gz": "ts_example_labels.nii.gz",
       "ts_slab_dicom": "ts_slab_labels.nii.gz"}
THIN_MM = 50  # halves of a CT no thicker than this share much of what they show


def part(ct: Volume, *slices: slice) -> Volume:
    affine = ct.affine.copy()
    affine[:3, 3] = (ct.affine @ [*(s.indices(n)[0] for s, n in zip(slices, ct.shape, strict=True)), 1])[:3]
    return Volume(ct.array[slices], affine)


def copies(ct: Volume) -> Iterator[tuple[str, Volume]]:
    """(what was done, the copy) of a canonical CT."""
    everything = slice(None)
    yield "float32", Volume(ct.array.astype(np.float32) + 0.25, ct.affine)
    yield "float64", Volume(ct.array.astype(np.float64), ct.affine)
    for order in itertools.permutations(range(3)):  # with an affine that says so
        yield "axes stored in another order", Volume(ct.array.transpose(order), ct.affine[:, [*order, 3]])
    for flips in itertools.product((1, -1), repeat=3):
        stored = ct.array[::flips[0], ::flips[1], ::flips[2]]
        change = np.diag([*map(float, flips), 1.0])
        change[:3, 3] = [(n - 1) * (f < 0) for n, f in zip(ct.shape, flips, strict=True)]
        yield "axes stored flipped", Volume(stored, ct.affine @ change)
        yield "mirrored", Volume(stored, ct.affine)  # the affine does not say so: another image
    yield "cropped by 1 slice", part(ct, everything, everything, slice(1, None))
    yield "cropped by 10 slices", part(ct, everything, everything, slice(10, None))
    yield "cropped by 10 voxels at each side", part(ct, slice(10, -10), slice(10, -10), everything)
    yield "cropped by 20 voxels at one side", part(ct, slice(20, None), everything, everything)
    changed = ct.array.copy()
    changed[tuple(n // 2 for n in ct.shape)] += 1
    yield "one voxel changed", Volume(changed, ct.affine)
    noise = np.random.default_rng(0).normal(0, 5, ct.shape)
    yield "noise of 5 HU", Volume(np.rint(ct.array + noise).astype(np.int16), ct.affine)
    shape = tuple(max(1, int(n / 1.5)) for n in ct.shape)
    yield "voxels of 1.5 times the side", resample_to(ct, ct.affine @ np.diag([1.5, 1.5, 1.5, 1]), shape)
    yield "window [-120, 240]", Volume(np.clip(ct.array, -120, 240), ct.affine)


def painted(shared: Path, ct: str) -> Fingerprint:
    with tempfile.TemporaryDirectory() as folder:
        dataset = pseudo_dataset(Path(folder) / "d", shared / ct, shared / CTS[ct], 1, 0, case="painted")
        return fingerprint(Dataset.open(dataset.folder).load(dataset.cases()[0]["id"]).ct)


def closest(a: Fingerprint, b: Fingerprint) -> float:
    """The highest likeness on 8 mm over the flips, whatever the first step would make of the pair."""
    return max(likeness(a.fine, b.fine[::x, ::y, ::z]) for x, y, z in itertools.product((1, -1), repeat=3))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--phantoms", type=int, default=12)
    parser.add_argument("--many", type=int, default=200)
    args = parser.parse_args()
    cts = {name: canonical(read(args.shared / name)) for name in CTS}
    began = time.perf_counter()
    prints = {name: fingerprint(ct) for name, ct in cts.items()}
    print(f"fingerprints of {len(cts)} CTs: {time.perf_counter() - began:.2f} s, "
          f"{max(found.cells.size for found in prints.values()) / 1000:.0f} kB at most\n")

    table, missed = defaultdict(list), 0
    for name, ct in cts.items():
        made = [(what, fingerprint(copy)) for what, copy in copies(ct)]
        made.append(("painted nodes", painted(args.shared, name)))
        found = {j: value for _, j, value in near_duplicates([prints[name]], [p for _, p in made])}
        for n, (what, other) in enumerate(made):
            table[what].append((n in found, closest(prints[name], other)))
    print(f"{'copy':<36}{'found':>8}{'of':>5}{'least likeness':>16}")
    for what, results in table.items():
        hits = sum(hit for hit, _ in results)
        missed += len(results) - hits
        print(f"{what:<36}{hits:>8}{len(results):>5}{min(value for _, value in results):>16.3f}")

    wrong = 0
    others: dict[str, list] = {"other CT": [*itertools.combinations(prints.values(), 2)]}
    for ct in cts.values():
        middle = ct.shape[2] // 2
        halves = [part(ct, slice(None), slice(None), s) for s in (slice(0, middle), slice(middle, None))]
        thin = " (CT of 40 mm)" if ct.extent_mm[2] < THIN_MM else ""
        others.setdefault(f"other half{thin}", []).append(tuple(map(fingerprint, halves)))
    drawn = [fingerprint(phantom(seed, 3.0).ct) for seed in range(args.phantoms)]
    others["phantom of another seed"] = [*itertools.combinations(drawn, 2)]
    others["phantom against a CT"] = [*itertools.product(drawn, prints.values())]
    print(f"\n{'other':<36}{'alarms':>8}{'of':>5}{'highest likeness':>18}")
    for what, pairs in others.items():
        alarms = sum(bool(near_duplicates([a], [b])) for a, b in pairs)
        wrong += alarms * ("40 mm" not in what)
        print(f"{what:<36}{alarms:>8}{len(pairs):>5}{max(closest(a, b) for a, b in pairs):>18.3f}")

    pool = [*prints.values(), *drawn]
    ours, theirs = ([Fingerprint(np.roll(pool[n % len(pool)].cells, n, 0), f"{side}{n}") for n in range(args.many)]
                    for side in range(2))
    began = time.perf_counter()
    pairs = near_duplicates(ours, theirs)
    print(f"\n{args.many} CTs against {args.many}: {time.perf_counter() - began:.1f} s, {len(pairs)} pairs alike")
    print(f"\nalike above {ALIKE:g}: {missed} copies missed, {wrong} false alarms")
    return int(bool(missed or wrong))


if __name__ == "__main__":
    sys.exit(main())
