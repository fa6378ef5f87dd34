"""The form of the module: it loads in Qt's own loader, it is complete for people who use the keyboard or read tooltips,
and the module uses only names, properties, signals and slots that it has."""

import ast
import re
import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 (Qt) is not installed")
pytest.importorskip("slicer", reason="slicer-core (Slicer's MRML) is not installed")

import mrml
import panels
import ui_use
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton, QLabel, QWidget

MODULE = panels.ROOT / "LNSynth"
SOURCES = [MODULE / "LNSynth.py", *sorted((MODULE / "LNSynthPanels").glob("*.py"))]
FORM = ElementTree.parse(panels.FORM)
CLASSES = panels.form_names()
PARAMETER = "SlicerParameterName"
# What guiConnectors.py of Slicer 5.10 and 5.12 connects (path lines: LNSynthPanels/path_connector.py).
CONNECTORS = {"QCheckBox": "bool", "QSpinBox": "int", "ctkSliderWidget": "float", "QLineEdit": "str",
              "ctkPathLineEdit": "str", "qMRMLNodeComboBox": "vtkMRML"}
INTERACTIVE = {"QPushButton", "QCheckBox", "QComboBox", "QSpinBox", "QLineEdit", "QTableWidget", "ctkDoubleSpinBox",
               "ctkPathLineEdit", "ctkSliderWidget", "qMRMLNodeComboBox", "qMRMLSegmentEditorWidget"}
MENUS = set("fevh")  # Slicer's own File, Edit, View and Help


@pytest.fixture(scope="module")
def form():
    return panels.load()


def text_of(element, name):
    for one in element.findall("property"):
        if one.get("name") == name:
            return "".join(one.itertext()).strip()
    return None


def widgets():
    return list(FORM.iter("widget"))


def test_it_loads_and_every_widget_has_the_class_that_it_names(form):
    for name, kind in CLASSES.items():
        widget = form if name == "LNSynth" else form.findChild(QWidget, name)
        assert widget is not None and type(widget).__name__ == kind, name
    assert len(CLASSES) == len(widgets()), "two widgets share a name"


def test_a_fault_in_the_form_is_noticed(tmp_path):
    text = panels.FORM.read_text(encoding="utf-8")
    for right, fault in (("setMRMLScene(vtkMRMLScene*)", "setScene(vtkMRMLScene*)"),
                         ("ctkPathLineEdit::Dirs|", "ctkPathLineEdit::Folders|"),
                         ('class="QSpinBox"', 'class="QSpinBocks"')):
        (tmp_path / "fault.ui").write_text(text.replace(right, fault), encoding="utf-8")
        with pytest.raises(RuntimeError):
            panels.load(tmp_path / "fault.ui")


def test_every_mrml_widget_is_given_the_scene(form):
    mrml = [name for name, kind in CLASSES.items() if kind.startswith("qMRML") and name != "LNSynth"]
    assert sorted(panels.scene_receivers()) == sorted(mrml)


def test_custom_widgets_name_their_headers():
    declared = {one.findtext("class"): one.findtext("header") for one in FORM.iter("customwidget")}
    assert declared == {kind: kind + ".h" for kind in set(CLASSES.values()) if kind in panels.STAND_INS}


def test_tooltips_and_names_say_what_a_widget_is_for():
    for element in widgets():
        kind, name = element.get("class"), element.get("name")
        if kind in INTERACTIVE - {"qMRMLSegmentEditorWidget"} | {"ctkCollapsibleButton", "ctkCollapsibleGroupBox"}:
            assert len(text_of(element, "toolTip") or "") > 15, f"{name} has no tooltip"
        if kind in INTERACTIVE | {"QProgressBar", "QPlainTextEdit"} and not text_of(element, "text"):
            buddies = [one for one in widgets() if text_of(one, "buddy") == name]
            assert text_of(element, "accessibleName") or buddies, f"{name} has no name for a screen reader"


def test_labels_lead_to_the_fields_beside_them(form):
    for element in widgets():
        buddy = text_of(element, "buddy")
        if buddy is not None:
            assert form.findChild(QLabel, element.get("name")).buddy() is form.findChild(QWidget, buddy)


def test_mnemonics_are_unique_in_each_section_and_leave_the_menus_alone(form):
    heads = [form.findChild(QAbstractButton, name + "Section") for name in panels.SECTIONS]
    numbers = [re.search("&(.)", head.text()) for head in heads]
    assert [found[1] for found in numbers if found] == list("1234567")
    for head in heads:
        texts = [child.text() for kind in (QAbstractButton, QLabel) for child in head.findChildren(kind)]
        keys = [key.lower() for text in texts for key in re.findall("&([^&])", text)]
        assert len(keys) == len(set(keys)), (head.text(), sorted(keys))
        assert not MENUS & set(keys), head.text()


def test_the_keyboard_walks_through_the_form_from_top_to_bottom(form):
    order, widget = [], form.nextInFocusChain()
    while widget is not form:
        kind = CLASSES.get(widget.objectName())
        if kind in INTERACTIVE:
            order.append(widget.objectName())
        stops = bool(widget.focusPolicy().value & Qt.TabFocus.value)
        assert kind != "QLabel" or stops == (widget.objectName() == "helpLabel"), "text is no stop, a link is"
        widget = widget.nextInFocusChain()
    assert order == [name for name, kind in CLASSES.items() if kind in INTERACTIVE]


def test_only_setup_and_input_are_open_at_the_start(form):
    opened = [name for name in panels.SECTIONS if not form.findChild(QWidget, name + "Section").property("collapsed")]
    assert opened == ["setup", "input", "job"]


@pytest.mark.parametrize("width", [400, 600])
def test_it_fits_the_module_panel_however_long_names_are(form, scene, width):
    for name in panels.SECTIONS:
        form.findChild(QWidget, name + "Section").setProperty("collapsed", False)
    node = mrml.add_nodes(scene, mrml.add_ct(scene), name="A name that a scanner gave " * 8)
    form.setMRMLScene(scene)
    for name in ("ctSelector", "nodesSelector"):
        form.findChild(QWidget, name).setCurrentNodeIndex(0)
    assert form.findChild(QWidget, "nodesSelector").currentNode() is node
    assert form.minimumSizeHint().width() <= width


def parameters() -> dict[str, str]:
    tree = ast.parse((MODULE / "LNSynthPanels" / "parameter_node.py").read_text(encoding="utf-8"))
    return {node.target.id: ast.unparse(node.annotation) for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)}


def test_parameter_names_fit_the_parameter_node_and_slicer_connects_such_widgets():
    kinds, seen = parameters(), []
    for element in widgets():
        name = text_of(element, PARAMETER)
        if name is None:
            continue
        connected = CONNECTORS[element.get("class")]
        assert connected in kinds[name], f"{element.get('name')}: {kinds[name]}"
        if connected == "vtkMRML":
            assert kinds[name] == text_of(element, "nodeTypes")
        if element.get("class") in ("QSpinBox", "ctkSliderWidget"):  # without a range Slicer refuses or removes it
            low, high = re.search(r"WithinRange\((\d+), (\d+)\)", kinds[name]).groups()
            assert (float(text_of(element, "minimum")), float(text_of(element, "maximum"))) == (float(low), float(high))
        seen.append(name)
    assert len(seen) == len(set(seen)), "connectGui takes one widget a parameter"


def module_uses():
    return [use for path in SOURCES for use in ui_use.uses(path, CLASSES)]


def test_the_module_uses_what_the_form_has():
    faults = []
    for use in module_uses():
        if use.widget not in CLASSES:
            faults.append(f"{use.where}: the form has no {use.widget}")
        elif fault := ui_use.wrong(use, CLASSES[use.widget]):
            faults.append(fault)
    assert not faults, "\n".join(faults)


def test_every_widget_that_people_can_use_is_used():
    used = {use.widget for use in module_uses()}
    idle = [element.get("name") for element in widgets() if element.get("class") in INTERACTIVE
            and element.get("name") not in used and text_of(element, PARAMETER) is None]
    labels = [name for name, kind in CLASSES.items() if kind == "QLabel" and name.endswith(("Status", "Warning"))
              and name not in used]
    assert not idle + labels


SLIPS = '''
class Panel:
    def __init__(self, host):
        ui = self.ui = host.ui
        self.spin = ui.stepsSpinBox
        ui.generateButton.connect("clicked()", self.go)
        ui.noSuchButton.enabled = True
        ui.setupLabel.text()
        ui.setupLabel.caption = "x"
        self.spin.value()
        combo = self.ui.modeSelector
        combo.currentIndex()
        ui.inputSection.setCollapsed(True)
        ui.generateButton.connect("pushed()", self.go)
        ui.generateButton.tapped.connect(self.go)
        ui.generateButton.clicked.connect(lambda row=1: self.go(row))
        ui.setupLabel.text = "right"
        self.spin.setValue(ui.seedSpinBox.value)
'''


def test_slips_are_found(tmp_path):
    (tmp_path / "slips.py").write_text(SLIPS, encoding="utf-8")
    found = ui_use.uses(tmp_path / "slips.py", CLASSES)
    lines = sorted(int(use.where.split(":")[1]) for use in found
                   if use.widget not in CLASSES or ui_use.wrong(use, CLASSES[use.widget]))
    assert lines == [7, 8, 9, 10, 12, 13, 14, 15, 16]
