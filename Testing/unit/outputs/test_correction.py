"""Landmark pairs bend a field where it is wrong, and hold it there while the optimiser goes on."""

import numpy as np
import pytest
import torch
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.core.jacobian import jacobian_determinant
from L2ORegistrationLib.engine.optimise import gauss_newton
from L2ORegistrationLib.engine.optimise.penalty import Penalty
from L2ORegistrationLib.engine.registration import Registration
from L2ORegistrationLib.outputs.correction import REACH_MM, corrected

GRID = Grid((50, 50, 50), (6.0, 6.0, 6.0), (-150.0, -150.0, -150.0))
FIXED = np.array([[0.0, 10, 3], [40, -20, 11], [-31, 5, -60]])
NEAR = np.array([[0, 0, 0], [0, 0, 0], [0.7, 0, 0]])
AGAINST = np.array([[1.0, 0, 0], [5, 0, 0], [3, 0, 0]])
MISS = np.array([[25.0, 0, 0], [0, -12, 4], [3, 3, 20]])


def test_pairs_are_met_and_nothing_folds():
    field = DisplacementField(np.full((*GRID.shape, 3), (5, 0, -8), np.float32), GRID)
    found = corrected(field, FIXED, FIXED + (5, 0, -8) + MISS)
    wanted = FIXED + (5, 0, -8) + MISS
    assert np.abs(found.transform_points(FIXED) - wanted).max() < 0.01
    assert jacobian_determinant(found).array.min() > 0.2
    far = np.linalg.norm(GRID.points()[..., None, :] - FIXED, axis=-1).min(axis=-1) > 6 * 25
    assert far.any() and np.array_equal(found.array[far], field.array[far])


def test_the_field_itself_is_not_changed():
    field = DisplacementField.zeros(GRID)
    found = corrected(field, FIXED[:1], FIXED[:1] + [1, 2, 3])
    assert not field.array.any() and found.array.any()
    away = GRID.points()[..., 0] > FIXED[0, 0] + REACH_MM
    assert not found.array[away].any()


@pytest.mark.parametrize(
    "fixed, moving, words",
    [
        (FIXED, FIXED[:2], "one or more pairs"),
        (FIXED + 900, FIXED, "outside the field"),
        (FIXED[[0, 0]], FIXED[:2], "Landmarks 1 and 2 contradict"),
        (FIXED[[0, 0]], FIXED[[0, 0]] + 1, "Landmarks 1 and 2 contradict"),
        (FIXED[[1, 0, 0]] + NEAR, FIXED[[1, 0, 0]] + NEAR + AGAINST, "Landmarks 2 and 3 .* 0.7 mm"),
    ],
)
def test_pairs_that_cannot_be_met_are_refused(fixed, moving, words):
    with pytest.raises(InputError, match=words):
        corrected(DisplacementField.zeros(GRID), fixed, moving)


class _Level:
    """As much of a level as pins look at: every voxel of a small grid is active."""

    def __init__(self):
        self.grid = Grid((9, 8, 7), (6.0, 6.0, 6.0))
        self.shape = self.grid.shape
        self.distance = torch.zeros((1, *self.shape))
        self.active_nodes = torch.arange(self.distance.numel())


def test_a_pin_holds_the_field_at_zero():
    """Images pull everything 3 mm along x; at the pin the field stays, far away it goes."""
    level = _Level()
    pin = level.grid.to_world(np.array([[4.0, 4.0, 3.0]]))
    field = torch.zeros((3, *level.shape))
    for _ in range(6):
        system = torch.zeros((len(level.active_nodes), 9))
        system[:, :3] = 0.01
        system[:, 6] = 0.01 * (3 - field[0].flatten())
        gauss_newton._pin(level, field, system, pin)
        field = field + gauss_newton.gauss_newton_step(level, field, system, Penalty(1e-5), 200)
    assert field[0, 3, 4, 4] < 1.0
    assert field[0, 0, 0, 0] > 2.5
    assert field[1:].abs().max() < 1e-3


def test_pinned_points_need_an_initial_transform():
    image = Volume(np.arange(20.0**3, dtype=np.float32).reshape(20, 20, 20), Grid((20, 20, 20)))
    with pytest.raises(InputError, match="initial transform"):
        Registration(image, image, method="gauss-newton", pinned=FIXED)
