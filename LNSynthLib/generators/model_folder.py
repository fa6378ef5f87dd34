"""Generators on disk: a folder with `model.safetensors` (weights), `model.json` (kind, settings, facts) and
`labels.yaml` (the anatomy label table, which says what its channels mean).

Nothing is ever unpickled, and a folder is written whole or not at all.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..cases.sides import Member
from ..cases.trained_on import TrainedOn, held_out
from ..conditions.form import DataForm
from ..masks.labels import LabelTable, table_named, table_path, told
from ..runtime.content import NONE, check
from ..runtime.errors import LNSynthError
from ..runtime.files import atomic_folder, read_json, sha256, write_json
from ..runtime.settings import build, resources

if TYPE_CHECKING:
    import torch  # what a folder says of itself is read where torch is not installed

# kind -> module, generator class, settings class
KINDS = {
    "lnddpm": (".lnddpm", "LNDDPM", "LNDDPMSettings"),
    "pix2pix": (".pix2pix", "Pix2pix", "Pix2pixSettings"),
    "spade": (".spade", "SPADE", "SPADESettings"),
    "brainldm": (".brainldm", "BrainLDM", "BrainLDMSettings"),
    "medddpm": (".medddpm", "MedDDPM", "MedDDPMSettings"),
    "nasdm": (".nasdm", "NASDM", "NASDMSettings"),
    "echo": (".echo", "Echo", "EchoSettings"),
}

WEIGHTS, FACTS, LABELS = "model.safetensors", "model.json", "labels.yaml"
LARGEST = 1_000_000  # of all numbers in a generator's settings
ABOUT = {"kind": set(KINDS), "settings": {"form?": {"labels?": str}}, "weights_sha256": str, "labels_sha256?": str,
         "trained_on?": (dict, NONE)}


def create(kind: str, settings: dict, where: str = "generator"):
    """A generator with fresh weights from its kind and a mapping of settings; LNSynthError names a wrong key."""
    if kind not in KINDS:
        raise LNSynthError(f"{where}: there is no generator {kind!r}; known are {', '.join(KINDS)}.")
    module, generator, settings_class = KINDS[kind]
    module = import_module(module, __package__)
    return getattr(module, generator)(build(getattr(module, settings_class), settings, where))


def save(folder: str | Path, generator, facts: dict | None = None, dtype: torch.dtype | None = None,
         weights: dict[str, torch.Tensor] | None = None, trained_on: TrainedOn | None = None) -> Path:
    """Writes a generator, replacing what was there.

    facts    what else to keep about it (data, training, licence), JSON-serialisable
    dtype    of the stored weights, e.g. torch.float16; as they are if None
    weights  to store instead of the generator's own (an exponential moving average, say)
    trained_on  what it has seen; None where that is unknown
    """
    from safetensors.torch import save_file

    weights = generator.state_dict() if weights is None else weights
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}
    # JSON before and after: a preset's lists and a dataclass's tuples are one and the same.
    settings = json.loads(json.dumps(asdict(generator.settings)))
    settings["form"]["labels"] = told(settings["form"]["labels"])  # the table itself comes along
    with atomic_folder(folder) as beside:
        save_file(weights, beside / WEIGHTS)
        shutil.copyfile(table_path(generator.form.labels), beside / LABELS)
        if trained_on is not None:
            facts = {**(facts or {}), "trained_on": trained_on.plain()}
            trained_on.save_prints(beside)
        write_json(beside / FACTS, {**(facts or {}), "kind": generator.kind, "settings": settings,
                                    "weights_sha256": sha256(beside / WEIGHTS),
                                    "labels_sha256": sha256(beside / LABELS)})
    return Path(folder)


def find(path: str | Path) -> Path:
    """The folder of a generator: itself, its weights file, or a training run that holds one under `generator`."""
    path = Path(path)
    for folder in (path.parent if path.name in (WEIGHTS, FACTS) else path, path / "generator"):
        if (folder / FACTS).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise LNSynthError(f"{path} holds no generator; give a folder with {WEIGHTS} and {FACTS}, or a training run.")


def check_unseen(path: str | Path, everyone: Sequence[Member], tell: Callable[[str], None]) -> None:
    """Raises LNSynthError where the generator was trained on a case of split val or test; tells where it may have been,
    as it does not say what it was trained on."""
    record = trained_on(path)
    for unknown in record.unknown:
        tell(f"note: {unknown}; whether it has seen a case of split val or test cannot be checked")
    record.check(held_out(everyone), f"The generator {path}")


def trained_on(path: str | Path) -> TrainedOn:
    """What the generator says that it was trained on."""
    folder = find(path)
    return TrainedOn.read(_about(folder).get("trained_on"), folder, f"the generator {path}")


def facts(path: str | Path) -> dict:
    """What `model.json` says, without reading the weights; its label table is the folder's own.

    Raises LNSynthError where it does not describe a generator.
    """
    folder = find(path)
    about = _about(folder)
    return {**about, "settings": _with_own_labels(folder, about["settings"])}


def _about(folder: Path) -> dict:
    return check(read_json(folder / FACTS), ABOUT, folder / FACTS)


def form(path: str | Path) -> DataForm:
    """What data the generator takes, with its own label table, without reading the weights."""
    folder = find(path)
    return build(DataForm, _with_own_labels(folder, facts(folder)["settings"])["form"], str(path))


def load(path: str | Path, device: torch.device | str = "cpu"):
    """(generator in eval mode, facts) from what `save` wrote; weights become float32.

    Raises LNSynthError where files are missing, damaged or do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = find(path)
    about = _about(folder)
    if sha256(folder / WEIGHTS) != about["weights_sha256"]:
        raise LNSynthError(f"{folder / WEIGHTS} is damaged or belongs to another {FACTS}; copy the folder again.")
    if "labels_sha256" in about and (not (folder / LABELS).is_file()
                                     or sha256(folder / LABELS) != about["labels_sha256"]):
        raise LNSynthError(f"{folder / LABELS} is missing, damaged or of another {FACTS}; copy the folder again.")
    settings = _with_own_labels(folder, about["settings"])
    try:
        _check_fit(folder, about["kind"], settings)
        weights = load_file(folder / WEIGHTS)
        generator = create(about["kind"], settings, str(folder / FACTS))
        generator.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (SafetensorError, RuntimeError, ValueError, ArithmeticError, TypeError) as error:
        raise LNSynthError(f"{folder / WEIGHTS} does not fit the settings beside it "
                           f"({str(error).splitlines()[0]}); copy the folder again.") from None
    return generator.to(device).eval(), about


def _check_fit(folder: Path, kind: str, settings: dict) -> None:
    """Raises RuntimeError where the network of these settings is larger than the weights in the folder: seen before it
    takes any memory, whatever size the settings announce."""
    import torch
    from safetensors import safe_open
    from torch.nn.modules.module import register_module_parameter_registration_hook

    with safe_open(folder / WEIGHTS, "pt") as file:
        stored = [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118 (no mapping)
    if any(abs(number) > LARGEST for number in _numbers(settings)):
        raise RuntimeError(f"{FACTS} has a number above {LARGEST}")
    made = itertools.count()

    def count(*_) -> None:
        if next(made) > 4 * len(stored) + 1000:
            raise RuntimeError(f"{FACTS} describes a larger one")

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            network = create(kind, settings, str(folder / FACTS))
    except LNSynthError as error:
        raise error if str(folder) in str(error) else LNSynthError(f"{folder / FACTS}: {error}") from None
    finally:
        counting.remove()
    if (wanted := sum(tensor.numel() for tensor in network.state_dict().values())) > 2 * sum(stored) + 1000:
        raise RuntimeError(f"{FACTS} describes a network of {wanted} weights, and these are {sum(stored)}")


def _numbers(value) -> Iterator[float]:
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _numbers(inner)
    if isinstance(value, int | float):
        yield value


def _with_own_labels(folder: Path, settings: dict) -> dict:
    """The settings with the folder's label table in place of one that was edited since, or is not on this machine."""
    form = settings.get("form", {})
    own = folder / LABELS
    named = table_named(form.get("labels", "abdomen14"), folder / FACTS)
    if not own.is_file():
        if named.endswith((".yaml", ".yml")):
            raise LNSynthError(f"{folder / FACTS}: its label table is {named}, a file outside the folder; copy that "
                               f"file to {own}.")
        return settings
    try:
        same = LabelTable.load(named) == LabelTable.load(own)
    except (OSError, LNSynthError):
        same = False
    return settings if same else {**settings, "form": {**form, "labels": str(own)}}


def generator_path(given: str | Path | None = None) -> Path:
    """The generator's folder or training run as given, else the demo weights; LNSynthError where those are missing."""
    if given is not None:
        return Path(given)
    demo = resources() / "generators" / "demo"
    if not (demo / "model.json").is_file():
        raise LNSynthError(f"The demo weights are missing ({demo}); reinstall LNSynth, or name a generator or a "
                           "training run with --generator.")
    return demo
