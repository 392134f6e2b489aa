"""Deep keypoint supervision: the error at keypoints after every iteration, later ones more."""

from __future__ import annotations

import torch

from ..engine.field.levels import MindLevel
from ..engine.field.operations import sample_points


def keypoint_loss(
    fields: list[torch.Tensor],
    level: MindLevel,
    points: torch.Tensor,
    targets: torch.Tensor,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """The weighted mean distance (in field voxels) between the fields and the truth at keypoints.

    fields: (3, d, h, w) in mm, one for each iteration; points (N, 3) and their true displacements
    targets (N, 3), mm, in the frame of the level's origin. Iteration j (from 0) weighs j + 1, as
    in the paper; weights sum to 1. start: where given, the field before the first iteration: every
    iteration that is worse than the one before it costs as much again as it is worse, because
    early iterations, which weigh little, would else learn to try things out in the user's sight.
    """
    position = (points - points.new_tensor(level.origin)) / level.spacing
    before = [] if start is None else [start]
    misses = [sample_points(field, position) - targets for field in (*before, *fields)]
    count = max(len(points), 1)  # a crop can be without keypoints: then there is nothing to learn
    errors = torch.stack([miss.square().sum(1).add(1e-6).sqrt().sum() for miss in misses])
    errors = errors / (count * level.spacing)
    weights = torch.arange(1.0, len(fields) + 1, device=errors.device)
    loss = (weights * errors[len(before) :]).sum() / weights.sum()
    return loss if start is None else loss + errors.diff().relu().sum()


def inside(level: MindLevel, points: torch.Tensor) -> torch.Tensor:
    """Which points (N, 3), mm, lie within the level's field grid, a voxel or more from its edge."""
    position = (points - points.new_tensor(level.origin)) / level.spacing
    last = points.new_tensor(level.shape[::-1]) - 1
    return ((position >= 1) & (position <= last - 1)).all(dim=1)
