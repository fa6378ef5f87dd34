"""What the module asks of the Slicer application, for tests without it: enough to build and drive the real LNSynth.py
and its panels over the real form (PySide6 with pythonqt's manners) and a real MRML scene (slicer-core).

Stands in for slicer.app, slicer.modules, slicer.i18n, slicer.ScriptedLoadableModule, slicer.parameterNodeWrapper and
the dialogs of slicer.util. Parameters are kept in a real vtkMRMLScriptedModuleNode; which widget holds which kind of
parameter follows guiConnectors.py of Slicer 5.10 and 5.12. There is no main window, no layout and no slice view here.
"""

import json
import os
import sys
import traceback
import types
import typing
from contextlib import contextmanager
from dataclasses import dataclass

import ctk_widgets
import panels
import pythonqt
import slicer
import slicer_widgets
import vtk
from PySide6 import QtWidgets

PARAMETER = "SlicerParameterName"


class Settings(dict):
    """QSettings."""

    def value(self, key: str, default=None):
        return self.get(key, default)

    setValue = dict.__setitem__
    contains = dict.__contains__
    remove = dict.pop


class Application:
    """slicer.app: callbacks are kept, so that a test can send "startupCompleted()" or "aboutToQuit()"."""

    def __init__(self, temporary_path):
        self.temporaryPath = self.defaultScenePath = str(temporary_path)
        self.callbacks, self.settings = [], Settings()
        self.application_logic = slicer.vtkMRMLApplicationLogic()  # knows of no slice view; a test may give another

    def userSettings(self):
        return self.settings

    def connect(self, signature: str, receiver) -> None:
        self.callbacks.append((signature, receiver))

    def disconnect(self, signature: str, receiver=None) -> None:
        self.callbacks = [one for one in self.callbacks if one != (signature, receiver)]

    def send(self, signature: str) -> None:
        for known, receiver in list(self.callbacks):
            if known == signature:
                receiver()

    @staticmethod
    def startupEnvironment():
        return dict(os.environ)

    @staticmethod
    def layoutManager():
        return None

    def applicationLogic(self):
        return self.application_logic

    @staticmethod
    def processEvents() -> None:
        panels.application().processEvents()

    @staticmethod
    def setOverrideCursor(_cursor) -> None:
        pass

    @staticmethod
    def restoreOverrideCursor() -> None:
        pass


class EffectFactory(Application):
    """slicer.qSlicerSegmentEditorEffectFactory."""

    _one = None

    @classmethod
    def instance(cls):
        cls._one = cls._one or cls("")
        return cls._one


class Talk:
    """What was shown to people: errors, questions and words of the status bar, in place of dialogs that would wait.

    `faults`: exceptions that left a slot or an observer, which Qt and VTK would only print."""

    def __init__(self):
        self.errors, self.questions, self.said, self.answer, self.faults = [], [], [], True, []

    def fault(self, kind, error, trace):
        self.faults.append("".join(traceback.format_exception(kind, error, trace)))

    def error(self, text, *_more, **_options):
        self.errors.append(text)

    def ask(self, text, *_more, **_options):
        self.questions.append(text)
        return self.answer

    def say(self, text, *_more, **_options):
        self.said.append(text)


class Module:
    """ScriptedLoadableModule."""

    def __init__(self, parent):
        self.parent = parent


class ModuleWidget:
    """ScriptedLoadableModuleWidget: `parent` knows whether the module was entered."""

    def __init__(self, parent=None):
        self.parent = parent or types.SimpleNamespace(isEntered=True)
        self.panel = QtWidgets.QWidget()
        self.layout = QtWidgets.QVBoxLayout(self.panel)

    @staticmethod
    def resourcePath(name: str) -> str:
        return str(pythonqt.MODULE / "Resources" / name)

    def setup(self) -> None:
        pass


class ModuleLogic:
    """ScriptedLoadableModuleLogic: one parameter node in the scene."""

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode("LNSynth", "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag("LNSynth")
            node.SetModuleName("LNSynth")
            node = slicer.mrmlScene.AddNode(node)
        return node


@dataclass(frozen=True)
class WithinRange:
    minimum: float
    maximum: float


class GuiConnector:
    """Base of connectors that the module registers itself."""

    def __init__(self):
        self._callback = None

    def onChanged(self, callback) -> None:
        self._callback = callback
        self._connect() if callback else self._disconnect()

    def changed(self) -> None:
        if self._callback:
            self._callback()


class WidgetConnector(GuiConnector):
    """A widget of Slicer's own connectors: the property that it shows, and the signal that tells of a change."""

    KINDS: typing.ClassVar = {QtWidgets.QCheckBox: (bool, "checked", "stateChanged(int)"),
                              QtWidgets.QSpinBox: (int, "value", "valueChanged(int)"),
                              QtWidgets.QLineEdit: (str, "text", "textChanged(QString)"),
                              ctk_widgets.ctkSliderWidget: (float, "value", "valueChanged(double)")}

    def __init__(self, widget, kind, limits):
        super().__init__()
        expected, self._name, self._signal = self.KINDS[type(widget)]
        assert kind is expected, f"no connector for {kind} and {type(widget)}"
        self._widget = widget
        if limits:
            widget.minimum, widget.maximum = expected(limits.minimum), expected(limits.maximum)
        else:
            assert type(widget) is not ctk_widgets.ctkSliderWidget, "a slider needs a range"

    def _connect(self) -> None:
        pythonqt.connect(self._widget, self._signal, self.changed)

    def _disconnect(self) -> None:
        pythonqt.disconnect(self._widget, self._signal, self.changed)

    def read(self):
        return getattr(self._widget, self._name)

    def write(self, value) -> None:
        if self.read() != value:
            setattr(self._widget, self._name, value)


class NodeConnector(WidgetConnector):
    """A node box; it is given the types of its nodes, as Slicer does."""

    def __init__(self, widget, kind):
        GuiConnector.__init__(self)
        self._widget, self._signal = widget, "currentNodeChanged(vtkMRMLNode*)"
        widget.nodeTypes = [kind.__name__]

    def read(self):
        return self._widget.currentNode()

    def write(self, value) -> None:
        self._widget.setCurrentNode(value)


_registered = []


def _connector(widget, annotation):
    kind, limits = _plain(annotation)
    for one in _registered:
        if one.canRepresent(widget, annotation):
            return one.create(widget, annotation)
    if type(widget) is slicer_widgets.qMRMLNodeComboBox:
        return NodeConnector(widget, kind)
    if type(widget) not in WidgetConnector.KINDS:
        raise RuntimeError(f"Unable to create GUI connector from datatype '{kind}' to widget type '{type(widget)}'")
    return WidgetConnector(widget, kind, limits)


def _plain(annotation):
    """(the type, its WithinRange or None)."""
    if typing.get_origin(annotation) is typing.Annotated:
        kind, *more = typing.get_args(annotation)
        return kind, next((one for one in more if isinstance(one, WithinRange)), None)
    return annotation, None


def parameterNodeWrapper(kind):
    """Class decorator: typed attributes over a script node, told by its ModifiedEvent, connected to widgets."""
    annotations = dict(kind.__annotations__)
    defaults = {name: getattr(kind, name, None) for name in annotations}

    class Wrapper:
        def __init__(self, node):
            self.parameterNode, self._guis, self._updating = node, {}, False
            for name, value in defaults.items():
                if value is not None and not node.GetParameter(name):
                    node.SetParameter(name, json.dumps(value))

        def __getattr__(self, name):
            return getattr(self.parameterNode, name)

        def connectGui(self, ui) -> int:
            return self.connectParametersToGui({widget.property(PARAMETER): widget for widget in vars(ui).values()
                                                if widget.property(PARAMETER)})

        def connectParametersToGui(self, mapping) -> int:
            connectors = {name: _connector(widget, annotations[name]) for name, widget in mapping.items()}
            tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())
            self._guis[tag] = connectors
            for name, connector in connectors.items():
                connector.write(getattr(self, name))
                connector.onChanged(lambda name=name, connector=connector: self._take(name, connector))
            return tag

        def disconnectGui(self, tag: int) -> None:
            self.parameterNode.RemoveObserver(tag)
            for connector in self._guis.pop(tag).values():
                connector.onChanged(None)

        def _take(self, name, connector) -> None:
            if not self._updating:
                setattr(self, name, connector.read())

        def _show(self) -> None:
            if self._updating:
                return
            self._updating = True
            try:
                for connectors in self._guis.values():
                    for name, connector in connectors.items():
                        connector.write(getattr(self, name))
            finally:
                self._updating = False

    for name, annotation in annotations.items():
        setattr(Wrapper, name, _parameter(name, *_plain(annotation)))
    return Wrapper


def _parameter(name, kind, limits):
    def is_node(value):
        return value is None or value.IsA(kind.__name__)

    def read(self):
        node = self.parameterNode
        return node.GetNodeReference(name) if kind.__name__.startswith("vtk") else json.loads(node.GetParameter(name))

    def write(self, value):
        if kind.__name__.startswith("vtk"):
            assert is_node(value), f"{name} takes a {kind.__name__}"
            self.parameterNode.SetNodeReferenceID(name, value.GetID() if value else None)
            return
        if not isinstance(value, (int, float) if kind is float else kind):
            raise TypeError(f"{name} takes a {kind.__name__}, not {value!r}")
        if limits and not limits.minimum <= value <= limits.maximum:
            raise ValueError(f"{name}: {value} is not within {limits}")
        self.parameterNode.SetParameter(name, json.dumps(value))

    return property(read, write)


def _modules() -> dict[str, types.ModuleType]:
    made = {}
    for name, content in (
            ("slicer.i18n", {"tr": lambda text: text, "translate": lambda _context, text: text}),
            ("slicer.ScriptedLoadableModule", {
                "ScriptedLoadableModule": Module, "ScriptedLoadableModuleWidget": ModuleWidget,
                "ScriptedLoadableModuleLogic": ModuleLogic, "ScriptedLoadableModuleTest": object}),
            ("slicer.parameterNodeWrapper", {
                "parameterNodeWrapper": parameterNodeWrapper, "WithinRange": WithinRange, "GuiConnector": GuiConnector,
                "unannotatedType": lambda annotation: _plain(annotation)[0],
                "parameterNodeGuiConnector": lambda kind: (_registered.append(kind), kind)[1]})):
        made[name] = types.ModuleType(name)
        vars(made[name]).update(content)
    return made


@contextmanager
def running(scene, temporary_path):
    """Yields (the application, what was shown to people) while slicer, qt and ctk are as the module expects them."""
    import slicer.util

    panels.application()
    talk, modules = Talk(), _modules()
    attributes = {"mrmlScene": scene, "app": Application(temporary_path), "modules": types.SimpleNamespace(),
                  "qSlicerSegmentEditorEffectFactory": EffectFactory, **pythonqt.slicer_widget_classes(),
                  **{name.split(".")[1]: module for name, module in modules.items()}}
    functions = {"errorDisplay": talk.error, "warningDisplay": talk.error, "infoDisplay": talk.error,
                 "confirmYesNoDisplay": talk.ask, "confirmOkCancelDisplay": talk.ask, "showStatusMessage": talk.say,
                 "mainWindow": lambda: None, "setSliceViewerLayers": lambda **_layers: None, "loadUI": panels.load,
                 "childWidgetVariables": panels.names, "startupEnvironment": lambda: dict(os.environ)}
    missing = object()
    former = [(owner, name, getattr(owner, name, missing)) for owner, names in (
        (slicer, attributes), (slicer.util, functions)) for name in names]
    hook, sys.excepthook = sys.excepthook, talk.fault
    with pythonqt.manners():
        sys.modules.update(modules)
        for owner, content in ((slicer, attributes), (slicer.util, functions)):
            for name, value in content.items():
                setattr(owner, name, value)
        try:
            yield attributes["app"], talk
        finally:
            sys.excepthook = hook
            for name in modules:
                del sys.modules[name]
            for owner, name, value in former:
                delattr(owner, name) if value is missing else setattr(owner, name, value)
            _registered.clear()
            EffectFactory._one = None
