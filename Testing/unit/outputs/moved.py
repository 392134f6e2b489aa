"""A small grid, what lies on it, a motion of whole voxels, and a command that refuses its input."""

import json

import numpy as np
from L2ORegistrationLib.cli import main
from L2ORegistrationLib.core.geometry import DisplacementField, Grid

GRID = Grid((48, 44, 20), (1.5, 1.5, 3.0), (-30.0, -40.0, 100.0))
SHIFT = np.array([3.0, -4.5, 6.0])  # two voxels right, three to the front, two slices up


def shift(grid=GRID, by=SHIFT):
    lattice = Grid.covering(grid.corners(), 6.0, margin=6.0)
    return DisplacementField(np.full((*lattice.shape, 3), by, np.float32), lattice)


def ball(centre, radius=9.0, grid=GRID):
    return np.linalg.norm(grid.points() - centre, axis=-1) < radius


CENTRE = GRID.to_world((24, 22, 10))


def refused(capsys, tmp_path, *arguments):
    """The sentence of a command that ends with exit code 2 and leaves no file."""
    before = sorted(tmp_path.rglob("*"))
    assert main([*map(str, arguments), "--json"]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    return json.loads(capsys.readouterr().out)["error"]
