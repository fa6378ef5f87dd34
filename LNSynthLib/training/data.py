"""Patches for training: the seed and a sample's number alone decide which crop of which case it is.

Sample `index` = step * batch + place in the batch. Loader processes and GPUs only decide who computes it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..cases.prepared import PreparedCase, list_prepared
from ..conditions.encode import encode, expected_hu
from ..conditions.form import DataForm
from ..masks.labels import LabelTable
from ..runtime.errors import LNSynthError
from ..runtime.machine import cores
from ..runtime.names import check_name
from ..runtime.seeds import rng
from .settings import AugmentSettings, TrainSettings


def collect(folders: Sequence[str | Path], prepared: str, form: DataForm, split: str | None) -> list[PreparedCase]:
    """The prepared cases of some data sets, in a fixed order; all of them where `split` is None.

    Raises LNSynthError where there is none, two have one id, or one is not in the form that the generator takes.
    """
    check_name(prepared, "prepared cases", "the name")
    cases = [case for folder in folders for case in list_prepared(Path(folder) / "prepared" / prepared)]
    cases = [case for case in cases if split in (None, case.split)]
    table = LabelTable.load(form.labels)
    if table.channels != form.anatomy_channels:
        raise LNSynthError(f"The generator takes {form.anatomy_channels} anatomy channels, but label table "
                           f"{form.labels} has {table.channels}; set generator.form.anatomy_channels.")
    for case in cases:
        for what, have, want in (
            ("spacing of", case.spacing, (form.spacing_mm,) * 3),
            ("window", tuple(case.info["window"]), tuple(form.window)),
            ("label table", case.info["labels"], table.name),
        ):
            if have != want and not (what == "spacing of" and np.allclose(have, want, rtol=1e-3)):
                raise LNSynthError(f"{case.folder} was prepared with {what} {have}, but this generator takes {want}; "
                                   "run `lnsynth prepare` with the generator's settings and another --name.")
    ids = [case.id for case in cases]
    twice = {id for id in ids if ids.count(id) > 1}
    if twice:
        raise LNSynthError(f"The case {min(twice)} is in two of the data sets; rename it in one of them.")
    return cases


def expected(case: PreparedCase, form: DataForm) -> np.ndarray | None:
    """`encode.expected_hu` of a case, (C + 1,) float32; None where the generator does not take it."""
    if not form.expected_hu:
        return None
    return expected_hu(LabelTable.load(form.labels), case.info["organ_hu"], case.info["node_hu"], form.window)


def patch(case: PreparedCase, start: Sequence[int], form: DataForm, augment: AugmentSettings | None = None,
          random: np.random.Generator | None = None) -> dict[str, torch.Tensor]:
    """One training sample: "image" (1, X, Y, Z) in [-1, 1] and "condition" (form.condition_channels, X, Y, Z).

    start    first voxel of the patch; it may reach beyond the volume, where there is air
    augment  changes drawn from `random`; none where it is None
    """
    size, means = np.array(form.patch), expected(case, form)
    matrix = np.eye(3) if augment is None else _geometry(augment, random)
    if np.array_equal(matrix, np.eye(3)):
        box = tuple(slice(int(s), int(s + n)) for s, n in zip(start, size, strict=True))
        ct, anatomy, nodes = case.ct(box), case.anatomy(box), case.nodes(box)
    else:
        ct, anatomy, nodes = _warped(case, np.array(start), size, matrix)
    if augment is not None and (augment.gain or augment.shift_hu):
        gain = 1 + random.uniform(-augment.gain, augment.gain)
        shift = random.uniform(-augment.shift_hu, augment.shift_hu) * 2 / (form.window[1] - form.window[0])
        ct = _recoloured(ct, gain, shift)
        means = None if means is None else _recoloured(means, gain, shift)
    return {"image": torch.from_numpy(ct)[None], "condition": encode(anatomy, nodes, form.anatomy_channels, means)}


def _geometry(augment: AugmentSettings, random: np.random.Generator) -> np.ndarray:
    """3x3 map from offsets in the patch to offsets in the case: rotations about x, y and z, then a zoom."""
    matrix = np.eye(3) * (1 + random.uniform(-augment.zoom, augment.zoom))
    for axis, degrees in enumerate(random.uniform(-augment.rotate_deg, augment.rotate_deg, 3)):
        a, b = (i for i in range(3) if i != axis)
        rotation = np.eye(3)
        rotation[a, a] = rotation[b, b] = np.cos(np.deg2rad(degrees))
        rotation[a, b], rotation[b, a] = -np.sin(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        matrix = rotation @ matrix
    return matrix


def _warped(case: PreparedCase, start: np.ndarray, size: np.ndarray, matrix: np.ndarray):
    """CT (linear), anatomy and nodes (nearest) of a patch turned by `matrix` about its centre."""
    from scipy.ndimage import affine_transform

    middle = (size - 1) / 2
    reach = np.ceil(np.abs(matrix) @ middle).astype(int) + 1
    first = np.floor(start + middle).astype(int) - reach
    box = tuple(slice(int(f), int(f + 2 * r + 2)) for f, r in zip(first, reach, strict=True))
    offset = start + middle - first - matrix @ middle
    arrays = ((case.ct(box), 1), (case.anatomy(box), 0), (case.nodes(box), 0))
    return [affine_transform(array, matrix, offset, tuple(size), order=order, mode="nearest")
            for array, order in arrays]


def _recoloured(values: np.ndarray, gain: float, shift: float) -> np.ndarray:
    """gain * values + shift within [-1, 1]; what the window cuts off (air, bone) stays cut off."""
    return np.where(np.abs(values) < 1, np.clip(gain * values + shift, -1, 1), values).astype(np.float32)


def random_start(case: PreparedCase, size: Sequence[int], random: np.random.Generator, at_node: bool) -> list[int]:
    """First voxel of a random patch of `size`: within the volume where it is large enough, else around it.

    With `at_node` it holds one node of the case, drawn at random, whole (or lies within it, where the node is larger).
    """
    boxes = [node["bbox"] for node in case.info["nodes"]] if at_node else []
    box = boxes[random.integers(len(boxes))] if boxes else None
    start = []
    for axis, (side, extent) in enumerate(zip(size, case.shape, strict=True)):
        low, high = sorted((0, extent - side))
        if box is not None:
            first, last = sorted((box[axis][1] - side, box[axis][0]))
            low, high = max(low, first), min(high, last)
        start.append(int(random.integers(low, high + 1)))
    return start


class Patches(Dataset):
    """Sample number -> training sample, for ever; see `patch`."""

    def __init__(self, cases: Sequence[PreparedCase], form: DataForm, settings: TrainSettings):
        self.cases, self.form, self.settings = list(cases), form, settings
        weights = np.array([settings.shares.get(case.kind, 0.0) if settings.shares else 1.0 for case in self.cases])
        if settings.shares:  # a kind's share is split among its cases
            kinds = [case.kind for case in self.cases]
            weights /= [kinds.count(kind) for kind in kinds]
        if not weights.sum() > 0:
            raise LNSynthError(f"training: shares {settings.shares} leave no case to draw; the data hold "
                               f"{', '.join(sorted({case.kind for case in self.cases})) or 'none'}.")
        self.weights = weights / weights.sum()

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        random = rng(self.settings.seed, "patch", index)
        case = self.cases[random.choice(len(self.cases), p=self.weights)]
        at_node = random.random() < self.settings.node_probability
        start = random_start(case, self.form.patch, random, at_node)
        return patch(case, start, self.form, self.settings.augment, random)


def places(settings: TrainSettings, process: int = 0, processes: int = 1) -> list[range]:
    """The places in a step's batch of the samples of each forward pass of one process.

    The micro-batches of a step go round the processes, so that together they see what one alone would.
    """
    return [range(start, start + settings.micro_batch)
            for start in range(process * settings.micro_batch, settings.batch, processes * settings.micro_batch)]


def micro_batches(settings: TrainSettings, first_step: int, process: int = 0,
                  processes: int = 1) -> Iterator[list[int]]:
    """Sample numbers of each forward pass of one process, from `first_step` on."""
    for step in range(first_step, settings.steps):
        for part in places(settings, process, processes):
            yield [step * settings.batch + place for place in part]


def loader(patches: Patches, first_step: int, process: int, processes: int, pin: bool) -> DataLoader:
    settings = patches.settings
    # More processes than cores only get in each other's way, and torch warns of it.
    return DataLoader(patches, batch_sampler=micro_batches(settings, first_step, process, processes),
                      num_workers=min(settings.workers, cores()), pin_memory=pin,
                      generator=torch.Generator())  # its own, so that a loader takes nothing from the global one
