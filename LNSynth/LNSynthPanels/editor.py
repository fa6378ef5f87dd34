"""The embedded Segment Editor: which segmentation and CT it edits, its undo history, its shortcuts."""

import slicer


class NodeEditor:
    """Keeps the editor widget in step with the module's parameters.

    It shares the application's one segment editor node, so that effects and masking are as people left them in the
    Segment Editor module.
    """

    def __init__(self, widget, scene):
        self.widget, self.scene = widget, scene
        widget.setMaximumNumberOfUndoStates(20)
        self._share_node()

    def show(self, segmentation, ct) -> None:
        """Edits `segmentation` (or None) on `ct`; what is being edited already is left alone, its effect as well."""
        self._share_node()
        if self.widget.segmentationNode() != segmentation:
            self.widget.setSegmentationNode(segmentation)
        if segmentation is not None and ct is not None and self.widget.sourceVolumeNode() != ct:
            self.widget.setSourceVolumeNode(ct)

    def release(self) -> None:
        """No effect keeps hold of the views."""
        self.widget.setActiveEffect(None)
        self.widget.removeViewObservations()

    def enter(self) -> None:
        self.widget.setupViewObservations()
        self.widget.installKeyboardShortcuts()

    def exit(self) -> None:
        self.release()
        self.widget.uninstallKeyboardShortcuts()

    def forget(self) -> None:
        """Before a scene is closed."""
        self.release()
        self.widget.setSegmentationNode(None)

    def _share_node(self) -> None:
        node = self.scene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if node is None:
            node = self.scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag("SegmentEditor")
            node = self.scene.AddNode(node)
        if self.widget.mrmlSegmentEditorNode() != node:
            self.widget.setMRMLSegmentEditorNode(node)


def effects_registered(callback) -> None:
    """Calls `callback` whenever an editor effect becomes known, which can be after this module was opened."""
    slicer.qSlicerSegmentEditorEffectFactory.instance().connect("effectRegistered(QString)", callback)


def effects_forgotten(callback) -> None:
    slicer.qSlicerSegmentEditorEffectFactory.instance().disconnect("effectRegistered(QString)", callback)
