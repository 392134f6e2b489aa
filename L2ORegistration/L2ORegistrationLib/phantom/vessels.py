"""Branching trees that fill a volume, and their drawing with exact partial volume.

A tree grows by halving its targets again and again: every branch points to the centre of the
targets that it feeds. Drawing spreads the volume of each tube over the voxels that it touches, so
a vessel far thinner than a voxel still leaves the right amount of blood behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.geometry import Grid

MURRAY = 2.6  # exponent of the law for the radii of a branch and of those it divides into


@dataclass(frozen=True)
class Tree:
    """Straight branches: start, end (N, 3) and radius (N,) in mm, generation (N,) from 0."""

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    generation: np.ndarray

    def chosen(self, which: np.ndarray) -> Tree:
        """The branches picked by a boolean or index array."""
        return Tree(self.start[which], self.end[which], self.radius[which], self.generation[which])


def grow_tree(
    rng: np.random.Generator,
    root: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    leaf_radius: float,
) -> Tree:
    """A tree from root (3,) to every target (N, 3), all in mm.

    groups (N,) integers: targets that get their own trunk (lobes). Radii follow Murray's law:
    a branch that feeds n targets has leaf_radius * n ** (1 / MURRAY).
    """
    starts, ends, leaves, generations = [], [], [], []
    stack = []

    def branch(origin, members, generation):
        # Trunks divide soon, close to the root; the last branch goes all the way.
        early = min(1.0, 0.35 + 0.13 * generation)
        reach = 1.0 if len(members) == 1 else early * rng.uniform(0.3, 0.5)
        end = origin + reach * (targets[members].mean(axis=0) - origin)
        starts.append(origin)
        ends.append(end)
        leaves.append(len(members))
        generations.append(generation)
        if len(members) > 1:
            stack.append((end, members, generation + 1))

    for group in np.unique(groups):
        branch(np.asarray(root, dtype=float), np.flatnonzero(groups == group), 0)
    while stack:
        origin, members, generation = stack.pop()
        points = targets[members]
        centre = points.mean(axis=0)
        towards = centre - origin
        towards /= np.linalg.norm(towards) + 1e-9
        # The halves lie on both sides of the branch: split across the widest direction beside it.
        offsets = points - centre
        offsets = offsets - np.outer(offsets @ towards, towards)
        axis = np.linalg.eigh(offsets.T @ offsets)[1][:, -1]
        order = np.argsort(offsets @ axis)
        cut = int(np.clip(round(len(order) * rng.uniform(0.25, 0.75)), 1, len(order) - 1))
        branch(origin, members[order[:cut]], generation)
        branch(origin, members[order[cut:]], generation)
    radius = leaf_radius * np.asarray(leaves, dtype=float) ** (1 / MURRAY)
    return Tree(np.array(starts), np.array(ends), radius, np.array(generations))


def tube_samples(tree: Tree, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (M, 3) mm that fill the tubes about every `step` mm, and their volumes (M,) mm3."""
    along = tree.end - tree.start
    length = np.linalg.norm(along, axis=1)
    direction = along / np.maximum(length, 1e-9)[:, None]
    slices = np.maximum(np.ceil(length / step), 1).astype(int)
    branch = np.repeat(np.arange(len(length)), slices)
    place = _counting(slices)
    centre = tree.start[branch] + along[branch] * ((place + 0.5) / slices[branch])[:, None]
    radius = tree.radius[branch]
    area = np.pi * radius**2
    count = np.maximum(np.round(area / step**2), 1).astype(int)

    helper = np.where(np.abs(direction[:, :1]) < 0.7, [[1.0, 0, 0]], [[0, 1.0, 0]])
    side = np.cross(direction, helper)
    side /= np.maximum(np.linalg.norm(side, axis=1), 1e-9)[:, None]
    other = np.cross(direction, side)

    # A sunflower covers each disc evenly; turning it from slice to slice avoids stripes.
    disc = np.repeat(np.arange(len(branch)), count)
    k = _counting(count)
    rho = radius[disc] * np.sqrt((k + 0.5) / count[disc]) * (count[disc] > 1)
    theta = 2.399963 * k + 1.7 * place[disc]
    owner = branch[disc]
    points = centre[disc]
    points += (rho * np.cos(theta))[:, None] * side[owner]
    points += (rho * np.sin(theta))[:, None] * other[owner]
    volume = (area * length[branch] / slices[branch] / count)[disc]
    return points, volume


def splat(points: np.ndarray, volumes: np.ndarray, grid: Grid) -> np.ndarray:
    """The share of each voxel (z, y, x) that the points (N, 3) mm with volumes (N,) mm3 fill."""
    index = grid.to_index(points)
    base = np.floor(index).astype(int)
    fraction = index - base
    inside = ((base >= 0) & (base < np.asarray(grid.size) - 1)).all(axis=1)
    base, fraction = base[inside], fraction[inside]
    weights = volumes[inside] / np.prod(grid.spacing)
    nx, ny, nz = grid.size
    filled = np.zeros(nx * ny * nz)
    flat = (base[:, 2] * ny + base[:, 1]) * nx + base[:, 0]
    for corner in np.ndindex(2, 2, 2):
        share = np.prod(np.where(np.array(corner), fraction, 1 - fraction), axis=1)
        offset = (corner[2] * ny + corner[1]) * nx + corner[0]
        filled += np.bincount(flat + offset, weights * share, minlength=filled.size)
    return np.minimum(filled, 1).reshape(grid.shape).astype(np.float32)


def _counting(counts: np.ndarray) -> np.ndarray:
    """0, 1, ..., n-1 for each n in counts, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
