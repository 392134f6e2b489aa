"""Grids, volumes and fields agree with SimpleITK about where things are."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from scipy.spatial.transform import Rotation

finite = st.floats(-300, 300, allow_nan=False, width=32)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def grids(draw, least=2):
    """Oblique, left-handed, anisotropic grids of at least so many voxels along each axis."""
    angles = draw(st.tuples(finite, finite, finite))
    flip = np.diag(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ flip
    return Grid(
        size=draw(st.tuples(*[st.integers(least, 7)] * 3)),
        spacing=draw(st.tuples(*[st.floats(0.3, 8.0)] * 3)),
        origin=draw(st.tuples(finite, finite, finite)),
        direction=direction,
    )


def image_on(grid, array=None, vector=False):
    array = np.zeros(grid.shape, np.float32) if array is None else array
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def points_within(grid, rng, count=20):
    return grid.to_world(rng.random((count, 3)) * (np.array(grid.size) - 1))


@settings(deadline=None, max_examples=50)
@given(grids(), seeds)
def test_index_and_world_agree_with_simpleitk(grid, seed):
    image = image_on(grid)
    index = np.random.default_rng(seed).uniform(-3, 9, (5, 3))
    world = grid.to_world(index)
    expected = [image.TransformContinuousIndexToPhysicalPoint(i) for i in index.tolist()]
    np.testing.assert_allclose(world, expected, atol=1e-6)
    np.testing.assert_allclose(grid.to_index(world), index, atol=1e-6)
    corner = [n - 1 for n in grid.size]
    expected = image.TransformIndexToPhysicalPoint(corner)
    np.testing.assert_allclose(grid.points()[-1, -1, -1], expected, atol=1e-6)
    np.testing.assert_allclose(grid.points()[0, 0, 1], grid.to_world([1, 0, 0]), atol=1e-9)
    assert Grid.of_image(image).matches(grid)


@settings(deadline=None, max_examples=30)
@given(grids(), grids(), seeds)
def test_sampling_agrees_with_resample(grid, target, seed):
    rng = np.random.default_rng(seed)
    # The target lies across the border of the image, so that both sides of it are compared.
    target = Grid(target.size, target.spacing, grid.to_world([0.5, 1, 1]), target.direction)
    index = grid.to_index(target.points())
    on_the_edge = (np.abs(index + 0.5) < 1e-3) | (np.abs(index + 0.5 - grid.size) < 1e-3)
    array = rng.normal(size=grid.shape).astype(np.float32)
    resampled = sitk.Resample(
        image_on(grid, array), image_on(target), sitk.Transform(), sitk.sitkLinear, -7.0
    )
    sampled = Volume(array, grid).sample(target.points(), outside=-7.0)
    difference = np.abs(sampled - sitk.GetArrayFromImage(resampled))
    assert np.where(on_the_edge.any(axis=-1), 0, difference).max() < 1e-3


@given(grids(), seeds)
@settings(deadline=None, max_examples=30)
def test_an_image_sampled_on_its_own_grid_is_itself(grid, seed):
    array = np.random.default_rng(seed).random(grid.shape) > 0.5
    for order in (0, 1):
        sampled = Volume(array, grid).sample(grid.points(), order=order, outside=9.0)
        np.testing.assert_allclose(sampled, array, atol=1e-4)


def test_sampling_continues_the_edge_or_gives_the_outside_value():
    volume = Volume(np.array([[[1.0, 2.0]]], np.float32), Grid((2, 1, 1)))
    points = [[-0.4, 0, 0], [0.25, 0, 0], [5, 0, 0]]
    np.testing.assert_allclose(volume.sample(points), [1, 1.25, 2])
    np.testing.assert_allclose(volume.sample(points, outside=0.0), [1, 1.25, 0])
    assert volume.sample([0.75, 0, 0], order=0) == 2


@settings(deadline=None, max_examples=30)
@given(grids(), seeds)
def test_field_moves_points_as_simpleitk_does(grid, seed):
    rng = np.random.default_rng(seed)
    array = rng.normal(scale=10, size=(*grid.shape, 3)).astype(np.float32)
    field = DisplacementField(array, grid)
    transform = sitk.DisplacementFieldTransform(
        image_on(grid, array.astype(np.float64), vector=True)
    )
    points = points_within(grid, rng)
    expected = [transform.TransformPoint(p) for p in points.tolist()]
    np.testing.assert_allclose(field.transform_points(points), expected, atol=1e-3)
    expected = [field.to_transform().TransformPoint(p) for p in points.tolist()]
    np.testing.assert_allclose(field.transform_points(points), expected, atol=1e-3)
    np.testing.assert_array_equal(DisplacementField.of_image(field.to_image()).array, array)
    half = field.scaled(0.5).transform_points(points)
    np.testing.assert_allclose(half, (points + expected) / 2, atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(grids(), seeds)
def test_affine_transform_becomes_an_exact_field_and_survives_resampling(grid, seed):
    rng = np.random.default_rng(seed)
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((np.eye(3) + rng.normal(scale=0.1, size=(3, 3))).ravel().tolist())
    affine.SetTranslation(rng.normal(scale=10, size=3).tolist())
    field = DisplacementField.of_transform(affine, grid)
    points = points_within(grid, rng)
    expected = [affine.TransformPoint(p) for p in points.tolist()]
    np.testing.assert_allclose(field.transform_points(points), expected, atol=1e-3)

    # Linear interpolation keeps an affine motion, so a lattice inside the first one does too.
    last = np.array(grid.size) - 1
    inner = Grid((3, 3, 3), last * grid.spacing / 4, grid.to_world(last / 4), grid.direction)
    points = points_within(inner, rng)
    expected = [affine.TransformPoint(p) for p in points.tolist()]
    moved = field.resampled(inner).transform_points(points)
    np.testing.assert_allclose(moved, expected, atol=1e-3)


def test_field_of_a_transform_with_identity():
    grid = Grid((2, 3, 4))
    identity = DisplacementField.of_transform(sitk.Transform(3, sitk.sitkIdentity), grid)
    np.testing.assert_array_equal(identity.array, DisplacementField.zeros(grid).array)


@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=5), st.floats(0.5, 9))
def test_covering_grid_contains_the_points_and_their_margin(points, spacing):
    points = np.array(points)
    grid = Grid.covering(points, spacing, margin=2.0)
    for shift in (-2.0, 0.0, 2.0):
        assert grid.contains(points + shift, margin=1e-3).all()
    assert (np.ptp(grid.corners(), axis=0) <= np.ptp(points, axis=0) + 4 + 2 * spacing).all()


def test_contains_reaches_half_a_voxel_beyond_the_centres():
    grid = Grid((2, 2, 2), (2.0, 2.0, 2.0))
    assert grid.contains([[-0.9, 0, 2.9], [-1.1, 0, 0]]).tolist() == [True, False]


def test_a_shifted_grid_does_not_match():
    assert not Grid((2, 2, 2)).matches(Grid((2, 2, 2), origin=(0, 0, 0.1)))
    assert not Grid((2, 2, 2)).matches(Grid((2, 2, 3)))


@pytest.mark.parametrize(
    "wrong",
    [
        dict(size=(0, 2, 2)),
        dict(size=(2, 2)),
        dict(spacing=(1, 1, 0)),
        dict(spacing=(1, np.nan, 1)),
        dict(origin=(0, 0, np.inf)),
        dict(direction=np.zeros((3, 3))),
        dict(direction=np.full((3, 3), np.nan)),
    ],
)
def test_impossible_grids_are_refused(wrong):
    with pytest.raises(ValueError, match="A grid needs"):
        Grid(**{"size": (2, 2, 2), **wrong})


def test_arrays_that_do_not_fit_their_grid_are_refused():
    with pytest.raises(ValueError, match=r"\(z, y, x\)"):
        Volume(np.zeros((2, 3, 4)), Grid((2, 3, 4)))
    with pytest.raises(ValueError, match="its grid needs"):
        DisplacementField(np.zeros((4, 3, 2)), Grid((2, 3, 4)))


def test_marked_points_by_hand():
    array = np.zeros((2, 3, 4), np.uint8)
    array[0, 2, 3] = array[1, 0, 1] = 5
    volume = Volume(array, Grid((4, 3, 2), (2.0, 1.0, 3.0), (10.0, 20.0, 30.0)))
    np.testing.assert_array_equal(volume.marked_points(), [(16, 22, 30), (12, 20, 33)])
    assert volume.marked_points(most=1).tolist() in ([[16, 22, 30]], [[12, 20, 33]])
    everything = Volume(np.ones((5, 5, 5)), Grid((5, 5, 5)))
    assert [len(everything.marked_points(most)) for most in (124, 125, 10)] == [124, 125, 10]
    nothing = Volume(np.zeros((2, 2, 2)), Grid((2, 2, 2)))
    assert nothing.marked_points().shape == nothing.marked_points(most=3).shape == (0, 3)


def test_many_marked_points_are_thinned_out_and_no_layer_is_lost():
    array = np.zeros((60, 50, 40), np.uint8)
    array[5:9, 1:, :] = array[30:, 20:, 7:] = 1
    volume = Volume(array, Grid((40, 50, 60), (1.0, 2.0, 0.5)))
    points = volume.marked_points(most=30)
    assert 15 <= len(points) <= 30
    assert volume.sample(points, order=0).all()
    assert (points[:, 2] < 5).any() and (points[:, 2] >= 15).any()


@pytest.mark.parametrize("most", [5_000, 20_000, 100_000])
def test_points_chosen_from_a_block_are_of_all_of_it(most):
    """A stride over the voxels would be in step with the rows."""
    block = Volume(np.ones((100, 100, 100), bool), Grid((100, 100, 100)))
    points = block.marked_points(most)
    assert len(points) == len(np.unique(points, axis=0)) == most
    assert np.allclose(points.mean(axis=0), 49.5, atol=1.5)
    assert np.array_equal(points, block.marked_points(most))


def test_the_box_of_what_is_marked():
    array = np.zeros((4, 5, 6), bool)
    array[1, 2, 3] = array[2, 4, 1] = True
    volume = Volume(array, Grid((6, 5, 4)))
    assert volume.box() == (slice(1, 3), slice(2, 5), slice(1, 4))
    assert Volume(array & False, volume.grid).box() == (slice(0, 0),) * 3


@settings(deadline=None, max_examples=20)
@given(grids(), grids(), seeds)
def test_whole_numbers_are_interpolated_and_warped_as_fractions_are(grid, target, seed):
    rng = np.random.default_rng(seed)
    whole = Volume(rng.integers(-1000, 1000, grid.shape).astype(np.int16), grid)
    fractions = Volume(whole.array.astype(np.float32), grid)
    points = points_within(grid, rng)
    for order in (0, 1):
        found = whole.sample(points, order)
        np.testing.assert_allclose(found, fractions.sample(points, order), atol=1e-3)
        assert found.dtype == np.float32
    still = DisplacementField.zeros(target)
    warped = still.warp(whole, target)
    np.testing.assert_allclose(warped.array, still.warp(fractions, target).array, atol=1e-3)
    assert warped.array.dtype == np.float32


def test_bool_volumes_become_8_bit_images():
    image = Volume(np.ones((2, 2, 2), bool), Grid((2, 2, 2))).to_image()
    assert image.GetPixelID() == sitk.sitkUInt8
    assert Volume.of_image(image).array.all()


@settings(deadline=None, max_examples=30)
@given(grids(), seeds)
def test_a_part_stays_where_it_is(grid, seed):
    rng = np.random.default_rng(seed)
    volume = Volume(rng.normal(size=grid.shape).astype(np.float32), grid)
    first = [int(rng.integers(0, n)) for n in grid.size]
    size = [int(rng.integers(1, n - f + 1)) for n, f in zip(grid.size, first)]
    part = volume.part(*(slice(f, f + n) for f, n in zip(first[::-1], size[::-1])))
    expected = sitk.RegionOfInterest(volume.to_image(), size, first)
    assert part.grid.matches(Grid.of_image(expected))
    np.testing.assert_array_equal(part.array, sitk.GetArrayFromImage(expected))


@settings(deadline=None, max_examples=30)
@given(grids(), seeds)
def test_what_is_padded_stays_where_it_is_and_holds_points(grid, seed):
    rng = np.random.default_rng(seed)
    volume = Volume(rng.normal(size=grid.shape).astype(np.float32), grid)
    points = grid.to_world(rng.uniform(-8, np.array(grid.size) + 7, (4, 3)))
    padded = volume.padded(points)
    np.testing.assert_allclose(padded.sample(grid.points()), volume.array, atol=1e-4)
    assert padded.grid.contains(points, margin=0).all()
    assert np.count_nonzero(padded.array) == np.count_nonzero(volume.array)
    rim = volume.padded()
    assert rim.grid.size == tuple(n + 2 for n in grid.size)
    assert padded.grid.spacing == grid.spacing and padded.grid.direction == grid.direction
