"""Takes the pictures of the module's panels in Resources/Pictures/module, without Slicer.

    python Resources/make_panel_pictures.py [--out FOLDER] [--width 440]

The module's own code runs over its form and a real scene with the phantom; what stands in for Slicer is in
Testing/Python/fixtures (slicer_app.py). All that is shown is drawn or computed from the phantom: no patient's image.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"
sys.path.extend(str(Path(__file__).resolve().parents[1] / name)
                for name in (".", "LNSynth", "Testing/Python", "Testing/Python/fixtures"))

import mrml
import numpy as np
import panels
import slicer_app
from PIL import Image
from slices import SliceViews
from stage import Stage
from test_scene_samples import make_sample

ROOT = Path(__file__).resolve().parents[1]
PLACE = Path("/tmp/LNSynth")  # what the path lines show


def scene_with_everything(stage):
    """The phantom's CT, nodes and organs, as its button brings them."""
    p = stage.host.parameters
    p.ct = mrml.add_ct(stage.scene, name="LNSynthPhantom")
    p.nodes = mrml.add_nodes(stage.scene, p.ct, name="LNSynthPhantom nodes")
    p.anatomy = mrml.add_anatomy(stage.scene, p.ct, name="LNSynthPhantom organs")
    stage.settle()
    stage.ui.nodesTable.selectRow(1)
    stage.press("affineButton")
    stage.settle()


def setup(stage):
    """As where some packages are not installed."""
    from LNSynthLogic.jobs import environment

    missing = ("torch", "nibabel", "safetensors", "TotalSegmentator", "nnunetv2")
    here = environment.inspect(version_of=lambda name: "" if name in missing else environment.installed_version(name))
    former, environment.current = environment.current, lambda: here
    stage.host.panels["setup"].refresh()
    environment.current = former


def synthesis(stage):
    from LNSynthLogic import synthetic

    p = stage.host.parameters
    p.samplesFolder, p.variants, p.seed, p.vary = str(PLACE / "samples"), 4, 7, True
    made = mrml.add_ct(stage.scene, name="LNSynthPhantom-003")
    synthetic.mark_synthetic(made, {})
    p.synthetic = made
    stage.settle()


def review(stage):
    """Six samples of the phantom, four of them judged."""
    from LNSynthLogic.review_queue import ReviewQueue

    from LNSynthLib.runtime.files import sha256

    rng, drawn, source = np.random.default_rng(3), mrml.phantom(), sha256(stage.host.export_ct())
    for i in range(1, 7):
        ct = type(drawn.ct)(drawn.ct.array + rng.integers(-3, 4, drawn.ct.array.shape, dtype=drawn.ct.array.dtype),
                            drawn.ct.affine)
        make_sample(PLACE / "samples" / f"LNSynthPhantom-{i:03}", ct, drawn.nodes,
                    nodes=[{"id": k, "state": "made"} for k in range(1, 6)], source={"sha256": {"ct": source}})
    for reviewer, verdicts in (("reader 2", [("accept", ""), ("reject", "blurred margin")]),
                               ("reader 1", [("accept", ""), ("accept", "small, but seen in coronal"),
                                             ("reject", "streak"), ("accept", "")])):
        queue = ReviewQueue(PLACE / "samples", reviewer)
        queue.first()
        for verdict, note in verdicts:
            queue.look()
            queue.decide(verdict, note)
    stage.host.parameters.reviewer = "reader 1"
    stage.settle()
    stage.ui.reviewTable.selectRow(4)
    stage.until(lambda: stage.ui.acceptButton.enabled)


def segmentation(stage):
    """Nodes as if found by a segmenter: one is missed, one is false, the others are a little off."""
    p, found = stage.host.parameters, mrml.phantom().nodes.array.copy()
    rolled = np.roll(found, 1, axis=0)
    found[found == 4] = 0
    found = np.where(rolled % 2, rolled, found)
    found[20:23, 30:33, 10:12] = 9
    p.reference, p.prediction = p.nodes, mrml.add_nodes(stage.scene, p.ct, found, name="Nodes found by nnU-Net")
    p.segmenter = str(PLACE / "segmenter")
    (PLACE / "segmenter").mkdir(exist_ok=True)
    for name in ("plans.json", "dataset.json"):
        (PLACE / "segmenter" / name).write_text("{}")
    stage.settle()


def batch(stage):
    p = stage.host.parameters
    (PLACE / "CTs").mkdir(exist_ok=True)
    p.batchInput, p.batchOutput = str(PLACE / "CTs"), str(PLACE / "results")
    stage.settle()


def job(stage):
    """A synthesis at its second sample; nothing runs."""
    from LNSynthLogic.jobs import process

    from LNSynthLib.runtime.events import Event

    class Runner:
        state, error, result = process.State.RUNNING, "", None

        def __init__(self, **_told):
            pass

        start = poll = cancel = kill = lambda self: None

    panel = stage.host.jobs
    panel.run("Synthesis", Runner)
    panel._event(Event(stage="read", message="CT 150 x 110 x 60 voxels, 5 nodes"))
    panel._event(Event(stage="sample", done=1, total=4, message="LNSynthPhantom-001 is finished"))
    panel._event(Event(stage="sampling", done=37, total=100, eta_s=84.0, message="sample 2 of 4"))
    stage.ui.logSection.collapsed = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "Resources" / "Pictures" / "module")
    parser.add_argument("--width", type=int, default=440)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(PLACE, ignore_errors=True)
    (PLACE / "temporary").mkdir(parents=True)
    app, scene = panels.application(), mrml.new_scene()
    views = SliceViews(scene)
    with slicer_app.running(scene, PLACE / "temporary") as (application, talk):
        application.application_logic = views.application
        stage = Stage(scene, application, talk)
        scene_with_everything(stage)
        for name in panels.SECTIONS:
            if name in globals():
                globals()[name](stage)
            take(stage, name, args.out / f"{name}.png", args.width)
            if name == "synthesis":
                former = panels.dark(app)
                take(stage, name, args.out / f"{name}-dark.png", args.width)
                app.setPalette(former)
        stage.host.jobs._runner = None
        stage.close()
        if talk.faults or talk.errors:
            raise SystemExit("\n".join(talk.faults + talk.errors))
    shutil.rmtree(PLACE)


def take(stage, section: str, path: Path, width: int) -> None:
    panels.picture(stage.host.panel, section, path, width)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
