"""The learned optimiser: a recurrent network that turns dissimilarities into steps of the field.

Each iteration takes the regularised Gauss-Newton step and lets the network, which also sees the
dissimilarities sampled around the field, correct it: the network starts from what classical
optimisation would do and learns what it gets wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..field.levels import MindLevel
from .gauss_newton import gauss_newton_step
from .networks import L2ONetwork
from .penalty import Penalty

STIFFNESS = 1e-3  # of the Gauss-Newton step at 6 mm field spacing, see gauss_newton.py
DISPLACEMENT_SCALE = 0.25  # brings displacements of a few field voxels to the size of the costs
COST_SCALE = 10.0


class L2OOptimiser:
    """Steps of one level by a `L2ONetwork`, which can serve several levels."""

    def __init__(self, network: L2ONetwork):
        self.network = network

    def iterate(
        self, level: MindLevel, field: torch.Tensor, iterations: int
    ) -> Iterator[tuple[torch.Tensor, float]]:
        """Improve field (3, d, h, w) in mm on the level's field grid.

        Yields (field, dissimilarity): the field after each iteration and the mean dissimilarity
        in the active region that was seen *before* it.
        """
        hidden = field.new_zeros((self.network.hidden, *level.shape))
        for number in range(iterations):
            inputs, classical, dissimilarity = observe(level, field.detach(), hidden)
            correction, hidden = (output[0] for output in self.network(inputs[None]))
            # With an empty hidden state the network explores, which first raises the error: the
            # first iteration takes the Gauss-Newton step alone and only fills the hidden state.
            step = classical + correction if number else classical
            field = field + step * level.spacing
            yield field, dissimilarity


def observe(
    level: MindLevel, field: torch.Tensor, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The network's input for a field (3, d, h, w) in mm.

    Returns the input (C, d, h, w), channels as `L2ONetwork` names them, the Gauss-Newton step
    (3, d, h, w) in field voxels, at most MAX_STEP each way, and the mean dissimilarity. No gradient
    flows through what is observed.
    """
    with torch.no_grad():
        costs, (_, system) = level.sample_costs(field), level.normal_equations(field)
        # A finer field can bend over fewer millimetres, so its bends must cost more.
        stiffness = STIFFNESS * (6.0 / level.spacing) ** 2
        step = gauss_newton_step(level, field, system, Penalty(stiffness)) / level.spacing
        step.clamp_(-L2ONetwork.MAX_STEP, L2ONetwork.MAX_STEP)
        seen = torch.cat((costs.flatten(1), costs.mean(dim=1)), dim=1) * COST_SCALE
        seen = torch.cat((seen, torch.ones_like(seen[:, :1])), dim=1)
        dense = seen.new_zeros((level.distance.numel(), seen.shape[1]))
        dense[level.active_nodes] = seen
        observed = torch.cat(
            (
                dense.T.view(-1, *level.shape),
                step,
                field / level.spacing * DISPLACEMENT_SCALE,
                level.surface_force(field),
                level.distance / 15.0,
            )
        )
    return torch.cat((observed, hidden)), step, float(costs.mean())
