"""From two images anywhere in the world to one pair of arrays on a common working grid.

The working grid is aligned with the patient (LPS) axes, whatever the files' axes: the network
learns which way breathing goes, so the result must not depend on how an image is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ...core.at_once import at_once
from ...core.geometry import Grid, Volume
from ...core.hounsfield import stored_offset
from .seen import seen_on, shown
from .spline import spline

WORKING_SPACING_MM = 1.5
MARGIN_MM = 12.0
BLOCK = 8  # the coarsest field voxel is 8 working voxels wide
HU_RANGE = (-1000.0, 300.0)
SPLINE_VOXELS = 4  # no spline through fewer
SLAB_BINS = 16  # rows of bins that are averaged at a time
TAIL_VOXELS = 12  # a voxel's influence on a spline is negligible beyond this


@dataclass(frozen=True)
class WorkingPair:
    """Both images on the working grid; moving is already resampled through the start.

    fixed, moving: (z, y, x) float32, HU clamped, 1 is 1000 HU; mask: fixed lungs, bool;
    fixed_distance, moving_distance: signed distance (mm, negative inside) to the lung surface;
    grid: the working grid; start: fixed point -> moving point, LPS mm; repeated: how many voxels of
    the grid show one of the images' own, at least 1 (thick slices); seen: what either image shows,
    bool, fixed and moving; None: all.
    """

    fixed: np.ndarray
    moving: np.ndarray
    mask: np.ndarray
    fixed_distance: np.ndarray
    moving_distance: np.ndarray
    grid: Grid
    start: sitk.Transform
    repeated: float = 1.0
    seen: tuple[np.ndarray, np.ndarray] | None = None


def working_pair(
    fixed: Volume,
    moving: Volume,
    fixed_distance: Volume,
    moving_distance: Volume,
    start: sitk.Transform,
    spacing: float = WORKING_SPACING_MM,
) -> WorkingPair:
    """Resample both images and lung distance maps onto the working grid around the fixed lungs."""
    grid = working_grid(fixed_distance, spacing)
    # One after the other, because copies of large images are large.
    images = [averaged(volume, spacing) for volume in (fixed, moving)]
    return pair_on(grid, *images, fixed_distance, moving_distance, start)


def pair_on(
    grid: Grid,
    fixed: Volume,
    moving: Volume,
    fixed_distance: Volume,
    moving_distance: Volume,
    start: sitk.Transform,
) -> WorkingPair:
    """The pair on a working grid, from images that were `averaged` to its spacing."""
    identity = sitk.Transform(3, sitk.sitkIdentity)
    distance = resample(fixed_distance, grid, identity)
    seen = [
        seen_on(there, grid, transform)
        for there, transform in zip(at_once(shown, (fixed, moving)), (identity, start))
    ]
    return WorkingPair(
        fixed=intensity(fixed, grid, identity),
        moving=intensity(moving, grid, start),
        mask=distance < 0,
        fixed_distance=distance,
        moving_distance=resample(moving_distance, grid, start),
        grid=grid,
        start=start,
        repeated=repeated([image.grid.spacing for image in (fixed, moving)], grid.spacing[0]),
        seen=None if all(part.all() for part in seen) else tuple(seen),
    )


def repeated(spacings: Sequence[Sequence[float]], width: float) -> float:
    """How many voxels of a width (mm) show one of the images', on average; at least 1.

    spacings: (x, y, z) of each image, mm; a finer axis counts one.
    """
    counts = [np.prod(np.maximum(np.divide(spacing, width), 1)) for spacing in spacings]
    return float(np.exp(np.mean(np.log(counts))))


def working_grid(distance: Volume, spacing: float = WORKING_SPACING_MM) -> Grid:
    """The world-aligned grid around the lungs, its sizes multiples of BLOCK."""
    points = Volume(distance.array <= 0, distance.grid).marked_points()
    tight = Grid.covering(points, spacing, MARGIN_MM)
    size = tuple(int(np.ceil(n / BLOCK)) * BLOCK for n in tight.size)
    shift = [(n - t) / 2 * spacing for n, t in zip(size, tight.size)]
    origin = tuple(o - s for o, s in zip(tight.origin, shift))
    return Grid(size, (spacing,) * 3, origin)


def resample(
    volume: Volume, grid: Grid, transform: sitk.Transform, interpolator: int = sitk.sitkLinear
) -> np.ndarray:
    """volume at transform(x) for each x of grid, the edge value beyond it; float32."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(grid.reference_image())
    resampler.SetTransform(transform)
    resampler.SetInterpolator(interpolator)
    resampler.SetUseNearestNeighborExtrapolator(True)
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    return sitk.GetArrayFromImage(resampler.Execute(volume.to_image()))


def seen_part(volume: Volume, grid: Grid, transform: sitk.Transform) -> Volume:
    """The part of volume that transform(x) meets for x of grid, with room for a spline's tail."""
    nodes = np.meshgrid(*(np.linspace(0, n - 1, 9) for n in grid.size))
    points = grid.to_world(np.stack(nodes, axis=-1).reshape(-1, 3)).tolist()
    index = volume.grid.to_index([transform.TransformPoint(p) for p in points])
    first = np.clip(index.min(axis=0) - TAIL_VOXELS, 0, np.array(volume.grid.size) - 1)
    last = np.clip(index.max(axis=0) + TAIL_VOXELS, first + 1, volume.grid.size)
    x, y, z = (slice(int(a), int(np.ceil(b))) for a, b in zip(first, last))
    return volume.part(z, y, x)


def averaged(volume: Volume, spacing: float) -> Volume:
    """Voxels averaged where they are finer than spacing (mm), against aliasing."""
    if int(spacing / min(volume.grid.spacing) + 0.3) <= 1:
        return volume
    # In one order of axes, because averaging leaves out what fills no bin at the end of an axis.
    volume = volume.along_patient()
    shrink = [max(1, int(spacing / s + 0.3)) for s in volume.grid.spacing]
    # Some slices at a time: a copy of a whole scan costs more time than its averaging, and memory.
    depth, slab = volume.grid.size[2] // shrink[2] * shrink[2], SLAB_BINS * shrink[2]
    parts = []
    for first in range(0, depth, slab):
        slices = np.ascontiguousarray(volume.array[first : min(first + slab, depth)])
        shrunk = sitk.BinShrink(sitk.GetImageFromArray(slices), shrink)
        parts.append(sitk.GetArrayFromImage(shrunk))
    array = np.concatenate(parts)
    first = volume.grid.to_world((np.array(shrink) - 1) / 2)
    fine = volume.grid.spacing
    grid = Grid(
        array.shape[::-1],
        tuple(s * k for s, k in zip(fine, shrink)),
        tuple(first),
        volume.grid.direction,
    )
    return Volume(array, grid)


def intensity(
    volume: Volume,
    grid: Grid,
    transform: sitk.Transform,
    linear: bool = False,
    offset: int | None = None,
    wanted: np.ndarray | None = None,
) -> np.ndarray:
    """HU on the working grid, 1 is 1000 HU, by a quadratic spline or linearly.

    offset: stored value less HU, where it is known; wanted: bool (z, y, x), the voxels that are
    needed, where others may be anything.
    """
    offset = np.float32(stored_offset(volume.array) if offset is None else offset)
    volume = seen_part(volume, grid, transform)
    # Linear interpolation blurs more the further a point is from the voxels around it, in another
    # pattern in each image; a spline hardly does. Clamped first, or metal would ripple into lungs.
    hounsfield = volume.array.astype(np.float32)
    hounsfield -= offset
    np.clip(hounsfield, *HU_RANGE, out=hounsfield)
    volume = Volume(hounsfield, volume.grid)
    if linear or min(volume.grid.size) < SPLINE_VOXELS:
        values = resample(volume, grid, transform)
    else:
        values = spline(volume, grid, transform, wanted)
    np.clip(values, *HU_RANGE, out=values)
    values /= 1000
    return values
