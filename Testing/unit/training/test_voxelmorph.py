"""VoxelMorph++: its published size, its heatmaps, spline and warps by hand, its training step."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid  # noqa: E402
from L2ORegistrationLib.engine.field.levels import MindLevel  # noqa: E402
from L2ORegistrationLib.engine.field.lung_images import LungImages, padded  # noqa: E402
from L2ORegistrationLib.engine.field.operations import sample_points  # noqa: E402
from L2ORegistrationLib.engine.models import export_model  # noqa: E402
from L2ORegistrationLib.engine.optimise import voxelmorph as vm  # noqa: E402
from L2ORegistrationLib.engine.optimise.lapirn import LapIRN  # noqa: E402
from L2ORegistrationLib.training import loop, predictions  # noqa: E402
from L2ORegistrationLib.training import voxelmorph as training  # noqa: E402
from L2ORegistrationLib.training.card import PHANTOMS  # noqa: E402
from L2ORegistrationLib.training.config import TrainingConfig  # noqa: E402
from L2ORegistrationLib.training.lung_images import keypoints, lung_images  # noqa: E402
from L2ORegistrationLib.training.prepared import PreparedPair  # noqa: E402
from L2ORegistrationLib.training.run import CHECKPOINT, export  # noqa: E402
from L2ORegistrationLib.training.starts import falta2022_start  # noqa: E402
from training_pairs import prepared  # noqa: E402


def size_of(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return vm.VoxelMorph().eval()


@pytest.fixture(scope="module")
def pair():
    return prepared()


def ramp(shape=(4, 6, 8)):
    """x + 10 y + 100 z at every voxel."""
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    return x + 10 * y + 100 * z


def images(fixed, moving, spacing=3.0):
    return LungImages(fixed, moving, spacing, (0.0, 0.0, 0.0))


def test_it_has_the_published_size(network):
    assert size_of(network.features) == 901_888
    assert size_of(network.head) == 462_417


def test_features_have_half_the_resolution(network):
    with torch.no_grad():
        assert network.features(torch.zeros(1, 2, 16, 32, 48)).shape == (1, 64, 8, 16, 24)


def test_a_heatmaps_mean_by_hand():
    """All on one cell is its centre, 10/11 of 0.3 at most; all alike is the middle."""
    heatmaps = torch.zeros(3, 11, 11, 11)
    heatmaps[0, 10, 5, 0] = 1000.0  # z, y, x
    heatmaps[1, 5, 5, 5] = heatmaps[1, 5, 5, 7] = 1000.0
    found = vm.expected(heatmaps)
    edge = 0.3 * 10 / 11
    expected = [[-edge, 0, edge], [0.3 * 2 / 11, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_head_sees_a_points_own_features():
    """Features that tell where they are, and a head that repeats them: points come back."""

    class Places(torch.nn.Module):
        def forward(self, images):
            axes = [2 * torch.arange(n // 2) + 0.5 for n in images.shape[2:]]
            z, y, x = torch.meshgrid(*axes, indexing="ij")
            return torch.stack((x, y, z))[None]

    network = vm.VoxelMorph()
    network.features, network.head = Places(), torch.nn.Identity()
    points = torch.from_numpy(np.random.default_rng(0).uniform(1, 28, (700, 3))).float()
    image = torch.zeros(30, 31, 32)  # filled up to 32 voxels each way
    found = network(image, image, points) / vm.UNIT_VOXELS
    np.testing.assert_allclose(found, points, atol=1e-4)


def test_the_spline_keeps_an_affine_motion():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 16, (60, 3))
    matrix, shift = rng.normal(0, 0.2, (3, 3)), np.array([1.0, -2.0, 3.0])
    field = vm.spread(points, points @ matrix.T + shift, (16, 12, 8))
    assert field.shape == (3, 8, 6, 4)
    node = np.array([2 * 3 + 0.5, 2 * 5 + 0.5, 2 * 7 + 0.5])  # (x, y, z) of node (3, 5, 7)
    np.testing.assert_allclose(field[:, 7, 5, 3], matrix @ node + shift, atol=1e-3)


def test_zeros_fill_sizes_up():
    image = padded(torch.ones(2, 3, 4, 5), 4)
    assert image.shape == (2, 4, 4, 8) and image.sum() == 2 * 60
    assert image[:, :3, :, :5].min() == 1


def test_images_move_and_motions_follow_each_other_exactly():
    """A shift by one voxel of 3 mm along x, then the field is read a voxel further along y."""
    level = images(ramp(), ramp())
    field = torch.zeros(3, 4, 6, 8)
    field[0] = 3.0
    np.testing.assert_allclose(level.moved(field)[..., :-1], ramp()[..., 1:], rtol=1e-5)
    varying, further = torch.zeros(3, 4, 6, 8), torch.zeros(3, 4, 6, 8)
    varying[2] = torch.arange(6.0)[:, None]
    further[1] = 3.0
    total = level.after(varying, further)
    np.testing.assert_allclose(total[1], 3.0)
    np.testing.assert_allclose(total[2, :, :-1], varying[2, :, 1:], rtol=1e-5)


class Shift(torch.nn.Module):
    """In the network's place: every point moves by the same voxels."""

    def forward(self, fixed, moving, points, unit):
        return torch.tensor([1.0, -0.5, 2.0]).expand(len(points), 3)


def test_what_is_predicted_becomes_a_field_in_mm():
    level = images(torch.ones(8, 8, 8), torch.ones(8, 8, 8), spacing=3.0)
    steps = vm.VoxelMorphOptimiser(Shift()).iterate(level, torch.zeros(3, 8, 8, 8), 2)
    for count, (field, _) in enumerate(steps, start=1):
        expected = count * np.array([3.0, -1.5, 6.0])[:, None, None, None]
        np.testing.assert_allclose(field, np.broadcast_to(expected, field.shape), atol=1e-3)


def test_roughness_by_hand():
    field = torch.zeros(3, 2, 2, 2)
    field[0, 0, 0, 0] = 2.0  # one of the 12 differences along each axis is 2
    assert float(vm.roughness(field)) == pytest.approx(3 * 4 / 12)


def test_instance_optimisation_finds_a_shift_even_in_inference_mode():
    torch.manual_seed(0)
    texture = torch.nn.functional.avg_pool3d(torch.rand(1, 12, 18, 18, 18), 3, 1)[0]
    fixed, moving = texture[..., :-2], texture[..., 1:-1]  # fixed x is moving x - 1
    grid = Grid((14, 16, 16), (3.0,) * 3, (0.0, 0.0, 0.0))
    distance = torch.full((16, 16, 14), -5.0)
    level = MindLevel.of(fixed, moving, distance, grid)
    with torch.inference_mode():
        begun = torch.zeros(3, *level.shape)
        (_, first), *_, (field, last) = vm.InstanceOptimiser().iterate(level, begun, 50)
    assert not begun.any() and last < 0.5 * first
    inner = field[:, 5:-5, 5:-5, 5:-5].flatten(1).mean(dim=1)
    np.testing.assert_allclose(inner, [-3.0, 0, 0], atol=0.8)  # the border holds it back


def test_a_disturbed_image_takes_its_points_along():
    """What lies at a point lies at the moved point afterwards: a ramp says where it came from."""
    rng = np.random.default_rng(3)
    points = torch.from_numpy(rng.uniform(6, 9, (20, 3))).float()
    image, moved = training.disturbed(ramp((16, 16, 16)), points, 48.0, 0.035, rng)
    before = points @ torch.tensor([1.0, 10.0, 100.0])
    np.testing.assert_allclose(sample_points(image[None], moved)[:, 0], before, rtol=1e-4)
    assert (moved - points).norm(dim=1).min() > 0.05


@pytest.mark.parametrize("coarse", [False, True])
def test_keypoints_lie_where_the_images_show_them(pair, coarse):
    """Positions in voxels of 3 or 6 mm, from the middle of the first one, displacements likewise.

    A network's unit of length is 144 mm on both.
    """
    level = lung_images(pair, coarse)
    points, targets = keypoints(pair, level, 10**6, np.random.default_rng(0))
    spacing = 6.0 if coarse else 3.0
    assert level.spacing == spacing and level.unit * spacing == 144
    assert len(points) == len(pair.points)
    assert (sample_points(level.fixed[None], points) > 0).float().mean() > 0.95
    np.testing.assert_allclose(
        targets.norm(dim=1).mean() * spacing, pair.targets.norm(dim=1).mean()
    )


@pytest.mark.parametrize("step, coarse", [(0, False), (1, False), (1, True)])
def test_a_training_step_teaches_all_of_the_network(pair, step, coarse):
    torch.manual_seed(0)
    network = vm.VoxelMorph()
    config = TrainingConfig(variant="voxelmorph++", keypoints=4, iterations=(1, 1), coarse=coarse)
    rng = np.random.default_rng(step)
    loss, level, before, after = training.rollout(network, pair, config, step, rng, "cpu")
    loss.backward()
    assert level == 0 and before > 0 and np.isfinite(after)
    assert 0 < float(loss.detach()) < 1
    # On coarse voxels these lungs come down to a single one, which has nothing to teach.
    taught = (network.head if coarse else network).parameters()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in taught)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_prediction_is_kept_for_networks_that_go_on_from_it(tmp_path, pair, monkeypatch, coarse):
    """The shift of (1, -0.5, 2) voxels of 3 or 6 mm, on the lattice of 6 mm, computed once."""
    pair.save(tmp_path / "pair.pt")
    monkeypatch.setattr(predictions, "start_network", lambda weights: (Shift(), coarse))
    field = predictions.predicted(tmp_path / "pair.pt", "voxelmorph++")
    assert tuple(field.shape[1:]) == tuple(n // 2 for n in pair.distances[0].shape)
    spacing = 6.0 if coarse else 3.0
    expected = spacing * np.array([1.0, -0.5, 2.0])[:, None, None, None]
    np.testing.assert_allclose(field, np.broadcast_to(expected, field.shape), atol=1e-3)
    assert predictions.predicted(tmp_path / "pair.pt", "voxelmorph++") is field
    config = TrainingConfig(variant="falta2022", crop=8, coarse=coarse)
    kinds = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        _, start = falta2022_start(pair, field, config, rng)
        kinds.add(tuple(start.mean(dim=(1, 2, 3)).round().int().tolist()))
    assert {(0, 0, 0), (3, -2, 6)} <= kinds  # nothing, and all of the prediction


@pytest.mark.parametrize("variant", ["voxelmorph++", "lapirn"])
def test_what_predicts_at_once_is_exported_for_one_iteration(tmp_path, variant):
    """Whatever the settings, or it would predict the motion again and again."""
    config = TrainingConfig(variant=variant)
    made = loop.new_network(config)
    adam = torch.optim.Adam(made.parameters())
    loop.save_checkpoint(tmp_path / CHECKPOINT, made, adam, 1, config, 0.0, {})
    card = export(tmp_path, "mine", {PHANTOMS: []}, config, "cpu")
    assert (card.iterations, card.trained_iterations) == (1, (1, 1))


def test_only_weights_of_its_own_predict(tmp_path):
    path = tmp_path / "lapirn.pt"
    card = {"version": "1", "licence": "Apache-2.0", "trained_iterations": (1, 1)}
    export_model(LapIRN(), path, iterations=(1,), **card)
    with pytest.raises(InputError, match="one of lapirn, not of voxelmorph"):
        predictions.start_network(str(path))


def test_pairs_without_images_are_refused(pair):
    with pytest.raises(InputError, match="earlier version.*delete the folder"):
        lung_images(replace(pair, images=None))


def test_pairs_with_finer_images_are_still_read(tmp_path, pair):
    finer = [part.repeat_interleave(2, 0).repeat_interleave(2, 1) for part in pair.images]
    finer = tuple(part.repeat_interleave(2, 2) for part in finer)
    replace(pair, images=finer).save(tmp_path / "old.pt")
    found = lung_images(PreparedPair.load(tmp_path / "old.pt"))
    np.testing.assert_allclose(found.fixed, lung_images(pair).fixed, atol=1e-3)
