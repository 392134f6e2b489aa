"""Starts: affines found from lung surfaces alone, boxes, and splines through landmarks."""

import numpy as np
import pytest

pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine.start.alignment import (  # noqa: E402
    affine,
    box_alignment,
    distance_map,
    landmark_alignment,
    lung_alignment,
    rigid_fit,
    rigid_part,
)
from scipy.spatial.transform import Rotation  # noqa: E402

GRID = Grid((75, 60, 75), (4.0, 4.0, 4.0), (-148.0, -118.0, -148.0))


def lungs(grid, matrix=None, shift=(0, 0, 0)):
    """Two lungs that look like each other in no axis; given a motion, where it takes them."""
    points = grid.points() - shift
    if matrix is not None:
        points = points @ np.linalg.inv(matrix).T
    x, y, z = np.moveaxis(points, -1, 0)
    right = ((x + 55) / 42) ** 2 + (y / 60) ** 2 + (z / 95) ** 2 < 1
    left = ((x - 58) / 36) ** 2 + ((y - 8) / 52) ** 2 + ((z + 6) / 85) ** 2 < 1
    heart = ((x - 20) / 32) ** 2 + ((y + 25) / 32) ** 2 + ((z + 40) / 32) ** 2 < 1
    dome = ((x - 5 * np.sign(x)) / 150) ** 2 + (y / 90) ** 2 + ((z + 95) / 35) ** 2 < 1
    return Volume((right | left) & ~heart & ~dome, grid)


def matrix_of(transform):
    return np.reshape(transform.GetMatrix(), (3, 3)), np.array(transform.GetTranslation())


def miss(found, matrix, shift, mask):
    """Mean distance (mm) between the found and the true motion of the lung's voxels."""
    points = mask.grid.points()[mask.array][::37]
    moved = np.array([found.TransformPoint(p) for p in points.tolist()])
    return np.linalg.norm(moved - points @ np.asarray(matrix).T - shift, axis=1).mean()


def test_an_affine_takes_its_centre_to_its_image():
    transform = affine(np.diag([2.0, 1.0, 0.5]), (1, 2, 3), (10, 20, 30))
    assert transform.TransformPoint((1.0, 2.0, 3.0)) == (10.0, 20.0, 30.0)
    assert transform.TransformPoint((2.0, 2.0, 5.0)) == (12.0, 20.0, 31.0)


def test_a_rigid_motion_follows_the_half_that_agrees():
    rng = np.random.default_rng(0)
    points = rng.uniform(-100, 100, (500, 3))
    turn = Rotation.from_euler("xyz", (20, -15, 30), degrees=True).as_matrix()
    ends = points @ turn.T + (200.0, -100.0, 50.0)
    ends[:200] += rng.normal(30, 20, (200, 3))  # what a search could not reach
    matrix, _ = matrix_of(found := rigid_fit(points, ends))
    np.testing.assert_allclose(matrix, turn, atol=1e-3)
    np.testing.assert_allclose(found.TransformPoint(points[-1].tolist()), ends[-1], atol=0.1)


@pytest.mark.parametrize(
    ("degrees", "shift", "moved"), [(5, 30, False), (20, 0, True), (0, 80, True), (-30, 200, True)]
)
def test_only_a_patient_who_lies_elsewhere_is_turned_and_moved(degrees, shift, moved):
    turn = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    stretched = affine(turn @ np.diag([1.2, 1.0, 0.8]), (0, 0, 0), (0, shift, 0))
    found = rigid_part(stretched, distance_map(lungs(GRID)))
    assert (found is not None) == moved
    if moved:
        np.testing.assert_allclose(matrix_of(found)[0], turn, atol=1e-6)


def test_a_box_alignment_is_scale_and_shift():
    matrix, shift = np.diag([1.1, 0.9, 1.25]), np.array([12.0, -20.0, 33.0])
    masks = lungs(GRID), lungs(GRID, matrix, shift)
    found = box_alignment(*(distance_map(m) for m in masks))
    assert np.count_nonzero(matrix_of(found)[0] - np.diag(np.diag(matrix_of(found)[0]))) == 0
    assert miss(found, matrix, shift, masks[0]) < 3


TURN = np.array([[0.995, -0.087, 0.02], [0.087, 0.995, 0], [-0.02, 0.03, 1]])


@pytest.mark.parametrize(
    "matrix, shift",
    [
        (np.eye(3), (0, 0, 0)),
        (np.diag([1.05, 1.1, 1.3]), (5, 8, -25)),
        (TURN @ np.diag([0.95, 1.0, 0.8]), (-14, 10, 30)),
        (np.eye(3), (120, -80, 260)),
    ],
    ids=["same", "deep breath", "turned", "elsewhere"],
)
def test_the_affine_of_two_masks(matrix, shift):
    elsewhere = Grid(GRID.size, GRID.spacing, tuple(np.add(GRID.origin, shift)))
    masks = lungs(GRID), lungs(elsewhere, matrix, shift)
    distances = [distance_map(m) for m in masks]
    found = lung_alignment(*distances, GRID, elsewhere)
    box = box_alignment(*distances)
    error = miss(found, matrix, shift, masks[0])
    assert error < 1.5
    assert error <= max(miss(box, matrix, shift, masks[0]), 0.5)


@pytest.mark.parametrize("axis", "xyz")
@pytest.mark.parametrize("degrees", [-30, 30])
def test_the_patient_may_lie_turned_in_a_tight_image(axis, degrees):
    """Where images end close to the lungs, a wrong turn has few points left that count."""
    breath, shift = (0.95, 0.9, 0.7), np.array((10, -20, 15))
    tight = Grid((52, 33, 36), GRID.spacing, (-104.0, -64.0, -58.0))
    turn = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    still = lungs(tight, np.diag(breath))
    turned = Grid(tight.size, tight.spacing, tuple(turn @ tight.origin + shift), turn.ravel())
    masks = lungs(GRID), Volume(still.array, turned)
    found = lung_alignment(*(distance_map(m) for m in masks), GRID, turned)
    assert miss(found, turn * breath, shift, masks[0]) < 1.5


def test_the_affine_is_the_same_every_time():
    masks = [distance_map(lungs(GRID, np.eye(3) * s)) for s in (1, 1.1)]
    assert lung_alignment(*masks).GetParameters() == lung_alignment(*masks).GetParameters()


def test_a_cut_through_the_lungs_is_no_surface():
    """The moving image ends far above the lungs' base: the fit must not shrink them to the cut."""
    short = Grid((75, 60, 45), GRID.spacing, (-148.0, -118.0, -148.0 + 30 * 4))
    masks = lungs(GRID), lungs(short)
    distances = [distance_map(m) for m in masks]
    found = lung_alignment(*distances, GRID, short)
    blind = lung_alignment(*distances)
    error = miss(found, np.eye(3), (0, 0, 0), masks[0])
    assert error < 4
    assert error < miss(blind, np.eye(3), (0, 0, 0), masks[0])


@settings(max_examples=8, deadline=None)
@given(
    grid=st.sampled_from(
        [
            GRID,
            Grid((60, 75, 75), (4, 4, 4), (148, -118, -148), [0, -1, 0, 1, 0, 0, 0, 0, 1]),
            Grid((75, 60, 75), (4, 4, 4), (148, -118, -148), np.diag([-1, 1, 1])),
            Grid((150, 60, 25), (2, 4, 12), (-148, -118, -144)),
        ]
    )
)
def test_distance_maps_do_not_depend_on_the_masks_grid(grid):
    distance, expected = (distance_map(lungs(g)) for g in (grid, GRID))
    points = np.random.default_rng(0).uniform(-60, 60, (200, 3))
    assert np.abs(distance.sample(points) - expected.sample(points)).mean() < 2.5
    assert np.array_equal(np.reshape(distance.grid.direction, (3, 3)), np.eye(3))


def test_distances_of_a_ball():
    grid = Grid((61, 61, 61), (2.0, 2.0, 2.0), (-60.0, -60.0, -60.0))
    radius = np.linalg.norm(grid.points(), axis=-1)
    distance = distance_map(Volume(radius < 40, grid))
    found = np.linalg.norm(distance.grid.points(), axis=-1) - 40
    near = np.abs(found) < 10
    assert np.abs(distance.array - found)[near].mean() < 2.5
    assert ((distance.array < 0) == (found < 0))[np.abs(found) > 5.5].all()
    assert distance.array.max() > 35  # the margin is there


@pytest.mark.parametrize("marked", [0, 1, 20])
def test_a_mask_of_next_to_nothing_is_refused(marked):
    array = np.zeros(GRID.shape, bool)
    array[30, 30, 30 : 30 + marked] = True
    with pytest.raises(InputError, match="mask .* give a mask that marks the lungs"):
        distance_map(Volume(array, GRID))


def test_a_spline_passes_through_its_landmarks():
    rng = np.random.default_rng(0)
    lattice = Grid((30, 30, 30), (6.0, 6.0, 6.0), (-87.0, -87.0, -87.0))
    fixed = lattice.to_world(rng.integers(4, 26, (12, 3)))  # on its nodes, where it is not rounded
    moving = fixed + rng.normal(0, 6, fixed.shape) + [0, 0, 20]
    spline = landmark_alignment(fixed, moving, lattice)
    moved = np.array([spline.TransformPoint(p) for p in fixed.tolist()])
    np.testing.assert_allclose(moved, moving, atol=1e-3)


def test_a_spline_of_an_affine_motion_is_that_motion():
    rng = np.random.default_rng(1)
    fixed = rng.uniform(-60, 60, (6, 3))
    matrix, shift = np.eye(3) + rng.normal(0, 0.05, (3, 3)), np.array([5.0, -8.0, 30.0])
    lattice = Grid((30, 30, 30), (6.0, 6.0, 6.0), (-87.0, -87.0, -87.0))
    spline = landmark_alignment(fixed, fixed @ matrix.T + shift, lattice)
    points = rng.uniform(-80, 80, (20, 3))
    moved = np.array([spline.TransformPoint(p) for p in points.tolist()])
    np.testing.assert_allclose(moved, points @ matrix.T + shift, atol=1e-3)


@pytest.mark.parametrize(
    "points",
    [
        [[0, 0, 5], [10, 0, 5], [0, 10, 5], [10, 10, 5]],
        [[0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10], [0, 0, 10]],
    ],
    ids=["in one plane", "one twice"],
)
def test_landmarks_that_determine_nothing(points):
    points = np.array(points, float)
    with pytest.raises(InputError, match="four, not all in one plane"):
        landmark_alignment(points, points + 1, GRID)
