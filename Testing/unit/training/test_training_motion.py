"""More motion for training: known, invertible, and the features and targets agree on it."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.geometry import Grid  # noqa: E402
from L2ORegistrationLib.engine.field.levels import MindLevel  # noqa: E402
from L2ORegistrationLib.engine.field.operations import sample_points  # noqa: E402
from L2ORegistrationLib.training.motion import Blobs, moved_further  # noqa: E402

ORIGIN, SPACING = (5.0, -20.0, 30.0), 12.0


def level():
    """20 x 18 x 16 field voxels; both images are smooth bumps, the lungs a ball."""
    size = (32, 36, 40)
    axes = [torch.arange(n) * 6.0 for n in size]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    bumps = torch.stack([torch.sin(x / 25), torch.cos(y / 30), torch.sin((x + z) / 35)])
    coarse = [torch.arange(n // 2) * 12.0 + 3.0 for n in size]
    z, y, x = torch.meshgrid(*coarse, indexing="ij")
    distance = ((x - 120) ** 2 + (y - 108) ** 2 + (z - 96) ** 2).sqrt() - 70
    lattice = Grid((20, 18, 16), (SPACING,) * 3, ORIGIN)
    return MindLevel.of(bumps, bumps.clone(), distance, distance.clone(), lattice)


def blobs():
    return Blobs.random(level(), np.random.default_rng(3))


def test_the_inverse_brings_points_back():
    points = torch.rand((500, 3), generator=torch.Generator().manual_seed(0)) * 200
    moved = points + blobs()(points)
    assert (moved - points).norm(dim=1).max() > 5
    assert (moved + blobs().inverse(moved) - points).abs().max() < 0.05


@pytest.mark.parametrize("seed", range(8))
def test_nothing_folds(seed):
    motion = Blobs.random(level(), np.random.default_rng(seed))
    point = torch.rand((200, 3), generator=torch.Generator().manual_seed(seed)) * 200
    along = torch.stack([motion(point + 0.5 * axis) - motion(point) for axis in torch.eye(3)]) / 0.5
    jacobian = along.permute(1, 2, 0) + torch.eye(3)
    assert torch.linalg.det(jacobian).min() > 0


def test_targets_lead_to_what_the_moving_image_shows_there():
    before = level()
    generator = torch.Generator().manual_seed(1)
    points = torch.rand((400, 3), generator=generator) * 60 + 80 + torch.tensor(ORIGIN)
    targets = torch.zeros((400, 3))
    after, moved = moved_further(before, points, targets, np.random.default_rng(3))
    assert moved.norm(dim=1).max() > 5

    def at(features, where):
        index = (where - torch.tensor(ORIGIN)) / 6.0 + 0.5  # feature voxels are at -3, 3, 9, ...
        return sample_points(features.permute(3, 0, 1, 2), index)

    assert torch.allclose(at(after.moving, points + moved), at(before.fixed, points), atol=0.03)
    assert after.fixed is before.fixed and not torch.equal(after.surface, before.surface)
