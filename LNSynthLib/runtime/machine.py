"""Does a job fit this machine? Told in one sentence before the work begins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .errors import LNSynthError
from .events import duration

GB = 1e9
PATIENCE_S = 24 * 3600     # a job that takes longer on the processor is to be asked for twice
CORE_FLOPS = 25e9          # a second and a core: what large convolutions reach
MOST_CORES = 16            # that one job keeps busy
BASE_BYTES = 1e9           # Python, torch and its libraries
CPU_OVERHEAD = 1.3         # of tensors: workspace of the convolutions, and memory that the allocator keeps
BF16 = 0.6                 # of the tensors of fp32, where a GPU computes in bf16

# Where Linux tells the limit and the use of a container, which is less than what the machine has.
LIMITS = (("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
          ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"))


@dataclass(frozen=True)
class Need:
    """What a job takes.

    job     as a sentence begins: "Training preset paper"
    memory  bytes of tensors alive at once in fp32, of all processes together
    flop    floating-point operations in all; 0 where they are few or unknown
    limit_s it stops by itself after so many seconds; 0: when it is done
    cure    what to do instead, as a sentence ends
    """

    job: str
    memory: float
    flop: float
    cure: str
    limit_s: float = 0.0


@dataclass(frozen=True)
class Machine:
    """memory: free bytes of what the job would run on; name: of that, for people; cores: 0 on a GPU."""

    memory: float
    name: str
    cores: int = 0
    bf16: bool = False


def this_machine(device: str = "auto") -> Machine:
    """What a job on this device may use; memory is infinite where nothing tells it."""
    from .devices import pick

    where = pick(device)
    if where.type == "cuda":
        import torch

        card = torch.cuda.get_device_properties(where)
        return Machine(card.total_memory, f"the {card.name} has {card.total_memory / GB:.0f} GB",
                       bf16=torch.cuda.is_bf16_supported())
    free = free_memory()
    return Machine(free, f"{free / GB:.1f} GB of this machine's memory are free",
                   cores() if where.type == "cpu" else 0)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes that a new job may use, within the limit of the container; infinite where nothing tells."""
    try:
        import psutil
    except ImportError:
        return float("inf")
    free = float(psutil.virtual_memory().available)
    for limit, used in LIMITS:
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(free, 0.0)


def memory_on(machine: Machine, need: Need) -> float:
    """Bytes of the machine's memory that the job takes."""
    return BASE_BYTES + need.memory * (CPU_OVERHEAD if machine.cores else BF16 if machine.bf16 else 1.0)


def seconds_on(machine: Machine, need: Need) -> float:
    """How long the job takes on the processor, roughly; 0 on a GPU, where nobody is stopped for the time."""
    if not machine.cores:
        return 0.0
    seconds = need.flop / (CORE_FLOPS * min(machine.cores, MOST_CORES))
    return min(seconds, need.limit_s) if need.limit_s else seconds


def check(need: Need | None, machine: Machine, anyway: bool = False) -> None:
    """Raises LNSynthError where the job needs more memory than there is, or more than a day of the processor.

    need    None: so little that it is not worth counting
    anyway  go on all the same
    """
    if need is None:
        return
    memory, seconds = memory_on(machine, need), seconds_on(machine, need)
    problems = [f"about {memory / GB:.0f} GB of memory, and {machine.name}"] if memory > machine.memory else []
    if seconds > PATIENCE_S:
        problems.append(f"about {days(seconds)} on the {machine.cores} cores of this processor")
    if problems and not anyway:
        raise LNSynthError(f"{need.job} needs {'; and '.join(problems)}: {need.cure}, or add --anyway to go on.")


def days(seconds: float) -> str:
    """Seconds as people say them of long work: hours, days, years."""
    if seconds < 48 * 3600:
        return duration(seconds)
    return f"{seconds / 86400:.0f} days" if seconds < 730 * 86400 else f"{seconds / 86400 / 365:.0f} years"
