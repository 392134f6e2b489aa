"""A grid with axes of its own, and points within one."""

import numpy as np
from L2ORegistrationLib.core.geometry import Grid
from scipy.spatial.transform import Rotation

OBLIQUE = Grid(
    (6, 5, 4),
    (1.5, 2.0, 3.0),
    (-12.0, 34.5, -56.0),
    Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix() @ np.diag([1, -1, 1]),
)


def points_within(grid, rng, count=50):
    return grid.to_world(rng.random((count, 3)) * (np.array(grid.size) - 1))
