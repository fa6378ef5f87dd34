"""Takes the picture of the compare layout, Resources/Pictures/compare.png, without Slicer.

    python Resources/make_compare_picture.py [--out FILE] [--work FOLDER]

A phantom gets two more lymph nodes, made in place by the demo weights (minutes on a CPU), and Slicer's own slice logic
and displayable managers draw what the layout shows of it. No patient's image. FOLDER keeps what was made for another
time.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in (".", "LNSynth", "Testing/Python"))

import mrml
from LNSynthLogic import bridge, compare, samples, segments
from PIL import Image
from slices import SliceViews, side_by_side

from LNSynthLib.cases.volume import read

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"Axial": (460, 360), "Coronal": (460, 240)}
MM_PER_PIXEL = 0.42


def lnsynth(*arguments) -> None:
    subprocess.run([sys.executable, "-m", "LNSynthLib", *map(str, arguments)], check=True, cwd=ROOT)


def make(folder: Path) -> tuple[Path, Path]:
    """(case, sample): folders of a phantom and of the CT that was synthesised from it."""
    lnsynth("phantom", "--out", folder / "phantom", "--cases", 1, "--seed", 5, "--spacing", 1.5, "--nodes", 4)
    case = next((folder / "phantom" / "cases").iterdir())
    ct, anatomy, nodes = (case / f"{name}.nii.gz" for name in ("ct", "anatomy", "nodes"))
    wanted = folder / "wanted.nii.gz"
    if not wanted.exists():
        lnsynth("nodes", "--ct", ct, "--anatomy", anatomy, "--nodes", nodes, "--add", 2, "--short-axis", 16,
                "--seed", 3, "--out", wanted)
    lnsynth("variants", "--ct", ct, "--nodes", wanted, "--present", nodes, "--anatomy", anatomy, "--seed", 1,
            "--out", folder / "samples", "--prefix", "phantom")
    return case, folder / "samples" / "phantom-001"


def picture(case: Path, sample: Path):
    """uint8 (height, width, 3): the layout with the largest of the nodes that were made in the middle."""
    scene = mrml.new_scene()
    views = SliceViews(scene)
    source = read(case / "ct.nii.gz")
    ct = mrml.add_ct(scene, source.array, source.affine, "Phantom")
    ct.GetDisplayNode().SetAutoWindowLevel(False)
    ct.GetDisplayNode().SetWindowLevel(360, 60)
    nodes = segments.new_segmentation(scene, ct, "Nodes")
    segments.add_instances(nodes, ct, read(case / "nodes.nii.gz").array, in_ct=True)
    synthetic, new_nodes = samples.load_sample(scene, sample, like=ct)
    assert bridge.is_synthetic(synthetic)
    compare.open_layout(scene)
    compare.show(scene, ct, synthetic, nodes, new_nodes)
    compare.frame([views.view(name, SIZES["Axial" if name.endswith("Axial") else "Coronal"]).logic
                   for name in compare.VIEWS], ct)
    for name in compare.VIEWS:
        node = views.view(name).node
        width, height = node.GetDimensions()[:2]
        node.SetFieldOfView(MM_PER_PIXEL * width, MM_PER_PIXEL * height, node.GetFieldOfView()[2])
        compare.Banner(views.view(name).renderer).show(*compare.banner_text(scene, name))
    x, y, z = compare.center_of(new_nodes, samples.nodes_to_look_at(new_nodes)[0], synthetic)
    compare.jump(scene, (x, y, z))
    for side in (compare.REAL, compare.SYNTHETIC):
        compare.slice_node(scene, side[1]).JumpSliceByCentering(x, y, z + 20)  # the phantom ends not far below
    return side_by_side([[views.view(side[row]).picture() for side in (compare.REAL, compare.SYNTHETIC)]
                         for row in (0, 1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "Resources" / "Pictures" / "compare.png")
    parser.add_argument("--work", type=Path, help="folder for what is made on the way (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        case, sample = make((arguments.work or Path(temporary)).resolve())
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(case, sample)).save(arguments.out, optimize=True)
    print(arguments.out)


if __name__ == "__main__":
    main()
