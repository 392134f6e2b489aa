"""The learned optimiser: a recurrent network that turns dissimilarities into steps of the field."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .pyramid import Level
from .update_network import PyramidNetwork

DISPLACEMENT_SCALE = 0.25  # brings displacements of a few field voxels to the size of the costs
COST_SCALE = 10.0


class LearnedOptimiser:
    """Coarse to fine with one shared `PyramidNetwork`; yields a field after every iteration."""

    def __init__(self, network: PyramidNetwork):
        self.network = network

    def iterate(
        self, level: Level, field: torch.Tensor, iterations: int
    ) -> Iterator[tuple[torch.Tensor, float]]:
        """Improve field (3, d, h, w) in mm on the level's field grid.

        Yields (field, dissimilarity): the field after each iteration and the mean dissimilarity
        in the active region that was seen *before* it.
        """
        hidden = field.new_zeros((self.network.hidden, *level.shape))
        for _ in range(iterations):
            inputs, dissimilarity = observe(level, field.detach(), hidden)
            step, hidden = self.network(inputs[None])
            field, hidden = field + step[0] * level.spacing, hidden[0]
            yield field, dissimilarity


def observe(
    level: Level, field: torch.Tensor, hidden: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """The network's input (96, d, h, w) for a field (3, d, h, w) in mm, and the mean dissimilarity."""
    with torch.no_grad():
        costs = level.costs(field)
        stacked = costs.new_zeros((level.distance.numel(), 73))
        stacked[level.blocks, :64] = costs.flatten(1)
        stacked[level.blocks, 64:72] = costs.mean(dim=1)
        stacked[:, :72] *= COST_SCALE
        stacked[level.blocks, 72] = 1.0
        observed = torch.cat(
            (
                stacked.T.view(73, *level.shape),
                field / level.spacing * DISPLACEMENT_SCALE,
                level.surface_pull(field),
                level.distance / 15.0,
            )
        )
    return torch.cat((observed, hidden)), float(costs.mean())
