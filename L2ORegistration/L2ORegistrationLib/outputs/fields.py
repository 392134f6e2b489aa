"""Any transform as a displacement field: on its own nodes, or sampled on others."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid

SAMPLED_MM, LINEAR_MM = 2.0, 20.0  # between the nodes on which other transforms are sampled
NO_GRID = "This transform has no grid of its own: name the fixed image with --reference."


def own_field(transform: sitk.Transform) -> DisplacementField | None:
    """The transform's displacement field, where it is nothing but that."""
    while transform.GetTransformEnum() == sitk.sitkComposite:
        composite = sitk.CompositeTransform(transform)
        if composite.GetNumberOfTransforms() != 1:
            return None
        transform = composite.GetNthTransform(0)
    if transform.GetTransformEnum() != sitk.sitkDisplacementField:
        return None
    return DisplacementField.of_image(
        sitk.DisplacementFieldTransform(transform).GetDisplacementField()
    )


def as_field(
    transform: sitk.Transform,
    over: Grid | np.ndarray | None = None,
    missing: str = NO_GRID,
    spacing: float | None = None,
) -> DisplacementField:
    """A transform as a field: on its own nodes where it has some, else on nodes `over` a place.

    over: an image's grid, or points (N, 3), LPS mm; spacing: of these nodes, mm, by default
    SAMPLED_MM, and LINEAR_MM for linear transforms, which need no more. Raises InputError, saying
    what is `missing`, for a transform without nodes and without a place.
    """
    own = own_field(transform)
    if own is not None:
        return own
    if over is None:
        raise InputError(missing)
    spacing = spacing or (LINEAR_MM if transform.IsLinear() else SAMPLED_MM)
    points = over.corners() if isinstance(over, Grid) else over
    return DisplacementField.of_transform(
        transform, Grid.covering(points, spacing, margin=2 * spacing)
    )


def extended(motion: DisplacementField, target: Grid) -> DisplacementField:
    """The motion on a grid that holds the target, where SimpleITK would take it to be zero.

    On its own nodes, and more of them beyond, where its edge value continues.
    """
    grid, index = motion.grid, motion.grid.to_index(target.corners())
    before = np.ceil(np.maximum(-index.min(axis=0), 0)).astype(int)
    after = np.ceil(np.maximum(index.max(axis=0) - (np.array(grid.size) - 1), 0)).astype(int)
    if not (before.any() or after.any()):
        return motion
    widths = [*zip(before[::-1].tolist(), after[::-1].tolist()), (0, 0)]
    size = tuple((np.array(grid.size) + before + after).tolist())
    wider = Grid(size, grid.spacing, tuple(grid.to_world(-before.astype(float))), grid.direction)
    return DisplacementField(np.pad(motion.array, widths, mode="edge"), wider)
