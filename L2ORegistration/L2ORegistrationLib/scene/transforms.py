"""Displacement fields as transform nodes and back; the one place where RAS meets LPS.

A registration's field says where to sample in moving for each point of fixed, which is a
transform node's *from parent* direction: nodes of the moving image go under the node.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid

SHEAR_TOLERANCE = 1e-3  # cosine between two axes, far above the rounding in file headers
_ROLES = {
    "fixed": slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole,
    "moving": slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole,
}


def ras_lps(values, out: np.ndarray | None = None) -> np.ndarray:
    """Points or vectors (..., 3) from RAS to LPS, or from LPS to RAS; a copy, of the same dtype.

    out: where to write it instead, an array of the same shape.
    """
    values = np.asarray(values)
    if out is None:
        out = np.empty_like(values)
    # One component at a time: ten times faster than multiplying by (-1, -1, 1).
    np.negative(values[..., 0], out=out[..., 0])
    np.negative(values[..., 1], out=out[..., 1])
    out[..., 2] = values[..., 2]
    return out


def ras_lps_matrix(matrix: np.ndarray) -> np.ndarray:
    """The 4x4 of a world-to-world transform, from one frame to the other."""
    flip = np.diag(np.append(ras_lps(np.ones(3)), 1.0))
    return flip @ matrix @ flip


def grid_of_matrix(ijk_to_ras: np.ndarray, size, name: str = "This grid") -> Grid:
    """The Grid of `size` voxels (x, y, z) whose 4x4 index-to-RAS matrix is given.

    Raises InputError when the axes are not perpendicular or one of them has no length.
    """
    axes = ras_lps(np.asarray(ijk_to_ras, float)[:3].T).T  # 3x4, the rows now LPS
    spacing = np.linalg.norm(axes[:, :3], axis=0)
    if not np.isfinite(axes).all() or spacing.min() < 1e-9:
        raise InputError(f"{name} has no valid geometry: check its spacing and directions.")
    direction = axes[:, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > SHEAR_TOLERANCE:
        raise InputError(
            f"{name} is sheared (its axes are not perpendicular): resample it on a rectangular "
            "grid first, for instance with Crop Volume and interpolation switched on."
        )
    return Grid(size, spacing, axes[:, 3], direction)


def ijk_to_ras(grid: Grid) -> np.ndarray:
    """4x4, from index (x, y, z) to RAS mm."""
    matrix = grid.matrix
    matrix[:3] = ras_lps(matrix[:3].T).T
    return matrix


def set_field(node, field: DisplacementField) -> None:
    """Make the transform node this field: from parent, float32, linear, on the field's own grid."""
    grid = field.grid
    image = vtk.vtkImageData()
    image.SetDimensions(grid.size)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(ras_lps(grid.origin))
    image.AllocateScalars(vtk.VTK_FLOAT, 3)
    vectors = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    ras_lps(field.array, out=vectors.reshape(field.array.shape))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetGridDirectionMatrix(
        matrix_to_vtk(ijk_to_ras(Grid(grid.size, direction=grid.direction)))
    )
    transform.SetDisplacementGridData(image)
    transform.SetInterpolationModeToLinear()
    node.SetAndObserveTransformFromParent(transform)


def displacement_grid(node):
    """The node's vtkOrientedGridTransform where it is one displacement grid, else None."""
    transform = node.GetTransformFromParent()
    if not isinstance(transform, slicer.vtkOrientedGridTransform) or transform.GetInverseFlag():
        return None
    return transform if transform.GetDisplacementGrid() else None


def field_of(node, grid: Grid | None = None) -> DisplacementField:
    """The motion fixed -> moving of a transform node, its parents included.

    grid: None for a node that is one displacement grid (its own nodes are returned exactly), else
    where to sample any transform. Raises InputError when a grid is needed and not given.
    """
    if grid is not None:
        return _sampled(node, grid)
    parent = node.GetParentTransformNode()
    if parent is not None:
        raise InputError(
            f"'{node.GetName()}' is under the transform '{parent.GetName()}', which would count "
            "beside it: take it out, in the Transforms module."
        )
    transform = displacement_grid(node)
    if transform is None:
        raise InputError(
            f"'{node.GetName()}' is not a single displacement grid: convert it in the Transforms "
            "module (Convert) or give the grid to sample it on."
        )
    image = transform.GetDisplacementGrid()
    matrix = np.eye(4)
    if transform.GetGridDirectionMatrix():
        matrix = matrix_of(transform.GetGridDirectionMatrix())
    matrix[:3, :3] *= image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    size = image.GetDimensions()
    vectors = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    vectors = vectors * transform.GetDisplacementScale() + transform.GetDisplacementShift()
    array = ras_lps(vectors).astype(np.float32).reshape(*size[::-1], 3)
    return DisplacementField(array, grid_of_matrix(matrix, size))


def set_role(node, role: str, image) -> None:
    """Note the "fixed" or "moving" node (None: no longer), as the Transforms module shows it."""
    node.SetNodeReferenceID(_ROLES[role](), image.GetID() if image else None)


def roles(node) -> tuple:
    """(fixed, moving) nodes of a registration transform; None for one that is gone."""
    return tuple(node.GetNodeReference(_ROLES[role]()) for role in ("fixed", "moving"))


def world_matrix(node, below=None) -> np.ndarray:
    """4x4 RAS, from a transformable node's own coordinates to the world, or to `below`'s.

    below: a transform node that is read as the identity (the one that is about to be replaced).
    Raises InputError under a non-linear transform.
    """
    parent = node.GetParentTransformNode()
    matrix = vtk.vtkMatrix4x4()
    if parent is None or parent is below:
        return np.eye(4)
    target = below if is_under(node, below) else None
    if not parent.IsTransformToNodeLinear(target):
        raise InputError(
            f"'{node.GetName()}' is under the non-linear transform '{parent.GetName()}': harden "
            "that transform on it, or take it out, in the Transforms module."
        )
    parent.GetMatrixTransformToNode(target, matrix)
    return matrix_of(matrix)


def is_under(node, transform) -> bool:
    """Whether `transform` is among the parents of the node."""
    parent = node.GetParentTransformNode()
    while parent is not None:
        if parent is transform:
            return True
        parent = parent.GetParentTransformNode()
    return False


def matrix_of(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """4x4 numpy copy of a vtkMatrix4x4."""
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


def matrix_to_vtk(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    """vtkMatrix4x4 of a 4x4 numpy array."""
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, float).ravel())
    return result


def _sampled(node, grid: Grid) -> DisplacementField:
    """The motion of any transform node, its parents included, at the nodes of a grid."""
    transform = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(transform)
    points = ras_lps(grid.points().reshape(-1, 3))
    before, after = vtk.vtkPoints(), vtk.vtkPoints()
    before.SetData(numpy_support.numpy_to_vtk(points))
    after.SetDataTypeToDouble()
    transform.TransformPoints(before, after)
    motion = numpy_support.vtk_to_numpy(after.GetData()) - points
    return DisplacementField(ras_lps(motion).astype(np.float32).reshape(*grid.shape, 3), grid)
