"""How `L2ONetwork` learns: the iterations of a close-up, through the solution of a step.

The network's outputs W and R enter (W G + R) d = W b - R u. With x the solution and y that of the
same matrix for the loss's gradient, the loss changes with them as y (W b - R u - (W G + R) x) does
with x and y held: no iteration of the solver is kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..engine.optimise.gauss_newton import SOLVER_ITERATIONS, evidence_times, gauss_newton_step
from ..engine.optimise.l2o import observed, weighed
from ..engine.optimise.networks import L2ONetwork
from .closeup import load_one, measured

METHOD = "l2o"
HARMLESS = 1e-3  # of the squared outputs: what changes nothing stays as it is


def rollout(network: L2ONetwork, path: Path, number: int, device, mirrored: tuple[int, ...] = ()):
    """(loss, level, mean error in mm before, after) of one close-up, that of level `number`.

    The loss of an iteration is relative to what the same iterations reach without the network;
    later ones count more, and each takes the field of the one before as it is. mirrored: axes (1 is
    z, 2 y, 3 x) along which the network sees it the other way round: none of what it reads or says
    has a direction.
    """
    close = load_one(path, number)
    level, usual = close.level().to(device), close.usual.to(device)
    field, losses = close.field.to(device), []
    before = float(close.errors(field).mean())
    for left in range(close.iterations, 0, -1):
        with torch.no_grad():
            mismatch, system = level.normal_equations(field, roughly=left > close.closely)
            seen = observed(level, field, mismatch, system, close.stiffness)
        said = network.levels[number](seen.flip(mirrored)[None])[0].flip(mirrored)
        step = _Solution.apply(
            said, level, field, system, close.stiffness, close.changing, SOLVER_ITERATIONS
        )
        errors = close.errors(field + step)
        losses.append((measured(errors) / usual).mean() + HARMLESS * said.square().mean())
        field = (field + step).detach()
    weights = np.arange(1, close.iterations + 1)
    loss = sum(weight * loss for weight, loss in zip(weights / weights.sum(), losses))
    return loss, number, before, float(errors.detach().mean())


class _Solution(torch.autograd.Function):
    """The step for what the network said (3, d, h, w); its gradient needs one more solution."""

    @staticmethod
    def forward(ctx, said, level, field, system, stiffness, changing, iterations):
        with torch.no_grad():
            weighted, penalty = weighed(said, level, system, stiffness, changing)
            step = gauss_newton_step(level, field, weighted, penalty, iterations)
        ctx.save_for_backward(said, field, system, step)
        ctx.level, ctx.iterations = level, iterations
        ctx.stiffness, ctx.changing = stiffness, changing
        return step

    @staticmethod
    def backward(ctx, gradient):
        said, field, system, step = ctx.saved_tensors
        level, nodes = ctx.level, ctx.level.active_nodes
        known = level, system, ctx.stiffness, ctx.changing
        with torch.no_grad():
            weighted, penalty = weighed(said, *known)
            other = gauss_newton_step(level, field, weighted, penalty, ctx.iterations, gradient)
        with torch.enable_grad():
            said = said.detach().requires_grad_()
            weighted, penalty = weighed(said, *known)
            at_nodes = (part.flatten(1)[:, nodes].T for part in (other, step))
            other_there, step_there = at_nodes
            left = weighted[:, 6:] - evidence_times(weighted, step_there)
            changed = (other_there * left).sum() - (other * penalty(field + step)).sum()
            (found,) = torch.autograd.grad(changed, said)
        return found, None, None, None, None, None, None
