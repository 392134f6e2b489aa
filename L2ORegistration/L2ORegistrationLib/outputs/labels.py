"""Label maps and Slicer's .seg.nrrd through a transform: every label smooth, every segment kept."""

from __future__ import annotations

import itertools
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
_MOST_SPREAD = 100  # images that the labels' boxes fill: organs' a few, grey values' thousands
_LARGEST = 2**24  # of a label: what is counted to it takes memory
_AT_ONCE = 200_000  # voxels at edges, for which eight corners are looked up
_EXTENT = re.compile(r"Segment(\d+)_Extent$")


def warp_labels(labels: sitk.Image, motion: DisplacementField, target: Grid) -> sitk.Image:
    """Labels on the target grid; motion: target point -> source point, LPS mm.

    Each label is interpolated linearly by itself and the strongest one wins at a voxel, so that
    borders are smooth and no value between two labels appears. What bulges loses more than it wins
    there, a nodule of few voxels half of them or all: each connected part of a label gets as many
    voxels as its shares add up to, those first that it lost by least. Several components (layers)
    are treated one by one. 0 beyond the source. Raises InputError for labels that are all zero or
    look like an image, and when none of them reaches the target.
    """
    if not sitk.GetArrayViewFromImage(labels).any():
        raise InputError("The labels are empty: there is no structure to move.")
    layers = [labels]
    if labels.GetNumberOfComponentsPerPixel() > 1:
        count = labels.GetNumberOfComponentsPerPixel()
        layers = [sitk.VectorIndexSelectionCast(labels, k) for k in range(count)]
    motion = extended(motion, target)
    moved = [_moved(layer, motion, target) for layer in layers]
    if not any(sitk.GetArrayViewFromImage(layer).any() for layer in moved):
        raise InputError(
            "None of the labels lies in the reference image after the transform: "
            "do transform, labels and reference belong together?"
        )
    return moved[0] if len(moved) == 1 else sitk.Compose(moved)


def _moved(layer: sitk.Image, motion: DisplacementField, target: Grid) -> sitk.Image:
    """One layer on the target grid, as `warp_labels` says; motion reaches over the whole of it."""
    array, grid = sitk.GetArrayViewFromImage(layer), Grid.of_image(layer)
    parts, label = _parts(array)
    coded = Volume(2 * parts + _at_edges(parts), grid).to_image()
    where = target.reference_image(), motion.to_transform()
    coded = sitk.GetArrayFromImage(sitk.Resample(coded, *where, sitk.sitkNearestNeighbor, 0))
    part, edge = coded.ravel() >> 1, np.flatnonzero(coded & 1)
    seen = np.bincount(part, minlength=len(label))
    due = seen - np.bincount(part[edge], minlength=len(label)).astype(float)
    lost = []
    for some in np.array_split(edge, len(edge) // _AT_ONCE + 1):
        index = np.stack(np.unravel_index(some, target.shape)[::-1], axis=-1)
        there = grid.to_index(motion.transform_points(target.to_world(index)))
        found, share = _shares(parts, there)
        due += np.bincount(found.ravel(), share.ravel(), minlength=len(label))
        best = share.argmax(axis=0), np.arange(len(some))
        part[some] = found[best]
        corner, n = np.nonzero((share > 0) & (found != found[best]))
        lost.append((some[n], found[corner, n], (share[best] - share)[corner, n]))
    due = np.maximum(np.rint(due), seen > 0).astype(int)
    _settle(part, due, *map(np.concatenate, zip(*lost, strict=True)))
    image = sitk.GetImageFromArray(label[part].reshape(target.shape))
    image.CopyInformation(target.reference_image())
    return image


def _parts(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected parts (z, y, x) of labels, numbered from 1; the label of each number.

    Raises InputError for what is spread over the image as grey values are.
    """
    from scipy import ndimage

    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > _LARGEST:
        raise InputError(f"There are labels from {low} to {high}: is it an image, not a label map?")
    boxes = {k: box for k, box in enumerate(ndimage.find_objects(labels), start=1) if box}
    if sum(labels[box].size for box in boxes.values()) > _MOST_SPREAD * labels.size:
        raise InputError(f"There are {len(boxes)} labels: is it an image, not a label map?")
    parts, label = np.zeros(labels.shape, np.int32), [0]
    for value, box in boxes.items():
        mask = labels[box] == value
        numbered, count = ndimage.label(mask, np.ones((3, 3, 3)))
        parts[box][mask] = numbered[mask] + len(label) - 1
        label += [value] * count
    return parts, np.array(label, labels.dtype)


def _at_edges(parts: np.ndarray) -> np.ndarray:
    """Which voxels have a corner of eight around or beside them that are not of one part."""
    from scipy import ndimage

    edges = np.zeros(parts.shape, bool)
    for axis in range(3):
        along, edge = np.moveaxis(parts, axis, 0), np.moveaxis(edges, axis, 0)
        differ = along[1:] != along[:-1]
        edge[1:] |= differ
        edge[:-1] |= differ
    return ndimage.maximum_filter(edges, 3)


def _shares(parts: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts at the corners around continuous indices (N, 3), x, y, z, and their linear weight.

    Both (8, N); of a part that is there several times the first has the weight of all.
    """
    last = np.array(parts.shape[::-1]) - 1
    index = np.clip(index, 0, last)
    low = np.minimum(np.floor(index), np.maximum(last - 1, 0)).astype(int)
    corners = list(itertools.product((0, 1), repeat=3))
    found = np.stack([parts[tuple(np.minimum(low + c, last).T[::-1])] for c in corners])
    share = np.stack([np.abs(1 - np.array(c) - (index - low)).prod(axis=1) for c in corners])
    for one, other in itertools.combinations(range(8), 2):
        same = found[one] == found[other]
        share[one] += share[other] * same
        share[other] *= ~same
    return found, share


def _settle(
    part: np.ndarray, due: np.ndarray, voxel: np.ndarray, whose: np.ndarray, behind: np.ndarray
) -> None:
    """Give parts that have fewer voxels than are due to them those that they lost by least.

    part: of each voxel, changed in place; due: voxels of each part; voxel, whose, behind: of each
    loss the voxel, the part and by how much. The smallest part comes first, and keeps what it has.
    """
    order = np.lexsort((behind, whose))
    voxel, begins = voxel[order], np.searchsorted(whose[order], np.arange(len(due) + 1))
    has, served = np.bincount(part, minlength=len(due)), np.zeros(len(due), bool)
    for one in np.argsort(due, kind="stable"):
        served[one] = True
        lost = voxel[begins[one] : begins[one + 1]]
        gained = lost[~served[part[lost]]][: max(0, due[one] - has[one])]
        np.subtract.at(has, part[gained], 1)
        part[gained] = one
        has[one] += len(gained)


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
