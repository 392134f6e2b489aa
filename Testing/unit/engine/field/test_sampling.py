"""The samples around a field, held against torch's own interpolation and against arithmetic."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from L2ORegistrationLib.engine.field.sampling import (  # noqa: E402
    channel_last,
    dissimilarity,
    sampled_system,
    with_gradient,
)
from L2ORegistrationLib.engine.images.spline import coefficients  # noqa: E402
from scipy import ndimage  # noqa: E402

SHAPE = (6, 7, 8)
COUNT = 6 * 7 * 8


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def positions(displacement, shape=SHAPE):
    """Where the voxels of a lattice point to, (N, 3) as (x, y, z)."""
    z, y, x = torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij")
    return torch.stack((x, y, z), dim=-1).view(-1, 3) + displacement


def by_grid_sample(features, where):
    """features (C, D, H, W) at (N, 3) positions (x, y, z), edges repeated: (N, C)."""
    last = torch.tensor(features.shape[:0:-1]) - 1
    grid = (2 * where / last - 1).view(1, -1, 1, 1, 3)
    sampled = F.grid_sample(features[None], grid, padding_mode="border", align_corners=True)
    return sampled[0, :, :, 0, 0].T


def system_at(fixed, moving, displacement, voxels):
    """`sampled_system` of features (C, D, H, W), a block a voxel."""
    fixed, moving = (with_gradient(channel_last(f)) for f in (fixed, moving))
    return alone(fixed.flatten(0, 2)[voxels], moving, displacement, voxels)


def alone(fixed, moving, displacement, voxels, *more):
    """`sampled_system` of voxels (N,), each a block of its own."""
    return sampled_system(fixed[:, None], moving, displacement[:, None], voxels[:, None], *more)


def test_one_voxel_by_hand():
    """One channel that is the x index, looked at a quarter of a voxel to the right of index 3."""
    ramp = torch.arange(8.0).expand(6, 7, 8)[None]
    voxel, displacement = torch.tensor([(2 * 7 + 3) * 8 + 3]), torch.tensor([[0.25, 0.0, 0.0]])
    # residual 0.25 with gradient 1 along x: the step that undoes it is -0.25
    cost, system = system_at(ramp, ramp, displacement, voxel)
    assert cost.tolist() == pytest.approx([0.25**2])
    assert system[0].tolist() == pytest.approx([1, 0, 0, 0, 0, 0, -0.25, 0, 0, 1], abs=1e-6)
    own = channel_last(ramp).flatten(0, 2)[voxel]
    assert dissimilarity(own, channel_last(ramp), displacement, voxel) == pytest.approx(0.25**2)


def test_the_gradient_is_the_mean_of_both():
    """Fixed rises by 1 along x, moving by 3; they agree at index 3: matrix 2 x 2, shared 1 x 3."""
    ramp = torch.arange(8.0).expand(6, 7, 8)[None]
    voxel = torch.tensor([(2 * 7 + 3) * 8 + 3])
    _, system = system_at(ramp, 3 * ramp - 6, torch.zeros(1, 3), voxel)
    assert system[0].tolist() == pytest.approx([4] + [0] * 8 + [3], abs=1e-5)


@pytest.mark.parametrize("reach", [0.0, 0.4, 1.4])
def test_a_spline_gives_the_values_and_linear_interpolation_the_gradients(reach):
    """The spline is SciPy's; residuals are squared in the first column and times the gradient."""
    fixed, moving = random(1, *SHAPE), random(1, *SHAPE, seed=1)
    voxels = torch.arange(COUNT).view(SHAPE)[2:-3, 2:-3, 2:-3].flatten()
    displacement = reach * (2 * random(len(voxels), 3, seed=2) - 1)
    where = positions(0)[voxels] + displacement
    value = ndimage.map_coordinates(
        moving[0].numpy(), where.numpy()[:, ::-1].T, order=2, mode="mirror"
    )
    residual = torch.from_numpy(value) - fixed[0].flatten()[voxels]
    both = [with_gradient(channel_last(f)) for f in (fixed, moving)]
    rows = both[0].flatten(0, 2)[voxels]
    cost, system = alone(rows, both[1], displacement, voxels, coefficients(moving[0].contiguous()))
    torch.testing.assert_close(cost, residual.square(), atol=1e-5, rtol=0)
    gradient = (by_grid_sample(both[1].permute(3, 0, 1, 2), where) + rows)[:, 1:] / 2
    torch.testing.assert_close(system[:, 6:9], -gradient * residual[:, None], atol=1e-5, rtol=0)


def test_the_spline_ends_half_a_voxel_within_the_lattice():
    moving = random(1, *SHAPE)
    spline, corner = coefficients(moving[0].contiguous()), torch.tensor([0, COUNT - 1])
    rows = torch.zeros(2, 4)
    far = torch.tensor([[-50.0, -50, -50], [50, 50, 50]])
    cost, _ = alone(rows, with_gradient(channel_last(moving)), far, corner, spline)
    inside = np.stack(([0.5] * 3, np.array(SHAPE) - 1.5), axis=1)
    expected = ndimage.map_coordinates(moving[0].numpy(), inside, order=2, mode="mirror") ** 2
    np.testing.assert_allclose(cost, expected, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("weighed", [False, True])
def test_a_block_says_what_its_voxels_say_on_average(channels, weighed):
    """More blocks than are sampled at a time; a voxel that counts half counts so in the mean."""
    fixed, moving = random(channels, *SHAPE), random(channels, *SHAPE, seed=1)
    blocks = random(4000, 6, seed=3).mul(COUNT).long()
    displacement = random(4000, 6, 3, seed=2) - 0.5
    weight = random(4000, 6, seed=4) if weighed else None
    rows, lattice = (with_gradient(channel_last(f)) for f in (fixed, moving))
    rows = rows.flatten(0, 2)[blocks]
    costs, system = sampled_system(rows, lattice, displacement, blocks, None, weight)
    parts = rows.flatten(0, 1), lattice, displacement.flatten(0, 1), blocks.flatten()
    each, systems = (part.view(4000, 6, -1) for part in alone(*parts))
    share = torch.ones(4000, 6, 1) if weight is None else weight[..., None]
    torch.testing.assert_close(costs, (each * share).mean(dim=1)[:, 0])
    torch.testing.assert_close(system, (systems * share).mean(dim=1), atol=1e-5, rtol=1e-4)


def test_where_both_images_agree_the_system_asks_for_nothing():
    features, voxels = random(12, *SHAPE), torch.arange(COUNT).view(SHAPE)[:-1, :-1, :-1].flatten()
    costs, system = system_at(features, features, torch.zeros(len(voxels), 3), voxels)
    assert costs.abs().max() == 0 and system[:, 6:9].abs().max() == 0
    assert system[:, :3].mean() > 0


def test_gradients_belong_to_their_axes():
    """Linear features 1x + 2y + 3z, moving off by 0.3: matrix g g^T, right-hand side -g r."""
    x, y, z = positions(0).T
    fixed = (x + 2 * y + 3 * z).view(1, *SHAPE)
    voxels = torch.tensor([(3 * 7 + 3) * 8 + 4, (2 * 7 + 2) * 8 + 2])
    costs, system = system_at(fixed, fixed + 0.3, torch.zeros(2, 3), voxels)
    expected = [1, 4, 9, 2, 3, 6, -0.3, -0.6, -0.9, 14]
    assert costs.tolist() == pytest.approx([0.09, 0.09], abs=1e-5)
    assert system[0].tolist() == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(system[0], system[1], atol=1e-4, rtol=0)


def finite_differences(cost, displacement, step):
    """Central differences (N, 3) of a cost (N,) of displacements (N, 3)."""
    columns = []
    for axis in range(3):
        shift = torch.zeros(3)
        shift[axis] = step
        columns.append((cost(displacement + shift) - cost(displacement - shift)) / (2 * step))
    return torch.stack(columns, dim=1)


def waves(channels, seed=0, size=20):
    """Sums of waves about 40 voxels long, (channels, size, size, size)."""
    frequency, phase = random(channels, 3, 1, seed=seed), random(channels, 1, seed=seed + 9)
    angle = (positions(0, (size,) * 3).T * (0.1 + 0.1 * frequency)).sum(dim=1) + 6 * phase
    return torch.sin(angle).view(channels, size, size, size)


def test_the_right_hand_side_is_minus_half_the_gradient_of_the_cost():
    """With the same shape in both, one brighter: then their mean gradient is that of either."""
    image = waves(12)
    voxels = torch.arange(8000).view(20, 20, 20)[4:-4, 4:-4, 4:-4].flatten()[::5]
    displacement = torch.zeros(len(voxels), 3)
    _, system = system_at(image, image + 1, displacement, voxels)

    def cost(where):
        return system_at(image, image + 1, where, voxels)[0]

    expected = -finite_differences(cost, displacement, 0.5) / 2
    error = (system[:, 6:9] - expected).abs().max()
    assert error < 0.05 * expected.abs().max()
    assert torch.linalg.eigvalsh(matrices(system)).min() > -1e-6


def matrices(system):
    xx, yy, zz, xy, xz, yz = system[:, :6].T
    rows = [torch.stack(r, dim=1) for r in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))]
    return torch.stack(rows, dim=1)


@settings(max_examples=20, deadline=None)
@given(x=st.floats(-40, 40), y=st.floats(-40, 40), z=st.floats(-40, 40))
def test_any_displacement_gives_finite_costs(x, y, z):
    features, voxels = random(2, *SHAPE), torch.arange(COUNT)
    displacement = torch.tensor([[x, y, z]]).expand(COUNT, 3)
    plain, system = system_at(features, features, displacement, voxels)
    assert plain.shape == (COUNT,) and system.shape == (COUNT, 10)
    assert plain.isfinite().all() and system.isfinite().all() and plain.max() <= 1


def test_no_voxels_give_empty_answers():
    features, none = random(2, *SHAPE), torch.zeros(0, dtype=torch.long)
    costs, system = system_at(features, features, torch.zeros(0, 3), none)
    assert costs.shape == (0,) and system.shape == (0, 10)


def test_moving_is_sampled_as_grid_sample_does():
    fixed, moving = random(3, *SHAPE), random(3, *SHAPE, seed=1)
    displacement = 3 * (2 * random(COUNT, 3, seed=2) - 1)
    voxels = torch.arange(COUNT)
    expected = (by_grid_sample(moving, positions(displacement)) - fixed.flatten(1).T).square()
    costs, _ = system_at(fixed, moving, displacement, voxels)
    # the border is sampled 1e-4 voxels inside
    assert (costs - expected.mean(dim=1)).abs().max() < 5e-4
    own = channel_last(fixed).flatten(0, 2)
    plain = dissimilarity(own, channel_last(moving), displacement, voxels)
    torch.testing.assert_close(plain, costs)
