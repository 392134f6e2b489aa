"""Which start matches the images best: every candidate is searched and judged on coarse features.

Masks alone mislead: where disease has taken a part of a lung out of its mask, the affine that fits
the surfaces stretches the healthy lung. So the images decide between the candidates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from ...core.geometry import Grid, Volume
from ..field.levels import Level, feature_map
from ..field.sampling import dissimilarity
from ..images.features import pool
from ..images.preprocessing import averaged, intensity, resample
from .search import discrete_search

COARSER = 2  # the images' spacing against the working grid's: the coarsest level needs no finer


@dataclass(frozen=True)
class Start:
    """Where the optimiser may start.

    name: of the candidate; transform: fixed point -> moving point, LPS mm; field: (3, d, h, w),
    mm, what the search found beyond it, on the coarsest field grid; mismatch: the median
    dissimilarity of the fixed lungs there; the median, because disease can fill up to half of them.
    """

    name: str
    transform: sitk.Transform
    field: torch.Tensor
    mismatch: float


def best_start(
    fixed: Volume,
    moving: Volume,
    fixed_distance: Volume,
    moving_distance: Volume,
    grid: Grid,
    candidates: Iterable[tuple[str, sitk.Transform]],
    device: torch.device | str = "cpu",
) -> list[Start]:
    """Search from each candidate (name, transform); what the images say orders them, best first.

    fixed, moving: images; fixed_distance, moving_distance: signed distance maps of the lungs;
    grid: the working grid.
    """
    coarse = grid.coarsened(COARSER)
    fixed, moving = (averaged(image, coarse.spacing[0]) for image in (fixed, moving))
    identity = sitk.Transform(3, sitk.sitkIdentity)

    def prepared(image: Volume, distance: Volume, transform: sitk.Transform):
        features = feature_map(torch.from_numpy(intensity(image, coarse, transform)).to(device), 2)
        map_ = torch.from_numpy(resample(distance, coarse, transform)).to(device)
        return features, pool(map_[None], 4)[0]

    own, lungs = prepared(fixed, fixed_distance, identity)
    lattice = coarse.coarsened(4)
    starts = []
    for name, transform in candidates:
        other, lungs_moved = prepared(moving, moving_distance, transform)
        level = Level.of(own, other, lungs, lungs_moved, lattice)
        field = discrete_search(level)
        starts.append(Start(name, transform, field, mismatch(level, field)))
    return sorted(starts, key=lambda start: start.mismatch)


def mismatch(level: Level, field: torch.Tensor) -> float:
    """The median dissimilarity of the fixed lungs' blocks for a field (3, d, h, w) in mm."""
    count = len(level.blocks)
    costs = dissimilarity(
        level.fixed.flatten(0, 2)[level.voxels.flatten()],
        level.moving,
        level.displacements(field),
        level.voxels.flatten(),
    )
    inside = level.distance.flatten()[level.blocks] < 0
    blocks = costs.view(count, -1).mean(dim=1)[inside]
    return float(blocks.median()) if len(blocks) else float(np.inf)
