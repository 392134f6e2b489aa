"""The discrete search brings far regions into reach, smoothly and the same every time."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import SimpleITK as sitk  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid  # noqa: E402
from L2ORegistrationLib.engine.field.pyramid import FeaturePyramid  # noqa: E402
from L2ORegistrationLib.engine.images.preprocessing import WorkingPair  # noqa: E402
from L2ORegistrationLib.engine.start.search import _box, discrete_search  # noqa: E402
from scipy import ndimage  # noqa: E402

GRID = Grid((64, 64, 80), (1.5, 1.5, 1.5), (7.0, -9.0, 30.0))


def level_of(motion):
    """The coarse level of noise moved by motion(points) -> (z, y, x, 3), mm; lungs: a box."""
    noise = np.random.default_rng(1).standard_normal([n + 48 for n in GRID.shape])
    texture = ndimage.gaussian_filter(noise, 2.5)
    texture = (0.15 * texture / texture.std()).astype(np.float32)
    points = GRID.points()

    def image(where):
        index = np.moveaxis(GRID.to_index(where)[..., ::-1] + 24, -1, 0)
        return ndimage.map_coordinates(texture, index, order=1)

    back = points
    for _ in range(20):
        back = points - motion(back)
    box = [
        np.abs(i - (n - 1) / 2) * 1.5 - 0.3 * n * 1.5
        for i, n in zip(np.indices(GRID.shape), GRID.shape)
    ]
    distance = np.maximum.reduce(box).astype(np.float32)
    images = (image(where).astype(np.float32) for where in (points, back))
    identity = sitk.Transform(3, sitk.sitkIdentity)
    return FeaturePyramid(
        WorkingPair(*images, distance < 0, distance, distance, GRID, identity)
    ).mind_level(4)


def at_nodes(level, field):
    return field.flatten(1).T[level.active_nodes].numpy()


@pytest.mark.parametrize("shift", [(0, 0, 20), (0, 0, -20), (-14, 0, 0), (5, -18, 10), (0, 0, 0)])
def test_a_far_shift_is_found_to_a_feature_voxel(shift):
    level = level_of(lambda points: np.broadcast_to(np.array(shift, float), points.shape))
    field = discrete_search(level)
    assert field.shape == (3, *level.shape) and field.isfinite().all()
    inner = level.distance.flatten()[level.active_nodes] < 0
    found = at_nodes(level, field)[inner.numpy()]
    assert np.abs(np.median(found, axis=0) - shift).max() < 3
    assert np.linalg.norm(found - shift, axis=1).mean() < 5


def test_nothing_moves_where_nothing_moved():
    level = level_of(lambda points: 0 * points)
    assert np.abs(at_nodes(level, discrete_search(level))).max() < 1e-3


def test_the_search_repeats_bit_for_bit():
    level = level_of(lambda points: np.broadcast_to([3.0, 2.0, 12.0], points.shape))
    assert torch.equal(discrete_search(level), discrete_search(level))


def test_a_thinned_box_leaves_no_displacement_alone():
    """Every second one, no motion among them; whatever is left out lies beside one that is not."""
    everything, thinned = (_box((3, 4, 5), thin) for thin in (False, True))
    assert len(everything) == 7 * 9 * 11 and len(thinned) == (len(everything) + 1) // 2
    assert (thinned == 0).all(dim=1).any()
    apart = torch.cdist(everything.float(), thinned.float()).amin(dim=1)
    assert apart.max() == 1
