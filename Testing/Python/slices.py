"""Slice views without a window: what Slicer shows of a scene, as pictures. For tests and for the pictures of the docs.

Slicer's own logic makes the image and its own displayable managers draw the segmentations; only the Qt widget around
them is missing. VTK renders through EGL or OSMesa where there is no display.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

MANAGERS = ("vtkMRMLModelSliceDisplayableManager", "vtkMRMLSegmentationsDisplayableManager2D",
            "vtkMRMLCrosshairDisplayableManager")


class SliceViews:
    """The layout and slice views of a scene, as the application keeps them."""

    def __init__(self, scene):
        self.scene = scene
        self.application = slicer.vtkMRMLApplicationLogic()
        colors = slicer.vtkMRMLColorLogic()
        colors.SetMRMLScene(scene)
        self.application.SetColorLogic(colors)
        self.logics = vtk.vtkCollection()
        self.application.SetSliceLogics(self.logics)
        self.application.SetMRMLScene(scene)
        self.layout = slicer.vtkMRMLLayoutLogic()  # makes the views that the layout node asks for
        self.layout.SetMRMLScene(scene)
        self.links = slicer.vtkMRMLSliceLinkLogic()  # passes on what is done in one view to those linked with it
        self.links.SetMRMLApplicationLogic(self.application)
        self.links.SetMRMLScene(scene)
        self._views = {}

    @property
    def layout_node(self):
        return self.layout.GetLayoutNode()

    def view(self, name: str, size: tuple[int, int] = (300, 300)) -> SliceView:
        """The view with the layout name `name`, made at its first use with a size of width x height pixels."""
        if name not in self._views:
            self._views[name] = SliceView(self, name, size)
        return self._views[name]


class SliceView:
    """One slice view: its nodes, its logic, and its picture."""

    def __init__(self, views: SliceViews, name: str, size: tuple[int, int]):
        self.node = views.scene.GetNodeByID(f"vtkMRMLSliceNode{name}")
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(views.application)
        self.logic.SetMRMLScene(views.scene)
        self.logic.SetSliceNode(self.node)
        self.logic.ResizeSliceNode(*size)
        views.logics.AddItem(self.logic)
        self.composite = self.logic.GetSliceCompositeNode()
        self.renderer = vtk.vtkRenderer()
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetMultiSamples(0)
        self._window.SetSize(*size)
        self._window.AddRenderer(self.renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._window.SetInteractor(self._interactor)
        mapper = vtk.vtkImageMapper()  # as ctkVTKSliceView draws it
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(self._image)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(views.application)
        for manager in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self._managers = factory.InstantiateDisplayableManagers(self.renderer)
        self._managers.SetMRMLDisplayableNode(self.node)

    def picture(self) -> np.ndarray:
        """uint8 (height, width, 3), the first row at the top."""
        connection = self.logic.GetImageDataConnection()
        self._image.SetVisibility(connection is not None)
        self._image.GetMapper().SetInputConnection(connection)
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        image = grabber.GetOutput()
        width, height, _ = image.GetDimensions()
        pixels = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        return pixels.reshape(height, width, -1)[::-1, :, :3].copy()

    def pixel(self, ras) -> tuple[int, int]:
        """Row and column in `picture` of the point (mm, RAS) as seen from the viewer."""
        matrix = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), matrix)
        x, y, *_ = matrix.MultiplyPoint((*ras, 1.0))
        return self.node.GetDimensions()[1] - 1 - round(y), round(x)


def side_by_side(rows: list[list[np.ndarray]], gap: int = 4) -> np.ndarray:
    """Pictures of equal size a row, with thin grey lines between."""
    def joined(pictures, axis):
        line = list(pictures[0].shape)
        line[axis] = gap
        between = np.full(line, 96, np.uint8)
        return np.concatenate([part for picture in pictures for part in (between, picture)][1:], axis)

    return joined([joined(row, 1) for row in rows], 0)
