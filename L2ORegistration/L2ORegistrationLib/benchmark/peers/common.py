"""What all peers are given alike: HU, the fixed lungs as a mask, and scans not far apart.

The peers know nothing of scans far apart: there, the lungs' centres are brought together first,
which costs no time worth counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from ...core.geometry import DisplacementField, Grid, Volume
from ...core.hounsfield import stored_offset

if TYPE_CHECKING:
    from ..scan import Scan

APART_MM = 20.0  # centres of the lungs further apart than this are aligned first
MASK_DILATION = 3  # voxels, of the fixed mask: the lung's surface shows the motion as well


@dataclass(frozen=True)
class Prepared:
    """fixed, moving: in HU, moving where it is looked for; mask: the fixed lungs and a little
    around them, on fixed's grid, for those that take one; shift: (3,) LPS mm, the way from where
    moving is looked for to where it lies.
    """

    fixed: Volume
    mask: Volume
    moving: Volume
    shift: np.ndarray

    def field(self, array: np.ndarray, grid: Grid) -> DisplacementField:
        """What a peer found, (d, h, w, 3) in mm, LPS, as the motion of the scan as it lies."""
        return DisplacementField(array.astype(np.float32) + self.shift.astype(np.float32), grid)


def prepared(scan: Scan) -> Prepared:
    """What a peer gets of a scan."""
    from ...engine.images.lungs import lung_mask

    fixed = scan.region
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
        _in_hu(scan.fixed),
        Volume(mask.astype(np.uint8), fixed.grid),
        Volume(_in_hu(scan.moving).array, moved),
        shift,
    )


def _in_hu(image: Volume) -> Volume:
    """The image, whether it holds HU or HU + 1024."""
    offset = stored_offset(image.array)
    return Volume(image.array - offset, image.grid) if offset else image


def _centre(mask: Volume) -> np.ndarray:
    return mask.marked_points().mean(axis=0)
