"""The stand-in for PythonQt behaves as PythonQt's sources say, and leaves PySide6 as it was."""

import ast

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 (Qt) is not installed")
pytest.importorskip("slicer", reason="slicer-core (Slicer's MRML) is not installed")

import panels
import pythonqt
from PySide6 import QtWidgets


@pytest.fixture
def ui():
    panels.application()
    with pythonqt.manners():
        widget = panels.load()
        names = panels.names(widget)
        names.form = widget
        yield names


def test_properties_are_attributes_and_their_getters_are_gone(ui):
    ui.setupLabel.text = "words"
    assert ui.setupLabel.text == "words" and ui.stepsSpinBox.value == 25 and ui.inputSection.collapsed is False
    with pytest.raises(TypeError):
        ui.setupLabel.text()
    with pytest.raises(AttributeError, match="not writable"):
        ui.setupLabel.rect = None
    ui.setupLabel.setText("setters stay")
    assert ui.setupLabel.text == "setters stay"
    import qt
    assert callable(qt.QTimer.singleShot) and qt.QTimer().singleShot is False


def test_receivers_get_no_more_arguments_than_they_take(ui):
    got = []
    pythonqt.connect(ui.stepsSpinBox, "valueChanged(int)", lambda: got.append("none"))
    pythonqt.connect(ui.stepsSpinBox, "valueChanged(int)", got.append)
    pythonqt.connect(ui.generateButton, "clicked()", lambda row=5: got.append(row))
    ui.stepsSpinBox.value = 7
    ui.generateButton.click()
    assert got == ["none", 7, 5]
    pythonqt.disconnect(ui.stepsSpinBox, "valueChanged(int)", got.append)
    ui.stepsSpinBox.value = 8
    assert got[3:] == ["none"]
    with pytest.raises(AttributeError, match="no signal"):
        pythonqt.connect(ui.generateButton, "pressedTwice()", got.append)


def test_attributes_that_no_widget_has_are_found(ui):
    assert pythonqt.invented(ui.form) == []
    ui.setupLabel.caption = "x"
    assert pythonqt.invented(ui.form) == ["setupLabel.caption"]


def test_calls_of_connect_are_redirected_and_others_left_alone():
    source = "button.connect('clicked()', go)\nbutton.clicked.connect(go)\nself.a.disconnect('x()', f)"
    changed = ast.unparse(pythonqt._Redirect().visit(ast.parse(source)))
    assert changed.splitlines() == ["_qt_connect(button, 'clicked()', go)", "button.clicked.connect(go)",
                                    "_qt_disconnect(self.a, 'x()', f)"]


def test_pyside_is_itself_again_afterwards():
    with pythonqt.manners():
        pass
    label = QtWidgets.QLabel("words")
    assert label.text() == "words" and label.isVisible() is False and callable(label.size)
