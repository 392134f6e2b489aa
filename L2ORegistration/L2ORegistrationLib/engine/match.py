"""How surely the images match: where the field points against what lies beside it.

A dissimilarity alone says little: noise, thick slices or another kernel raise it everywhere. But a
right match is a minimum: shifted by a few millimetres, the same features match clearly worse. Where
nothing corresponds, they match there as badly as here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from ..core.geometry import Volume
from .field.levels import MindLevel
from .field.sampling import dissimilarity

BESIDE_MM = 9.0
CLEARLY = 0.8  # of the dissimilarity beside it: below that a block has found its match
NOTHING = 1e-6  # of dissimilarity: less has no structure
BLOCKS = 6000  # that are looked at
AROUND, LEAST_AROUND = 3.0, 1e-4  # nodes (18 mm): what surrounds a place, and is still that
QUARTER = 0.25  # of a lung's blocks: those that match best
FEWEST = 200  # blocks of a lung of which something can be said
MIDDLE = 1  # nodes on either side of the middle, where there is little lung between two
_WAYS = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))


@dataclass(frozen=True)
class Match:
    """What part of the fixed lungs has found its counterpart, each 0 to 1.

    What an image does not show counts for `inside` alone. matched: of their blocks, how many match
    clearly better where the field points than 9 mm beside it; ratio: the median dissimilarity
    against that beside; right, left: `matched` of the patient's right and left lung, None where
    there is next to nothing of it, or one alone; inside: of the fixed lungs, what both images show
    where the field leads; around: `matched` of what surrounds each voxel of the field grid, NaN
    away from the lungs; None where there are none; mismatch: dissimilarities of the right and the
    left lung that a quarter of their blocks stay below, which disease in the rest does not change;
    None where there are not two.
    """

    matched: float
    ratio: float
    right: float | None
    left: float | None
    inside: float
    around: Volume | None = None
    mismatch: tuple[float, float] | None = None


def match(level: MindLevel, field: torch.Tensor, inside: float) -> Match:
    """The match of a field (3, d, h, w), mm, on a MIND level.

    inside: of the fixed lungs, what the field leaves within the moving image's grid.
    """
    lungs = level.distance.flatten()[level.active_nodes] < 0
    if level.seen is not None and lungs.any():
        shown = level.both_show(field)
        inside = min(inside, float(shown[lungs].float().mean()))
        lungs &= shown
    chosen = lungs.nonzero().squeeze(1)
    chosen = chosen[:: max(1, len(chosen) // BLOCKS)]
    if not len(chosen):
        return Match(0.0, 1.0, None, None, inside)
    corners = [0, 3, 5, 6] if level.ratio == 2 else [0]  # of a block's 2x2x2 voxels, a tetrahedron
    voxels = level.voxels[chosen][:, corners].flatten()
    shifts = level.displacements(field).view(*level.voxels.shape, 3)[chosen][:, corners]
    shifts, own = shifts.flatten(0, 1), level.fixed.flatten(0, 2)[voxels]
    step = BESIDE_MM * level.ratio / level.spacing

    def costs(way) -> torch.Tensor:
        shifted = shifts + step * shifts.new_tensor(way)
        found = dissimilarity(own, level.moving, shifted, voxels)
        return found.view(len(chosen), -1).mean(dim=1)

    here, beside = costs((0, 0, 0)), sum(costs(way) for way in _WAYS) / len(_WAYS)
    # Where the images show nothing, every place looks alike: that is no match.
    ratio = torch.where(beside > NOTHING, here / beside.clamp(min=NOTHING), 1.0)
    # On the CPU, because Apple's GPUs have no double precision.
    ratio, here = ratio.cpu().numpy(), here.cpu().numpy()
    found = ratio < CLEARLY
    across = (level.active_nodes[chosen] % level.shape[2]).cpu().numpy()
    lung = halves(across)
    shares = [float(found[one].mean()) if one.sum() >= FEWEST else None for one in lung]
    mismatch = None
    if None not in shares:
        mismatch = tuple(float(np.quantile(here[one], QUARTER)) for one in lung)
    around = Volume(_around(found, level.active_nodes[chosen], level.shape), level.grid)
    return Match(float(found.mean()), float(np.median(ratio)), *shares, inside, around, mismatch)


def _around(found: np.ndarray, nodes: torch.Tensor, shape: tuple[int, int, int]) -> np.ndarray:
    """The share of blocks (M,) around each voxel (d, h, w) that have found their counterpart."""
    sums = np.zeros((2, np.prod(shape)), np.float32)
    sums[:, nodes.cpu().numpy()] = found, np.ones(len(found))
    with_match, all_there = ndimage.gaussian_filter(sums.reshape(2, *shape), (0, *3 * (AROUND,)))
    known = all_there > LEAST_AROUND
    return np.where(known, with_match / np.maximum(all_there, LEAST_AROUND), np.nan)


def halves(across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which blocks are of the right and of the left lung, by their x (N,), in nodes of LPS.

    x grows towards the patient's left. Where there are as many blocks in the middle as elsewhere,
    one lung alone is marked, and its two sides are no lungs.
    """
    middle = across.mean()
    between = (np.abs(across - round(middle)) <= MIDDLE).mean() / (2 * MIDDLE + 1)
    if between > 1 / (np.ptp(across) + 1):
        nothing = np.zeros(across.shape, bool)
        return nothing, nothing
    return across < middle, across >= middle


def share_inside(fixed_mask: Volume, moving: Volume, transform) -> float:
    """Of the fixed lungs, the share that a field (fixed -> moving) takes into the moving image."""
    points = fixed_mask.marked_points(most=5000)
    return float(np.mean(moving.grid.contains(transform.transform_points(points))))
