"""Find the lungs in a CT by what they are: large, dark, but not empty, and wrapped in tissue.

The work is done on blocks of voxels of about 2.5 mm, held in the order of the patient's axes, so
that it costs the same for every scan and does not depend on how the file stores it. Its limits (HU,
mm) were chosen on drawn chests: the tests of this file have what they must tell apart.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ...core.blocks import Blocks, box_of, distance
from ...core.errors import InputError
from ...core.geometry import Volume
from .body import SMALLEST, find_lungs, in_tissue

_BLOCK = 2.5  # mm
_AROUND = 60.0  # mm around the lungs: main bronchi end within them, the trachea has begun
_NO_LUNG = "No lung was found in {}: give a chest CT in Hounsfield units, or a lung mask."
_AXIAL = np.zeros((3, 3, 3), bool)  # connects the voxels of one axial slice only
_AXIAL[1] = ndimage.generate_binary_structure(2, 1)


def lung_mask(volume: Volume, name: str = "the image") -> Volume:
    """Both lungs of a CT, their vessels included, without trachea and main bronchi.

    volume: array (z, y, x) in HU, or in HU + 1024 as some files store it, on any grid. Returns a
    bool array on the same grid. Raises InputError, which calls the image by its name, where no lung
    is found; whether what was found can be the lungs of a chest, `plausibility.implausible` tells.
    """
    blocks = Blocks.of_grid(volume.grid, _BLOCK)
    spacing = blocks.spacing
    hu, padding = blocks.hounsfield(volume.array)
    lungs, realm = find_lungs(hu, padding, spacing)
    if not lungs.any():
        raise InputError(_NO_LUNG.format(name))
    whole = np.zeros_like(lungs)
    box = box_of(lungs, spacing, _AROUND)
    whole[box] = _whole_lungs(hu[box], padding[box], lungs[box], realm[box], spacing)
    if whole.sum() * np.prod(spacing) < SMALLEST:  # all of it was trachea
        raise InputError(_NO_LUNG.format(name))
    return Volume(blocks.expand(whole), volume.grid)


def _whole_lungs(
    hu: np.ndarray,
    padding: np.ndarray,
    lungs: np.ndarray,
    realm: np.ndarray,
    spacing: tuple[float, ...],
) -> np.ndarray:
    """From the lungs' cores and their realm, what `find_lungs` gives, the lungs to the pleura."""
    # Half of the way from lung to tissue: there the surface stays put while breathing changes the
    # density of the lung.
    threshold = np.clip(np.median(hu[lungs]) / 2, -500, -300)
    dark = realm & (hu < threshold)
    airways = _airways(hu, dark, lungs, padding, spacing)
    lungs = _without_debris(dark & ~airways)
    whole = np.zeros_like(lungs)
    for lung in _split(lungs, spacing):
        whole |= _filled(lung, hu, spacing)
    return whole & ~airways & ~padding


def split_lungs(mask: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The right and the left lung of a mask of both, as two bool arrays (z, y, x) on its grid.

    Lungs that touch are cut at their neck. Where there is one lung only, the other array is empty;
    the hollow on the side of the heart tells which one it is.
    """
    blocks = Blocks.of_grid(mask.grid, 1.5 * _BLOCK)
    array = np.asarray(mask.array, bool)
    right, left = _split(blocks.any(array), blocks.spacing)
    if not right.any() or not left.any():
        empty = np.zeros_like(array)
        return (empty, array.copy()) if left.any() else (array.copy(), empty)
    # Voxels between the blocks' samples go to the lung that is nearer.
    is_right = blocks.expand(distance(right, blocks.spacing) < distance(left, blocks.spacing))
    return array & is_right, array & ~is_right


def _airways(
    hu: np.ndarray,
    dark: np.ndarray,
    lungs: np.ndarray,
    padding: np.ndarray,
    spacing: tuple[float, ...],
) -> np.ndarray:
    """Trachea and main bronchi with their blurred edge, among the dark parts."""
    trachea = _trachea(hu, lungs, padding, spacing)
    if not trachea.any():
        return trachea
    # Main bronchi end within 60 mm of the trachea; nothing further away may be cut out.
    box = box_of(trachea, spacing, 60)
    trachea, dark = trachea[box], dark[box]
    airways = trachea
    # The loosest threshold at which the tree has not yet leaked into the lung.
    for level in range(-1000, -850, 10):
        tree = ndimage.binary_propagation(trachea, mask=trachea | (dark & (hu[box] < level)))
        if (tree.sum() - trachea.sum()) * np.prod(spacing) > 40e3:
            break
        airways = tree
    whole = np.zeros_like(lungs)
    whole[box] = ndimage.binary_dilation(airways, mask=dark)
    return whole


def _trachea(
    hu: np.ndarray, lungs: np.ndarray, padding: np.ndarray, spacing: tuple[float, ...]
) -> np.ndarray:
    """The longest stack of small discs of air, one to a slice, among the lungs' upper halves."""
    labels, count = ndimage.label(hu < -700, _AXIAL)  # far below the HU of a thin, blurred wall
    area = np.bincount(labels.ravel(), minlength=count + 1) * spacing[1] * spacing[2]
    darkest = ndimage.minimum(hu, labels, np.arange(count + 1))
    is_disc = (area > 40) & (area < 700) & (darkest < -900)
    is_disc[0] = False
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if is_disc[label]:
            is_disc[label] = max(_extent(box, spacing)[1:]) < 40
    stacks, _ = ndimage.label(is_disc[labels])
    (around,) = ndimage.find_objects(lungs.view(np.uint8))
    middle = np.median(np.nonzero(lungs)[0])
    longest, trachea = 25.0, np.zeros_like(lungs)
    for label, box in enumerate(ndimage.find_objects(stacks), start=1):
        length = _extent(box, spacing)[0]
        among_lungs = around[1].start <= box[1].start and box[1].stop <= around[1].stop
        if length > longest and box[0].stop > middle and among_lungs:
            stack = stacks == label
            if in_tissue(stack, hu, padding, spacing):
                longest, trachea = length, stack
    return trachea


def _extent(box: tuple[slice, ...], spacing: tuple[float, ...]) -> list[float]:
    """The lengths of a box in mm."""
    return [(s.stop - s.start) * mm for s, mm in zip(box, spacing, strict=True)]


def _without_debris(mask: np.ndarray) -> np.ndarray:
    """The large connected parts of a mask."""
    parts, count = ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    return (sizes > 0.02 * sizes.max())[parts]


def _split(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Right and left of a mask in the order of the patient's axes; one is empty for one lung."""
    depth = distance(~mask, spacing)
    for radius in np.arange(0, 26, 2.5):
        labels, count = ndimage.label(depth > radius)
        if count < 2:
            continue
        sizes = np.bincount(labels.ravel())[1:]
        first, second = np.argsort(sizes)[::-1][:2] + 1
        centres = ndimage.center_of_mass(depth > radius, labels, [first, second])
        apart = np.subtract(*centres) * spacing
        share = sizes[second - 1] / sizes[first - 1]
        # The parts of one lung that erosion has torn apart lie above or behind each other.
        if share < (0.2 if radius else 0.05) or abs(apart[2]) < 0.7 * np.linalg.norm(apart):
            continue
        right, left = (first, second) if apart[2] < 0 else (second, first)
        markers = np.where(labels == right, 1, 0) + np.where(labels == left, 2, 0)
        basins = sitk.MorphologicalWatershedFromMarkers(
            sitk.GetImageFromArray(-depth.astype(np.float32)),
            sitk.GetImageFromArray(markers.astype(np.uint8)),
            markWatershedLine=False,
        )
        basins = sitk.GetArrayFromImage(basins)
        return mask & (basins == 1), mask & (basins == 2)
    empty = np.zeros_like(mask)
    return (mask, empty) if _hollow_on_the_left(mask, spacing) else (empty, mask)


def _hollow_on_the_left(lung: np.ndarray, spacing: tuple[float, ...]) -> bool:
    """Whether the hollow of the mediastinum lies to the patient's left of this lung."""
    hollow = _closed(lung, 40, spacing) & ~lung
    return not hollow.any() or np.nonzero(hollow)[2].mean() > np.nonzero(lung)[2].mean()


def _filled(lung: np.ndarray, hu: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """One lung with its vessels, and with dense parts in its hollows that are lung still."""
    whole = np.zeros_like(lung)
    if not lung.any():
        return whole
    box = box_of(lung, spacing, 0)  # closing adds nothing outside
    part = lung[box]
    dense = ndimage.binary_opening((hu[box] < -200) & ~part)  # thicker than a blurred edge
    if dense.any():
        part = part | (dense & _closed(part, 20, spacing))
    whole[box] = ndimage.binary_fill_holes(_closed(part, 8, spacing))
    return whole


def _closed(mask: np.ndarray, radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The mask with its gaps narrower than 2 x radius (mm) filled; nothing is beyond it."""
    margin = [int(radius / s) + 2 for s in spacing]
    padded = np.pad(mask, [(m, m) for m in margin])
    closed = distance(distance(padded, spacing) > radius, spacing) > radius
    return closed[tuple(slice(m, -m) for m in margin)]
