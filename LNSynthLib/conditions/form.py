"""The form of a generator's input: channels, label table, spacing, HU window, patch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # the form itself is read where torch is not installed


@dataclass(frozen=True)
class DataForm:
    """The form of data a generator is trained on and must be given: part of its identity, kept in its checkpoint."""

    labels: str = "abdomen14"                      # anatomy label table
    anatomy_channels: int = 14                     # its number of labels, one channel each
    expected_hu: bool = False                      # one more channel: each voxel's label's mean HU (not in the paper)
    spacing_mm: float = 1.0                        # isotropic
    window: tuple[float, float] = (-120.0, 240.0)  # HU mapped to [-1, 1]
    patch: tuple[int, int, int] = (128, 128, 128)  # voxels

    @property
    def condition_channels(self) -> int:
        """Anatomy one-hot, then the node mask, then the expected HU where it is used."""
        return self.anatomy_channels + 1 + self.expected_hu

    def anatomy(self, condition: torch.Tensor) -> torch.Tensor:
        """The one-hot anatomy of a condition (B, condition_channels, ...): (B, anatomy_channels, ...)."""
        return condition[:, :self.anatomy_channels]

    def nodes(self, condition: torch.Tensor) -> torch.Tensor:
        """The node mask of a condition (B, condition_channels, ...): (B, 1, ...) in {0, 1}."""
        return condition[:, self.anatomy_channels:self.anatomy_channels + 1]
