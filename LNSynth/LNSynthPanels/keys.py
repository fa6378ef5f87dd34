"""Keys of the whole window that a panel uses while it is open, and that never take a key away from Slicer's own tools.

Letters that Slicer uses in slice and 3D views (b f g r t v) or in the Segment Editor (i q w y z, digits) are not for
these; and while one of the editor's effects is active no key is ours: Draw, for one, takes A and X.
"""

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin


class Keys(VTKObservationMixin):
    def __init__(self, host, slots: dict):
        """slots: key sequence -> what it does. Nothing happens before `use(True)`."""
        VTKObservationMixin.__init__(self)
        self.host, self._wanted, self._shortcuts = host, False, []
        window = slicer.util.mainWindow()
        if window is None:  # --no-main-window
            return
        for sequence, slot in slots.items():
            shortcut = qt.QShortcut(qt.QKeySequence(sequence), window)
            shortcut.autoRepeat = False
            shortcut.enabled = False
            shortcut.connect("activated()", slot)
            self._shortcuts.append(shortcut)

    def use(self, wanted: bool) -> None:
        self._wanted = wanted
        self.removeObservers()
        editor = self.host.editor.mrmlSegmentEditorNode()
        if wanted and editor is not None:
            self.addObserver(editor, vtk.vtkCommand.ModifiedEvent, self._update)
        self._update()

    def close(self) -> None:
        self.removeObservers()
        for shortcut in self._shortcuts:
            shortcut.enabled = False
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    def _update(self, caller=None, event=None) -> None:
        editor = self.host.editor.mrmlSegmentEditorNode()
        busy = editor is not None and bool(editor.GetActiveEffectName())
        for shortcut in self._shortcuts:
            shortcut.enabled = self._wanted and not busy
