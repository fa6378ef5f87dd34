"""`python -m LNSynthLib VERB ...` is the same as `lnsynth VERB ...`."""

import signal
import sys

from LNSynthLib.cli import main
from LNSynthLib.runtime.cancel import forks_end_with_this


def run() -> int:
    """`main` as a program of its own."""
    forks_end_with_this()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # outside its work: a second Ctrl-C leaves it its last words
    return main()


if __name__ == "__main__":
    sys.exit(run())
