"""Whether scans, masks or regions were mixed up, as far as their voxels tell.

Nothing here is an error: a scan may be registered with itself on purpose.
"""

from __future__ import annotations

import numpy as np

from .geometry import Grid, Volume
from .hounsfield import stored_offset

_SPACING_MM, _SHELL = 3.0, 2  # of the lattice that is looked at; its layers on either side
_TISSUE_HU = -500.0  # what is denser is no air-filled lung
_LEAST = 0.5  # of what lies around lungs is tissue, and of what lies in them is not
_BETTER = 1.4  # times; right masks reached 1.2, with a collapsed lung marked in one scan only


def doubts(
    fixed: Volume, moving: Volume, fixed_mask: Volume | None, moving_mask: Volume | None
) -> list[str]:
    """What looks mixed up in what was given, a sentence each; None: a mask that was not given."""
    found = [same_scan(fixed, moving)]
    for name, mask, own, other in (
        ("fixed", fixed_mask, fixed, moving),
        ("moving", moving_mask, moving, fixed),
    ):
        if mask is not None:
            found.append(of_other_scan(mask, own, other, f"The {name} mask"))
    return [sentence for sentence in found if sentence]


def same_scan(fixed: Volume, moving: Volume) -> str:
    """A sentence where both scans are one, voxel by voxel; else empty."""
    if not fixed.grid.matches(moving.grid) or not np.array_equal(fixed.array, moving.array):
        return ""
    return (
        "Fixed and moving are the same image: nothing moves between them, and the verdict says "
        "nothing about other scans. Give two scans, unless this is a test."
    )


def of_other_scan(mask: Volume, own: Volume, other: Volume, name: str) -> str:
    """A sentence where what marks lungs in `own` fits those in `other` clearly better; else empty.

    mask: lungs or parts of them, not zero there; own, other: CT in HU, or HU + 1024; name: how the
    sentence begins. How well it fits, the share of tissue just beyond its outline tells, less that
    just within. Where lungs hardly move, both fit, and it doesn't matter.
    """
    here, there = _fit(mask, (own, other))
    if there < _LEAST or there < _BETTER * here:
        return ""
    return (
        f"{name} fits the lungs of the other scan clearly better than those of its own: was it "
        "drawn there, or were two exchanged?"
    )


def _fit(mask: Volume, scans: tuple[Volume, Volume]) -> list[float]:
    from scipy import ndimage  # takes half a second, for which Slicer would wait when it starts

    margin = (_SHELL + 1) * _SPACING_MM
    points = Grid.covering(mask.marked_points(most=100_000), _SPACING_MM, margin).points()
    inside = mask.sample(points, order=0, outside=0.0) > 0
    seen = scans[0].grid.contains(points) & scans[1].grid.contains(points)
    within = inside & ~ndimage.binary_erosion(inside, iterations=_SHELL) & seen
    beyond = ndimage.binary_dilation(inside, iterations=_SHELL) & ~inside & seen
    if not (within.any() and beyond.any()):
        return [0.0, 0.0]
    found = []
    for scan in scans:
        limit = _TISSUE_HU + stored_offset(scan.array)
        dense = [(scan.sample(points[s], order=0) > limit).mean() for s in (beyond, within)]
        found.append(float(dense[0] - dense[1]))
    return found
