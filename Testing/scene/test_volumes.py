"""Volume nodes are read where they are seen, written where they belong, and warped as ITK does."""

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import Grid, Volume
from L2ORegistrationLib.scene import transforms, volumes
from L2ORegistrationLib.scene.settings import Settings


def shown_at(node, index):
    """LPS mm of a voxel as Slicer computes it, parents included."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    general = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        node.GetParentTransformNode(), None, general
    )
    local = matrix.MultiplyPoint((*index, 1))[:3]
    return transforms.ras_lps(general.TransformPoint(local))


@pytest.mark.parametrize("under", [False, True])
def test_a_volume_is_read_where_it_is_seen(grid, kit, add_volume, add_linear, askew, under):
    parents = [add_linear(askew), add_linear(np.linalg.inv(askew) @ np.diag([-1, 1, 1, 1]))]
    parents[0].SetAndObserveTransformNodeID(parents[1].GetID())
    image = kit.image_on(grid)
    node = add_volume(image, parent=parents[0] if under else None)
    volume = volumes.to_volume(node)
    np.testing.assert_array_equal(volume.array, image.array)
    assert volume.array.dtype == np.int16
    for index in ((0, 0, 0), (5, 3, 2), (11, 10, 9)):
        np.testing.assert_allclose(volume.grid.to_world(index), shown_at(node, index), atol=1e-4)
    assert volume.grid.matches(grid) is not under


def test_the_copy_is_independent_of_the_node(kit, add_volume):
    node = add_volume(kit.image_on(kit.GRIDS["straight"]))
    volume = volumes.to_volume(node)
    slicer.util.arrayFromVolume(node)[:] = 0
    assert volume.array.any()


class TestRefused:
    def test_empty(self, scene):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
        with pytest.raises(InputError, match="'nothing' has no image"):
            volumes.to_volume(node)

    def test_colours(self, scene):
        node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
        slicer.util.updateVolumeFromArray(node, np.zeros((4, 4, 4, 3), np.uint8))
        with pytest.raises(InputError, match="3 components"):
            volumes.to_volume(node)

    def test_shear_in_the_volume_or_its_parent(self, kit, add_volume, add_linear):
        matrix = np.eye(4)
        matrix[1, 2] = 0.3
        node = add_volume(kit.image_on(kit.GRIDS["straight"]), "tilted", add_linear(matrix))
        with pytest.raises(InputError, match="'tilted' is sheared"):
            volumes.grid_of(node)

    def test_a_non_linear_parent(self, scene, kit, add_volume):
        bent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
        transforms.set_field(bent, kit.field_over(kit.GRIDS["straight"]))
        node = add_volume(kit.image_on(kit.GRIDS["straight"]), "CT", bent)
        with pytest.raises(InputError, match="'CT' is under the non-linear transform 'bent'"):
            volumes.grid_of(node)
        assert volumes.grid_of(node, below=bent).matches(kit.GRIDS["straight"])


def test_the_shown_frame_of_a_sequence_is_taken(scene, kit, add_volume):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    for frame in range(3):
        image = Volume(np.full((4, 5, 6), frame, np.int16), Grid((6, 5, 4)))
        one = slicer.vtkMRMLScalarVolumeNode()
        slicer.util.updateVolumeFromArray(one, image.array)
        sequence.SetDataNodeAtValue(one, str(frame))
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.SetSelectedItemNumber(2)
    proxy = browser.GetProxyNode(sequence)
    assert (volumes.to_volume(proxy).array == 2).all()


def test_written_next_to_a_parented_volume_it_lies_on_it(
    grid, kit, scene, add_volume, add_linear, askew
):
    fixed = add_volume(kit.image_on(grid), "fixed", add_linear(askew))
    volume = volumes.to_volume(fixed)
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "out")
    volumes.set_volume(node, volume, like=fixed)
    assert node.GetParentTransformNode() is fixed.GetParentTransformNode()
    assert volumes.to_volume(node).grid.matches(volume.grid)
    volumes.set_volume(node, volume)
    assert node.GetParentTransformNode() is None
    assert volumes.to_volume(node).grid.matches(volume.grid)


def test_warping_equals_simpleitk(grid, kit):
    moving, field = kit.image_on(kit.GRIDS["oblique"]), kit.field_over(grid)
    reference = kit.image_on(grid).to_image()
    expected = sitk.Resample(
        sitk.Cast(moving.to_image(), sitk.sitkFloat32),  # whole numbers would be cut off
        reference,
        field.to_transform(),
        sitk.sitkLinear,
        float(moving.array.min()),
    )
    warped = field.warp(moving, grid)
    np.testing.assert_allclose(warped.array, sitk.GetArrayFromImage(expected), atol=1e-3)
    assert warped.grid.matches(grid)


class TestMasks:
    BOX = (slice(4, 12), slice(6, 15), slice(3, 20))

    @pytest.fixture
    def segmentation(self, scene, grid, kit, add_volume, add_linear, askew):
        """Two segments drawn on an image under a transform; the first one is the box."""
        image = add_volume(kit.image_on(grid), "image", add_linear(askew))
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "lungs")
        node.CreateDefaultDisplayNodes()
        node.SetAndObserveTransformNodeID(image.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(image)
        for name, box in (("box", self.BOX), ("dot", (slice(1, 3),) * 3)):
            array = np.zeros(grid.shape, np.uint8)
            array[box] = 1
            labels = slicer.vtkOrientedImageData()
            labels.SetDimensions(grid.size)
            labels.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
            vtk.util.numpy_support.vtk_to_numpy(labels.GetPointData().GetScalars())[:] = array.flat
            matrix = vtk.vtkMatrix4x4()
            image.GetIJKToRASMatrix(matrix)
            labels.SetGeometryFromImageToWorldMatrix(matrix)
            node.AddSegmentFromBinaryLabelmapRepresentation(labels, name)
        return node, volumes.to_volume(image)

    def drawn(self, mask, grid):
        return mask.sample(grid.points(), order=0, outside=0.0) > 0

    def surfaces_of(self, node):
        """The node's segmentation, with nothing but surfaces from now on."""
        assert node.CreateClosedSurfaceRepresentation()
        segments = node.GetSegmentation()
        segments.SetSourceRepresentationName("Closed surface")
        segments.RemoveRepresentation("Binary labelmap")
        return segments

    @pytest.mark.parametrize("by", ["id", "name", "all"])
    def test_a_segment_where_it_was_drawn(self, segmentation, by):
        node, image = segmentation
        identifier = node.GetSegmentation().GetSegmentIdBySegmentName("box")
        mask = {"id": (node, identifier), "name": (node, "box"), "all": node}[by]
        drawn = self.drawn(volumes.mask_to_volume(mask), image.grid)
        expected = np.zeros(image.grid.shape, bool)
        expected[self.BOX] = True
        if by == "all":
            expected[1:3, 1:3, 1:3] = True
        np.testing.assert_array_equal(drawn, expected)

    def test_a_surface_only_segmentation_is_left_as_it_is(self, segmentation):
        node, image = segmentation
        before = self.drawn(volumes.mask_to_volume((node, "box")), image.grid)
        segments = self.surfaces_of(node)
        after = self.drawn(volumes.mask_to_volume((node, "box")), image.grid)
        assert not segments.ContainsRepresentation("Binary labelmap")
        overlap = 2 * (before & after).sum() / (before.sum() + after.sum())
        assert overlap > 0.9

    def test_of_surfaces_only_the_wanted_segment_is_converted(self, segmentation, monkeypatch):
        """An RTSTRUCT has dozens, and each takes its time."""
        node, image = segmentation
        before = self.drawn(volumes.mask_to_volume((node, "box")), image.grid)
        segments = self.surfaces_of(node)
        segments.AddSegment(slicer.vtkSegment(), "nothing")
        made, cls = [], slicer.vtkMRMLSegmentationNode
        monkeypatch.setattr(
            slicer, "vtkMRMLSegmentationNode", lambda: made.append(cls()) or made[-1]
        )
        after = self.drawn(volumes.mask_to_volume((node, "box")), image.grid)
        assert 2 * (before & after).sum() / (before.sum() + after.sum()) > 0.9
        assert [one.GetSegmentation().GetNumberOfSegments() for one in made] == [1]
        with pytest.raises(volumes.EmptyMask):
            volumes.mask_to_volume((node, "nothing"))

    def test_of_surfaces_only_a_sentence_tells_that_it_takes_its_time(self, segmentation, scene):
        node, _ = segmentation
        empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
        labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
        assert volumes.standstill(node, None, empty, labels) == ""
        self.surfaces_of(node)
        said = volumes.standstill(None, node)
        assert said.startswith("'lungs' has no label map") and "binary labelmap" in said
        assert Settings(fixedMask=(node, "box")).remark() == said
        assert node.CreateBinaryLabelmapRepresentation()
        assert volumes.standstill(node) == ""

    def test_segments_drawn_on_other_voxels_count_where_they_are(self, segmentation, scene):
        """Of one segmentation, as where structures of two scans were put together."""
        node, _ = segmentation
        fine = Grid((40, 40, 40), (1.0, 1.1, 1.2), (-20.0, -22.0, -24.0), np.diag([-1, -1, 1]))
        labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "fine")
        ball = np.linalg.norm(fine.points() - fine.to_world((20, 20, 20)), axis=-1) < 12
        volumes.set_volume(labels, Volume(ball.astype(np.uint8), fine))
        before = volumes.mask_to_volume(node)
        slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
        last = node.GetSegmentation().GetSegmentIDs()[-1]
        alone = volumes.mask_to_volume((node, last))
        assert np.prod(alone.grid.spacing) < np.prod(before.grid.spacing)
        both = volumes.mask_to_volume(node)
        points = both.grid.points()
        expected = [mask.sample(points, order=0, outside=0.0) > 0 for mask in (before, alone)]
        np.testing.assert_array_equal(both.array, expected[0] | expected[1])
        assert both.array.sum() > max(mask.sum() for mask in expected)
        assert alone.array.sum() == ball.sum()

    def test_segments_are_read_without_the_node(self, segmentation):
        """Of a hundred segments that takes long, and a thread may not look at nodes."""
        node, image = segmentation
        segments = node.GetSegmentation()
        identifiers = segments.GetSegmentIDs()
        read = volumes.segments_reader(node, identifiers)
        segments.RemoveAllSegments()
        found = read()
        expected = np.zeros(image.grid.shape, bool)
        expected[self.BOX] = True
        np.testing.assert_array_equal(self.drawn(found[identifiers[0]], image.grid), expected)
        assert list(found) == list(identifiers) and found[identifiers[1]].array.sum() == 8

    def test_a_label_map_counts_what_is_not_zero(self, scene, grid, kit):
        node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
        labels = np.zeros(grid.shape, np.int16)
        labels[self.BOX] = 3
        volumes.set_volume(node, Volume(labels, grid))
        mask = volumes.mask_to_volume(node)
        assert mask.array.dtype == bool and mask.grid.matches(grid)
        np.testing.assert_array_equal(mask.array, labels > 0)

    def test_wrong_masks_are_refused(self, scene, segmentation, add_points):
        node, _ = segmentation
        with pytest.raises(InputError, match="has no segment 'heart'"):
            volumes.mask_to_volume((node, "heart"))
        with pytest.raises(InputError, match="cannot be a mask"):
            volumes.mask_to_volume(add_points(np.zeros((1, 3))))
        empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
        with pytest.raises(InputError, match="no segments"):
            volumes.mask_to_volume(empty)
        empty.GetSegmentation().AddEmptySegment("a", "a")
        with pytest.raises(InputError, match="is empty"):
            volumes.mask_to_volume(empty)
