"""Points, curves and surfaces through a transform, each in the direction that it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Volume
from .newton import Newton

INVERSE_MM, MOVED_MM = 0.08, 1.0  # see is_inverse
_MOST_NODES = 20_000


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
    if is_inverse(field, backward):
        raise InputError(
            "The registration backward is the inverse of this one, which agrees in any case: give "
            "a second registration, of exchanged scans."
        )
    returned = backward.transform_points(moving)
    back = np.linalg.norm(returned - fixed, axis=1)
    return np.maximum(back, np.linalg.norm(field.transform_points(returned) - moving, axis=1))


def is_inverse(field: DisplacementField, backward: DisplacementField) -> bool:
    """Whether a way back (moving point -> fixed point) was made of the field, and not registered.

    At nodes that move by over MOVED_MM, anywhere: inverses of deep breaths miss half of them by up
    to 0.06 mm, while two registrations of a phantom differ by 0.3 mm, most of it outside the lungs.
    """
    stride = max(1, round((np.prod(field.grid.size) / _MOST_NODES) ** (1 / 3)))
    axes = [np.arange(0, n, stride) for n in field.grid.size]
    fixed = field.grid.to_world(np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3))
    moving = field.transform_points(fixed)
    asked = np.linalg.norm(moving - fixed, axis=1) > MOVED_MM
    asked &= backward.grid.contains(moving, margin=0)
    if not asked.any():
        return False
    back = backward.transform_points(moving[asked]) - fixed[asked]
    return bool(np.median(np.linalg.norm(back, axis=1)) < INVERSE_MM)


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
