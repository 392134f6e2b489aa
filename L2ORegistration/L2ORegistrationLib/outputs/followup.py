"""The volume of a structure in both scans: as drawn, and as the deformation carries it over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Volume
from ..core.jacobian import jacobian_determinant
from .points import to_fixed

_MOST_POINTS = 200_000


@dataclass(frozen=True)
class VolumeChange:
    """Millilitres of one structure; None where it was not drawn.

    fixed_ml, moving_ml: as drawn; carried_ml: what the drawn one (fixed where both are) has in the
    other scan after the deformation; growth: moving as drawn / carried - 1, where both are drawn:
    beyond what breathing explains.
    """

    fixed_ml: float | None
    moving_ml: float | None
    carried_ml: float
    growth: float | None

    def sentence(self) -> str:
        """What was found; the deformation is smooth, and follows no growth of a small nodule."""
        if self.growth is not None:
            return (
                f"{self.fixed_ml:.2f} ml in fixed, {self.moving_ml:.2f} ml in moving. The "
                f"deformation makes {self.carried_ml:.2f} ml of it: {100 * self.growth:+.0f} % "
                "beyond that."
            )
        drawn, name, other = (
            (self.fixed_ml, "fixed", "moving")
            if self.moving_ml is None
            else (self.moving_ml, "moving", "fixed")
        )
        return (
            f"{drawn:.2f} ml in {name}, {self.carried_ml:.2f} ml in {other} by the deformation "
            f"({100 * (self.carried_ml / drawn - 1):+.0f} %). It is smooth and follows no growth "
            "of a nodule: draw that in both scans."
        )


def volume_change(
    field: DisplacementField, fixed: Volume | None = None, moving: Volume | None = None
) -> VolumeChange:
    """Volumes of a structure drawn in fixed, in moving or in both; field: fixed -> moving.

    Raises InputError for none, an empty one, and one that lies outside the field or in a fold.
    """
    if fixed is None and moving is None:
        raise InputError("A volume change needs a structure in at least one of the scans.")
    drawn = [None if mask is None else _ml(mask) for mask in (fixed, moving)]
    jacobian = jacobian_determinant(field)
    if fixed is not None:
        points = fixed.marked_points(most=_MOST_POINTS)
        factor = _inside(jacobian, points).mean()
        carried = drawn[0] * float(factor)
    else:
        points = to_fixed(moving.marked_points(most=_MOST_POINTS), field).points
        carried = drawn[1] * float((1 / _inside(jacobian, points)).mean())
    growth = None if None in drawn else drawn[1] / carried - 1
    return VolumeChange(*drawn, carried, growth)


def _ml(mask: Volume) -> float:
    count = int(np.count_nonzero(mask.array))
    if not count:
        raise InputError("The structure is empty: draw it first.")
    return count * abs(float(np.linalg.det(mask.grid.matrix[:3, :3]))) / 1000


def _inside(jacobian: Volume, points: np.ndarray) -> np.ndarray:
    """The determinant at points (N, 3), all of which must have a usable one."""
    if not jacobian.grid.contains(points).all():
        raise InputError("The structure reaches beyond the field: register the whole image.")
    values = jacobian.sample(points)
    if (values <= 0).any():
        raise InputError("The field folds in the structure: it has no volume there.")
    return values
