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


def describe(fixed, moving, below) -> dict[str, str]:
    """What two volumes are like: the place and some voxels of each; for remember().

    below: the transform that the registration is to replace, None for none.
    """
    found = {_FIXED: _described(fixed), _MOVING: _described(moving, below)}
    return {name: " ".join(f"{number:.8g}" for number in found[name]) for name in found}


def remember(history: History, described: dict[str, str]) -> None:
    """Note what the volumes of a new history were like."""
    for name, numbers in described.items():
        history.browser.SetAttribute(name, numbers)


def check(transform) -> None:
    """Raise InputError where a volume is no longer as the transform's run found it.

    Of transforms without a history, or with one of an earlier version, nothing is known.
    """
    history, (fixed, moving) = History.of(transform), transforms.roles(transform)
    if history is None:
        return
    noted = history.browser.GetAttribute
    if fixed is not None and not _same(noted(_FIXED), lambda: _described(fixed)):
        raise InputError(
            f"'{fixed.GetName()}' was moved, edited or put under a transform since it was "
            "registered, or shows another phase: put it back, or register anew."
        )
    if moving is not None and not _same(noted(_MOVING), lambda: _described(moving, transform)):
        raise InputError(
            f"'{moving.GetName()}' was hardened, moved or edited since it was registered, or shows "
            "another phase: show that one again which was registered, or load it anew and register "
            "that."
        )


def _same(noted: str | None, now) -> bool:
    """Whether what was noted is what now() gives; where nothing was noted, it is taken for it."""
    if not noted:
        return True
    before = np.array(noted.split(), dtype=float)
    off = np.abs(before - now()[: len(before)])  # an earlier version noted no voxels of fixed
    return (off[:_PLACE] <= _FAR_MM).all() and (off[_PLACE:] <= _TOLERANCE).all()


def _described(volume, below=None) -> np.ndarray:
    """Size and place in the world but for a transform, and some voxels."""
    grid = volumes.grid_of(volume, below)
    values = numpy_support.vtk_to_numpy(volume.GetImageData().GetPointData().GetScalars())
    some = values[np.linspace(0, len(values) - 1, _SAMPLES).astype(int)].astype(float)
    some[~np.isfinite(some)] = 0  # of which none is like itself
    return np.concatenate((grid.size, grid.matrix[:3].ravel(), some))
