"""Volume and segmentation nodes as Volumes in world LPS, and Volumes as nodes.

Parent transforms count: an image is registered where it is seen. Linear ones are multiplied into
the grid; a non-linear parent or a sheared grid raises InputError with the way out of it.
"""

from __future__ import annotations

from collections.abc import Callable

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
    return mask_reader(mask, below)()


def mask_reader(mask, below=None) -> Callable[[], Volume]:
    """mask_to_volume() as a function without a node in it, for a thread."""
    node, segment = mask_node_and_segment(mask)
    empty = EmptyMask(f"The mask '{node.GetName()}' is empty: draw it or leave it automatic.")
    if node.IsA("vtkMRMLScalarVolumeNode"):
        labels = to_volume(node, below)
    else:
        labels = _layers(node, [segment] if segment else None, below)

    def read() -> Volume:
        if isinstance(labels, Volume):
            mask = Volume(labels.array != 0, labels.grid)
        else:
            mask = _together(labels)
        if mask is None or not mask.array.any():
            raise empty
        return mask

    return read


def segments_reader(node, wanted: list[str], below=None) -> Callable[[], dict[str, Volume]]:
    """A function without a node in it: the masks of these segments, without empty ones, by ID."""
    layers = _layers(node, wanted, below)

    def read() -> dict[str, Volume]:
        from scipy import ndimage

        found = {}
        for labels, segments in layers:
            boxes = ndimage.find_objects(labels.array)
            for value, segment in segments.items():
                if value <= len(boxes) and boxes[value - 1] is not None:
                    part = labels.part(*boxes[value - 1])
                    found[segment] = Volume(part.array == value, part.grid).padded()
        return found

    return read


def standstill(*segmentations) -> str:
    """A sentence where one of these nodes, or None, has surfaces only, else "".

    They have to be converted before they are read. Slicer's converter keeps Python's lock until it
    is done, tens of seconds for a pair of lungs: a thread would not keep the window alive.
    """
    for node in segmentations:
        if node is not None and node.IsA("vtkMRMLSegmentationNode") and _to_convert(node):
            return (
                f"'{node.GetName()}' has no label map, and Slicer stands still while one is made "
                "of its surfaces: create its binary labelmap in the Segmentations module to wait "
                "only once."
            )
    return ""


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


def _layers(node, wanted: list[str] | None, below) -> list[tuple[Volume, dict[int, str]]]:
    """A copy of each label map in which segments (None: all) are drawn, and their IDs by label."""
    segmentation = node.GetSegmentation()
    if not segmentation.GetNumberOfSegments():
        raise InputError(f"The segmentation '{node.GetName()}' has no segments: add one first.")
    wanted = segmentation.GetSegmentIDs() if wanted is None else wanted
    if _to_convert(node):
        segmentation = _converted(node, wanted).GetSegmentation()
    drawn, name = {}, _label_map()
    for one in wanted:
        segment = segmentation.GetSegment(one)
        image = segment.GetRepresentation(name)  # that of others as well, where none overlap
        if image is not None and image.GetNumberOfPoints():
            drawn.setdefault(image, {})[segment.GetLabelValue()] = one
    to_world = transforms.world_matrix(node, below)
    return [(_labels(image, to_world, node), segments) for image, segments in drawn.items()]


def _labels(image, to_world: np.ndarray, node) -> Volume:
    """A copy of an oriented image of a segmentation node."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    matrix = to_world @ transforms.matrix_of(matrix)
    matrix[:3, 3] += matrix[:3, :3] @ image.GetExtent()[::2]  # the first voxel need not be index 0
    size = image.GetDimensions()
    array = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(size[::-1])
    return Volume(array.copy(), transforms.grid_of_matrix(matrix, size, f"'{node.GetName()}'"))


def _together(layers: list[tuple[Volume, dict[int, str]]]) -> Volume | None:
    """All segments of _layers() as one mask with a rim of zeros; None where nothing is drawn."""
    cut = []
    for labels, segments in layers:
        marked = Volume(np.isin(labels.array, list(segments), kind="table"), labels.grid)
        if marked.array.any():
            cut.append(marked.part(*marked.box()))
    if not cut:
        return None
    finest = min(cut, key=lambda mask: np.prod(mask.grid.spacing))
    whole = finest.padded(np.concatenate([mask.grid.corners() for mask in cut]))
    for mask in cut:
        if mask is not finest:
            whole.array[mask.on_grid(whole.grid).array] = True
    return whole


def _label_map() -> str:
    """Slicer's name of the representation that is read."""
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def _to_convert(node) -> bool:
    """Whether a segmentation node has something drawn, but not as a label map."""
    segmentation = node.GetSegmentation()
    drawn = segmentation.GetNumberOfSegments() > 0
    return drawn and not segmentation.ContainsRepresentation(_label_map())


def _converted(node, wanted):
    """A node out of the scene with these segments as label maps; the user's stays as it is."""
    segmentation, copy = node.GetSegmentation(), slicer.vtkMRMLSegmentationNode()
    copied = copy.GetSegmentation()
    copied.CopyConversionParameters(segmentation)
    for one in wanted:
        copied.CopySegmentFromSegmentation(segmentation, one)
    if not copied.CreateRepresentation(_label_map()):
        raise InputError(
            f"'{node.GetName()}' cannot be turned into a label map: create the binary "
            "labelmap representation in the Segmentations module."
        )
    return copy
