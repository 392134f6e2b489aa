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

# Each pass: feature voxels to each side along (x, y, z), and how often choices are blurred.
PASSES = (((3, 4, 5), 4), ((2, 2, 2), 2))
COUPLING = (6e-5, 2e-4, 6e-4, 2e-3, 6e-3, 2e-2)  # dissimilarity per squared feature voxel


def discrete_search(level: Level) -> torch.Tensor:
    """The field (3, d, h, w) in mm on the level's field grid; smooth, defined everywhere.

    A second, smaller pass looks around the first one's result: where a region moves much further
    than its neighbours, the first pass only gets half of the way.
    """
    with torch.no_grad():
        weight = level.distance.new_full((level.distance.numel(),), 1e-3)
        weight[level.blocks] = 1.0
        field = torch.zeros((3, *level.shape), device=weight.device)
        for radius, blurs in PASSES:
            steps = [torch.arange(-r, r + 1, device=weight.device) for r in radius]
            z, y, x = torch.meshgrid(*steps[::-1], indexing="ij")
            candidates = torch.stack((x, y, z), dim=-1).flatten(0, 2)
            base = field.flatten(1)[:, level.blocks].T.round()
            costs = _costs(level, candidates, base.long())
            candidates = candidates.to(costs)
            choice = base + candidates[costs.argmin(dim=0)]
            for coupling in COUPLING:
                field = _spread(choice, weight, level, blurs)
                near = field.flatten(1)[:, level.blocks].T - base
                apart = torch.cdist(candidates, near).square_()
                choice = base + candidates[(costs + coupling * apart).argmin(dim=0)]
            field = _spread(choice, weight, level, blurs)
        return field * (level.spacing / 2)


def _costs(level: Level, candidates: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Mean dissimilarity of each active block at base + each shift: (candidates, blocks).

    candidates: (K, 3) and base: (blocks, 3), whole feature voxels (x, y, z).
    """
    depth, height, width, channels = level.fixed.shape
    index = level.voxels.flatten()
    own = level.fixed.flatten(0, 2)[index]
    # Repeat the edge so that every shift of every voxel is a plain offset into one flat array.
    px, py, pz = (base.abs().amax(dim=0) + candidates.amax(dim=0)).tolist()
    padded = torch.nn.functional.pad(
        level.moving.permute(3, 0, 1, 2)[None], (px, px, py, py, pz, pz), mode="replicate"
    )[0]
    padded = padded.permute(1, 2, 3, 0).reshape(-1, channels)
    row = width + 2 * px
    strides = torch.tensor([1, row, row * (height + 2 * py)], device=index.device)
    iz = torch.div(index, height * width, rounding_mode="floor")
    iy = torch.div(index, width, rounding_mode="floor") % height
    voxel = torch.stack((index % width + px, iy + py, iz + pz), dim=1)
    voxel += base.repeat_interleave(level.voxels.shape[1], dim=0)
    first = (voxel * strides).sum(dim=1)
    costs = own.new_empty((len(candidates), len(level.blocks)))
    for i, offset in enumerate((candidates * strides).sum(dim=1).tolist()):
        difference = padded.index_select(0, first + offset).sub_(own)
        costs[i] = difference.square_().view(len(level.blocks), -1).mean(dim=1)
    return costs


def _spread(choice: torch.Tensor, weight: torch.Tensor, level: Level, blurs: int) -> torch.Tensor:
    """The blocks' choices (blocks, 3) blurred over the whole field grid, (3, d, h, w).

    weight: (d h w,) of each field voxel: next to nothing, but not zero, where there is no block.
    """
    dense = choice.new_zeros((len(weight), 4))
    dense[level.blocks, :3] = choice
    dense[:, 3] = weight
    dense = dense.T.reshape(1, 4, *level.shape)
    for _ in range(blurs):
        dense = smooth(dense)
    return dense[0, :3] / dense[0, 3:]
