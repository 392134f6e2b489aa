"""What the fields of a breath say: trajectories, amplitude, motion-compensated mean, sharpness."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..core.geometry import DisplacementField, Volume
from ..core.hounsfield import stored_offset
from .registration import SequenceResult

_HU_RANGE = (-1000.0, 300.0)
_AROUND_MM = 10.0


def trajectories(result: SequenceResult, points: np.ndarray) -> np.ndarray:
    """Where points (N, 3) of the reference lie in each registered phase, (phases, N, 3), LPS mm."""
    return np.stack([field.transform_points(points) for field in result.fields.values()])


def contour_points(mask: Volume) -> np.ndarray:
    """Points (N, 3), LPS mm, that fill a contour's mask; their mean is its centre."""
    return mask.marked_points(most=20_000)


def amplitude(result: SequenceResult) -> Volume:
    """The largest distance (mm) between any two trusted phases of each point, on their grid."""
    arrays = [field.array for field in result.trusted.values()]
    largest = np.zeros(arrays[0].shape[:3], np.float32)
    for number, one in enumerate(arrays):
        for other in arrays[:number]:
            distance = np.linalg.norm(one - other, axis=-1)
            np.maximum(largest, distance, out=largest)
    return Volume(largest, next(iter(result.fields.values())).grid)


def warped(result: SequenceResult) -> Iterator[tuple[int, Volume]]:
    """(phase, its image in the reference's geometry, its lowest value beyond it), one by one."""
    for index, field in result.fields.items():
        phase = result.phases[index]
        moved = np.nan_to_num(_warped(phase, field), nan=float(phase.array.min()))
        yield index, Volume(moved, result.grid)


def means(result: SequenceResult) -> tuple[Volume, Volume]:
    """The mean of the trusted phases as they are, and the motion-compensated mean; float32.

    Of each point that of the phases that show it: at the ends of a short scan not all do. One
    phase is added after the other, because all at once would take several times their memory.
    """
    plain, total = (np.zeros(result.grid.shape, np.float32) for _ in range(2))
    count = np.zeros(result.grid.shape, np.uint8)
    lowest = np.inf
    for index, field in result.trusted.items():
        phase = result.phases[index]
        lowest = min(lowest, float(phase.array.min()))
        plain += phase.array
        moved = _warped(phase, field)
        shown = np.isfinite(moved)
        np.add(total, moved, out=total, where=shown)
        count += shown
    plain /= len(result.trusted)
    np.divide(total, count, out=total, where=count > 0)
    total[count == 0] = lowest
    return Volume(plain, result.grid), Volume(total, result.grid)


def sharpness(image: Volume, mask: Volume) -> float:
    """The root mean square of the image's gradient in and around a mask on its grid, HU/mm.

    Squared (Tenenbaum's focus measure), because the mean length of the gradient across an edge is
    the same however blurred the edge is; around, because the diaphragm is where blur is largest.
    """
    values = np.clip(image.array.astype(np.float32) - stored_offset(image.array), *_HU_RANGE)
    gradient = np.gradient(values, *image.grid.spacing[::-1])
    reach = [int(np.ceil(_AROUND_MM / s)) for s in image.grid.spacing[::-1]]
    near = ndimage.maximum_filter(mask.array != 0, [2 * n + 1 for n in reach])
    return float(np.sqrt(sum(part[near] ** 2 for part in gradient).mean()))


def reference_mask(result: SequenceResult) -> Volume:
    """The lungs in the reference: of its phase, or where at least half of the phases have lung."""
    if result.reference is not None:
        return result.masks[result.reference]
    share = np.zeros(result.grid.shape, np.float32)
    for index, field in result.trusted.items():
        mask = Volume(result.masks[index].array.astype(np.float32), result.grid)
        share += np.nan_to_num(_warped(mask, field))
    return Volume(share >= len(result.trusted) / 2, result.grid)


def _warped(volume: Volume, field: DisplacementField) -> np.ndarray:
    """The volume at the voxels that the field leads to from its own, float32; NaN beyond it.

    By cubic B-splines: linear interpolation would blur the mean more than the motion did.
    """
    image = sitk.Cast(volume.to_image(), sitk.sitkFloat32)
    lowest, highest = float(volume.array.min()), float(volume.array.max())
    moved = sitk.Resample(image, image, field.to_transform(), sitk.sitkBSpline3, np.nan)
    return np.clip(sitk.GetArrayFromImage(moved), lowest, highest)
