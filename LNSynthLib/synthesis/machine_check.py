"""Can this machine make a few samples? Checked before a large generator is read."""

from __future__ import annotations

import math
from pathlib import Path

from ..generators import model_folder
from ..runtime import machine

SMALL_PATCH = 64**3  # voxels that every machine on which torch runs has the memory and the time for


def check_fits(generator: Path, samples: int, steps: int, device: str, anyway: bool) -> None:
    """Raises LNSynthError where the generator needs more memory than there is, or more than a day of the processor.

    Small ones are not counted: that would take longer than anybody wants to wait for one node.
    """
    form = model_folder.form(generator)
    if math.prod(form.patch) <= SMALL_PATCH:
        return
    from ..training.cost import sampling_need  # a second or two of imports

    need = sampling_need(generator, steps, samples, f"Sampling with {generator}",
                         "take a machine with a GPU, fewer steps or samples, or a smaller generator")
    machine.check(need, machine.this_machine(device), anyway)
