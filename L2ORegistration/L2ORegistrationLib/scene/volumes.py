"""Volume and segmentation nodes as Volumes in world LPS, and Volumes as nodes.

Parent transforms count: an image is registered where it is seen. Linear ones are multiplied into
the grid; a non-linear parent or a sheared grid raises InputError with the way out of it.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ..core.errors import InputError
from ..core.geometry import Grid, Volume
from . import nodes, transforms


class EmptyMask(InputError):
    """A mask in which nothing is drawn."""


def grid_of(node, below=None) -> Grid:
    """The grid of a scalar volume node in the world; cheap, the voxels are not read.

    below: a transform node among its parents that is read as the identity.
    Raises InputError for an empty or multi-component volume, a non-linear parent or shear.
    """
    name = f"'{node.GetName()}'"
    image = node.GetImageData()
    if image is None or not image.GetNumberOfPoints():
        raise InputError(f"{name} has no image: load it again or choose another volume.")
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            f"{name} has {image.GetNumberOfScalarComponents()} components per voxel: choose a "
            "scalar volume, or convert it with Vector to Scalar Volume."
        )
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    world = transforms.world_matrix(node, below) @ transforms.matrix_of(matrix)
    return transforms.grid_of_matrix(world, image.GetDimensions(), name)


def to_volume(node, below=None) -> Volume:
    """A copy of the node's voxels on its grid in the world; of a 4D sequence the shown frame.

    Raises InputError as grid_of() does.
    """
    grid = grid_of(node, below)
    return Volume(slicer.util.arrayFromVolume(node).copy(), grid)


def mask_node_and_segment(mask) -> tuple:
    """(node, segment ID or None) of a mask: a node, or a pair (segmentation node, segment).

    Raises InputError when the segment does not exist or the node cannot be a mask.
    """
    node, segment = mask if isinstance(mask, tuple | list) else (mask, None)
    if node.IsA("vtkMRMLScalarVolumeNode"):
        return node, None
    if not node.IsA("vtkMRMLSegmentationNode"):
        raise InputError(
            f"'{node.GetName()}' cannot be a mask: choose a segmentation or a label map volume."
        )
    segmentation = node.GetSegmentation()
    if not segment:
        return node, None
    if segmentation.GetSegment(segment):
        return node, segment
    by_name = segmentation.GetSegmentIdBySegmentName(segment)
    if not by_name:
        raise InputError(f"'{node.GetName()}' has no segment '{segment}': choose another one.")
    return node, by_name


def mask_to_volume(mask, below=None) -> Volume:
    """The mask as a bool Volume on a grid of its own (that of the labels), in the world.

    mask: a volume node (non-zero is inside), a segmentation node (all its segments together), or a
    pair (segmentation node, segment ID or name). The node is left as it is. Raises InputError.
    """
    node, segment = mask_node_and_segment(mask)
    if segment is None and node.IsA("vtkMRMLScalarVolumeNode"):
        volume = Volume(slicer.util.arrayFromVolume(node) != 0, grid_of(node, below))
    else:
        volume = _segments(node, segment, below)
    if not volume.array.any():
        raise _empty(node)
    return volume


def set_volume(node, volume: Volume, like=None, window: tuple | None = None) -> None:
    """Put a Volume into a volume node, with a display node where it has none.

    like: a volume node with the same grid in the world, whose own geometry and parent transform
    are taken over, so that the two stay congruent; None: world geometry, no parent.
    window: (width, level) to show it with; None: as it was, or as Slicer finds from the voxels.
    """
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    _prepare_display(node, window)
    slicer.util.updateVolumeFromArray(node, array)
    if like is None:
        matrix = transforms.matrix_to_vtk(transforms.ijk_to_ras(volume.grid))
        node.SetIJKToRASMatrix(matrix)
        node.SetAndObserveTransformNodeID(None)
    else:
        node.CopyOrientation(like)
        node.SetAndObserveTransformNodeID(like.GetTransformNodeID())


def window_of(node) -> tuple[float, float] | None:
    """(width, level) that a volume is shown with, None where it has no such display."""
    display = node.GetDisplayNode()
    if display is None or not display.IsA("vtkMRMLScalarVolumeDisplayNode"):
        return None
    return display.GetWindow(), display.GetLevel()


def shared_copy(node, name: str, below=None):
    """A new volume node that shows the same voxels, not copied, where they are in the world.

    It does not follow later changes of the node and is not saved with the scene.
    """
    grid = grid_of(node, below)
    copy = nodes.unique(node.GetScene(), "vtkMRMLScalarVolumeNode", name)
    copy.SetSaveWithScene(False)
    _prepare_display(copy, window_of(node))
    copy.GetDisplayNode().SetSaveWithScene(False)
    image = vtk.vtkImageData()
    image.ShallowCopy(node.GetImageData())
    copy.SetAndObserveImageData(image)
    copy.SetIJKToRASMatrix(transforms.matrix_to_vtk(transforms.ijk_to_ras(grid)))
    return copy


def _prepare_display(node, window: tuple | None) -> None:
    # Before the voxels come: finding a window from 200^3 of them takes a tenth of a second.
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    if window is not None and display.IsA("vtkMRMLScalarVolumeDisplayNode"):
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(*window)


def _segments(node, segment: str | None, below) -> Volume:
    """One segment (None: all together) as a bool Volume that holds it with a rim of zeros."""
    segmentation = node.GetSegmentation()
    if not segmentation.GetNumberOfSegments():
        raise InputError(f"The segmentation '{node.GetName()}' has no segments: add one first.")
    wanted = [segment] if segment else segmentation.GetSegmentIDs()
    labelmap = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    source = node if segmentation.ContainsRepresentation(labelmap) else _converted(node, wanted)
    ids = vtk.vtkStringArray()
    for one in wanted:
        ids.InsertNextValue(one)
    merged = slicer.vtkOrientedImageData()
    source.GenerateMergedLabelmapForAllSegments(
        merged,
        slicer.vtkSegmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS_PADDED,  # zero at its rim
        None,
        ids,
    )
    matrix = vtk.vtkMatrix4x4()
    merged.GetImageToWorldMatrix(matrix)
    matrix = transforms.world_matrix(node, below) @ transforms.matrix_of(matrix)
    extent = merged.GetExtent()
    matrix[:3, 3] += matrix[:3, :3] @ extent[::2]  # the first stored voxel need not be index 0
    size = merged.GetDimensions()
    if min(size) < 1:
        raise _empty(node)
    array = numpy_support.vtk_to_numpy(merged.GetPointData().GetScalars()).reshape(size[::-1]) != 0
    return Volume(array, transforms.grid_of_matrix(matrix, size, f"'{node.GetName()}'"))


def _converted(node, wanted):
    """A node out of the scene with these segments as label maps; the user's stays as it is."""
    segmentation, copy = node.GetSegmentation(), slicer.vtkMRMLSegmentationNode()
    copied = copy.GetSegmentation()
    copied.CopyConversionParameters(segmentation)
    for one in wanted:
        copied.CopySegmentFromSegmentation(segmentation, one)
    labelmap = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if not copied.CreateRepresentation(labelmap):
        raise InputError(
            f"'{node.GetName()}' cannot be turned into a label map: create the binary "
            "labelmap representation in the Segmentations module."
        )
    return copy


def _empty(node) -> EmptyMask:
    return EmptyMask(f"The mask '{node.GetName()}' is empty: draw it or leave it automatic.")
