"""Training: the loss by hand, pairs prepared as a registration sees them, runs that can stop."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid  # noqa: E402
from L2ORegistrationLib.engine.field.levels import MindLevel  # noqa: E402
from L2ORegistrationLib.engine.images.preprocessing import WORKING_SPACING_MM  # noqa: E402
from L2ORegistrationLib.engine.models import export_model, load_model  # noqa: E402
from L2ORegistrationLib.engine.optimise.networks import Falta2022Network, L2ONetwork  # noqa: E402
from L2ORegistrationLib.engine.start.alignment import distance_map  # noqa: E402
from L2ORegistrationLib.training import closeup, loop  # noqa: E402
from L2ORegistrationLib.training.loop import train  # noqa: E402
from L2ORegistrationLib.training.loss import inside, keypoint_loss  # noqa: E402
from L2ORegistrationLib.training.prepared import PreparedPair, packed, unpacked  # noqa: E402
from L2ORegistrationLib.training.starts import random_crop, scattered  # noqa: E402
from training_pairs import CONFIG, SHIFT, patient, prepared  # noqa: E402


def level_of(spacing=4.0, size=(5, 6, 7), origin=(10.0, 20.0, 30.0)):
    features = torch.zeros(12, *(2 * n for n in size))
    distance = torch.full(size, -1.0)
    return MindLevel.of(features, features, distance, Grid(size[::-1], (spacing,) * 3, origin))


def constant(vector, level):
    return torch.tensor(vector).view(3, 1, 1, 1).expand(3, *level.shape)


def test_the_loss_by_hand():
    """Errors of 5 mm, then 0 mm, with weights 1/3 and 2/3, in voxels of 4 mm."""
    level = level_of()
    points = torch.tensor([[14.0, 24.0, 34.0], [20.0, 30.0, 40.0]])
    targets = torch.tensor([[3.0, 4.0, 0.0]]).expand(2, 3)
    fields = [constant((0.0, 0.0, 0.0), level), constant((3.0, 4.0, 0.0), level)]
    loss = keypoint_loss(fields, level, points, targets)
    assert float(loss) == pytest.approx((1 * 5 + 2 * 0.001) / 3 / 4, abs=1e-5)
    assert float(keypoint_loss(fields[::-1], level, points, targets)) == pytest.approx(
        (1 * 0.001 + 2 * 5) / 3 / 4, abs=1e-5
    )


def test_an_iteration_that_makes_it_worse_costs_extra():
    """Errors of 3 mm at the start, then 5 and 0 mm: 2 mm worse once, in voxels of 4 mm."""
    level = level_of()
    points, targets = torch.tensor([[14.0, 24.0, 34.0]]), torch.tensor([[3.0, 4.0, 0.0]])
    start = constant((3.0, 1.0, 0.0), level)
    fields = [constant((0.0, 0.0, 0.0), level), constant((3.0, 4.0, 0.0), level)]
    without = keypoint_loss(fields, level, points, targets)
    loss = keypoint_loss(fields, level, points, targets, start)
    assert float(loss - without) == pytest.approx(2 / 4, abs=1e-5)
    better = [constant((3.0, 3.0, 0.0), level), constant((3.0, 4.0, 0.0), level)]
    assert keypoint_loss(better, level, points, targets, start) == keypoint_loss(
        better, level, points, targets
    )


def test_the_loss_reads_the_field_where_the_point_is():
    """A field that is the x coordinate itself, exact between the nodes."""
    level = level_of()
    x = torch.from_numpy(level.grid.points()[..., 0]).float()
    field = torch.stack((x, 0 * x, 0 * x))
    points = torch.tensor([[15.3, 27.0, 41.0]])
    loss = keypoint_loss([field], level, points, torch.tensor([[15.3, 0.0, 0.0]]))
    assert float(loss) < 1e-3


def test_its_gradient_reaches_the_fields():
    level = level_of()
    field = torch.zeros(3, *level.shape, requires_grad=True)
    keypoint_loss([field], level, torch.tensor([[14.0, 24.0, 34.0]]), torch.ones(1, 3)).backward()
    # the point is node (1, 1, 1): a unit vector towards the target, in field voxels
    expected = -np.ones(3) / np.sqrt(3) / 4
    np.testing.assert_allclose(field.grad[:, 1, 1, 1], expected, atol=1e-5)
    assert field.grad.abs().sum() == pytest.approx(np.sqrt(3) / 4, abs=1e-5)


def test_without_keypoints_there_is_no_loss():
    level = level_of()
    field = torch.zeros(3, *level.shape, requires_grad=True)
    loss = keypoint_loss([field], level, torch.zeros(0, 3), torch.zeros(0, 3))
    loss.backward()
    assert float(loss.detach()) == 0 and not field.grad.any()


def test_points_inside_keep_a_margin():
    level = level_of()
    points = torch.tensor([[14.0, 24.0, 34.0], [13.9, 24, 34], [30.0, 36.0, 42.0], [30, 36, 42.1]])
    assert inside(level, points).tolist() == [True, False, True, False]


def test_features_survive_their_packing():
    values = torch.rand(12, 4, 4, 4)
    assert packed(values).dtype == torch.uint8
    assert (unpacked(packed(values)) - values).abs().max() <= 0.5 / 255 + 1e-6


def test_targets_are_what_the_start_leaves_over():
    """Undisturbed, the start finds the shift and nothing is left; disturbed, something is."""
    assert prepared().targets.norm(dim=1).mean() < 0.5
    assert prepared(jitter=0).targets.norm(dim=1).mean() > 1


def test_levels_and_points_share_a_frame():
    """The ball's middle, found by the level's distances and by the keypoints alike."""
    pair = prepared()
    middle = pair.points.mean(dim=0).numpy()
    for level in (pair.level(0), pair.level(1)):
        weight = (-level.distance[0]).clamp(min=0).numpy()
        found = (level.grid.points() * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()
        np.testing.assert_allclose(found, middle, atol=2.0)
        assert inside(level, pair.points).any()
    assert pair.level(0).spacing == 8 * WORKING_SPACING_MM
    assert pair.level(1).spacing == 4 * WORKING_SPACING_MM


def test_stored_levels_are_those_of_a_registration():
    from L2ORegistrationLib.engine.field.pyramid import FeaturePyramid
    from L2ORegistrationLib.engine.images.preprocessing import working_pair
    from L2ORegistrationLib.engine.start.alignment import lung_alignment

    pair = prepared()
    (fixed, fixed_mask), (moving, moving_mask) = patient((0, 0, 0)), patient(SHIFT)
    distances = distance_map(fixed_mask), distance_map(moving_mask)
    start = lung_alignment(*distances, fixed.grid, moving.grid)
    pyramid = FeaturePyramid(working_pair(fixed, moving, *distances, start))
    whole = 3 * (slice(0, pyramid.grid.size[0] // 2),)
    for mine, theirs in (
        (pair.level(0), pyramid.mind_level(4)),
        (pair.level(1), pyramid.mind_level(2)),
        (pair.masked_mind_level(whole), pyramid.masked_mind_level()),
        (pair.masked_mind_level(whole, coarse=True), pyramid.masked_mind_level(4)),
    ):
        assert mine.shape == theirs.shape and mine.spacing == theirs.spacing
        np.testing.assert_allclose(
            np.add(mine.origin, pyramid.grid.origin), theirs.origin, atol=1e-6
        )
        assert (mine.fixed - theirs.fixed).abs().mean() < 0.003
        assert (mine.moving - theirs.moving).abs().mean() < 0.003
        torch.testing.assert_close(mine.distance, theirs.distance, atol=0.05, rtol=0)


def test_a_pair_comes_back_from_disk(pairs):
    saved, loaded = prepared(jitter=0), PreparedPair.load(pairs[0])
    for name in ("search", "points", "targets"):
        assert torch.equal(getattr(saved, name), getattr(loaded, name))
    assert torch.equal(saved.features[1][0], loaded.features[1][0])
    assert saved.spacing == loaded.spacing


def test_scattered_keypoints_give_their_field_back():
    level = level_of(size=(9, 9, 9))
    points = torch.from_numpy(level.grid.points().reshape(-1, 3)).float()[::7]
    truth = torch.tensor([2.0, -1.0, 5.0])
    field = scattered(level, points, truth.expand(len(points), 3))
    torch.testing.assert_close(field, constant((2.0, -1.0, 5.0), level), atol=1e-3, rtol=0)


def test_a_few_steps_stay_finite_and_change_the_weights(pairs, tmp_path):
    torch.manual_seed(CONFIG.seed)
    before = loop.new_network(CONFIG).state_dict()
    progress = list(train(pairs, tmp_path / "run.pt", CONFIG))
    assert len(progress) == CONFIG.steps * CONFIG.accumulate
    assert [p.step for p in progress] == [1, 1, 2, 2, 3, 3]
    for p in progress:  # a crop without keypoints has no error, and teaches nothing
        assert np.isfinite([p.before, p.after]).all() or p.loss == 0
    after = torch.load(tmp_path / "run.pt", weights_only=True)
    assert after["step"] == 3 and after["config"]["variant"] == "falta2022"
    assert any(not torch.equal(before[k], v) for k, v in after["network"].items())
    assert all(v.isfinite().all() for v in after["network"].values())


@pytest.mark.parametrize("stop", [1, 2])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(pairs, tmp_path, stop):
    losses = [p.loss for p in train(pairs, tmp_path / "whole.pt", CONFIG)]
    again = []
    for p in train(pairs, tmp_path / "parts.pt", CONFIG):
        if p.step > stop:
            break
        again.append(p.loss)
    again += [p.loss for p in train(pairs, tmp_path / "parts.pt", CONFIG)]
    assert again == losses
    whole, parts = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("whole", "parts"))
    for name, value in whole["network"].items():
        assert torch.equal(value, parts["network"][name]), name
    for a, b in zip(whole["optimiser"]["state"].values(), parts["optimiser"]["state"].values()):
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path, room_for):
    network = loop.new_network(CONFIG)
    adam = torch.optim.Adam(network.parameters())
    path = tmp_path / "run.pt"
    loop.save_checkpoint(path, network, adam, 1, CONFIG, 0.0, {})
    for save in (
        lambda: loop.save_checkpoint(path, network, adam, 2, CONFIG, 0.0, {}),
        lambda: prepared().save(tmp_path / "pair.pt"),
        lambda: closeup.save([], tmp_path / "close-up.pt"),
    ):
        with (
            room_for(100),
            pytest.raises(InputError, match="could not be written .*free some space"),
        ):
            save()
    assert loop.load_checkpoint(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_pair_is_named(pairs, tmp_path):
    path = tmp_path / "torn.pt"
    path.write_bytes(pairs[0].read_bytes()[:-5000])
    with pytest.raises(InputError, match="torn.pt is damaged: delete it"):
        PreparedPair.load(path)


@pytest.mark.parametrize("load", [PreparedPair.load, partial(closeup.load_one, number=0)])
def test_a_pair_that_is_out_of_reach_is_not_called_damaged(tmp_path, load):
    """Such as on a drive that is away: who deletes it loses what took long to prepare."""
    with pytest.raises(InputError, match="gone.pt does not exist") as refusal:
        load(tmp_path / "gone.pt")
    assert "delete" not in str(refusal.value)


def test_a_training_that_goes_astray_stops_and_says_so(pairs, tmp_path):
    """Here its weights are no numbers any more: no step would ever be made."""
    network = loop.new_network(CONFIG)
    adam = torch.optim.Adam(network.parameters())
    with torch.no_grad():
        network.last[-2].weight.fill_(np.nan)
    loop.save_checkpoint(tmp_path / "run.pt", network, adam, 3, CONFIG, 0.0, {})
    with pytest.raises(InputError, match="up to step 23, had no finite.*lower learning_rate"):
        list(train(pairs, tmp_path / "run.pt", replace(CONFIG, steps=100)))
    assert torch.load(tmp_path / "run.pt", weights_only=True)["step"] == 22


def test_a_finished_run_does_nothing_more(pairs, tmp_path):
    list(train(pairs, tmp_path / "run.pt", replace(CONFIG, steps=1)))
    assert list(train(pairs, tmp_path / "run.pt", replace(CONFIG, steps=1))) == []


def test_training_on_one_pair_learns_it(pairs, tmp_path):
    """On a few crops of it the loss must come down."""
    config = replace(
        CONFIG,
        steps=25,
        learning_rate=5e-3,
        iterations=(2, 2),
        accumulate=1,
    )

    def loss(network):
        draws = [np.random.default_rng([9, k]) for k in range(6)]
        with torch.no_grad():
            found = [loop._rollout(network, pairs[:1], config, 0, rng, "cpu")[0] for rng in draws]
        return float(torch.stack(found).mean())

    torch.manual_seed(config.seed)
    network = loop.new_network(config)
    before = loss(network)
    list(train(pairs[:1], tmp_path / "run.pt", config))
    network.load_state_dict(torch.load(tmp_path / "run.pt", weights_only=True)["network"])
    assert loss(network) < 0.95 * before


def test_the_rate_warms_up_and_cools_down():
    config = replace(CONFIG, steps=100, warmup=10)
    rates = [loop._schedule(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, abs=0.01) and rates[9] == pytest.approx(1, abs=0.03)
    assert np.argmax(rates) in (9, 10) and 0.02 <= rates[-1] < 0.03


def test_the_rate_halves_where_the_settings_say_so():
    config = replace(CONFIG, warmup=2, halve_every=3)
    rates = [loop._schedule(step, config) for step in range(7)]
    assert rates == [0.5, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_a_crop_without_keypoints_teaches_nothing(pairs, tmp_path):
    """Its error is unknown, not zero; the step goes on and the weights stay finite."""
    pair = PreparedPair.load(pairs[0])
    pair.points = pair.points + 1000
    pair.save(tmp_path / "far.pt")
    far = [tmp_path / "far.pt"]
    found = list(train(far, tmp_path / "run.pt", replace(CONFIG, steps=1)))
    assert [p.loss for p in found] == [0, 0] and np.isnan([p.after for p in found]).all()
    network = torch.load(tmp_path / "run.pt", weights_only=True)["network"]
    assert all(value.isfinite().all() for value in network.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_mixed_precision_stays_close_to_float32(pairs, tmp_path):
    """The first loss differs by bfloat16's digits only, and what is stored is float32."""
    losses = []
    for mixed in (True, False):
        config = replace(CONFIG, steps=2, mixed_precision=mixed)
        path = tmp_path / f"{mixed}.pt"
        losses.append([p.loss for p in train(pairs, path, config, "cuda")])
        network = torch.load(path, weights_only=True)["network"]
        assert {v.dtype for v in network.values()} == {torch.float32}
        assert all(v.isfinite().all() for v in network.values())
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=0.2)


def test_mixed_precision_changes_nothing_on_the_cpu(pairs, tmp_path):
    losses = [
        [p.loss for p in train(pairs, tmp_path / f"{mixed}.pt", replace(CONFIG, **settings))]
        for mixed, settings in ((m, {"steps": 1, "mixed_precision": m}) for m in (True, False))
    ]
    assert losses[0] == losses[1]


def test_the_first_steps_can_be_short(pairs, tmp_path, monkeypatch):
    looks = []

    def counting(config):
        network = Falta2022Network()
        network.register_forward_hook(lambda *_: looks.append(1))
        return network

    monkeypatch.setattr(loop, "new_network", counting)
    config = replace(CONFIG, accumulate=1, iterations=(2, 5))
    lengths = {"short": set(), "usual": set()}
    for seed in range(8):
        for name, short in (("short", 1), ("usual", 0)):
            looks.clear()
            run = replace(config, seed=seed, short_steps=short, steps=1)
            list(train(pairs, tmp_path / f"{name}{seed}.pt", run))
            lengths[name].add(len(looks))
    assert lengths["short"] == {2} and max(lengths["usual"]) > 2


def test_what_was_trained_can_be_exported_and_used(pairs, tmp_path):
    list(train(pairs, tmp_path / "run.pt", replace(CONFIG, steps=1)))
    network = Falta2022Network()
    network.load_state_dict(torch.load(tmp_path / "run.pt", weights_only=True)["network"])
    export_model(
        network,
        tmp_path / "mine.pt",
        version="1",
        licence="CC0",
        iterations=2,
        trained_iterations=CONFIG.iterations,
    )
    card, loaded = load_model(tmp_path / "mine.pt")
    assert card.trained_iterations == CONFIG.iterations
    assert torch.equal(loaded.last[-2].weight, network.last[-2].weight)


def test_a_training_can_begin_with_weights(pairs, tmp_path):
    """Without a step they come out as they went in; those of another network are refused."""
    export = {"version": "1", "licence": "none", "iterations": 2, "trained_iterations": (2, 2)}
    export_model(Falta2022Network(), tmp_path / "own.pt", **export)
    config = replace(CONFIG, begin_with=str(tmp_path / "own.pt"))
    _, own = load_model(tmp_path / "own.pt")
    for mine, given in zip(loop.beginner(config).parameters(), own.parameters(), strict=True):
        assert torch.equal(mine, given)
    (first, *_) = train(pairs, tmp_path / "checkpoint.pt", config)
    assert first.step == 1
    with pytest.raises(InputError, match="weights to begin with are those of falta2022"):
        loop.beginner(replace(config, variant="l2o"))
    export_model(L2ONetwork(8), tmp_path / "ours.pt", **export)
    ours = replace(config, variant="l2o", width=8, begin_with=str(tmp_path / "ours.pt"))
    assert loop.beginner(ours).width == 8
    export_model(L2ONetwork(8, (1, 1, 2)), tmp_path / "ours.pt", **export)
    assert loop.beginner(ours).ensemble == (1, 1, 2)
    with pytest.raises(InputError, match="those of l2o, width 8, and not of l2o, width 16"):
        loop.beginner(replace(ours, width=16))


@pytest.mark.parametrize("size", [4, 6, 50])
def test_random_crops_lie_within_the_image(size):
    mask = torch.zeros(9, 10, 11, dtype=torch.bool)
    mask[0, 0, 0] = mask[8, 9, 10] = mask[4, 5, 6] = True
    for seed in range(20):
        crop = random_crop(mask, size, np.random.default_rng(seed))
        for part, n in zip(crop, mask.shape):
            assert 0 <= part.start < part.stop <= n and part.stop - part.start == min(size, n)


def test_variants_make_their_networks():
    assert isinstance(loop.new_network(CONFIG), Falta2022Network)
    assert loop.new_network(replace(CONFIG, variant="l2o", width=24)).width == 24
