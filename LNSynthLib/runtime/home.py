"""The folder in which this installation keeps its own records, apart from anybody's data."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """$LNSYNTH_HOME, or LNSynth's folder among the user's application data."""
    if own := os.environ.get("LNSYNTH_HOME"):
        return Path(own)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "LNSynth"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "LNSynth"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "lnsynth"
