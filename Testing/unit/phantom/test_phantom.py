"""The breathing phantom: the same each time, and its motion is exactly what it says."""

from functools import cache

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.phantom.pair import make_anatomy, make_pair
from L2ORegistrationLib.phantom.splines import interpolate, lattice_over, smooth_noise, upsample
from L2ORegistrationLib.phantom.vessels import Tree, grow_tree, splat, tube_samples
from scipy import ndimage

COARSE = 3.0


@pytest.fixture(scope="module")
def anatomy():
    return make_anatomy(3, COARSE)


@pytest.fixture(scope="module")
def clean_pair(anatomy):
    """clean_pair(**options): two breaths of the patient without noise, each drawn once."""

    @cache
    def drawn(**options):
        return make_pair(5, anatomy=anatomy, noise_hu=0, density=False, amplitude_mm=30, **options)

    return lambda **options: drawn(**{"sliding": True, "shift_mm": 0, **options})


def jacobian(field: DisplacementField) -> np.ndarray:
    gradients = [np.gradient(field.array[..., k], *field.grid.spacing[::-1]) for k in range(3)]
    matrix = np.stack([np.stack(g[::-1], -1) for g in gradients], -2)
    return np.linalg.det(matrix + np.eye(3))


def test_same_seed_same_patient():
    first, again, other = (make_anatomy(seed, 2 * COARSE) for seed in (3, 3, 4))
    np.testing.assert_array_equal(again.image.array, first.image.array)
    np.testing.assert_array_equal(again.landmarks, first.landmarks)
    assert other.image.grid != first.image.grid


def test_same_seed_same_pair(anatomy):
    first, second = make_pair(5, anatomy=anatomy), make_pair(5, anatomy=anatomy)
    np.testing.assert_array_equal(first.moving.array, second.moving.array)
    np.testing.assert_array_equal(first.field.array, second.field.array)
    assert not np.array_equal(make_pair(6, anatomy=anatomy).field.array, first.field.array)


def test_patient_looks_like_a_chest(anatomy):
    hu, lungs = anatomy.image.array, anatomy.lungs.array
    assert hu.dtype == np.float32 and lungs.dtype == np.uint8
    for side in (1, 2):
        litres = (lungs == side).sum() * COARSE**3 / 1e6
        assert 0.8 < litres < 5
        assert -910 < np.median(hu[lungs == side]) < -750
    right, left = (np.argwhere(lungs == side)[:, 2].mean() for side in (1, 2))
    assert right < left, "in LPS the right lung has the smaller x"
    assert (hu > 250).mean() > 0.005, "bones"
    assert hu.min() >= -1001 and hu.max() < 1500
    assert len(anatomy.landmarks) > 300
    assert (anatomy.lungs.sample(anatomy.landmarks, order=0) > 0).all()


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("sliding", [False, True])
def test_field_takes_landmarks_and_image_to_moving(clean_pair, swap, sliding):
    pair = clean_pair(swap=swap, sliding=sliding)
    assert len(pair.fixed_landmarks) > 100
    found = pair.field.transform_points(pair.fixed_landmarks)
    assert np.linalg.norm(found - pair.moving_landmarks, axis=1).max() < 0.05
    assert np.linalg.norm(found - pair.fixed_landmarks, axis=1).max() > 10

    points = pair.fixed.grid.points() + pair.field.array
    inner = ndimage.binary_erosion(pair.fixed_mask.array)
    # Both are smoothed: sampling twice at 3 mm blurs the thinnest vessels.
    fixed, warped = (
        ndimage.gaussian_filter(array, 1)
        for array in (pair.fixed.array, pair.moving.sample(points))
    )
    assert np.corrcoef(fixed[inner], warped[inner])[0, 1] > 0.95
    still = ndimage.gaussian_filter(pair.moving.array, 1)
    assert np.corrcoef(fixed[inner], still[inner])[0, 1] < 0.8


@pytest.mark.parametrize("swap", [False, True])
def test_masks_match_through_the_field(clean_pair, swap):
    pair = clean_pair(swap=swap)
    fixed = pair.fixed_mask.array > 0
    assert pair.fixed_mask.array.dtype == np.uint8 and pair.fixed_mask.array.max() == 1
    inner = ndimage.binary_erosion(fixed)
    points = (pair.fixed.grid.points() + pair.field.array)[inner]
    assert pair.moving_mask.sample(points, order=0).mean() > 0.995
    assert np.median(pair.moving.array[pair.moving_mask.array > 0]) < -700
    volumes = [(m.array > 0).sum() for m in (pair.fixed_mask, pair.moving_mask)]
    assert (volumes[0] > volumes[1]) == swap, "swapped: fixed is inspiration"


def test_swapped_pair_has_the_inverse_field(clean_pair):
    plain, swapped = (clean_pair(swap=swap) for swap in (False, True))
    points = plain.fixed_landmarks
    there = plain.field.transform_points(points)
    back = swapped.field.transform_points(there)
    deep = Volume(ndimage.binary_erosion(swapped.fixed_mask.array, iterations=2), plain.fixed.grid)
    safe = deep.sample(there) == 1
    assert safe.sum() > 100
    # Fields are exact at their nodes; between those at 3 mm, a linear blend is not quite.
    assert np.linalg.norm(back - points, axis=1)[safe].max() < 0.2
    assert np.linalg.norm(back - points, axis=1)[safe].mean() < 0.03


@pytest.mark.parametrize("amplitude", [5, 60])
def test_motion_is_invertible_and_as_large_as_asked(anatomy, amplitude):
    pair = make_pair(5, anatomy=anatomy, amplitude_mm=amplitude, sliding=False, swap=False)
    assert jacobian(pair.field).min() > 0.1
    down = -pair.field.array[pair.fixed_mask.array > 0][:, 2]
    assert 0.6 * amplitude < np.percentile(down, 99.5) < 1.4 * amplitude


def test_without_breath_only_small_detail_remains(anatomy):
    pair = make_pair(5, anatomy=anatomy, amplitude_mm=0, noise_hu=0)
    assert np.abs(pair.field.array).max() < 8


def test_the_pleura_slides_only_when_asked(clean_pair):
    jumps = []
    for sliding in (False, True):
        pair = clean_pair(swap=False, sliding=sliding)
        jumps.append(np.abs(np.diff(pair.field.array[..., 2], axis=2)).max())
    assert jumps[0] < COARSE < 3 * COARSE < jumps[1]


def test_density_follows_the_volume(anatomy):
    plain = make_pair(5, anatomy=anatomy, amplitude_mm=60, noise_hu=0, density=False, swap=False)
    dense = make_pair(5, anatomy=anatomy, amplitude_mm=60, noise_hu=0, density=True, swap=False)
    inner = ndimage.binary_erosion(plain.fixed_mask.array)
    outer = ~ndimage.binary_dilation(plain.fixed_mask.array, iterations=2)
    assert np.median((dense.fixed.array - plain.fixed.array)[inner]) > 5
    np.testing.assert_allclose(dense.fixed.array[outer], plain.fixed.array[outer], atol=5)


def test_noise_has_the_asked_strength_and_differs_between_scans(anatomy):
    pair = make_pair(5, anatomy=anatomy, noise_hu=25, amplitude_mm=0, density=False)
    air = ndimage.binary_erosion(anatomy.image.array < -995, iterations=4)
    fixed, moving = (v.array[air] for v in (pair.fixed, pair.moving))
    assert fixed.std() == pytest.approx(25, rel=0.1)
    assert abs(np.corrcoef(fixed, moving)[0, 1]) < 0.1


def test_shift_moves_only_the_coordinates_of_the_second_scan(clean_pair):
    here, there = (clean_pair(shift_mm=s, swap=False) for s in (0, 40))
    np.testing.assert_array_equal(here.moving.array, there.moving.array)
    shift = np.subtract(there.moving.grid.origin, here.moving.grid.origin)
    assert 5 < np.abs(shift).max() <= 40
    np.testing.assert_allclose(
        there.moving_landmarks - here.moving_landmarks,
        shift[None] + np.zeros_like(here.moving_landmarks),
        atol=1e-6,
    )
    found = there.field.transform_points(there.fixed_landmarks)
    assert np.abs(found - there.moving_landmarks).max() < 0.05


def test_unequal_spacing():
    pair = make_pair(2, spacing=(3.0, 3.0, 5.0), swap=True, amplitude_mm=20)
    assert pair.fixed.grid.spacing == (3.0, 3.0, 5.0)
    found = pair.field.transform_points(pair.fixed_landmarks)
    assert np.abs(found - pair.moving_landmarks).max() < 0.05


@pytest.mark.parametrize("options", [{"spacing": 0}, {"amplitude_mm": -1}, {"noise_hu": np.nan}])
def test_impossible_wishes_are_refused(options):
    with pytest.raises(InputError):
        make_pair(0, **options)


def test_tubes_keep_their_volume_however_thin():
    grid = Grid((30, 30, 30), (1.5,) * 3)
    for radius in (0.3, 1.0, 4.0):
        ends = np.array([[10.0, 12, 14]]), np.array([[32.0, 30, 28]])
        tube = Tree(*ends, np.array([radius]), np.array([0]))
        length = np.linalg.norm(ends[1] - ends[0])
        drawn = splat(*tube_samples(tube, 0.8), grid)
        assert drawn.sum() * 1.5**3 == pytest.approx(np.pi * radius**2 * length, rel=0.05)
        assert drawn.max() <= 1


def test_tree_reaches_all_targets_and_thins_out():
    rng = np.random.default_rng(0)
    targets = rng.uniform(0, 50, (200, 3))
    tree = grow_tree(rng, np.array([-10.0, 25, 25]), targets, np.zeros(200, int), 0.25)
    for target in targets:
        assert np.linalg.norm(tree.end - target, axis=1).min() < 1e-9
    assert tree.radius[tree.generation == 0].min() == tree.radius.max()


def test_splines_interpolate_the_lattice():
    grid = Grid((20, 21, 22), (2.0, 2.5, 3.0))
    lattice = lattice_over(grid, 6.0)
    noise = smooth_noise(np.random.default_rng(0), lattice, 30)
    inner = (slice(4, -4),) * 3  # near the border nodes are missing
    again = interpolate(noise, lattice, lattice)
    np.testing.assert_allclose(again[inner], noise[inner], atol=1e-2)
    ramp = lattice.points()[..., 0]
    np.testing.assert_allclose(upsample(ramp, lattice, grid), grid.points()[..., 0], atol=1e-3)
