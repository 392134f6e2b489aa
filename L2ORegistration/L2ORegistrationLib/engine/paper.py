"""The paper's learned optimiser: one level, the displacement predicted anew each iteration."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from .dissimilarity import OFFSETS
from .pyramid import Level
from .update_network import PaperNetwork

# Half-width of the cube of samples, in voxels: 0.015 in the paper's [-1, 1] coordinates of a
# lattice of about 96 voxels.
HALF_WIDTH = 0.71


class PaperOptimiser:
    """Eight iterations of a `PaperNetwork` on a level whose field has the features' grid.

    Channels are in the lattice's normalised coordinates ([-1, 1] from the first to the last voxel
    centre), relative to the field that it starts from, as in the paper.
    """

    def __init__(self, network: PaperNetwork):
        self.network = network

    def iterate(
        self, level: Level, field: torch.Tensor, iterations: int
    ) -> Iterator[tuple[torch.Tensor, float]]:
        """Improve field (3, d, h, w) in mm; yields (field, dissimilarity seen before the step)."""
        start, shape = field, level.shape
        scale = field.new_tensor([2 / (n - 1) for n in shape[::-1]]).view(3, 1, 1, 1)
        fixed, moving = (f.permute(3, 0, 1, 2) for f in (level.fixed, level.moving))
        offsets = field.new_tensor(OFFSETS) * HALF_WIDTH * scale.view(3)
        axes = [torch.linspace(-1, 1, n, device=field.device) for n in shape]
        z, y, x = torch.meshgrid(*axes, indexing="ij")
        base = torch.stack((x, y, z)) + start / level.spacing * scale
        displacement = torch.zeros_like(field)
        hidden = field.new_zeros((self.network.hidden, *shape))
        for _ in range(iterations):
            with torch.no_grad():
                coordinates = displacement[None] + offsets.view(8, 3, 1, 1, 1)
                costs = torch.stack([_cost(fixed, moving, base + c) for c in coordinates])
            inputs = torch.cat((displacement, coordinates.flatten(0, 1), hidden, costs))
            output, memory = self.network(inputs[None])
            displacement, hidden = _averaged(output)[0], memory[0]
            yield start + displacement / scale * level.spacing, float(costs.mean())


def _cost(fixed: torch.Tensor, moving: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Mean squared feature difference (d, h, w) at normalised coordinates (3, d, h, w)."""
    sampled = F.grid_sample(
        moving[None], where.permute(1, 2, 3, 0)[None], padding_mode="zeros", align_corners=True
    )
    return (sampled[0] - fixed).square().mean(dim=0)


def _averaged(field: torch.Tensor) -> torch.Tensor:
    """Twice the mean of 3x3x3 voxels, zero beyond the border."""
    for _ in range(2):
        field = F.avg_pool3d(field, 3, stride=1, padding=1)
    return field
