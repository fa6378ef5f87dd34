"""Can what a mask holds be lymph nodes of this CT? Checked before the mask is used.

The limits let real large nodes pass: of 557 real abdominal nodes 95 % have up to 13.3 mL and a short axis up to 26.8
mm, and of 417 real masks 3 (64, 65 and 127 mL) lie beyond them. Real node shapes painted into six real CTs, 70 each,
had means of 4 to 89 HU, and of their mirror images, five at a time, nine in ten or more were told.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..images.volume import Volume, canonical_view
from ..runtime.errors import LNSynthError
from .nodes import axes_mm
from .read import Tell
from .segments import by_value

NAMED = 5  # so many nodes are told by number


@dataclass(frozen=True)
class NodeLimits:
    """Beyond these, a mask is doubted."""

    volume_ml: float = 50.0                         # of one node
    short_axis_mm: float = 50.0                     # of one node
    nodes: int = 150                                # of one CT
    shown_hu: tuple[float, float] = (-50.0, 400.0)  # mean of a node that the CT shows: no fat, no bone
    made_hu: tuple[float, float] = (-300.0, 400.0)  # mean where a node is to be made: no air or lung, no bone
    in_organ: float = 0.5                           # share of a node that lies in organs


def doubts(nodes: Volume, ct: Volume | None = None, *, shown: bool | Collection[int] = True,
           scaling: tuple[float, float] = (1.0, 0.0), organs: Volume | None = None,
           only: Collection[int] | None = None, limits: NodeLimits = NodeLimits()) -> list[str]:
    """What speaks against lymph nodes, a sentence without its full stop each; empty where nothing does.

    nodes    instances; ct and organs (labels above 0) on the same grid as it is stored, each None where not at hand
    shown    whether the CT shows them, or which of them
    scaling  HU = scaling[0] * voxel + scaling[1]
    only     the nodes to look at; None: all
    """
    voxel_ml = abs(np.linalg.det(nodes.affine[:3, :3])) / 1000
    upright, hu = canonical_view(nodes), canonical_view(ct).array if ct is not None else None
    labels = canonical_view(organs).array if organs is not None else None
    large, wide, dark, dense, inside, count = [], [], [], [], [], 0
    for id, box, mask in by_value(upright.array):
        if only is not None and id not in only:
            continue
        count, size = count + 1, np.count_nonzero(mask)
        if size * voxel_ml > limits.volume_ml:
            large.append((id, f"{size * voxel_ml:.0f} mL"))
        elif (short := axes_mm(mask, upright.affine[:3, :3])[1]) > limits.short_axis_mm:
            wide.append((id, f"{short:.0f} mm"))
        if hu is not None:
            low, high = limits.shown_hu if shown is True or (shown is not False and id in shown) else limits.made_hu
            mean = float(hu[box].mean(where=mask, dtype=np.float64)) * scaling[0] + scaling[1]
            if mean < low:
                dark.append((id, f"{mean:.0f} HU"))
            elif mean > high:
                dense.append((id, f"{mean:.0f} HU"))
        if labels is not None and (share := np.count_nonzero(labels[box][mask]) / size) > limits.in_organ:
            inside.append((id, f"{share:.0%}"))
    found = [f"it holds {count} nodes, more than {limits.nodes}"] if count > limits.nodes else []
    for some, what in ((large, f"more than {limits.volume_ml:g} mL"),
                       (wide, f"a short axis of more than {limits.short_axis_mm:g} mm"),
                       (dark, "as dark as fat, lung or air"), (dense, "as dense as bone"),
                       (inside, f"more than {limits.in_organ:.0%} in organs")):
        if some:
            found.append(f"{what}: {_named(some)}")
    return found


def check_plausible(found: Sequence[str], name: str, anyway: bool, tell: Tell) -> None:
    """Raises LNSynthError, naming `name`, where something speaks against the mask; with `anyway`, tells it."""
    if not found:
        return
    said = f"{name}: this does not look like lymph nodes in this CT ({'; '.join(found)})"
    if not anyway:
        raise LNSynthError(f"{said}; check that the mask is of this CT, not flipped and not an organ, or go on with "
                           "--anyway.")
    tell(said)


def _named(some: list[tuple[int, str]]) -> str:
    text = ", ".join(f"node {id} ({value})" for id, value in some[:NAMED])
    return text + (f" and {len(some) - NAMED} more" if len(some) > NAMED else "")
