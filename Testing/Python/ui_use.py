"""Finds in the module's source what it does with each widget of the form, and says what would fail in Slicer.

Slicer's Python sees Qt through PythonQt: a property is read and set as an attribute, never called (`label.text`, not
`label.text()`), for it is looked up before the getter of the same name; an attribute that does not exist cannot be set;
a plain C++ method of a CTK or Slicer widget that is no slot and not invokable does not exist.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from panels import STAND_INS
from PySide6 import QtWidgets
from PySide6.QtCore import QMetaMethod

EDITOR = "segmentEditorWidget"  # what host.editor is


@dataclass(frozen=True)
class Use:
    """One thing done with a widget. `how`: get, set, call, signal (its connect, disconnect, emit), text (a signature in
    a string) or bare (the widget itself is handed on)."""

    where: str
    widget: str
    how: str
    name: str = ""
    handler: ast.AST | None = None


def uses(path: Path, known) -> list[Use]:
    """What the file does with widgets of the form, in the order of its lines; `known`: their names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    aliases = _aliases(tree, parents)
    found = []
    for node in ast.walk(tree):
        widget = _widget(node, aliases, parents)
        if widget is not None and not isinstance(getattr(node, "ctx", None), ast.Store):
            found.append((node.lineno, _use(node, widget, parents, f"{path.name}:{node.lineno}")))
        if isinstance(node, ast.Constant) and node.value in known:  # names in a table, for getattr
            found.append((node.lineno, Use(f"{path.name}:{node.lineno}", node.value, "bare")))
    return [use for _line, use in sorted(found, key=lambda one: one[0])]


def _widget(node, aliases, parents) -> str | None:
    """The name of the widget that the expression is, if it is one."""
    if isinstance(node, ast.Attribute):
        base = node.value
        if isinstance(base, ast.Name) and base.id == "ui" or isinstance(base, ast.Attribute) and base.attr == "ui":
            return node.attr
        if node.attr == "editor" and isinstance(base, ast.Name | ast.Attribute) and "host" in ast.unparse(base):
            return EDITOR
        if isinstance(base, ast.Name) and base.id == "self":
            return aliases.get((_scope(node, parents, ast.ClassDef), node.attr))
    if isinstance(node, ast.Name):
        return aliases.get((_scope(node, parents, ast.FunctionDef), node.id))
    return None


def _scope(node, parents, kind):
    while node is not None and not isinstance(node, kind):
        node = parents.get(node)
    return node


def _aliases(tree, parents) -> dict:
    """Names and attributes of self that are bound once, to one widget."""
    found = {}
    for _ in range(2):  # an alias of an alias
        for node in ast.walk(tree):
            for target, value in _bindings(node):
                widget = _widget(value, found, parents)
                if widget is None:
                    continue
                if isinstance(target, ast.Name):
                    key = _scope(target, parents, ast.FunctionDef), target.id
                elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                    key = _scope(target, parents, ast.ClassDef), target.attr
                else:
                    continue
                found[key] = widget if found.get(key, widget) == widget else None
    return found


def _bindings(node):
    if not isinstance(node, ast.Assign):
        return
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=False)
        else:
            yield target, node.value


def _use(node, widget, parents, where) -> Use:
    attribute = parents.get(node)
    if not (isinstance(attribute, ast.Attribute) and attribute.value is node):
        return Use(where, widget, "bare")
    name, above = attribute.attr, parents.get(attribute)
    if isinstance(attribute.ctx, ast.Store):
        return Use(where, widget, "set", name)
    if isinstance(above, ast.Attribute) and above.attr in ("connect", "disconnect", "emit"):
        call = parents.get(above)
        return Use(where, widget, "signal", name, call.args[0] if isinstance(call, ast.Call) and call.args else None)
    if isinstance(above, ast.Call) and above.func is attribute:
        if name in ("connect", "disconnect") and above.args and isinstance(above.args[0], ast.Constant):
            return Use(where, widget, "text", above.args[0].value, above.args[1] if len(above.args) > 1 else None)
        return Use(where, widget, "call", name)
    return Use(where, widget, "get", name)


def wrong(use: Use, class_name: str) -> str:
    """What would fail in Slicer; "" where nothing would."""
    kind = STAND_INS.get(class_name) or getattr(QtWidgets, class_name)
    meta = kind.staticMetaObject
    signals = {}
    for method in (meta.method(i) for i in range(meta.methodCount())):
        if method.methodType() == QMetaMethod.Signal:
            signals.setdefault(bytes(method.name()).decode(), []).append(bytes(method.methodSignature()).decode())
    is_property = meta.indexOfProperty(use.name) >= 0
    method = not is_property and callable(getattr(kind, use.name, None)) and not use.name.startswith("_")
    fault = {
        "bare": "",
        "text": "" if _signature_exists(use.name, signals) else "no such signal",
        "signal": "" if use.name in signals else "no such signal",
        "set": "" if is_property else "not a property: it cannot be set",
        "call": "a property is not called in PythonQt" if is_property else "" if method else "no such method",
        "get": "" if is_property or method else "no such property or method",
    }[use.how]
    if not fault and use.how in ("text", "signal"):
        fault = _eats_argument(use, signals)
    return f"{use.where}: {use.widget} ({class_name}), {use.how} {use.name}: {fault}" if fault else ""


def _signature_exists(text: str, signals) -> bool:
    name = text.split("(")[0]
    plain = text.replace(" ", "").replace("double", "float" if name not in dir(QtWidgets.QDoubleSpinBox) else "double")
    wanted = {text.replace(" ", ""), plain, plain.replace("vtkMRMLNode*", "PyObject"), plain.replace("float", "double")}
    return any(signature in wanted for signature in signals.get(name, ()))


def _eats_argument(use: Use, signals) -> str:
    """`lambda row=row: ...` on a signal with an argument is given that argument in place of its default."""
    if isinstance(use.handler, ast.Lambda) and use.handler.args.defaults and not use.handler.args.args[
            :-len(use.handler.args.defaults)]:
        first = use.name if use.how == "text" else max(signals[use.name], key=len)
        if not first.endswith("()"):
            return f"the signal's argument replaces the default of its lambda ({first})"
    return ""
