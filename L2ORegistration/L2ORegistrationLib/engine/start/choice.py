"""Which start matches the images best: every candidate is searched and judged on coarse features.

Masks alone mislead: where disease has taken a part of a lung out of its mask, the affine that fits
the surfaces stretches the healthy lung. So the images decide between the candidates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch

from ...core.at_once import at_once
from ...core.geometry import Grid, Volume
from ..field.levels import MindLevel
from ..field.pyramid import feature_map
from ..field.sampling import dissimilarity
from ..images.features import pool
from ..images.preprocessing import averaged, intensity, resample
from ..images.seen import seen_on, shown
from .alignment import moved, rigid_fit
from .search import discrete_search, first_pass

ALIKE = 1.02  # mismatches closer than this say nothing
CONVINCING = 0.045  # mismatches below this, as even noisy lungs reach them, need no further start
ENOUGH = 0.3  # of the fixed lungs, shown by both images
FEWEST = 3  # blocks of lung that tell a rigid motion
SEARCHES, SETTLED_MM = 4, 3.0  # for a rigid motion: at most, and when it is found
COARSER = 2  # the images' spacing against the working grid's: the coarsest level needs no finer


@dataclass(frozen=True)
class Start:
    """Where the optimiser may start.

    name: of the candidate; transform: fixed point -> moving point, LPS mm; field: (3, d, h, w),
    mm, what the search found beyond it, on the coarsest field grid; mismatch: the median
    dissimilarity of the fixed lungs there; the median, because disease can fill up to half of them;
    level: the coarse features that were compared; None where they are needed no more.
    """

    name: str
    transform: sitk.Transform
    field: torch.Tensor
    mismatch: float
    level: MindLevel | None = None


class Comparison:
    """Compares starts of one pair on coarse features.

    fixed, moving: images; distance: signed distance map of the fixed lungs; grid: the working grid.
    """

    def __init__(
        self,
        fixed: Volume,
        moving: Volume,
        distance: Volume,
        grid: Grid,
        device: torch.device | str = "cpu",
    ):
        self._grid, self._device = grid.coarsened(COARSER), device
        self._images = [averaged(image, self._grid.spacing[0]) for image in (fixed, moving)]
        self._distance = distance
        self._shown = at_once(shown, self._images)
        self._fixed = {}

    def searched(self, name: str, transform: sitk.Transform) -> Start:
        """What the first pass of a search finds from a start (fixed -> moving point, LPS mm)."""
        level = self._level(transform, 2)
        field = first_pass(level)
        return Start(name, transform, field, mismatch(level, field), level)

    def finished(self, start: Start) -> Start:
        """The start after the whole search."""
        field = discrete_search(start.level, start.field)
        return replace(start, field=field, mismatch=mismatch(start.level, field))

    def improved(self, transform: sitk.Transform) -> torch.Tensor | None:
        """What a search from a start finds beyond it (3, d, h, w), mm; None: nothing better."""
        start = self.searched("given", transform)
        unmoved = mismatch(start.level, torch.zeros_like(start.field))
        return self.finished(start).field if start.mismatch * ALIKE < unmoved else None

    def realigned(self, transform: sitk.Transform) -> sitk.Transform:
        """The rigid motion that is nearest to what searches find, the first from a start.

        The half of the lungs that agrees best counts: what a search cannot reach misleads.
        """
        for _ in range(SEARCHES):
            level, field = (start := self.searched("rigid", transform)).level, start.field
            nodes = level.active_nodes[level.distance.flatten()[level.active_nodes] < 0]
            if len(nodes) < FEWEST:
                return transform
            points = level.grid.points().reshape(-1, 3)[nodes.cpu()]
            searched = points + field.flatten(1)[:, nodes].T.cpu().numpy()
            before, ends = (moved(transform, where) for where in (points, searched))
            transform = rigid_fit(points, ends)
            if np.linalg.norm(moved(transform, points) - before, axis=1).mean() < SETTLED_MM:
                break
        return transform

    def rough(self, transform: sitk.Transform) -> float:
        """The median dissimilarity of the fixed lungs at a start, features of twice the spacing."""
        level = self._level(transform, 4)
        return mismatch(level, torch.zeros((3, *level.shape), device=self._device))

    def _level(self, transform: sitk.Transform, factor: int) -> MindLevel:
        if factor not in self._fixed:
            identity = sitk.Transform(3, sitk.sitkIdentity)
            lungs = torch.from_numpy(resample(self._distance, self._grid, identity))
            features = self._features(0, identity, factor)
            seen = self._seen(0, identity)
            self._fixed = {factor: (features, pool(lungs.to(self._device)[None], 4)[0], seen)}
        fixed, distance, seen = self._fixed[factor]
        moving = self._features(1, transform, factor)
        seen = torch.stack((seen, self._seen(1, transform)))
        return MindLevel.of(fixed, moving, distance, self._grid.coarsened(4), seen)

    def _seen(self, side: int, transform: sitk.Transform) -> torch.Tensor:
        """What one image shows, (d, h, w), as `Level.seen`."""
        seen = torch.from_numpy(seen_on(self._shown[side], self._grid, transform))
        return pool(seen.to(self._device, torch.float32)[None], 4)[0]

    def _features(self, side: int, transform: sitk.Transform, factor: int) -> torch.Tensor:
        """MIND (12, D, H, W) of one image at `factor` times the spacing."""
        # Linear: the spline that keeps fine detail costs more than all the rest and finds the same.
        image = intensity(self._images[side], self._grid, transform, linear=True)
        return feature_map(torch.from_numpy(image).to(self._device), factor)


def best_start(comparison: Comparison, candidates: Iterable[Start]) -> list[Start]:
    """The candidates, searched one by one, as the images order them, the best first.

    The first are the safest: one of them wins unless a later one matches clearly better. The first
    pass tells them apart; only the best is searched from to the end. From the third on, a candidate
    is for pairs that no earlier one brings together.
    """
    starts = []
    for candidate in candidates:
        starts.append(candidate)
        best = min(start.mismatch for start in starts)
        if len(starts) > 1 and best < CONVINCING:
            break
    starts.sort(key=lambda start: start.mismatch if start.mismatch > ALIKE * best else 0.0)
    return [comparison.finished(starts[0]), *(replace(s, level=None) for s in starts[1:])]


def mismatch(level: MindLevel, field: torch.Tensor) -> float:
    """The median dissimilarity of the fixed lungs' blocks for a field (3, d, h, w) in mm.

    Of those that both images show, where these are enough to tell a start from a wrong one.
    """
    costs, _ = block_costs(level, field)
    if level.seen is not None:
        shown = level.both_show(field)[level.distance.flatten()[level.active_nodes] < 0]
        if len(shown) and shown.float().mean() > ENOUGH:
            costs = costs[shown]
    return float(costs.median()) if len(costs) else float(np.inf)


def block_costs(level: MindLevel, field: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The dissimilarity of each of the fixed lungs' blocks (M,), and their nodes (M,)."""
    count = len(level.active_nodes)
    costs = dissimilarity(
        level.fixed.flatten(0, 2)[level.voxels.flatten()],
        level.moving,
        level.displacements(field),
        level.voxels.flatten(),
    )
    inside = level.distance.flatten()[level.active_nodes] < 0
    return costs.view(count, -1).mean(dim=1)[inside], level.active_nodes[inside]
