"""Connects a path line of the form to a text parameter, which parameterNodeWrapper does for pathlib paths only.

A Path cannot say "none chosen": Path("") is the current folder.
"""

import ctk
from slicer.parameterNodeWrapper import GuiConnector, parameterNodeGuiConnector, unannotatedType


@parameterNodeGuiConnector
class PathLineToText(GuiConnector):
    @staticmethod
    def canRepresent(widget, datatype) -> bool:
        return type(widget) is ctk.ctkPathLineEdit and unannotatedType(datatype) is str

    @staticmethod
    def create(widget, datatype):
        return PathLineToText(widget) if PathLineToText.canRepresent(widget, datatype) else None

    def __init__(self, widget):
        super().__init__()
        self._widget = widget

    def _connect(self) -> None:
        self._widget.connect("currentPathChanged(QString)", self.changed)

    def _disconnect(self) -> None:
        self._widget.disconnect("currentPathChanged(QString)", self.changed)

    def widget(self):
        return self._widget

    def read(self) -> str:
        return self._widget.currentPath

    def write(self, value: str) -> None:
        if value != self._widget.currentPath:  # writing moves the cursor to the end
            self._widget.currentPath = value
