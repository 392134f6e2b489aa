"""What the stages of a method compare, a function each, as the catalogue names them."""

from __future__ import annotations

import torch

from .levels import ContrastLevel, Level, Scans


def coarse_mind(scans: Scans, field: torch.Tensor) -> Level:
    """MIND at four times the working spacing, field twice as coarse: usually 6 and 12 mm."""
    return scans.mind_level(4)


def fine_mind(scans: Scans, field: torch.Tensor) -> Level:
    """MIND at twice the working spacing, field twice as coarse: usually 3 and 6 mm."""
    return scans.mind_level(2)


def masked_mind(scans: Scans, field: torch.Tensor) -> Level:
    """MIND within the lungs at twice the working spacing, field on the same grid (Falta 2022)."""
    return scans.paper_level()


def contrast(scans: Scans, field: torch.Tensor) -> ContrastLevel:
    """Local contrast at the working spacing; the field, in mm, carries the fixed lungs along."""
    return scans.contrast_level(field)
