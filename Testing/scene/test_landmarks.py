"""Landmarks are taken where they were placed, paired, measured, tabulated and drawn."""

import numpy as np
import pytest
import vtk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.scene import landmarks, transforms
from vtk.util import numpy_support

POINTS = np.array([[1.0, 2, 3], [-4, 5, -6], [7, -8, 9.5], [10, 3, -7]])


def test_world_points_in_lps_under_a_parent(add_points, add_linear, askew):
    node = add_points(POINTS)
    node.SetAndObserveTransformNodeID(add_linear(askew).GetID())
    found = landmarks.of_markups(node)
    ras = transforms.ras_lps(POINTS) @ askew[:3, :3].T + askew[:3, 3]
    np.testing.assert_allclose(found.points, transforms.ras_lps(ras), atol=1e-6)
    assert found.labels == ("points-1", "points-2", "points-3", "points-4")


def test_points_that_are_not_placed_do_not_count(add_points):
    node = add_points(POINTS)
    node.UnsetNthControlPointPosition(1)
    assert len(landmarks.of_markups(node)) == 3
    with pytest.raises(InputError, match="'empty' has no landmarks"):
        landmarks.of_markups(add_points(np.zeros((0, 3)), name="empty"))


def test_paired_by_label_else_by_order(add_points):
    fixed = add_points(POINTS, list("abcd"))
    moving = add_points(POINTS[::-1], list("dcba"))
    a, b = landmarks.pairs(fixed, moving)
    np.testing.assert_allclose(a.points, b.points)
    other = add_points(POINTS + 1, list("wxyz"))
    a, b = landmarks.pairs(fixed, other)
    np.testing.assert_allclose(b.points, a.points + 1)
    with pytest.raises(InputError, match="4 fixed but 2 moving"):
        landmarks.pairs(fixed, add_points(POINTS[:2]))


def test_moving_points_under_the_registration_are_meant_where_they_were_placed(
    scene, kit, add_points, add_linear, askew
):
    bent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    transforms.set_field(bent, kit.field_over(kit.GRIDS["straight"]))
    rigid = add_linear(askew)
    node = add_points(POINTS)
    node.SetAndObserveTransformNodeID(rigid.GetID())
    expected = landmarks.of_markups(node).points
    rigid.SetAndObserveTransformNodeID(bent.GetID())
    np.testing.assert_allclose(landmarks.of_markups(node, bent).points, expected, atol=1e-6)
    node.SetAndObserveTransformNodeID(bent.GetID())
    np.testing.assert_allclose(landmarks.of_markups(node, bent).points, POINTS, atol=1e-6)


def test_points_under_another_deformation_are_refused(scene, kit, add_points, add_linear, askew):
    """They would be read where that one shows them, not where they were placed."""
    bent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    transforms.set_field(bent, kit.field_over(kit.GRIDS["straight"]))
    other = scene.AddNewNodeByClass("vtkMRMLTransformNode", "other")
    node, fixed = (add_points(points, name="nodules") for points in (POINTS[:3], POINTS))
    rigid = add_linear(askew)
    node.SetAndObserveTransformNodeID(rigid.GetID())
    rigid.SetAndObserveTransformNodeID(bent.GetID())
    for below in (None, other):
        with pytest.raises(InputError, match="'nodules' is under the non-linear transform"):
            landmarks.pairs(fixed, node, below)
    assert landmarks.unpaired(fixed, node, bent).endswith("left out: fixed nodules-4.")


@pytest.fixture
def evaluated(scene, kit, add_points):
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "registration")
    field = kit.field_over(kit.GRIDS["straight"])
    fixed = add_points(POINTS, list("abcd"), "fixed")
    off = np.array([[0.0, 0, 0], [3, 0, 0], [0, 4, 0], [0, 0, 1]])
    moving = add_points(field.transform_points(POINTS) + off, list("abcd"), "moving")

    def evaluate():
        pairs = landmarks.pairs(fixed, moving)
        return landmarks.evaluate(field, *pairs, transform, kit.GRIDS["oblique"])

    return evaluate, scene


def column(node, name):
    array = node.GetTable().GetColumnByName(name)
    return [array.GetValue(i) for i in range(array.GetNumberOfValues())]


def test_errors_before_and_after(evaluated):
    found = evaluated[0]()
    np.testing.assert_allclose(found.after, [0, 3, 4, 1], atol=1e-5)
    np.testing.assert_allclose(
        found.before, np.linalg.norm(found.fixed.points - found.moving.points, axis=1)
    )
    assert found.summary["after"]["mean"] == pytest.approx(2, abs=1e-5)
    assert found.summary["after"]["max"] == pytest.approx(4, abs=1e-5)
    assert np.abs(found.snapped - found.after).max() > 0.1


def test_tables_have_two_decimals(evaluated):
    found = evaluated[0]()
    assert column(found.table, "Landmark") == list("abcd")
    np.testing.assert_allclose(column(found.table, "After"), [0, 3, 4, 1], atol=1e-5)
    assert column(found.summary_table, "Error (mm)") == ["Mean", "SD", "Median", "95 %", "Maximum"]
    assert column(found.summary_table, "After")[::4] == ["2.00", "4.00"]
    snapped = column(found.table, "Snapped")
    assert snapped == list(np.round(found.snapped, 2)) != list(found.snapped)


def test_results_are_not_edited_by_typing(evaluated):
    """Slicer's table view writes what is typed on it into a table that is not locked."""
    found = evaluated[0]()
    assert found.table.GetLocked() and found.summary_table.GetLocked()


def test_lines_are_as_long_as_the_errors_and_coloured_by_them(evaluated):
    """Errors of 0, 3, 4 and 1 mm: three tubes, from their landmarks."""
    found = evaluated[0]()
    merged = vtk.vtkCleanPolyData()  # caps with their tubes
    merged.SetInputData(found.lines.GetPolyData())
    merged.Update()
    data = merged.GetOutput()
    apart = vtk.vtkConnectivityFilter()
    apart.SetInputData(data)
    apart.SetExtractionModeToAllRegions()
    apart.ColorRegionsOn()
    apart.Update()
    tubes = apart.GetOutput()
    points = transforms.ras_lps(numpy_support.vtk_to_numpy(tubes.GetPoints().GetData()))
    which = numpy_support.vtk_to_numpy(tubes.GetPointData().GetArray("RegionId"))
    errors = numpy_support.vtk_to_numpy(data.GetPointData().GetArray("Error (mm)"))
    assert sorted(set(errors.round(3))) == [1, 3, 4]
    for k in range(which.max() + 1):
        start = POINTS[np.linalg.norm(POINTS - points[which == k].mean(axis=0), axis=1).argmin()]
        far = np.linalg.norm(points[which == k] - start, axis=1).max()
        assert far == pytest.approx(np.hypot(errors[which == k][0], 0.7), abs=0.05)
    display = found.lines.GetDisplayNode()
    assert display.GetActiveScalarName() == "Error (mm)" and display.GetScalarVisibility()
    table = display.GetColorNode().GetLookupTable()
    red, green, _ = table.GetTableValue(255)[:3]
    assert red > green


def test_a_slice_through_a_landmark_shows_its_line(evaluated):
    """As a slice view cuts a model: of a line without a width a single point would be left."""
    data = evaluated[0]().lines.GetPolyData()
    for axis in range(3):
        plane, cutter = vtk.vtkPlane(), vtk.vtkPlaneCutter()
        plane.SetNormal(*np.eye(3)[axis])
        plane.SetOrigin(*transforms.ras_lps(POINTS[1]))
        cutter.SetInputData(data)
        cutter.SetPlane(plane)
        cutter.Update()
        geometry = vtk.vtkGeometryFilter()
        geometry.SetInputDataObject(cutter.GetOutputDataObject(0))
        geometry.Update()
        cut = geometry.GetOutputDataObject(0)
        assert cut.GetNumberOfLines() > 3


def test_evaluating_again_updates_the_same_nodes(evaluated):
    evaluate, scene = evaluated
    first = evaluate()
    count = scene.GetNumberOfNodes()
    second = evaluate()
    assert scene.GetNumberOfNodes() == count
    assert second.table is first.table and second.lines is first.lines
