"""Points, curves and surfaces through a transform, each in the direction that it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Volume
from .newton import Newton

INVERSE_MM, MOVED_MM = 0.01, 1.0


@dataclass(frozen=True, eq=False)
class MovedPoints:
    """Where points went: points (N, 3) LPS mm; beyond, folded: (N,) bool, do not trust these.

    beyond: outside the grid of the field, whose edge value continues there; folded: in a fold,
    where there is no single answer.
    """

    points: np.ndarray
    beyond: np.ndarray
    folded: np.ndarray

    def warnings(self) -> list[str]:
        """A sentence for each thing that the user should know."""
        said = []
        if self.beyond.any():
            said.append(f"{self.beyond.sum()} points lie beyond the field: its edge value is used.")
        if self.folded.any():
            said.append(f"{self.folded.sum()} points lie in a fold: their places are uncertain.")
        return said


def to_moving(points: np.ndarray, field: DisplacementField) -> MovedPoints:
    """Points (N, 3) of the fixed scan in the moving one: the field itself, LPS mm."""
    points = np.asarray(points, dtype=float)
    beyond = ~field.grid.contains(points, margin=0)
    folded = Newton(field).folded(field.grid.to_index(points))
    return MovedPoints(field.transform_points(points), beyond, folded)


def to_fixed(points: np.ndarray, field: DisplacementField) -> MovedPoints:
    """Points (N, 3) of the moving scan in the fixed one: solved point by point, LPS mm."""
    points = np.asarray(points, dtype=float)
    y = field.grid.to_index(points)
    newton = Newton(field)
    v, _ = newton.solve(y.astype(np.float32))
    found = field.grid.to_world(y + v)
    beyond = ~field.grid.contains(found, margin=0)
    folded = newton.folded(y + v)
    folded |= np.linalg.norm(field.transform_points(found) - points, axis=1) > 0.5
    return MovedPoints(found, beyond, folded)


def disagreement(
    fixed: np.ndarray, moving: np.ndarray, field: DisplacementField, backward: DisplacementField
) -> np.ndarray:
    """How far (N,), mm, an independent registration of moving to fixed is from these pairs.

    fixed, moving: (N, 3), LPS mm, pairs of the field; backward: moving point -> fixed point. The
    larger of both ways is taken. Two registrations that agree may be wrong together, but where
    they differ one of them is: it is the least that a point is uncertain by. Raises InputError for
    the inverse, which would agree whatever the field is.
    """
    back = np.linalg.norm(backward.transform_points(moving) - fixed, axis=1)
    if is_inverse(back, np.linalg.norm(moving - fixed, axis=1)):
        raise InputError(
            "The registration backward is the inverse of this one, which agrees in any case: give "
            "a second registration, of exchanged scans."
        )
    there = field.transform_points(backward.transform_points(moving))
    return np.maximum(back, np.linalg.norm(there - moving, axis=1))


def is_inverse(back: np.ndarray, moved: np.ndarray) -> bool:
    """Whether a way back that misses (N,) mm where (N,) mm were moved is the inverse of the way.

    No two registrations agree so well where anything moves.
    """
    return bool(len(back)) and bool(back.mean() < INVERSE_MM and moved.mean() > MOVED_MM)


def told_at(told: Volume, fixed: np.ndarray) -> np.ndarray:
    """What a confidence map says (N,), mm, at points (N, 3), LPS mm, of the fixed scan.

    told: mm, 0 where it is not known, as `register --confidence` writes it; NaN there.
    """
    values = told.sample(fixed, order=0, outside=0.0)
    return np.where(values > 0, values, np.nan)


def uncertainty(
    fixed: np.ndarray,
    moving: np.ndarray,
    field: DisplacementField,
    told: Volume | None = None,
    backward: DisplacementField | None = None,
) -> np.ndarray | None:
    """How far off (N,), mm, pairs of the field may be; None where nothing tells it.

    fixed, moving: (N, 3), LPS mm; told: as for told_at(); backward: as for disagreement(). The
    larger of what both say; NaN where nothing is known.
    """
    said = []
    if told is not None:
        said.append(told_at(told, fixed))
    if backward is not None:
        said.append(disagreement(fixed, moving, field, backward))
    return np.fmax.reduce(said) if said else None
