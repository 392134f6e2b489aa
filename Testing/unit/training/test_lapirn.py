"""LapIRN: its published size, its levels and warps by hand, its loss and its schedule."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.engine.field.lung_images import UNIT_VOXELS, LungImages  # noqa: E402
from L2ORegistrationLib.engine.models import export_model, load_model  # noqa: E402
from L2ORegistrationLib.engine.optimise import lapirn  # noqa: E402
from L2ORegistrationLib.training import lapirn as training  # noqa: E402
from L2ORegistrationLib.training import loop  # noqa: E402
from L2ORegistrationLib.training.config import TrainingConfig  # noqa: E402
from training_pairs import prepared  # noqa: E402


@pytest.fixture(scope="module")
def pair():
    return prepared()


def constant(vector, shape=(4, 6, 8)):
    return torch.tensor(vector, dtype=torch.float32).view(3, 1, 1, 1).expand(3, *shape)


def random_heads(network):
    for level in network.levels:
        torch.nn.init.normal_(level.decode[-1].weight, std=0.05)
    return network


def test_it_has_the_published_size():
    assert sum(p.numel() for p in lapirn.LapIRN().parameters()) == 923_748


@pytest.mark.parametrize("diffeomorphic", [False, True])
def test_each_level_doubles_the_resolution_and_untrained_ones_add_nothing(diffeomorphic):
    torch.manual_seed(0)
    network = lapirn.LapIRN(diffeomorphic)
    fixed, moving = torch.rand(2, 8, 16, 24)
    torch.nn.init.normal_(network.levels[0].decode[-1].weight, std=0.05)
    with torch.no_grad():
        first, _ = network(fixed, moving, 1)
        second, _ = network(fixed, moving, 2)
        third, _ = network(fixed, moving)
    assert [tuple(m.shape) for m in (first, second, third)] == [
        (3, 2, 4, 6),
        (3, 4, 8, 12),
        (3, 8, 16, 24),
    ]
    assert first.abs().max() > 0.01
    if not diffeomorphic:
        np.testing.assert_allclose(third, lapirn.enlarged(second), atol=1e-5)
    assert first.abs().max() <= 0.4 * UNIT_VOXELS / 4


def test_a_shift_is_as_long_in_finer_voxels():
    """One voxel becomes two of half the size, on twice as many."""
    found = lapirn.enlarged(constant((1.0, 0.0, -2.0)))
    np.testing.assert_allclose(found, constant((2.0, 0.0, -4.0), (8, 12, 16)))


def test_velocities_are_integrated():
    """A constant one is its own displacement; one that grows along x becomes an exponential."""
    np.testing.assert_allclose(
        lapirn.integrated(constant((1.0, -2.0, 0.5))), constant((1.0, -2.0, 0.5)), atol=1e-5
    )
    x = torch.arange(40.0) - 20
    velocity = torch.zeros(3, 2, 2, 40)
    velocity[0] = 0.2 * x
    found = lapirn.integrated(velocity)[0, 0, 0]
    expected = x * (np.exp(0.2) - 1)
    np.testing.assert_allclose(found[10:30], expected[10:30], rtol=0.01, atol=0.01)


def test_what_is_predicted_becomes_a_field_in_mm():
    class Shift(torch.nn.Module):
        def forward(self, fixed, moving):
            assert fixed.shape == (8, 8, 16)
            return constant((1.0, -0.5, 2.0), tuple(fixed.shape)), None

    level = LungImages(torch.ones(4, 6, 10), torch.ones(4, 6, 10), 3.0, (0.0, 0.0, 0.0))
    ((field, difference),) = lapirn.LapIRNOptimiser(Shift()).iterate(
        level, torch.zeros(3, 4, 6, 10), 1
    )
    np.testing.assert_allclose(field, constant((3.0, -1.5, 6.0), (4, 6, 10)))
    assert difference == 0


def test_moving_is_sampled_at_full_resolution():
    """A fine ramp, seen from voxels twice and four times as coarse, one coarse voxel further."""
    fine = torch.arange(16.0).expand(8, 8, 16)
    for factor in (2, 4):
        size = (8 // factor, 8 // factor, 16 // factor)
        found = training.sample_finer(fine, constant((1.0, 0.0, 0.0), size), factor)
        expected = (torch.arange(16 // factor) + 1.5) * factor - 0.5
        np.testing.assert_allclose(found[0, 0, :-1], expected[:-1], atol=1e-4)


def test_what_is_alike_correlates_more():
    image = torch.rand(9, 9, 9, generator=torch.Generator().manual_seed(0))
    inner = torch.zeros(15, 15, 15)
    inner[3:-3, 3:-3, 3:-3] = image
    same = float(training.correlation(inner, inner, 3))
    other = float(training.correlation(inner, inner.flip(0), 3))
    assert other < 0.6 * same < 0.6


def test_correlation_by_hand():
    """Two voxels: every window of 27 holds both, and zeros around them."""
    first, second, both = (torch.tensor([[row]]) for row in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]))
    found = [float(training.correlation(first, other, 3)) for other in (first, second, both)]
    # covariances 26/27, -1/27 and 25/27; variations 26/27, of both 50/27
    np.testing.assert_allclose(found, [1, 1 / 26**2, 25**2 / (26 * 50)], rtol=1e-3)


def test_roughness_is_the_mean_over_the_axes():
    field = torch.zeros(3, 4, 4, 4)
    field[0] = 2 * torch.arange(4.0)  # 2 a voxel, along x only, of one component in three
    assert float(training.roughness(field)) == pytest.approx(4 / 3 / 3)


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, (0, True)),
        (29_999, (0, False)),
        (30_000, (1, True)),
        (31_999, (1, True)),
        (32_000, (1, False)),
        (60_000, (2, True)),
        (63_999, (2, True)),
        (64_000, (2, False)),
        (119_999, (2, False)),
    ],
)
def test_levels_learn_one_after_the_other(step, expected):
    number, frozen = training.stage(step, 120_000, (0.25, 0.25, 0.5))
    assert number == expected[0]
    if number:
        assert frozen == expected[1]


@pytest.mark.parametrize("step, learning", [(0, {0}), (4, {1}), (7, {0, 1}), (8, {2})])
def test_only_levels_that_are_not_frozen_get_gradients(pair, step, learning):
    torch.manual_seed(0)
    network = random_heads(lapirn.LapIRN(diffeomorphic=step == 7))
    config = TrainingConfig(
        variant="lapirn", steps=16, iterations=(1, 1), level_shares=(0.25, 0.25, 0.5)
    )
    rng = np.random.default_rng(0)
    loss, number, before, after = training.rollout(network, pair, config, step, rng, "cpu")
    loss.backward()
    assert number == max(learning) and np.isfinite([before, after]).all()
    taught = {
        k
        for k, level in enumerate(network.levels)
        if any(p.grad is not None and p.grad.abs().max() > 0 for p in level.parameters())
    }
    assert taught == learning


def test_a_few_steps_lessen_the_loss(pair):
    torch.manual_seed(0)
    network = lapirn.LapIRN()
    config = TrainingConfig(variant="lapirn", steps=1000, iterations=(1, 1))
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        adam.zero_grad()
        loss, *_ = training.rollout(network, pair, config, 0, np.random.default_rng(0), "cpu")
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_weights_to_begin_with_are_of_the_configured_variant(tmp_path):
    """They say what they predict, which would else win over the setting without a word."""
    export = {"version": "1", "licence": "none", "iterations": 1, "trained_iterations": (1, 1)}
    export_model(lapirn.LapIRN(diffeomorphic=True), tmp_path / "own.pt", **export)
    config = TrainingConfig("lapirn", diffeomorphic=True, begin_with=str(tmp_path / "own.pt"))
    assert loop.beginner(config).diffeomorphic
    with pytest.raises(InputError, match="'diffeomorphic' do not agree: set it to true"):
        loop.beginner(replace(config, diffeomorphic=False))


def test_weights_remember_their_variant(tmp_path):
    export_model(
        lapirn.LapIRN(diffeomorphic=True),
        tmp_path / "lapirn.pt",
        version="1",
        licence="Apache-2.0",
        iterations=(1,),
        trained_iterations=(1, 1),
    )
    card, network = load_model(tmp_path / "lapirn.pt")
    assert card.variant == "lapirn" and card.parameters == 923_748 and network.diffeomorphic
