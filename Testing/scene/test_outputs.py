"""Inverse, ventilation and partners of points appear as nodes that Slicer itself reads right."""

import numpy as np
import pytest
import slicer
import vtk
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.scene import outputs, transforms, volumes


@pytest.fixture
def node(scene, kit):
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "field")
    transforms.set_field(node, kit.field_over(kit.GRIDS["oblique"]))
    return node


def through(node, points):
    general = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(general)
    return transforms.ras_lps([general.TransformPoint(p) for p in transforms.ras_lps(points)])


def test_the_inverse_node_leads_back(node, kit):
    grid = kit.GRIDS["oblique"]
    index = np.random.default_rng(0).uniform(3, np.array(grid.size) - 4, (200, 3))
    points = grid.to_world(index)
    inverse, found = outputs.add_inverse(node)
    back = through(inverse, through(node, points))
    assert np.linalg.norm(back - points, axis=1).max() < 0.1
    assert inverse.GetName() == "field inverse"
    assert float(inverse.GetAttribute("L2ORegistration.RoundTrip.max")) == pytest.approx(
        found.errors.max(), rel=1e-3
    )


def test_partners_keep_their_labels(node, kit, add_points):
    grid = kit.GRIDS["oblique"]
    points = grid.to_world(np.array([[5.0, 6.0, 7.0], [8.0, 5.0, 6.0]]))
    markups = add_points(points)
    markups.SetNthControlPointLabel(1, "nodule")
    made, _, confidence = outputs.add_partners(node, markups, "fixed")
    assert confidence is None  # no registration the other way round
    found = transforms.ras_lps(slicer.util.arrayFromMarkupsControlPoints(made, world=True))
    np.testing.assert_allclose(found, through(node, points), atol=1e-3)
    assert made.GetNthControlPointLabel(1) == "nodule"
    back, _, _ = outputs.add_partners(node, made, "moving")
    found = transforms.ras_lps(slicer.util.arrayFromMarkupsControlPoints(back, world=True))
    np.testing.assert_allclose(found, points, atol=0.01)


def test_ventilation_maps_say_sign_and_unit(scene):
    grid = Grid((24, 24, 24), (4.0, 4.0, 4.0))
    lungs = np.zeros(grid.shape, np.uint8)
    lungs[4:20, 4:20, 2:11] = lungs[4:20, 4:20, 13:22] = 1
    field = DisplacementField.zeros(grid)
    field.array[..., 2] = 0.2 * (grid.points()[..., 2] - 50)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "field")
    transforms.set_field(node, field)
    images = []
    for rho in (0.3, 0.25):
        images.append(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))
        array = np.full(grid.shape, 1000 * (rho - 1), np.float32)
        volumes.set_volume(images[-1], Volume(array, grid))
    made, table, found = outputs.add_ventilation(node, *images, Volume(lungs, grid))
    assert "volume gained / volume at expiration" in made["hu"].GetName()
    assert made["jacobian"].GetAttribute("L2ORegistration.FixedIs") == "expiration"
    shown = slicer.util.arrayFromVolume(made["jacobian"])
    assert shown.max() == pytest.approx(0.2, abs=2e-3)
    assert found.regions["both lungs"]["hu"] == pytest.approx(0.2, abs=0.02)
    inside = shown[shown > -1]
    assert inside.min() > 0.1 and len(inside) < shown.size
    display = made["jacobian"].GetDisplayNode()
    assert display.GetApplyThreshold() and display.GetLowerThreshold() > -1
    assert display.GetColorNode().GetName() == "Ventilation"
    legend = made["hu"].GetNthDisplayNode(1)
    assert "volume gained" in legend.GetTitleText() and legend.GetVisibility()
    assert table.GetCellText(0, 0) == "both lungs" and table.GetCellText(0, 3) == "+20 %"
    assert table.GetNumberOfRows() == len(found.regions)
