"""Which voxels a given mask marks: labels, probabilities and resampled masks are told apart."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from .errors import InputError

_HALF = 0.5  # of what is fully marked
_SHARES = 50  # a fraction reaching further is a percentage or a byte, not 0 to 1
_BYTE, _LEVELS = 255, 20  # bytes of so many values are shares, too


def marked(
    array: np.ndarray, labels: Collection[int] | None = None, name: str = "The mask"
) -> np.ndarray:
    """Which voxels are marked, bool, of the same shape, maybe in the same memory.

    labels: the values that count; None: all above zero, or, where there are fractions
    (probabilities, percentages, resampled masks), all of at least one half of what is fully
    marked. NaN is never marked; nothing may be. Raises InputError for an image instead of a mask,
    for labels that the mask doesn't have and for fractions that nowhere reach one half.
    """
    if array.dtype == bool:
        return array
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
    if labels is not None:
        found = np.isin(array, list(labels))
        if not found.any():
            have = ", ".join(map(str, label_values(array)[:20])) or "none"
            raise InputError(f"{name} has none of the labels asked for; it has {have}.")
        return found
    most = float(array.max(initial=0))
    if float(array.min(initial=0)) < -1:
        raise InputError(
            f"{name} has negative values, as an image has: give the mask of the lungs."
        )
    if array.dtype.kind == "f" and (array != np.rint(array)).any():
        half = most * _HALF if most > _SHARES else _HALF
    elif most == _BYTE and len(label_values(array)) > _LEVELS:
        half = most * _HALF
    elif array.dtype == np.uint8 and most <= 1:
        return array.view(bool)  # of a whole scan a copy would be large
    else:
        return array > 0
    found = array >= half
    if not found.any():
        raise InputError(
            f"{name} nowhere reaches one half (its largest value is {most:.3g}): give a mask, or "
            "probabilities from 0 to 1."
        )
    return found


def label_values(array: np.ndarray) -> list[int]:
    """The whole values above zero in a mask that has no others, in order; none for fractions."""
    if array.dtype == bool:
        return [1] if array.any() else []
    values = array[::2, ::2, ::2].ravel()  # labels of one voxel are no lungs
    values = values[values > 0]
    if not values.size or values.max() > np.iinfo(np.uint16).max:
        return []
    whole = values.astype(np.uint16)
    if (whole != values).any():
        return []
    return np.flatnonzero(np.bincount(whole)).tolist()
