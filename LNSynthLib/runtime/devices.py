"""Which processor the work runs on."""

from .errors import LNSynthError


def pick(name: str = "auto"):
    """The torch device that `name` means; "auto" is CUDA, else Apple's MPS, else the CPU."""
    import torch
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LNSynthError(f"{name!r} is not a device; use auto, cpu, cuda, cuda:1 or mps.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LNSynthError("No CUDA device can be used here; install a CUDA build of torch, or use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LNSynthError(f"There is no {name}: this machine has {torch.cuda.device_count()} CUDA device(s).")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise LNSynthError("MPS is not available here; use --device cpu.")
    return device
