"""The closer grid: the same place, the images' own detail, what they show there."""

from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import SimpleITK as sitk  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine.field.pyramid import FeaturePyramid  # noqa: E402
from L2ORegistrationLib.engine.images.closer import (  # noqa: E402
    area_averaged,
    closer_grid,
    closer_images,
    closer_ratios,
)
from L2ORegistrationLib.engine.images.preprocessing import working_pair  # noqa: E402
from L2ORegistrationLib.engine.start.alignment import distance_map  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

FINER, FINEST = Fraction(5, 4), Fraction(3, 2)
IDENTITY = sitk.Transform(3, sitk.sitkIdentity)
WORKING = Grid((24, 16, 32), (1.5,) * 3, (-18.0, -12.0, -24.0))
turns = st.tuples(*[st.floats(-0.4, 0.4)] * 3)
spacings = st.tuples(*[st.floats(0.5, 1.2)] * 3)


def around(grid, spacing, turn=(0, 0, 0), room=6.0):
    """A turned grid with this spacing that holds another one."""
    direction = Rotation.from_rotvec(turn).as_matrix()
    corners = grid.corners() @ direction
    first = corners.min(axis=0) - room
    size = (corners.max(axis=0) + room - first) / spacing
    return Grid(tuple(size.astype(int) + 1), tuple(spacing), tuple(direction @ first), direction)


def waves(points):
    """HU, slow enough for voxels of 1.2 mm."""
    return -700 + 90 * np.sin(points @ (0.25, 0.1, -0.2)) + 60 * np.cos(points @ (-0.1, 0.3, 0.15))


def test_voxels_are_averaged_by_how_much_of_them_is_covered_by_hand():
    """Three voxels of 1 mm in two of 1.5, linear in between: 8, 4, 0 and 0, 4, 8 twelfths."""
    grid = Grid((3, 1, 2), (1.0, 2.0, 1.5), (10.0, 0.0, 0.0))
    array = np.array([[[24, 0, 0]], [[0, 24, 48]]], np.int16)
    made = area_averaged(Volume(array, grid), 1.5)
    np.testing.assert_allclose(made.array[:, 0], [[16, 0], [8, 40]], rtol=1e-6)
    assert made.grid == Grid((2, 1, 2), (1.5, 2.0, 1.5), (10.25, 0.0, 0.0))


@settings(max_examples=25, deadline=None)
@given(spacing=spacings, turn=turns, width=st.floats(0.5, 1.6))
def test_an_average_lies_where_its_voxel_does(spacing, turn, width):
    """A ramp stays that ramp, in the world, on any grid."""
    grid = around(WORKING, spacing, turn)
    made = area_averaged(Volume((grid.points() @ (3, -2, 5)).astype(np.float32), grid), width)
    inner = (slice(2, -2),) * 3  # at the edges the outermost voxels repeat
    ramp = made.grid.points() @ (3, -2, 5)
    np.testing.assert_allclose(made.array[inner], ramp[inner], atol=2e-3)
    assert all(s == max(own, width) for s, own in zip(made.grid.spacing, spacing))


@pytest.mark.parametrize(
    "ratio, size, spacing", [(FINER, (30, 20, 40), 1.2), (FINEST, (36, 24, 48), 1.0)]
)
def test_the_closer_grid_covers_what_the_working_grid_does(ratio, size, spacing):
    closer = closer_grid(WORKING, ratio)
    assert closer.size == size and closer.spacing == pytest.approx((spacing,) * 3)
    for side in (-0.5, 0.5):  # the outer faces of the first and the last voxels
        corner = [0 if side < 0 else n - 1 for n in closer.size]
        other = [0 if side < 0 else n - 1 for n in WORKING.size]
        np.testing.assert_allclose(
            closer.to_world(np.array(corner) + side), WORKING.to_world(np.array(other) + side)
        )


@pytest.mark.parametrize(
    "spacings, ratios",
    [
        (((0.7, 0.7, 1.0), (0.9, 1.0000001, 1.5)), [FINEST, FINER]),
        (((0.7, 0.7, 1.0), (0.9, 0.9, 2.5)), [FINER]),
        (((2.5, 0.97, 0.97), (1.2, 1.2, 1.2)), [FINER]),  # coronal slices; just as fine
        (((1.5, 1.5, 1.0), (0.7, 0.7, 1.0)), []),
        (((0.7, 0.7, 1.0), (1.37, 1.37, 2.5)), []),
        (((0.7, 0.7, 5.0), (0.7, 0.7, 1.0)), []),
    ],
)
def test_how_closely_images_can_be_looked_at(spacings, ratios):
    assert closer_ratios(spacings, 1.5) == ratios


@settings(max_examples=15, deadline=None)
@given(
    spacing=spacings,
    turn=turns,
    start=turns,
    shift=st.tuples(*[st.floats(-3, 3)] * 3),
    ratio=st.sampled_from((FINER, FINEST)),
)
def test_both_images_are_read_where_they_lie(spacing, turn, start, shift, ratio):
    """Moving on an oblique grid of its own, through an affine start: what is true there, in HU."""
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(Rotation.from_rotvec(start).as_matrix().ravel().tolist())
    affine.SetTranslation(shift)
    grids = around(WORKING, (0.8, 0.8, 1.0)), around(WORKING, spacing, turn, room=30.0)
    fixed, moving = (Volume(waves(g.points()).astype(np.float32), g) for g in grids)
    images = closer_images(fixed, moving, WORKING, affine, ratio)
    wanted = np.zeros(images.grid.shape, bool)
    wanted[5:-5, 3:-3, 4:-4] = True
    seen = images.on_grid((wanted, wanted))
    points = images.grid.points()[wanted]
    moved = np.array([affine.TransformPoint(p) for p in points.tolist()])
    for array, places in zip(seen, (points, moved)):
        np.testing.assert_allclose(1000 * array[wanted], waves(places), atol=6)


def test_an_image_stored_with_an_offset_is_read_in_hu():
    grid = around(WORKING, (0.8, 0.8, 1.0))
    chest = waves(grid.points()) + 700 * (np.abs(grid.points()[..., 0]) > 15)
    images = [Volume(np.rint(chest + add).astype(np.int16), grid) for add in (0, 1024)]
    first, second = closer_images(*images, WORKING, IDENTITY, FINER).on_grid(
        [np.ones((40, 20, 30), bool)] * 2
    )
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_they_are_looked_at_in_the_end_only():
    """A ball of lung on itself: no pull from either grid, more voxels to a block on the closer."""
    grid = Grid((60, 56, 64), (0.9, 0.9, 0.9), (-27.0, -25.0, -29.0))
    inside = np.linalg.norm(grid.points(), axis=-1) < 18
    image = Volume(np.where(inside, waves(grid.points()), 20).astype(np.float32), grid)
    distance = distance_map(Volume(inside, grid))
    pair = working_pair(image, image, distance, distance, IDENTITY)
    closer = closer_images(image, image, pair.grid, IDENTITY, FINER)
    assert closer.repeated == pytest.approx(0.8**3)
    level = FeaturePyramid(pair, "cpu", closer).closer_contrast_level(torch.zeros(3, 2, 2, 2))
    field = torch.zeros((3, *level.shape))
    for roughly, voxels in ((True, 4**3), (False, 5**3)):
        mismatch, system = level.normal_equations(field, roughly)
        used = level if roughly else level._closer
        assert used.voxels.shape == (len(mismatch), voxels)
        assert mismatch.max() < 1e-8 and system[:, 6:].abs().max() < 1e-6
        assert system[:, :3].min() >= 0 and system[:, :3].max() > 1e-4
