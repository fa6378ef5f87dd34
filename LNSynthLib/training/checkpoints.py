"""Checkpoints of a training run: whole or absent, nothing pickled, enough to go on bit for bit.

RUN/checkpoints/step-00000500/  model.safetensors      weights
                                ema.safetensors        their moving average
                                optimizer.safetensors  moments and step count of every weight that was trained
                                state.json             step, seconds of training so far
                                sha256.json            hashes of all these files (absent in old runs)

There is no random state to keep: every random number is a function of the seed and the step.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..runtime.errors import LNSynthError
from ..runtime.files import HASHES, atomic_folder, check_hashes, read_json, write_hashes, write_json
from ..runtime.names import remove_ours
from .ema import MovingAverage

KEEP = 2
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", HASHES)
# Gathered from, and spread to, all processes whatever the wrapping of the model (none, DDP, FSDP).
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
SEPARATOR = "/"  # between a weight's name and that of its optimiser state


def gather(model, optimizers: dict, ema: MovingAverage) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each file, on the CPU. With several processes all must call it; the first gets everything."""
    weights = _copied(get_model_state_dict(model, options=WHOLE))
    with ema.applied():
        averaged = _copied(get_model_state_dict(model, options=WHOLE))
    # Only of players that had a turn: torch would take a step with the others to have a state to show.
    begun = [optimizer for optimizer in optimizers.values() if optimizer.state]
    adam = get_optimizer_state_dict(model, begun, options=WHOLE) if begun else {}
    moments = {}
    for group in adam.get("param_groups", ()):  # any process but the first gets nothing
        for name in group["params"]:
            # A weight that never had a gradient (no node was ever seen) has no state yet: all zero means the same.
            state = adam["state"].get(name) or _no_steps(weights[name])
            moments.update({f"{name}{SEPARATOR}{key}": value.contiguous() for key, value in state.items()})
    return {"model": weights, "ema": averaged, "optimizer": moments}


def _no_steps(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}


def _copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def write(run: Path, tensors: dict[str, dict[str, torch.Tensor]], state: dict) -> Path:
    """Writes the checkpoint of `state["step"]` and removes all but the last two up to it.

    One of a later step is what a run that could not go on from it left.
    """
    folder = run / "checkpoints" / f"step-{state['step']:08d}"
    with atomic_folder(folder) as beside:
        for name, content in tensors.items():
            save_file(content, beside / f"{name}.safetensors")
        write_json(beside / "state.json", state)
        write_hashes(beside)
    kept = [path for path in _all(run) if path.name <= folder.name][-KEEP:]
    for old in _all(run):
        if old not in kept:
            remove_ours(old, FILES)  # a leftover costs disk, not the training
    return folder


def latest(run: Path) -> Path | None:
    """The last checkpoint of a run, None where there is none."""
    return max(_all(run), default=None)


def _all(run: Path) -> list[Path]:
    return sorted(path for path in (run / "checkpoints").glob("step-*")
                  if re.fullmatch(r"step-\d{8}", path.name) and path.is_dir())


def resume(run: Path, model, optimizers: dict, ema: MovingAverage,
           tell: Callable[[str], None] = lambda _: None) -> dict | None:
    """`restore` from the last checkpoint that is whole; its state, or None where the run has none yet.

    `tell` is called with a sentence about each that is damaged. Raises LNSynthError where all are.
    """
    found = _all(run)
    for folder in reversed(found):
        try:
            return restore(folder, model, optimizers, ema)
        except LNSynthError as error:
            if folder == found[0]:
                raise LNSynthError(f"{error} No checkpoint before it is left: train again in another folder.") from None
            tell(f"{error} The checkpoint before it is used instead.")
    return None


def _state(folder: Path) -> dict:
    """What state.json says, if it can be: the step of the folder's name, and a time."""
    state = read_json(folder / "state.json")
    step, seconds = (state.get(name) if isinstance(state, dict) else None for name in ("step", "seconds"))
    number = int(folder.name.removeprefix("step-"))
    if isinstance(step, bool) or not isinstance(step, int) or step != number:
        raise LNSynthError(f"{folder / 'state.json'} is damaged: its step is {step!r}, and {number} in the folder's "
                           "name.")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise LNSynthError(f"{folder / 'state.json'} is damaged: its seconds of training are {seconds!r}.")
    return state


def restore(folder: Path, model, optimizers: dict, ema: MovingAverage) -> dict:
    """Puts a checkpoint's tensors into model, optimisers (by player) and average; returns its `state.json`.

    Raises LNSynthError where a file is missing, damaged or of another generator.
    """
    check_hashes(folder)
    state = _state(folder)
    try:
        weights, averaged, moments = (load_file(folder / f"{name}.safetensors")
                                      for name in ("model", "ema", "optimizer"))
    except (OSError, SafetensorError) as error:
        raise _unusable(folder, error) from None
    try:
        states = {}
        for key, value in moments.items():
            name, _, moment = key.rpartition(SEPARATOR)
            states.setdefault(name, {})[moment] = value.clone()  # else it stays mapped onto the file
        names = {id(weight): name.removeprefix("module.") for name, weight in model.named_parameters()}  # DDP's prefix
        begun = [optimizer for optimizer in optimizers.values()
                 if any(names[id(weight)] in states for weight in optimizer.param_groups[0]["params"])]
        if begun:
            adam = get_optimizer_state_dict(model, begun)  # its param_groups, by the names of the weights
            set_optimizer_state_dict(model, begun, {**adam, "state": states}, options=WHOLE)
        set_model_state_dict(model, averaged, options=WHOLE)
        ema.restart()
        set_model_state_dict(model, weights, options=WHOLE)
    except torch.OutOfMemoryError:
        raise  # says nothing about the checkpoint
    except (RuntimeError, KeyError) as error:
        raise _unusable(folder, error) from None
    return state


def _unusable(folder: Path, error: Exception) -> LNSynthError:
    return LNSynthError(f"{folder} cannot be read ({str(error).splitlines()[0]}).")
