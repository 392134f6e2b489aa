"""The Jacobian determinant of a displacement field: how much volume changes, and where it folds."""

from __future__ import annotations

import numpy as np

from .errors import InputError
from .geometry import DisplacementField, Volume


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
