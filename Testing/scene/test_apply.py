"""What belongs to the moving volume is put under the output transform."""

import re

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.scene import confidence, transforms


def test_a_linear_parent_stays_in_between(logic, scene, kit, scans, add_points, askew):
    outcome = logic.register(*scans)
    moving = scans[1]
    rigid = moving.GetParentTransformNode()
    free = add_points(np.ones((2, 3)))
    assert logic.applyTo([moving, free], outcome.transform) == [moving, free]
    assert free.GetParentTransformNode() is outcome.transform
    between = moving.GetParentTransformNode()
    assert between is not rigid and rigid.GetParentTransformNode() is None
    assert between.GetParentTransformNode() is outcome.transform
    np.testing.assert_allclose(transforms.world_matrix(moving, outcome.transform), askew, atol=1e-9)
    assert logic.applyTo([moving, free], outcome.transform) == []


def test_what_lies_in_the_fixed_scan_is_refused(logic, scans, scene, add_points):
    outputs = [scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", n) for n in ("warped", "J")]
    outcome = logic.register(*scans, outputVolume=outputs[0], outputJacobian=outputs[1])
    later = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "of another iteration")
    logic.updateOutputs(outcome.transform, later)
    points = add_points(np.ones((2, 3)))
    lines = logic.evaluate(outcome.transform, points, points).lines
    for node in (scans[0], confidence.of(outcome.transform), *outputs, later, lines):
        with pytest.raises(InputError, match=f"'{re.escape(node.GetName())}' lies in the fixed"):
            logic.applyTo([points, node], outcome.transform)
        assert node.GetParentTransformNode() is points.GetParentTransformNode() is None


def test_under_another_deformation_it_is_refused(logic, scene, kit, scans, add_points):
    outcome = logic.register(*scans)
    other = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    transforms.set_field(other, kit.field_over(kit.GRIDS["straight"]))
    points = add_points(np.ones((2, 3)))
    points.SetAndObserveTransformNodeID(other.GetID())
    with pytest.raises(InputError, match="non-linear transform 'bent'"):
        logic.applyTo([points], outcome.transform)
