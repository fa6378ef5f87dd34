"""From the module's parameters to the commands of its jobs, and what is missing before a button can start one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from LNSynthLib.options import Sampling
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import read_json

from ..nodes_in_ct import ct_of
from ..words import _
from .environment import Environment
from .process import library_command

DEFAULT_FOLDER = "LNSynth"  # under the person's documents


@dataclass(frozen=True)
class Exported:
    """Files that were written for a job, all on the CT's grid."""

    ct: Path
    nodes: Path                   # the nodes wanted
    present: Path | None = None   # the nodes that the CT shows already
    anatomy: Path | None = None   # TotalSegmentator v2 ids


def variants(parameters, files: Exported, prefix: str) -> list[str]:
    """Synthesis: samples <samplesFolder>/<prefix>-001 and so on."""
    p = parameters
    arguments = ["--ct", files.ct, "--nodes", files.nodes, "--out", p.samplesFolder, "--prefix", prefix,
                 "--mode", p.mode, "--count", p.variants,
                 *Sampling(p.generator or None, p.sampler, p.steps, p.seed, p.device).to_argv(),
                 "--anyway"]  # Input told what may be wrong with the nodes, and they are in sight
    arguments += ["--present", files.present] if files.present else []
    arguments += ["--anatomy", files.anatomy] if files.anatomy else []
    arguments += ["--vary"] if p.vary else []
    arguments += ["--remake"] if p.remake else []
    return library_command("variants", *arguments)


def anatomy(ct: Path, out: Path, fast: bool, device: str) -> list[str]:
    """TotalSegmentator's labels of a CT."""
    return library_command("anatomy", "--ct", ct, "--out", out, "--device", device, *(["--fast"] if fast else []))


def add_nodes(ct: Path, anatomy: Path, out: Path, count: int, seed: int) -> list[str]:
    """Nodes of random shape where nodes lie, for a CT that has none drawn."""
    return library_command("nodes", "--ct", ct, "--anatomy", anatomy, "--add", count, "--seed", seed, "--out", out)


def segment(model: str, ct: Path, out: Path, device: str) -> list[str]:
    """The lymph nodes that a trained nnU-Net finds in a CT."""
    return library_command("segment", "predict", "--model", model, "--ct", ct, "--out", out, "--device", device)


def sample_prefix(name: str) -> str:
    """A CT's name as the samples' names begin: letters, digits, dots and dashes; "ct" where nothing of it is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "ct"


def default_samples_folder(documents: str | Path, ct_name: str) -> Path:
    """Where samples of a CT go unless the person says otherwise. It is made when the first sample is."""
    return Path(documents) / DEFAULT_FOLDER / sample_prefix(ct_name)


def what_is_missing(job: str, parameters, environment: Environment) -> str:
    """Why the button of a job ("anatomy", "synthesis", "segmentation", "batch") cannot start it; empty when it can."""
    if parameters is None:
        return _("The scene is being closed.")
    return {"anatomy": _anatomy, "synthesis": _synthesis, "segmentation": _segmentation,
            "batch": _batch}[job](parameters, environment)


def _anatomy(p, environment: Environment) -> str:
    return _ct(p) or environment.missing_words("anatomy")


def _synthesis(p, environment: Environment) -> str:
    if missing := _ct(p):
        return missing
    if p.nodes is None:
        return _("Choose or create a segmentation for the nodes (section Input).")
    drawn = p.nodes.GetSegmentation().GetNumberOfSegments()
    removed = p.nodesInCT and p.keptNodes is not None and p.keptNodes.GetSegmentation().GetNumberOfSegments()
    if not drawn and not (removed and p.mode == "in-place"):
        return _("There are no nodes yet: draw or add one (section Nodes).")
    if p.vary and not drawn:
        return _("There is no node that could be varied: draw or add one (section Nodes).")
    if p.vary and p.anatomy is None:
        return _("Nodes are varied at random only with the anatomy, so that none covers an organ (section Anatomy).")
    if p.nodesInCT and p.keptNodes is not None and ct_of(p.keptNodes) is not p.ct:
        return _("These nodes were marked as visible in another CT: choose that one, or, if this CT "
                 "shows them, untick and re-tick the box below the nodes (section Input).")
    if p.generator and (missing := generator_missing(Path(p.generator))):
        return missing
    return environment.missing_words("synthesis") or steps_missing(p.generator, p.steps)


def _segmentation(p, environment: Environment) -> str:
    return _ct(p) or segmenter_missing(p.segmenter) or environment.missing_words("segmentation")


def _batch(p, environment: Environment) -> str:
    if not p.batchInput:
        return _("Choose the folder of the CTs.")
    if not Path(p.batchInput).is_dir():
        return _("{folder} is not a folder; choose the folder of the CTs.").format(folder=p.batchInput)
    if not p.batchOutput:
        return _("Choose a folder for the results.")
    inside, around = Path(p.batchOutput).resolve(), Path(p.batchInput).resolve()
    if inside.is_relative_to(around):
        return _("The results cannot go into the folder of the CTs; choose another one.")
    if p.batchWork == "segmentation" and (missing := segmenter_missing(p.segmenter)):
        return missing
    if p.batchWork == "synthesis" and p.generator and (missing := generator_missing(Path(p.generator))):
        return missing
    missing = environment.missing_words(p.batchWork)
    return missing or (steps_missing(p.generator, p.steps) if p.batchWork == "synthesis" else "")


def _ct(p) -> str:
    if p.ct is None:
        return _("Choose a CT (section Input).")
    if p.ct.GetImageData() is None:
        return _("The selected CT has no voxels yet.")
    return ""


def generator_folder(path: Path) -> Path | None:
    """The folder with model.json that a chosen folder or file means, or None."""
    for folder in (path if path.is_dir() else path.parent, path / "generator"):
        if (folder / "model.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    return None


def generator_missing(path: Path) -> str:
    if generator_folder(path) is None:
        return _("{folder} holds no generator: choose a folder with model.json and model.safetensors, or a training "
                 "run.").format(folder=path)
    return ""


def steps_missing(generator: str, steps: int) -> str:
    """Why a generator (as in the parameters, empty for the demo weights) cannot take so many sampling steps, or ""."""
    from LNSynthLib.generators.model_folder import generator_path

    try:
        path = generator_path(generator or None)
        folder = generator_folder(path)
        if folder is None:
            return generator_missing(path)
        about = folder / "model.json"
        most = _timesteps(about, about.stat().st_mtime_ns)
    except LNSynthError as error:
        return str(error)
    if most is None or steps <= most:
        return ""
    return _("{steps} steps are more than this generator has: choose 1 to {most}.").format(steps=steps, most=most)


@lru_cache(maxsize=8)
def _timesteps(about: Path, _changed: int) -> int | None:
    """The length of a generator's noise schedule, None for one that makes its samples in one pass."""
    try:
        most = read_json(about)["settings"]["timesteps"]
    except (KeyError, TypeError):
        return None
    return most if isinstance(most, int) else None


def segmenter_missing(folder: str) -> str:
    """Why a folder is not a trained nnU-Net; empty when it is one."""
    if not folder:
        return _("Choose the folder of a trained nnU-Net.")
    path = Path(folder)
    run = path / "nnUNet_results" / "Dataset001_LNSynth"
    places = [path, *sorted(run.glob("nnUNetTrainer__*"))]
    if not any((place / "plans.json").is_file() and (place / "dataset.json").is_file() for place in places):
        return _("{folder} holds no trained nnU-Net (plans.json, dataset.json, fold_0): choose a run of `lnsynth "
                 "segment train` or a model folder of nnU-Net.").format(folder=folder)
    return ""
