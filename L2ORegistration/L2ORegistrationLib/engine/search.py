"""Discrete search over large displacements: finds the basin from which an optimiser converges.

Every block of the coarsest level tries all displacements of a box (breathing is mostly
head-to-foot, so the box is), and a few alternating steps bring the blocks' choices and a smooth
field together: the choice minimises dissimilarity + distance to the smooth field, the smooth field
is the blurred choice, and the coupling grows.
"""

from __future__ import annotations

import torch

from .pyramid import Level
from .update_network import smooth

RADIUS = (3, 4, 5)  # feature voxels to each side along (x, y, z)
COUPLING = (6e-5, 2e-4, 6e-4, 2e-3, 6e-3, 2e-2)  # dissimilarity per squared feature voxel


def discrete_search(level: Level) -> torch.Tensor:
    """The field (3, d, h, w) in mm on the level's field grid; smooth, defined everywhere."""
    with torch.no_grad():
        spacing = level.spacing / 2
        steps = [torch.arange(-r, r + 1, device=level.fixed.device) for r in RADIUS]
        z, y, x = torch.meshgrid(*steps[::-1], indexing="ij")
        candidates = torch.stack((x, y, z), dim=-1).flatten(0, 2)
        costs = _costs(level, candidates)
        candidates = candidates.to(costs)
        weight = costs.new_full((level.distance.numel(),), 1e-3)
        weight[level.blocks] = 1.0
        choice = candidates[costs.argmin(dim=0)]
        for coupling in COUPLING:
            field = _spread(choice, weight, level)
            near = field.flatten(1)[:, level.blocks].T
            apart = torch.cdist(candidates, near).square_()
            choice = candidates[(costs + coupling * apart).argmin(dim=0)]
        return _spread(choice, weight, level) * spacing


def _costs(level: Level, candidates: torch.Tensor) -> torch.Tensor:
    """Mean dissimilarity of each active block at each candidate shift: (candidates, blocks)."""
    depth, height, width, channels = level.fixed.shape
    rx, ry, rz = RADIUS
    index = level.voxels.flatten()
    own = level.fixed.flatten(0, 2)[index]
    # Repeat the edge so that every shift of every voxel is a plain offset into one flat array.
    padded = torch.nn.functional.pad(
        level.moving.permute(3, 0, 1, 2)[None], (rx, rx, ry, ry, rz, rz), mode="replicate"
    )[0]
    padded = padded.permute(1, 2, 3, 0).reshape(-1, channels)
    plane, row = (height + 2 * ry) * (width + 2 * rx), width + 2 * rx
    iz = torch.div(index, height * width, rounding_mode="floor")
    iy = torch.div(index, width, rounding_mode="floor") % height
    base = (iz + rz) * plane + (iy + ry) * row + index % width + rx
    offsets = candidates[:, 2] * plane + candidates[:, 1] * row + candidates[:, 0]
    costs = own.new_empty((len(candidates), len(level.blocks)))
    for i, offset in enumerate(offsets.tolist()):
        difference = padded.index_select(0, base + offset).sub_(own)
        costs[i] = difference.square_().view(-1, 8 * channels).mean(dim=1)
    return costs


def _spread(choice: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
    """The blocks' choices (blocks, 3) blurred over the whole field grid, (3, d, h, w)."""
    dense = choice.new_zeros((len(weight), 4))
    dense[level.blocks, :3] = choice
    dense[:, 3] = weight
    dense = dense.T.reshape(1, 4, *level.shape)
    for _ in range(3):
        dense = smooth(dense)
    # Far from any block only the zero vectors' small weight is left: blur on until values arrive.
    return dense[0, :3] / dense[0, 3:]
