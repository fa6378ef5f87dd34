"""A small version of Benchmarks/kills.py: verbs killed at random moments leave nothing torn, alive or hidden."""

import importlib.util
import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SIGKILL and /proc are needed")
def test_killed_at_random_moments_nothing_is_torn_and_the_next_run_succeeds(tmp_path, repository):
    spec = importlib.util.spec_from_file_location("kills", repository / "Testing" / "Benchmarks" / "kills.py")
    kills = sys.modules["kills"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kills)
    rows, faults = kills.run(tmp_path, 4, seed=1, names=["phantom", "import", "prepare", "insert"])
    assert faults == [] and sum(row["kills"] for row in rows) == 4
