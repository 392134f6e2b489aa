"""Whether a volume is still the one that was registered: a hardened one would be warped again."""

from __future__ import annotations

import numpy as np
from vtk.util import numpy_support

from ..core.errors import InputError
from . import transforms, volumes
from .history import PREFIX, History

_SAMPLES = 200
_TOLERANCE = 0.51  # of a value; a file may round it
_FAR_MM = 0.01
_PLACE = 3 + 12  # numbers: voxels along each axis, and the matrix from them to the world
_NAME = PREFIX + "Moving"  # of the browser: what the moving volume was like


def remember(history: History, moving) -> None:
    """Note what the moving volume of a new history is like."""
    numbers = _described(moving, history.transform)
    history.browser.SetAttribute(_NAME, " ".join(f"{number:.8g}" for number in numbers))


def check(transform) -> None:
    """Raise InputError where the moving volume is no longer as the transform's run found it.

    Of transforms without a history, or with one of an earlier version, nothing is known.
    """
    history, moving = History.of(transform), transforms.roles(transform)[1]
    noted = history.browser.GetAttribute(_NAME) if history is not None else None
    if not noted or moving is None:
        return
    before = np.array(noted.split(), dtype=float)
    now = _described(moving, transform)
    same = before.shape == now.shape
    if same:
        off = np.abs(before - now)
        same = (off[:_PLACE] <= _FAR_MM).all() and (off[_PLACE:] <= _TOLERANCE).all()
    if not same:
        raise InputError(
            f"'{moving.GetName()}' was hardened, moved or edited since it was registered, and "
            "would be warped again: load it anew and register that."
        )


def _described(moving, transform) -> np.ndarray:
    """Size, place in the world but for the transform, and some voxels."""
    grid = volumes.grid_of(moving, transform)
    values = numpy_support.vtk_to_numpy(moving.GetImageData().GetPointData().GetScalars())
    some = values[np.linspace(0, len(values) - 1, _SAMPLES).astype(int)]
    return np.concatenate((grid.size, grid.matrix[:3].ravel(), some.astype(float)))
