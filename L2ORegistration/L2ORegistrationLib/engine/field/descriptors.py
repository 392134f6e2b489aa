"""What the stages of a method compare, a function each, as the catalogue names them."""

from __future__ import annotations

import torch

from ..images.features import pool
from .levels import ContrastLevel, MindLevel
from .lung_images import COARSE, FACTOR, LungImages
from .pyramid import FeaturePyramid


def coarse_mind(pyramid: FeaturePyramid, field: torch.Tensor) -> MindLevel:
    """MIND at four times the working spacing, field twice as coarse: usually 6 and 12 mm."""
    return pyramid.mind_level(4)


def fine_mind(pyramid: FeaturePyramid, field: torch.Tensor) -> MindLevel:
    """MIND at twice the working spacing, field twice as coarse: usually 3 and 6 mm."""
    return pyramid.mind_level(2)


def masked_mind(pyramid: FeaturePyramid, field: torch.Tensor) -> MindLevel:
    """MIND within the lungs at twice the working spacing, field on the same grid (Falta 2022)."""
    return pyramid.masked_mind_level()


def coarse_masked_mind(pyramid: FeaturePyramid, field: torch.Tensor) -> MindLevel:
    """The same at four times the working spacing."""
    return pyramid.masked_mind_level(COARSE)


def lung_images(pyramid: FeaturePyramid, field: torch.Tensor, factor: int = FACTOR) -> LungImages:
    """Both lungs as images at twice the working spacing, field on the same grid."""
    images, distances = (
        [pool(part[None], factor)[0] for part in parts]
        for parts in (pyramid.images, pyramid.distances)
    )
    lattice = pyramid.grid.coarsened(factor)
    return LungImages.of(images, distances, lattice.spacing[0], lattice.origin, factor)


def coarse_lung_images(pyramid: FeaturePyramid, field: torch.Tensor) -> LungImages:
    """The same at four times the working spacing."""
    return lung_images(pyramid, field, COARSE)


def contrast(pyramid: FeaturePyramid, field: torch.Tensor) -> ContrastLevel:
    """Sharpened local contrast at the working spacing; the field, mm, carries the fixed lungs."""
    return pyramid.contrast_level(field)


def closer_contrast(pyramid: FeaturePyramid, field: torch.Tensor) -> ContrastLevel:
    """The same; where there are closer images, these are what is looked at not roughly."""
    return pyramid.closer_contrast_level(field)
