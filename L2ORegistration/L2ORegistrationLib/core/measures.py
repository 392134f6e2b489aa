"""How good a registration is: error at landmarks, and how smooth and free of folds the field is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .geometry import DisplacementField, Grid, Volume
from .jacobian import jacobian_determinant
from .landmarks import Landmarks


def match_landmarks(fixed: Landmarks, moving: Landmarks) -> tuple[Landmarks, Landmarks]:
    """The pairs of landmarks, in the order of `fixed`; `unpaired` names those left out.

    Paired by their common labels. These are compared without case; where all labels of a list are
    one word with a number each, as Slicer names points, the numbers count. By order where labels
    say nothing: none given, all the same, or none in common. Raises InputError when they are then
    not equally many, and for a label that several landmarks of a list have.
    """
    rows = _common_rows(fixed, moving)
    if rows is not None:
        return fixed.chosen(rows[0]), moving.chosen(rows[1])
    if len(fixed) != len(moving):
        raise InputError(
            f"There are {len(fixed)} fixed but {len(moving)} moving landmarks, and no labels that "
            "tell which belong together: place each one in both images."
        )
    return fixed, moving


def paired(
    fixed: Landmarks, moving: Landmarks, fixed_grid: Grid | None, moving_grid: Grid | None
) -> tuple[tuple[np.ndarray, np.ndarray], str]:
    """The points (N, 3) and (N, 3), LPS mm, of `match_landmarks`, and what is odd about them.

    That is what `unpaired` says, or that both are the same. Raises InputError for points outside a
    given grid, too.
    """
    of_fixed, of_moving = match_landmarks(fixed, moving)
    for landmarks, grid, name in (
        (of_fixed, fixed_grid, "fixed"),
        (of_moving, moving_grid, "moving"),
    ):
        if grid is not None:
            check_landmarks_inside(landmarks.points, grid, name)
    odd = unpaired(fixed, moving)
    if np.array_equal(of_fixed.points, of_moving.points):
        odd = "Fixed and moving landmarks are the same points: was one file given for both?"
    return (of_fixed.points, of_moving.points), odd


def unpaired(fixed: Landmarks, moving: Landmarks) -> str:
    """A sentence that names the landmarks that `match_landmarks` leaves out; empty for none."""
    rows = _common_rows(fixed, moving)
    if rows is None:
        return ""
    left = []
    for name, landmarks, used in (("fixed", fixed, rows[0]), ("moving", moving, rows[1])):
        names = [label for k, label in enumerate(landmarks.labels) if k not in set(used)]
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            left.append(f"{name} {', '.join(names[:10])}{more}")
    if not left:
        return ""
    return f"Landmarks without a partner of their label are left out: {'; '.join(left)}."


def _common_rows(fixed: Landmarks, moving: Landmarks) -> tuple[list[int], list[int]] | None:
    """The rows of both that have a label in common, in the order of fixed; None without any."""
    if not (fixed.labelled and moving.labelled):
        return None
    keys = [_keys(landmarks.labels) for landmarks in (fixed, moving)]
    if any(len(k) > 1 and len(set(k)) == 1 for k in keys):
        return None
    if keys[0] == keys[1]:
        return list(range(len(fixed))), list(range(len(moving)))
    common = set(keys[0]) & set(keys[1])
    for name, key in zip(("fixed", "moving"), keys, strict=True):
        twice = next((k for k in key if k in common and key.count(k) > 1), None)
        if twice is not None:
            raise InputError(
                f"Several {name} landmarks have the label '{twice}': give each a label of its own."
            )
    if not common:
        return None
    rows = [k for k, key in enumerate(keys[0]) if key in common]
    return rows, [keys[1].index(keys[0][k]) for k in rows]


def _keys(labels: Sequence[str]) -> list[str]:
    """What labels are compared by: their numbers where they differ in nothing else."""
    plain = [label.strip().casefold() for label in labels]
    parts = [re.fullmatch(r"(.*?)(\d+)", label) for label in plain]
    if all(parts) and len({part[1] for part in parts}) == 1:
        return [str(int(part[2])) for part in parts]
    return plain


def check_landmarks_inside(points: np.ndarray, grid: Grid, name: str) -> None:
    """Raise InputError unless all points (N, 3), LPS mm, lie in the image; name: "fixed", ..."""
    outside = np.flatnonzero(~grid.contains(points))
    if not outside.size:
        return
    first = outside[0]
    where = " ".join(f"{x:.1f}" for x in points[first])
    advice = "are they of this image, in LPS mm?"
    if grid.contains(points * [-1, -1, 1]).all():
        advice = "they look like RAS, give LPS mm."
    elif grid.contains(grid.to_world(points)).all():
        advice = "they look like voxel indices, give LPS mm."
    raise InputError(
        f"{outside.size} of {len(points)} {name} landmarks lie outside the {name} image, "
        f"such as number {first + 1} at ({where}): {advice}"
    )


def opposite_direction(
    transform: DisplacementField | sitk.Transform,
    fixed_points: np.ndarray,
    moving_points: np.ndarray,
    name: str = "The transform",
) -> str:
    """A sentence where a transform fits landmarks clearly better from moving to fixed; else empty.

    transform: fixed point -> moving point, as it should be; points: (N, 3), LPS mm.
    """
    better = _fits_better(transform, (fixed_points, moving_points), (moving_points, fixed_points))
    if better is None:
        return ""
    given, turned = better
    return (
        f"{name} takes moving landmarks to fixed ones ({turned:.2f} mm off) instead of fixed ones "
        f"to moving ({given:.2f} mm off): invert it, or exchange landmarks that are mixed up."
    )


def landmarks_in_ras(
    transform: DisplacementField | sitk.Transform,
    fixed_points: np.ndarray,
    moving_points: np.ndarray,
) -> str:
    """A sentence where a transform fits landmarks clearly better when they are RAS; else empty.

    transform: fixed point -> moving point; points: (N, 3), LPS mm, as they should be.
    """
    pairs = fixed_points, moving_points
    better = _fits_better(transform, pairs, [np.multiply(one, (-1, -1, 1)) for one in pairs])
    if better is None:
        return ""
    given, turned = better
    return (
        f"The landmarks look like RAS: with x and y negated they are {turned:.2f} mm off instead "
        f"of {given:.2f} mm. Give LPS mm, or name the columns of a .csv r, a, s."
    )


def _fits_better(transform, given, otherwise) -> tuple[float, float] | None:
    """Mean errors, mm, at points as given and otherwise; None where these are not clearly less."""
    before = target_registration_error(transform, *given).mean()
    after = target_registration_error(transform, *otherwise).mean()
    still = np.linalg.norm(np.subtract(*given), axis=1).mean()
    return (before, after) if after <= 0.5 * min(before, still) else None


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


def jacobian_summary(field: DisplacementField, mask: Volume | None = None) -> dict[str, float]:
    """sdlogj, sdlogj_learn2reg, folding (share of nodes with J <= 0) and min of J, in the mask.

    sdlogj: the standard deviation of log J, J clamped at 1e-9; 0 for any motion that changes all
    volumes alike. sdlogj_learn2reg: what the scripts of the Learn2Reg challenge call so, the same
    of log(J + 3), which is many times smaller: to compare with numbers of that challenge only.
    mask: on any grid, the nearest voxel of it counts at each node of the field; None: all nodes.
    Raises InputError when the mask holds no node.
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
        "sdlogj_learn2reg": float(np.log(np.clip(values + 3, 1e-9, 1e9), dtype=np.float64).std()),
        "folding": float((values <= 0).mean()),
        "min": float(values.min()),
    }
