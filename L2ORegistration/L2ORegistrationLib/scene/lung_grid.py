"""The deformation grid drawn near the lungs only.

Slicer's own grid fills the whole slice and cannot be told where to end. Here planes of the moving
scan, cut off around its lungs, are models under the output transform: Slicer bends them with
it, whatever iteration it shows, and draws where a slice meets them.
"""

from __future__ import annotations

import numpy as np
import vtk
from vtk.util import numpy_support

from ..core.geometry import Volume
from . import nodes, transforms
from .tasks import Task

SPACING_MM = 12.0  # between the lines
_STEP_MM = 6.0  # between the corners of a plane, which are bent one by one
_MARGIN_MM = 12.0
_COLOURS = [(0.95, 0.85, 0.4), (0.55, 0.75, 0.45), (0.4, 0.75, 0.75)]  # across x, y and z
_POINTS = 40_000


def lung_grid_task(transform, lungs: Volume) -> Task:
    """LungGrid of an output transform; lungs: mask in the fixed scan, not empty."""
    field = transforms.field_of(transform)

    def compute() -> list:
        moved = field.transform_points(lungs.marked_points(most=_POINTS))
        near, origin = _near(transforms.ras_lps(moved))
        return [_planes(near, origin, axis) for axis in range(3)]

    return Task(compute, lambda planes: LungGrid(transform, planes), (transform,))


class LungGrid:
    """Three models, planes across each axis of the world; remove() takes them away again."""

    def __init__(self, transform, planes: list):
        """planes: of each axis, corners (N, 3), RAS mm, and the four of each square (M, 4)."""
        self.models = []
        for axis in range(3):
            name = f"{transform.GetName()} grid {'RAS'[axis]}"
            model = nodes.unique(transform.GetScene(), "vtkMRMLModelNode", name)
            model.SetSaveWithScene(False)
            model.SetHideFromEditors(True)
            model.SetAndObservePolyData(_mesh(*planes[axis]))
            model.CreateDefaultDisplayNodes()
            display = model.GetDisplayNode()
            display.SetSaveWithScene(False)
            display.SetVisibility3D(False)  # cluttered and slow
            display.SetVisibility2D(True)
            display.SetColor(*_COLOURS[axis])
            display.SetSliceIntersectionThickness(1)
            self.models.append(model)
        self.put_under(transform)
        self.follow_views()

    def follow_views(self) -> None:
        """Draw in each slice view the planes that it cuts, not those that it lies along."""
        views = nodes.of_class(self.models[0].GetScene(), "vtkMRMLSliceNode")
        for axis, model in enumerate(self.models):
            display = model.GetDisplayNode()
            display.RemoveAllViewNodeIDs()
            for view in views:
                if abs(view.GetSliceToRAS().GetElement(axis, 2)) < 0.7:
                    display.AddViewNodeID(view.GetID())
            if views and not display.GetNumberOfViewNodeIDs():
                display.AddViewNodeID("none")  # an empty list means all views

    def put_under(self, transform) -> None:
        """Let this transform bend it, such as the one that shows a part of the motion."""
        for model in self.models:
            model.SetAndObserveTransformNodeID(transform.GetID())

    def remove(self) -> None:
        """Take the models out of the scene; fine after that was closed, too."""
        nodes.remove(*self.models)


def _near(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells (x, y, z) of _STEP_MM within the margin of points (N, 3), bool, and their corner."""
    from scipy import ndimage

    reach = int(np.ceil(_MARGIN_MM / _STEP_MM))
    first = np.floor(points.min(axis=0) / SPACING_MM) * SPACING_MM - 2 * SPACING_MM
    index = np.floor((points - first) / _STEP_MM).astype(int)
    cells = np.zeros(index.max(axis=0) + 1 + 2 * reach + int(SPACING_MM // _STEP_MM), bool)
    cells[tuple(index.T)] = True
    ball = ndimage.generate_binary_structure(3, 2)
    return ndimage.binary_dilation(cells, ball, iterations=reach), first


def _planes(near: np.ndarray, origin: np.ndarray, axis: int) -> tuple:
    """Squares across an axis every SPACING_MM, of the cells beside them: corners and squares."""
    every = int(SPACING_MM // _STEP_MM)
    kept = np.zeros_like(near)
    chosen = [slice(None)] * 3
    chosen[axis] = slice(None, None, every)
    kept[tuple(chosen)] = near[tuple(chosen)]
    cells = np.argwhere(kept)
    u, v = [np.eye(3, dtype=int)[k] for k in range(3) if k != axis]
    corners = cells[:, None] + np.array([0 * u, u, u + v, v])  # (N, 4, 3)
    shape = np.array(near.shape) + 1
    flat, number = np.unique(
        np.ravel_multi_index(corners.reshape(-1, 3).T, shape), return_inverse=True
    )
    unique = np.transpose(np.unravel_index(flat, shape))
    return origin + unique * _STEP_MM, number.reshape(-1, 4)


def _mesh(corners: np.ndarray, squares: np.ndarray) -> vtk.vtkPolyData:
    points, cells, mesh = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkPolyData()
    points.SetData(numpy_support.numpy_to_vtk(np.ascontiguousarray(corners, float), deep=True))
    offsets = np.arange(0, squares.size + 1, 4, dtype=np.int64)
    cells.SetData(
        numpy_support.numpy_to_vtkIdTypeArray(offsets, deep=True),
        numpy_support.numpy_to_vtkIdTypeArray(
            np.ascontiguousarray(squares.ravel(), np.int64), deep=True
        ),
    )
    mesh.SetPoints(points)
    mesh.SetPolys(cells)
    return mesh
