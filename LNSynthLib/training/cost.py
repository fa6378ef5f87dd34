"""Estimate what training a generator costs: parameters, floating-point operations, memory.

All counted on the meta device, where tensors have shapes and no values, so that a large network costs nothing to ask.
A generator that is counted is moved there and loses its weights: give one made for the purpose.
"""

import math
import weakref
from collections import Counter
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..generators.model_folder import create, facts
from ..runtime.machine import Need
from ..runtime.seeds import torch_rng
from .settings import Preset, TrainSettings, make_generator

CPU = torch.device("cpu")
NODE_SHARE = 0.05
# Every machine that torch runs on has the memory for patches up to here, and the time for so many in training.
SMALL_PATCH, FEW_PATCHES = 64**3, 10_000


def parameters(generator: torch.nn.Module) -> int:
    return sum(p.numel() for p in generator.parameters())


def forward_flops(generator: torch.nn.Module, patch: tuple[int, int, int]) -> int:
    """FLOPs (a multiplication and an addition are two) of the loss of one patch for the player that is trained last,
    which for a diffusion model is one forward pass of its denoiser; without computing it.

    Local detail conditioning is counted as if nodes were everywhere, which is the most it can cost.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _Answers(1.0):
        _loss(generator.to("meta").eval(), patch, generator.turns(1.0)[-1])
    return counter.get_total_flops()


def turn_flops(generator: torch.nn.Module, patch: tuple[int, int, int]) -> dict[str, int]:
    """FLOPs of one sample, forward and backward, in a turn of each player."""
    flops = {}
    for player in generator.players:
        with FlopCounterMode(display=False) as counter, _Answers(NODE_SHARE):
            _loss(generator.to("meta").train(), patch, player).backward()
        flops[player] = counter.get_total_flops()
    return flops


def training_flops(generator: torch.nn.Module, training: TrainSettings) -> int:
    """FLOPs of a whole training run at the form's patch, whoever's turn it is in each step."""
    flops = turn_flops(generator, tuple(generator.form.patch))
    turns = Counter(player for step in range(training.steps) for player in generator.turns(step / training.steps))
    return training.batch * sum(flops[player] * count for player, count in turns.items())


def training_bytes(generator: torch.nn.Module, patch: tuple[int, int, int], micro_batch: int = 1) -> int:
    """Most bytes of tensors alive at once in a training step in fp32: activations, gradients, weights, their average
    and Adam's two moments. What convolutions need as workspace comes on top (a gigabyte or two on a GPU).

    Local detail conditioning is counted with NODE_SHARE of all positions at nodes, more than real patches have.
    """
    weights, most = sum(p.nbytes for p in generator.parameters()), 0
    for player in generator.players:
        with _Alive() as alive, _Answers(NODE_SHARE):
            _loss(generator.to("meta").train(), patch, player, micro_batch).backward()
        most = max(most, alive.most)
        generator.zero_grad(set_to_none=True)
    return most + 4 * weights


def sampling_bytes(generator: torch.nn.Module, patch: tuple[int, int, int]) -> int:
    """Most bytes of tensors alive at once in one sampling step of one patch in fp32, the weights among them."""
    with torch.no_grad(), _Alive() as alive, _Answers(NODE_SHARE):
        _loss(generator.to("meta").eval(), patch, generator.turns(1.0)[-1])
    return alive.most + sum(p.nbytes for p in generator.parameters())


def training_need(preset: Preset, job: str, cure: str) -> Need | None:
    """What a training run takes; None where it is so small that every machine has it. job, cure: as in `Need`."""
    training, generator = preset.training, blank(preset)
    patch = tuple(generator.form.patch)
    if math.prod(patch) <= SMALL_PATCH and training.steps * training.batch <= FEW_PATCHES:
        return None
    return Need(job, training_bytes(generator, patch, training.micro_batch), training_flops(generator, training), cure,
                60 * training.max_minutes)


def sampling_need(path: str | Path, steps: int, samples: int, job: str, cure: str,
                  patch: tuple[int, int, int] | None = None) -> Need:
    """What it takes to sample patches (default: the form's) with a generator on disk, one at a time."""
    about = facts(path)
    with init_empty_weights():
        generator = create(about["kind"], about["settings"], str(path))
    patch = tuple(patch or generator.form.patch)
    steps = steps if generator.samplers else 1
    return Need(job, sampling_bytes(generator, patch), steps * samples * forward_flops(generator, patch), cure)


def blank(preset: Preset) -> torch.nn.Module:
    """The preset's generator without values: all of it but the memory and the time to fill it at random."""
    with init_empty_weights():
        return make_generator(preset)


def _loss(generator: torch.nn.Module, patch: tuple[int, int, int], player: str, samples: int = 1) -> torch.Tensor:
    batch = {"image": torch.empty(samples, 1, *patch, device="meta"),
             "condition": torch.empty(samples, generator.form.condition_channels, *patch, device="meta")}
    return generator.loss(batch, [torch_rng(0) for _ in range(samples)], player)["loss"]


class _Answers(TorchDispatchMode):
    """Answers what only values could: `nonzero` finds this share of all positions, a copy to the CPU holds zeros."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten.nonzero.default and args[0].is_meta:
            found = math.ceil(args[0].numel() * self.share)
            return torch.empty(found, args[0].dim(), dtype=torch.int64, device="meta")
        if function is torch.ops.aten._to_copy.default and args[0].is_meta and kwargs.get("device") == CPU:
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return function(*args, **kwargs)


class _Alive(TorchDispatchMode):
    """Adds up the storages that operations make, until each is freed; `most` is the highest sum so far."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return result

    def _freed(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.now -= size


def describe(preset: Preset) -> dict:
    """Parameters, FLOPs per forward pass at 128^3 (where presets compare) and at the preset's own patch, memory."""
    generator = blank(preset)
    own = tuple(generator.form.patch)
    count = parameters(generator)
    flops = {size: forward_flops(generator, size) for size in {(128, 128, 128), own}}
    training = preset.training
    return {
        "generator": preset.generator["kind"],
        "parameters": count,
        "flops_per_forward_128": flops[128, 128, 128],
        "patch": list(own),
        "flops_per_forward_patch": flops[own],
        "training_bytes": training_bytes(generator, own, training.micro_batch),
        "steps": training.steps,
        "batch": training.batch,
        "flops_training": training_flops(generator, training),
    }
