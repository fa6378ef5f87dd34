"""Which generator is meant where none is named: the demo weights that come with LNSynth."""

from __future__ import annotations

from pathlib import Path

from ..runtime.errors import LNSynthError
from ..runtime.settings import resources


def generator_path(given: str | Path | None = None) -> Path:
    """The generator's folder or training run as given, else the demo weights; LNSynthError where those are missing."""
    if given is not None:
        return Path(given)
    demo = resources() / "generators" / "demo"
    if not (demo / "model.json").is_file():
        raise LNSynthError(f"The demo weights are missing ({demo}); reinstall LNSynth, or name a generator or a "
                           "training run with --generator.")
    return demo
