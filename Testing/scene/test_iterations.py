"""After a registration: one of its iterations is kept, and outputs and landmarks follow it."""

import numpy as np
import pytest
import slicer
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.scene import transforms, volumes
from L2ORegistrationLib.scene.history import History
from L2ORegistrationLib.scene.quality import verdict_of


@pytest.fixture
def outcome(logic, scans):
    return logic.register(*scans)


def test_keep_one(logic, outcome, kit):
    kept = logic.keepIteration(outcome.transform, 2)
    full = kit.field_over(kit.GRIDS["oblique"])
    np.testing.assert_allclose(transforms.field_of(kept).array, full.scaled(0.5).array, atol=1e-6)
    history = History.of(outcome.transform)
    assert history.result == 2 and history.index == 2
    with pytest.raises(InputError, match="run Register first"):
        logic.keepIteration(kept)


def test_the_verdict_stays_that_of_what_the_registration_found(logic, scans, kit, steer):
    class Judged(kit.Trial):
        def result(self):
            found = super().result()
            found.provenance["verdict"] = "good"
            return found

    steer(Judged)
    transform = logic.register(*scans).transform
    assert verdict_of(transform) == "good."
    logic.keepIteration(transform, 2)
    assert verdict_of(transform) == "good. (Of iteration 3, not of what was kept.)"


def test_outputs_of_another_one(logic, outcome, scans, scene):
    out = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "warped")
    jacobian = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "jacobian")
    session = logic.restore(outcome.transform)
    session.select(0)
    logic.updateOutputs(outcome.transform, out, jacobian)
    assert (slicer.util.arrayFromVolume(jacobian) == 1).all()
    still = outcome.result.field.scaled(0)
    zero = still.warp(volumes.to_volume(scans[1]), volumes.grid_of(scans[0]))
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(out), zero.array)
    session.close()


def test_landmarks_placed_afterwards_join_the_curve(logic, outcome, kit, add_points):
    field = kit.field_over(kit.GRIDS["oblique"])
    points = np.zeros((1, 3))
    session = logic.restore(outcome.transform)
    pair = add_points(points), add_points(field.transform_points(points))
    logic.evaluate(outcome.transform, *pair)
    errors = [m["error"] for m in session.history.metrics()]
    assert errors[0] > errors[-1] == pytest.approx(0, abs=1e-5)
    session.close()


def test_landmarks_are_measured_again_only_where_they_moved(
    logic, scans, kit, add_points, monkeypatch
):
    fixed, moving = scans
    field = kit.field_over(kit.GRIDS["oblique"])
    points = kit.GRIDS["oblique"].to_world(np.random.default_rng(0).uniform(3, 18, (9, 3)))
    pair = add_points(points), add_points(field.transform_points(points))
    outcome, read, plain = logic.register(fixed, moving), [], History.field
    monkeypatch.setattr(History, "field", lambda self, i: read.append(i) or plain(self, i))
    logic.evaluate(outcome.transform, *pair)
    assert read == [0, 1, 2, 3, 4]
    before = History.of(outcome.transform).metrics()
    logic.evaluate(outcome.transform, *pair)
    assert read == [0, 1, 2, 3, 4]
    pair[1].SetNthControlPointPosition(0, 5.0, 6.0, 7.0)
    logic.evaluate(outcome.transform, *pair)
    after = History.of(outcome.transform).metrics()
    assert len(read) == 10 and all(b["error"] != a["error"] for a, b in zip(before, after))
