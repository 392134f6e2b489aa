"""Into a transform that has a result: a new one replaces it, and where that fails it comes back."""

import threading
import time
from functools import partial

import numpy as np
import pytest
from L2ORegistrationLib.job import Failed, Finished
from L2ORegistrationLib.scene import transforms
from L2ORegistrationLib.scene.history import History
from L2ORegistrationLib.scene.run import Run
from L2ORegistrationLib.scene.session import Session
from L2ORegistrationLib.scene.settings import Settings


def test_a_new_result_takes_the_place_of_the_earlier_one(logic, scans, scene):
    fixed, moving = scans
    first = logic.register(fixed, moving)
    logic.applyTo([moving], first.transform)
    count = scene.GetNumberOfNodes()
    second = logic.register(fixed, moving, outputTransform=first.transform)
    assert second.transform is first.transform
    assert scene.GetNumberOfNodes() == count
    assert History.of(first.transform).browser is second.browser


def test_it_shows_the_new_motion(logic, scans, kit, steer):
    """And not that of the iterations which go, when nodes that they refer to are removed."""

    class Further(kit.Trial):
        def __init__(self, *arguments, **others):
            super().__init__(*arguments, **others)
            self.full = self.full.scaled(10.0)

    fixed, moving = scans
    first = logic.register(fixed, moving)
    near = np.abs(transforms.field_of(first.transform).array).max()
    steer(Further)
    again = logic.register(fixed, moving, outputTransform=first.transform)
    shown = transforms.field_of(again.transform).array
    assert np.abs(shown).max() == pytest.approx(10 * near, rel=1e-4)
    history = History.of(again.transform)
    np.testing.assert_allclose(shown, history.field(again.best).array, atol=1e-4)


@pytest.mark.parametrize("restore", [True, False])
def test_cancelled_it_can_bring_the_earlier_result_back(logic, scans, kit, scene, restore):
    fixed, moving = scans
    first = logic.register(fixed, moving)
    field, before = transforms.field_of(first.transform).array, kit.node_ids(scene)

    class InStep(kit.Trial):
        """Two steps, then it waits to be cancelled."""

        def __iter__(self):
            for step in super().__iter__():
                yield step
                while step.index == 1:
                    if self.others["cancelled"]():
                        return
                    time.sleep(0.001)

    settings = Settings(fixed, moving, outputTransform=first.transform)
    again = Run(settings, preview=False, factory=InStep)
    while again.session is None or len(again.session.history) < 2:
        again.poll()
    again.cancel(restore)
    kit.finished(again)
    history = History.of(first.transform)
    if restore:
        assert again.outcome is None and kit.node_ids(scene) == before
        assert len(history) == 5 and history.index == 4
        np.testing.assert_allclose(transforms.field_of(first.transform).array, field, atol=1e-6)
    else:
        assert again.outcome.cancelled and len(history) == 2


def test_a_failed_run_leaves_everything_as_it_was(scans, kit, scene):
    out = scene.AddNewNodeByClass("vtkMRMLTransformNode", "mine")
    first = Run(Settings(*scans, outputTransform=out), factory=kit.Trial, preview=False)
    kit.finished(first)
    first.session.select(2)
    before, field = kit.node_ids(scene), transforms.field_of(out).array
    attributes = {name: out.GetAttribute(name) for name in out.GetAttributeNames()}
    second = Run(Settings(*scans, outputTransform=out), factory=partial(kit.Trial, fail_at=1))
    assert isinstance(kit.finished(second)[-1], Failed)
    assert kit.node_ids(scene) == before
    np.testing.assert_array_equal(transforms.field_of(out).array, field)
    assert {name: out.GetAttribute(name) for name in out.GetAttributeNames()} == attributes
    session = Session.of(out)
    session.select(4)
    assert not np.array_equal(transforms.field_of(out).array, field)


@pytest.mark.parametrize("which", ["browser", "sequence"])
def test_iterations_of_before_that_are_deleted_meanwhile_cost_no_result(
    logic, scans, kit, scene, which
):
    first = logic.register(*scans)
    gate = threading.Semaphore(1)
    settings = Settings(*scans, outputTransform=first.transform)
    one = Run(settings, factory=partial(kit.Trial, gate=gate))
    while one.session is None:
        one.poll()
    earlier = first.browser
    scene.RemoveNode(earlier if which == "browser" else earlier.GetMasterSequenceNode())
    gate.release(9)
    events = kit.finished(one)
    assert isinstance(events[-1], Finished) and one.outcome.transform is first.transform
    assert History.of(first.transform).browser is one.outcome.browser
    assert len(History.of(first.transform)) == 5
