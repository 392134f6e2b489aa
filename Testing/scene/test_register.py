"""A registration from nodes to nodes: what it leaves in the scene, and what it never touches."""

import time
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from L2ORegistrationLib.core import measures
from L2ORegistrationLib.scene import confidence, transforms, volumes
from L2ORegistrationLib.scene.history import History
from L2ORegistrationLib.scene.logic import SceneLogic
from L2ORegistrationLib.scene.nodes import of_class
from L2ORegistrationLib.scene.session import forget


def test_leaves_a_transform_with_its_iterations(logic, scans, kit):
    fixed, moving = scans
    seen = []
    outcome = logic.register(fixed, moving, onStep=seen.append)
    assert [step.index for step in seen] == [0, 1, 2, 3, 4]
    field = transforms.field_of(outcome.transform)
    expected = kit.field_over(kit.GRIDS["oblique"])
    np.testing.assert_array_equal(field.array, expected.array)
    assert transforms.roles(outcome.transform) == (fixed, moving)
    assert outcome.transform.GetName() == "moving to fixed"
    assert outcome.transform.GetAttribute("L2ORegistration.run.method") == "trial"
    assert [m["dissimilarity"] for m in outcome.metrics] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert outcome.browser.GetNumberOfItems() == 5
    assert set(outcome.quality) == {"sdlogj", "sdlogj_learn2reg", "folding", "min"}
    assert not outcome.cancelled


def test_every_iteration_keeps_its_own_measures(logic, scans):
    outcome = logic.register(*scans)
    steps = outcome.result.steps
    assert [m["seconds"] for m in outcome.metrics] == [round(s.seconds, 3) for s in steps]
    assert len({m["seconds"] for m in outcome.metrics}) == len(steps)
    for metrics, step in zip(outcome.metrics, steps, strict=True):
        found = measures.jacobian_summary(step.field, outcome.result.fixed_mask)
        assert metrics["sdlogj"] == pytest.approx(found["sdlogj"])
        assert metrics["folding"] == found["folding"]
    assert outcome.metrics[0]["sdlogj"] == 0 < outcome.metrics[-1]["sdlogj"]


def test_the_warped_volume_equals_simpleitk(logic, scans, scene):
    fixed, moving = scans
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


def test_the_warped_volume_is_what_slicer_shows(logic, scans, scene):
    fixed, moving = scans
    out = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "warped")
    outcome = logic.register(fixed, moving, outputVolume=out)
    logic.applyTo([moving], outcome.transform)
    seen = slicer.vtkSlicerVolumesLogic.ResampleVolumeToReferenceVolume(moving, fixed)
    ours, theirs = (slicer.util.arrayFromVolume(n).astype(float) for n in (out, seen))
    inside = (theirs != 0) & (ours != ours.min())
    assert inside.mean() > 0.3
    assert np.abs(ours - theirs)[inside].max() <= 1  # both round to whole numbers


def test_an_output_that_cannot_be_made_costs_no_result(logic, scans, kit, scene, steer):
    class Short(kit.Trial):
        def result(self):
            found = super().result()

            def warped():
                raise MemoryError("no room")

            found.warped = warped
            return found

    steer(Short)
    out = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "warped")
    jacobian = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "jacobian")
    outcome = logic.register(*scans, outputVolume=out, outputJacobian=jacobian)
    assert len(History.of(outcome.transform)) == 5 and confidence.of(outcome.transform)
    assert "could not be made" in outcome.note and "no room" in outcome.note
    assert out.GetImageData() is None and jacobian.GetImageData() is not None


def test_nothing_else_changes(logic, scans, scene):
    fixed, moving = scans
    before = [volumes.to_volume(node) for node in scans]
    parents = [node.GetParentTransformNode() for node in scans]
    logic.register(fixed, moving)
    assert [node.GetParentTransformNode() for node in scans] == parents
    for node, volume in zip(scans, before, strict=True):
        np.testing.assert_array_equal(volumes.to_volume(node).array, volume.array)
    there = of_class(scene, "vtkMRMLScalarVolumeNode")
    assert [node for node in there if not node.GetHideFromEditors()] == [fixed, moving]


def test_how_sure_it_is_stands_beside_the_result(logic, scans, kit, add_points):
    fixed, moving = scans
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


def test_landmarks_are_measured_at_each_iteration(logic, scans, kit, add_points):
    fixed, moving = scans
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


def test_a_transform_that_goes_takes_what_belongs_to_it(logic, scans, kit, scene, add_points):
    """Without a transform in its place, and with no node of it left."""
    points = kit.GRIDS["oblique"].to_world(np.random.default_rng(0).uniform(3, 18, (9, 3)))
    pair = add_points(points), add_points(points)
    keep = set(kit.node_ids(scene))
    transform = logic.register(*scans).transform
    logic.evaluate(transform, *pair)
    forget(transform)
    scene.RemoveNode(transform)
    left = {scene.GetNodeByID(i).GetClassName() for i in set(kit.node_ids(scene)) - keep}
    assert left <= {"vtkMRMLColorTableNode"}  # which all share


def test_stopped_by_its_caller_it_keeps_the_best_so_far(scans, kit, steer):
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

    steer(InStep)
    outcome = SceneLogic().register(*scans, onStep=until_the_second)
    assert outcome.cancelled and len(outcome.metrics) == 3
    assert [step.index for step in outcome.result.steps] == [0, 1, 2]


def test_an_error_of_its_caller_puts_the_scene_back(logic, scans, kit, scene):
    before = kit.node_ids(scene)

    def stumble(step):
        raise KeyError("oops")

    with pytest.raises(KeyError):
        logic.register(*scans, onStep=stumble)
    assert kit.node_ids(scene) == before


def test_a_failing_engine_raises_and_puts_the_scene_back(logic, scans, kit, scene, steer):
    steer(partial(kit.Trial, fail_at=2))
    before = kit.node_ids(scene)
    with pytest.raises(RuntimeError, match="no luck"):
        logic.register(*scans)
    assert kit.node_ids(scene) == before
