"""NASDM (Shrivastava and Fletcher 2023, arXiv 2303.11477) in 3D: a semantic diffusion model of nodes, told their edges,
with classifier-free guidance. It was made for cell nuclei."""

from dataclasses import dataclass
from typing import Literal

import torch

from .sdm import SDMSettings, SemanticDiffusion


@dataclass(frozen=True)
class NASDMSettings(SDMSettings):
    timesteps: int = 1000
    schedule: Literal["cosine", "linear", "scaled_linear"] = "linear"
    loss: Literal["l1", "l2"] = "l2"
    drop: float = 0.2
    guidance: float = 1.5


class NASDM(SemanticDiffusion):
    kind = "nasdm"

    def layout(self, condition: torch.Tensor) -> torch.Tensor:
        """(B, 3, ...): background, nodes and edges. Background has a channel of its own, as in the authors' code: a
        patch without nodes differs from a layout left out."""
        nodes = self.form.nodes(condition)
        return torch.cat([1 - nodes, nodes, edges(nodes)], dim=1)


def edges(labels: torch.Tensor) -> torch.Tensor:
    """1 where one of a voxel's six neighbours has another label, so on both sides of each border; else 0.

    labels  (B, 1, X, Y, Z). This is `get_edges` of SDM's and NASDM's code with a third axis; they take it of
            instances. A condition's node mask has none, so nodes that touch share one edge.
    """
    edge = torch.zeros_like(labels, dtype=torch.bool)
    for axis in (2, 3, 4):
        change = labels.diff(dim=axis) != 0
        none = torch.zeros_like(edge.narrow(axis, 0, 1))
        edge = edge | torch.cat([change, none], dim=axis) | torch.cat([none, change], dim=axis)
    return edge.to(labels)
