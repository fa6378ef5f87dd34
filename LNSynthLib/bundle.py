"""A generator as a MONAI bundle: a folder that `python -m monai.bundle run inference` runs where LNSynth is installed.

    configs/metadata.json    what it is, what goes in and what comes out
    configs/inference.json   the run: a CT and a node mask in, a synthetic CT out; no Python inside
    models/                  the generator's folder as it is, weights as safetensors: nothing is unpickled
    docs/README.md           the model card
    LICENSE                  of the weights, as far as it is recorded

Layout and keys: https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from . import __version__
from .conditions.form import DataForm
from .generators import model_folder
from .masks.labels import LabelTable
from .options import Sampling
from .runtime.errors import LNSynthError
from .runtime.files import atomic_folder, check_apart, write_json, write_text

MODELS, CARD = "models", "README.md"
OF_A_RUN = {"bundle_root": ".", "ct": None, "nodes": None, "anatomy": None, "out": "synthetic.nii.gz",
            "sampler": Sampling.sampler, "steps": Sampling.steps, "seed": Sampling.seed, "device": Sampling.device}
CALL = {"_target_": "LNSynthLib.bundle.infer", **{key: f"@{key}" for key in OF_A_RUN}}
INFERENCE = {**OF_A_RUN, "inference": CALL}
RUN = ("python -m monai.bundle run inference \\\n"
       "    --meta_file configs/metadata.json --config_file configs/inference.json \\\n"
       "    --ct ct.nii.gz --nodes nodes.nii.gz --anatomy anatomy.nii.gz --out synthetic.nii.gz")


def write_bundle(generator: Path, out: Path) -> Path:
    """Writes the bundle of a generator (its folder or a training run) as the new folder `out`; returns that.

    Raises LNSynthError where there is something at `out` already, or no whole generator.
    """
    source, out = model_folder.find(generator), Path(out)
    check_apart([out], [source])
    if out.exists():
        raise LNSynthError(f"{out}: it exists already; name a new folder for the bundle.")
    model, facts = model_folder.load(source)  # proves that the weights are whole and fit their settings
    with atomic_folder(out) as beside:
        shutil.copytree(source, beside / MODELS, ignore=shutil.ignore_patterns(CARD, ".*"))
        for folder in ("configs", "docs"):
            (beside / folder).mkdir()
        write_json(beside / "configs" / "metadata.json", metadata(model.form, facts))
        write_json(beside / "configs" / "inference.json", INFERENCE)
        own = source / CARD
        write_text(beside / "docs" / CARD, own.read_text(encoding="utf-8") if own.is_file() else
                   model_card(model.form, facts))
        write_text(beside / "LICENSE", licence(facts))
    return out


def infer(bundle_root: str, ct: str | None, nodes: str | None, anatomy: str | None, out: str, sampler: str, steps: int,
          seed: int, device: str) -> dict:
    """What the bundle runs: `lnsynth insert` with the bundle's generator. Returns the provenance."""
    from .synthesis.insert import InsertSettings
    from .synthesis.insert_file import insert_file

    if not ct or not nodes:
        raise LNSynthError("Name a CT and its node mask: --ct ct.nii.gz --nodes nodes.nii.gz.")
    return insert_file(Path(bundle_root) / MODELS, Path(ct), Path(nodes), Path(out),
                       InsertSettings(seed=seed, sampler=sampler, steps=steps),
                       anatomy=Path(anatomy) if anatomy else None, device=device)


def metadata(form: DataForm, facts: dict) -> dict:
    """configs/metadata.json: the keys that the specification asks for, and the sampled patch as the network sees it."""
    shape, names = list(form.patch), [label.name for label in LabelTable.load(form.labels).labels]
    condition = {str(channel): name for channel, name in enumerate([*names, "lymph nodes"])}
    if form.expected_hu:
        condition[str(len(condition))] = "expected HU"
    patch = {"type": "image", "modality": "CT", "spatial_shape": shape, "dtype": "float32", "is_patch_data": True}
    return {
        "version": __version__,
        "changelog": {__version__: "exported by LNSynth"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"lnsynth": __version__, "nibabel": version("nibabel"),
                                      "scipy": version("scipy"), "safetensors": version("safetensors")},
        "name": f"LNSynth {facts['kind']}",
        "task": "Synthesis of abdominal lymph nodes in CT",
        "description": "Generates lymph nodes in place in a CT, where a node mask says. For research; not a medical "
                       "device. What it makes is marked SYNTHETIC.",
        "authors": "see docs/README.md",
        "copyright": licence(facts).splitlines()[0],
        "intended_use": "research on segmentation of lymph nodes; never diagnosis",
        "network_data_format": {
            "inputs": {"condition": {**patch, "format": "labels", "num_channels": form.condition_channels,
                                     "value_range": [-1, 1] if form.expected_hu else [0, 1],
                                     "channel_def": condition}},
            "outputs": {"pred": {**patch, "format": "image", "num_channels": 1, "value_range": [-1, 1],
                                 "channel_def": {"0": f"CT, {form.window[0]:g} to {form.window[1]:g} HU"}}},
        },
    }


def model_card(form: DataForm, facts: dict) -> str:
    """For a generator that came without one: what its record says, and plainly what it does not say."""
    training = facts.get("training") or {}
    unknown = (facts.get("trained_on") or {}).get("unknown")
    cases = training.get("cases")
    rows = {
        "kind": facts["kind"],
        "patches": f"{' x '.join(map(str, form.patch))} voxels of {form.spacing_mm:g} mm, {form.window[0]:g} to "
                   f"{form.window[1]:g} HU, label table {LabelTable.load(form.labels).name}",
        "training": f"{training['step']} steps" if "step" in training else "not recorded",
        "trained on": f"{cases if isinstance(cases, int) else len(cases)} cases" if cases else "not recorded",
        "which cases these were": "not recorded" if unknown or "trained_on" not in facts else
                                  "recorded as hashes in models/model.json, so that nobody tests on them",
        "licence of the weights": facts.get("licence") or "not recorded",
        "SHA-256 of the weights": facts["weights_sha256"],
    }
    table = "\n".join(f"| {name} | {said} |" for name, said in rows.items())
    return ("# A generator of LNSynth\n\nIt synthesises abdominal lymph nodes in CT. For research; not a medical "
            f"device; its images are SYNTHETIC.\n\n| | |\n|---|---|\n{table}\n\n## Run it\n\nIn this folder, with "
            f"LNSynth and `fire` installed:\n\n```\n{RUN}\n```\n")


def licence(facts: dict) -> str:
    """LICENSE: of the weights, where it is recorded. LNSynth's code is not in the bundle."""
    said = facts.get("licence")
    weights = f"The weights: {said}" if said else "The weights: licence not recorded; ask those who trained them."
    return f"{weights}\nThe code that runs them, LNSynth, is not in this folder; it is under Apache-2.0.\n"
