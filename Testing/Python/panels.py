"""The form of the module, LNSynth.ui, loaded by Qt's own loader without a screen, with stand-ins for CTK's and Slicer's
widgets; and pictures of its sections.

Qt's messages while the form loads (a class, property, signal or slot that does not exist) are errors here.
"""

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import ctk_widgets
import slicer_widgets
from PySide6.QtCore import QtMsgType, qInstallMessageHandler
from PySide6.QtGui import QColor, QPalette
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import QApplication, QWidget

ROOT = Path(__file__).resolve().parents[2]
FORM = ROOT / "LNSynth" / "Resources" / "UI" / "LNSynth.ui"
SECTIONS = ("setup", "input", "anatomy", "nodes", "synthesis", "review", "segmentation", "batch", "job")
STAND_INS = {name: kind for module in (ctk_widgets, slicer_widgets) for name, kind in vars(module).items()
             if isinstance(kind, type) and name.startswith(("ctk", "qMRML"))}


def application() -> QApplication:
    app = QApplication.instance() or QApplication(["LNSynth"])
    app.setStyle("Fusion")
    return app


def load(path: Path = FORM) -> QWidget:
    """The form as a widget. RuntimeError with Qt's words where something in it does not exist."""
    application()
    loader, messages = QUiLoader(), []
    for kind in STAND_INS.values():
        loader.registerCustomWidget(kind)
    former = qInstallMessageHandler(lambda kind, _context, text: messages.append(text)
                                    if kind != QtMsgType.QtInfoMsg else None)
    try:
        widget = loader.load(str(path))
    finally:
        qInstallMessageHandler(former)
    if widget is None or messages:
        raise RuntimeError("\n".join([loader.errorString(), *messages]))
    widget._receivers = [widget.findChild(QWidget, name) for name in scene_receivers(path)]
    return widget


def scene_receivers(path: Path = FORM) -> list[str]:
    """Names of the widgets that the form connects to the scene."""
    return [connection.findtext("receiver") for connection in ElementTree.parse(path).iter("connection")
            if connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"]


def names(widget: QWidget) -> SimpleNamespace:
    """The named widgets as attributes, as slicer.util.childWidgetVariables gives them."""
    return SimpleNamespace(**{child.property("objectName"): child for child in widget.findChildren(QWidget)
                              if child.property("objectName") and child.property("objectName").isidentifier()})


def form_names(path: Path = FORM) -> dict[str, str]:
    """Every widget of the form by name, with its class, in the form's order."""
    return {element.get("name"): element.get("class") for element in ElementTree.parse(path).iter("widget")}


def dark(app: QApplication) -> QPalette:
    """Sets a dark palette, like Slicer's dark style, and returns the former one."""
    former, palette = app.palette(), QPalette()
    for role, colour in ((QPalette.Window, "#353535"), (QPalette.WindowText, "white"), (QPalette.Base, "#232323"),
                         (QPalette.AlternateBase, "#2d2d2d"), (QPalette.Text, "white"), (QPalette.Button, "#353535"),
                         (QPalette.ButtonText, "white"), (QPalette.Link, "#61a8e8"), (QPalette.Highlight, "#2a82da"),
                         (QPalette.ToolTipBase, "#232323"), (QPalette.ToolTipText, "white"),
                         (QPalette.PlaceholderText, "#9a9a9a")):
        palette.setColor(role, QColor(colour))
    for role in (QPalette.Text, QPalette.ButtonText, QPalette.WindowText):
        palette.setColor(QPalette.Disabled, role, QColor("#7f7f7f"))
    app.setPalette(palette)
    return former


def picture(widget: QWidget, section: str, path: Path, width: int = 480) -> None:
    """Writes a picture (PNG) of one section, opened, at `width` pixels and the height that it wants."""
    app = application()
    for name in SECTIONS:
        one = widget.findChild(QWidget, name + "Section")
        one.setProperty("collapsed", name != section)
        one.setVisible(name == section)
    widget.show()
    one = widget.findChild(QWidget, section + "Section")
    for _ in range(3):  # labels that wrap know their height only once they have a width
        widget.resize(width, max(widget.sizeHint().height(), widget.heightForWidth(width)))
        app.processEvents()
    one.grab().save(str(path))
