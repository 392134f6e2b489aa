"""Deep keypoint supervision: the error at keypoints after every iteration, later ones more."""

from __future__ import annotations

import torch

from ..engine.pyramid import Level, sample_points


def keypoint_loss(
    fields: list[torch.Tensor], level: Level, points: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The weighted mean distance (in field voxels) between the fields and the truth at keypoints.

    fields: (3, d, h, w) in mm, one for each iteration; points (N, 3) and their true displacements
    targets (N, 3), mm, in the frame of the level's origin. Iteration j (from 0) weighs j + 1, as
    in the paper; weights sum to 1.
    """
    position = (points - points.new_tensor(level.origin)) / level.spacing
    total = sum(range(1, len(fields) + 1))
    misses = [sample_points(field, position) - targets for field in fields]
    losses = [
        weight * miss.square().sum(1).add(1e-6).sqrt().sum()
        for weight, miss in enumerate(misses, 1)
    ]
    # A crop can be without keypoints: then there is nothing to learn from it.
    return sum(losses) / (total * level.spacing * max(len(points), 1))


def inside(level: Level, points: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
    """Which points (N, 3), mm, lie within the level's field grid, `margin` voxels from its edge."""
    position = (points - points.new_tensor(level.origin)) / level.spacing
    last = points.new_tensor(level.shape[::-1]) - 1
    return ((position >= margin) & (position <= last - margin)).all(dim=1)
