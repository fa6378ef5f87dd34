"""Stand-ins for the widgets of CTK in LNSynth.ui, for plain PySide6, which has none of their plugins.

They have the properties, signals and slots that CTK's headers declare and Python sees in Slicer (so no plain C++
methods), as far as the module could use them. They are drawn alike; what the real widgets do is tested in Slicer.
Qt's properties are read with property(...) here: pythonqt.py takes getters such as text() away, as PythonQt does.
"""

import enum
import warnings

from PySide6.QtCore import Property, QFlag, QRect, QSize, Qt, Signal, Slot
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QDoubleSpinBox,
    QGroupBox,
    QHBoxLayout,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOption,
    QStyleOptionButton,
    QStyleOptionGroupBox,
    QToolButton,
    QWidget,
)


def row(widget: QWidget, *parts: QWidget) -> None:
    """Lays the parts side by side; the first grows and takes the keyboard."""
    layout = QHBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(2)
    for part in parts:
        layout.addWidget(part, 1 if part is parts[0] else 0)
    widget.setFocusProxy(parts[0])


def stored(kind, name, value):
    """A property that only keeps what it is given; the widget's _changed, if it has one, hears of it."""
    def read(self):
        return self.__dict__.get("_" + name, value)

    def write(self, new):
        self.__dict__["_" + name] = new
        getattr(self, "_changed", lambda: None)()

    return Property(kind, read, write)


def passed(kind, part, name):
    """A property that a part of the widget holds."""
    return Property(kind, lambda self: getattr(self, part).property(name),
                    lambda self, value: getattr(self, part).setProperty(name, value))


def children_shown(widget: QWidget, shown: bool) -> None:
    """Shows or hides the children, except those that somebody else hid, before or meanwhile."""
    for child in widget.findChildren(QWidget, options=Qt.FindDirectChildrenOnly):
        if not (child.testAttribute(Qt.WA_WState_ExplicitShowHide) and child.testAttribute(Qt.WA_WState_Hidden)):
            child.setVisible(shown)
            child.setAttribute(Qt.WA_WState_ExplicitShowHide, False)


class ctkCollapsibleButton(QAbstractButton):
    contentsCollapsed = Signal(bool)
    collapsed = Property(bool, lambda self: not self.property("checked"),
                         lambda self, value: self.setProperty("checked", not value))
    collapsedHeight = stored(int, "collapsedHeight", 14)
    flat = stored(bool, "flat", False)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QSizePolicy.Minimum, QSizePolicy.Preferred)
        self.setContentsMargins(0, self._head().height(), 0, 0)
        self.toggled.connect(self._toggle)

    def _toggle(self, opened: bool) -> None:
        children_shown(self, opened)
        self.setMaximumHeight(16777215 if opened else self.sizeHint().height())
        self.updateGeometry()
        self.contentsCollapsed.emit(not opened)

    def _option(self) -> QStyleOptionButton:
        option = QStyleOptionButton()
        option.initFrom(self)
        option.text = self.property("text")
        option.state |= QStyle.State_Raised
        return option

    def _head(self) -> QSize:
        option = self._option()
        text = self.fontMetrics().size(Qt.TextShowMnemonic, option.text or "XXXX")
        return self.style().sizeFromContents(QStyle.CT_PushButton, option, text + QSize(20, 0), self)

    def sizeHint(self) -> QSize:
        closed = self._head() + QSize(0, self.collapsedHeight)
        return closed if self.collapsed else super().sizeHint().expandedTo(closed)

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint() if self.collapsed else super().minimumSizeHint().expandedTo(self._head())

    def hitButton(self, position) -> bool:
        return position.y() < self._head().height()

    def paintEvent(self, event) -> None:
        painter, option, height = QPainter(self), self._option(), self._head().height()
        option.rect = QRect(0, 0, self.property("width"), height)
        self.style().drawControl(QStyle.CE_PushButtonBevel, option, painter, self)
        arrow = QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QRect((height - 10) // 2, (height - 10) // 2, 10, 10)
        self.style().drawPrimitive(
            QStyle.PE_IndicatorArrowRight if self.collapsed else QStyle.PE_IndicatorArrowDown, arrow, painter, self)
        option.rect.setLeft(height)
        self.style().drawItemText(painter, option.rect, int(Qt.AlignLeft | Qt.AlignVCenter | Qt.TextShowMnemonic),
                                  option.palette, True, option.text, option.palette.ColorRole.ButtonText)


class ctkCollapsibleGroupBox(QGroupBox):
    collapsed = Property(bool, lambda self: not self.property("checked"),
                         lambda self, value: self.setProperty("checked", not value))
    collapsedHeight = stored(int, "collapsedHeight", 14)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._toggle)

    def _toggle(self, opened: bool) -> None:
        children_shown(self, opened)
        self.setMaximumHeight(16777215 if opened else 22)
        self.updateGeometry()

    def childEvent(self, event) -> None:
        """A checkable QGroupBox disables its children while it is off; here they are only hidden."""

    def paintEvent(self, event) -> None:
        painter, option = QPainter(self), QStyleOptionGroupBox()
        self.initStyleOption(option)
        option.subControls &= ~QStyle.SC_GroupBoxCheckBox
        option.text = "     " + option.text
        self.style().drawComplexControl(QStyle.CC_GroupBox, option, painter, self)
        arrow = QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QRect(6, 4, 10, 10)
        self.style().drawPrimitive(
            QStyle.PE_IndicatorArrowRight if self.collapsed else QStyle.PE_IndicatorArrowDown, arrow, painter, self)


class ctkDoubleSpinBox(QWidget):
    valueChanged = Signal(float)
    editingFinished = Signal()
    decimalsChanged = Signal(int)
    value = passed(float, "_box", "value")
    minimum = passed(float, "_box", "minimum")
    maximum = passed(float, "_box", "maximum")
    singleStep = passed(float, "_box", "singleStep")
    decimals = passed(int, "_box", "decimals")
    suffix = passed(str, "_box", "suffix")
    prefix = passed(str, "_box", "prefix")
    readOnly = passed(bool, "_box", "readOnly")
    cleanText = Property(str, lambda self: self._box.property("cleanText"))

    def __init__(self, parent=None):
        super().__init__(parent)
        self._box = QDoubleSpinBox()
        row(self, self._box)
        self._box.valueChanged.connect(self.valueChanged)
        self._box.editingFinished.connect(self.editingFinished)

    @Slot(float)
    def setValue(self, value: float) -> None:
        self._box.setValue(value)

    @Slot(int)
    def setDecimals(self, decimals: int) -> None:
        self._box.setDecimals(decimals)


class ctkSliderWidget(QWidget):
    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    value = passed(float, "_spin", "value")
    minimum = passed(float, "_spin", "minimum")
    maximum = passed(float, "_spin", "maximum")
    singleStep = passed(float, "_spin", "singleStep")
    pageStep = stored(float, "pageStep", 10.0)
    decimals = passed(int, "_spin", "decimals")
    suffix = passed(str, "_spin", "suffix")
    prefix = passed(str, "_spin", "prefix")
    tracking = stored(bool, "tracking", True)
    spinBoxVisible = stored(bool, "spinBoxVisible", True)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider, self._spin = QSlider(Qt.Horizontal), ctkDoubleSpinBox()
        row(self, self._slider, self._spin)
        self._spin.valueChanged.connect(self._moved)
        self._slider.valueChanged.connect(lambda value: self._spin.setValue(float(value)))

    def _moved(self, value: float) -> None:
        blocked = self._slider.blockSignals(True)
        self._slider.setRange(round(self.minimum), round(self.maximum))
        self._slider.setValue(round(value))
        self._slider.blockSignals(blocked)
        self.valueChanged.emit(value)

    @Slot()
    def reset(self) -> None:
        self._spin.setValue(0.0)

    @Slot(float)
    def setValue(self, value: float) -> None:
        self._spin.setValue(value)


with warnings.catch_warnings():  # PySide6 takes the flags' names for a moment before it knows them
    warnings.simplefilter("ignore", RuntimeWarning)

    class ctkPathLineEdit(QWidget):
        @QFlag
        class Filters(enum.Flag):
            Dirs, Files, Drives, NoSymLinks, Readable, Writable, Executable = 1, 2, 4, 8, 16, 32, 64
            Hidden, AllDirs, NoDotAndDotDot, NoDot, NoDotDot = 0x100, 0x400, 0x1000, 0x2000, 0x4000

        @QFlag
        class Options(enum.Flag):
            ShowDirsOnly, DontResolveSymlinks, ReadOnly = 1, 2, 32

        currentPathChanged = Signal(str)
        validInputChanged = Signal(bool)
        filters = stored("ctkPathLineEdit::Filters", "filters", None)
        options = stored("ctkPathLineEdit::Options", "options", None)
        label = stored(str, "label", "")
        settingKey = stored(str, "settingKey", "")
        nameFilters = stored("QStringList", "nameFilters", ())
        showBrowseButton = stored(bool, "showBrowseButton", True)
        showHistoryButton = stored(bool, "showHistoryButton", True)
        minimumContentsLength = stored(int, "minimumContentsLength", 0)
        currentPath = Property(str, lambda self: self._box.property("currentText"),
                               lambda self, value: self.setCurrentPath(value))

        def __init__(self, parent=None):
            super().__init__(parent)
            self._box = QComboBox()
            self._box.setEditable(True)
            self._box.setSizeAdjustPolicy(QComboBox.AdjustToMinimumContentsLengthWithIcon)
            self._box.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Fixed)
            browse = QToolButton()
            browse.setText("…")
            row(self, self._box, browse)
            self._box.editTextChanged.connect(self.currentPathChanged)

        def comboBox(self) -> QComboBox:
            return self._box

        @Slot(str)
        def setCurrentPath(self, path: str) -> None:
            self._box.setEditText(path)

        @Slot()
        def addCurrentPathToHistory(self) -> None:
            if self.currentPath and self._box.findText(self.currentPath) < 0:
                self._box.addItem(self.currentPath)

        @Slot()
        def retrieveHistory(self) -> None:
            pass

        @Slot()
        def browse(self) -> None:
            pass
