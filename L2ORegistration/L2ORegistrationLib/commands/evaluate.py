"""`evaluate`: how good a transform is, from a file of any program that SimpleITK can read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import SimpleITK as sitk
import typer

from ..core.errors import InputError
from ..core.files import read_mask, read_transform, read_volume
from ..core.geometry import DisplacementField, Grid, Volume
from ..reporting.measures import check_landmarks_inside, jacobian_summary, opposite_direction
from ..reporting.tables import landmark_measures
from .console import measures_table, note, print_json, read_pairs
from .console import output as out
from .options import FixedLandmarks, Json, MovingLandmarks

_NODE_MM = 2.0  # between the points at which a transform that is no field is looked at


def evaluate(
    transform: Annotated[
        Path, typer.Argument(metavar="TRANSFORM", help="Fixed point -> moving point; any format.")
    ],
    fixed_landmarks: FixedLandmarks = None,
    moving_landmarks: MovingLandmarks = None,
    fixed_mask: Annotated[
        Path | None, typer.Option(help="Where folding and SDlogJ count, such as the lungs.")
    ] = None,
    fixed: Annotated[
        Path | None, typer.Option(help="The fixed image: to check the landmarks; for .txt.")
    ] = None,
    moving: Annotated[
        Path | None, typer.Option(help="The moving image: likewise, and for the snapped error.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a transform: landmark errors before and after it, folding and SDlogJ."""
    motion = read_transform(transform)
    mask = read_mask(fixed_mask) if fixed_mask else None
    grids = [read_volume(path).grid if path else None for path in (fixed, moving)]
    pairs = read_pairs(fixed_landmarks, moving_landmarks, *grids)

    rows = {
        "Initial": landmark_measures(sitk.Transform(3, sitk.sitkIdentity), pairs, grids[1]),
        "Transform": landmark_measures(motion, pairs, grids[1]),
    }
    if pairs is not None and grids[0] is None:
        _check_within(motion, pairs[0])
    field = _field(motion, mask, grids[0])
    if field is not None:
        rows["Transform"]["jacobian"] = jacobian_summary(field, mask)
    if not any(rows.values()):
        raise InputError(
            "There is nothing to measure a transform without a grid at: "
            "give landmarks, --fixed-mask or --fixed."
        )
    warning = "" if pairs is None else opposite_direction(motion, *pairs)
    if warning:
        note(warning)
    if as_json:
        print_json(
            {
                "transform": str(transform),
                "landmarks": None if pairs is None else len(pairs[0]),
                "initial": rows["Initial"],
                "measures": rows["Transform"],
                "warning": warning,
            }
        )
        return
    out.print(measures_table({name: row for name, row in rows.items() if row}))


def _check_within(transform: sitk.Transform, points: np.ndarray) -> None:
    """Raise InputError where a transform has nodes of its own and no fixed point lies in them."""
    field = _own_field(transform)
    if field is not None and not field.grid.contains(points).any():
        check_landmarks_inside(points, field.grid, "fixed")


def _own_field(transform: sitk.Transform) -> DisplacementField | None:
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


def _field(
    transform: sitk.Transform, mask: Volume | None, grid: Grid | None
) -> DisplacementField | None:
    """The transform as a field: on its own nodes where it has some, else over the mask or image.

    None where there is neither of them.
    """
    own = _own_field(transform)
    if own is not None:
        return own
    if mask is not None:
        index = np.argwhere(mask.array)[:, ::-1]
        sides = np.stack([index.min(axis=0), index.max(axis=0)], axis=1)
        corners = mask.grid.to_world(np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 3))
    elif grid is not None:
        corners = grid.corners()
    else:
        return None
    nodes = Grid.covering(corners, _NODE_MM, margin=2 * _NODE_MM)
    return DisplacementField.of_transform(transform, nodes)
