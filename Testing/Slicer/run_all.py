"""The self test in the real application, as one command; the exit status is 0 where every step passed, else 1.

    Slicer --no-splash --testing --additional-module-paths "$PWD/LNSynth" --python-script Testing/Slicer/run_all.py

LNSYNTH_PICTURES=FOLDER keeps a screenshot of each panel and layout.
"""

import sys
import traceback
from pathlib import Path

import slicer

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> int:
    try:
        from LNSynthSelfTest import runner

        return 1 if runner.run() else 0
    except Exception:
        traceback.print_exc()
        return 1


status = main()
slicer.util.exit(status)
if status:  # an error in Python counts where Slicer ends by itself and asks for no status
    raise RuntimeError("The self test has failed; see above.")
