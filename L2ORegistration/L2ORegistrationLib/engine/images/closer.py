"""Both images on a grid closer than the working one, where their own voxels show more than that.

Scanners resolve 0.6 to 1 mm within a slice. On a grid of 1.5 mm most of that is lost: detail, and
the averaging of noise. Fields stay as coarse as they are, and so do all iterations but the last
ones: what they gain and cost is in Testing/experiments.md, "Voxels finer than the working grid".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import SimpleITK as sitk
import torch

from ...core.geometry import Grid, Volume
from ...core.hounsfield import stored_offset
from .preprocessing import intensity, seen_part
from .spline import along_axes

# How many times as fine as the working grid, the finest first: usually 1 and 1.2 mm; and how thick
# slices may be, against that, for it to gain anything.
RATIOS = {Fraction(3, 2): 1.5, Fraction(5, 4): 2.5}
AVERAGED = 0.8  # of that: finer voxels are averaged to this before a spline goes through them
_SLICES = 16  # that are averaged at a time


@dataclass(frozen=True)
class CloserImages:
    """Images that are resampled when they are looked at.

    fixed, moving: HU; start: fixed point -> moving point, LPS mm; grid: around the lungs, closer
    than the working grid; repeated: how many voxels of the working grid show one of the images'
    own, below 1 where these are finer; between(): called around each image, which takes seconds.
    """

    fixed: Volume
    moving: Volume
    start: sitk.Transform
    grid: Grid
    repeated: float
    between: Callable[[], None] = lambda: None

    def on_grid(self, wanted: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        """Fixed and moving, (z, y, x), 1 is 1000 HU; moving at start(x) for each x of the grid.

        wanted: bool (z, y, x) for either, where it is needed: elsewhere it may be anything.
        """
        starts, found = (sitk.Transform(3, sitk.sitkIdentity), self.start), []
        # One after the other: in between each is several times as large as in the end.
        for volume, start, where in zip((self.fixed, self.moving), starts, wanted, strict=True):
            self.between()
            found.append(self._seen(volume, start, where))
        self.between()
        return found

    def _seen(self, volume: Volume, start: sitk.Transform, wanted: np.ndarray) -> np.ndarray:
        offset = stored_offset(volume.array)
        part = seen_part(volume, self.grid, start).along_patient()
        part = area_averaged(part, AVERAGED * self.grid.spacing[0])
        return intensity(part, self.grid, start, offset=offset, wanted=wanted)


def closer_ratios(spacings: Sequence[Sequence[float]], working: float) -> list[Fraction]:
    """How many times as fine as a working spacing (mm) images can be looked at; the finest first.

    spacings: (x, y, z) of each, mm. Each one's voxels are no wider than those of the closer grid
    along two of their axes, and not far longer along the third.
    """
    found = []
    for ratio, thickest in RATIOS.items():
        width = 1.001 * working / ratio  # headers say 1.0000001
        own = [sorted(spacing) for spacing in spacings]
        if all(middle <= width and last <= thickest * width for _, middle, last in own):
            found.append(ratio)
    return found


def closer_images(
    fixed: Volume,
    moving: Volume,
    grid: Grid,
    start: sitk.Transform,
    ratio: Fraction,
    between: Callable[[], None] = lambda: None,
) -> CloserImages:
    """Both images around a working grid, `ratio` times as fine, moving through the start."""
    closer = closer_grid(grid, ratio)
    own = [np.maximum(volume.grid.spacing, closer.spacing[0]) for volume in (fixed, moving)]
    repeated = np.sqrt(np.prod([spacing / grid.spacing[0] for spacing in own]))
    return CloserImages(fixed, moving, start, closer, float(repeated), between)


def closer_grid(grid: Grid, ratio: Fraction) -> Grid:
    """The grid that covers the same as a working grid, whose sizes are multiples of its BLOCK."""
    spacing = grid.spacing[0] / float(ratio)
    origin = tuple(o + (spacing - grid.spacing[0]) / 2 for o in grid.origin)
    return Grid(tuple(int(n * ratio) for n in grid.size), (spacing,) * 3, origin)


def area_averaged(volume: Volume, width: float) -> Volume:
    """The volume, float32, with voxels of `width`, mm, along each axis that has finer ones.

    Each is the average of what it covers; what is left at an end, too little for a voxel, is not in
    the result.
    """
    own = np.array(volume.grid.spacing)
    spacing = np.maximum(own, width)
    x, y, z = (_shares(n, s, w) for n, s, w in zip(volume.grid.size, own, spacing))
    size = [n if shares is None else len(shares) for n, shares in zip(volume.grid.size, (x, y, z))]
    array = np.empty(size[::-1], np.float32)
    for first in range(0, len(array), _SLICES):  # a copy of a whole scan in float is large
        rows, begin, end = None, first, first + _SLICES
        if z is not None:
            met = np.flatnonzero(z[first : first + _SLICES].any(axis=0))
            begin, end = met[0], met[-1] + 1
            rows = z[first : first + _SLICES, begin:end]
        slab = torch.from_numpy(volume.array[begin:end].astype(np.float32, order="C"))
        array[first : first + _SLICES] = along_axes(slab, (x, y, rows)).numpy()
    origin = volume.grid.to_world((spacing / own - 1) / 2)
    grid = Grid(array.shape[::-1], tuple(spacing), tuple(origin), volume.grid.direction)
    return Volume(array, grid)


def _shares(count: int, own: float, width: float) -> np.ndarray | None:
    """What each of `count` voxels of width `own` gives to each of those of `width`: (n, count).

    Linear between the voxels' middles, so that an average lies where its voxel does. None where
    they stay as they are.
    """
    if own == width:
        return None
    edges = np.arange(max(1, int(count * own / width + 1e-6)) + 1)[:, None] * width / own - 0.5
    first = np.floor(edges[:-1]).astype(int)
    index = first + np.arange(int(np.ceil(width / own - 1e-6)) + 2)
    shares = _up_to(edges[1:] - index) - _up_to(edges[:-1] - index)
    matrix = np.zeros((len(index), count))
    rows = np.arange(len(index))[:, None]
    np.add.at(matrix, (rows, index.clip(0, count - 1)), shares / shares.sum(axis=1, keepdims=True))
    return matrix


def _up_to(place: np.ndarray) -> np.ndarray:
    """The part of a voxel's influence, linear to its neighbours' middles, before a place."""
    place = place.clip(-1, 1)
    return np.where(place < 0, (1 + place) ** 2 / 2, 1 - (1 - place) ** 2 / 2)
