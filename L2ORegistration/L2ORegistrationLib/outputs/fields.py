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
