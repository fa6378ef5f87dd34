"""Stand-ins for the widgets of Slicer in LNSynth.ui, for plain PySide6, which has none of their plugins.

They have the properties, signals and slots that the headers of Slicer 5.10 and 5.12 declare and Python sees there, as
far as the module could use them. A node box lists the real nodes of a real scene; the editor edits nothing, but keeps
undo states of the real segmentation. What the real widgets do is tested in Slicer.
"""

from ctk_widgets import row, stored
from PySide6.QtCore import Property, Qt, Signal, Slot
from PySide6.QtWidgets import QComboBox, QFrame, QLabel, QSizePolicy, QWidget

SCENE, NODE = "vtkMRMLScene*", "vtkMRMLNode*"


class qMRMLWidget(QWidget):
    mrmlSceneChanged = Signal(SCENE)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._receivers = None, []

    def mrmlScene(self):
        return self._scene

    @Slot(SCENE)
    def setMRMLScene(self, scene) -> None:
        """PySide6 cannot send a pointer that it does not know, so the form's connections are called by hand."""
        self._scene = scene
        for receiver in self._receivers:
            receiver.setMRMLScene(scene)


class qMRMLSegmentEditorWidget(qMRMLWidget):
    """An empty frame of about the editor's height."""

    currentSegmentIDChanged = Signal(str)
    segmentationNodeSelectorVisible = stored(bool, "segmentationNodeSelectorVisible", True)
    sourceVolumeNodeSelectorVisible = stored(bool, "sourceVolumeNodeSelectorVisible", True)
    switchToSegmentationsButtonVisible = stored(bool, "switchToSegmentationsButtonVisible", True)
    specifyGeometryButtonVisible = stored(bool, "specifyGeometryButtonVisible", True)
    addRemoveSegmentButtonsVisible = stored(bool, "addRemoveSegmentButtonsVisible", True)
    show3DButtonVisible = stored(bool, "show3DButtonVisible", True)
    maskingSectionVisible = stored(bool, "maskingSectionVisible", True)
    autoShowSourceVolumeNode = stored(bool, "autoShowSourceVolumeNode", True)
    undoEnabled = stored(bool, "undoEnabled", True)
    readOnly = stored(bool, "readOnly", False)
    maximumNumberOfUndoStates = stored(int, "maximumNumberOfUndoStates", 10)
    effectColumnCount = stored(int, "effectColumnCount", 0)
    unorderedEffectsVisible = stored(bool, "unorderedEffectsVisible", True)
    jumpToSelectedSegmentEnabled = stored(bool, "jumpToSelectedSegmentEnabled", False)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = self._segmentation = self._volume = self._effect = None
        self._segment, self._undo, self._redo = "", [], []
        frame = QLabel("Slicer's Segment Editor appears here.")
        frame.setAlignment(Qt.AlignCenter)
        frame.setFrameStyle(QFrame.StyledPanel | QFrame.Sunken)
        frame.setMinimumHeight(120)
        row(self, frame)

    def mrmlSegmentEditorNode(self):
        return self._node

    @Slot("vtkMRMLSegmentEditorNode*")
    def setMRMLSegmentEditorNode(self, node) -> None:
        self._node = node

    def segmentationNode(self):
        return self._segmentation

    def segmentationNodeID(self) -> str:
        return self._segmentation.GetID() if self._segmentation else ""

    @Slot(NODE)
    def setSegmentationNode(self, node) -> None:
        if node is not self._segmentation:
            self._segmentation, self._undo, self._redo = node, [], []

    def sourceVolumeNode(self):
        return self._volume

    @Slot(NODE)
    def setSourceVolumeNode(self, node) -> None:
        self._volume = node

    def currentSegmentID(self) -> str:
        return self._segment

    @Slot(str)
    def setCurrentSegmentID(self, segment: str) -> None:
        if segment != self._segment:
            self._segment = segment
            self.currentSegmentIDChanged.emit(segment)

    def activeEffect(self):
        return self._effect

    def setActiveEffect(self, effect) -> None:
        self._effect = effect

    @Slot(str)
    def setActiveEffectByName(self, name: str) -> None:
        self._effect = name or None

    def effectByName(self, name: str):
        return None

    def availableEffectNames(self) -> list:
        return []

    def setEffectNameOrder(self, names) -> None:
        pass

    def setupViewObservations(self) -> None:
        pass

    def removeViewObservations(self) -> None:
        pass

    @Slot()
    def installKeyboardShortcuts(self, parent=None) -> None:
        pass

    @Slot()
    def uninstallKeyboardShortcuts(self) -> None:
        pass

    @Slot()
    def updateEffectList(self) -> None:
        pass

    @Slot()
    def updateWidgetFromMRML(self) -> None:
        pass

    @Slot(int)
    def setMaximumNumberOfUndoStates(self, count: int) -> None:
        self.maximumNumberOfUndoStates = count

    @Slot()
    def saveStateForUndo(self) -> None:
        self._undo.append(self._copy())
        self._redo.clear()

    @Slot()
    def undo(self) -> None:
        if self._undo:
            self._redo.append(self._copy())
            self._segmentation.GetSegmentation().DeepCopy(self._undo.pop())

    @Slot()
    def redo(self) -> None:
        if self._redo:
            self._undo.append(self._copy())
            self._segmentation.GetSegmentation().DeepCopy(self._redo.pop())

    def _copy(self):
        copy = self._segmentation.GetSegmentation().NewInstance()
        copy.DeepCopy(self._segmentation.GetSegmentation())
        return copy


class qMRMLNodeComboBox(QWidget):
    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    nodeAboutToBeEdited = Signal(object)
    currentNodeRenamed = Signal(str)
    nodeTypes = stored("QStringList", "nodeTypes", ())
    hideChildNodeTypes = stored("QStringList", "hideChildNodeTypes", ())
    showHidden = stored(bool, "showHidden", False)
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True)
    baseName = stored(str, "baseName", "")
    noneEnabled = stored(bool, "noneEnabled", False)
    addEnabled = stored(bool, "addEnabled", True)
    removeEnabled = stored(bool, "removeEnabled", True)
    editEnabled = stored(bool, "editEnabled", False)
    renameEnabled = stored(bool, "renameEnabled", False)
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)
    noneDisplay = stored(str, "noneDisplay", "None")
    currentNodeID = Property(str, lambda self: self._id(), lambda self, value: self.setCurrentNodeID(value))

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._tags, self._attributes, self._nodes, self._listed = None, [], {}, [], []
        self._box = QComboBox()
        self._box.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Fixed)
        row(self, self._box)
        self._box.currentIndexChanged.connect(self._announce)
        self._known = None

    def mrmlScene(self):
        return self._scene

    @Slot(SCENE)
    def setMRMLScene(self, scene) -> None:
        for watched, tag in self._tags:
            watched.RemoveObserver(tag)
        self._scene = scene
        self._tags = [] if scene is None else [(scene, scene.AddObserver(event, self._told)) for event in (
            scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndImportEvent, scene.EndCloseEvent)]
        self.setEnabled(scene is not None)
        self._changed()

    def addAttribute(self, node_type: str, name: str, value=None) -> None:
        self._attributes[node_type, name] = value
        self._changed()

    def removeAttribute(self, node_type: str, name: str) -> None:
        self._attributes.pop((node_type, name), None)
        self._changed()

    def setNodeTypeLabel(self, label: str, node_type: str) -> None:
        pass

    def nodeCount(self) -> int:
        return len(self._nodes)

    def nodeFromIndex(self, index: int):
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    def currentNode(self):
        return self.nodeFromIndex(self._box.property("currentIndex") - int(self.noneEnabled))

    @Slot(NODE)
    def setCurrentNode(self, node) -> None:
        if isinstance(node, str):
            return self.setCurrentNodeID(node)
        listed = next((i for i, one in enumerate(self._nodes) if one is node), None)
        self._box.setCurrentIndex(listed + int(self.noneEnabled) if listed is not None else int(self.noneEnabled) - 1)

    @Slot(str)
    def setCurrentNodeID(self, node_id: str) -> None:
        self.setCurrentNode(self._scene.GetNodeByID(node_id) if self._scene and node_id else None)

    @Slot(int)
    def setCurrentNodeIndex(self, index: int) -> None:
        self._box.setCurrentIndex(index + int(self.noneEnabled))

    @Slot()
    def addNode(self, node_type: str = ""):
        node = self._scene.AddNewNodeByClass(node_type or self.nodeTypes[0], self._scene.GenerateUniqueName(
            self.baseName or "Node"))
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    @Slot()
    def removeCurrentNode(self) -> None:
        self._scene.RemoveNode(self.currentNode())

    def _id(self) -> str:
        node = self.currentNode()
        return node.GetID() if node else ""

    def _fits(self, node) -> bool:
        exact = node.GetClassName() in self.nodeTypes
        kind = exact or self.showChildNodeTypes and any(node.IsA(name) for name in self.nodeTypes)
        hidden = node.GetHideFromEditors() and not self.showHidden
        return kind and not hidden and node.GetClassName() not in self.hideChildNodeTypes and all(
            node.GetAttribute(name) is not None if value is None else node.GetAttribute(name) == str(value)
            for (node_type, name), value in self._attributes.items() if node.IsA(node_type))

    def _told(self, _caller, _event) -> None:
        """The scene or a node of it changed; a new node's attributes and name may come later."""
        for node in self._all():
            if any(node.IsA(name) for name in self.nodeTypes) and node not in [one for one, _tag in self._tags]:
                self._tags.append((node, node.AddObserver("ModifiedEvent", self._told)))
        if [(node, node.GetName()) for node in self._all() if self._fits(node)] != self._listed:
            self._changed()

    def _all(self) -> list:
        scene = self._scene
        return [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())] if scene is not None else []

    def _changed(self) -> None:
        """Lists what the scene has now; the choice stays where it can."""
        if not hasattr(self, "_box"):
            return
        chosen, blocked = self._known, self._box.blockSignals(True)
        self._nodes = [node for node in self._all() if self._fits(node)]
        self._listed = [(node, node.GetName()) for node in self._nodes]
        self._box.clear()
        self._box.addItems([self.noneDisplay] * int(self.noneEnabled) + [node.GetName() for node in self._nodes])
        listed = next((i for i, node in enumerate(self._nodes) if node is chosen), None)
        self._box.setCurrentIndex(
            int(self.noneEnabled) - 1 if listed is None else listed + int(self.noneEnabled))
        self._box.blockSignals(blocked)
        self._announce()

    def _announce(self, _index=None) -> None:
        node = self.currentNode()
        if node is not self._known:
            self._known = node
            self.currentNodeChanged.emit(node)
            self.currentNodeIDChanged.emit(self._id())
