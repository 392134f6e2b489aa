"""Phantoms with what real scans have: the motion stays true, findings are where they should be."""

import numpy as np
import pytest
from L2ORegistrationLib.core.geometry import Grid, Volume
from L2ORegistrationLib.phantom import disease, scanner
from L2ORegistrationLib.phantom.pair import make_anatomy, make_pair
from L2ORegistrationLib.phantom.varied import KINDS, faded, vary, with_emphysema, with_texture

SPACING = (2.5, 2.5, 2.5)


@pytest.fixture(scope="module")
def pair():
    return make_pair(1, spacing=SPACING, amplitude_mm=12.0, noise_hu=10.0, swap=False)


def masks(pair):
    return pair.fixed_mask.array > 0, pair.moving_mask.array > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_keeps_the_motion_and_is_the_same_for_a_seed(kind, pair):
    made, again = vary(pair, kind, 4), vary(pair, kind, 4)
    assert made.field is pair.field
    assert np.array_equal(made.fixed.array, again.fixed.array)
    assert np.array_equal(made.moving_mask.array, again.moving_mask.array)
    p, q = made.fixed_landmarks, made.moving_landmarks
    assert 10 < len(p) == len(q) <= len(pair.fixed_landmarks)
    np.testing.assert_allclose(pair.field.transform_points(p), q, atol=0.6)
    for image, mask in ((made.fixed, made.fixed_mask), (made.moving, made.moving_mask)):
        assert image.grid.matches(mask.grid) and np.isfinite(image.array).all()
        assert set(np.unique(mask.array)) == {0, 1}


def test_plain_is_the_pair_itself(pair):
    made = vary(pair, "plain", 4)
    assert made.fixed is pair.fixed and made.moving is pair.moving
    assert np.array_equal(made.fixed_landmarks, pair.fixed_landmarks)


def test_disease_is_in_one_scan_each_and_landmarks_keep_away_from_it(pair):
    made = vary(pair, "disease", 4)
    for before, after, mask, full, points in (
        (pair.fixed, made.fixed, made.fixed_mask, pair.fixed_mask, made.fixed_landmarks),
        (pair.moving, made.moving, made.moving_mask, pair.moving_mask, made.moving_landmarks),
    ):
        changed = before.array != after.array
        assert np.array_equal(changed, (full.array > 0) & (mask.array == 0))
        assert 0.005 < changed.sum() / full.array.sum() < 0.6
        assert np.median(after.array[changed]) > -60  # tissue, where there was air
        assert not Volume(changed.astype(np.float32), before.grid).sample(points).any()


def test_hard_masks_hold_the_lesions(pair):
    made = vary(pair, "hard", 4)
    assert all(map(np.array_equal, masks(made), masks(pair)))
    noise = made.moving.array - pair.moving.array
    outside = pair.moving_mask.array == 0
    assert 50 < noise[outside].std() < 170


def test_an_effusion_fills_the_lower_part_of_one_lung(pair):
    made = vary(pair, "effusion", 4)
    assert made.fixed is pair.fixed
    fluid = (pair.moving_mask.array > 0) & (made.moving_mask.array == 0)
    lungs = np.argwhere(pair.moving_mask.array)
    where = np.argwhere(fluid)
    middle = np.median(lungs[:, 2])
    side = where[:, 2] < middle
    assert side.all() or not side.any()
    one = lungs[(lungs[:, 2] < middle) == side[0]]
    assert where[:, 0].mean() < one[:, 0].mean()
    assert 0.14 < len(where) / len(one) < 0.71


@pytest.mark.parametrize("own", [1.0, 1.25, 2.5, 5.0])
def test_a_thick_slice_shows_what_lies_around_its_middle(own):
    """Where a voxel's value is its height, a slice has the height of its middle."""
    grid = Grid((9, 8, 80), (3.0, 3.0, own), (-5.0, 7.0, -60.0))
    height = grid.points()[..., 2]
    scan = scanner.Scan(
        Volume((1e4 * height).astype(np.float32), grid), Volume(height * 0 + 1, grid)
    )
    for seed in range(6):
        made = scanner.thick_slices(np.random.default_rng(seed), scan).image
        middle = made.grid.points()[..., 2]
        assert np.abs(made.array[1:-1] / 1e4 - middle[1:-1]).max() < 0.03
        assert grid.contains(made.grid.corners()).all()


def test_slices_are_thick_and_average_what_lies_in_them(pair):
    made = vary(pair, "thick", 4)
    for image, before in ((made.fixed, pair.fixed), (made.moving, pair.moving)):
        assert 3 <= image.grid.spacing[2] <= 6
        assert image.grid.spacing[:2] == before.grid.spacing[:2]
        assert image.array.mean() == pytest.approx(before.array.mean(), abs=15)


def test_a_wide_voxel_shows_what_lies_around_its_middle_along_every_axis():
    """Where a voxel's value is its place, an average has the place of its middle."""
    grid = Grid((40, 44, 30), (1.5, 1.5, 2.5), (-5.0, 7.0, -60.0))
    for axis in range(3):
        place = grid.points()[..., axis]
        scan = scanner.Scan(
            Volume((1e4 * place).astype(np.float32), grid), Volume(place * 0 + 1, grid)
        )
        made = scanner.wide_voxels(np.random.default_rng(axis), scan).image
        middle, inner = made.grid.points()[..., axis], (slice(1, -1),) * 3
        assert np.abs(made.array[inner] / 1e4 - middle[inner]).max() < 0.03
        assert 2 <= made.grid.spacing[0] == made.grid.spacing[1] <= 5
        assert grid.contains(made.grid.corners()).all()


def test_a_faded_grain_is_each_scans_own_and_only_in_the_lungs(pair):
    made = faded(pair, 3)
    grains = []
    for image, before, mask in (
        (made.fixed, pair.fixed, pair.fixed_mask),
        (made.moving, pair.moving, pair.moving_mask),
    ):
        grain, lungs = image.array - before.array, mask.array > 0
        assert not grain[~lungs].any() and 8 < grain[lungs].std() < 60
        grains.append(grain[(pair.fixed_mask.array > 0) & (pair.moving_mask.array > 0)])
    assert abs(np.corrcoef(*grains)[0, 1]) < 0.02


def test_partial_scans_lack_lung_at_one_end(pair):
    made = vary(pair, "partial", 4)
    for mask, before in ((made.fixed_mask, pair.fixed_mask), (made.moving_mask, pair.moving_mask)):
        assert 0.5 < mask.array.sum() / before.array.sum() < 1
        points = mask.marked_points(most=500)
        assert (before.sample(points, order=0) > 0).all()  # what is left lies where it was


def test_contrast_brightens_what_holds_blood(pair):
    scan = scanner.Scan(pair.fixed, pair.fixed_mask)
    made = scanner.contrast_agent(np.random.default_rng(0), scan)
    change = made.image.array - pair.fixed.array
    inside = pair.fixed_mask.array > 0
    assert change.min() >= 0 and change[inside & (pair.fixed.array < -400)].max() == 0
    assert change[inside & (pair.fixed.array > 0)].min() >= 79


def test_metal_is_bright_and_confined_to_its_slices(pair):
    scan = scanner.Scan(pair.fixed, pair.fixed_mask)
    image = scanner.metal(np.random.default_rng(0), scan).image.array
    changed = np.flatnonzero((image != np.clip(pair.fixed.array, -1024, 3071)).any(axis=(1, 2)))
    assert len(changed) == 5 and image[changed].max() > 2900


def test_a_shaky_mask_keeps_its_inside(pair):
    scan = scanner.Scan(pair.fixed, pair.fixed_mask)
    made = scanner.shaky_mask(np.random.default_rng(3), scan).mask.array > 0
    inside = pair.fixed_mask.array > 0
    assert 0.7 < (made & inside).sum() / (made | inside).sum() < 1


def test_emphysema_is_in_the_patient_and_spares_vessels():
    anatomy = make_anatomy(2, 4.0, detail=0.1)
    made = with_emphysema(anatomy, 5)
    change = made.image.array - anatomy.image.array
    lungs = anatomy.lungs.array > 0
    assert not change[~lungs].any() and change.max() <= 1e-3
    assert 0.01 < (change < -20)[lungs].mean() < 0.6
    assert not change[anatomy.image.array > -600].any()


def test_texture_is_in_the_patients_lungs_only_and_fine():
    anatomy = make_anatomy(2, 4.0, detail=0.1)
    change = with_texture(anatomy, 5).image.array - anatomy.image.array
    lungs = anatomy.lungs.array > 0
    assert not change[~lungs].any() and 10 < change[lungs].std() < 75
    along = change[:-1][lungs[:-1] & lungs[1:]], change[1:][lungs[:-1] & lungs[1:]]
    assert np.corrcoef(*along)[0, 1] < 0.75  # 0.7 for the widest grain


def test_nodules_stay_in_every_mask(pair):
    lungs = pair.fixed_mask.array > 0
    image = pair.fixed.array.copy()
    region = disease.nodules(np.random.default_rng(1), image, lungs, np.array(SPACING))
    assert not region.any()
    changed = image != pair.fixed.array
    assert changed.any() and not changed[~lungs].any()
