"""What all peers are given alike: the fixed lungs as a mask, and scans that do not lie far apart.

The peers know nothing of scans far apart: there, the lungs' centres are brought together first,
which costs no time worth counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from ...core.geometry import DisplacementField, Grid, Volume

if TYPE_CHECKING:
    from ..scan import Scan

APART_MM = 20.0  # centres of the lungs further apart than this are aligned first
MASK_DILATION = 3  # voxels, of the fixed mask: the lung's surface shows the motion as well


@dataclass(frozen=True)
class Prepared:
    """mask: the fixed lungs and a little around them, on fixed's grid; moving: where it is looked
    for; shift: (3,) LPS mm, the way from there to where it lies.
    """

    mask: Volume
    moving: Volume
    shift: np.ndarray

    def field(self, array: np.ndarray, grid: Grid) -> DisplacementField:
        """What a peer found, (d, h, w, 3) in mm, LPS, as the motion of the scan as it lies."""
        return DisplacementField(array.astype(np.float32) + self.shift.astype(np.float32), grid)


def prepared(scan: Scan) -> Prepared:
    """What a peer gets of a scan."""
    from ...engine.images.lungs import lung_mask

    fixed = scan.fixed_mask or lung_mask(scan.fixed)
    moving = scan.moving_mask or lung_mask(scan.moving)
    way = _centre(moving) - _centre(fixed)
    shift = way if np.linalg.norm(way) > APART_MM else np.zeros(3)
    if not fixed.grid.matches(scan.fixed.grid):
        inside = fixed.sample(scan.fixed.grid.points(), order=0, outside=0.0) > 0
        fixed = Volume(inside, scan.fixed.grid)
    ball = ndimage.generate_binary_structure(3, 1)
    mask = ndimage.binary_dilation(fixed.array, ball, iterations=MASK_DILATION)
    grid = scan.moving.grid
    moved = Grid(grid.size, grid.spacing, tuple(np.subtract(grid.origin, shift)), grid.direction)
    return Prepared(
        Volume(mask.astype(np.uint8), fixed.grid), Volume(scan.moving.array, moved), shift
    )


def _centre(mask: Volume) -> np.ndarray:
    return mask.marked_points().mean(axis=0)
