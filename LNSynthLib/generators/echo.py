"""Echo from noise (Stojanovski et al. 2023, arXiv 2305.05424) in 3D: a semantic diffusion model of all labels, with a
cosine schedule and without guidance. It was made for echocardiograms."""

from dataclasses import dataclass
from typing import Literal

import torch

from .sdm import SDMSettings, SemanticDiffusion


@dataclass(frozen=True)
class EchoSettings(SDMSettings):
    timesteps: int = 1000
    loss: Literal["l1", "l2"] = "l2"


class Echo(SemanticDiffusion):
    kind = "echo"

    def layout(self, condition: torch.Tensor) -> torch.Tensor:
        """The whole condition: anatomy and nodes."""
        return condition
