"""Pairs that move further: a known smooth motion on top of that of a prepared pair.

Phantoms of a few patients hold few motions. Warping the moving features once more makes new ones,
also such as severe breathing has, without preparing a pair anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..engine.field.levels import MindLevel
from ..engine.field.operations import sample

BLOBS = (2, 7)  # at least, fewer than
WIDTHS_MM = (25.0, 60.0)
SIZES_MM = (9.0, 10.0, 18.0)  # standard deviation along x, y, z: breathing is mostly head-to-foot
STRENGTHS = (0.5, 1.5)
STEEPEST = 0.6  # change of the displacement per length; below 1 nothing folds
_INVERSION_STEPS = 12


@dataclass(frozen=True)
class Blobs:
    """A sum of Gaussian displacements: centres, sizes (K, 3) and widths (K,), all in mm."""

    centres: torch.Tensor
    widths: torch.Tensor
    sizes: torch.Tensor

    @classmethod
    def random(cls, level: MindLevel, rng: np.random.Generator) -> Blobs:
        """Some blobs within the level's lungs; points are relative to its first field voxel."""
        inside = (level.distance[0] < 0).nonzero().flip(1).float() * level.spacing
        count = int(rng.integers(*BLOBS))
        sizes = rng.normal(0, SIZES_MM, (count, 3)) * rng.uniform(*STRENGTHS)
        blobs = cls(
            inside[torch.from_numpy(rng.integers(len(inside), size=count))],
            torch.from_numpy(rng.uniform(*WIDTHS_MM, count)).float(),
            torch.from_numpy(sizes).float(),
        )
        motion = blobs(_points(level.shape, level.spacing))
        steepest = max(
            float(torch.diff(motion, dim=axis).norm(dim=-1).max()) / level.spacing
            for axis in range(3)
            if level.shape[axis] > 1
        )
        return replace(blobs, sizes=blobs.sizes * min(1.0, STEEPEST / max(steepest, 1e-6)))

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """The displacement (..., 3) at points (..., 3)."""
        total = torch.zeros_like(points)
        for centre, width, size in zip(self.centres, self.widths, self.sizes):
            apart = (points - centre).square().sum(-1, keepdim=True)
            total += size * torch.exp(-apart / (2 * width**2))
        return total

    def inverse(self, points: torch.Tensor) -> torch.Tensor:
        """The displacement back, for points that have been displaced."""
        back = torch.zeros_like(points)
        for _ in range(_INVERSION_STEPS):
            back = -self(points + back)
        return back


def moved_further(
    level: MindLevel, points: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator
) -> tuple[MindLevel, torch.Tensor]:
    """The level with its moving image displaced by random blobs, and the targets that follow.

    points (N, 3) and their true displacements targets (N, 3), mm, in the frame of level.origin. The
    level must be a whole one, not a crop. MIND itself is moved, not the image: it turns little.
    """
    blobs = Blobs.random(level, rng)
    spacing = level.spacing / level.ratio
    corner = (spacing - level.spacing) / 2  # the first feature voxel, seen from the field's
    size = level.moving.shape[:3]
    back = blobs.inverse(_points(size, spacing) + corner).permute(3, 0, 1, 2) / spacing
    moving = sample(level.moving.permute(3, 0, 1, 2), back).permute(1, 2, 3, 0).contiguous()
    back = blobs.inverse(_points(level.shape, level.spacing)).permute(3, 0, 1, 2) / level.spacing
    distance = sample(level.surface[:1], back)
    gradient = torch.stack(torch.gradient(distance[0], spacing=level.spacing)[::-1])
    further = blobs(points + targets - points.new_tensor(level.origin))
    moved = replace(level, moving=moving, surface=torch.cat((distance, gradient)))
    return moved, targets + further


def _points(size, spacing: float) -> torch.Tensor:
    """The voxels of a grid (d, h, w) in mm from its first one, (d, h, w, 3), (x, y, z)."""
    axes = [torch.arange(n) * spacing for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
