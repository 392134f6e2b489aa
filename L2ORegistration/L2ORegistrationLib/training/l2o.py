"""How `L2ONetwork` learns: iterations of close-ups, each through the solution of its step.

The network's outputs W and R enter (W G + R) d = W b - R u. With x the solution and y that of the
same matrix for the loss's gradient, the loss changes with them as y (W b - R u - (W G + R) x) does
with x and y held: no iteration of the solver is kept.

What the images say of a field takes several times as long to find as to learn from. So it is
learned from more than once before the iteration is made, and many close-ups are under way at a
time, or the network would see the same one again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ..engine.field.levels import Level
from ..engine.optimise.gauss_newton import SOLVER_ITERATIONS, evidence_times, gauss_newton_step
from ..engine.optimise.l2o import observed, weighed
from ..engine.optimise.networks import L2ONetwork
from .closeup import CloseUp, load_one, measured

HARMLESS = 1e-3  # of the squared outputs: what changes nothing stays as it is
UNDER_WAY = 16  # close-ups at a time
REPEATED = 3  # times that an iteration is learned from


@dataclass
class Lesson:
    """An iteration of a close-up that is to be learned from, the first one to begin with.

    path, number: of the close-up and its level; device: what it is worked on with; field: (3, d, h,
    w) mm, that the iterations before have led to, on the CPU; None: that of the close-up itself;
    done: how many these are; used: how often this one was learned from.
    """

    path: Path
    number: int
    device: torch.device | str = "cpu"
    field: torch.Tensor | None = None
    done: int = 0
    used: int = 0

    def learn(self, network: L2ONetwork, mirrored: tuple[int, ...] = ()):
        """(loss, level, mean error in mm before, after) of this iteration.

        The loss is relative to what all iterations reach without the network; later ones count
        more. mirrored: axes (1 is z, 2 y, 3 x) along which the network sees it the other way round:
        none of what it reads or says has a direction. `REPEATED` times, then the next one is up.
        """
        close, field, (level, system, seen) = self._close, self._begun.to(self.device), self._told
        said = network.levels[self.number](seen.flip(mirrored)[None])[0].flip(mirrored)
        step = _Solution.apply(
            said, level, field, system, close.stiffness, close.changing, SOLVER_ITERATIONS
        )
        before, errors = close.errors(field), close.errors(field + step)
        relative = (measured(errors) / close.usual.to(field)).mean()
        share = 2 * (self.done + 1) / (close.iterations + 1)  # 1 on average
        loss = share * (relative + HARMLESS * said.square().mean())
        self.used += 1
        if self.used == REPEATED:
            self.field, self.done, self.used = (field + step).detach().cpu(), self.done + 1, 0
            self.__dict__.pop("_told")
        return loss, self.number, float(before.mean()), float(errors.detach().mean())

    @property
    def finished(self) -> bool:
        """Whether the last iteration was learned from."""
        return self.done == self._close.iterations

    @property
    def _begun(self) -> torch.Tensor:
        return self._close.field if self.field is None else self.field

    @cached_property
    def _close(self) -> CloseUp:
        return load_one(self.path, self.number)

    @cached_property
    def _told(self) -> tuple[Level, torch.Tensor, torch.Tensor]:
        """The level without its images, the system, and what the network reads of it."""
        close, field = self._close, self._begun.to(self.device)
        level, roughly = close.level().to(self.device), close.iterations - self.done > close.closely
        with torch.no_grad():
            mismatch, system = level.normal_equations(field, roughly)
            seen = observed(level, field, mismatch, system, close.stiffness)
        place = level.distance, level.spacing, level.origin
        return Level(*place, level.active_nodes, level.voxels[:0]), system, seen


class Lessons:
    """The close-ups that a network learns from, some of them under way.

    paths: of files of close-ups; shares: of those that are begun, those of each level; device: what
    they are worked on with.
    """

    def __init__(self, paths: Sequence[Path], shares: Sequence[float], device="cpu"):
        self.paths, self.shares, self.device = paths, shares, device
        self.under_way: dict[tuple[int, int], Lesson] = {}

    def learn(self, network: L2ONetwork, rng: np.random.Generator, part: int = 0):
        """`Lesson.learn` of one drawn by chance. part: each has close-ups under way of its own."""
        place = part, int(rng.integers(UNDER_WAY))
        path = self.paths[rng.integers(len(self.paths))]
        number = int(rng.choice(len(self.shares), p=np.divide(self.shares, sum(self.shares))))
        lesson = self.under_way.setdefault(place, Lesson(path, number, self.device))
        # Left and right, front and back are alike; top and bottom move differently.
        mirrored = tuple(axis for axis in (2, 3) if rng.random() < 0.5)
        found = lesson.learn(network, mirrored)
        if lesson.finished:
            del self.under_way[place]
        return found

    def state(self) -> dict[tuple[int, int], tuple]:
        """What `restore` needs to go on with the same."""
        return {
            place: (self.paths.index(one.path), one.number, one.field, one.done, one.used)
            for place, one in self.under_way.items()
        }

    def restore(self, state: dict[tuple[int, int], tuple], parts: range) -> None:
        """Go on with these parts where `state` was asked for."""
        self.under_way = {
            place: Lesson(self.paths[index], number, self.device, *rest)
            for place, (index, number, *rest) in state.items()
            if place[0] in parts
        }


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
