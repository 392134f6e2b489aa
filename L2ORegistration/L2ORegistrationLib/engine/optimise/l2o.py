"""The learned steps: a network says which evidence to believe and how stiff the lung is where.

A Gauss-Newton step solves (W G + R) d = W b - R u. What W and R should be at a place a formula
cannot know: that a lesion has no counterpart, that a fissure slides, that a region is smooth and
noisy. A network reads it from the system itself, the field so far and the lungs' shape, and is
trained through the solution. Kin: LearnGN (Heinrich, MIDL 2022), whose features are learned.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ..field.levels import Level
from ..field.operations import laplacian
from .gauss_newton import GaussNewtonOptimiser, gauss_newton_step
from .networks import L2ONetwork
from .penalty import Penalty, holding

USUAL_STIFFNESS, USUAL_MM = 6e-3, 6.0  # the network reads stiffness and spacing in these units


class L2OOptimiser(GaussNewtonOptimiser):
    """Gauss-Newton iterations whose last ones a `L2ONetwork` weighs.

    number: of the level, 0 is the coarsest; trusting: how many of the last iterations; the rest of
    the settings are those of Gauss-Newton.
    """

    def __init__(self, network: L2ONetwork, number: int, trusting: int, **settings):
        super().__init__(**settings)
        self.weigher, self.trusting = network.levels[number], trusting

    def _step(self, level, field, mismatch, system, stiffness, before, left) -> torch.Tensor:
        if left > self.trusting:
            return super()._step(level, field, mismatch, system, stiffness, before, left)
        seen = observed(level, field, mismatch, system, stiffness)
        system, penalty = weighed(
            self.weigher(seen[None])[0], level, system, stiffness, self.changing
        )
        penalty = replace(penalty, hold=holding(level, field, stiffness))
        return gauss_newton_step(level, field, system, penalty)


def weighed(
    said: torch.Tensor, level: Level, system: torch.Tensor, stiffness: float, changing: float
) -> tuple[torch.Tensor, Penalty]:
    """The system (M, 9) and the penalty that a network's logarithms (3, d, h, w) make of them."""
    belief, *local = said.exp()
    system = system * belief.flatten()[level.active_nodes][:, None]
    return system, Penalty(stiffness, changing, torch.stack(local))


def observed(
    level: Level,
    field: torch.Tensor,
    mismatch: torch.Tensor,
    system: torch.Tensor,
    stiffness: float,
) -> torch.Tensor:
    """What a `Weigher` reads, (9, d, h, w), in its order of channels.

    field: (3, d, h, w) mm; mismatch (M,) and system (M, 9): as from `Level.normal_equations`, per
    mm; stiffness: of the `Penalty`, per mm^2.
    """
    # What counts against a mismatch and a field voxel of the level: alike on all levels.
    voxel = level.spacing / USUAL_MM
    unit, mismatch = voxel**2 / level.usual_mismatch, mismatch / level.usual_mismatch
    trace, pull = unit * system[:, :3].sum(dim=1), unit / voxel * system[:, 6:].norm(dim=1)
    rows = (
        (trace + 1e-3).log() + 2.5,
        (mismatch + 1e-3).log() + 2.5,
        (pull / (trace + 1e-3).sqrt() + 1e-2).log() + 2.5,
        torch.ones_like(trace),
    )
    dense = field.new_zeros((len(rows), level.distance.numel()))
    dense[:, level.active_nodes] = torch.stack(rows)
    bend = laplacian(field)
    return torch.cat(
        (
            dense.view(-1, *level.shape),
            ((bend.norm(dim=0) + 0.03).log() + 1)[None],
            (laplacian(bend).norm(dim=0) + 0.1).log()[None],
            level.distance / 15,
            (level.distance < 0).to(field),
            torch.full_like(level.distance, math.log(stiffness * unit / USUAL_STIFFNESS)),
        )
    )
