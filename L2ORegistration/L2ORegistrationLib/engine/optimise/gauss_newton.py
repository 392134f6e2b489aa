"""Regularised Gauss-Newton steps: the classical optimiser that the learned one starts from.

Around the current field u, the dissimilarity is a sum of squares that is almost linear in the
field, so that the best step d solves (G + R) d = b - R u, where G and b come from the samples and
R penalises the field's bends (`penalty.Penalty`): an affine motion costs nothing, a kink does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..field.levels import Level
from .penalty import Penalty, holding

SOLVER_ITERATIONS = 25  # of a step that is corrected or repeated anyway
STIFFENING = 0.7  # stiffness grows with this power of the noise
CLEANEST = 0.25  # of the usual noise: what is cleaner still (a scan and itself) is as stiff
NOTHING = 1e-9  # of the residual's power
PIN = 3.0  # of the images' strongest evidence: a landmark is stiff


def gauss_newton_step(
    level: Level,
    field: torch.Tensor,
    system: torch.Tensor,
    penalty: Penalty,
    iterations: int = SOLVER_ITERATIONS,
    right: torch.Tensor | None = None,
) -> torch.Tensor:
    """The step (3, d, h, w) in mm for a field in mm on the level's field grid.

    system: (M, 9) of the active nodes, as from `Level.normal_equations`: xx, yy, zz, xy, xz, yz
    of G, then b; any other unit of length will do, where all agree on it; right: (3, d, h, w), what
    the matrix times the step has to be, instead of b - R u.
    Conjugate gradients, a fixed number of iterations, preconditioned by the solution for evidence
    that is the same everywhere.
    """
    with torch.no_grad():
        dense = system.new_zeros((level.distance.numel(), 9))
        dense[level.active_nodes] = system
        dense = dense.T.contiguous().view(9, *level.shape)
        matrix = _rows(dense)
        usual = system[:, :3].mean().clamp(min=1e-12)
        precondition = penalty.smoothed(usual, field)

        residual = dense[6:] - penalty(field) if right is None else right.clone()
        step = torch.zeros_like(field)
        preconditioned = precondition(residual)
        direction = preconditioned.clone()
        power = _product(residual, preconditioned)
        for _ in range(iterations):
            applied = penalty(direction)
            for row, entries in zip(applied, matrix):
                for entry, component in zip(entries, direction):
                    row.addcmul_(entry, component)
            along = _product(direction, applied)
            # Nothing in the images and no bend speaks for a step along it: none is made.
            length = torch.where(along > NOTHING * power.abs(), power / along, 0.0)
            step.addcmul_(direction, length)
            residual.addcmul_(applied, length, value=-1)
            preconditioned = precondition(residual)
            previous, power = power, _product(residual, preconditioned)
            direction.mul_(power / previous.clamp(min=1e-30)).add_(preconditioned)
        return step


def evidence_times(system: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """G of a system (M, 9) times vectors (M, 3)."""
    return torch.stack(
        [sum(g * v for g, v in zip(row, vectors.T)) for row in _rows(system.T)], dim=1
    )


def _rows(system: torch.Tensor) -> tuple:
    """The rows of the symmetric G, (9, ...) -> 3 x 3 of (...)."""
    xx, yy, zz, xy, xz, yz = system[:6]
    return (xx, xy, xz), (xy, yy, yz), (xz, yz, zz)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.dot(a.flatten(), b.flatten())


def _pin(level: Level, field: torch.Tensor, system: torch.Tensor, points: np.ndarray) -> None:
    """Add to a system, in place, springs that hold the field (mm) at 0 at points (N, 3), LPS mm.

    A point's spring is shared by the field voxels around it; they are PIN times as strong as the
    images are anywhere.
    """
    grid = level.grid
    index = grid.to_index(points)
    first = np.clip(np.floor(index), 0, np.maximum(np.array(grid.size) - 2, 0)).astype(int)
    along = np.clip(index - first, 0, 1)
    corners, shares = [], []
    for shift in np.ndindex(2, 2, 2):
        x, y, z = (first + shift).T
        corners.append((z * grid.size[1] + y) * grid.size[0] + x)
        shares.append(np.where(shift, along, 1 - along).prod(axis=1))
    corners = torch.as_tensor(np.array(corners), device=system.device)  # (8, N)
    shares = torch.as_tensor(np.array(shares), device=system.device, dtype=system.dtype)
    here = (field.flatten(1)[:, corners] * shares).sum(dim=1)  # (3, N) mm
    number = torch.full((level.distance.numel(),), -1, device=system.device)
    number[level.active_nodes] = torch.arange(len(level.active_nodes), device=system.device)
    rows, strength = number[corners], PIN * system[:, :3].max()
    active = rows >= 0  # voxels far from the lungs are not in the system
    diagonal = shares.expand(3, -1, -1)
    pull = torch.cat((diagonal, 0 * diagonal, -shares * here[:, None]))  # xx yy zz, xy xz yz, b
    system.index_add_(0, rows[active], strength * pull[:, active].T)


class GaussNewtonOptimiser:
    """Plain Gauss-Newton iterations, on MIND or local contrast.

    stiffness, changing: of the `Penalty`, for images as alike as two clean scans of one day; noise:
    the median squared difference between such images, where what is noisier needs a stiffer field;
    momentum: the share of the step before that is made again, because noise makes steps too short;
    closely: how many of the last iterations look closely (see `Level.normal_equations`); pinned:
    points (N, 3), LPS mm, where the start is known to be right: a spring holds the field at 0.
    """

    def __init__(
        self,
        stiffness: float,
        changing: float = 0.0,
        noise: float | None = None,
        momentum: float = 0.0,
        closely: int = 0,
        pinned: np.ndarray | None = None,
    ):
        self.stiffness, self.changing, self.noise = stiffness, changing, noise
        self.momentum, self.closely, self.pinned = momentum, closely, pinned

    def iterate(
        self, level: Level, field: torch.Tensor, iterations: int
    ) -> Iterator[tuple[torch.Tensor, float]]:
        """Improve field (3, d, h, w) in mm; yields (field, dissimilarity seen before the step)."""
        stiffness, step = self.stiffness, torch.zeros_like(field)
        for left in range(iterations, 0, -1):
            mismatch, system = level.normal_equations(field, roughly=left > self.closely)
            if left == iterations:
                stiffness = self.stiffened(mismatch)
            if self.pinned is not None:
                _pin(level, field, system, self.pinned)
            step = self._step(level, field, mismatch, system, stiffness, step, left)
            field = field + step
            yield field, float(mismatch.mean())

    def stiffened(self, mismatch: torch.Tensor) -> float:
        """The stiffness for images that differ so (M,) at the beginning."""
        if self.noise is None:
            return self.stiffness
        return self.stiffness * max(float(mismatch.median()) / self.noise, CLEANEST) ** STIFFENING

    def _step(self, level, field, mismatch, system, stiffness, before, left) -> torch.Tensor:
        """The step where `left` iterations are left, this one included; before: the one before."""
        hold = holding(level, field, stiffness)
        penalty = Penalty(stiffness, self.changing, hold=hold)
        best = gauss_newton_step(level, field, system, penalty)
        return best + self.momentum * before
