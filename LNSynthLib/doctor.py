"""Check this machine: what is installed, what is missing, what will be slow or impossible, and how to mend it."""

import contextlib
import os
import platform
import shutil
import sys
import tempfile
import textwrap
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from LNSynthLib import __version__
from LNSynthLib.runtime.cancel import run_child
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.events import Callback, Event, ignore
from LNSynthLib.runtime.settings import resources

# Distribution -> what needs it. Without the first group nothing works; the second serves a verb or two each.
REQUIRED = ("accelerate", "blosc2", "highdicom", "matplotlib", "monai", "nibabel", "numpy", "pillow",
            "psutil", "pydicom", "PyYAML", "safetensors", "scikit-image", "scipy", "SimpleITK", "tensorboard", "torch")
OPTIONAL = {"TotalSegmentator": "`lnsynth anatomy`", "nnunetv2": "`lnsynth segment` and `lnsynth anatomy`",
            "idc-index": "`lnsynth fetch`"}

# What the heavy jobs take. GPU memory in GB as sold (a 24 GB card reports a little less).
# The paper's model trains on a 24 GB card; a pass at 128^3 takes 5 to 8 GB and 2.3 TFLOP.
JOBS = {
    "train --preset paper": (24, "a machine with a CUDA GPU of 24 GB"),
    "train --preset small": (12, "a machine with a CUDA GPU of 12 GB, or --preset demo (about an hour on two cores)"),
    "synthesize, paper model": (8, "a CUDA GPU of 8 GB, or fewer --steps, or the demo weights"),
}
GB = 2**30
ROOM_GB = 10  # a data set with its prepared cases; the locked packages took a few more


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    what: str
    state: str      # "ok", "slow" (works, with patience), "missing" (something to install), "no" (not on this machine)
    found: str
    cure: str = ""  # what to do about it; empty where all is well


def package(name: str, needed_by: str | None = None) -> Finding:
    """Whether a distribution is installed; `needed_by` says which verb an optional one serves."""
    try:
        return Finding(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", f"needed by {needed_by or 'everything'}", f"pip install {name}")


def torch_devices() -> tuple[list[Finding], float]:
    """Rows for the processors torch can use, and the memory (GB) of the largest CUDA GPU (0 without one)."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of it does not load
        return [Finding("torch imports", "missing", str(error).splitlines()[0], "reinstall torch")], 0.0
    rows = [Finding("processor", "ok", f"{platform.machine()}, {os.cpu_count()} cores, "
                                       f"torch uses {torch.get_num_threads()} threads")]
    sizes = [0.0]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            sizes.append(card.total_memory / GB)
            rows.append(Finding(f"cuda:{index}", "ok", f"{card.name}, {sizes[-1]:.0f} GB"))
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        rows.append(Finding("GPU", "missing", "an NVIDIA driver, but torch is a CPU build",
                            "install a CUDA build of torch"))
    elif shutil.which("nvidia-smi"):
        rows.append(Finding("GPU", "missing", f"torch cannot use it with CUDA {torch.version.cuda}",
                            "update the NVIDIA driver, or install a torch build for its CUDA version"))
    elif torch.backends.mps.is_available():
        rows.append(Finding("mps", "ok", "Apple GPU, shares the machine's memory"))
    else:
        rows.append(Finding("GPU", "no", "none; everything runs on the processor"))
    return rows, max(sizes)


def jobs(gpu_gb: float) -> list[Finding]:
    """What will be slow or impossible with a CUDA GPU of this memory (GB; 0: none)."""
    rows = []
    for job, (needed_gb, cure) in JOBS.items():
        if gpu_gb >= 0.9 * needed_gb:
            rows.append(Finding(job, "ok", f"needs {needed_gb} GB of GPU memory"))
        elif job.startswith("train"):
            rows.append(Finding(job, "no", f"needs {needed_gb} GB of GPU memory; weeks without", cure))
        else:
            rows.append(Finding(job, "slow", "some 10 minutes a 128^3 patch of 25 steps on two cores", cure))
    return rows


def memory_and_disk(folder: Path) -> list[Finding]:
    """Free memory, and free room where one works and where temporary files go."""
    rows = []
    with contextlib.suppress(ImportError):  # a psutil that is missing has a row of its own
        import psutil
        memory = psutil.virtual_memory()
        text = f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free"
        rows.append(Finding("memory", "ok", text) if memory.available >= 8 * GB else
                    Finding("memory", "slow", text, "close other programs; the paper's model takes 5 to 8 GB a patch"))
    for name, place in (("disk here", folder), ("disk, temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(place).free / GB
        text = f"{free:.0f} GB free at {place}"
        rows.append(Finding(name, "ok", text) if free >= ROOM_GB else
                    Finding(name, "slow", text, f"make room; a real data set takes {ROOM_GB} GB and more"))
    return rows


def imports(what: str, module: str) -> Finding:
    """Whether a module of an installed package imports, tried in a child process: some print, some end the process."""
    lines: list[str] = []
    if run_child([sys.executable, "-c", f"import {module}"], lines.append) == 0:
        return Finding(what, "ok", f"{module} imports")
    return Finding(what, "missing", lines[-1] if lines else f"{module} does not import",
                   "install the versions of requirements.lock")


def generators() -> list[Finding]:
    """The weights that come with LNSynth."""
    try:
        folders = sorted(path.parent for path in resources().rglob("model.json"))
    except LNSynthError as error:
        return [Finding("demo weights", "missing", str(error), "reinstall lnsynth")]
    if not folders:
        return [Finding("demo weights", "missing", f"no generator under {resources()}",
                        "reinstall lnsynth, or train one: lnsynth train --preset demo")]
    return [Finding(f"weights: {folder.name}", "ok", str(folder)) for folder in folders]


def anatomy_weights() -> list[Finding]:
    """Whether TotalSegmentator's weights lie where it looks for them, for its fast and its full model."""
    from LNSynthLib.conditions import anatomy
    folder, rows = anatomy.weights_folder(), []
    for what, fast, task in (("anatomy weights, fast", True, "total_fast"), ("anatomy weights, full", False, "total")):
        try:
            absent = anatomy.missing_weights(fast)
        except LNSynthError as error:
            rows.append(Finding(what, "missing", str(error)))
            continue
        rows.append(Finding(what, "ok", str(folder)) if not absent else
                    Finding(what, "missing", f"{len(absent)} models are not in {folder}",
                            f"`totalseg_download_weights -t {task}` where there is internet access, or unpack from "
                            f"{anatomy.DOWNLOADS} into that folder: {', '.join(absent)}"))
    return rows


def inspect(folder: Path | None = None, callback: Callback = ignore) -> list[Finding]:
    """Every row of the table; `folder` is where one means to work (default: here). Takes some seconds."""
    def now(message: str) -> None:
        callback(Event("looking", message=message))

    rows = [Finding("Python", "ok", platform.python_version()), Finding("LNSynth", "ok", __version__)]
    rows += [package(name) for name in REQUIRED]
    rows += [package(name, verb) for name, verb in OPTIONAL.items()]
    here = {row.what for row in rows if row.state == "ok"}
    now("does torch import, which processors can it use")
    devices, gpu_gb = torch_devices()
    rows += devices
    if "nnunetv2" in here:
        now("does nnU-Net import")
        rows.append(imports("nnU-Net", "nnunetv2.inference.predict_from_raw_data"))
    now("weights, memory and disk")
    if here.issuperset(REQUIRED) and "TotalSegmentator" in here:
        rows += anatomy_weights()
    rows += generators()
    rows += memory_and_disk(folder or Path.cwd())
    return rows + jobs(gpu_gb)


def table(rows: list[Finding]) -> str:
    """The rows as text, the cure of a row on the lines below it."""
    wide = max(len(row.what) for row in rows)
    indent = " " * (wide + 11)
    lines = []
    for row in rows:
        lines.append(f"{row.what:<{wide}}  {row.state:<7}  {row.found}")
        if row.cure:
            lines += textwrap.wrap(row.cure, 118, initial_indent=f"{indent}-> ", subsequent_indent=f"{indent}   ",
                                   break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def as_result(rows: list[Finding]) -> dict:
    """The same, for the event stream: the rows, and whether everything that is always needed is there."""
    ready = all(row.state == "ok" for row in rows if row.what in REQUIRED)
    return {"ready": ready, "rows": [asdict(row) for row in rows]}
