"""`python -m LNSynthLib VERB ...` is the same as `lnsynth VERB ...`."""

import sys

from LNSynthLib.cli import main
from LNSynthLib.runtime.cancel import forks_end_with_this

if __name__ == "__main__":
    forks_end_with_this()
    sys.exit(main())
