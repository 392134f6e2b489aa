"""A result goes on from where it is, pulled by landmark pairs; undo steps back."""

import threading

import numpy as np
import pytest
import slicer
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.job import Failed, Finished
from L2ORegistrationLib.scene import correction, transforms
from L2ORegistrationLib.scene.correction import Continuation
from L2ORegistrationLib.scene.history import History
from L2ORegistrationLib.scene.run import Run
from L2ORegistrationLib.scene.session import Session
from L2ORegistrationLib.scene.settings import Settings


@pytest.fixture
def result(scene, kit, add_volume):
    """Settings and output transform of a registration in four steps, and the engine's class."""
    grid = kit.GRIDS["oblique"]
    settings = Settings(*(add_volume(kit.image_on(grid), n) for n in ("fixed", "moving")))
    run = Run(settings, preview=False, factory=kit.Trial)
    kit.finished(run)
    run.session.close()
    settings.outputTransform = run.outcome.transform
    return settings, run.outcome.transform


def seeing(kit, seen, **options):
    def make(**arguments):
        seen.update(arguments)
        return kit.Trial(**options, **arguments)

    return make


def a_pair(transform, kit, shift=(0, 0, 5)):
    """A pair as the panel adds it, its moving point dragged by `shift` (RAS) where it is seen."""
    centre = kit.GRIDS["oblique"].to_world(np.array([15.0, 13.0, 11.0]))
    ras = transforms.ras_lps(centre)
    fixed, moving = correction.add_pair(transform, ras)
    moving.SetNthControlPointPositionWorld(0, *(ras + shift))
    return fixed, moving, centre


def test_a_pair_starts_where_both_are_seen_at_one_place(result, kit):
    _, transform = result
    fixed, moving, centre = a_pair(transform, kit, shift=(0, 0, 0))
    seen = [slicer.util.arrayFromMarkupsControlPoints(n, world=True)[0] for n in (fixed, moving)]
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-3)
    inside = slicer.util.arrayFromMarkupsControlPoints(moving)[0]
    there = transforms.field_of(transform).transform_points(centre)
    np.testing.assert_allclose(transforms.ras_lps(inside), there, atol=1e-3)
    again = correction.add_pair(transform, (1.0, 2.0, 3.0), fixed, moving)
    assert again == (fixed, moving) and moving.GetNthControlPointLabel(1) == "2"


def test_it_goes_on_and_undo_steps_back_twice(result, kit, scene):
    settings, transform = result
    fixed, moving, centre = a_pair(transform, kit)
    history, before = History.of(transform), transforms.field_of(transform)
    for length in (9, 13):
        seen = {}
        field = transforms.field_of(transform)
        run = Continuation(settings, fixed, moving, factory=seeing(kit, seen))
        assert isinstance(kit.finished(run)[-1], Finished), length
        run.session.close()
        assert len(history) == length and history.index == history.result == length - 1
        start = seen["initial_transform"]
        target = transforms.ras_lps(slicer.util.arrayFromMarkupsControlPoints(moving)[0])
        np.testing.assert_allclose(start.transform_points(centre), target, atol=0.05)
        far = kit.GRIDS["oblique"].to_world(np.zeros(3))
        moved = np.linalg.norm(start.transform_points(far) - field.transform_points(far))
        assert moved < np.linalg.norm(target - field.transform_points(centre))
        np.testing.assert_allclose(seen["pinned"], [centre], atol=1e-3)
        assert seen["method"] == "gauss-newton" and seen["model"] is None
        assert history.metrics()[length - 4]["stage"] == "corrected"
        assert "folding" in history.metrics()[-1] and "steered" in run.outcome.note
    for length in (9, 5):
        correction.undo(transform)
        assert len(history) == length and history.index == length - 1
    np.testing.assert_allclose(transforms.field_of(transform).array, before.array, atol=1e-6)
    with pytest.raises(InputError, match="nothing to undo"):
        correction.undo(transform)
    assert transform.GetAttribute("L2ORegistration.run.method") == "trial"


def test_going_on_from_an_earlier_iteration(result, kit):
    settings, transform = result
    fixed, moving, _ = a_pair(transform, kit)
    history = History.of(transform)
    history.index = 1
    seen = {}
    kit.finished(Continuation(settings, fixed, moving, factory=seeing(kit, seen)))
    shown = history.field(1)
    assert np.abs(seen["initial_transform"].grid.origin - np.array(shown.grid.origin)).max() == 0
    gap = np.linalg.norm(seen["initial_transform"].array - shown.array, axis=-1)
    assert gap.min() < 0.5 * gap.max()
    correction.undo(transform)
    assert history.index == 4  # the result of before


@pytest.mark.parametrize("how", ["fail", "abandon", "cancel"])
def test_what_comes_to_nothing_leaves_the_result(result, kit, how):
    settings, transform = result
    fixed, moving, _ = a_pair(transform, kit)
    history, before = History.of(transform), transforms.field_of(transform).array
    gate = threading.Semaphore(0)
    options = {"fail_at": 2} if how == "fail" else {"gate": gate}
    session = Session.of(transform)
    run = Continuation(settings, fixed, moving, session=session, factory=seeing(kit, {}, **options))
    if how == "abandon":
        gate.release(3)
        while len(history) < 6:
            run.poll()
        run.abandon()
    if how == "cancel":  # before its first step
        run.cancel()
    gate.release(10)
    events = kit.finished(run)
    if how == "fail":
        assert isinstance(events[-1], Failed) and "no luck" in events[-1].message
    assert run.outcome is None and len(history) == 5 and not history.can_undo
    np.testing.assert_allclose(transforms.field_of(transform).array, before, atol=1e-6)


def test_what_cannot_go_on_is_said(result, kit, scene):
    settings, transform = result
    fixed, moving, _ = a_pair(transform, kit)
    with pytest.raises(InputError, match="run Register first"):
        Continuation(Settings(settings.fixed, settings.moving), fixed, moving)
    with pytest.raises(InputError, match="add a pair"):
        Continuation(settings, fixed, None)
    fixed.SetNthControlPointPositionWorld(0, 900.0, 0.0, 0.0)
    (event,) = kit.finished(Continuation(settings, fixed, moving, factory=seeing(kit, {})))
    assert "outside the field" in event.message
