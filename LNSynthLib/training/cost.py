"""What a generator costs before any of it is trained: parameters, and floating-point operations of a forward pass."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..runtime.seeds import torch_rng
from .settings import Preset, make_generator


def parameters(generator: torch.nn.Module) -> int:
    return sum(p.numel() for p in generator.parameters())


def forward_flops(generator: torch.nn.Module, patch: tuple[int, int, int]) -> int:
    """FLOPs (a multiplication and an addition are two) of one forward pass over one patch, without computing it.

    Counted on the meta device, where tensors have shapes and no values. Local detail conditioning is counted as if
    every position held a node, which is the most it can cost.
    """
    generator = generator.to("meta").eval()
    batch = {"image": torch.empty(1, 1, *patch, device="meta"),
             "condition": torch.empty(1, generator.form.condition_channels, *patch, device="meta")}
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _EveryPosition():
        generator.loss(batch, torch_rng(0))
    return counter.get_total_flops()


class _EveryPosition(TorchDispatchMode):
    """`nonzero` of a mask without values: every position."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.nonzero.default and args[0].is_meta:
            return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64, device="meta")
        return function(*args, **(kwargs or {}))


def describe(preset: Preset) -> dict:
    """Parameters and FLOPs per forward pass, at 128^3 (where presets compare) and at the preset's own patch."""
    generator = make_generator(preset)
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
        "steps": training.steps,
        "batch": training.batch,
        # a backward pass costs about two forward passes
        "flops_training": 3 * flops[own] * training.batch * training.steps,
    }
