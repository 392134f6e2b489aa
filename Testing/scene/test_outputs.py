"""Inverse, ventilation and partners of points appear as nodes that Slicer itself reads right."""

import numpy as np
import pytest
import slicer
import vtk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.scene import outputs, transforms, volumes
from L2ORegistrationLib.scene.lung_grid import lung_grid_task
from L2ORegistrationLib.scene.quality import quality_task


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
    inverse, found = outputs.inverse_task(node).now()
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
    made, _, confidence = outputs.partners_task(node, markups, "fixed").now()
    assert confidence is None  # no registration the other way round
    found = transforms.ras_lps(slicer.util.arrayFromMarkupsControlPoints(made, world=True))
    np.testing.assert_allclose(found, through(node, points), atol=1e-3)
    assert made.GetNthControlPointLabel(1) == "nodule"
    back, _, _ = outputs.partners_task(node, made, "moving").now()
    found = transforms.ras_lps(slicer.util.arrayFromMarkupsControlPoints(back, world=True))
    np.testing.assert_allclose(found, points, atol=0.01)


def test_points_that_are_moved_meanwhile_get_no_partners(node, kit, add_points, scene):
    points = kit.GRIDS["oblique"].to_world(np.array([[5.0, 6.0, 7.0], [8.0, 5.0, 6.0]]))
    markups = add_points(points)
    task = outputs.partners_task(node, markups, "fixed")
    found, before = task.compute(), kit.node_ids(scene)
    markups.SetNthControlPointPosition(0, 1.0, 2.0, 3.0)
    with pytest.raises(InputError, match="'points' was changed meanwhile"):
        task.finish(found)
    assert kit.node_ids(scene) == before


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
    lungs = outputs.lungs_of(images[0], Volume(lungs, grid))
    made, table, found = outputs.ventilation_task(node, *images, lungs).now()
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


@pytest.fixture
def registered(node, kit, add_volume):
    """The field's node with its fixed and moving images, and a mask of a ball in the fixed one."""
    grid = kit.GRIDS["oblique"]
    images = [add_volume(kit.image_on(grid), name) for name in ("fixed", "moving")]
    for role, image in zip(("fixed", "moving"), images, strict=True):
        transforms.set_role(node, role, image)
    centre = grid.to_world(np.array(grid.size) / 2)
    ball = np.linalg.norm(grid.points() - centre, axis=-1) < 15
    return node, images, Volume(ball, grid)


def segmentation(scene, name, masks):
    """A segmentation node with these masks as segments."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    for title, mask in masks.items():
        labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", title)
        volumes.set_volume(labels, Volume(mask.array.astype(np.uint8), mask.grid))
        slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
        last = node.GetSegmentation().GetNthSegment(
            node.GetSegmentation().GetNumberOfSegments() - 1
        )
        last.SetName(title)
        scene.RemoveNode(labels)
    return node


def test_a_registration_the_other_way_round_tells_the_uncertainty(registered, add_points, scene):
    node, _, ball = registered
    points = add_points(ball.marked_points(most=5))
    assert outputs.backward_of(node) is None
    inverse, _ = outputs.inverse_task(node, lambda: ball).now()
    assert outputs.backward_of(node) is None  # an inverse would always agree
    backward = scene.AddNewNodeByClass("vtkMRMLTransformNode", "backward")
    field = transforms.field_of(inverse)
    field.array[..., 2] += 2.0
    transforms.set_field(backward, field)
    for role, image in zip(("fixed", "moving"), transforms.roles(inverse), strict=True):
        transforms.set_role(backward, role, image)
    assert outputs.backward_of(node) is backward
    _, _, apart = outputs.partners_task(node, points, "fixed").now()
    assert np.abs(apart - 2).max() < 0.7  # mm: the error that was put in
    rows = quality_task(node, lungs=lambda: ball).now()[1]
    assert rows[-1].name.startswith("Consistency") and rows[-1].passed


def test_tg_132_compares_the_segments_that_both_scans_have(registered, scene):
    node, (fixed, _), ball = registered
    far = Volume(np.zeros(ball.array.shape, bool), ball.grid)
    far.array[:3] = True
    back = outputs.inverse_task(node, lambda: ball).now()[0]
    moved = transforms.field_of(back).transform_points(ball.grid.points())
    in_moving = Volume(ball.sample(moved, order=0, outside=0.0) > 0, ball.grid)
    first = segmentation(scene, "in fixed", {"tumour": ball, "only here": far})
    second = segmentation(scene, "in moving", {"tumour": in_moving})
    table, rows = quality_task(node, structures=(first, second)).now()
    found = {row.name: row for row in rows if row.where == "tumour"}
    assert found["Dice coefficient"].measures["dice"] > 0.9
    assert found["Mean distance to agreement"].passed
    assert table.GetNumberOfRows() == len(rows)
    assert quality_task(node, structures=(first, second)).now()[0] is table  # filled again
    other = segmentation(scene, "other", {"heart": ball})
    with pytest.raises(InputError, match="no segment of the same name"):
        quality_task(node, structures=(first, other))


def test_segments_that_are_empty_or_in_one_scan_only_are_not_in_the_way(
    registered, scene, monkeypatch
):
    node, _, ball = registered
    first = segmentation(scene, "in fixed", {"tumour": ball, "only here": ball, "empty": ball})
    second = segmentation(scene, "in moving", {"tumour": ball, "empty": ball})
    empty = second.GetSegmentation().GetSegmentIdBySegmentName("empty")
    second.GetSegmentation().RemoveSegment(empty)
    second.GetSegmentation().AddEmptySegment("", "empty")
    assert list(outputs.masks_by_name(second)()) == ["tumour"]
    read, real = [], volumes.segments_reader
    monkeypatch.setattr(
        volumes, "segments_reader", lambda node, ids, *a: read.extend(ids) or real(node, ids, *a)
    )
    rows = quality_task(node, structures=(first, second)).now()[1]
    assert {row.where for row in rows if row.name == "Dice coefficient"} == {"tumour"}
    assert len(read) == 4  # that of one scan only was not read
    with pytest.raises(InputError, match="with something in it"):
        only = segmentation(scene, "other", {"only here": ball})
        quality_task(node, structures=(second, only))


def test_what_the_moved_structure_has_beyond_the_fixed_one_counts_against_it(registered, scene):
    """Slicer stores a segment's own box: the moved structure must not be cut off at its sides."""
    node, _, ball = registered
    grid = Grid((40, 40, 40), (2.0, 2.0, 2.0), (-39, -39, -39))
    larger = Volume(np.linalg.norm(grid.points(), axis=-1) < 24, grid)
    there = transforms.field_of(node).transform_points(grid.points())
    moved = larger.sample(there, order=0, outside=0.0) > 0
    here = ball.on_grid(grid).array
    dice = 2 * (moved & here).sum() / (moved.sum() + here.sum())
    first = segmentation(scene, "in fixed", {"it": ball})
    second = segmentation(scene, "in moving", {"it": larger})
    rows = quality_task(node, structures=(first, second)).now()[1]
    found = next(row.measures["dice"] for row in rows if row.name == "Dice coefficient")
    assert dice < 0.6 and found == pytest.approx(dice, abs=0.02)


def test_the_volume_of_a_segment_follows_the_field(scene):
    """20 % longer along z: 20 % more, from either scan; what is drawn larger has grown."""
    grid = Grid((30, 30, 30), (2.0, 2.0, 2.0), (-29, -29, -29))
    field = DisplacementField.zeros(grid)
    field.array[..., 2] = 0.2 * grid.points()[..., 2]
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "field")
    transforms.set_field(node, field)
    ball = Volume(np.linalg.norm(grid.points(), axis=-1) < 12, grid)
    drawn = segmentation(scene, "nodule", {"nodule": ball})
    ml = ball.array.sum() * 8 / 1000
    there = outputs.change_task(node, (drawn, "nodule")).now()
    assert (there.fixed_ml, there.carried_ml) == (pytest.approx(ml), pytest.approx(1.2 * ml))
    back = outputs.change_task(node, None, drawn).now()
    assert (back.moving_ml, back.carried_ml) == (pytest.approx(ml), pytest.approx(ml / 1.2))
    both = outputs.change_task(node, drawn, drawn).now()
    assert both.growth == pytest.approx(1 / 1.2 - 1) and "-17 %" in both.sentence()
    with pytest.raises(InputError, match="Choose a segment"):
        outputs.change_task(node)


def test_the_grid_is_drawn_near_the_lungs_only(registered, scene):
    node, _, ball = registered
    before = scene.GetNumberOfNodes()
    grid = lung_grid_task(node, ball).now()
    field = transforms.field_of(node)
    lungs = transforms.ras_lps(field.transform_points(ball.marked_points()))
    for axis, model in enumerate(grid.models):
        assert model.GetParentTransformNode() is node
        mesh = model.GetPolyData()
        corners = np.array([mesh.GetPoint(k) for k in range(mesh.GetNumberOfPoints())])
        gaps = np.linalg.norm(corners[:, None] - lungs[None, ::5], axis=-1).min(axis=1)
        assert 6 < gaps.max() < 40  # beside them, but not far
        planes = np.unique(corners[:, axis])
        assert len(planes) > 1 and np.allclose(planes % 12, 0)
    shown = vtk.vtkGeneralTransform()  # as Slicer draws it: grid lines of moving, seen in fixed
    grid.models[0].GetParentTransformNode().GetTransformToWorld(shown)
    corner = grid.models[0].GetPolyData().GetPoint(0)
    seen = transforms.ras_lps(shown.TransformPoint(corner))
    np.testing.assert_allclose(field.transform_points(seen), transforms.ras_lps(corner), atol=0.05)
    grid.remove()
    assert scene.GetNumberOfNodes() == before
