"""Find the lungs in a CT by what they are: large, dark, but not empty, and wrapped in tissue.

The work is done on blocks of voxels of about 2.5 mm, held in the order of the patient's axes, so
that it costs the same for every scan and does not depend on how the file stores it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import InputError
from .geometry import Grid, Volume
from .hounsfield import PADDING, stored_offset

_BLOCK = 2.5  # mm
_AIR = -975  # HU; whatever lies below is rarely lung
_TISSUE = -300  # HU; whatever lies above is neither lung nor air
_SMALLEST = 10e3  # mm3 of a lung
_NO_LUNG = "No lung was found in the image: give a chest CT in Hounsfield units, or a lung mask."
_AXIAL = np.zeros((3, 3, 3), bool)  # connects the voxels of one axial slice only
_AXIAL[1] = ndimage.generate_binary_structure(2, 1)


def lung_mask(volume: Volume) -> Volume:
    """Both lungs of a CT, their vessels included, without trachea and main bronchi.

    volume: array (z, y, x) in HU, or in HU + 1024 as some files store it, on any grid. Returns a
    bool array on the same grid. Raises InputError where no lung is found.
    """
    blocks = _Blocks.of_grid(volume.grid, _BLOCK)
    spacing = blocks.spacing
    hu, padding = _hounsfield(volume.array, blocks)
    lungs, realm = _find_lungs(hu, padding, spacing)
    # Half of the way from lung to tissue: there the surface stays put while breathing changes the
    # density of the lung.
    threshold = np.clip(np.median(hu[lungs]) / 2, -500, -300)
    dark = realm & (hu < threshold)
    airways = _airways(hu, dark, lungs, padding, spacing)
    lungs = _without_debris(dark & ~airways)
    whole = np.zeros_like(lungs)
    for lung in _split(lungs, spacing):
        whole |= _filled(lung, hu, spacing)
    whole &= ~airways & ~padding
    if whole.sum() * np.prod(spacing) < _SMALLEST:  # all of it was trachea
        raise InputError(_NO_LUNG)
    return Volume(blocks.expand(whole), volume.grid)


def split_lungs(mask: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The right and the left lung of a mask of both, as two bool arrays (z, y, x) on its grid.

    Lungs that touch are cut at their neck. Where there is one lung only, the other array is empty;
    the hollow on the side of the heart tells which one it is.
    """
    blocks = _Blocks.of_grid(mask.grid, 1.5 * _BLOCK)
    array = np.asarray(mask.array, bool)
    samples = list(blocks.samples(array))
    right, left = _split(blocks.orient(np.logical_or.reduce(samples)), blocks.spacing)
    if not right.any() or not left.any():
        empty = np.zeros_like(array)
        return (empty, array.copy()) if left.any() else (array.copy(), empty)
    # Voxels between the blocks' samples go to the lung that is nearer.
    is_right = blocks.expand(_distance(right, blocks.spacing) < _distance(left, blocks.spacing))
    return array & is_right, array & ~is_right


@dataclass(frozen=True)
class _Blocks:
    """A lattice of blocks of voxels whose array axes (z, y, x) run most nearly along S, P and L."""

    shape: tuple[int, ...]  # of the voxel array, as stored
    step: tuple[int, ...]  # voxels to a block along each axis, as stored
    axes: tuple[int, ...]  # the stored axes that become z, y and x
    flip: tuple[int, ...]  # those of z, y and x that are then reversed
    spacing: tuple[float, ...]  # mm of a block along (z, y, x)

    @classmethod
    def of_grid(cls, grid: Grid, spacing: float) -> _Blocks:
        """Blocks of about this spacing (mm); along coarser axes a block is one voxel."""
        direction = np.reshape(grid.direction, (3, 3))[::-1, ::-1]  # world zyx of stored axes
        axes = max(permutations(range(3)), key=lambda a: np.abs(direction[range(3), a]).sum())
        fine = grid.spacing[::-1]
        step = [min(max(round(spacing / s), 1), n) for s, n in zip(fine, grid.shape, strict=True)]
        return cls(
            shape=grid.shape,
            step=tuple(step),
            axes=axes,
            flip=tuple(k for k in range(3) if direction[k, axes[k]] < 0),
            spacing=tuple(fine[a] * step[a] for a in axes),
        )

    @property
    def start(self) -> list[int]:
        """The first voxel of the first block: what fills no block is left over at both ends.

        An odd voxel is left at the patient's same end, however the file runs along that axis.
        """
        reversed_ = {self.axes[k] for k in self.flip}
        left = [n % k for n, k in zip(self.shape, self.step, strict=True)]
        return [r - r // 2 if axis in reversed_ else r // 2 for axis, r in enumerate(left)]

    def samples(self, array: np.ndarray) -> Iterator[np.ndarray]:
        """Views of the array with one voxel of each block; at most two along each axis."""
        offsets = [sorted({k // 4, k - 1 - k // 4}) for k in self.step]
        for offset in product(*offsets):
            yield array[
                tuple(
                    slice(s + o, s + o + (n // k - 1) * k + 1, k)
                    for s, o, n, k in zip(self.start, offset, self.shape, self.step, strict=True)
                )
            ]

    def orient(self, stored: np.ndarray) -> np.ndarray:
        """Blocks as stored -> in the order of the patient's axes."""
        return np.ascontiguousarray(np.flip(stored.transpose(self.axes), self.flip))

    def expand(self, blocks: np.ndarray) -> np.ndarray:
        """Blocks in the order of the patient's axes -> voxels as stored."""
        array = np.flip(blocks, self.flip).transpose(np.argsort(self.axes))
        for axis, (n, k, s) in enumerate(zip(self.shape, self.step, self.start, strict=True)):
            array = np.take(array, np.clip((np.arange(n) - s) // k, 0, n // k - 1), axis=axis)
        return array


def _hounsfield(array: np.ndarray, blocks: _Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Smooth HU of the blocks, cut to [-1024, 300], and where the scanner reconstructed nothing."""
    samples = list(blocks.samples(array))
    offset = stored_offset(samples[0])
    padding = np.zeros(samples[0].shape, bool)
    hu = np.zeros(samples[0].shape, np.float32)
    for sample in samples:
        values = np.nan_to_num(sample.astype(np.float32), nan=-3024) - offset
        padding |= values < PADDING
        hu += np.clip(values, -1024, 300)
    hu = blocks.orient(hu / len(samples))
    # Some files pad with the value of the emptiest air, which the smallest bulla may have too.
    padding = blocks.orient(padding) | ndimage.binary_dilation(_reaching_sides(hu <= -1024))
    hu = ndimage.gaussian_filter(hu, [1.5 / s for s in blocks.spacing], truncate=2)
    return hu, padding


def _sides(array: np.ndarray) -> np.ndarray:
    """The values on the faces to the left, right, front and back."""
    return np.concatenate([f.ravel() for k in (0, -1) for f in (array[:, k], array[:, :, k])])


def _reaching_sides(mask: np.ndarray) -> np.ndarray:
    """The parts of a mask, each > 0.2 % of the image, at the left, right, front or back face."""
    labels, count = ndimage.label(mask)
    at_sides = np.zeros(count + 1, bool)
    at_sides[_sides(labels)] = True
    at_sides[0] = False
    return (at_sides & (np.bincount(labels.ravel()) > 0.002 * mask.size))[labels]


def _find_lungs(
    hu: np.ndarray, padding: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The one or two dark parts that are lungs, and all that is nearer to them than to others."""
    dark = (hu < -400) & ~padding
    parts, count = ndimage.label(_distance(~dark, spacing) > 3)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    chosen = []
    for label in np.argsort(sizes)[::-1][:12]:
        if sizes[label] * np.prod(spacing) < _SMALLEST or len(chosen) == 2:
            break
        part = parts == label
        if _is_air(part, hu, padding) or not _in_tissue(part, hu, padding, spacing):
            continue
        if not chosen or (
            sizes[label] > 0.1 * sizes[chosen[0]] and _beside(part, parts == chosen[0])
        ):
            chosen.append(label)
    if not chosen:
        raise InputError(_NO_LUNG)
    lungs = np.isin(parts, chosen)
    others = (parts > 0) & ~lungs
    nearest = np.minimum(_distance(others, spacing), 60)
    return lungs, ~padding & (_distance(lungs, spacing) < nearest)


def _is_air(part: np.ndarray, hu: np.ndarray, padding: np.ndarray) -> bool:
    """Whether a dark part is as empty as gas, or open to the image's sides like the room's air."""
    empty = np.mean(hu[part] < _AIR)
    sides = np.zeros_like(part)
    for k in (0, -1):
        sides[:, k] = sides[:, :, k] = True
    surface = part & (sides | ~ndimage.binary_erosion(part, border_value=1))
    is_open = np.mean(ndimage.binary_dilation(sides | padding, iterations=2)[surface])
    # A cropped lung is open, a lung with emphysema quite empty, and the room's air mostly both.
    return is_open > 0.5 or empty > 0.6 or is_open + empty > 0.75


def _in_tissue(
    part: np.ndarray, hu: np.ndarray, padding: np.ndarray, spacing: tuple[float, ...]
) -> bool:
    """Whether tissue is next to it, unlike next to a table, a blanket or foam."""
    box = _box(part, spacing, 15)
    distance = _distance(part[box], spacing)
    around = (distance > 6) & (distance < 14) & ~padding[box]
    return around.any() and np.mean(hu[box][around] > _TISSUE) > 0.4


def _beside(part: np.ndarray, lung: np.ndarray) -> bool:
    """Whether it lies left or right of the lung, at its height (bowel gas lies below)."""
    (z, _, x), (lung_z, _, lung_x) = np.nonzero(part), np.nonzero(lung)
    bottom, top = lung_z.min(), lung_z.max()
    lower, upper = max(x.min(), lung_x.min()), min(x.max(), lung_x.max())
    overlap = (upper - lower + 1) / (x.max() - x.min() + 1)
    return bottom + 0.2 * (top - bottom) < z.mean() <= top and overlap < 0.5


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
    box = _box(trachea, spacing, 60)
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
            if _in_tissue(stack, hu, padding, spacing):
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
    depth = _distance(~mask, spacing)
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
    box = _box(lung, spacing, 0)  # closing adds nothing outside
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
    closed = _distance(_distance(padded, spacing) > radius, spacing) > radius
    return closed[tuple(slice(m, -m) for m in margin)]


def _distance(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance (mm) to the mask's nearest voxel, at most 0 within; infinite where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    image = sitk.GetImageFromArray(mask.view(np.uint8))
    image.SetSpacing(spacing[::-1])
    distance = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(distance)


def _box(mask: np.ndarray, spacing: tuple[float, ...], margin: float) -> tuple[slice, ...]:
    """The slices that hold the mask and a margin (mm) round it."""
    (box,) = ndimage.find_objects(mask.view(np.uint8))
    more = [int(np.ceil(margin / s)) for s in spacing]
    return tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(box, more, strict=True))
