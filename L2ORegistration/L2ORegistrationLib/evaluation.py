"""How good a registration is: error at landmarks, and how smooth and free of folds the field is."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .geometry import DisplacementField, Grid, Volume
from .landmarks import Landmarks


def match_landmarks(fixed: Landmarks, moving: Landmarks) -> tuple[Landmarks, Landmarks]:
    """The pairs of landmarks, in the order of `fixed`.

    Matched by label where both have the same set of unique labels, by order otherwise.
    Raises InputError when the two counts differ.
    """
    if len(fixed) != len(moving):
        raise InputError(
            f"There are {len(fixed)} fixed but {len(moving)} moving landmarks: "
            "place each one in both images."
        )
    row = {label: k for k, label in enumerate(moving.labels)}
    if len(row) == len(moving) and set(fixed.labels) == set(row):
        order = [row[label] for label in fixed.labels]
        moving = Landmarks(moving.points[order], fixed.labels)
    return fixed, moving


def check_landmarks_inside(points: np.ndarray, grid: Grid, name: str) -> None:
    """Raise InputError unless all points (N, 3), LPS mm, lie in the image; name: "fixed", ..."""
    outside = np.flatnonzero(~grid.contains(points))
    if not outside.size:
        return
    first = outside[0]
    where = " ".join(f"{x:.1f}" for x in points[first])
    mirrored = grid.contains(points * [-1, -1, 1]).all()
    advice = "they look like RAS, give LPS mm" if mirrored else "are they of this image, in LPS mm?"
    raise InputError(
        f"{outside.size} of {len(points)} {name} landmarks lie outside the {name} image, "
        f"such as number {first + 1} at ({where}): {advice}"
    )


def target_registration_error(
    transform: DisplacementField | sitk.Transform,
    fixed_points: np.ndarray,
    moving_points: np.ndarray,
    *,
    snap_to: Grid | None = None,
) -> np.ndarray:
    """Distances (N,) in mm between transformed fixed points and moving points, (N, 3) LPS mm.

    snap_to: the moving image's grid, where the found points are first to be rounded to the nearest
    voxel centre ("snapped to voxel", as part of the literature reports; None: sub-voxel).
    Raises InputError unless both have as many points.
    """
    fixed_points = np.asarray(fixed_points, dtype=float)
    if fixed_points.shape != np.shape(moving_points):
        raise InputError(
            f"There are {len(fixed_points)} fixed but {len(moving_points)} moving landmarks: "
            "place each one in both images."
        )
    if isinstance(transform, DisplacementField):
        found = transform.transform_points(fixed_points)
    else:
        found = np.array([transform.TransformPoint(point) for point in fixed_points.tolist()])
    if snap_to is not None:
        found = snap_to.to_world(np.floor(snap_to.to_index(found) + 0.5))
    return np.linalg.norm(found - moving_points, axis=1)


def summarise(errors: np.ndarray) -> dict[str, float]:
    """mean, sd (of the population), median, p95, worst30 (mean of the largest 30 %), max; mm."""
    errors = np.sort(np.asarray(errors, dtype=float).ravel())
    if not errors.size:
        raise InputError("There are no landmark errors to summarise: give at least one landmark.")
    worst = errors[-math.ceil(0.3 * errors.size) :]
    return {
        "mean": float(errors.mean()),
        "sd": float(errors.std()),
        "median": float(np.median(errors)),
        "p95": float(np.percentile(errors, 95)),
        "worst30": float(worst.mean()),
        "max": float(errors[-1]),
    }


def jacobian_determinant(field: DisplacementField) -> Volume:
    """The determinant of the Jacobian of x + u(x), float32, on the field's grid.

    1: volume kept, 0.5: halved from fixed to moving, not positive: folded. Central differences,
    one-sided at the border. Raises InputError for a grid with a single node along an axis.
    """
    if min(field.grid.size) < 2:
        raise InputError("A Jacobian needs a field of at least two nodes along each axis.")
    # With respect to the index, x has the constant derivative M; the world's determinant follows
    # as det(M + du/dindex) / det(M) whatever spacing, tilt and handedness M holds.
    matrix = field.grid.matrix[:3, :3]
    z, y, x = np.gradient(field.array.astype(np.float64), axis=(0, 1, 2))
    x, y, z = (step + matrix[:, k] for k, step in enumerate((x, y, z)))
    volume = np.einsum("...i,...i", x, np.cross(y, z))
    return Volume((volume / np.linalg.det(matrix)).astype(np.float32), field.grid)


def jacobian_summary(field: DisplacementField, mask: Volume | None = None) -> dict[str, float]:
    """sdlogj, folding (fraction of nodes whose determinant is not positive) and min, in the mask.

    sdlogj is the standard deviation of the determinant's logarithm with the determinant clamped at
    1e-9, as in the Learn2Reg challenge. mask: on any grid, the nearest voxel of it counts at each
    node of the field; None: all nodes. Raises InputError when the mask holds no node.
    """
    jacobian = jacobian_determinant(field)
    values = jacobian.array.ravel()
    if mask is not None:
        inside = mask.sample(jacobian.grid.points(), order=0, outside=0.0) > 0
        values = values[inside.ravel()]
    if not values.size:
        raise InputError("The mask does not overlap the field: is it the mask of the fixed image?")
    return {
        "sdlogj": float(np.log(np.maximum(values, 1e-9), dtype=np.float64).std()),
        "folding": float((values <= 0).mean()),
        "min": float(values.min()),
    }
