"""Whole registrations from every start: lungs, landmarks, given transforms, patients elsewhere."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import L2ORegistrationLib as l2o  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from breaths import FAST, GOOD, error, masks, register  # noqa: E402
from L2ORegistrationLib.core.files import write_transform  # noqa: E402
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume  # noqa: E402
from L2ORegistrationLib.core.measures import target_registration_error  # noqa: E402
from L2ORegistrationLib.outputs.correction import corrected  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402


@pytest.mark.parametrize("start, before", [("affine", 5), ("box", 6), ("none", 16)])
def test_every_start_begins_where_it_should(start, before, pair):
    result = register(pair, start=start)
    assert error(result.steps[1].field, pair) < before
    assert error(result.field, pair) < 2.5


def test_landmarks_are_where_the_start_puts_them(pair):
    chosen = slice(None, None, 60)
    points = pair.fixed_landmarks[chosen], pair.moving_landmarks[chosen]
    result = register(pair, start="landmarks", landmarks=points)
    # The spline has kinks at its points, which a 6 mm grid rounds off.
    assert target_registration_error(result.steps[1].field, *points).mean() < 0.8
    assert error(result.field, pair) < GOOD


def field_of(pair):
    """A nonlinear start as a user may have one: the truth, smoothed to a 16 mm grid."""
    return pair.field.resampled(Grid.covering(pair.fixed.grid.corners(), 16.0))


def test_given_transforms_of_every_kind_are_the_start(pair, tmp_path):
    shift = (pair.moving_landmarks - pair.fixed_landmarks).mean(axis=0)
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    translation = sitk.TranslationTransform(3, shift.tolist())
    field = field_of(pair)
    linear, bent = tmp_path / "linear.tfm", tmp_path / "bent.nrrd"
    sitk.WriteTransform(translation, str(linear))
    write_transform(field, bent)
    kinds = {
        "matrix": (matrix, translation),
        "transform": (translation, translation),
        "file": (linear, translation),
        "composite": (sitk.CompositeTransform([translation]), translation),
        "field": (field, field),
        "field's file": (bent, field),
        "field's transform": (field.to_transform(), field),
    }
    for name, (given, expected) in kinds.items():
        steps = iter(l2o.Registration(pair.fixed, pair.moving, **masks(pair), **FAST,
                                      initial_transform=given))  # fmt: skip
        next(steps)
        found = next(steps).field.transform_points(pair.fixed_landmarks)
        if isinstance(expected, DisplacementField):
            wanted = expected.transform_points(pair.fixed_landmarks)
        else:
            wanted = pair.fixed_landmarks + shift
        assert np.linalg.norm(found - wanted, axis=1).mean() < 0.5, name


def test_a_given_nonlinear_start_is_improved(pair):
    field = field_of(pair)
    result = register(pair, initial_transform=field, start="none")
    assert error(result.field, pair) < GOOD
    assert result.provenance["start"] == "given transform"


def test_a_given_field_that_ends_within_the_lungs_makes_no_jump(pair):
    """Its edge value goes on, where SimpleITK would take it to be zero."""
    shift = np.float32((pair.moving_landmarks - pair.fixed_landmarks).mean(axis=0) + [0, 0, 40])
    grid = Grid.covering(pair.fixed_landmarks, 10.0, margin=-40.0)
    given = DisplacementField(np.broadcast_to(shift, (*grid.shape, 3)).copy(), grid)
    steps = iter(l2o.Registration(pair.fixed, pair.moving, **masks(pair), **FAST,
                                  initial_transform=given))  # fmt: skip
    next(steps)
    field = next(steps).field
    np.testing.assert_allclose(field.array, np.broadcast_to(shift, field.array.shape), atol=1e-3)


def test_a_patient_far_away_in_the_other_scan(pair):
    """Two scanners, two origins: 500 mm apart, and nothing overlaps before the start."""
    away = np.array([500.0, -300.0, 800.0])
    grid = replace(pair.moving.grid, origin=tuple(np.add(pair.moving.grid.origin, away)))
    far = SimpleNamespace(
        fixed=pair.fixed,
        moving=Volume(pair.moving.array, grid),
        fixed_mask=pair.fixed_mask,
        moving_mask=Volume(pair.moving_mask.array, grid),
        fixed_landmarks=pair.fixed_landmarks,
        moving_landmarks=pair.moving_landmarks + away,
    )
    assert error(register(far).field, far) < GOOD


def test_fluid_in_a_lung_of_a_patient_who_lies_turned_elsewhere(pair):
    """The masks alone would stretch the healthy lung over what the fluid has left of the other."""
    grid, lungs = pair.moving.grid, pair.moving_mask.array != 0
    z, _, x = np.indices(lungs.shape)
    low, high = np.flatnonzero(lungs.any(axis=(1, 2)))[[0, -1]]
    right = x < np.argwhere(lungs)[:, 2].mean()
    fluid = lungs & right & (z < low + 0.85 * (high - low))
    image = Volume(np.where(fluid, 20, pair.moving.array).astype(np.float32), grid)
    mask = Volume((lungs & ~fluid).astype(np.float32), grid)

    turn = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    away, middle = np.array([200.0, -200.0, 200.0]), grid.to_world(np.array(grid.size) / 2)
    back = (grid.points() - middle) @ turn + middle
    there = Grid(grid.size, grid.spacing, np.add(grid.origin, away), grid.direction)
    ends = (pair.moving_landmarks - middle) @ turn.T + middle
    dry = mask.sample(pair.moving_landmarks, order=0) > 0
    seen = dry & grid.contains(ends)
    turned = SimpleNamespace(
        fixed=pair.fixed,
        moving=Volume(image.sample(back, outside=-1000.0).astype(np.float32), there),
        fixed_mask=pair.fixed_mask,
        moving_mask=Volume(mask.sample(back, order=0, outside=0.0), there),
        fixed_landmarks=pair.fixed_landmarks[seen],
        moving_landmarks=ends[seen] + away,
    )
    assert seen.sum() > 50
    assert error(register(turned).field, turned) < GOOD


@pytest.mark.slow
def test_three_landmarks_mend_what_more_iterations_do_not(pair):
    """From 90 mm away: bent through three pairs, what is still wrong around them is searched."""
    fixed, moving = pair.fixed_landmarks, pair.moving_landmarks
    failed = register(pair, initial_transform=sitk.TranslationTransform(3, (0, 0, 90)))
    further = register(pair, initial_transform=failed.field)
    assert failed.verdict == "failed"
    assert error(failed.field, pair) > 40 and error(further.field, pair) > 40
    low, high = fixed[:, 2].argmin(), fixed[:, 2].argmax()
    apart = np.linalg.norm(fixed - fixed[low], axis=1) + np.linalg.norm(fixed - fixed[high], axis=1)
    chosen = [low, high, apart.argmax()]
    bent = corrected(failed.field, fixed[chosen], moving[chosen])
    mended = register(pair, initial_transform=bent, pinned=fixed[chosen], method="gauss-newton")
    others = np.delete(target_registration_error(mended.field, fixed, moving), chosen)
    assert others.mean() < GOOD
