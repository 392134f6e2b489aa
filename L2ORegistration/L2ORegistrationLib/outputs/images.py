"""Images and RT dose through a transform: interpolated on the reference, never multiplied by J."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.errors import InputError
from ..core.files import write_volume
from ..core.geometry import DisplacementField, Grid, Volume
from ..core.paths import atomic, existing
from .fields import extended
from .requires import read_dicom

DOSE_SOP = "1.2.840.10008.5.1.4.1.1.481.2"
_FINER_MM = 1.0  # a dose grid is refined to about this before it is warped


def warp_image(image: Volume, motion: DisplacementField, target: Grid, outside: float) -> Volume:
    """The image on the target grid, linear; motion: target -> source point, LPS mm.

    Raises InputError when no point of the target leads into the image.
    """
    where = target.reference_image(), extended(motion, target).to_transform()
    everywhere = Volume(np.ones(image.array.shape, np.uint8), image.grid).to_image()
    inside = sitk.Resample(everywhere, *where, sitk.sitkNearestNeighbor, 0)
    if not sitk.GetArrayViewFromImage(inside).any():
        raise InputError(
            "The image and the reference do not overlap after the transform: "
            "do transform, image and reference belong together?"
        )
    given = sitk.Cast(image.to_image(), sitk.sitkFloat32)  # of integers it would cut fractions off
    moved = sitk.Resample(given, *where, sitk.sitkLinear, outside)
    array, kind = sitk.GetArrayFromImage(moved), image.array.dtype
    if np.issubdtype(kind, np.integer):
        array = np.rint(array)
    return Volume(array.astype(kind), target)


def read_dose(path: str | Path) -> tuple[Volume, object]:
    """An RT dose file: Gy (float32) on its grid, and the DICOM data set that it came from.

    Raises InputError for a file that is no RT dose, of a single plane or of unevenly spaced ones,
    with negative doses, and for one that is damaged.
    """
    data = read_dicom(existing(path))
    if data.get("SOPClassUID") != DOSE_SOP:
        raise InputError(f"{path} is not a DICOM RT dose.")
    if data.get("DoseUnits", "GY") != "GY":
        raise InputError(f"{path} is in {data.DoseUnits} units: export the dose in Gy.")
    frames = np.atleast_1d(np.asarray(data.get("GridFrameOffsetVector"), dtype=float))
    steps = np.diff(frames)
    if len(frames) < 2 or np.ptp(steps) > 0.01:
        raise InputError(
            f"{path} has a single plane, or unevenly spaced ones: resample the dose first."
        )
    row, column = np.reshape(np.asarray(data.ImageOrientationPatient, dtype=float), (2, 3))
    normal = np.cross(row, column)
    # Offsets start at 0 and count along the normal, or they are z coordinates, against which the
    # normal runs where the patient lies feet first.
    ahead = steps[0] * normal[2] if frames[0] and abs(normal[2]) > 0.5 else steps[0]
    normal *= np.sign(ahead)
    origin = np.asarray(data.ImagePositionPatient, dtype=float)
    spacing = (float(data.PixelSpacing[1]), float(data.PixelSpacing[0]), abs(float(steps[0])))
    try:
        array = data.pixel_array.astype(np.float32) * np.float32(data.DoseGridScaling)
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(
            f"The dose in {path} cannot be read, it may be cut off: copy or export it again."
        ) from error
    if array.min() < 0:  # the spline and the unsigned numbers of what is written would make it 0
        raise InputError(
            f"{path} holds negative doses, as a difference has: move both doses, then subtract."
        )
    grid = Grid(array.shape[::-1], spacing, tuple(origin), np.stack([row, column, normal], 1))
    return Volume(array, grid), data


def warp_dose(
    source: Path, motion: DisplacementField, reference: Path, target: Grid, output: Path
) -> dict[str, float]:
    """Warp an RT dose onto the reference and write it as RT dose (.dcm) or image.

    Dose in Gy belongs to the tissue and moves with it: it is interpolated, not multiplied by the
    Jacobian. The dose grid is refined by cubic splines before, because a linear look-up between
    coarse nodes would flatten its peaks. Returns the largest dose before and after, Gy.
    """
    dose, data = read_dose(source)
    factor = [max(1, round(s / _FINER_MM)) for s in dose.grid.spacing]
    fine_size = tuple((n - 1) * f + 1 for n, f in zip(dose.grid.size, factor, strict=True))
    fine_spacing = tuple(s / f for s, f in zip(dose.grid.spacing, factor, strict=True))
    fine = Grid(fine_size, fine_spacing, dose.grid.origin, dose.grid.direction)
    smooth = sitk.Resample(
        dose.to_image(), fine.reference_image(), sitk.Transform(), sitk.sitkBSpline, 0.0
    )
    refined = np.clip(sitk.GetArrayFromImage(smooth), 0, float(dose.array.max()))
    moved = warp_image(Volume(refined, fine), motion, target, 0.0)
    if output.suffix.lower() == ".dcm":
        from .dicom import dose_dataset

        made = dose_dataset(moved, data, reference)
        with atomic(output) as temporary:
            made.save_as(temporary, enforce_file_format=True)
    else:
        write_volume(moved, output)
    return {"max_before_gy": float(dose.array.max()), "max_after_gy": float(moved.array.max())}
