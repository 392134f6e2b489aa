"""Both lungs as images, what a network compares that predicts a field at once.

A voxel is 0 outside the lungs and in air, 1 in water. The field lives on the images' own lattice,
twice as coarse as the working grid: with its usual 1.5 mm about the 96 x 96 x 104 voxels on which
the networks were published. Networks think in units of 48 such voxels, half of 96; one that is
trained on coarser voxels, which takes an eighth of the time, sees half as many in a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .operations import interpolated, sample

FACTOR, COARSE = 2, 4  # working voxels
UNIT_VOXELS = 48.0  # a network's unit of length; the same on lungs of any size


@dataclass
class LungImages:
    """fixed, moving: (d, h, w), density within the lungs; spacing: mm; origin: first voxel, LPS mm;
    unit: voxels in a network's unit of length.

    Fields are (3, d, h, w), components (x, y, z) in mm LPS, from fixed to moving points.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    spacing: float
    origin: tuple[float, float, float]
    unit: float = UNIT_VOXELS

    @classmethod
    def of(
        cls,
        images: Sequence[torch.Tensor],
        distances: Sequence[torch.Tensor],
        spacing: float,
        origin: tuple[float, float, float],
        factor: int = FACTOR,
    ) -> LungImages:
        """From fixed and moving (d, h, w), 1 is 1000 HU, and signed distances to their lungs, mm.

        All lie on the lattice of `spacing` and `origin`, whose voxels are `factor` working ones.
        """
        parts = (
            (image + 1) * (distance < 0) for image, distance in zip(images, distances, strict=True)
        )
        return cls(*parts, spacing, origin, UNIT_VOXELS * FACTOR / factor)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(d, h, w) of the images and the field."""
        return tuple(self.fixed.shape)

    def sample_field(self, field: torch.Tensor) -> torch.Tensor:
        """A field of a level (3, ., ., .), mm, nested with this lattice, on this lattice."""
        return interpolated(field, self.shape)

    def moved(self, field: torch.Tensor) -> torch.Tensor:
        """The moving image (d, h, w) where a field (3, d, h, w), mm, takes the fixed voxels."""
        return sample(self.moving[None], field / self.spacing)[0]

    def mismatch(self, moving: torch.Tensor) -> float:
        """The mean squared difference of the fixed image and another within the fixed lungs."""
        lungs = self.fixed > 0
        return float((self.fixed - moving)[lungs].square().mean()) if lungs.any() else 0.0

    def after(self, field: torch.Tensor, further: torch.Tensor) -> torch.Tensor:
        """One motion after another: a field (3, d, h, w) is taken where `further` leads; mm."""
        return further + sample(field, further / self.spacing)


def padded(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """image (..., d, h, w) with zeros at the ends of its axes, sizes multiples of `multiple`."""
    ends = [end for n in reversed(image.shape[-3:]) for end in (0, -n % multiple)]
    return F.pad(image, ends)
