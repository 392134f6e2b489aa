"""What users give a registration, in whatever form, as volumes, transforms and points; or why not.

All functions raise InputError for what cannot be used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.errors import InputError
from ..core.files import checked_transform, checked_volume, read_labels, read_transform, read_volume
from ..core.geometry import DisplacementField, Volume
from ..core.masks import label_values, marked
from .field.whole import affine_start
from .images.plausibility import implausible

MOST_ITERATIONS = 1000
THINNEST_MM, THINNEST_VOXELS = 12.0, 6.0  # of lungs; a little more may be too thin, too


def checked_count(value: int | None, name: str, most: int) -> int | None:
    """A whole number from 1 to most, or None."""
    if value is None:
        return None
    if not isinstance(value, Integral) or not 1 <= value <= most:
        raise InputError(f"{name} must be a whole number from 1 to {most}, got {value}.")
    return int(value)


def checked_iterations(value: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
    """Iterations on each level: one number for all, one for each, or None."""
    name = "The number of iterations"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(checked_count(one, name, MOST_ITERATIONS) for one in value)
    return checked_count(value, name, MOST_ITERATIONS)


def as_volume(image, name: str) -> Volume:
    """An image from a path, a SimpleITK image or a Volume; name: how a message calls it."""
    if isinstance(image, (str, os.PathLike)):
        return read_volume(image)
    volume = _volume(image, name)
    if min(volume.grid.size) < 2:
        raise InputError(f"{name} is a single slice: give a 3-D image.")
    return checked_volume(volume, name)


def as_mask(mask, image: Volume, name: str) -> Volume | None:
    """A mask, bool, on its image's grid; None stays None.

    What is marked, `masks.marked` tells. A mask on another grid, such as a cropped one or one of
    another order of axes, is brought to the image's where it lies in the world; then, and where it
    has more than two labels, it must be lungs.
    """
    if mask is None:
        return None
    called = f"The {name} mask"
    if isinstance(mask, (str, os.PathLike)):
        called = f"{called} {Path(mask).name}"
        mask = read_labels(mask)
    mask = _volume(mask, called)
    values = label_values(mask.array)
    found = Volume(marked(mask.array, name=called), mask.grid)
    if not found.array.any():
        raise InputError(f"{called} is empty: mark the lungs, or leave the mask out.")
    fits = found.grid.matches(image.grid, tolerance=0.1)
    if not fits:
        if not image.grid.contains(found.marked_points(most=100_000)).any():
            raise InputError(f"{called} lies outside its image: give the mask of this image.")
        found = found.on_grid(image.grid)
    if min(s.stop - s.start for s in found.box()) < 2:
        raise InputError(f"{called} marks next to nothing: give a mask of the lungs in all slices.")
    if not fits or len(values) > 2:
        _check_lungs(found, image, called, len(values))
    return found


def _check_lungs(mask: Volume, image: Volume, called: str, labels: int) -> None:
    """Raise InputError for a mask that fits no lungs, with what makes its origin doubtful."""
    reasons = implausible(mask, image)
    if not reasons:
        return
    reason = reasons[0].removesuffix(".")
    if labels > 2:
        raise InputError(
            f"{called} has {labels} labels that together are no lungs ({reason}): say which ones "
            "are (--mask-labels 1,2; in Python read_mask(path, [1, 2]))."
        )
    raise InputError(
        f"{called} is on another grid than its image and fits no lungs there ({reason}): "
        "resample it to the image first, or leave it out (lungs are then found)."
    )


def as_transform(transform) -> sitk.Transform | None:
    """fixed point -> moving point from a path, a transform, a field or a 4x4 LPS matrix."""
    if transform is None:
        return None
    if isinstance(transform, (str, os.PathLike)):
        transform = read_transform(transform)
    if isinstance(transform, DisplacementField):
        transform = transform.to_transform()
    if not isinstance(transform, sitk.Transform):
        transform = affine_start(_matrix(transform))
    checked_transform(transform, "The initial transform")
    if transform.IsLinear():
        try:
            transform.GetInverse()
        except RuntimeError as error:
            raise InputError(
                "The initial transform cannot be inverted, it flattens space: give another one."
            ) from error
    return transform


def check_thickness(distance: Volume, spacing: float, name: str) -> None:
    """Raise InputError for lungs of which a scan shows too little to work on at this spacing (mm).

    distance: of the lungs' surface, as `alignment.distance_map` gives it.
    """
    # Counted from the outermost layer of voxels, which has a thickness, too.
    thickness = 2 * max(0.0, -float(distance.array.min())) + min(distance.grid.spacing)
    if thickness < THINNEST_MM:
        raise InputError(
            f"The {name} scan shows only {thickness:.0f} mm of the lungs at their thickest: give "
            f"one that shows at least {THINNEST_MM:.0f} mm."
        )
    if thickness < THINNEST_VOXELS * spacing:
        raise InputError(
            f"The {name} scan shows only {thickness:.0f} mm of the lungs at their thickest, too "
            f"little for a working spacing of {spacing:g} mm: choose at most "
            f"{np.floor(10 * thickness / THINNEST_VOXELS) / 10:g} mm."
        )


def as_points(points, what: str = "Points") -> np.ndarray:
    """Points (N, 3), LPS mm."""
    try:
        found = np.asarray(points, dtype=float)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 2 or found.shape[1] != 3 or not np.isfinite(found).all():
        raise InputError(f"{what} must be a list of positions (x, y, z): check them.")
    return found


def as_landmarks(landmarks) -> tuple[np.ndarray, np.ndarray]:
    """Corresponding fixed and moving points, both (N, 3) with N >= 4, LPS mm."""
    if landmarks is None:
        raise InputError("The start 'landmarks' needs landmarks in both images.")
    try:
        fixed, moving = (np.asarray(points, dtype=float) for points in landmarks)
    except (TypeError, ValueError) as error:
        raise InputError(
            "Landmarks must be two lists of points (x, y, z), fixed and moving: check them."
        ) from error
    if fixed.shape != moving.shape or fixed.ndim != 2 or fixed.shape[1] != 3 or len(fixed) < 4:
        raise InputError(
            "The start 'landmarks' needs at least four corresponding points (x, y, z) in both "
            f"images, got arrays of shape {fixed.shape} and {moving.shape}."
        )
    if not (np.isfinite(fixed).all() and np.isfinite(moving).all()):
        raise InputError("Some landmarks have no position: remove or place them.")
    return fixed, moving


def _volume(image, name: str) -> Volume:
    if isinstance(image, sitk.Image):
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise InputError(f"{name} must be a 3-D image with one value in each voxel.")
        image = Volume.of_image(image)
    if not isinstance(image, Volume):
        raise InputError(f"{name} must be a path, a SimpleITK image or a Volume.")
    return image


def _matrix(transform) -> np.ndarray:
    try:
        matrix = np.asarray(transform, dtype=float)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
        raise InputError(
            "An initial transform must be a path, a SimpleITK transform, a DisplacementField or an "
            "invertible 4x4 matrix."
        )
    return matrix
