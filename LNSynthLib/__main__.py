"""`python -m LNSynthLib VERB ...` is the same as `lnsynth VERB ...`."""

import sys

from LNSynthLib.cli import main

if __name__ == "__main__":
    sys.exit(main())
