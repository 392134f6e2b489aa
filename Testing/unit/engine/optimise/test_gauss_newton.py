"""Gauss-Newton: its regulariser, its linear solver, and the motions that it must find."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import SimpleITK as sitk  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine.field.levels import (  # noqa: E402
    MindLevel,
    active_voxels,
    chessboard,
)
from L2ORegistrationLib.engine.field.operations import (  # noqa: E402
    sample,
    sample_points,
    smooth,
)
from L2ORegistrationLib.engine.field.pyramid import FeaturePyramid  # noqa: E402
from L2ORegistrationLib.engine.images.preprocessing import WorkingPair  # noqa: E402
from L2ORegistrationLib.engine.optimise.adam import AdamOptimiser  # noqa: E402
from L2ORegistrationLib.engine.optimise.gauss_newton import (  # noqa: E402
    GaussNewtonOptimiser,
    gauss_newton_step,
)
from L2ORegistrationLib.engine.optimise.penalty import Penalty  # noqa: E402
from scipy import ndimage  # noqa: E402

GRID = Grid((64, 48, 48), (1.5, 1.5, 1.5), (-40.0, 12.0, 100.0))
STILL = torch.zeros(3, 1, 1, 1)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scans(motion):
    """A pair of smooth noise images whose true field (x, y, z), mm, is motion(points (N, 3))."""
    margin = 16
    noise = np.random.default_rng(0).standard_normal([n + 2 * margin for n in GRID.shape])
    texture = ndimage.gaussian_filter(noise, 1.7)
    texture = (0.15 * texture / texture.std()).astype(np.float32)
    points = GRID.points()

    def image(where):
        index = np.moveaxis(GRID.to_index(where)[..., ::-1] + margin, -1, 0)
        return ndimage.map_coordinates(texture, index, order=3).astype(np.float32)

    # moving(y) = fixed(x) where y = x + u(x): ask fixed at y - u, u taken where it is needed
    back = points - motion(points)
    for _ in range(20):
        back = points - motion(back)
    z, y, x = np.indices(GRID.shape)
    box = [np.abs(i - (n - 1) / 2) * 1.5 - 0.28 * n * 1.5 for i, n in zip((z, y, x), GRID.shape)]
    distance = np.maximum.reduce(box).astype(np.float32)
    pair = WorkingPair(
        image(points),
        image(back),
        distance < 0,
        distance,
        distance,
        GRID,
        sitk.Transform(3, sitk.sitkIdentity),
    )
    return FeaturePyramid(pair)


def shift(points):
    return np.broadcast_to([2.0, -1.5, 3.0], points.shape)


def stretch(points):
    """An affine: 4 % longer along z, turned a little, shifted."""
    matrix = np.array([[0.01, 0.03, 0], [-0.03, -0.01, 0.02], [0, 0, 0.04]])
    return (points - GRID.to_world((31.5, 23.5, 23.5))) @ matrix.T + [1.0, 2.0, -1.0]


def error(level, field, motion):
    """Mean distance (mm) of a field from the truth at the active nodes."""
    truth = motion(level.grid.points()).reshape(-1, 3)[level.active_nodes]
    found = field.flatten(1).T.numpy()[level.active_nodes]
    return np.linalg.norm(found - truth, axis=1).mean()


def last(optimiser, level, iterations):
    field = torch.zeros((3, *level.shape))
    with torch.no_grad():
        for field, _ in optimiser.iterate(level, field, iterations):  # noqa: B007, B020
            pass
    return field


@pytest.mark.parametrize("changing", [0.0, 0.5])
def test_the_step_solves_its_linear_system(changing):
    """Against a dense solution of (G + s R) d = b - s R u."""
    level = scans(shift).mind_level(4)
    field = 0.5 * smooth(random(1, 3, *level.shape))[0]
    _, system = level.normal_equations(field)
    penalty = Penalty(1e-3, changing)
    usual = gauss_newton_step(level, field, system, penalty)
    step = gauss_newton_step(level, field, system, penalty, iterations=400)
    count = level.distance.numel()
    bend = penalty(torch.eye(count).view(count, *level.shape)).reshape(count, count).double()
    dense = torch.zeros(count, 9).double()
    dense[level.active_nodes] = system.double()
    rows = ((0, 3, 4), (3, 1, 5), (4, 5, 2))
    matrix = torch.cat(
        [
            torch.cat([torch.diag(dense[:, k]) + bend * (i == j) for j, k in enumerate(row)], dim=1)
            for i, row in enumerate(rows)
        ]
    )
    right = dense[:, 6:].T.reshape(-1) - torch.cat([bend @ u.flatten().double() for u in field])
    expected = torch.linalg.lstsq(matrix, right[:, None]).solution.view(3, count)
    for found, part in ((step, 0.01), (usual, 0.5)):  # the usual number stops on the way
        miss = (found.flatten(1).double() - expected)[:, level.active_nodes]
        assert miss.norm() < part * expected[:, level.active_nodes].norm()


@pytest.mark.parametrize("motion", [shift, stretch])
def test_mind_levels_find_a_known_motion(motion):
    found = scans(motion)
    coarse = found.mind_level(4)
    optimiser = GaussNewtonOptimiser(1e-3)
    assert error(coarse, last(optimiser, coarse, 8), motion) < 1.8
    fine = found.mind_level(2)
    start = error(fine, torch.zeros((3, *fine.shape)), motion)
    assert start > 2
    assert error(fine, last(optimiser, fine, 10), motion) < 0.7


@pytest.mark.parametrize("motion", [shift, stretch])
def test_contrast_finds_the_rest_to_a_fraction_of_a_voxel(motion):
    found = scans(lambda points: 0.5 * motion(points))
    level = found.contrast_level(STILL)
    field = last(GaussNewtonOptimiser(4e-3), level, 8)
    assert error(level, field, lambda points: 0.5 * motion(points)) < 0.2


def test_contrast_does_not_ask_how_the_moving_mask_is_drawn():
    made = scans(shift)
    level = made.contrast_level(STILL)
    made.distances[1] = made.distances[1] - 6.0
    assert torch.equal(made.contrast_level(STILL).moving, level.moving)


@pytest.mark.parametrize("motion", [shift, stretch])
def test_the_fixed_lungs_are_carried_along_the_field(motion):
    """Moving point x + u(x) is as far from the lungs' surface as fixed point x."""
    made = scans(motion)
    lattice = made.mind_level(2).grid
    field = torch.from_numpy(np.moveaxis(motion(lattice.points()), -1, 0).copy()).float()
    carried = Volume(made._carried(field, 4).numpy(), GRID)
    distance = Volume(made.distances[0].numpy(), GRID)
    points = GRID.points()[np.abs(distance.array) < 6]
    missed = carried.sample(points + motion(points)) - distance.sample(points)
    assert np.abs(missed).mean() < 0.3 and np.percentile(np.abs(missed), 99) < 1.5
    assert np.abs(carried.sample(points) - distance.sample(points)).mean() > 1


def test_adam_finds_the_shift():
    level = scans(shift).mind_level(2)
    assert error(level, last(AdamOptimiser(), level, 30), shift) < 0.4


def test_the_same_image_twice_does_not_move():
    """At any iteration of any level."""
    made = scans(lambda points: 0 * points)
    for level in (made.mind_level(4), made.mind_level(2), made.contrast_level(STILL)):
        begun = torch.zeros((3, *level.shape))
        for field, dissimilarity in GaussNewtonOptimiser(1e-3).iterate(level, begun, 4):
            assert field.abs().max() < 1e-6 and dissimilarity < 1e-6


@pytest.mark.parametrize("voxels", [1.0, 0.5])
def test_a_shift_by_a_voxel_and_by_half_of_one_is_found(voxels):
    """To 0.02 working voxels, by plain Gauss-Newton steps, MIND first."""
    way = voxels * GRID.spacing[0] * np.array([1.0, -1.0, 1.0])
    made = scans(lambda points: np.broadcast_to(way, points.shape))
    fine = made.mind_level(2)
    field = last(GaussNewtonOptimiser(1e-3), fine, 6)
    level = made.contrast_level(field)
    optimiser = GaussNewtonOptimiser(4e-3)
    for field, _ in optimiser.iterate(level, level.sample_field(field), 8):  # noqa: B007, B020
        pass
    inside = level.distance.flatten()[level.active_nodes] < -6
    found = field.flatten(1)[:, level.active_nodes[inside]].T.numpy()
    assert np.abs(found.mean(axis=0) - way).max() < 0.02 * GRID.spacing[0]
    assert np.linalg.norm(found - way, axis=1).mean() < 0.06 * GRID.spacing[0]


def test_a_step_along_a_line_by_hand():
    """Two voxels, one of them seen with slope 2 and residual 1: 4 d = -2, the other follows."""
    level = scans(shift).mind_level(2)
    level = replace(level, distance=torch.zeros(1, 1, 1, 2), active_nodes=torch.tensor([0]))
    system = torch.tensor([[4.0, 1.0, 1.0, 0.0, 0.0, 0.0, -2.0, 0.0, 0.0]])
    step = gauss_newton_step(level, torch.zeros(3, 1, 1, 2), system, Penalty(1.0), 50)
    expected = torch.tensor([-0.5, -0.5, 0, 0, 0, 0]).view(3, 1, 1, 2)
    torch.testing.assert_close(step, expected, atol=1e-4, rtol=0)


def test_fields_move_between_levels_without_a_shift():
    """The lattices are nested, not aligned: a field linear in the world must stay so."""
    made = scans(shift)
    coarse, fine = made.mind_level(4), made.mind_level(2)
    assert coarse.spacing == 2 * fine.spacing == 12.0
    assert coarse.ratio == fine.ratio == 2
    for source, target in ((coarse, fine), (fine, coarse)):
        field = torch.from_numpy(np.moveaxis(stretch(source.grid.points()), -1, 0)).float()
        expected = torch.from_numpy(np.moveaxis(stretch(target.grid.points()), -1, 0)).float()
        inner = (slice(None), *3 * (slice(1, -1),))
        torch.testing.assert_close(target.sample_field(field)[inner], expected[inner])


def test_the_levels_lie_where_their_blocks_are():
    """Working voxels 0..7 make the first field voxel of factor 4's level: centre at 3.5."""
    level = scans(shift).mind_level(4)
    assert level.grid.to_world((0, 0, 0)).tolist() == GRID.to_world((3.5, 3.5, 3.5)).tolist()
    assert scans(shift).contrast_level(STILL).origin == tuple(GRID.to_world((1.5, 1.5, 1.5)))
    assert level.shape == tuple(n // 8 for n in GRID.shape)


def test_displacements_of_the_active_blocks_are_the_fields_own():
    """A linear field at the 2x2x2 feature voxels of a block, in feature voxels."""
    level = scans(shift).mind_level(2)
    field = torch.from_numpy(np.moveaxis(stretch(level.grid.points()), -1, 0)).float()
    found = level.displacements(field).view(-1, 8, 3)
    inner = (level.active_nodes == (4 * level.shape[1] + 5) * level.shape[2] + 6).nonzero().item()
    centre = level.grid.to_world((6, 5, 4))
    corner = np.array([[x, y, z] for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)])
    expected = stretch(centre + corner * level.spacing / 4) / 3.0
    np.testing.assert_allclose(found[inner].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("ratio", [2, 4])
def test_displacements_are_those_of_interpolating_everything(ratio):
    """At the border, too, where the edge value continues."""
    made = scans(shift)
    level = made.mind_level(2) if ratio == 2 else made.contrast_level(STILL)
    everywhere = torch.full_like(level.distance[0], -1.0)
    size = [level.ratio * n for n in level.shape]
    active_nodes, voxels = active_voxels(everywhere, size, 0.0)
    field = random(3, *level.shape)
    fine = F.interpolate(field[None], size=size, mode="trilinear", align_corners=False)[0]
    expected = fine.flatten(1)[:, voxels.flatten()].T * level.ratio / level.spacing
    found = replace(level, active_nodes=active_nodes, voxels=voxels).displacements(field)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_wall_that_matches_worse_than_the_lung_counts_less():
    """By hand: lung typically 0.1; outside 0.1 counts half, 0.2 a seventeenth, 0 in full.

    Inside, what matches twice as badly as usual counts half.
    """
    level = scans(shift).mind_level(2)
    distance = torch.tensor([-2.0, -3.0, -4.0, -20.0, 1.0, 1.0, 1.0, -1.0]).view(1, 2, 2, 2)
    level = replace(level, distance=distance, active_nodes=torch.arange(8))
    weights = level.weights(torch.tensor([0.0, 0.1, 0.1, 0.2, 0.1, 0.2, 0.0, 0.4]))
    expected = [1, 16 / 17, 16 / 17, 1 / 2, 1 / 2, 1 / 17, 1, 1 / 17]
    torch.testing.assert_close(weights, torch.tensor(expected))
    outside = replace(level, distance=distance.abs())  # nothing to compare with
    assert outside.weights(torch.full((8,), 0.3)).eq(1).all()


def test_a_lung_slides_along_a_wall_that_stays(monkeypatch):
    """Two halves of a scene, x below and above the middle: lung that moves along z, and wall."""
    made, still = scans(lambda points: 0 * points + [0, 0, 4.0]), scans(lambda points: 0 * points)
    x = torch.from_numpy(GRID.points()[..., 0] - GRID.to_world((31.5, 0, 0))[0]).float()
    made.images[1] = torch.where(x < 0, made.images[1], still.images[1])
    made.distances = [x, x]
    level = made.mind_level(2)
    beside = (level.distance[0] < 0) & (level.distance[0] > -6)

    def missed():
        field = last(GaussNewtonOptimiser(1e-3), level, 8)
        return float((field[2] - 4)[beside].abs().mean())

    sliding = missed()
    monkeypatch.setattr(MindLevel, "weights", lambda self, mismatch: torch.ones_like(mismatch))
    assert sliding < 0.85 * missed()


@pytest.mark.parametrize("ratio", [2, 4])
def test_every_second_voxel_lies_as_a_chessboards(ratio):
    """Of a block, as many voxels on every side: their mean place is the block's centre."""
    seen = chessboard(ratio).view(ratio, ratio, ratio)
    assert seen.sum() == ratio**3 / 2 and seen[0, 0, 0] and not seen[0, 0, 1]
    np.testing.assert_allclose(seen.nonzero().float().mean(dim=0), (ratio - 1) / 2)


def test_every_second_voxel_tells_what_all_do():
    level = scans(shift).mind_level(2)
    field = smooth(random(1, 3, *level.shape))[0]
    mismatch, system = level.normal_equations(field)
    some, its = level.normal_equations(field, roughly=True)
    assert (some - mismatch).abs().mean() < 0.1 * mismatch.mean()
    assert (its - system).abs().mean() < 0.3 * system.abs().mean()


def test_the_last_iterations_look_closely(monkeypatch):
    level, looked = scans(shift).contrast_level(STILL), []
    plain = type(level).normal_equations

    def looking(self, field, roughly=False):
        looked.append("roughly" if roughly else "closely")
        return plain(self, field, roughly)

    monkeypatch.setattr(type(level), "normal_equations", looking)
    last(GaussNewtonOptimiser(4e-3, closely=2), level, 3)
    last(GaussNewtonOptimiser(4e-3, closely=2), level, 1)
    assert looked == ["roughly", "closely", "closely", "closely"]


def test_looking_closely_finds_a_motion_that_noise_hides_better():
    made = scans(stretch)
    made.images = [
        image + 0.1 * random(*image.shape, seed=seed) for seed, image in enumerate(made.images)
    ]
    level = made.contrast_level(STILL)
    roughly, closely = (
        error(level, last(GaussNewtonOptimiser(6e-3, closely=count), level, 8), stretch)
        for count in (0, 4)
    )
    assert closely < 0.9 * roughly


def test_evidence_that_thick_slices_repeat_counts_less():
    """By hand: four voxels for one of the images' own halve what is seen of it."""
    level = scans(shift).contrast_level(STILL)
    field = torch.zeros(3, *level.shape)
    mismatch, system = level.normal_equations(field)
    same, its = replace(level, repeated=4.0).normal_equations(field)
    assert torch.equal(same, mismatch)
    torch.testing.assert_close(its, system / 2)


@pytest.mark.parametrize("noise, least, most", [(0.0, 0.999, 1.001), (0.1, 0.4, 0.7)])
def test_noise_does_not_shorten_the_step(noise, least, most):
    """Two images of one object: of the matrix stays what their gradients share."""
    made = scans(lambda points: 0 * points)
    made.images = [
        image + noise * random(*image.shape, seed=seed) for seed, image in enumerate(made.images)
    ]
    level = made.contrast_level(STILL)
    _, system = level.normal_equations(torch.zeros(3, *level.shape))
    both = (level.moving + level.fixed)[..., 1:].square().sum(dim=-1) / 4
    both = both.flatten()[level.voxels] * level.weight
    both = both.sum() / level.voxels.shape[1] / (level.spacing / level.ratio) ** 2
    assert least < float(system[:, :3].sum() / both) < most


def test_sampling_points_and_grids_agree():
    field = random(3, 4, 5, 6)
    displacement = random(3, 4, 5, 6, seed=1)
    z, y, x = torch.meshgrid(*[torch.arange(float(n)) for n in (4, 5, 6)], indexing="ij")
    where = torch.stack((x, y, z)) + displacement
    points = sample_points(field, where.flatten(1).T)
    torch.testing.assert_close(points.T.view(3, 4, 5, 6), sample(field, displacement))
    assert torch.equal(
        sample_points(field, torch.tensor([[2.0, 1.0, 3.0]]))[0].round(decimals=4),
        field[:, 3, 1, 2].round(decimals=4),
    )
