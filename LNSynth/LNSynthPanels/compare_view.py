"""Source and synthetic CT side by side: the layout, its banners, the blend slider and the flicker key."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import qt
import slicer
import vtk
from LNSynthLogic import compare_layout, node_table, samples, volumes
from LNSynthLogic.synthetic import SYNTHETIC
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from LNSynthLib.runtime.errors import LNSynthError

from .keys import Keys

CLOSE_MM = 240.0   # width of a view around a node: one of 10 mm is seen, and so is what lies around it
FLICKER_KEY = "S"  # Source and Synthetic; B is Slicer's own for the previous slice


class CompareView(VTKObservationMixin):
    """`show` is for whoever has a synthetic CT to show; all else follows the parameters and the layout."""

    def __init__(self, host):
        VTKObservationMixin.__init__(self)
        self.host, self.ui = host, host.ui
        self._banners, self._equal, self._windows = {}, None, ()
        self._chosen, self._look_at = None, None
        self._framed = self._entered = False
        self._keys = Keys(host, {FLICKER_KEY: self._flicker})
        ui = self.ui
        ui.syntheticSelector.addAttribute("vtkMRMLScalarVolumeNode", SYNTHETIC, "1")
        ui.compareButton.connect("clicked()", self._toggle)
        ui.flickerButton.connect("clicked()", self._flicker)
        ui.blendSlider.connect("valueChanged(double)", self._blend)

    def show(self, synthetic, synthetic_nodes, real=None, real_nodes=None, look_at=None) -> None:
        """Opens the layout with these nodes of the scene; `compare_layout.show` says what each is.

        look_at  RAS (mm) to bring into the middle; None: what is seen stays in view
        """
        scene, p = self.host.scene, self.host.parameters
        p.synthetic = synthetic
        self._chosen, self._look_at = (p.ct, p.synthetic), look_at
        compare_layout.open_layout(scene)
        compare_layout.show(scene, real, synthetic, real_nodes, synthetic_nodes, p.blend)
        self._follow()
        if look_at is not None:
            node_table.jump(scene, look_at)

    def source_nodes(self):
        """The segmentation to outline on the source CT: its nodes as they are in it, else those that are wanted."""
        p = self.host.parameters
        return p.keptNodes if p.nodesInCT and p.keptNodes is not None else p.nodes

    def source(self, synthetic, folder):
        """The chosen CT where a synthetic one (volume of the library; folder of its sample or None) is of it, or None.
        """
        ct = self.host.parameters.ct
        with suppress(LNSynthError):  # a CT that cannot be exported: nothing was made from it
            if ct is not None and ct.GetImageData() is not None and samples.is_source(
                    ct, synthetic, folder, self.host.export_ct):
                return ct
        return None

    def refresh(self) -> None:
        p, ui = self.host.parameters, self.ui
        if p is None:
            self._release()
            return
        is_open, chosen = self._is_open(), (p.ct, p.synthetic)
        if is_open and chosen != self._chosen and p.synthetic is not None:
            self._open()
        self._chosen = chosen if is_open else None
        self._follow()
        missing = "" if is_open else compare_layout.what_is_missing(p.ct, p.synthetic)
        self.host.set_ready(ui.compareButton, missing, _(
            "Source CT left, synthetic CT right: same slice, zoom and window. Click again for the former layout."))
        can_blend = "" if is_open and None not in compare_layout.compared(self.host.scene) else _(
            "Put source and synthetic CT side by side first.")
        self.host.set_ready(ui.flickerButton, can_blend, _(
            "Changes between the source and the synthetic CT on the right (key {key}).").format(key=FLICKER_KEY))
        ui.blendSlider.enabled = not can_blend
        ui.flickerButton.checked = not can_blend and p.blend <= 50
        ui.compareButton.checked = is_open

    def enter(self) -> None:
        self._entered = True
        self.refresh()

    def exit(self) -> None:
        self._entered = False
        self._keys.use(False)

    def close(self) -> None:
        self._release()
        self._keys.close()

    # What people do

    def _toggle(self) -> None:
        if self._is_open():
            compare_layout.close_layout(self.host.scene)
        else:
            self._open()
        self.refresh()

    def _open(self) -> None:
        p, real = self.host.parameters, self.host.parameters.ct
        folder = p.synthetic.GetAttribute(samples.SAMPLE)
        if folder and Path(folder).is_dir() and self.source(volumes.volume_of(p.synthetic), folder) is None:
            real = None
            self.host.say(_("{name} was not made from the selected CT, so it is shown alone.").format(
                name=p.synthetic.GetName()))
        self.show(p.synthetic, samples.nodes_of(p.synthetic), real, self.source_nodes())

    @staticmethod
    def _first_node(synthetic):
        """RAS of the first node to look at; None where there is none or the packages to tell are not installed."""
        with suppress(LNSynthError, ImportError):
            nodes = samples.nodes_of(synthetic)
            ids = samples.nodes_to_look_at(nodes) if nodes is not None else []
            return compare_layout.center_of(nodes, ids[0], synthetic) if ids else None

    def _flicker(self) -> None:
        p = self.host.parameters
        if p is not None and self._is_open():
            p.blend = compare_layout.flicker(p.blend)
            self._blend(p.blend)
        self.refresh()

    def _blend(self, percent: float) -> None:
        if self._is_open():
            compare_layout.set_blend(self.host.scene, percent)

    # What follows

    def _is_open(self) -> bool:
        return compare_layout.is_open(self.host.scene)

    def _follow(self) -> None:
        """Observers, banners, windows and keys for the layout as it is now."""
        scene = self.host.scene
        if compare_layout.was_left(scene):
            compare_layout.close_layout(scene)
        self._observe()
        if not self._is_open():
            self._forget_views()
            self._framed = False
        else:
            self._keep_windows_equal()
            self._show_banners()
            if not self._framed:
                self._framed = True
                qt.QTimer.singleShot(0, self._frame)  # views know their size once the layout has been drawn
        self._keys.use(self._entered and self._is_open())

    def _observe(self) -> None:
        scene = self.host.scene
        wanted = [compare_layout.layout_node(scene)]
        if self._is_open():
            wanted += [compare_layout.composite_node(scene, name) for name in compare_layout.VIEWS]
        for node in wanted:
            if node is not None and not self.hasObserver(node, vtk.vtkCommand.ModifiedEvent, self._changed):
                self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._changed)

    def _changed(self, caller, event) -> None:
        """The layout, or what a view shows: also by Slicer's own controls (its key T, the slider of a slice view)."""
        if caller.IsA("vtkMRMLLayoutNode"):
            self.host.refresh_soon()
            return
        if not self._is_open():
            return
        self._show_banners()
        p, percent = self.host.parameters, compare_layout.blend(self.host.scene)
        if p is not None and None not in compare_layout.compared(self.host.scene) and abs(p.blend - percent) > 0.5:
            p.blend = percent

    def _keep_windows_equal(self) -> None:
        pair = compare_layout.compared(self.host.scene)
        if pair != self._windows:
            if self._equal is not None:
                self._equal.close()
            self._equal, self._windows = None, pair
            if None not in pair:
                self._equal = compare_layout.EqualWindows(*pair)

    def _show_banners(self) -> None:
        manager = slicer.app.layoutManager()
        for name in compare_layout.VIEWS:
            widget = manager.sliceWidget(name) if manager is not None else None
            if widget is None:
                continue
            view = widget.sliceView()
            renderer = view.renderWindow().GetRenderers().GetItemAsObject(0)
            if name not in self._banners or self._banners[name].renderer is not renderer:
                self._banners[name] = compare_layout.Banner(renderer)
            self._banners[name].show(*compare_layout.banner_text(self.host.scene, name))
            view.scheduleRender()

    def _frame(self) -> None:
        """Fits the views to the synthetic CT, with a node of it in the middle."""
        scene, logic = self.host.scene, slicer.app.applicationLogic()
        volume = compare_layout.compared(scene)[1] if self._is_open() else None
        if volume is None:
            return
        logics = [logic.GetSliceLogicByLayoutName(name) for name in compare_layout.VIEWS]
        point = self._look_at or self._first_node(volume)
        if None not in logics:
            compare_layout.frame(logics, volume, np.inf if point is None else CLOSE_MM)
        if point is not None:
            node_table.jump(scene, point)

    def _forget_views(self) -> None:
        if self._equal is not None:
            self._equal.close()
        self._equal, self._windows = None, ()
        for banner in self._banners.values():
            banner.close()
        self._banners = {}

    def _release(self) -> None:
        self._forget_views()
        self.removeObservers()
        self._chosen, self._framed = None, False
        self._keys.use(False)
