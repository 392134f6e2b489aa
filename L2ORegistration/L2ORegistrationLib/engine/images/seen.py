"""What an image shows: not beyond it, nor where the scanner reconstructed nothing within it.

A narrow field of view, as of cone-beam CT, cuts through the lungs; its files fill the rest with one
value. What an edge like that seems to say of the motion is nothing about the patient.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ...core.blocks import Blocks
from ...core.geometry import Grid, Volume
from .body import TISSUE

_BLOCK = 2.5  # mm
_LEAST_TISSUE = 0.25  # of what is shown: 0.01 to 0.11 of lungs alone, 0.5 of a narrow field of view
_EDGE = 1  # voxel beside what is not seen: local contrast, sharpened, still feels it


def shown(volume: Volume) -> Volume:
    """Where the scanner has reconstructed something: uint8, 1 there, on the volume's grid.

    All of an image in which somebody has left the lungs alone: their outline is a picture of them.
    """
    blocks = Blocks.of_grid(volume.grid, _BLOCK)
    hu, nothing = blocks.hounsfield(volume.array)
    if not nothing.any() or np.mean(hu[~nothing] > TISSUE) < _LEAST_TISSUE:
        return Volume(np.ones(volume.grid.shape, np.uint8), volume.grid)
    return Volume(blocks.expand(~nothing).astype(np.uint8), volume.grid)


def seen_on(shown_in: Volume, grid: Grid, transform: sitk.Transform) -> np.ndarray:
    """Whether an image shows what lies at transform(x) for each x of grid, and around: bool."""
    where = grid.reference_image(), transform
    there = sitk.Resample(
        shown_in.to_image(), *where, sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8
    )
    seen = sitk.GetArrayFromImage(there) > 0
    if seen.all():
        return seen
    return ndimage.binary_erosion(seen, iterations=_EDGE, border_value=1)
