"""Makes the demo generator in Resources/generators/demo: data, training, half-precision weights, model card, and the
record of what it was trained on.

    python Resources/make_demo_generator.py --shared ../shared/data --work DIR [--minutes 70] [--record]

With --record nothing is trained: the generator that is there gets the record anew.

Training data: phantoms, and real CTs into whose fat nodes of the shape prior are painted (pseudo-pairs; none of these
CTs has annotated nodes). The CT in LEFT_OUT is prepared alike but never trained on: Testing/Benchmarks/demo_fidelity.py
measures on it. Everything in DIR is resumable; run again to go on.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.cases.fingerprint import fingerprint
from LNSynthLib.cases.prepare import PrepareSettings, prepare
from LNSynthLib.cases.sides import Member, members
from LNSynthLib.cases.trained_on import TrainedOn
from LNSynthLib.conditions.pseudo_pairs import pseudo_dataset
from LNSynthLib.generators import model_folder
from LNSynthLib.images.volume import read, stem
from LNSynthLib.phantom.phantom import phantom_dataset
from LNSynthLib.runtime.events import console
from LNSynthLib.runtime.files import read_json, write_json, write_text
from LNSynthLib.runtime.settings import resources
from LNSynthLib.training.loop import train
from LNSynthLib.training.settings import load_preset

# CT, anatomy, and how often it is painted: a slab of 40 mm has less to teach than a whole abdomen.
TRAINED_ON = [("ts_example_ct.nii.gz", "ts_example_labels.nii.gz", 6),
              ("ts_slab_dicom", "ts_slab_labels.nii.gz", 2),
              ("r01142_abd_ct.nii.gz", "r01142_abd_coarse_anatomy.nii.gz", 8)]
LEFT_OUT = [("crlm1004_ct.nii.gz", "crlm1004_coarse_anatomy.nii.gz", 1)]
PHANTOMS, SEED, SHARES = 20, 100, (8, 1, 1)


def data(shared: Path, work: Path) -> None:
    phantom_dataset(work / "phantoms", PHANTOMS, SEED, spacing=2.0, nodes=10, callback=console(), shares=SHARES)
    for folder, split, cts in (("pseudo", "train", TRAINED_ON), ("left_out", "test", LEFT_OUT)):
        for ct, anatomy, variants in cts:
            pseudo_dataset(work / folder, shared / ct, shared / anatomy, variants, SEED, nodes=(8, 12), split=split,
                           case=stem(Path(ct)), callback=console())
    for folder in ("phantoms", "pseudo", "left_out"):
        prepare(Dataset.open(work / folder), PrepareSettings(spacing_mm=2.0, labels="abdomen17", name="demo"),
                callback=console())


def ship(run: Path, trained_on: TrainedOn) -> None:
    generator, facts = model_folder.load(run)
    card = Path(__file__).with_name("demo_generator_card.md").read_text(encoding="utf-8")
    training = facts["training"]
    folder = model_folder.save(resources() / "generators" / "demo", generator, facts, dtype=torch.float16,
                             trained_on=trained_on)
    minutes = round(training["seconds"] / 60)
    write_text(folder / "README.md", card.replace("{steps}", str(training["step"])).replace("{minutes}", str(minutes)))
    print(f"{folder}: now measure it with Testing/Benchmarks/demo_fidelity.py, and put the figures into its README.md")


def seen(shared: Path, work: Path) -> TrainedOn:
    """The record of the training: the real CTs themselves, not what was painted into them, and the phantoms; what
    these look like is left out, as no patient is like them."""
    cts = [Member(name, stem(Path(name)), "train", stem(Path(name)), "",
                  lambda name=name: fingerprint(read(shared / name))) for name, _, _ in TRAINED_ON]
    phantoms = [member for member in members([work / "phantoms"]) if member.side == "train"]
    return replace(TrainedOn.of([*cts, *phantoms]), prints=TrainedOn.of(cts).prints)


def record(folder: Path, trained_on: TrainedOn) -> None:
    trained_on.save_prints(folder)
    facts = folder / model_folder.FACTS
    write_json(facts, {**read_json(facts), "trained_on": trained_on.plain()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=70)
    parser.add_argument("--record", action="store_true", help="train nothing; write the record of what was trained on")
    args = parser.parse_args()
    if args.record:
        phantom_dataset(args.work / "phantoms", PHANTOMS, SEED, spacing=2.0, nodes=10, callback=console(),
                        shares=SHARES)
        record(resources() / "generators" / "demo", seen(args.shared, args.work))
        return
    data(args.shared, args.work)
    preset = load_preset("demo", [f"training.max_minutes={args.minutes}"])
    train(preset, [args.work / "phantoms", args.work / "pseudo"], args.work / "run", resume=True, callback=console())
    ship(args.work / "run", seen(args.shared, args.work))


if __name__ == "__main__":
    main()
