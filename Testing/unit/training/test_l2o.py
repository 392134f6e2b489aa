"""The network that weighs the last iterations: untrained it changes nothing, and it learns."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.geometry import DisplacementField  # noqa: E402
from L2ORegistrationLib.engine.field.levels import MindLevel  # noqa: E402
from L2ORegistrationLib.engine.models import export_model  # noqa: E402
from L2ORegistrationLib.engine.optimise.gauss_newton import (  # noqa: E402
    GaussNewtonOptimiser,
    evidence_times,
)
from L2ORegistrationLib.engine.optimise.l2o import L2OOptimiser, observed  # noqa: E402
from L2ORegistrationLib.engine.optimise.networks import L2ONetwork, Weigher  # noqa: E402
from L2ORegistrationLib.engine.registration import register  # noqa: E402
from L2ORegistrationLib.phantom.pair import PhantomPair, make_anatomy, make_pair  # noqa: E402
from L2ORegistrationLib.phantom.varied import vary  # noqa: E402
from L2ORegistrationLib.training.closeup import close_ups, load_one, save  # noqa: E402
from L2ORegistrationLib.training.config import TrainingConfig  # noqa: E402
from L2ORegistrationLib.training.l2o import (  # noqa: E402
    REPEATED,
    UNDER_WAY,
    Lesson,
    Lessons,
    _Solution,
)
from L2ORegistrationLib.training.loop import train  # noqa: E402
from training_pairs import SHIFT, patient  # noqa: E402

PLAIN = {"stiffness": 6e-3, "changing": 0.5, "noise": 0.1, "momentum": 0.3, "closely": 3}


@pytest.fixture(scope="module")
def scans():
    """A ball that has moved by SHIFT, in noisy scans."""
    (fixed, fixed_mask), (moving, moving_mask) = patient((0, 0, 0)), patient(SHIFT)
    rng = np.random.default_rng(2)
    for image in (fixed, moving):
        image.array[...] += rng.normal(0, 250, image.grid.shape)
    array = np.broadcast_to(SHIFT, (*fixed.grid.shape, 3)).astype(np.float32)
    field, nothing = DisplacementField(array, fixed.grid), np.zeros((0, 3))
    return PhantomPair(fixed, moving, fixed_mask, moving_mask, nothing, nothing, field)


@pytest.fixture(scope="module")
def every_level(scans):
    """What the learned iterations see of it on each level."""
    return close_ups(scans, scans.fixed_mask, seed=0)


@pytest.fixture(scope="module")
def close(every_level):
    """What the last ones see."""
    return every_level[-1]


@pytest.fixture(scope="module")
def files(every_level, tmp_path_factory):
    path = tmp_path_factory.mktemp("close") / "close-up.pt"
    save(every_level, path)
    return [path]


def untidy(seed=0):
    """A network whose outputs differ from place to place."""
    torch.manual_seed(seed)
    network = L2ONetwork(8)
    for weigher in network.levels:
        torch.nn.init.normal_(weigher.head.weight, std=0.3)
    return network


def test_evidence_times_vectors_by_hand():
    system = torch.tensor([[1.0, 2, 3, 4, 5, 6, 0, 0, 0]])
    expected = torch.tensor([[1.0, 4, 5], [4, 2, 6], [5, 6, 3]]) @ torch.tensor([1.0, 10, 100])
    assert torch.equal(evidence_times(system, torch.tensor([[1.0, 10, 100]]))[0], expected)


@pytest.mark.parametrize("number", range(L2ONetwork.LEVELS))
def test_untrained_it_weighs_everything_as_gauss_newton_does(every_level, number):
    close = every_level[number]
    level, plain = close.level(), GaussNewtonOptimiser(**PLAIN)
    trusting = L2OOptimiser(L2ONetwork(8), number, 1, **PLAIN)
    with torch.inference_mode():
        *_, (expected, _) = plain.iterate(level, close.field, 1)
        *_, (found, _) = trusting.iterate(level, close.field, 1)
    torch.testing.assert_close(found, expected)


def test_the_network_sees_finite_numbers_and_what_is_the_same_everywhere(close):
    level = close.level()
    seen = observed(level, close.field, *level.normal_equations(close.field), 6e-3 * np.e)
    assert seen.shape == (Weigher.inputs, *level.shape) and seen.isfinite().all()
    torch.testing.assert_close(seen[8], torch.ones(level.shape))
    assert torch.equal(seen[7] > 0, level.distance[0] < 0)


def test_what_the_network_sees_is_in_units_of_its_level_by_hand():
    """Voxels of 12 mm instead of 6, squared differences of MIND of 0.03 instead of 1."""
    inside, features = torch.full((1, 2, 2, 2), -3.0), torch.zeros(4, 4, 4, 12)
    level = MindLevel(
        inside, 12.0, (0.0, 0.0, 0.0), torch.tensor([5]), torch.arange(8)[None], features, features
    )
    xx = 0.03 / 4 / 3
    system = torch.tensor([[xx, xx, xx, 0, 0, 0, 0.03 / 2, 0, 0]])
    seen = observed(level, torch.zeros(3, 2, 2, 2), torch.tensor([0.03]), system, 6e-3 * 0.03 / 4)
    known, one = seen[:, 1, 0, 1], np.log(1 + 1e-3) + 2.5
    pull = np.log(1 / np.sqrt(1 + 1e-3) + 1e-2) + 2.5
    bends = np.log(0.03) + 1, np.log(0.1)
    expected = torch.tensor([one, one, pull, 1, *bends, -3 / 15, 1, 0])
    torch.testing.assert_close(known, expected.float(), atol=1e-5, rtol=0)
    assert not seen[:4, 0, 0, 0].any()


@pytest.mark.parametrize("number", range(L2ONetwork.LEVELS))
def test_a_close_up_comes_back_from_disk_and_knows_the_truth(every_level, files, number):
    loaded, close = load_one(files[0], number), every_level[number]
    for name in ("fixed", "field", "points", "targets"):
        assert torch.equal(getattr(loaded, name), getattr(close, name))
    assert loaded.closely == (0, 0, 3)[number]
    assert loaded.level().shape == tuple(loaded.field.shape[1:])
    # What plain iterations have reached is near the truth.
    nodes = loaded.points.round().long().T
    found = loaded.field[:, nodes[2], nodes[1], nodes[0]].T
    assert (found - loaded.targets).norm(dim=1).mean() < (3.0, 1.5, 1.0)[number]


def test_a_close_up_of_another_version_is_refused(tmp_path):
    torch.save({"fixed": torch.zeros(3)}, tmp_path / "old.pt")
    with pytest.raises(InputError, match="of another version: delete it"):
        load_one(tmp_path / "old.pt", 2)


def test_an_early_close_up_begins_where_the_last_level_does(close, scans):
    """With what coarser levels found, which in these scans lacks the noise of the last one."""
    early = close_ups(scans, scans.fixed_mask, seed=0, early=True)[-1]
    assert early.iterations == close.iterations + 2
    assert torch.equal(early.points, close.points)
    unevenness = [one.field.diff(dim=1).abs().mean() for one in (early, close)]
    assert unevenness[0] < 0.9 * unevenness[1]


def test_the_gradient_through_the_solution_is_that_of_finite_differences(close):
    level, field = close.level(), close.field
    _, system = level.normal_equations(field)
    torch.manual_seed(0)
    said = (0.3 * torch.randn(3, *level.shape)).requires_grad_()
    wanted = torch.randn_like(field) * (level.distance < 0)

    def loss(said):
        step = _Solution.apply(said, level, field, system, close.stiffness, 0.5, 300)
        return (step * wanted).sum()

    loss(said).backward()
    direction = torch.randn_like(said)
    with torch.no_grad():
        there, back = loss(said + 0.02 * direction), loss(said - 0.02 * direction)
    expected = float(there - back) / 0.04
    assert float((said.grad * direction).sum()) == pytest.approx(expected, rel=0.05)


def test_a_few_steps_lower_the_loss_of_a_close_up(files, tmp_path):
    config = TrainingConfig(
        variant="l2o", steps=6, width=8, warmup=1, learning_rate=1e-2, level_shares=(0, 0, 1),
    )  # fmt: skip
    losses = [done.loss for done in train(files, tmp_path / "run.pt", config)]
    assert np.isfinite(losses).all() and min(losses[3:]) < losses[0]


def test_levels_learn_as_often_as_their_shares_say(files, tmp_path):
    config = TrainingConfig(variant="l2o", steps=8, width=8, level_shares=(0.5, 0.5, 0))
    steps = list(train(files, tmp_path / "run.pt", config))
    assert {step.level for step in steps} == {0, 1}


@pytest.mark.parametrize("number", range(L2ONetwork.LEVELS))
def test_a_lesson_makes_the_iterations_that_the_optimiser_makes(every_level, files, number):
    """A network that is asked, and not changed meanwhile, leads to the same field."""
    network, close, lesson = untidy(), every_level[number], Lesson(files[0], number)
    settings = {k: getattr(close, k) for k in ("stiffness", "changing", "closely")}
    optimiser, most = L2OOptimiser(network, number, 9, **settings), close.iterations
    with torch.inference_mode():
        fields = [field for field, _ in optimiser.iterate(close.level(), close.field, most)]
    before = float(close.errors(close.field).mean())
    for done, expected in enumerate(fields):
        for used in range(REPEATED):
            assert (lesson.done, lesson.used, lesson.finished) == (done, used, False)
            loss, level, error, after = lesson.learn(network)
            assert loss.requires_grad and level == number and error == pytest.approx(before)
        torch.testing.assert_close(lesson.field, expected, atol=1e-3, rtol=0)
        before = after
        assert after == pytest.approx(float(close.errors(expected).mean()), abs=1e-4)
    assert lesson.finished


def test_later_iterations_count_more_by_hand(close, files):
    """Two points, and a network that is untrained."""
    distance = close.distance[0]
    deep, near = distance.argmin(), distance.where(distance < 0, distance.min()).argmax()
    points = torch.stack(
        torch.unravel_index(torch.stack((deep, near)), distance.shape)[::-1], dim=1
    )
    lesson = Lesson(files[0], 2)
    lesson._close = two = replace(close, points=points.float(), targets=torch.zeros(2, 3))
    for iteration in range(1, two.iterations + 1):
        lesson.used = REPEATED - 1
        loss = float(lesson.learn(L2ONetwork(8))[0].detach())
        a, b = two.errors(lesson.field).tolist()
        means = (a + b) / 2, (a / (1 + a) + b / (1 + b)) / 2
        relative = sum(mean / float(usual) for mean, usual in zip(means, two.usual)) / 2
        assert loss == pytest.approx(2 * iteration / (two.iterations + 1) * relative, rel=1e-4)


def test_many_lessons_are_under_way_and_finished_ones_make_room(files):
    lessons, rng, network = Lessons(files, (1, 0, 0)), np.random.default_rng(0), L2ONetwork(8)
    most = 0
    for _ in range(300):
        lessons.learn(network, rng)
        assert not any(one.finished for one in lessons.under_way.values())
        most = max(most, len(lessons.under_way))
    assert most == UNDER_WAY


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(files, tmp_path):
    """Also in the middle of close-ups that are under way, on all levels."""
    config = TrainingConfig(variant="l2o", steps=40, width=8, warmup=1, checkpoint_every=30)
    whole = [p.loss for p in train(files, tmp_path / "whole.pt", config)]
    first = []
    for p in train(files, tmp_path / "parts.pt", config):
        if p.step > 33:  # stopped after its checkpoint of step 30
            break
        first.append(p.loss)
    again = [p.loss for p in train(files, tmp_path / "parts.pt", config)]
    assert first[:30] + again == whole


@pytest.mark.parametrize("width, told_apart", [(1, False), (3, True)])
def test_mirrored_places_are_read_and_told_at_the_same_place(files, width, told_apart):
    """To a network that looks at single voxels it is the same, to others not."""
    torch.manual_seed(0)
    network = untidy()
    network.levels[2] = torch.nn.Conv3d(Weigher.inputs, 3, width, padding=width // 2)
    with torch.no_grad():
        one, other = (float(Lesson(files[0], 2).learn(network, axes)[0]) for axes in ((), (2, 3)))
    assert (other != pytest.approx(one, rel=1e-5)) is told_apart


def test_its_weights_register(tmp_path):
    pair = make_pair(3, spacing=3.0, amplitude_mm=8.0)
    export_model(
        untidy(), tmp_path / "own.pt", version="1", licence="MIT", iterations=9,
        trained_iterations=(9, 9),
    )  # fmt: skip
    result = register(
        pair.fixed, pair.moving, fixed_mask=pair.fixed_mask, moving_mask=pair.moving_mask,
        model=tmp_path / "own.pt", device="cpu", spacing=2.5,
    )  # fmt: skip
    assert result.provenance["method"] == "l2o"
    assert [step.stage for step in result.steps[-9:]] == ["l2o"] * 9
    error = result.field.transform_points(pair.fixed_landmarks) - pair.moving_landmarks
    assert np.linalg.norm(error, axis=1).mean() < 1.0


@pytest.mark.slow
def test_the_packaged_network_beats_plain_gauss_newton_on_a_diseased_phantom():
    """Lesions in one scan, sliding lungs; 0.50 and 0.34 mm were measured."""
    pair = vary(make_pair(9100, anatomy=make_anatomy(9100, detail=1.0)), "disease", 9100)
    points = pair.fixed_mask.marked_points(most=5000)
    truth, errors = pair.field.transform_points(points), {}
    for method in ("l2o", "gauss-newton"):
        result = register(
            pair.fixed, pair.moving, fixed_mask=pair.fixed_mask, moving_mask=pair.moving_mask,
            method=method, device="cpu",
        )  # fmt: skip
        missed = np.linalg.norm(result.field.transform_points(points) - truth, axis=1)
        errors[method] = missed.mean()
    assert errors["l2o"] < 0.9 * errors["gauss-newton"]


def test_a_smooth_motion_lacks_the_fine_detail_of_a_rough_one():
    rough, smooth = (make_pair(5, spacing=4.0, roughness=r, swap=True) for r in (1.0, 0.0))
    bends = [
        np.abs(np.diff(pair.field.array, 2, axis=0))[pair.fixed_mask.array[1:-1] > 0].mean()
        for pair in (rough, smooth)
    ]
    assert bends[1] < 0.8 * bends[0]
    with pytest.raises(InputError, match="roughness"):
        make_pair(5, spacing=4.0, roughness=-1.0)
