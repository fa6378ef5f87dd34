r"""Headless training: `lnsynth train` as a loose script, for Slicer's interpreter or any other.

    Slicer --no-splash --no-main-window --exit-after-startup --python-script LNSynthLib/train.py -- \
        --preset demo --data DATASET --out RUN
    python LNSynthLib/train.py --preset demo --data DATASET --out RUN
"""

import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Runs `lnsynth train` with these arguments and returns its exit status."""
    here = Path(__file__).resolve().parent
    # A script's own folder comes first on the path; the package's modules must not be found as top-level ones.
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != here]
    sys.path.insert(0, str(here.parent))
    from LNSynthLib.cli import main as lnsynth

    arguments = arguments[1:] if arguments[:1] == ["--"] else arguments
    if "slicer" in sys.modules:  # loader processes would be copies of the application
        arguments = [*arguments, "--set", "training.workers=0"]
    return lnsynth(["train", *arguments])


def leave(status: int) -> None:
    """Ends the process; Slicer stays open after a script unless it is told to go."""
    slicer = sys.modules.get("slicer")
    if slicer is None:
        sys.exit(status)
    if status and slicer.app.commandOptions().exitAfterStartup:
        # With this option Slicer replaces any status by its own: 1 after an error in Python, else 0.
        raise RuntimeError(f"lnsynth train has ended with status {status}")
    slicer.util.exit(status)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
