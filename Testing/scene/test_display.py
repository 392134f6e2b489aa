"""Slice layers, deformation grid, colours and preview, on the nodes that views read."""

import numpy as np
import pytest
import slicer
import vtk
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.scene import display, nodes, transforms, volumes
from L2ORegistrationLib.scene.preview import Preview
from L2ORegistrationLib.scene.products import checkered


@pytest.fixture
def views(scene):
    """Red and yellow slice views with their composites."""
    composites = []
    for name in ("Red", "Yellow"):
        view = slicer.vtkMRMLSliceNode()
        view.SetLayoutName(name)
        view.SetName(name)
        scene.AddNode(view)
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(name)
        composites.append(scene.AddNode(composite))
    return composites


@pytest.fixture
def images(kit, add_volume):
    return [add_volume(kit.image_on(kit.GRIDS["straight"]), name) for name in ("one", "two")]


def shown(composite):
    return composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()


def test_blend_flicker_and_back(views, images):
    before = display.layers(slicer.mrmlScene)
    one, two = images
    display.show_blend(one, two, 0.4)
    assert shown(views[1]) == (one.GetID(), two.GetID())
    assert views[0].GetForegroundOpacity() == pytest.approx(0.4)
    display.flicker(slicer.mrmlScene)
    assert views[0].GetForegroundOpacity() == 1
    display.flicker(slicer.mrmlScene)
    assert views[0].GetForegroundOpacity() == 0
    display.set_layers(before, slicer.mrmlScene)
    assert shown(views[0]) == (None, None)


def test_side_by_side_is_linked(views, images):
    one, two = images
    display.show_side_by_side(one, two)
    assert shown(views[0])[0] == one.GetID() and shown(views[1])[0] == two.GetID()
    assert views[0].GetLinkedControl() and views[1].GetLinkedControl()


def test_side_by_side_both_are_turned_as_the_red_view_is(views, images):
    red, yellow = (display.slice_view(slicer.mrmlScene, name) for name in ("Red", "Yellow"))
    yellow.SetOrientation("Sagittal")
    yellow.JumpSliceByCentering(1.0, 2.0, 3.0)
    turn = vtk.vtkTransform()
    turn.RotateX(8)
    turn.Concatenate(red.GetSliceToRAS())
    red.GetSliceToRAS().DeepCopy(turn.GetMatrix())
    red.UpdateMatrices()
    display.show_side_by_side(*images)
    found = transforms.matrix_of(yellow.GetSliceToRAS())
    np.testing.assert_allclose(found[:3, :3], transforms.matrix_of(red.GetSliceToRAS())[:3, :3])
    np.testing.assert_allclose(found[:3, 3], [1, 2, 3])  # each view stays where it is


@pytest.mark.parametrize("mode", ["grid", "arrows"])
def test_the_deformation_is_drawn_in_slices_only(scene, mode):
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "registration")
    transforms.set_field(node, DisplacementField.zeros(Grid((4, 4, 4))))
    display.set_grid_visible(node, True, mode)
    shown = node.GetDisplayNode()
    assert shown.GetVisibility() and shown.GetVisibility2D() and not shown.GetVisibility3D()
    shown.SetGridSpacingMm(20)
    display.set_grid_visible(node, False)
    assert not shown.GetVisibility2D()
    display.set_grid_visible(node, True)
    assert shown.GetGridSpacingMm() == 20


def test_the_jacobian_is_white_at_one(scene):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "jacobian")
    grid = Grid((3, 4, 5), (4, 4, 4))
    display.show_jacobian(node, Volume(np.full(grid.shape, 1.0, np.float32), grid))
    shown = node.GetDisplayNode()
    assert (shown.GetWindowLevelMin(), shown.GetWindowLevelMax()) == (0, 2)
    table = shown.GetColorNode().GetLookupTable()
    np.testing.assert_allclose(table.GetTableValue(127)[:3], 1, atol=0.02)
    low, high = table.GetTableValue(0)[:3], table.GetTableValue(255)[:3]
    assert low[2] > low[0] and high[0] > high[2]


def test_the_checkerboard_alternates(scene, images):
    one, _ = images
    first = volumes.to_volume(one)
    other = Volume(np.full_like(first.array, 5000), first.grid)
    board = checkered(first, other, squares=2).array
    assert board.shape == first.array.shape
    corner, neighbour = (board[:2, :2, :2] == 5000), (board[:2, :2, -2:] == 5000)
    assert corner.all() != neighbour.all() and corner.any() != neighbour.any()


class TestPreview:
    @pytest.fixture
    def made(self, scene, kit, images):
        transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "registration")
        self.full = kit.field_over(kit.GRIDS["straight"])
        transforms.set_field(transform, self.full)
        moving = images[1]
        return Preview(moving, transform), moving, transform

    def motion(self, preview, point):
        general = vtk.vtkGeneralTransform()
        preview.volume.GetParentTransformNode().GetTransformFromWorld(general)
        return general.TransformPoint(point) - np.array(point)

    def test_the_moving_volume_is_not_touched_and_not_copied(self, made):
        preview, moving, transform = made
        assert moving.GetParentTransformNode() is None
        assert preview.volume.GetParentTransformNode() is transform
        own, theirs = (slicer.util.arrayFromVolume(node) for node in (preview.volume, moving))
        assert np.shares_memory(own, theirs)
        assert not preview.volume.GetSaveWithScene()

    def test_strength_scales_the_motion_and_follows_the_iterations(self, made):
        preview, _, transform = made
        full = self.motion(preview, (3.0, 4, 5))
        assert np.abs(full).max() > 1
        for strength in (0.5, 0.0, 0.25):
            preview.strength = strength
            np.testing.assert_allclose(self.motion(preview, (3, 4, 5)), strength * full, atol=1e-5)
        transforms.set_field(transform, self.full.scaled(2))
        np.testing.assert_allclose(self.motion(preview, (3, 4, 5)), 0.5 * full, atol=1e-5)
        np.testing.assert_array_equal(
            transforms.field_of(transform).array, self.full.scaled(2).array
        )
        preview.strength = 1
        np.testing.assert_allclose(self.motion(preview, (3, 4, 5)), 2 * full, atol=1e-5)

    def test_a_moving_volume_under_a_linear_transform_starts_where_it_is(
        self, scene, kit, add_volume, add_linear, askew
    ):
        moving = add_volume(kit.image_on(kit.GRIDS["oblique"]), "moving", add_linear(askew))
        transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "registration")
        preview = Preview(moving, transform)
        assert volumes.grid_of(preview.volume).matches(volumes.grid_of(moving))

    def test_hardened_or_taken_out_it_is_kept(self, made, scene):
        preview, moving, transform = made
        preview.strength = 0.5
        kept = preview.volume
        kept.HardenTransform()
        preview.remove()
        assert kept.GetScene() is scene and kept.GetName() == "two warped"
        assert kept.GetSaveWithScene() and kept.GetDisplayNode().GetSaveWithScene()
        assert kept.GetAttribute(nodes.MADE) is None
        assert scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 1
        other = Preview(moving, transform)
        scene.RemoveNode(transform)  # it is under nothing then, but nobody took it out
        other.remove()
        assert other.volume.GetScene() is None

    def test_hardened_it_is_not_warped_again_by_the_strength(self, made, scene):
        """Leaving the module sets the whole strength."""
        preview, *_ = made
        preview.strength = 0.5
        preview.volume.HardenTransform()
        preview.strength = 1.0
        assert preview.volume.GetParentTransformNode() is None
        preview.remove()
        assert preview.volume.GetScene() is scene

    def test_under_a_transform_that_was_inverted_by_hand_strength_changes_nothing(self, made):
        preview, _, transform = made
        transform.Inverse()
        preview.strength = 0.5
        assert preview.volume.GetParentTransformNode() is transform

    def test_removed_nothing_is_left(self, made, scene):
        preview, *_ = made
        preview.strength = 0.5
        preview.remove()
        assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2
        assert scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 1
        preview.remove()


def test_colour_bars_are_told_that_the_layers_changed(views, images):
    # Slicer's own manager of them looks at the layers only then, or when a user changes these.
    nodes.add_legend(images[1], "map", "Map (mm)", "%.1f")
    (legend,) = nodes.of_class(images[1].GetScene(), "vtkMRMLColorLegendDisplayNode")
    told = []
    legend.AddObserver(
        vtk.vtkCommand.ModifiedEvent, lambda *_: told.append([shown(view) for view in views])
    )
    one, two = (image.GetID() for image in images)
    display.show_blend(images[0], images[1])
    assert told[-1] == [(one, two)] * 2
    display.show_blend(images[0], None)
    assert told[-1] == [(one, None)] * 2
