"""Temporary files for jobs: folders that are gone when the application is, and the CT, written no more than once."""

import atexit
import shutil
import tempfile
from pathlib import Path

import vtk
from LNSynthLogic import volumes

from LNSynthLib.runtime import temporary


class JobFiles:
    """All lie in one folder under the application's temporary path, made when the first is asked for."""

    def __init__(self, temporary_path: str):
        self._parent, self._root = temporary_path, None
        self._written = None  # (state of the node, its file)

    def folder(self) -> Path:
        """A new empty folder."""
        if self._root is None:
            temporary.sweep_once(Path(self._parent))  # what an application that crashed left
            self._root = Path(tempfile.mkdtemp(prefix=f".lnsynth{temporary.mark()}.", dir=self._parent))
            atexit.register(shutil.rmtree, self._root, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self._root))

    def volume(self, node, keep: bool = False) -> Path:
        """The volume as .nii; the same file again while neither its voxels nor its geometry have changed.

        keep: the last file stays where another one is written: a job may be reading it
        """
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        place = tuple(matrix.GetElement(i, j) for i in range(3) for j in range(4))
        state = (node.GetID(), node.GetImageData().GetMTime(), node.GetImageDataConnection().GetMTime(), place)
        if self._written is None or self._written[0] != state or not self._written[1].is_file():
            if self._written is not None and not keep:
                shutil.rmtree(self._written[1].parent, ignore_errors=True)
            path = self.folder() / "ct.nii"
            volumes.write_volume(node, path)
            self._written = (state, path)
        return self._written[1]

    def close(self) -> None:
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = self._written = None
