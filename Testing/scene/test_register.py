"""A registration from nodes to nodes: what it leaves in the scene, and what it never touches."""

import threading
import time
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from L2ORegistrationLib.core import measures
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.job import Failed, Finished
from L2ORegistrationLib.scene import confidence, run, transforms, volumes
from L2ORegistrationLib.scene.history import History
from L2ORegistrationLib.scene.logic import SceneLogic
from L2ORegistrationLib.scene.nodes import of_class
from L2ORegistrationLib.scene.run import Run
from L2ORegistrationLib.scene.session import forget
from L2ORegistrationLib.scene.settings import Settings


@pytest.fixture
def nodes(kit, add_volume, add_linear, askew):
    """Fixed and moving volume of different geometry, the moving one under a transform."""
    fixed = add_volume(kit.image_on(kit.GRIDS["oblique"]), "fixed")
    moving = add_volume(kit.image_on(kit.GRIDS["anisotropic"]), "moving", add_linear(askew))
    return fixed, moving


@pytest.fixture
def logic(kit, monkeypatch):
    """The logic on the small registration of the conftest."""
    monkeypatch.setattr(run, "RegistrationJob", partial(_job, kit.Trial))
    return SceneLogic()


def _job(trial, factory, **arguments):
    from L2ORegistrationLib.job import RegistrationJob

    return RegistrationJob(factory or trial, **arguments)


def finish(one):
    events = []
    until = time.monotonic() + 10
    while one.active:
        assert time.monotonic() < until
        events += one.poll()
        time.sleep(0.002)
    return events


def listing(scene):
    return sorted(scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes()))


class TestRegister:
    def test_leaves_a_transform_with_its_iterations(self, logic, nodes, kit):
        fixed, moving = nodes
        seen = []
        outcome = logic.register(fixed, moving, onStep=seen.append)
        assert [step.index for step in seen] == [0, 1, 2, 3, 4]
        field = transforms.field_of(outcome.transform)
        expected = kit.field_over(kit.GRIDS["oblique"])
        np.testing.assert_array_equal(field.array, expected.array)
        assert transforms.roles(outcome.transform) == (fixed, moving)
        assert outcome.transform.GetName() == "moving to fixed"
        assert outcome.transform.GetAttribute("L2ORegistration.run.method") == "trial"
        assert [m["dissimilarity"] for m in outcome.metrics] == pytest.approx(
            [1, 0.8, 0.6, 0.4, 0.2]
        )
        assert outcome.browser.GetNumberOfItems() == 5
        assert set(outcome.quality) == {"sdlogj", "sdlogj_learn2reg", "folding", "min"}
        assert not outcome.cancelled

    def test_every_iteration_keeps_its_own_measures(self, logic, nodes):
        outcome = logic.register(*nodes)
        steps = outcome.result.steps
        assert [m["seconds"] for m in outcome.metrics] == [round(s.seconds, 3) for s in steps]
        assert len({m["seconds"] for m in outcome.metrics}) == len(steps)
        for metrics, step in zip(outcome.metrics, steps, strict=True):
            found = measures.jacobian_summary(step.field, outcome.result.fixed_mask)
            assert metrics["sdlogj"] == pytest.approx(found["sdlogj"])
            assert metrics["folding"] == found["folding"]
        assert outcome.metrics[0]["sdlogj"] == 0 < outcome.metrics[-1]["sdlogj"]

    def test_the_warped_volume_equals_simpleitk(self, logic, nodes, scene):
        fixed, moving = nodes
        out = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "warped")
        jacobian = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "jacobian")
        outcome = logic.register(fixed, moving, outputVolume=out, outputJacobian=jacobian)
        source = volumes.to_volume(moving)
        expected = sitk.Resample(
            sitk.Cast(source.to_image(), sitk.sitkFloat32),
            volumes.to_volume(fixed).to_image(),
            outcome.result.field.to_transform(),
            sitk.sitkLinear,
            float(source.array.min()),
        )
        found = slicer.util.arrayFromVolume(out)
        np.testing.assert_allclose(found, sitk.GetArrayFromImage(expected), atol=1e-3)
        assert volumes.to_volume(out).grid.matches(volumes.grid_of(fixed))
        lowest = slicer.util.arrayFromVolume(jacobian).min()
        assert lowest == pytest.approx(outcome.quality["min"], abs=0.01)

    def test_the_warped_volume_is_what_slicer_shows(self, logic, nodes, scene):
        fixed, moving = nodes
        out = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "warped")
        outcome = logic.register(fixed, moving, outputVolume=out)
        logic.applyTo([moving], outcome.transform)
        seen = slicer.vtkSlicerVolumesLogic.ResampleVolumeToReferenceVolume(moving, fixed)
        ours, theirs = (slicer.util.arrayFromVolume(n).astype(float) for n in (out, seen))
        inside = (theirs != 0) & (ours != ours.min())
        assert inside.mean() > 0.3
        assert np.abs(ours - theirs)[inside].max() <= 1  # both round to whole numbers

    def test_nothing_else_changes(self, logic, nodes, scene):
        fixed, moving = nodes
        before = [volumes.to_volume(node) for node in nodes]
        parents = [node.GetParentTransformNode() for node in nodes]
        logic.register(fixed, moving)
        assert [node.GetParentTransformNode() for node in nodes] == parents
        for node, volume in zip(nodes, before, strict=True):
            np.testing.assert_array_equal(volumes.to_volume(node).array, volume.array)
        there = of_class(scene, "vtkMRMLScalarVolumeNode")
        assert [node for node in there if not node.GetHideFromEditors()] == [fixed, moving]

    def test_how_sure_it_is_stands_beside_the_result(self, logic, nodes, kit, add_points):
        fixed, moving = nodes
        transform = logic.register(fixed, moving).transform
        told = confidence.of(transform)
        assert set(np.unique(volumes.to_volume(told).array)) == {1.5}
        inner = kit.GRIDS["oblique"].to_world(np.full((2, 3), 10.0))
        pair = add_points(inner), add_points(inner)
        partner = logic.addPartners(transform, pair[0])
        np.testing.assert_allclose(partner[2], 1.5)
        table = logic.evaluate(transform, *pair).table.GetTable()
        assert table.GetColumnByName("Told").GetValue(0) == 1.5
        History.of(transform).index = 1  # of an iteration on the way nothing is known
        assert confidence.of(transform) is None and logic.addPartners(transform, pair[0])[2] is None
        assert logic.register(fixed, moving, outputTransform=transform).transform is transform
        assert confidence.of(transform) is told

    def test_landmarks_are_measured_at_each_iteration(self, logic, nodes, kit, add_points):
        fixed, moving = nodes
        field = kit.field_over(kit.GRIDS["oblique"])
        points = kit.GRIDS["oblique"].to_world(np.random.default_rng(0).uniform(3, 18, (9, 3)))
        pair = add_points(points), add_points(field.transform_points(points))
        outcome = logic.register(fixed, moving, fixedLandmarks=pair[0], movingLandmarks=pair[1])
        errors = [m["error"] for m in outcome.metrics]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] == pytest.approx(0, abs=1e-5)
        logic.applyTo([pair[1]], outcome.transform)
        found = logic.evaluate(outcome.transform, *pair)
        assert found.summary["after"]["max"] == pytest.approx(0, abs=1e-5)
        assert found.summary["before"]["mean"] == pytest.approx(errors[0])

    def test_into_the_same_transform_again(self, logic, nodes, scene):
        fixed, moving = nodes
        first = logic.register(fixed, moving)
        logic.applyTo([moving], first.transform)
        count = scene.GetNumberOfNodes()
        second = logic.register(fixed, moving, outputTransform=first.transform)
        assert second.transform is first.transform
        assert scene.GetNumberOfNodes() == count
        assert History.of(first.transform).browser is second.browser

    def test_into_the_same_transform_again_it_shows_the_new_motion(self, nodes, kit, monkeypatch):
        """And not that of the iterations which go, when nodes that they refer to are removed."""

        class Further(kit.Trial):
            def __init__(self, *arguments, **others):
                super().__init__(*arguments, **others)
                self.full = self.full.scaled(10.0)

        fixed, moving = nodes
        monkeypatch.setattr(run, "RegistrationJob", partial(_job, kit.Trial))
        first = SceneLogic().register(fixed, moving)
        near = np.abs(transforms.field_of(first.transform).array).max()
        monkeypatch.setattr(run, "RegistrationJob", partial(_job, Further))
        again = SceneLogic().register(fixed, moving, outputTransform=first.transform)
        shown = transforms.field_of(again.transform).array
        assert np.abs(shown).max() == pytest.approx(10 * near, rel=1e-4)
        history = History.of(again.transform)
        np.testing.assert_allclose(shown, history.field(again.best).array, atol=1e-4)

    @pytest.mark.parametrize("restore", [True, False])
    def test_cancelled_in_place_of_an_earlier_result_it_can_bring_that_back(
        self, nodes, kit, scene, monkeypatch, restore
    ):
        fixed, moving = nodes
        monkeypatch.setattr(run, "RegistrationJob", partial(_job, kit.Trial))
        first = SceneLogic().register(fixed, moving)
        field, before = transforms.field_of(first.transform).array, listing(scene)

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
        finish(again)
        history = History.of(first.transform)
        if restore:
            assert again.outcome is None and listing(scene) == before
            assert len(history) == 5 and history.index == 4
            np.testing.assert_allclose(transforms.field_of(first.transform).array, field, atol=1e-6)
        else:
            assert again.outcome.cancelled and len(history) == 2

    def test_landmarks_are_measured_again_only_where_they_moved(
        self, logic, nodes, kit, add_points, monkeypatch
    ):
        fixed, moving = nodes
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

    def test_a_transform_that_goes_takes_what_belongs_to_it(
        self, logic, nodes, kit, scene, add_points
    ):
        """Without a transform in its place, and with no node of it left."""
        points = kit.GRIDS["oblique"].to_world(np.random.default_rng(0).uniform(3, 18, (9, 3)))
        pair = add_points(points), add_points(points)
        keep = set(listing(scene))
        transform = logic.register(*nodes).transform
        logic.evaluate(transform, *pair)
        forget(transform)
        scene.RemoveNode(transform)
        left = {scene.GetNodeByID(i).GetClassName() for i in set(listing(scene)) - keep}
        assert left <= {"vtkMRMLColorTableNode"}  # which all share

    def test_stopped_by_its_caller_it_keeps_the_best_so_far(self, nodes, kit, monkeypatch):
        """The registration makes no step before the caller has seen the one before."""
        seen = []

        class InStep(kit.Trial):
            def __iter__(self):
                for step in super().__iter__():
                    yield step
                    while len(seen) <= step.index:
                        if self.others["cancelled"]():
                            return
                        time.sleep(0.001)

        def until_the_second(step):
            if step.index == 2:
                return False
            seen.append(step)

        monkeypatch.setattr(run, "RegistrationJob", partial(_job, InStep))
        outcome = SceneLogic().register(*nodes, onStep=until_the_second)
        assert outcome.cancelled and len(outcome.metrics) == 3
        assert [step.index for step in outcome.result.steps] == [0, 1, 2]

    def test_an_error_of_its_caller_puts_the_scene_back(self, logic, nodes, scene):
        before = listing(scene)

        def stumble(step):
            raise KeyError("oops")

        with pytest.raises(KeyError):
            logic.register(*nodes, onStep=stumble)
        assert listing(scene) == before

    def test_a_failing_engine_raises_and_puts_the_scene_back(
        self, logic, nodes, kit, scene, monkeypatch
    ):
        monkeypatch.setattr(run, "RegistrationJob", partial(_job, partial(kit.Trial, fail_at=2)))
        before = listing(scene)
        with pytest.raises(RuntimeError, match="no luck"):
            logic.register(*nodes)
        assert listing(scene) == before


class TestRun:
    def test_the_scene_follows_step_by_step(self, nodes, kit, scene):
        gate = threading.Semaphore(0)
        one = Run(Settings(*nodes), factory=partial(kit.Trial, gate=gate))
        before = scene.GetNumberOfNodes()
        one.poll()
        assert scene.GetNumberOfNodes() == before and one.session is None
        for done in range(1, 4):
            gate.release()
            while not one.poll():
                time.sleep(0.001)
            assert len(one.session.history) == done
            assert one.session.history.index == done - 1
        assert one.session.preview.volume.GetName() == "moving warped (preview)"
        one.cancel()
        gate.release(9)
        (last,) = [event for event in finish(one) if isinstance(event, Finished)]
        assert last.cancelled and one.outcome.cancelled
        assert one.session.history.result == one.session.history.index

    def test_views_show_the_preview_and_get_back_what_they_showed(
        self, nodes, kit, scene, add_volume
    ):
        composite = scene.AddNode(slicer.vtkMRMLSliceCompositeNode())
        composite.SetBackgroundVolumeID(nodes[1].GetID())
        gate = threading.Semaphore(2)
        one = Run(Settings(*nodes), factory=partial(kit.Trial, gate=gate, fail_at=2))
        while one.session is None:
            one.poll()
        assert composite.GetBackgroundVolumeID() == nodes[0].GetID()
        assert composite.GetForegroundVolumeID() == one.session.preview.volume.GetID()
        gate.release(9)
        assert isinstance(finish(one)[-1], Failed)
        assert composite.GetBackgroundVolumeID() == nodes[1].GetID()
        assert composite.GetForegroundVolumeID() is None

    def test_a_failed_run_leaves_everything_as_it_was(self, nodes, kit, scene):
        out = scene.AddNewNodeByClass("vtkMRMLTransformNode", "mine")
        earlier = SceneLogic()
        first = Run(Settings(*nodes, outputTransform=out), factory=kit.Trial, preview=False)
        finish(first)
        first.session.select(2)
        before, field = listing(scene), transforms.field_of(out).array
        attributes = {name: out.GetAttribute(name) for name in out.GetAttributeNames()}
        second = Run(Settings(*nodes, outputTransform=out), factory=partial(kit.Trial, fail_at=1))
        assert isinstance(finish(second)[-1], Failed)
        assert listing(scene) == before
        np.testing.assert_array_equal(transforms.field_of(out).array, field)
        assert {name: out.GetAttribute(name) for name in out.GetAttributeNames()} == attributes
        session = earlier.restore(out)
        session.select(4)
        assert not np.array_equal(transforms.field_of(out).array, field)

    @pytest.mark.parametrize("which", ["fixed", "moving", "transform", "browser"])
    def test_a_deleted_node_ends_it_cleanly(self, nodes, kit, scene, which):
        gate = threading.Semaphore(2)
        before = [*listing(scene), "and one more"]
        one = Run(Settings(*nodes), factory=partial(kit.Trial, gate=gate))
        while one.session is None or len(one.session.history) < 2:
            one.poll()
        history = one.session.history
        node = {
            "fixed": nodes[0],
            "moving": nodes[1],
            "transform": history.transform,
            "browser": history.browser,
        }[which]
        scene.RemoveNode(node)
        (event,) = one.poll()
        gate.release(9)
        assert isinstance(event, Failed) and "was taken from the scene" in event.message
        assert not one.active
        assert set(listing(scene)) < set(before)

    @pytest.mark.parametrize("which", ["browser", "sequence"])
    def test_iterations_of_before_that_are_deleted_meanwhile_cost_no_result(
        self, logic, nodes, kit, scene, which
    ):
        first = logic.register(*nodes)
        gate = threading.Semaphore(1)
        settings = Settings(*nodes, outputTransform=first.transform)
        one = Run(settings, factory=partial(kit.Trial, gate=gate))
        while one.session is None:
            one.poll()
        earlier = first.browser
        scene.RemoveNode(earlier if which == "browser" else earlier.GetMasterSequenceNode())
        gate.release(9)
        events = finish(one)
        assert isinstance(events[-1], Finished) and one.outcome.transform is first.transform
        assert History.of(first.transform).browser is one.outcome.browser
        assert len(History.of(first.transform)) == 5

    def test_closing_the_scene_ends_it_cleanly(self, nodes, kit, scene):
        gate = threading.Semaphore(2)
        one = Run(Settings(*nodes), factory=partial(kit.Trial, gate=gate))
        while one.session is None:
            one.poll()
        scene.Clear(1)
        (event,) = one.poll()
        gate.release(9)
        assert isinstance(event, Failed) and not one.active
        assert one.poll() == []

    def test_cancelled_before_the_first_step_nothing_is_there(self, nodes, kit, scene):
        gate = threading.Semaphore(0)
        before = listing(scene)
        one = Run(Settings(*nodes), factory=partial(kit.Trial, gate=gate, fail_at=0))
        one.cancel()
        gate.release(9)
        finish(one)
        assert listing(scene) == before and one.outcome is None

    @pytest.mark.parametrize("role", ["outputVolume", "moving", "fixed"])
    def test_what_shows_a_registration_is_no_input_and_no_output(self, logic, nodes, scene, role):
        outcome = logic.register(*nodes)
        session = logic.restore(outcome.transform)
        shown = session.preview.volume, confidence.of(outcome.transform)
        for node in shown:
            settings = Settings(*nodes)
            setattr(settings, role, node)
            assert "shows a registration" in settings.problem()
        session.close()

    def test_a_mask_is_not_written_over(self, nodes, add_volume, kit):
        mask = add_volume(kit.image_on(kit.GRIDS["oblique"]), "mask")
        settings = Settings(*nodes, fixedMask=mask, outputVolume=mask)
        assert "would overwrite an input" in settings.problem()


class TestIterations:
    @pytest.fixture
    def outcome(self, logic, nodes):
        return logic.register(*nodes)

    def test_keep_one(self, logic, outcome, kit):
        kept = logic.keepIteration(outcome.transform, 2)
        full = kit.field_over(kit.GRIDS["oblique"])
        np.testing.assert_allclose(
            transforms.field_of(kept).array, full.scaled(0.5).array, atol=1e-6
        )
        history = History.of(outcome.transform)
        assert history.result == 2 and history.index == 2
        with pytest.raises(InputError, match="run Register first"):
            logic.keepIteration(kept)

    def test_outputs_of_another_one(self, logic, outcome, nodes, scene):
        out = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "warped")
        jacobian = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "jacobian")
        session = logic.restore(outcome.transform)
        session.select(0)
        logic.updateOutputs(outcome.transform, out, jacobian)
        assert (slicer.util.arrayFromVolume(jacobian) == 1).all()
        still = outcome.result.field.scaled(0)
        zero = still.warp(volumes.to_volume(nodes[1]), volumes.grid_of(nodes[0]))
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(out), zero.array)
        session.close()

    def test_landmarks_placed_afterwards_join_the_curve(self, logic, outcome, kit, add_points):
        field = kit.field_over(kit.GRIDS["oblique"])
        points = np.zeros((1, 3))
        session = logic.restore(outcome.transform)
        pair = add_points(points), add_points(field.transform_points(points))
        logic.evaluate(outcome.transform, *pair)
        errors = [m["error"] for m in session.history.metrics()]
        assert errors[0] > errors[-1] == pytest.approx(0, abs=1e-5)
        session.close()

    def test_quality_in_a_mask(self, logic, outcome, nodes):
        found = logic.quality(outcome.transform, nodes[0])
        assert found["folding"] == 0 and found["sdlogj"] > 0


class TestApply:
    def test_a_linear_parent_stays_in_between(self, logic, scene, kit, nodes, add_points, askew):
        outcome = logic.register(*nodes)
        moving = nodes[1]
        rigid = moving.GetParentTransformNode()
        free = add_points(np.ones((2, 3)))
        assert logic.applyTo([moving, free], outcome.transform) == [moving, free]
        assert free.GetParentTransformNode() is outcome.transform
        between = moving.GetParentTransformNode()
        assert between is not rigid and rigid.GetParentTransformNode() is None
        assert between.GetParentTransformNode() is outcome.transform
        np.testing.assert_allclose(
            transforms.world_matrix(moving, outcome.transform), askew, atol=1e-9
        )
        assert logic.applyTo([moving, free], outcome.transform) == []

    def test_under_another_deformation_it_is_refused(self, logic, scene, kit, nodes, add_points):
        outcome = logic.register(*nodes)
        other = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
        transforms.set_field(other, kit.field_over(kit.GRIDS["straight"]))
        points = add_points(np.ones((2, 3)))
        points.SetAndObserveTransformNodeID(other.GetID())
        with pytest.raises(InputError, match="non-linear transform 'bent'"):
            logic.applyTo([points], outcome.transform)
