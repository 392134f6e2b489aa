"""Slicer's scene and slice views without its window, for scripts: what a view would show.

The slices come from Slicer's own slice logic, and what lies over them from its own displayable
managers, drawn off-screen by VTK.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

_LOGICS = ("Color", "Markups", "Sequences", "Transform", "Volumes", "Plots", "Tables")


class Desktop:
    """A scene with the logics that the desktop has; keep it as long as the scene is used."""

    def __init__(self):
        self.scene = slicer.vtkMRMLScene()
        self.application = slicer.vtkSlicerApplicationLogic()
        self.application.SetMRMLScene(self.scene)
        self._logics = []  # they follow the scene only as long as somebody holds them
        for name in _LOGICS:
            logic = getattr(slicer, f"vtkSlicer{name}Logic")()
            logic.SetMRMLApplicationLogic(self.application)
            logic.SetMRMLScene(self.scene)
            self.application.SetModuleLogic(name, logic)
            self._logics.append(logic)
        self.slices = vtk.vtkCollection()  # of slice logics, in which colour bars look for layers
        self.application.SetSliceLogics(self.slices)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        slicer.mrmlScene = self.scene


class SliceView:
    """One slice view of a desktop's scene, named as its orientation."""

    def __init__(self, desktop: Desktop, orientation: str, size: tuple, field_of_view: tuple):
        """size: width and height in pixels; field_of_view: likewise, in mm."""
        self._application = desktop.application
        self._window = None
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(desktop.application)
        self.logic.SetMRMLScene(desktop.scene)
        self.logic.AddSliceNode(orientation)
        self.node = self.logic.GetSliceNode()
        self.node.SetOrientation(orientation)
        self.node.SetDimensions(*size, 1)
        self.node.SetFieldOfView(*field_of_view, 1)
        desktop.slices.AddItem(self.logic)

    def update(self) -> None:
        """Compute what the view shows of the volumes, as it does before it draws."""
        picture = self.logic.GetImageDataConnection()  # None as long as there is nothing to show
        if picture is not None:
            picture.GetProducer().Update()

    def picture(self) -> np.ndarray:
        """(height, width, 3) uint8, row 0 on top: the slice with the transforms drawn over it."""
        if self._window is None:
            self._open()
        self._window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.Update()
        width, height, _ = grab.GetOutput().GetDimensions()
        pixels = numpy_support.vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars())
        return pixels.reshape(height, width, 3)[::-1].copy()

    def _open(self) -> None:
        width, height, _ = self.node.GetDimensions()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetMultiSamples(8)  # smooth lines
        self._window.SetSize(width, height)
        self._interactor = vtk.vtkRenderWindowInteractor()  # the managers count on one
        self._interactor.SetRenderWindow(self._window)
        renderer = vtk.vtkRenderer()
        self._window.AddRenderer(renderer)
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        renderer.AddViewProp(actor)
        self._managers = slicer.vtkMRMLDisplayableManagerGroup()
        self._managers.SetRenderer(renderer)
        for manager in (
            slicer.vtkMRMLTransformsDisplayableManager2D(),
            slicer.vtkMRMLColorLegendDisplayableManager(),
        ):
            manager.SetMRMLApplicationLogic(self._application)
            self._managers.AddDisplayableManager(manager)
        self._managers.SetMRMLDisplayableNode(self.node)
