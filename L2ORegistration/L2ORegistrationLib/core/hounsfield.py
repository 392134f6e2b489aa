"""Whether an image holds Hounsfield units, or those plus 1024, as some files store them."""

from __future__ import annotations

import numpy as np

PADDING = -1500  # HU; whatever lies below was not reconstructed by the scanner
_ENOUGH = 1e6  # voxels to look at
_PAINTED = 0.3  # of all, that are exactly 0


def stored_offset(array: np.ndarray) -> int:
    """Stored value minus HU of an array (z, y, x) of chest CT: 0 or 1024.

    1024 where nothing is dark and water lies at 1024, or where somebody has painted zeros around
    lungs, which hold little of it.
    """
    step = max(1, round((array.size / _ENOUGH) ** (1 / 3)))
    values = array[::step, ::step, ::step]
    values = values[values > PADDING]
    if values.size == 0 or np.percentile(values, 0.5) < -200:
        return 0
    water, painted = np.abs(values - 1024.0) < 200, values == 0
    if water.mean() > 0.05:
        return 1024
    if painted.mean() < _PAINTED:
        return 0
    lung, vessels = np.abs(values - 224.0) < 200, water  # of eight bits there are no vessels
    share = 1 - painted.mean()
    return 1024 if lung.mean() > 10 * vessels.mean() > 0.01 * share else 0
