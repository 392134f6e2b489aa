"""A lung that changed in a way of its own gets a start of its own, and no other does."""

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.geometry import Grid, Volume
from L2ORegistrationLib.engine.field.whole import start_grid
from L2ORegistrationLib.engine.images.preprocessing import working_grid
from L2ORegistrationLib.engine.start.alignment import distance_map
from L2ORegistrationLib.engine.start.apart import lungs_apart, two_lungs
from L2ORegistrationLib.engine.start.choice import Comparison
from scipy import ndimage

GRID = Grid((110, 60, 90), (2.5, 2.5, 2.5))
CENTRES = np.array([[75.0, 75, 110], [200.0, 75, 110]])  # of the right and the left lung, LPS mm
RADII = np.array([50.0, 60, 95])
TOP, RAISED = 205.0, 0.6  # where the right lung is held, and what is left of its height


def lungs(points):
    """The lung that points lie in: 0 none, 1 right, 2 left; a sheet between them touches both."""
    whose = np.zeros(points.shape[:-1], int)
    for k, centre in enumerate(CENTRES, 1):
        whose[(((points - centre) / RADII) ** 2).sum(axis=-1) < 1] = k
    return whose


def moved(points, raised=RAISED):
    """Where points of fixed lie in moving: the right lung is pushed up from below."""
    ends = points.copy()
    right = lungs(points) == 1
    ends[right, 2] = TOP - raised * (TOP - points[right, 2])
    return ends


def scans(raised):
    """(image, mask) of fixed and of moving."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.standard_normal(GRID.shape), 1.6)
    texture = Volume((120 * texture / texture.std()).astype(np.float32), GRID)
    points = GRID.points()
    back = points.copy()  # where in fixed what is seen here in moving comes from
    pushed = points[..., 0] < 137
    back[pushed, 2] = TOP - (TOP - points[pushed, 2]) / raised
    found = []
    for source in (points, back):
        inside = lungs(source) > 0
        array = np.where(inside, -800 + texture.sample(source), 40.0).astype(np.float32)
        found.append((Volume(array, GRID), Volume(inside.astype(np.uint8), GRID)))
    return found


def found_start(pair):
    (fixed, fixed_mask), (moving, moving_mask) = pair
    distances = distance_map(fixed_mask), distance_map(moving_mask)
    grid = working_grid(distances[0], 2.0)
    comparison = Comparison(fixed, moving, distances[0], grid)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    best = comparison.finished(comparison.searched("identity", identity))
    return lungs_apart(comparison, best, distances, (GRID, GRID), start_grid(grid))


def test_a_lung_that_was_pushed_up_is_followed_and_the_other_stays():
    start = found_start(scans(RAISED))
    assert start.name == "lungs apart"
    points = GRID.points().reshape(-1, 3)[::37]
    for whose, most in ((1, 6.0), (2, 1.0)):
        inside = points[lungs(points) == whose]
        ends = np.array([start.transform.TransformPoint(p) for p in inside.tolist()])
        assert np.linalg.norm(ends - moved(inside), axis=1).mean() < most
    right = points[lungs(points) == 1]
    assert np.linalg.norm(moved(right) - right, axis=1).mean() > 30  # there was something to do


def test_lungs_that_both_stay_have_one_start():
    assert found_start(scans(1.0)) is None


def test_above_fluid_a_lung_is_not_drawn_out_of_its_place():
    """What is left of the right lung's mask would match the whole lung only when stretched."""
    fixed, (moving, mask) = scans(1.0)
    points = GRID.points()
    fluid = (lungs(points) == 1) & (points[..., 2] < 130.0)
    ripples = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(GRID.shape), 1.0)
    array = np.where(fluid, 10 + 40 * ripples / ripples.std(), moving.array)
    array = (array + np.random.default_rng(2).normal(0, 50, GRID.shape)).astype(np.float32)
    left = (mask.array > 0) & ~fluid
    assert found_start((fixed, (Volume(array, GRID), Volume(left.astype(np.uint8), GRID)))) is None


@pytest.mark.parametrize("bridge", [False, True])
def test_lungs_come_apart_also_where_they_touch(bridge):
    points = GRID.points()
    mask = lungs(points) > 0
    if bridge:
        mask |= (np.abs(points - CENTRES.mean(axis=0)) < [20, 4, 4]).all(axis=-1)
    found = two_lungs(distance_map(Volume(mask.astype(np.uint8), GRID)))
    right, left = CENTRES
    assert found.right.sample(right) < -30 < 30 < found.right.sample(left)
    assert found.left.sample(left) < -30 < 30 < found.left.sample(right)
    assert found.nearer(right) > 50 and found.nearer(left) < -50
    assert abs(found.nearer(CENTRES.mean(axis=0))) < 10


def test_one_lung_is_not_two():
    mask = lungs(GRID.points()) == 1
    assert two_lungs(distance_map(Volume(mask.astype(np.uint8), GRID))) is None
