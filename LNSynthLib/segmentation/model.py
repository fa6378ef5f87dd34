"""A trained nnU-Net on disk: where it lies, and its checkpoints, read without running what they say."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import torch

from ..runtime.content import NONE, NUMBER, check
from ..runtime.errors import LNSynthError
from ..runtime.files import read_json
from ..runtime.names import check_name
from ..runtime.weights import read_weights

DATASET = "Dataset001_LNSynth"
PLANS = "nnUNetPlans"
CONFIGURATION = "3d_fullres"
MODEL = Path("nnUNet_results") / DATASET / f"nnUNetTrainer__{PLANS}__{CONFIGURATION}"  # in a run, by nnU-Net's rules

NETWORK = r"dynamic_network_architectures\.architectures\.\w+\.[A-Z]\w*"
LAYER = r"torch\.nn\.(modules\.\w+\.)?[A-Z]\w*"
ABOUT = {"labels": dict,  # of dataset.json
         "lnsynth?": {"window": [NUMBER] * 2, "checkpoint": check_name, "mirror": bool, "tiles": int,
                      "trained_on?": (dict, NONE)}}
PLAN = {"configurations": {CONFIGURATION: {"spacing": [NUMBER], "patch_size": [int], "architecture": {
    "network_class_name": str, "arch_kwargs": dict, "_kw_requires_import": [(str, NONE)]}}}}
NEEDED = ("network_weights", "init_args", "logging", "current_epoch")
# What nnU-Net puts into a checkpoint besides tensors and plain values: the logged losses are numpy scalars.
NUMPY = [(np._core.multiarray.scalar, "numpy.core.multiarray.scalar"), np._core.multiarray.scalar, np.dtype,
         np.dtypes.Float16DType, np.dtypes.Float32DType, np.dtypes.Float64DType]


def check_installed() -> None:
    """Raises LNSynthError where nnU-Net is not installed."""
    if importlib.util.find_spec("nnunetv2") is None:
        raise LNSynthError("nnU-Net is not installed here; install it with `pip install nnunetv2`.")


def model_folder(path: Path) -> Path:
    """nnU-Net's model folder (plans.json, dataset.json, fold_N) of a run, or `path` itself where it is one."""
    path = Path(path)
    for folder in (path / MODEL, path):
        if (folder / "plans.json").is_file() and (folder / "dataset.json").is_file():
            return folder
    raise LNSynthError(f"{path}: there is no trained segmenter here; give the folder of a run of `lnsynth segment "
                       "train`, or a model folder of nnU-Net.")


def read_dataset(folder: Path) -> dict:
    """A model's dataset.json. Raises LNSynthError where it is not as nnU-Net and the export write it."""
    return check(read_json(folder / "dataset.json"), ABOUT, folder / "dataset.json")


def load(path: Path, device: torch.device | str = "cpu") -> dict:
    """A checkpoint as nnU-Net writes it (network_weights, optimizer_state, logging, current_epoch, init_args, ...).

    nnU-Net itself unpickles checkpoints, which can run anything; here only tensors, plain values and numpy scalars are
    accepted. Raises LNSynthError for a file that is absent, damaged or holds anything else.
    """
    if not path.is_file():
        raise LNSynthError(f"{path} does not exist; train the segmenter to its end, or copy its folder whole.")
    try:
        with torch.serialization.safe_globals(NUMPY):
            checkpoint = read_weights(path, device)
        missing = [name for name in NEEDED if name not in checkpoint]
    except Exception as error:  # torch raises whatever the broken place in the file leads to
        raise LNSynthError(f"{path}: it is damaged, or not a checkpoint of nnU-Net ({type(error).__name__}: "
                           f"{str(error).strip().partition(chr(10))[0][:200]}); copy it again.") from None
    if missing:
        raise LNSynthError(f"{path}: it is not a checkpoint of nnU-Net ({', '.join(missing)} missing); copy it again.")
    return checkpoint


def check_network(name: str, imports: list[str | None], where: Path) -> None:
    """Raises LNSynthError where a plan names anything but networks and layers: nnU-Net imports and calls what it names.

    name     the network's class
    imports  classes of its layers; None for those that it does without
    """
    for given, allowed in ((name, NETWORK), *((layer, LAYER) for layer in imports if layer is not None)):
        if not re.fullmatch(allowed, str(given)):
            raise LNSynthError(f"{where}: its plan names {given}, which is not a network or layer that nnU-Net's "
                               "planner chooses; train the segmenter again, and do not use models from unknown hands.")


def check_shapes(network: torch.nn.Module, weights: dict) -> None:
    """Raises RuntimeError unless a network has just these weights, in these shapes."""
    for name, tensor in network.state_dict().items():
        if name not in weights or tuple(weights[name].shape) != tuple(tensor.shape):
            raise RuntimeError(f"{name} is not {tuple(tensor.shape)} in the weights")


def identity(weights: list[dict[str, torch.Tensor]]) -> str:
    """SHA-256 of networks' weights: names, shapes and values, and nothing of when they were made."""
    digest = hashlib.sha256()
    for network in weights:
        for name, tensor in sorted(network.items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
