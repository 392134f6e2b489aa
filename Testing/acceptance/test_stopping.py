"""Walking through a registration, and leaving it at any point."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import L2ORegistrationLib as l2o  # noqa: E402
from breaths import FAST, error, masks, register  # noqa: E402


@pytest.mark.parametrize("stop", [1, 2, 6])
def test_leaving_the_loop_keeps_the_best_so_far(stop, pair):
    registration = l2o.Registration(pair.fixed, pair.moving, **masks(pair), **FAST)
    for step in registration:
        if step.index == stop - 1:
            break
    result = registration.result()
    assert result.cancelled and len(result.steps) == stop
    assert result.field is result.steps[result.best].field
    assert result.warped().grid == pair.fixed.grid


def test_before_its_first_step_there_is_no_result(pair):
    registration = l2o.Registration(pair.fixed, pair.moving, **masks(pair), **FAST)
    with pytest.raises(RuntimeError, match="not made a step"):
        registration.result()


@pytest.mark.parametrize("checks", range(1, 8))
def test_cancelled_in_the_preparation_it_ends_there(checks, pair):
    asked = []
    options = {**masks(pair), **FAST, "cancelled": lambda: asked.append(1) or len(asked) == checks}
    registration = l2o.Registration(pair.fixed, pair.moving, **options)
    steps = list(registration)
    assert len(asked) == checks and len(steps) == (checks > 6)
    assert steps == registration.steps


def test_cancelled_while_the_images_are_looked_at_more_closely_it_ends_there(pair):
    """The closer images are read before the last three iterations, which takes seconds."""
    wanted = [True]
    options = {**masks(pair), "device": "cpu", "spacing": 5.0, "cancelled": lambda: not wanted}
    registration = l2o.Registration(pair.fixed, pair.moving, **options)
    for step in registration:
        if step.index == registration.total - 3:
            wanted.clear()
    assert registration.closer_ratio == 1.25
    assert registration.steps[-1].index == registration.total - 3
    assert registration.result().cancelled


def test_on_step_sees_every_step_and_may_stop(pair):
    seen = []
    result = register(pair, on_step=lambda step: seen.append(step) or step.index < 4)
    assert [step.index for step in seen] == [0, 1, 2, 3, 4]
    assert result.cancelled and result.steps == seen


def test_ctrl_c_keeps_the_best_so_far(pair):
    def interrupt(step):
        if step.index == 3:
            raise KeyboardInterrupt

    result = register(pair, on_step=interrupt)
    assert result.cancelled and len(result.steps) == 4 and error(result.field, pair) < 5


def test_ctrl_c_before_the_first_step_is_not_swallowed(pair, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(l2o.Registration, "_run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        register(pair)


def test_a_registration_can_be_walked_twice(pair):
    registration = l2o.Registration(
        pair.fixed, pair.moving, **masks(pair), **FAST, method="lapirn", refine=False
    )
    first, second = list(registration), list(registration)
    assert len(first) == len(second) == registration.total + 1 == 3
    assert np.array_equal(first[-1].field.array, second[-1].field.array)
    assert not registration.result().cancelled


def test_it_leaves_torch_as_it_found_it(pair):
    threads = torch.get_num_threads()
    for step in l2o.Registration(pair.fixed, pair.moving, **masks(pair), **FAST, threads=1):
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        if step.index == 2:
            break
    assert torch.get_num_threads() == threads and not torch.is_inference_mode_enabled()
