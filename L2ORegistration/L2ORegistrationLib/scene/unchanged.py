"""Whether volumes are still those that were registered: a hardened one would be warped again."""

from __future__ import annotations

import numpy as np
from vtk.util import numpy_support

from ..core.errors import InputError
from . import transforms, volumes
from .history import History
from .nodes import PREFIX

_SAMPLES = 200
_TOLERANCE = 0.51  # of a value; a file may round it
_FAR_MM = 0.01
_PLACE = 3 + 12  # numbers: voxels along each axis, and the matrix from them to the world
_FIXED, _MOVING = PREFIX + "Fixed", PREFIX + "Moving"  # of the browser: what they were like


def remember(history: History, fixed, moving) -> None:
    """Note what the volumes of a new history are like: the place of both, and moving's voxels."""
    described = _described(moving, history.transform)
    for name, numbers in ((_FIXED, _place(fixed)), (_MOVING, described)):
        history.browser.SetAttribute(name, " ".join(f"{number:.8g}" for number in numbers))


def check(transform) -> None:
    """Raise InputError where a volume is no longer as the transform's run found it.

    Of transforms without a history, or with one of an earlier version, nothing is known.
    """
    history, (fixed, moving) = History.of(transform), transforms.roles(transform)
    if history is None:
        return
    noted = history.browser.GetAttribute
    if fixed is not None and not _same(noted(_FIXED), lambda: _place(fixed)):
        raise InputError(
            f"'{fixed.GetName()}' was moved, or put under a transform, since it was registered: "
            "put it back, or register anew."
        )
    if moving is not None and not _same(noted(_MOVING), lambda: _described(moving, transform)):
        raise InputError(
            f"'{moving.GetName()}' was hardened, moved or edited since it was registered, and "
            "would be warped again: load it anew and register that."
        )


def _same(noted: str | None, now) -> bool:
    """Whether what was noted is what now() gives; where nothing was noted, it is taken for it."""
    if not noted:
        return True
    before, found = np.array(noted.split(), dtype=float), now()
    if before.shape != found.shape:
        return False
    off = np.abs(before - found)
    return (off[:_PLACE] <= _FAR_MM).all() and (off[_PLACE:] <= _TOLERANCE).all()


def _place(volume, below=None) -> np.ndarray:
    """Size and place in the world but for a transform."""
    grid = volumes.grid_of(volume, below)
    return np.concatenate((grid.size, grid.matrix[:3].ravel()))


def _described(moving, transform) -> np.ndarray:
    """Its place, and some voxels."""
    values = numpy_support.vtk_to_numpy(moving.GetImageData().GetPointData().GetScalars())
    some = values[np.linspace(0, len(values) - 1, _SAMPLES).astype(int)]
    return np.concatenate((_place(moving, transform), some.astype(float)))
