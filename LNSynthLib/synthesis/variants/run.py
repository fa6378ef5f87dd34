"""What a run of variants is: its settings, its variants, and what making one reports."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...conditions.transforms import VarySettings
from ...runtime.errors import LNSynthError
from ...runtime.events import Progress
from ..insert import InsertSettings
from .inputs import Files, Given

Mode = Literal["in-place", "patch"]


@dataclass(frozen=True)
class VariantSettings:
    count: int = 1
    mode: Mode = "in-place"
    seed: int = 0
    sampler: str = "dpmpp"
    steps: int = 25
    vary: VarySettings | None = None  # how the nodes change in each variant; None: they stay as the mask has them
    remake: bool = False              # in place: nodes that the CT shows already are regenerated too
    insert: InsertSettings = field(default_factory=InsertSettings)  # its seed, sampler and steps are ignored

    def __post_init__(self):
        if self.count < 1 or self.steps < 1:
            raise LNSynthError("--count and --steps must be 1 or more.")
        if self.mode not in ("in-place", "patch"):
            raise LNSynthError(f"There is no mode {self.mode!r}; choose in-place or patch.")


@dataclass(frozen=True)
class Variant:
    """One sample: its number among the variants, its seed, the hash of what it is, where it goes, whether it is there.
    """

    number: int
    seed: int
    key: str
    folder: Path
    there: bool


@dataclass(frozen=True, eq=False)
class Run:
    """What the makers of samples (`in_place`, `patch`) need to know."""

    model: object
    facts: dict
    files: Files
    given: Given
    source: dict  # of the provenance
    settings: VariantSettings
    device: object


UNITS = 1000  # that the progress of one sample is told in


class Shares:
    """Progress over samples of unlike cost, each counted as the same."""

    def __init__(self, progress: Progress, count: int):
        self.progress, self.count = progress, count

    def at(self, samples: float, message: str = "") -> None:
        """samples: finished so far, with the share of that which is being made."""
        units = max(self.progress.done, int(min(samples, self.count) * UNITS))
        if units > self.progress.done or message:
            self.progress.step(units - self.progress.done, message)
