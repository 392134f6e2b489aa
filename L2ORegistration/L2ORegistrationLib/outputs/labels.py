"""Label maps and Slicer's .seg.nrrd through a transform: every label smooth, every segment kept."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.errors import InputError
from ..core.files import read_image, write_image
from ..core.geometry import DisplacementField, Grid, Volume
from ..core.paths import atomic
from .fields import extended

_MOST_REGIONS = 100
_EXTENT = re.compile(r"Segment(\d+)_Extent$")


def warp_labels(labels: sitk.Image, motion: DisplacementField, target: Grid) -> sitk.Image:
    """Labels on the target grid; motion: target point -> source point, LPS mm.

    Each label is interpolated linearly by itself and the strongest one wins at a voxel, so that
    borders are smooth and no value between two labels appears; one too small to win anywhere keeps
    the voxels nearest to it. Several components (layers) are treated one by one. 0 beyond the
    source. Raises InputError for labels that are all zero, and when none of them reaches the
    target.
    """
    if not sitk.GetArrayViewFromImage(labels).any():
        raise InputError("The labels are empty: there is no structure to move.")
    layers = [labels]
    if labels.GetNumberOfComponentsPerPixel() > 1:
        count = labels.GetNumberOfComponentsPerPixel()
        layers = [sitk.VectorIndexSelectionCast(labels, k) for k in range(count)]
    where = target.reference_image(), extended(motion, target).to_transform()
    moved = [_moved(layer, *where) for layer in layers]
    if not any(sitk.GetArrayViewFromImage(layer).any() for layer in moved):
        raise InputError(
            "None of the labels lies in the reference image after the transform: "
            "do transform, labels and reference belong together?"
        )
    return moved[0] if len(moved) == 1 else sitk.Compose(moved)


def _moved(layer: sitk.Image, reference: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """One layer on the grid of the reference, as `warp_labels` says."""
    linear, nearest = (
        sitk.Resample(layer, reference, transform, kind, 0, layer.GetPixelID())
        for kind in (sitk.sitkLabelLinear, sitk.sitkNearestNeighbor)
    )
    values, near = sitk.GetArrayFromImage(linear), sitk.GetArrayViewFromImage(nearest)
    lost = np.isin(near, [value for value in np.setdiff1d(near, values) if value])
    if not lost.any():
        return linear
    values[lost] = near[lost]
    kept = sitk.GetImageFromArray(values)
    kept.CopyInformation(linear)
    return kept


def warp_label_file(
    source: Path, motion: DisplacementField, target: Grid, output: Path
) -> dict[str, tuple[float, float]]:
    """Warp a label map or .seg.nrrd into another file, all or nothing.

    A .seg.nrrd keeps names, colours, order and tags of its segments. Returns ml of each segment
    or label before and afterwards. Raises InputError for files that are no labels.
    """
    labels = _read(source)
    if "float" in labels.GetPixelIDTypeAsString():
        labels = _whole(labels, sitk.GetArrayViewFromImage(labels))
    moved = warp_labels(labels, motion, target)
    about = {key: labels.GetMetaData(key) for key in labels.GetMetaDataKeys()}
    whole = " ".join(f"0 {n - 1}" for n in target.size)
    for key, value in about.items():
        if key.startswith(("ITK_", "NRRD_")):
            continue  # the writer's own
        if _EXTENT.match(key):
            value = whole
        elif key == "Segmentation_ReferenceImageExtentOffset":
            value = "0 0 0"
        elif key == "Segmentation_ConversionParameters":
            continue  # it names the geometry of the old image
        if key.startswith("Segment"):
            moved.SetMetaData(key, value)
    with atomic(output) as temporary:
        write_image(moved, temporary, output)
    before, after = _volumes(labels, about), _volumes(moved, about)
    return {name: (ml, after.get(name, 0.0)) for name, ml in before.items()}


def read_regions(path: str | Path) -> dict[str, Volume]:
    """The mask of each label of a label map, by its name in a .seg.nrrd, else "label 1", ...

    Raises InputError for a file that is no label map, and for one without a label.
    """
    labels = _read(path)
    about = {key: labels.GetMetaData(key) for key in labels.GetMetaDataKeys()}
    layers, grid = _layers(labels), Grid.of_image(labels)
    found = {name: mask for name, mask in _segments(layers, about).items() if mask.any()}
    if not found:
        values = [v for v in np.unique(layers) if v > 0]
        if len(values) > _MOST_REGIONS:
            raise InputError(f"{path} has {len(values)} labels: is it an image, not a label map?")
        found = {f"label {int(v)}": (layers == v).any(axis=-1) for v in values}
    if not found:
        raise InputError(f"{path} has no label: draw the regions first.")
    return {name: Volume(mask, grid) for name, mask in found.items()}


def _read(path: str | Path) -> sitk.Image:
    """The labels in a file. Raises InputError for anything else."""
    labels = read_image(path, "labels", "save it as .seg.nrrd")
    if labels.GetDimension() != 3:
        raise InputError(f"{path} has {labels.GetDimension()} dimensions: give 3-D labels.")
    array = sitk.GetArrayViewFromImage(labels)
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise InputError(f"{path} holds values between whole numbers: is it a label map?")
    return labels


def _layers(labels: sitk.Image) -> np.ndarray:
    """(z, y, x, layers): of a plain label map one."""
    array = sitk.GetArrayViewFromImage(labels)
    return array if array.ndim == 4 else array[..., None]


def _segments(layers: np.ndarray, about: dict[str, str]) -> dict[str, np.ndarray]:
    """The mask (z, y, x) of each segment by its name; none of a plain label map."""
    return {
        name: layers[..., int(about.get(f"Segment{k}_Layer", 0))]
        == int(about[f"Segment{k}_LabelValue"])
        for k, name in _names(about).items()
    }


def _whole(labels: sitk.Image, array: np.ndarray) -> sitk.Image:
    """The same in 16-bit numbers, or 32-bit ones where they need it."""
    fits = np.abs(array).max(initial=0) < 2**15
    several = labels.GetNumberOfComponentsPerPixel() > 1
    kinds = {
        (True, False): sitk.sitkInt16,
        (False, False): sitk.sitkInt32,
        (True, True): sitk.sitkVectorInt16,
        (False, True): sitk.sitkVectorInt32,
    }
    return sitk.Cast(labels, kinds[bool(fits), several])


def _names(about: dict[str, str]) -> dict[int, str]:
    """The segments' names by their numbers; of several with one name the later ones with a number.

    Empty for a plain label map.
    """
    found: dict[int, str] = {}
    for k in range(len(about)):
        if f"Segment{k}_LabelValue" in about:
            name = about.get(f"Segment{k}_Name", f"segment {k + 1}")
            same = sum(one == name or one.startswith(f"{name} (") for one in found.values())
            found[k] = f"{name} ({same + 1})" if same else name
    return found


def _volumes(labels: sitk.Image, about: dict[str, str]) -> dict[str, float]:
    """ml of each segment by its name, or of each label by its number."""
    layers, ml = _layers(labels), float(np.prod(labels.GetSpacing())) / 1000
    if segments := _segments(layers, about):
        return {name: float(mask.sum()) * ml for name, mask in segments.items()}
    values, counts = np.unique(layers, return_counts=True)
    return {str(v): float(n) * ml for v, n in zip(values, counts, strict=True) if v}
