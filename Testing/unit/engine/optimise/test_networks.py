"""The networks: the paper's shape, every size of lung, and no motion before training."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.geometry import Grid  # noqa: E402
from L2ORegistrationLib.engine.field.levels import MindLevel  # noqa: E402
from L2ORegistrationLib.engine.field.operations import smooth  # noqa: E402
from L2ORegistrationLib.engine.optimise.falta2022 import (  # noqa: E402
    HALF_WIDTH,
    UNIT_PER_VOXEL,
    Falta2022Optimiser,
)
from L2ORegistrationLib.engine.optimise.networks import (  # noqa: E402
    OFFSETS,
    Falta2022Network,
    InstanceNorm,
    L2ONetwork,
    Weigher,
)
from scipy import ndimage  # noqa: E402


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


def test_the_papers_network_has_its_size():
    network = Falta2022Network()
    assert sum(p.numel() for p in network.parameters()) == 254_493
    assert network.inputs == 45 == 3 + 24 + 8 + network.hidden and network.hidden == 10


SIZES = pytest.mark.parametrize(
    "size", [(16, 16, 16), (13, 9, 18), (5, 7, 6), (8, 8, 8), (1, 2, 3), (1, 1, 1)]
)


@SIZES
def test_every_size_goes_into_the_papers_network_and_comes_out(size):
    network = seeded(Falta2022Network)
    with torch.no_grad():
        motion, hidden = network(random(2, 45, *size))
    assert motion.shape == (2, 3, *size) and hidden.shape == (2, 10, *size)
    assert motion.isfinite().all() and hidden.abs().max() <= 1


@SIZES
def test_every_size_goes_into_our_network_and_comes_out_bounded(size):
    network = seeded(lambda: Weigher(8))
    torch.nn.init.normal_(network.head.weight, std=50)
    with torch.no_grad():
        said = network(random(2, network.inputs, *size))
    assert said.shape == (2, 3, *size) and 0.5 < said.abs().max() <= network.MOST


def test_our_network_changes_nothing_untrained():
    with torch.no_grad():
        for weigher in seeded(L2ONetwork).levels:
            assert not weigher(random(1, Weigher.inputs, 8, 8, 8)).any()


def test_a_level_of_several_networks_says_the_mean_of_what_they_say():
    network, inputs = seeded(lambda: L2ONetwork(8, (1, 1, 2))), random(1, Weigher.inputs, 9, 7, 8)
    for one in network.levels[2]:
        torch.nn.init.normal_(one.head.weight, std=0.3)
    with torch.no_grad():
        first, second = (one(inputs) for one in network.levels[2])
        torch.testing.assert_close(network.levels[2](inputs), (first + second) / 2)
    assert (first - second).abs().max() > 0.01


def test_a_single_voxel_takes_the_same_network_as_many_equal_ones():
    """A constant image is normalised to zero; so is the one voxel that is left of it."""
    column, norm = random(1, 8, 1, 1, 1), InstanceNorm(8, affine=True)
    torch.nn.init.normal_(norm.bias)
    with torch.no_grad():
        many = norm(column.expand(-1, -1, 3, 3, 3))
        torch.testing.assert_close(norm(column), many[..., :1, :1, :1], atol=1e-3, rtol=0)


def test_the_papers_output_is_within_one():
    network = seeded(Falta2022Network)
    with torch.no_grad():
        motion, _ = network(100 * random(1, 45, 8, 8, 8))
    assert motion.abs().max() <= 1


def test_smoothing_by_hand():
    field = torch.zeros(1, 1, 5, 5, 5)
    field[0, 0, 2, 2, 2] = 64
    result = smooth(field)[0, 0]
    assert result[2, 2, 2] == 8 and result[1, 2, 2] == 4 and result[1, 1, 1] == 1
    assert result.sum() == 64
    constant = torch.full((1, 2, 3, 4, 5), 7.0)
    assert torch.equal(smooth(constant), constant)


def test_smoothing_keeps_the_sum_and_is_its_own_transpose():
    a, b = random(1, 1, 4, 5, 6), random(1, 1, 4, 5, 6, seed=1)
    assert torch.isclose(smooth(a).sum(), a.sum(), atol=1e-4)
    assert torch.isclose((a * smooth(b)).sum(), (smooth(a) * b).sum(), atol=1e-4)


def test_the_papers_optimiser_replaces_the_field_relative_to_its_start():
    """A network that says 0.1 along x: 0.1 / unit voxels from the start, not from the last."""

    class Fixed(torch.nn.Module):
        hidden, seen = 10, []

        def forward(self, inputs):
            self.seen.append(inputs)
            size = inputs.shape[2:]
            motion = torch.zeros(1, 3, *size)
            motion[:, 0] = 0.1
            return motion, torch.ones(1, 10, *size)

    size = (9, 10, 11)
    features = torch.rand(12, *size, generator=torch.Generator().manual_seed(0))
    distance = torch.full(size, -5.0)
    level = MindLevel.of(features, features, distance, Grid(size[::-1], (3.0,) * 3))
    start = torch.ones(3, *size)
    network = Fixed()
    with torch.no_grad():
        fields = [field for field, _ in Falta2022Optimiser(network).iterate(level, start, 3)]
    inner = (slice(3, -3),) * 3
    for field in fields:
        moved = field[(slice(None), *inner)]
        expected = 1 + 0.1 / UNIT_PER_VOXEL * 3.0
        torch.testing.assert_close(moved[0], torch.full_like(moved[0], expected))
        torch.testing.assert_close(moved[1:], torch.ones_like(moved[1:]))
    first, second = network.seen[:2]
    assert first.shape == (1, 45, *size)
    assert first[0, :3].abs().max() == 0 and first[0, 27:37].abs().max() == 0
    corners = first[0, 3:27].view(8, 3, *size)[:, :, 4, 4, 4]
    assert corners[0].tolist() == pytest.approx([-HALF_WIDTH] * 3)
    assert corners[1].tolist() == pytest.approx([HALF_WIDTH, -HALF_WIDTH, -HALF_WIDTH])
    where = np.array([[4.0], [4.0], [4.0]]) + np.array([1 - 3 * HALF_WIDTH / UNIT_PER_VOXEL]) / 3
    sampled = [ndimage.map_coordinates(f, where, order=1)[0] for f in features.numpy()]
    costs = np.square(np.array(sampled) - features[:, 4, 4, 4].numpy()).mean()
    assert first[0, 37, 4, 4, 4] == pytest.approx(costs, rel=1e-4)  # of the first corner
    assert second[0, 27:37].min() == 1 and second[0, 0, 4, 5, 5] == pytest.approx(0.1)


def test_the_untrained_paper_network_moves_nothing():
    displacement, hidden = Falta2022Network()(torch.randn(1, 45, 8, 8, 8))
    assert displacement.abs().max() == 0 and hidden.abs().max() > 0


def test_the_untrained_paper_network_tells_dissimilarities_apart():
    """A slope of 20 % of the mean, as near a match, weighs like the mean itself."""
    weight = seeded(Falta2022Network).down[0][0].weight[:, -8:].sum(dim=(2, 3, 4))
    signs = torch.tensor(OFFSETS, dtype=torch.float32)
    means = (weight @ torch.full((8,), 0.05)).square().mean()
    for slope in signs.T:
        assert (weight @ (0.01 * slope)).square().mean() > means / 4
