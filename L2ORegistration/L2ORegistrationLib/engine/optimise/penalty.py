"""What a field costs for not being smooth: the matrix R of a Gauss-Newton step, and its spectrum.

R = stiffness ((1 - t) L L + t L L L) with the lattice's Laplacian L: (1 - t) of the squared
curvature and t of the square of how it changes. An affine motion costs nothing. What is smooth in
the mean bends slowly, too, so that the second part takes more of the noise for less of the motion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..field.levels import Level
from ..field.operations import laplacian, weighted_laplacian

HELD_MM = 40.0  # what no image shows is held at the start from about so far away on


@dataclass(frozen=True, eq=False)
class Penalty:
    """R of fields (3, d, h, w) whose unit of length is the caller's.

    stiffness: weight against the mean squared feature difference of a field voxel; changing: t,
    between 0 and 1, the share of how the curvature changes; local: where given, (2, d, h, w), how
    many times as much either part counts there, the curvature's first; hold: where given, (d, h,
    w), weight of the field's square there.
    """

    stiffness: float
    changing: float = 0.0
    local: torch.Tensor | None = None
    hold: torch.Tensor | None = None

    def __call__(self, field: torch.Tensor) -> torch.Tensor:
        """R times a field."""
        bent = self._bent(field)
        return bent if self.hold is None else bent.addcmul_(self.hold, field)

    def _bent(self, field: torch.Tensor) -> torch.Tensor:
        """What bends cost."""
        if self.local is not None:
            bending, change = self.local
            bend = laplacian(field)
            change = self.changing * weighted_laplacian(bend, change)
            return self.stiffness * laplacian((1 - self.changing) * bending * bend + change)
        bent = laplacian(laplacian(field))
        if self.changing:
            bent = (1 - self.changing) * bent + self.changing * laplacian(bent)
        return self.stiffness * bent

    def smoothed(self, evidence: float, like: torch.Tensor) -> Callable:
        """A function that solves (evidence + R) x = y, for evidence that is the same everywhere.

        What is local counts as its mean. evidence: above zero; like: a field of the shape, type and
        device that x and y have. Cosines are the eigenvectors of L, whose border has no neighbours,
        so that it takes six products.
        """
        shape = like.shape[1:]
        waves = [_cosines(n, like.dtype, str(like.device)) for n in shape]
        (z, along_z), (y, along_y), (x, along_x) = waves
        bend = along_z[:, None, None] + along_y[:, None] + along_x
        bending, change = (1, 1) if self.local is None else self.local.flatten(1).mean(dim=1)
        bend = bend**2 * ((1 - self.changing) * bending + self.changing * change * bend)
        inverse = 1 / (evidence + self.stiffness * bend)

        def solve(right: torch.Tensor) -> torch.Tensor:
            found = (z @ right.flatten(2)).view_as(right)
            found = inverse * (y @ found @ x.T)
            found = y.T @ found @ x
            return (z.T @ found.flatten(2)).view_as(right)

        return solve


def holding(level: Level, field: torch.Tensor, stiffness: float) -> torch.Tensor | None:
    """`Penalty.hold` of weak springs to the start where not both images show what lies there.

    field: (3, d, h, w), mm. A motion that grows on as it grew where something was to be seen costs
    nothing otherwise: on the other side of a chest it would be one of centimetres.
    """
    if level.seen is None:
        return None
    nodes, hold = level.active_nodes, torch.zeros_like(level.distance)
    hidden = 1 - level.seen_share(level.at_nodes(field))
    hold.view(-1)[nodes] = stiffness * (level.spacing / HELD_MM) ** 4 * hidden
    return hold[0]


@lru_cache(32)
def _cosines(count: int, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvectors of a line's Laplacian, a row each (count, count), and eigenvalues (count,)."""
    number = torch.arange(count, dtype=torch.float64)
    rows = torch.cos(math.pi * number[:, None] * (number + 0.5) / count) * math.sqrt(2 / count)
    rows[0] /= math.sqrt(2)
    values = 2 - 2 * torch.cos(math.pi * number / count)
    # First the type: Apple's GPUs know no double precision.
    return rows.to(dtype).to(device), values.to(dtype).to(device)
