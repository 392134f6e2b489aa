"""The inverse leads back, on any grid, counts folds, and says what leaves the moving image."""

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.outputs.fields import as_field
from L2ORegistrationLib.outputs.inverse import invert
from scipy import ndimage
from scipy.spatial.transform import Rotation

TURN = Rotation.from_euler("xyz", [20, -10, 35], degrees=True).as_matrix()
GRIDS = {
    "upright": Grid((20, 18, 16), (6.0, 6.0, 6.0), (-50.0, 30.0, 10.0)),
    "oblique": Grid((20, 18, 24), (6.0, 7.0, 4.0), (-50.0, 30.0, 10.0), TURN.ravel()),
    "left-handed": Grid(
        (20, 18, 24), (6.0, 7.0, 4.0), (5.0, 3.0, 1.0), (TURN * [1, 1, -1]).ravel()
    ),
}


def breath(grid, amount=8.0):
    """A smooth motion that fades nowhere and compresses by up to a half."""
    p = (grid.points() - grid.to_world((np.array(grid.size) - 1) / 2)) / 25
    u = np.stack([np.sin(p[..., 1]), np.cos(p[..., 2]), np.sin(p[..., 2]) + p[..., 0] / 8], -1)
    return DisplacementField((amount * u).astype(np.float32), grid)


def inner(grid):
    index = np.random.default_rng(1).uniform(3, np.array(grid.size) - 4, (2000, 3))
    return grid.to_world(index)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_leads_back_on_any_grid(grid):
    field, points = breath(grid), inner(grid)
    found = invert(field, points)
    # SimpleITK follows both transforms as it would follow the files.
    there, back = field.to_transform(), found.field.to_transform()
    again = [back.TransformPoint(there.TransformPoint(p)) for p in points.tolist()]
    errors = np.linalg.norm(again - points, axis=1)
    assert errors.mean() < 0.02 and errors.max() < 0.3
    assert found.errors.max() == pytest.approx(errors.max(), abs=1e-3)
    assert found.folded == found.outside == 0


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_shift_is_inverted_exactly(grid):
    shift = DisplacementField(np.full((*grid.shape, 3), (3, -4, 12.5), np.float32), grid)
    found = invert(shift)
    assert found.errors.max() < 1e-3
    assert np.allclose(found.field.array, (-3, 4, -12.5), atol=1e-3)


def test_covers_what_the_field_moves_to():
    grid = GRIDS["oblique"]
    field = breath(grid)
    found = invert(field)
    assert found.field.grid.contains((grid.points() + field.array).reshape(-1, 3)).all()


def test_folded_places_are_left_out_and_counted():
    grid = GRIDS["upright"]
    field = DisplacementField.zeros(grid)
    field.array[8, 9, 10, 0] = -20.0  # this node jumps over its neighbour
    points = grid.points().reshape(-1, 3)
    found = invert(field, points)
    assert 0 < found.folded < 200
    assert len(found.errors) == len(points) - found.folded
    assert found.summary()["max"] < 0.3
    assert f"{found.folded} points" in found.sentence() and "folded" in found.sentence()


def test_a_field_folded_at_many_places_is_refused_at_once():
    grid = Grid((40, 40, 40), (6.0, 6.0, 6.0))
    field = DisplacementField.zeros(grid)
    field.array[..., 2] = 20 * np.sin(np.arange(40))[:, None, None]
    with pytest.raises(InputError, match=r"folds at \d+ % of the places: it has no inverse"):
        invert(field)


@pytest.mark.parametrize("axis", range(3))
def test_nodes_lie_closer_along_the_axis_that_is_compressed(axis):
    grid = Grid((30, 30, 30), (6.0, 6.0, 6.0))
    field = DisplacementField.zeros(grid)
    wave = 5 * 6 * 0.7 * np.sin(np.arange(30) / 5)  # stretches by 0.3 at least
    field.array[..., axis] = wave.reshape([-1 if k == 2 - axis else 1 for k in range(3)])
    inner = grid.to_world(np.random.default_rng(0).uniform(1, 28, (20000, 3)))
    found = invert(field, inner)
    closer = np.round(np.array(grid.spacing) / found.field.grid.spacing)
    assert closer[axis] > 4 and (np.delete(closer, axis) == 2).all()
    assert found.summary()["max"] < 0.3


def test_what_is_told_of_the_round_trip_holds_at_points_that_were_not_asked_for():
    grid = Grid((30, 30, 30), (6.0, 6.0, 6.0))
    rng = np.random.default_rng(1)
    field = DisplacementField.zeros(grid)
    rough = ndimage.gaussian_filter(rng.standard_normal((30, 30, 30, 3)), (2, 2, 2, 0))
    field.array[:] = 2.5 * rough / rough.std()
    points = grid.to_world(rng.uniform(4, 25, (60000, 3)))
    found = invert(field, points[:20000])
    others = points[20000:]
    back = found.field.transform_points(field.transform_points(others))
    errors = np.linalg.norm(back - others, axis=1)
    told = found.summary()
    assert found.folded == 0 and told["max"] > 0.05  # hard enough to mean something
    assert errors.mean() < 1.05 * told["mean"] and np.percentile(errors, 95) < 1.1 * told["p95"]
    assert errors.max() < 1.5 * told["max"]


def test_says_what_leads_beyond_the_moving_image():
    grid = Grid((10, 10, 10), (5.0, 5.0, 5.0))
    field = DisplacementField.zeros(grid)
    field.array[..., 0] = 10.0
    found = invert(field, np.array([[10.0, 20, 20], [44, 20, 20], [45, 20, 20]]), grid)
    assert found.outside == 2 and "2 points lead beyond" in found.sentence()


def test_a_field_without_an_extent_is_refused():
    with pytest.raises(InputError, match="two nodes"):
        invert(DisplacementField.zeros(Grid((5, 5, 1))))


def test_a_transform_without_nodes_needs_a_grid():
    affine = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
    with pytest.raises(InputError, match="--reference"):
        as_field(affine)
    assert np.allclose(as_field(affine, Grid((3, 3, 3))).array, (1, 2, 3))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_an_affine_over_a_large_image_takes_few_nodes_and_is_inverted_exactly(grid):
    large = Grid((512, 512, 300), (0.8, 0.8, 1.25), grid.origin, grid.direction)
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((TURN @ np.diag([1.1, 0.9, 1.2])).ravel())
    affine.SetTranslation((5.0, -70.0, 12.0))
    field = as_field(affine, large)
    assert np.prod(field.grid.size) < 1e5 and field.grid.contains(large.corners()).all()
    points = large.to_world(np.random.default_rng(0).uniform(0, np.array(large.size) - 1, (200, 3)))
    ends = np.array([affine.TransformPoint(p) for p in points.tolist()])
    np.testing.assert_allclose(field.transform_points(points), ends, atol=1e-3)
    back = invert(field, points).field.transform_points(ends)
    np.testing.assert_allclose(back, points, atol=1e-3)


def test_a_spline_is_sampled_finely_and_on_few_nodes():
    large = Grid((300, 300, 200), (0.7, 0.7, 1.0))
    image = Volume(np.zeros(large.shape, np.uint8), large).to_image()
    spline = sitk.BSplineTransformInitializer(image, [6, 6, 6])
    rng = np.random.default_rng(0)
    spline.SetParameters(rng.uniform(-6, 6, len(spline.GetParameters())).tolist())
    field = as_field(spline, large)
    assert np.prod(field.grid.size) < 0.15 * np.prod(large.size)
    points = large.to_world(rng.uniform(5, np.array(large.size) - 6, (300, 3)))
    ends = np.array([spline.TransformPoint(p) for p in points.tolist()])
    np.testing.assert_allclose(field.transform_points(points), ends, atol=0.02)
