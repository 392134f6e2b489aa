"""Smooth functions on a coarse lattice, brought to a fine grid by separable cubic B-splines."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..core.geometry import Grid


def lattice_over(grid: Grid, spacing: float) -> Grid:
    """An axis-aligned lattice with this spacing (mm): the grid and two nodes around it."""
    return Grid.covering(grid.corners(), spacing, margin=2 * spacing)


def upsample(coarse: np.ndarray, lattice: Grid, grid: Grid) -> np.ndarray:
    """B-spline coefficients (z, y, x) on the lattice, evaluated on the grid (z, y, x), float32.

    Both must be axis-aligned. Values used as coefficients come out slightly smoothed.
    """
    result = coarse.astype(np.float32)
    for axis in range(3):
        component = 2 - axis
        position = grid.origin[component] + grid.spacing[component] * np.arange(grid.shape[axis])
        position = (position - lattice.origin[component]) / lattice.spacing[component]
        matrix = _cubic(position[:, None] - np.arange(lattice.shape[axis])).astype(np.float32)
        result = np.moveaxis(np.tensordot(matrix, result, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(result)


def interpolate(coarse: np.ndarray, lattice: Grid, grid: Grid) -> np.ndarray:
    """Values (z, y, x) at the lattice nodes, interpolated (cubic spline) on the grid, float32."""
    coefficients = ndimage.spline_filter(coarse, order=3, mode="mirror", output=np.float32)
    return upsample(coefficients, lattice, grid)


def smooth_noise(rng: np.random.Generator, grid: Grid, scale: float) -> np.ndarray:
    """Noise (z, y, x), mean 0, sd 1, whose details are about `scale` mm wide."""
    lattice = lattice_over(grid, scale)
    noise = upsample(rng.standard_normal(lattice.shape), lattice, grid)
    # The variance of a cubic B-spline with white coefficients is (151/315) per axis on average.
    return noise * np.float32((315 / 151) ** 1.5)


def _cubic(x: np.ndarray) -> np.ndarray:
    """The cubic B-spline at x."""
    x = np.abs(x)
    inner = 2 / 3 - x**2 + x**3 / 2
    outer = np.maximum(2 - x, 0) ** 3 / 6
    return np.where(x < 1, inner, outer)
