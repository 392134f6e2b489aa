"""Discrete search over large displacements: finds the basin from which an optimiser converges.

Every block of the coarsest level tries all displacements of a box (breathing is mostly
head-to-foot, so the box is), and a few alternating steps bring the blocks' choices and a smooth
field together: the choice minimises dissimilarity + distance to the smooth field, the smooth field
is a thin plate through the choices, the coupling grows and the plate softens.
"""

from __future__ import annotations

import torch

from ..field.levels import MindLevel
from ..field.operations import smooth
from ..field.sampling import voxel_positions
from ..optimise.gauss_newton import gauss_newton_step
from ..optimise.penalty import Penalty, holding

PASSES = ((3, 4, 5), (2, 2, 2))  # feature voxels to each side along (x, y, z)
# For each alternation: the choice's coupling to the smooth field (dissimilarity per squared feature
# voxel) and the smooth field's stiffness (squared feature voxels per squared second difference).
SCHEDULE = ((6e-5, 100), (2e-4, 30), (6e-4, 10), (2e-3, 3), (6e-3, 1), (2e-2, 0.5))
SUPPORTED = 3  # alternations in which a block's dissimilarities are averaged with its neighbours'
_CHUNK = 64  # candidates whose dissimilarities are averaged at once


def discrete_search(level: MindLevel, field: torch.Tensor | None = None) -> torch.Tensor:
    """The field (3, d, h, w) in mm on the level's field grid; smooth, defined everywhere.

    A second, smaller pass looks around the first one's result: where a region moves much further
    than its neighbours, the first pass only gets half of the way. The first tries every second
    displacement of its box, as on a chessboard. field: of a `first_pass`, where it has been made.
    """
    with torch.no_grad():
        field = first_pass(level) if field is None else field
        field = field / (level.spacing / 2)
        field = _pass(level, field, _box(PASSES[1], thinned=False).to(field.device))
        return field * (level.spacing / 2)


def first_pass(level: MindLevel) -> torch.Tensor:
    """The field (3, d, h, w), mm, after the first pass of a search: enough to compare starts."""
    with torch.no_grad():
        field = torch.zeros((3, *level.shape), device=level.distance.device)
        field = _pass(level, field, _box(PASSES[0], thinned=True).to(field.device))
        return field * (level.spacing / 2)


def _box(radius: tuple[int, int, int], thinned: bool) -> torch.Tensor:
    """The displacements (K, 3), whole feature voxels (x, y, z), up to a radius along each."""
    steps = [torch.arange(-r, r + 1) for r in radius]
    z, y, x = torch.meshgrid(*steps[::-1], indexing="ij")
    candidates = torch.stack((x, y, z), dim=-1).flatten(0, 2)
    return candidates[candidates.sum(dim=1) % 2 == 0] if thinned else candidates


def _pass(level: MindLevel, field: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """The field (3, d, h, w), in feature voxels, after trying candidates (K, 3) around it."""
    base = level.at_nodes(field).round()
    costs = _costs(level, candidates, base.long())
    supported = _supported(level, costs)
    candidates = candidates.to(costs)

    def choice(costs, coupling):
        apart = torch.cdist(candidates, level.at_nodes(field) - base).square_()
        return base + candidates[(costs + coupling * apart).argmin(dim=0)]

    chosen = choice(supported, SCHEDULE[0][0])
    for number, (coupling, stiffness) in enumerate(SCHEDULE):
        field = _fitted(level, field, chosen, stiffness)
        chosen = choice(supported if number < SUPPORTED else costs, coupling)
    return _fitted(level, field, chosen, SCHEDULE[-1][1])


def _fitted(
    level: MindLevel, field: torch.Tensor, chosen: torch.Tensor, stiffness: float
) -> torch.Tensor:
    """The smooth field nearest to the blocks' choices (M, 3): least squares and curvature.

    An affine motion costs nothing, so that motion that grows towards the diaphragm isn't flattened
    there, as averages would. What an image doesn't show has no choice.
    """
    system = chosen.new_zeros((len(chosen), 9))
    system[:, :3] = 1
    system[:, 6:] = chosen - level.at_nodes(field)
    voxel, hold = level.spacing / 2, None  # mm
    if level.seen is not None:
        system *= level.seen_share(chosen * voxel)[:, None]
        hold = holding(level, field * voxel, stiffness)
    return field + gauss_newton_step(level, field, system, Penalty(stiffness, hold=hold))


def _supported(level: MindLevel, costs: torch.Tensor) -> torch.Tensor:
    """Dissimilarities (candidates, M), each averaged with those of the blocks around it."""

    def blurred(values):
        dense = values.new_zeros((1, len(values), level.distance.numel()))
        dense[0, :, level.active_nodes] = values
        return smooth(dense.view(1, -1, *level.shape)).view(len(values), -1)[:, level.active_nodes]

    weight = blurred(torch.ones_like(costs[:1]))
    return torch.cat([blurred(part) / weight for part in costs.split(_CHUNK)])


def _costs(level: MindLevel, candidates: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Mean dissimilarity of each active block at base + each shift: (candidates, blocks).

    candidates: (K, 3) and base: (blocks, 3), whole feature voxels (x, y, z). Two opposite
    voxels of a block of eight count: neighbours show much the same.
    """
    _, height, width, channels = level.fixed.shape
    voxels = level.voxels[:, [0, -1]]
    index = voxels.flatten()
    own = level.fixed.flatten(0, 2)[index]
    # Repeat the edge so that every shift of every voxel is a plain offset into one flat array.
    px, py, pz = (base.abs().amax(dim=0) + candidates.amax(dim=0)).tolist()
    padded = torch.nn.functional.pad(
        level.moving.permute(3, 0, 1, 2)[None], (px, px, py, py, pz, pz), mode="replicate"
    )[0]
    padded = padded.permute(1, 2, 3, 0).reshape(-1, channels)
    row = width + 2 * px
    strides = torch.tensor([1, row, row * (height + 2 * py)], device=index.device)
    voxel = voxel_positions(index, level.fixed.shape) + torch.tensor((px, py, pz)).to(index)
    voxel += base.repeat_interleave(voxels.shape[1], dim=0)
    first = (voxel * strides).sum(dim=1)
    costs = own.new_empty((len(candidates), len(level.active_nodes)))
    for i, offset in enumerate((candidates * strides).sum(dim=1).tolist()):
        difference = padded.index_select(0, first + offset).sub_(own)
        costs[i] = difference.square_().view(len(level.active_nodes), -1).mean(dim=1)
    return costs
