"""Each lung by itself: a start where one of them has changed in a way of its own.

A raised diaphragm, a collapse or an operation moves one lung only. No affine of both fits then, and
the median of both, which the sound lung decides, does not show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ...core.geometry import DisplacementField, Grid, Volume
from ..match import QUARTER, halves
from .alignment import distance_map, lung_alignment
from .choice import Comparison, Start, block_costs

DEPTHS_MM = (0.0, 3.0, 6.0, 9.0, 12.0)  # below the surface, where lungs that touch come apart
SMALLER = 0.08  # of both: a smaller part is no lung
DOUBTFUL, LOPSIDED = 0.02, 1.5  # a lung's mismatch, and against the other's: below them all is well
BETTER, SPOILT = 0.9, 1.1  # times the mismatch before: less, for the one; not more, for the other
BLEND_MM = 5.0  # from one lung's motion to the other's, between them


@dataclass(frozen=True)
class Lungs:
    """Signed distance maps, mm, of the right and the left lung."""

    right: Volume
    left: Volume

    def __iter__(self):
        return iter((self.right, self.left))

    def nearer(self, points: np.ndarray) -> np.ndarray:
        """How much nearer points (..., 3), LPS mm, are to the right lung than to the left, mm."""
        return self.left.sample(points) - self.right.sample(points)


def two_lungs(distance: Volume) -> Lungs | None:
    """The right and the left lung of a distance map of both; None where there are not two."""
    inside = distance.array < 0
    for depth in DEPTHS_MM:
        labels, count = ndimage.label(distance.array < -depth)
        sizes = np.bincount(labels.ravel(), minlength=3)[1:]
        one, other = np.argsort(-sizes)[:2] + 1
        if count < 2 or sizes[other - 1] < SMALLER * sizes.sum():
            continue
        seeds = np.where((labels == one) | (labels == other), labels, 0)
        nearest = ndimage.distance_transform_edt(
            seeds == 0, return_distances=False, return_indices=True
        )
        whose = np.where(inside, seeds[tuple(nearest)], 0)
        # x grows towards the patient's left.
        parts = sorted(
            (whose == k for k in (one, other)), key=lambda part: part.nonzero()[2].mean()
        )
        return Lungs(*(distance_map(Volume(part, distance.grid)) for part in parts))
    return None


def lungs_apart(
    comparison: Comparison,
    start: Start,
    distances: tuple[Volume, Volume],
    images: tuple[Grid, Grid],
    lattice: Grid,
) -> Start | None:
    """A start whose worse lung has an affine of its own; None where none is needed, or no better.

    start: the best one of both lungs, searched to its end, with its level; distances: signed
    distance maps of the fixed and the moving lungs; images: the grids of both; lattice: of the
    field that the start becomes.
    """
    before, best = _by_lung(start)
    worse = int(np.argmax(before))
    if before[worse] < max(DOUBTFUL, LOPSIDED * before[1 - worse]):
        return None
    fixed, moving = map(two_lungs, distances)
    if fixed is None or moving is None:
        return None
    ours, theirs = tuple(fixed)[worse], tuple(moving)[worse]
    own = lung_alignment(ours, theirs, *images)
    points = lattice.points()
    nearer = fixed.nearer(points) * (1 if worse == 0 else -1)
    share = 1 / (1 + np.exp(-nearer / BLEND_MM))[..., None]
    shifts = [DisplacementField.of_transform(t, lattice).array for t in (start.transform, own)]
    array = ((1 - share) * shifts[0] + share * shifts[1]).astype(np.float32)
    transform = DisplacementField(array, lattice).to_transform()
    found = comparison.finished(comparison.searched("lungs apart", transform))
    after, after_best = _by_lung(found)
    # Fluid matches nothing anywhere: what lies above it must match better, too, not worse.
    better = after[worse] < BETTER * before[worse]
    better &= after_best[worse] < BETTER * best[worse]
    return found if better and after[1 - worse] < SPOILT * before[1 - worse] else None


def _by_lung(start: Start) -> list[list[float]]:
    """Dissimilarities of the right and of the left lung: medians, and those of the best quarters.

    0 where there are not two.
    """
    costs, nodes = block_costs(start.level, start.field)
    if not len(nodes):
        return [[0.0, 0.0]] * 2
    costs, across = costs.cpu().numpy(), (nodes % start.level.shape[2]).cpu().numpy()
    lungs = halves(across)
    return [
        [float(np.quantile(costs[half], share)) if half.any() else 0.0 for half in lungs]
        for share in (0.5, QUARTER)
    ]
