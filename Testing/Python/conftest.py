"""What every test may ask for."""

import os
import tempfile
from pathlib import Path

import pytest

# Of this run and its child processes alone: the registry of what is synthetic never is the user's own.
HOME = tempfile.TemporaryDirectory(prefix="lnsynth-home.")  # goes with this process
os.environ["LNSYNTH_HOME"] = HOME.name
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real CTs, anatomy labels and node masks (not part of the repository); skips where it is absent."""
    folder = Path(os.environ.get("LNSYNTH_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "ts_example_ct.nii.gz").is_file():
        pytest.skip(f"no real data at {folder}; set LNSYNTH_SHARED_DATA to the folder that has ts_example_ct.nii.gz")
    return folder


@pytest.fixture
def scene():
    """An empty MRML scene, as Slicer sets one up; skips where slicer-core is not installed."""
    import mrml
    return mrml.new_scene()
