"""The paper's learned optimiser: one level, the displacement predicted anew each iteration."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ..field.levels import MindLevel
from ..field.operations import sample
from .networks import OFFSETS, Falta2022Network

# The paper's coordinates run from -1 to 1 over about 96 voxels; ours mean the same length on any
# lattice, so that the network can be trained on crops and run on lungs of any size.
UNIT_PER_VOXEL = 2 / 95
HALF_WIDTH = 0.015  # of the cube of samples, in these units: 0.71 voxels


class Falta2022Optimiser:
    """Eight iterations of a `Falta2022Network` on a level whose field has the features' grid.

    Channels are in the paper's normalised coordinates, relative to the field that it starts from.
    """

    def __init__(self, network: Falta2022Network):
        self.network = network

    def iterate(
        self, level: MindLevel, field: torch.Tensor, iterations: int
    ) -> Iterator[tuple[torch.Tensor, float]]:
        """Improve field (3, d, h, w) in mm; yields (field, dissimilarity seen before the step)."""
        start = field / level.spacing
        fixed, moving = (f.permute(3, 0, 1, 2) for f in (level.fixed, level.moving))
        offsets = (field.new_tensor(OFFSETS) * HALF_WIDTH).view(8, 3, 1, 1, 1)
        displacement = torch.zeros_like(field)
        hidden = field.new_zeros((self.network.hidden, *level.shape))
        for _ in range(iterations):
            with torch.no_grad():
                coordinates = displacement[None] + offsets
                costs = torch.stack(
                    [
                        (sample(moving, start + c / UNIT_PER_VOXEL) - fixed).square().mean(dim=0)
                        for c in coordinates
                    ]
                )
            inputs = torch.cat((displacement, coordinates.flatten(0, 1), hidden, costs))
            output, memory = self.network(inputs[None])
            displacement, hidden = _averaged(output)[0], memory[0]
            yield (start + displacement / UNIT_PER_VOXEL) * level.spacing, float(costs.mean())


def _averaged(field: torch.Tensor) -> torch.Tensor:
    """Twice the mean of 3x3x3 voxels, zero beyond the border."""
    for _ in range(2):
        field = F.avg_pool3d(field, 3, stride=1, padding=1)
    return field
