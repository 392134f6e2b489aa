"""The spline through an image is ITK's, along its axes or across them."""

import numpy as np
import pytest

pytest.importorskip("torch")

import SimpleITK as sitk  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine.images.preprocessing import resample  # noqa: E402
from L2ORegistrationLib.engine.images.spline import spline  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


def noise(direction, size=(23, 31, 18)):
    grid = Grid(size, (1.1, 0.8, 2.1), (3.0, 4.0, 5.0), direction.ravel())
    return Volume(np.random.default_rng(1).normal(size=grid.shape).astype(np.float32), grid)


@settings(max_examples=25, deadline=None)
@given(
    axes=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    turn=st.sampled_from((0.0, 0.0, 12.0)),
    scale=st.floats(0.9, 1.1),
    shear=st.sampled_from((0.0, 0.1)),
)
def test_it_is_itks_spline_whatever_the_axes(axes, flips, turn, scale, shear):
    turned = Rotation.from_euler("xyz", (turn, -turn, turn), degrees=True).as_matrix()
    volume = noise(turned @ np.eye(3)[:, axes] * flips)
    centre = volume.grid.to_world((11.0, 15.0, 9.0))
    grid = Grid((20, 22, 25), (1.5, 1.5, 1.5), tuple(centre - 15.0))
    transform = sitk.AffineTransform((scale, shear, 0, 0, 1, 0, 0, 0, 1), (0.3, -1.2, 2.0))
    found = spline(volume, grid, transform)
    index = volume.grid.to_index(
        [transform.TransformPoint(p) for p in grid.points().reshape(-1, 3).tolist()]
    ).reshape(*grid.shape, 3)
    inside = ((index >= -0.49) & (index <= np.array(volume.grid.size) - 0.51)).all(axis=-1)
    assert inside.mean() > 0.2
    expected = resample(volume, grid, transform, sitk.sitkBSpline2)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)


@pytest.mark.parametrize("turn", [0.0, 20.0])
def test_it_goes_through_every_voxel_and_beyond_the_image_its_edge_goes_on(turn):
    volume = noise(Rotation.from_euler("z", turn, degrees=True).as_matrix(), (7, 5, 6))
    np.testing.assert_allclose(spline(volume, volume.grid, IDENTITY), volume.array, atol=1e-5)
    beyond = Grid((1, 5, 1), volume.grid.spacing, volume.grid.to_world((9, 0, -3)))
    beyond = Grid(beyond.size, beyond.spacing, beyond.origin, volume.grid.direction)
    found = spline(volume, beyond, IDENTITY)[0, :, 0]
    np.testing.assert_allclose(found, volume.array[0, :, 6], atol=1e-5)


@pytest.mark.parametrize("every", [True, False])
def test_where_a_transform_bends_it_is_itks_too(every):
    """On an oblique lattice in an oblique image, of all voxels and of those that are wanted."""
    turn = Rotation.from_euler("xyz", (5, -20, 10), degrees=True).as_matrix()
    volume = noise(turn)
    centre = volume.grid.to_world((11.0, 15.0, 9.0))
    grid = Grid((20, 22, 25), (1.2, 1.5, 1.3), tuple(centre - 15.0), turn.T.ravel())
    lattice = Grid((6, 6, 6), (9.0, 9.0, 9.0), tuple(centre - 22.0))
    rng = np.random.default_rng(2)
    field = DisplacementField(rng.normal(0, 2, (6, 6, 6, 3)).astype(np.float32), lattice)
    transform = field.to_transform()
    wanted = rng.random(grid.shape) < (2 if every else 0.3)
    found = spline(volume, grid, transform, None if every else wanted)
    index = volume.grid.to_index(
        grid.points() + DisplacementField.of_transform(transform, grid).array
    )
    inside = ((index >= -0.49) & (index <= np.array(volume.grid.size) - 0.51)).all(axis=-1)
    assert inside.mean() > 0.3
    expected = resample(volume, grid, transform, sitk.sitkBSpline2)
    np.testing.assert_allclose(found[inside & wanted], expected[inside & wanted], atol=1e-4)
