"""The networks: the paper's shape, every size of lung, and no motion before training."""

import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.geometry import Grid  # noqa: E402
from L2ORegistrationLib.engine.field.levels import MindLevel  # noqa: E402
from L2ORegistrationLib.engine.field.operations import smooth  # noqa: E402
from L2ORegistrationLib.engine.field.sampling import OFFSETS  # noqa: E402
from L2ORegistrationLib.engine.optimise.falta2022 import (  # noqa: E402
    HALF_WIDTH,
    UNIT_PER_VOXEL,
    Falta2022Optimiser,
)
from L2ORegistrationLib.engine.optimise.networks import (  # noqa: E402
    Falta2022Network,
    L2ONetwork,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


def test_the_papers_network_has_its_size():
    network = Falta2022Network()
    assert sum(p.numel() for p in network.parameters()) == 254_493
    assert network.inputs == 45 == 3 + 24 + 8 + network.hidden and network.hidden == 10


@pytest.mark.parametrize("make", [Falta2022Network, lambda: L2ONetwork(8)])
@pytest.mark.parametrize("size", [(16, 16, 16), (13, 9, 18), (5, 7, 6), (8, 8, 8), (1, 2, 3)])
def test_every_size_goes_in_and_comes_out(make, size):
    network = seeded(make)
    with torch.no_grad():
        motion, hidden = network(random(2, network.inputs, *size))
    assert motion.shape == (2, 3, *size) and hidden.shape == (2, network.hidden, *size)
    assert motion.isfinite().all() and hidden.abs().max() <= 1


def test_a_single_voxel_takes_the_same_network_as_many_equal_ones():
    """A constant image is normalised to zero; so is the one voxel that is left of it."""
    network = seeded(lambda: L2ONetwork(8))
    column = random(1, network.inputs, 1, 1, 1)
    with torch.no_grad():
        unit = network.stem
        torch.testing.assert_close(
            unit(column), unit(column.expand(-1, -1, 3, 3, 3))[..., :1, :1, :1]
        )


def test_the_papers_output_is_within_one():
    network = seeded(Falta2022Network)
    with torch.no_grad():
        motion, _ = network(100 * random(1, 45, 8, 8, 8))
    assert motion.abs().max() <= 1


def test_an_untrained_correction_is_zero_but_its_memory_is_not():
    network = seeded(L2ONetwork)
    with torch.no_grad():
        correction, hidden = network(random(1, network.inputs, 8, 8, 8))
    assert torch.equal(correction, torch.zeros_like(correction))
    assert hidden.abs().max() > 0.01


def test_a_correction_is_limited():
    network = seeded(lambda: L2ONetwork(8))
    torch.nn.init.normal_(network.head.weight, std=50)
    with torch.no_grad():
        correction, _ = network(random(1, network.inputs, 8, 8, 8))
    assert 0.5 < correction.abs().max() <= L2ONetwork.MAX_STEP


def test_memory_and_correction_learn():
    network = seeded(lambda: L2ONetwork(8)).train()
    correction, hidden = network(random(1, network.inputs, 16, 16, 16))
    (correction.sum() + hidden.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


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
    level = MindLevel.of(features, features, distance, distance, Grid(size[::-1], (3.0,) * 3))
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
