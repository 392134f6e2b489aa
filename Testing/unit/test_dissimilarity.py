"""The samples around a field, held against torch's own interpolation and against arithmetic."""

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from L2ORegistrationLib.engine.contrast import sampled_system, with_gradient  # noqa: E402
from L2ORegistrationLib.engine.dissimilarity import (  # noqa: E402
    OFFSETS,
    channel_last,
    sampled_dissimilarity,
)

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


@pytest.mark.parametrize("reach", [0.0, 0.3, 2.5, 30.0])
def test_costs_are_those_of_grid_sample_at_the_eight_corners(reach):
    fixed, moving = random(12, *SHAPE), random(12, *SHAPE, seed=1)
    displacement = reach * (2 * random(COUNT, 3, seed=2) - 1)
    costs, _ = sampled_dissimilarity(
        channel_last(fixed), channel_last(moving), displacement, torch.arange(COUNT)
    )
    # At the border the whole cube of samples is moved inside.
    last = torch.tensor(SHAPE[::-1]) - 1.0
    centre = positions(displacement).clamp(min=0.5).minimum(last - 0.5)
    for k, offset in enumerate(OFFSETS):
        sampled = by_grid_sample(moving, centre + 0.5 * torch.tensor(offset))
        expected = (sampled - fixed.flatten(1).T).square().mean(dim=1)
        # The cube is kept 1e-4 voxels from the last voxels, hence not 1e-5 here.
        assert (costs[:, k] - expected).abs().max() < 1e-4


def test_inside_the_lattice_costs_are_exact():
    fixed, moving = random(12, *SHAPE), random(12, *SHAPE, seed=1)
    voxels = torch.arange(COUNT).view(SHAPE)[2:-2, 2:-2, 2:-2].flatten()
    displacement = 2 * random(len(voxels), 3, seed=2) - 1
    costs, _ = sampled_dissimilarity(
        channel_last(fixed), channel_last(moving), displacement, voxels
    )
    where = positions(0)[voxels] + displacement
    for k, offset in enumerate(OFFSETS):
        sampled = by_grid_sample(moving, where + 0.5 * torch.tensor(offset))
        expected = (sampled - fixed.flatten(1).T[voxels]).square().mean(dim=1)
        torch.testing.assert_close(costs[:, k], expected, atol=1e-5, rtol=0)


def test_one_voxel_by_hand():
    """One channel that is the x index: half a voxel to the left and right of index 3 + 0.25."""
    ramp = torch.arange(8.0).expand(6, 7, 8)[None]
    voxel = torch.tensor([(2 * 7 + 3) * 8 + 3])
    costs, system = sampled_dissimilarity(
        channel_last(ramp), channel_last(ramp), torch.tensor([[0.25, 0.0, 0.0]]), voxel
    )
    left, right = (-0.25) ** 2, 0.75**2
    assert costs[0].tolist() == pytest.approx([left, right] * 4)
    # residual 0.25 with gradient 1 along x: the step that undoes it is -0.25
    assert system[0].tolist() == pytest.approx([1, 0, 0, 0, 0, 0, -0.25, 0, 0], abs=1e-6)


def test_gradients_belong_to_their_axes():
    """Linear features 1x + 2y + 3z, moving off by 0.3: matrix g g^T, right-hand side -g r."""
    x, y, z = positions(0).T
    fixed = (x + 2 * y + 3 * z).view(1, *SHAPE)
    _, system = sampled_dissimilarity(
        channel_last(fixed),
        channel_last(fixed + 0.3),
        torch.zeros(1, 3),
        torch.tensor([(3 * 7 + 3) * 8 + 4]),
    )
    expected = [1, 4, 9, 2, 3, 6, -0.3, -0.6, -0.9]
    assert system[0].tolist() == pytest.approx(expected, abs=1e-4)


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
    fixed, moving = waves(12), waves(12, seed=1)
    voxels = torch.arange(8000).view(20, 20, 20)[3:-3, 3:-3, 3:-3].flatten()[::7]
    displacement = random(len(voxels), 3, seed=2) - 0.5
    _, system = sampled_dissimilarity(
        channel_last(fixed), channel_last(moving), displacement, voxels
    )

    def cost(where):
        at = positions(0, (20, 20, 20))[voxels] + where
        return (by_grid_sample(moving, at) - fixed.flatten(1).T[voxels]).square().mean(dim=1)

    expected = -finite_differences(cost, displacement, 0.5) / 2
    error = (system[:, 6:] - expected).abs().max()
    assert error < 0.05 * expected.abs().max()
    assert torch.linalg.eigvalsh(matrices(system)).min() > -1e-6


def matrices(system):
    xx, yy, zz, xy, xz, yz = system[:, :6].T
    rows = [torch.stack(r, dim=1) for r in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))]
    return torch.stack(rows, dim=1)


@settings(max_examples=20, deadline=None)
@given(x=st.floats(-40, 40), y=st.floats(-40, 40), z=st.floats(-40, 40))
def test_any_displacement_gives_finite_costs(x, y, z):
    features = channel_last(random(2, *SHAPE))
    displacement = torch.tensor([[x, y, z]]).expand(COUNT, 3)
    costs, system = sampled_dissimilarity(features, features, displacement, torch.arange(COUNT))
    assert costs.shape == (COUNT, 8) and system.shape == (COUNT, 9)
    assert costs.isfinite().all() and system.isfinite().all() and costs.max() <= 1


def test_no_voxels_give_empty_answers():
    features = channel_last(random(2, *SHAPE))
    costs, system = sampled_dissimilarity(
        features, features, torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    )
    assert costs.shape == (0, 8) and system.shape == (0, 9)


def test_contrast_of_linear_images_by_hand():
    """x + 2y + 3z, moving 0.3 brighter: central differences are exact, so all is."""
    x, y, z = positions(0).T
    fixed = (x + 2 * y + 3 * z).view(1, *SHAPE)
    voxels = torch.tensor([(3 * 7 + 3) * 8 + 4, (2 * 7 + 2) * 8 + 2])
    costs, system = sampled_system(
        with_gradient(fixed),
        with_gradient(fixed + 0.3),
        torch.zeros(2, 3),
        voxels,
        torch.tensor([1.0, 0.5]),
    )
    expected = torch.tensor([1, 4, 9, 2, 3, 6, -0.3, -0.6, -0.9])
    assert costs.tolist() == pytest.approx([0.09, 0.045], abs=1e-5)
    torch.testing.assert_close(system[0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(system[1], expected / 2, atol=1e-4, rtol=0)


def test_contrast_is_sampled_as_grid_sample_does():
    fixed, moving = random(1, *SHAPE), random(1, *SHAPE, seed=1)
    displacement = 3 * (2 * random(COUNT, 3, seed=2) - 1)
    costs, _ = sampled_system(
        with_gradient(fixed),
        with_gradient(moving),
        displacement,
        torch.arange(COUNT),
        torch.ones(COUNT),
    )
    expected = (by_grid_sample(moving, positions(displacement)) - fixed.flatten(1).T).square()
    assert (costs - expected[:, 0]).abs().max() < 5e-4  # the border is sampled 1e-4 voxels inside


def test_the_contrast_systems_right_hand_side_is_minus_half_the_gradient():
    """With the same shape in both, one brighter: then their mean gradient is that of either."""
    image = waves(1)
    voxels = torch.arange(8000).view(20, 20, 20)[4:-4, 4:-4, 4:-4].flatten()[::5]
    displacement = torch.zeros(len(voxels), 3)
    pair = with_gradient(image), with_gradient(image + 1)
    weight = torch.ones(len(voxels))
    _, system = sampled_system(*pair, displacement, voxels, weight)

    def cost(where):
        return sampled_system(*pair, where, voxels, weight)[0]

    expected = -finite_differences(cost, displacement, 0.5) / 2
    error = (system[:, 6:] - expected).abs().max()
    assert error < 0.02 * expected.abs().max()
