"""A field bent through landmark pairs that the user placed where it is wrong."""

from __future__ import annotations

import numpy as np

from ..core.errors import InputError
from ..core.geometry import DisplacementField

REACH_MM = 60.0  # beyond this distance of all pairs nothing changes
_STEEPNESS = 6.0  # a correction reaches this many times its own length: far, as large errors do
_SAME_MM = 1e-3  # points nearer than this are one
_ROUNDS = 5  # the field is linear between its nodes and does not hold a bump at once


def corrected(field: DisplacementField, fixed: np.ndarray, moving: np.ndarray) -> DisplacementField:
    """The field changed smoothly so that fixed points lead to moving ones, (N, 3) LPS mm each.

    What the field misses at the pairs is interpolated with a radial function of compact support
    (Wendland, Adv. Comput. Math. 4, 1995), once more after each round. Raises InputError for pairs
    of unequal number, pairs outside the field and pairs that contradict each other.
    """
    fixed, moving = np.asarray(fixed, dtype=float), np.asarray(moving, dtype=float)
    if fixed.shape != moving.shape or fixed.ndim != 2 or fixed.shape[1:] != (3,) or not len(fixed):
        raise InputError("A correction needs one or more pairs of points, fixed and moving.")
    if not field.grid.contains(fixed).all():
        raise InputError("A landmark lies outside the field: place it in the fixed image.")
    miss = moving - field.transform_points(fixed)
    _check_agreement(fixed, miss)
    reach = max(REACH_MM, _STEEPNESS * float(np.linalg.norm(miss, axis=1).max()))
    among = _radial(np.linalg.norm(fixed[:, None] - fixed[None], axis=-1) / reach)
    array = field.array.copy()
    nodes = field.grid.points()
    basis = [_radial(np.linalg.norm(nodes - p, axis=-1) / reach).astype(np.float32) for p in fixed]
    for _ in range(_ROUNDS):
        miss = moving - DisplacementField(array, field.grid).transform_points(fixed)
        for bump, weight in zip(basis, np.linalg.solve(among, miss), strict=True):
            array += bump[..., None] * weight.astype(np.float32)
    return DisplacementField(array, field.grid)


def _check_agreement(fixed: np.ndarray, miss: np.ndarray) -> None:
    """Raise InputError for two points (of (N, 3), mm) that ask for what would fold between them."""
    apart = np.linalg.norm(fixed[:, None] - fixed[None], axis=-1)
    differ = np.linalg.norm(miss[:, None] - miss[None], axis=-1)
    first, second = np.nonzero(np.triu((differ >= apart) | (apart < _SAME_MM), k=1))
    if len(first):
        i, j = first[0], second[0]
        raise InputError(
            f"Landmarks {i + 1} and {j + 1} contradict each other: they are {apart[i, j]:.1f} mm "
            f"apart and ask for corrections that differ by {differ[i, j]:.1f} mm. Remove one."
        )


def _radial(r: np.ndarray) -> np.ndarray:
    """Wendland's function, twice continuously differentiable, 1 at 0 and 0 from 1 on."""
    return np.maximum(1 - r, 0) ** 4 * (4 * r + 1)
