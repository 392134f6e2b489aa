"""One dissimilarity that all steps of a registration are compared by."""

from __future__ import annotations

import torch

from .levels import MindLevel
from .operations import sample_points
from .sampling import dissimilarity, voxel_positions


class Monitor:
    """The dissimilarity at the same points of the finest level's features for every step.

    What an image doesn't show counts nothing, as long as both show ENOUGH of the points: a step
    that leads out of what is seen would match best.
    """

    COUNT = 10000
    ENOUGH = 0.05

    def __init__(self, finest: MindLevel):
        inside = finest.distance.flatten()[finest.active_nodes] < 0
        voxels = finest.voxels[inside].flatten()
        stride = max(1, len(voxels) // self.COUNT)
        self._voxels = voxels[::stride]
        index = voxel_positions(self._voxels, finest.fixed.shape).float()
        self._fixed = finest.fixed.flatten(0, 2)[self._voxels]
        self._position = (index + 0.5) / finest.ratio - 0.5

    def __call__(self, finest: MindLevel, field: torch.Tensor) -> float:
        shift = sample_points(field, self._position) / finest.spacing
        costs = dissimilarity(self._fixed, finest.moving, shift * finest.ratio, self._voxels)
        if finest.seen is None:
            return float(costs.mean())
        fixed, moving = finest.seen[:, None]
        share = sample_points(fixed, self._position) * sample_points(moving, self._position + shift)
        if share.mean() < self.ENOUGH:
            return float(costs.mean())
        return float((costs * share[:, 0]).sum() / share.sum())
