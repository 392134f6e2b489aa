"""The working grid: around the lungs, along the patient, however a file stores its voxels."""

import numpy as np
import pytest

pytest.importorskip("torch")

import SimpleITK as sitk  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine.field.pyramid import FeaturePyramid  # noqa: E402
from L2ORegistrationLib.engine.field.whole import WholeField, continued, start_grid  # noqa: E402
from L2ORegistrationLib.engine.images.preprocessing import (  # noqa: E402
    BLOCK,
    MARGIN_MM,
    resample,
    working_grid,
    working_pair,
)
from L2ORegistrationLib.engine.start.alignment import affine, distance_map  # noqa: E402

GRID = Grid((60, 50, 45), (2.0, 2.2, 2.5), (-58.0, -52.0, -60.0))
IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


def ball(grid, centre=(0, 0, 0), radius=35.0):
    """A body of water with a ball of air in it, and the mask of the ball."""
    inside = np.linalg.norm(grid.points() - centre, axis=-1) < radius
    waves = 80 * np.sin(grid.points() @ (0.2, 0.3, 0.1))
    return (
        Volume(np.where(inside, -800 + waves, 20 + waves).astype(np.float32), grid),
        Volume(inside, grid),
    )


def pair_of(image, mask, start=IDENTITY, spacing=3.0):
    distance = distance_map(mask)
    return working_pair(image, image, distance, distance, start, spacing)


def test_how_often_the_working_grid_repeats_a_voxel_by_hand():
    """Fixed: 1 mm in plane, 6 mm thick: twice at 3 mm; moving: 6 x 3 x 12 mm: eight times."""
    grids = [
        Grid((120, 110, 19), (1.0, 1.0, 6.0), (-58.0, -52.0, -60.0)),
        Grid((20, 36, 10), (6.0, 3.0, 12.0), (-58.0, -52.0, -60.0)),
    ]
    (fixed, mask), (moving, other) = (ball(grid) for grid in grids)
    made = working_pair(fixed, moving, distance_map(mask), distance_map(other), IDENTITY, 3.0)
    assert made.repeated == pytest.approx(4)
    assert pair_of(*ball(GRID)).repeated == 1


@settings(max_examples=12, deadline=None)
@given(
    radius=st.floats(12, 40),
    centre=st.tuples(*[st.floats(-10, 10)] * 3),
    spacing=st.sampled_from((1.5, 2.0, 3.0)),
)
def test_the_working_grid_holds_the_lungs_and_fits_the_networks(radius, centre, spacing):
    _, mask = ball(GRID, centre, radius)
    grid = working_grid(distance_map(mask), spacing)
    assert all(n % BLOCK == 0 for n in grid.size)
    assert grid.spacing == (spacing,) * 3
    assert np.array_equal(np.reshape(grid.direction, (3, 3)), np.eye(3))
    lungs = GRID.points()[mask.array]
    index = grid.to_index(lungs)
    room = (MARGIN_MM - 4) / spacing  # the distance map's surface is 3 mm coarse
    assert index.min() > room
    assert (np.array(grid.size) - 1 - index.max(axis=0) > room).all()


def test_the_pair_holds_hounsfield_thousands_and_distances_in_mm():
    image, mask = ball(GRID)
    image.array[mask.array] = -800
    image.array[~mask.array] = 3000
    image.array[0] = -3024
    pair = pair_of(image, mask)
    centre = tuple(np.round(pair.grid.to_index(np.zeros(3))[::-1]).astype(int))
    assert pair.fixed.dtype == np.float32
    assert pair.fixed[centre] == pytest.approx(-0.8)
    assert pair.fixed.min() >= -1 and pair.fixed.max() == pytest.approx(0.3)
    assert pair.fixed_distance[centre] == pytest.approx(-35 + 5, abs=3)
    assert pair.mask[centre] and not pair.mask[0, 0, 0]
    np.testing.assert_array_equal(pair.fixed, pair.moving)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32])
def test_a_scan_stored_with_an_offset_looks_the_same(kind):
    image, mask = ball(GRID)
    image = Volume(np.round(image.array).astype(np.int16), GRID)
    distance = distance_map(mask)
    stored = Volume((image.array + 1024).astype(kind), GRID)
    pair = working_pair(image, stored, distance, distance, IDENTITY, 3.0)
    np.testing.assert_allclose(pair.moving, pair.fixed, atol=1e-5)


def test_moving_is_seen_through_the_start():
    image, mask = ball(GRID)
    start = sitk.TranslationTransform(3, (6.0, -3.0, 9.0))
    pair = pair_of(image, mask, start)
    seen = pair.grid.points() + [6.0, -3.0, 9.0]
    deep = np.linalg.norm(seen, axis=-1) < 25  # the ripple of the ball's edge has faded there
    truth = -800 + 80 * np.sin(seen @ (0.2, 0.3, 0.1))
    assert np.abs(1000 * pair.moving - truth)[deep].max() < 1.5  # HU
    assert np.abs(image.sample(seen) - truth)[deep].max() > 5  # what linear interpolation gives
    moved = distance_map(mask).sample(pair.grid.points() + [6.0, -3.0, 9.0])
    np.testing.assert_allclose(pair.moving_distance, moved, atol=1e-3)


@pytest.mark.parametrize("turn", [0, 30, 200])
def test_what_lies_far_from_the_lungs_makes_no_difference(turn):
    """Only the part of an image that the working grid meets is interpolated."""
    grid = Grid((90, 90, 90), (2.0, 2.0, 2.0), (-89.0, -89.0, -89.0))
    image, mask = ball(grid, radius=20)
    angle = np.radians(turn)
    c, s = np.cos(angle), np.sin(angle)
    start = affine(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), (0, 0, 0), (6, -3, 9))
    other = Volume(image.array.copy(), grid)
    other.array[np.abs(grid.points()).max(axis=-1) > 82] = 3000
    pair, changed = (pair_of(i, mask, start) for i in (image, other))
    np.testing.assert_allclose(changed.fixed, pair.fixed, atol=1e-5)
    np.testing.assert_allclose(changed.moving, pair.moving, atol=1e-5)
    seen = [start.TransformPoint(p) for p in pair.grid.points()[::5, ::5, ::5].reshape(-1, 3)]
    truth = np.clip(image.sample(seen) / 1000, -1, 0.3).reshape(pair.moving[::5, ::5, ::5].shape)
    assert np.abs(pair.moving[::5, ::5, ::5] - truth).max() < 0.3  # at the ball's edge
    assert np.abs(pair.moving[::5, ::5, ::5] - truth).mean() < 0.01


def test_metal_and_padding_leave_no_ripples():
    """A clip of 3000 HU and what the scanner did not reconstruct are cut off before the spline."""
    image, mask = ball(GRID)
    image.array[mask.array] = -800
    image.array[20:22, 20:22, 20:22] = 3000
    image.array[:, :, :4] = -3024
    far = Volume(np.where(image.array > 300, 300, np.maximum(image.array, -1000)), GRID)
    np.testing.assert_allclose(pair_of(image, mask).fixed, pair_of(far, mask).fixed, atol=1e-6)


def test_an_image_of_three_slices_is_interpolated_linearly():
    grid = Grid((60, 50, 3), (2.0, 2.2, 30.0), (-58.0, -52.0, -30.0))
    image, mask = ball(grid)
    pair = pair_of(image, mask)
    points = pair.grid.points()
    inside = grid.contains(points, margin=0)
    expected = np.clip(image.sample(points) / 1000, -1, 0.3)
    np.testing.assert_allclose(pair.fixed[inside], expected[inside], atol=1e-4)


def test_beyond_an_image_its_edge_goes_on():
    ramp = Volume(np.arange(8, dtype=np.float32).reshape(2, 2, 2), Grid((2, 2, 2)))
    far = resample(ramp, Grid((1, 1, 1), origin=(50.0, -50.0, 0.0)), IDENTITY)
    assert far.tolist() == [[[1.0]]]


def stored_otherwise(name):
    change = {
        "flipped": lambda image: sitk.Flip(image, (True, False, True), False),
        "mirrored": lambda image: sitk.Flip(image, (True, False, False), False),  # left-handed
        "permuted": lambda image: sitk.PermuteAxes(image, (2, 0, 1)),
        "sagittal": lambda image: sitk.DICOMOrient(image, "PIR"),
    }[name]
    return lambda volume: Volume.of_image(change(volume.to_image()))


@pytest.mark.parametrize("name", ["flipped", "mirrored", "permuted", "sagittal"])
@pytest.mark.parametrize("spacing", [(2.0, 2.2, 2.5), (0.9, 1.1, 1.3)])
def test_storage_makes_no_difference(name, spacing):
    """Odd sizes as well, and images that are averaged before they are resampled."""
    size = tuple(int(110 / s) // 2 * 2 + 1 for s in spacing)
    image, mask = ball(Grid(size, spacing, (-55.0, -55.0, -55.0)), (3, 2, 1), 30)
    change = stored_otherwise(name)
    a, b = pair_of(image, mask), pair_of(change(image), change(mask))
    assert a.grid.matches(b.grid, 1e-6)
    np.testing.assert_allclose(a.fixed, b.fixed, atol=1e-4)
    np.testing.assert_allclose(a.fixed_distance, b.fixed_distance, atol=1e-4)


def test_fine_images_are_averaged_against_aliasing():
    """A checkerboard of 1 mm voxels has no business on a 3 mm grid: only its mean."""
    grid = Grid((91, 91, 91), origin=(-45.0, -45.0, -45.0))
    board = np.indices(grid.shape).sum(axis=0) % 2 * 200.0 - 400
    pair = pair_of(Volume(board.astype(np.float32), grid), ball(grid, radius=30)[1])
    assert np.abs(pair.fixed[pair.mask] + 0.3).max() < 0.03


def world_of(start, grid=GRID):
    image, mask = ball(grid)
    pair = pair_of(image, mask, start)
    finest = FeaturePyramid(pair).mind_level(2)
    return WholeField(pair, finest, grid), finest


def test_the_worlds_field_is_the_start_and_the_motion_on_top():
    matrix = np.array([[1.05, 0.02, 0], [0, 0.97, 0], [0.03, 0, 1.1]])
    start = affine(matrix, (1, 2, 3), (5, -4, 20))
    world, finest = world_of(start)
    motion = torch_field(finest, (2.0, 1.0, -3.0))
    field = world.field(motion)
    points = np.random.default_rng(0).uniform(-20, 20, (50, 3))
    expected = [start.TransformPoint(p) for p in (points + [2.0, 1.0, -3.0]).tolist()]
    np.testing.assert_allclose(field.transform_points(points), expected, atol=1e-3)
    assert field.array.dtype == np.float32


def torch_field(level, vector):
    import torch

    return torch.tensor(vector).view(3, 1, 1, 1).expand(3, *level.shape).contiguous()


def test_the_field_covers_the_image_and_has_no_jump():
    """Random motion of some millimetres a node: nothing outside the crop differs by more."""
    import torch

    big = Grid((70, 60, 80), (4.0, 4.0, 4.0), (-140.0, -120.0, -160.0))
    world, finest = world_of(affine(np.diag([1.1, 0.9, 1.2]), (0, 0, 0), (0, 0, 30)), big)
    assert world.grid.contains(big.corners(), margin=0).all()
    torch.manual_seed(0)
    motion = torch.nn.functional.interpolate(
        8 * torch.randn(1, 3, 4, 4, 4), size=finest.shape, mode="trilinear", align_corners=False
    )[0]
    array = world.field(motion).array
    inside = np.abs(np.diff(motion.numpy(), axis=1)).max() + 0.2 * finest.spacing
    for axis in range(3):
        assert np.abs(np.diff(array, axis=axis)).max() < 1.5 * inside
    assert world.identity().grid == world.grid and not world.identity().array.any()


@pytest.mark.parametrize("angle", [10, 90, 180])
def test_before_the_start_nothing_has_moved(angle):
    turn = np.radians(angle)
    c, s = np.cos(turn), np.sin(turn)
    start = affine(1.1 * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), (0, 0, 0), (5, 4, 12))
    world, finest = world_of(start)
    undone = np.moveaxis(world.undo_start().numpy(), 0, -1) + finest.grid.points()
    back = np.array([start.TransformPoint(p) for p in undone.reshape(-1, 3).tolist()])
    np.testing.assert_allclose(back, finest.grid.points().reshape(-1, 3), atol=1e-3)


def test_before_a_displacement_field_nothing_has_moved():
    lattice = start_grid(GRID)
    x, y, z = np.moveaxis(lattice.points(), -1, 0)
    motion = np.stack([4 * np.sin(z / 30), 3 * np.cos(x / 25), 20 + 5 * np.sin(y / 35)], axis=-1)
    start = DisplacementField(motion.astype(np.float32), lattice)
    world, finest = world_of(start.to_transform())
    undone = np.moveaxis(world.undo_start().numpy(), 0, -1) + finest.grid.points()
    np.testing.assert_allclose(start.transform_points(undone), finest.grid.points(), atol=0.05)


def test_a_displacement_field_goes_on_beyond_its_grid():
    small = Grid((5, 5, 5), (10.0, 10.0, 10.0), (-20.0, -20.0, -20.0))
    given = DisplacementField(np.full((5, 5, 5, 3), 40, np.float32), small).to_transform()
    assert given.TransformPoint((90.0, 0.0, 0.0)) == (90.0, 0.0, 0.0)  # SimpleITK's habit
    found = continued(given, start_grid(GRID))
    assert found.TransformPoint((90.0, 0.0, 0.0)) == pytest.approx((130.0, 40.0, 40.0))
    linear = affine(np.eye(3), (0, 0, 0), (1, 2, 3))
    assert continued(linear, start_grid(GRID)) is linear


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (5.0, -3.0, 2.0)])
def test_a_displacement_field_in_a_composite_goes_on_as_well(shift):
    small = Grid((5, 5, 5), (10.0, 10.0, 10.0), (-20.0, -20.0, -20.0))
    field = DisplacementField(np.full((5, 5, 5, 3), 40, np.float32), small).to_transform()
    first = affine(np.eye(3) * 1.1, (0, 0, 0), shift)
    given = sitk.CompositeTransform(
        [sitk.CompositeTransform([field]), first]
    )  # the last acts first
    found = continued(given, start_grid(GRID))
    for point in ((1.0, 2.0, 3.0), (90.0, 0.0, -60.0)):
        expected = np.array(first.TransformPoint(point)) + 40
        np.testing.assert_allclose(found.TransformPoint(point), expected, atol=1e-3)
    np.testing.assert_allclose(  # within the field nothing is changed
        found.TransformPoint((1.0, 2.0, 3.0)), given.TransformPoint((1.0, 2.0, 3.0)), atol=1e-3
    )
    both = sitk.CompositeTransform([first, first])
    assert continued(both, start_grid(GRID)) is both


def test_a_b_spline_goes_on_beyond_its_grid():
    image = sitk.Image([20, 20, 20], sitk.sitkUInt8)
    image.SetOrigin((-20.0, -20.0, -20.0))
    image.SetSpacing((2.0, 2.0, 2.0))
    spline = sitk.BSplineTransformInitializer(image, [4, 4, 4])
    spline.SetParameters([30.0] * len(spline.GetParameters()))
    assert spline.TransformPoint((90.0, 0.0, 0.0)) == (90.0, 0.0, 0.0)  # SimpleITK's habit
    found = continued(spline, start_grid(GRID))
    for point in ((1.0, 2.0, 3.0), (90.0, 0.0, 0.0)):
        np.testing.assert_allclose(found.TransformPoint(point), np.add(point, 30), atol=1e-3)
