"""What bending costs: the lattice's Laplacian, the penalty made of it, and its exact inverse."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from L2ORegistrationLib.engine.field.operations import laplacian, weighted_laplacian  # noqa: E402
from L2ORegistrationLib.engine.optimise.penalty import Penalty  # noqa: E402


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=10, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 6)] * 3), seed=st.integers(0, 99))
def test_the_laplacian_is_symmetric_and_not_negative(shape, seed):
    a, b = (random(3, *shape, seed=seed + k).double() for k in (0, 100))
    assert torch.isclose((a * laplacian(b)).sum(), (laplacian(a) * b).sum(), atol=1e-10)
    assert (a * laplacian(a)).sum() >= -1e-10


def test_the_laplacian_by_hand():
    field = torch.zeros(1, 3, 3, 3)
    field[0, 1, 1, 1] = 1
    result = laplacian(field)
    assert result[0, 1, 1, 1] == 6 and result[0, 0, 1, 1] == -1 and result.sum() == 0
    corner = torch.zeros(1, 3, 3, 3)
    corner[0, 0, 0, 0] = 1
    assert laplacian(corner)[0, 0, 0, 0] == 3  # no neighbour beyond the border


def test_an_affine_motion_is_not_bent():
    z, y, x = torch.meshgrid(*[torch.arange(7.0)] * 3, indexing="ij")
    field = torch.stack((x + 2 * y - z, 3 * z + 1, y - 0.5 * x))
    assert laplacian(field)[:, 1:-1, 1:-1, 1:-1].abs().max() < 1e-5
    twice = laplacian(laplacian(field))
    assert twice[:, 2:-2, 2:-2, 2:-2].abs().max() < 1e-5


def test_the_bilaplacians_diagonal_is_42():
    field = torch.zeros(1, 5, 5, 5)
    field[0, 2, 2, 2] = 1
    assert laplacian(laplacian(field))[0, 2, 2, 2] == 42


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    changing=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_penalty_alone_is_solved_by_cosines(shape, changing, seed):
    """The preconditioner is exact where the evidence is the same everywhere."""
    penalty, field = Penalty(0.3, changing), random(3, *shape, seed=seed).double()
    right = 0.7 * field + penalty(field)
    torch.testing.assert_close(penalty.smoothed(0.7, field)(right), field)


def test_a_bend_that_stays_the_same_costs_only_the_curvatures_part():
    """Along a line u = x^2: L u is -2 inside, L L u and all that follows 0 away from the ends."""
    bowl = (torch.arange(12.0) ** 2).view(1, 1, 1, 12).expand(3, 1, 1, 12)
    assert laplacian(bowl)[:, 0, 0, 1:-1].eq(-2).all()
    assert Penalty(1.0, 1.0)(bowl)[:, 0, 0, 3:-3].eq(0).all()
    # A spike by hand: 6 twice curved, 20 after once more.
    spike = torch.zeros(1, 1, 1, 9)
    spike[..., 4] = 1
    assert Penalty(2.0)(spike)[0, 0, 0, 4] == 2 * 6
    assert Penalty(2.0, 0.5)(spike)[0, 0, 0, 4] == 0.5 * 2 * 6 + 0.5 * 2 * 20


def test_the_weighted_laplacian_is_the_plain_one_where_all_weigh_one():
    values = torch.randn(3, 4, 5, 6)
    torch.testing.assert_close(weighted_laplacian(values, torch.ones(4, 5, 6)), laplacian(values))
    penalty = Penalty(0.2, 0.5, torch.ones(2, 4, 5, 6))
    torch.testing.assert_close(penalty(values), Penalty(0.2, 0.5)(values))


def test_the_weighted_laplacian_by_hand():
    """Along a line 0, 1, 3 with weights 1, 3, 5: steps of 1 and 2 that count 2 and 4 times."""
    values = torch.tensor([0.0, 1, 3]).view(1, 1, 1, 3)
    found = weighted_laplacian(values, torch.tensor([1.0, 3, 5]).view(1, 1, 3))
    assert found.flatten().tolist() == [-2.0, 2 - 8, 8.0]


def test_a_local_penalty_is_symmetric_and_not_negative():
    a, b = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    penalty = Penalty(0.2, 0.5, torch.rand(2, 4, 5, 6, dtype=torch.float64))
    assert torch.isclose((a * penalty(b)).sum(), (penalty(a) * b).sum())
    assert (a * penalty(a)).sum() > 0
