"""PySide6 with the manners of PythonQt, Slicer's Python for Qt, so that the module's own panels run without Slicer.

What differs and is imitated: a Qt property is an attribute, and the getter of the same name is gone (`label.text`, not
`label.text()`); `widget.connect("signal(args)", f)` and disconnect exist, and give `f` no more arguments than it takes
(PySide6 does not let go of its own `connect`, so such calls are redirected as the module's files are imported); all
classes are in one module, `qt`; an attribute that does not exist cannot be set on a widget (found afterwards, by
`invented`). Everything else is PySide6, with real widgets: what the real PythonQt does is tested in Slicer.
"""

import ast
import importlib.machinery
import importlib.util
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import ctk_widgets
import shiboken6
import slicer_widgets
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import QMetaMethod, QMetaObject, QObject

MODULE = Path(__file__).resolve().parents[2] / "LNSynth"
VIRTUAL = "sizeHint", "minimumSizeHint"  # properties whose getters Qt calls in Python subclasses: they stay methods
MODULES = QtCore, QtGui, QtWidgets


class _QtProperty:
    """A property of Qt as an attribute of its objects; of the class, whatever was there (QTimer.singleShot)."""

    def __init__(self, name: str, writable: bool, former):
        self.name, self.writable, self.former = name, writable, former

    def __get__(self, instance, owner):
        if instance is None:
            return self.former
        return instance.property(self.name)

    def __set__(self, instance, value):
        if not self.writable:
            raise AttributeError(f"Property '{self.name}' of {type(instance).__name__} is not writable")
        if not instance.setProperty(self.name, value):
            raise AttributeError(f"Property '{self.name}' does not accept {value!r}")


def classes() -> list[type]:
    """Qt's own QObject classes, bases first."""
    found = {kind for kind in vars(qt_module()).values() if isinstance(kind, type) and issubclass(kind, QObject)}
    return sorted(found, key=lambda kind: (len(kind.__mro__), kind.__name__))


@contextmanager
def manners():
    """While this lasts, Qt's classes behave so in the whole process."""
    undo = []
    for kind in classes():
        meta = kind.staticMetaObject
        for i in range(meta.propertyOffset(), meta.propertyCount()):
            one = meta.property(i)
            if one.name() in VIRTUAL:
                continue
            _put(undo, kind, one.name(), _QtProperty(one.name(), one.isWritable(), getattr(kind, one.name(), None)))
    former = {name: sys.modules.get(name) for name in ("qt", "ctk")}
    sys.modules["qt"], sys.modules["ctk"] = qt_module(), ctk_module()
    sys.meta_path.insert(0, finder := _Finder())
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in ("LNSynth", "LNSynthPanels")]:
            del sys.modules[name]
        for name, module in former.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
        for kind, name, old in reversed(undo):
            if old is None:
                delattr(kind, name)
            else:
                setattr(kind, name, old)


class _Finder:
    """Imports LNSynth.py and LNSynthPanels with their connect and disconnect calls redirected."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        file = MODULE / (name.replace(".", "/") + ".py")
        if name.split(".")[0] not in ("LNSynth", "LNSynthPanels") or not file.is_file():
            return None
        return importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        tree = _Redirect().visit(ast.parse(self.get_data(self.path), self.path))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)

    def exec_module(self, module):
        module._qt_connect, module._qt_disconnect = connect, disconnect
        super().exec_module(module)


class _Redirect(ast.NodeTransformer):
    """sender.connect("signal()", f) -> _qt_connect(sender, "signal()", f)."""

    def visit_Call(self, node):
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("connect", "disconnect") and node.args and (
                isinstance(node.args[0], ast.Constant)):
            name = ast.copy_location(ast.Name("_qt_" + node.func.attr, ast.Load()), node)
            return ast.copy_location(ast.Call(name, [node.func.value, *node.args], node.keywords), node)
        return node


_connections = {}


def connect(sender, signature, receiver) -> bool:
    if not isinstance(sender, QObject):
        return sender.connect(signature, receiver)
    forwarded = fewer_arguments(receiver)
    _signal(sender, signature).connect(forwarded)
    _connections.setdefault(_key(sender, signature), []).append((receiver, forwarded))
    return True


def disconnect(sender, signature, receiver=None) -> bool:
    if not isinstance(sender, QObject):
        return sender.disconnect(signature, receiver)
    known = _connections.get(_key(sender, signature), [])
    for one in [one for one in known if receiver is None or one[0] == receiver]:
        _signal(sender, signature).disconnect(one[1])
        known.remove(one)
    return True


def _key(sender, signature) -> tuple:
    return shiboken6.getCppPointer(sender)[0], _normal(signature)


def _put(undo: list, kind: type, name: str, value) -> None:
    undo.append((kind, name, vars(kind).get(name)))
    setattr(kind, name, value)


def qt_module() -> types.ModuleType:
    module = types.ModuleType("qt")
    for source in MODULES:
        vars(module).update({name: getattr(source, name) for name in dir(source) if name.startswith("Q")})
    return module


def ctk_module() -> types.ModuleType:
    module = types.ModuleType("ctk")
    vars(module).update({name: value for name, value in vars(ctk_widgets).items() if name.startswith("ctk")})
    return module


def slicer_widget_classes() -> dict[str, type]:
    return {name: value for name, value in vars(slicer_widgets).items() if name.startswith("qMRML")}


def _normal(signature: str) -> str:
    return bytes(QMetaObject.normalizedSignature(signature)).decode()


def _signal(instance: QObject, signature: str):
    """The bound signal of exactly these arguments; a node's signal of a stand-in carries any object."""
    meta, wanted = instance.metaObject(), _normal(signature)
    candidates = [wanted, *(wanted.replace(pointer, "PyObject") for pointer in ("vtkMRMLNode*", "vtkMRMLNode *"))]
    for one in candidates:
        if (index := meta.indexOfSignal(one)) >= 0:
            method = meta.method(index)
            bound = getattr(instance, bytes(method.name()).decode())
            overloads = [meta.method(i) for i in range(meta.methodCount()) if meta.method(i).methodType()
                         == QMetaMethod.Signal and meta.method(i).name() == method.name()]
            if len({bytes(one.methodSignature()) for one in overloads}) > 1:
                try:
                    return bound[one.split("(", 1)[1][:-1]] if not one.endswith("()") else bound
                except (IndexError, KeyError, TypeError):
                    return bound
            return bound
    raise AttributeError(f"{type(instance).__name__} {instance.property('objectName')} has no signal {signature}")


def fewer_arguments(receiver):
    """The receiver behind a function that leaves out the arguments that a Python function or method does not take."""
    function = receiver.__func__ if isinstance(receiver, types.MethodType) else receiver
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & 0x04:  # not a Python function, or one with *args
        return lambda *arguments: receiver(*arguments)
    count = code.co_argcount - isinstance(receiver, types.MethodType)
    return lambda *arguments: receiver(*arguments[:count])


def invented(widget) -> list[str]:
    """Attributes that were set on Qt's own widgets in this tree though they have none of that name."""
    return [f"{one.property('objectName')}.{name}" for one in [widget, *widget.findChildren(QtWidgets.QWidget)]
            if type(one).__module__.startswith("PySide6") for name in vars(one)
            if not hasattr(type(one), name)]
