"""A field in a transform node means the same as in SimpleITK: direction, frame, numbers, files."""

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField
from L2ORegistrationLib.scene import transforms

RNG = np.random.default_rng(3)


def inside(grid, count=200):
    return grid.to_world(RNG.uniform(0.5, np.array(grid.size) - 1.5, (count, 3)))


def through(node, points, from_world=True):
    """LPS points through the node as Slicer itself computes it."""
    general = vtk.vtkGeneralTransform()
    (node.GetTransformFromWorld if from_world else node.GetTransformToWorld)(general)
    return transforms.ras_lps([general.TransformPoint(p) for p in transforms.ras_lps(points)])


def random_field(grid):
    return DisplacementField(RNG.normal(0, 3, (*grid.shape, 3)).astype(np.float32), grid)


@pytest.fixture
def node(scene):
    return scene.AddNewNodeByClass("vtkMRMLTransformNode", "field")


def test_ras_and_lps_differ_by_the_sign_of_the_first_two():
    np.testing.assert_array_equal(transforms.ras_lps([[1, 2, 3]]), [[-1, -2, 3]])
    assert transforms.ras_lps(np.ones(3, np.float32)).dtype == np.float32


def test_from_parent_equals_simpleitk(node, grid):
    field = random_field(grid)
    transforms.set_field(node, field)
    itk = field.to_transform()
    points = inside(grid)
    expected = [itk.TransformPoint(p) for p in points.tolist()]
    np.testing.assert_allclose(through(node, points), expected, atol=2e-4)


def test_a_moving_point_under_the_node_appears_at_its_fixed_point(node, kit, add_points):
    field = kit.field_over(kit.GRIDS["oblique"])
    transforms.set_field(node, field)
    points = inside(kit.GRIDS["oblique"], 20)
    markups = add_points(field.transform_points(points))
    markups.SetAndObserveTransformNodeID(node.GetID())
    shown = transforms.ras_lps(slicer.util.arrayFromMarkupsControlPoints(markups, world=True))
    np.testing.assert_allclose(shown, points, atol=0.01)


def test_the_node_is_float32_linear_and_gives_the_field_back(node, grid):
    field = random_field(grid)
    transforms.set_field(node, field)
    stored = node.GetTransformFromParent()
    assert stored.GetDisplacementGrid().GetScalarType() == vtk.VTK_FLOAT
    assert stored.GetInterpolationModeAsString() == "Linear"
    back = transforms.field_of(node)
    assert back.grid.matches(grid, 1e-9)
    np.testing.assert_allclose(back.array, field.array, atol=1e-6)


def test_beyond_its_grid_the_field_continues_with_its_edge(node, kit):
    field = kit.field_over(kit.GRIDS["straight"])
    transforms.set_field(node, field)
    far = field.grid.to_world([[-5.0, 3, 3], [200, 4, 4]])
    np.testing.assert_allclose(through(node, far), far + field.sample(far), atol=1e-4)


@pytest.mark.parametrize("suffix", [".h5", ".nrrd", ".nii.gz", ".mha"])
def test_files_written_from_the_node_are_read_by_simpleitk(node, kit, tmp_path, suffix):
    field = kit.field_over(kit.GRIDS["oblique"])
    transforms.set_field(node, field)
    path = str(tmp_path / f"field{suffix}")
    node.AddDefaultStorageNode(path)
    node.GetStorageNode().SetFileName(path)
    assert node.GetStorageNode().WriteData(node)
    if suffix == ".h5":
        read = sitk.ReadTransform(path)
    else:
        read = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    points = inside(field.grid, 50)
    expected = points + field.sample(points)
    np.testing.assert_allclose(
        [read.TransformPoint(p) for p in points.tolist()], expected, atol=2e-5
    )


def test_any_transform_can_be_sampled_on_a_grid(scene, kit, add_linear, askew):
    linear = add_linear(askew)
    points = inside(kit.GRIDS["straight"], 30)
    field = transforms.field_of(linear, kit.GRIDS["straight"])
    np.testing.assert_allclose(field.transform_points(points), through(linear, points), atol=1e-4)
    with pytest.raises(InputError, match="Convert"):
        transforms.field_of(linear)


def test_one_that_lies_under_another_is_refused_with_the_name_of_that(node, kit, add_linear):
    transforms.set_field(node, kit.field_over(kit.GRIDS["straight"]))
    node.SetAndObserveTransformNodeID(add_linear(np.eye(4), "bed").GetID())
    with pytest.raises(InputError, match="is under the transform 'bed'.*take it out"):
        transforms.field_of(node)


def test_a_scaled_grid_counts_its_scale(node, kit):
    field = kit.field_over(kit.GRIDS["straight"])
    transforms.set_field(node, field)
    node.GetTransformFromParent().SetDisplacementScale(0.5)
    np.testing.assert_allclose(transforms.field_of(node).array, 0.5 * field.array, atol=1e-6)
