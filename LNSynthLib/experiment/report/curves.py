"""Charts of an experiment as PNG: losses of generators, pseudo Dice of segmenters, FROC."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...evaluation.froc import Froc

INCH = 100                 # CSS pixels of a chart's inch
SHARP = 180                # of the PNG's pixels
MOST_ALARMS = 10.0         # where the axis of false positives ends at the latest
REAL_COLOR = "#111111"


@dataclass(frozen=True)
class Curve:
    """One line of a chart: its label, whether it is the one trained on real cases alone, and its points."""

    label: str
    real: bool
    x: Sequence[float]
    y: Sequence[float]


def losses(panels: Mapping[str, Sequence[Curve]]) -> bytes:
    """A small panel a method, one line a seed: the loss of each step in grey, its running mean in color."""
    figure, axes = _panels(len(panels), columns=4, size=(3.0, 2.1))
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        for curve in curves:
            x, y = np.asarray(curve.x), np.asarray(curve.y, float)
            ax.plot(x, y, color="0.8", linewidth=0.6)
            ax.plot(x, smoothed(y), color="C0", linewidth=1.5)
        smooth = np.concatenate([smoothed(np.asarray(curve.y, float)) for curve in curves])
        low, high = float(smooth.min()), float(np.quantile(smooth, 0.98))
        ax.set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low) or None)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("step", fontsize=8)
    return _png(figure)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the run, centred; shorter at the ends."""
    reach = max(1, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def pseudo_dice(panels: Mapping[str, Sequence[Curve]]) -> bytes:
    """A panel a strategy, one line a row (and seed): pseudo Dice on validation patches after each epoch."""
    figure, axes = _panels(len(panels), columns=2, size=(5.8, 3.2))
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        for curve, style in zip(curves, _styles(curves), strict=True):
            ax.plot(curve.x, curve.y, linewidth=1.4, **style)
        ax.set(ylim=(0, 1))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("epoch", fontsize=9)
        ax.set_ylabel("pseudo Dice", fontsize=9)
        _legend(ax)
    return _png(figure)


def froc_chart(panels: Mapping[str, Mapping[str, tuple[bool, Froc]]]) -> bytes:
    """A panel a strategy: share of nodes found against false positives a case; the dot is the prediction itself.

    Steps, because between two thresholds there are no other candidates. {title: {label: (real alone, curve)}}
    """
    figure, axes = _panels(len(panels), columns=2, size=(5.8, 4.0))
    most = max(f.false_positives[-1] for curves in panels.values() for _, f in curves.values())
    right = min(MOST_ALARMS, max(1.0, most))
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        drawn = [Curve(label, real, f.false_positives, f.sensitivity) for label, (real, f) in curves.items()]
        for curve, style in zip(drawn, _styles(drawn), strict=True):
            ax.step(curve.x, curve.y, where="post", linewidth=1.4, **style)
            if curve.x[-1] <= right:
                ax.plot(curve.x[-1], curve.y[-1], "o", markersize=5, color=style["color"], clip_on=False)
        ax.set(xlim=(0, right), ylim=(0, 1))
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("false positives a case", fontsize=9)
        ax.set_ylabel("share of nodes found", fontsize=9)
        _legend(ax)
    return _png(figure)


def width(columns: int, inches: float) -> int:
    """CSS pixels of a chart so many panels wide."""
    return round(columns * inches * INCH)


def _styles(curves: Sequence[Curve]) -> list[dict]:
    """A color a label, the same for the same place in each panel; black for real cases alone; one legend entry each."""
    others = list(dict.fromkeys(curve.label for curve in curves if not curve.real))
    styles, named = [], set()
    for curve in curves:
        color = REAL_COLOR if curve.real else f"C{others.index(curve.label) % 10}"
        styles.append({"color": color, "linestyle": "--" if curve.real else "-",
                       "label": None if curve.label in named else curve.label})
        named.add(curve.label)
    return styles


def _panels(count: int, columns: int, size: tuple[float, float]):
    from matplotlib.figure import Figure  # without pyplot: no window system, no state

    across, down = min(columns, count), math.ceil(count / columns)
    figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for ax in grid[count:]:
        ax.set_axis_off()
    for ax in grid[:count]:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure, grid[:count]


def _legend(ax) -> None:
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _png(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=SHARP)
    return stream.getvalue()
