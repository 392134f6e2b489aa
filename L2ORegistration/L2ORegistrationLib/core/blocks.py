"""A scan on blocks of a few millimetres, held in the order of the patient's axes.

What is sought in whole lungs needs no finer voxels; on blocks it costs the same for every scan and
does not depend on how the file stores it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .geometry import Grid
from .hounsfield import PADDING, stored_offset

_EMPTY = -950  # HU; a constant value below is air or nothing at all
_LARGE = 0.002  # of an image: a region of one value that is no chance


@dataclass(frozen=True)
class Blocks:
    """A lattice of blocks of voxels whose array axes (z, y, x) run most nearly along S, P and L."""

    shape: tuple[int, ...]  # of the voxel array, as stored
    step: tuple[int, ...]  # voxels to a block along each axis, as stored
    axes: tuple[int, ...]  # the stored axes that become z, y and x
    flip: tuple[int, ...]  # those of z, y and x that are then reversed
    spacing: tuple[float, ...]  # mm of a block along (z, y, x)

    @classmethod
    def of_grid(cls, grid: Grid, spacing: float) -> Blocks:
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

    def any(self, array: np.ndarray) -> np.ndarray:
        """Which blocks hold marked voxels, in the order of the patient's axes."""
        return self.orient(np.logical_or.reduce(list(self.samples(array))))

    def share(self, array: np.ndarray) -> np.ndarray:
        """The share of marked voxels in each block (of the samples), likewise."""
        samples = list(self.samples(array))
        return self.orient(sum(s.astype(np.uint8) for s in samples) / len(samples))

    def orient(self, stored: np.ndarray) -> np.ndarray:
        """Blocks as stored -> in the order of the patient's axes."""
        return np.ascontiguousarray(np.flip(stored.transpose(self.axes), self.flip))

    def expand(self, blocks: np.ndarray) -> np.ndarray:
        """Blocks in the order of the patient's axes -> voxels as stored."""
        array = np.flip(blocks, self.flip).transpose(np.argsort(self.axes))
        for axis in (2, 1, 0):  # whole slices last: they are copied fastest
            n, k, s = self.shape[axis], self.step[axis], self.start[axis]
            array = np.take(array, np.clip((np.arange(n) - s) // k, 0, n // k - 1), axis=axis)
        return array

    def hounsfield(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Smooth HU of the blocks, cut to [-1024, 300], and where the scanner saw nothing.

        Both (z, y, x), in the order of the patient's axes. Nothing was seen where values are no HU
        of any matter, and where one value, of air or zero, fills a corner of the image.
        """
        samples = list(self.samples(array))
        offset = stored_offset(samples[0])
        padding = np.zeros(samples[0].shape, bool)
        hu = np.zeros(samples[0].shape, np.float32)
        for sample in samples:
            values = np.nan_to_num(sample.astype(np.float32), nan=-3024) - offset
            padding |= values < PADDING
            hu += np.clip(values, -1024, 300)
        hu = self.orient(hu / len(samples))
        filled = self.orient(_corners(samples[0], offset)) | _reaching_sides(hu <= -1024)
        padding = self.orient(padding) | ndimage.binary_dilation(filled)
        return ndimage.gaussian_filter(hu, [1.5 / s for s in self.spacing], truncate=2), padding


def distance(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance (mm) to the mask's nearest voxel, at most 0 within; infinite where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    image = sitk.GetImageFromArray(mask.view(np.uint8))
    image.SetSpacing(spacing[::-1])
    found = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(found)


def box_of(mask: np.ndarray, spacing: tuple[float, ...], margin: float) -> tuple[slice, ...]:
    """The slices that hold the mask and a margin (mm) round it."""
    (box,) = ndimage.find_objects(mask.view(np.uint8))
    more = [int(np.ceil(margin / s)) for s in spacing]
    return tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(box, more, strict=True))


def _corners(stored: np.ndarray, offset: int) -> np.ndarray:
    """Large regions of exactly one value, that of air or zero, that fill a corner of the image."""
    found = np.zeros(stored.shape, bool)
    ends = list(product(*((0, n - 1) for n in stored.shape)))
    for value in {float(stored[corner]) for corner in ends}:
        if value != 0 and value - offset > _EMPTY:
            continue  # tissue may reach a corner
        parts, count = ndimage.label(stored == value)
        labels = {int(parts[corner]) for corner in ends} - {0}
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        for label in labels:
            if sizes[label] > _LARGE * stored.size:
                found |= parts == label
    return found


def _reaching_sides(mask: np.ndarray) -> np.ndarray:
    """Large parts of a mask (z, y, x) at the left, right, front or back face.

    Some files pad with the value of the emptiest air, which the smallest bulla may have too.
    """
    labels, count = ndimage.label(mask)
    at_sides = np.zeros(count + 1, bool)
    for k in (0, -1):
        at_sides[labels[:, k]] = at_sides[labels[:, :, k]] = True
    at_sides[0] = False
    return (at_sides & (np.bincount(labels.ravel()) > _LARGE * mask.size))[labels]
