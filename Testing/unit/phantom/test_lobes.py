"""Lobes slide along the oblique fissures and never across; what the pair says of it is exact."""

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.phantom.lobes import CLEAR_MM, LobeSliding
from L2ORegistrationLib.phantom.pair import make_anatomy, make_pair
from scipy import ndimage

SPACING, MOST_MM = 3.0, 12.0
PAIR = {"noise_hu": 0, "density": False, "amplitude_mm": 20, "sliding": False}


@pytest.fixture(scope="module")
def anatomy():
    return make_anatomy(3, SPACING)


@pytest.fixture(scope="module")
def lobes(anatomy):
    return LobeSliding.draw(np.random.default_rng(0), anatomy, MOST_MM)


@pytest.fixture(scope="module")
def points(anatomy, lobes):
    """Some of the lungs' points, and how far from the fissure each is."""
    chosen = anatomy.lungs.marked_points(most=4000)
    return chosen, np.abs(lobes.distance.sample(chosen))


def test_no_point_crosses_the_fissure_or_leaves_its_lung(anatomy, lobes, points):
    before, far = points
    after = lobes(before)
    assert np.linalg.norm(after - before, axis=1).max() > 0.25 * MOST_MM
    lungs = anatomy.lungs.sample(before, order=0)
    assert (anatomy.lungs.sample(after, order=0) == lungs).mean() > 0.999
    ends = lobes.distance.sample(after)
    kept = far > 0.5
    assert (np.sign(ends) == np.sign(lobes.distance.sample(before)))[kept].all()
    # Also the distance stays, but for the blend of gradients between voxels of 3 mm.
    change = np.abs(np.abs(ends) - far)
    assert np.percentile(change, 95) < 0.3


def test_the_lobes_go_opposite_ways_and_only_near_the_fissure(lobes, points):
    before, far = points
    moved = (lobes(before) - before)[:, 2]
    above = lobes.distance.sample(before) > 0
    near = far < 10
    for side in (before[:, 0] < 0, before[:, 0] > 0):
        up, down = (moved[near & side & where].mean() for where in (above, ~above))
        assert up * down < 0 and abs(up - down) > 1
    assert np.abs(moved[far > 70]).max() < 0.1


def test_the_way_back_is_the_way_back(lobes, points):
    before, far = points
    back = lobes(lobes(before), back=True)
    assert np.linalg.norm(back - before, axis=1)[far > 0.5].max() < 0.05


@pytest.mark.parametrize("swap", [False, True])
def test_the_field_takes_landmarks_and_image_to_moving(anatomy, swap):
    pair = make_pair(5, anatomy=anatomy, swap=swap, lobes_mm=MOST_MM, **PAIR)
    usual = make_pair(5, anatomy=anatomy, swap=swap, **PAIR)
    inner = ndimage.binary_erosion(pair.fixed_mask.array)
    assert np.abs(pair.field.array - usual.field.array)[inner].max() > 0.25 * MOST_MM
    still = pair.fixed_landmarks if swap else pair.moving_landmarks
    lobes = LobeSliding.draw(np.random.default_rng([5, 41]), anatomy, MOST_MM)
    far = np.abs(lobes.distance.sample(still))
    assert len(far) > 100 and far.min() > CLEAR_MM
    miss = pair.field.transform_points(pair.fixed_landmarks) - pair.moving_landmarks
    miss = np.linalg.norm(miss, axis=1)
    # The field is exact at voxels of 3 mm; it bends more than without lobes, and it jumps.
    assert miss[far > 4 * SPACING].max() < 0.25 and np.median(miss) < 0.05

    points = pair.fixed.grid.points() + pair.field.array
    fixed, warped = (
        ndimage.gaussian_filter(array, 1)
        for array in (pair.fixed.array, pair.moving.sample(points))
    )
    assert np.corrcoef(fixed[inner], warped[inner])[0, 1] > 0.95


def test_the_motion_jumps_at_the_fissure_alone(anatomy):
    """Neighbouring voxels move alike; with lobes only those across the fissure do not."""
    lobes = LobeSliding.draw(np.random.default_rng([5, 41]), anatomy, MOST_MM)
    inner = ndimage.binary_erosion(anatomy.lungs.array > 0, iterations=2)
    pairs = [
        make_pair(5, anatomy=anatomy, swap=True, lobes_mm=most, **PAIR) for most in (0, MOST_MM)
    ]
    jumps = [np.abs(np.diff(pair.field.array[..., 2], axis=1)) for pair in pairs]
    both = inner[:, 1:] & inner[:, :-1]
    across = np.diff(np.sign(lobes.distance.array), axis=1) != 0
    assert jumps[0][both].max() < SPACING
    assert jumps[1][both & across].max() > 1.5 * jumps[1][both & ~across].max()


def test_an_impossible_slide_is_refused():
    with pytest.raises(InputError, match="sliding of lobes"):
        make_pair(0, lobes_mm=-1)
