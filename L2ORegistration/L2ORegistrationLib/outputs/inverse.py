"""The inverse of a displacement field, moving point -> fixed point, with its round-trip error.

It is solved at nodes (see `newton`), first as far apart as the field's, then several times as close
wherever linear interpolation between them would be off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid
from .newton import Newton, interpolated

_MOST_FOLDED = 0.2  # share of the points beyond which the rest means nothing either
_CUT_MM = 0.22  # places that the inverse misses by more are fitted
_DENSE = 4  # points along an axis of a cell that are fitted
_FITS = 16
_INTERPOLATED_MM = 0.04  # cells that interpolation misses by less are not solved on the fine nodes


@dataclass(frozen=True, eq=False)
class Inverse:
    """An inverse field and what its round trip misses.

    field: moving point -> fixed point, LPS mm; errors: mm, of the way there and back from each
    point that was asked for and can return, (N,); folded: how many of these points lie where the
    field is folded and has no inverse; outside: how many are led beyond the moving image, where
    the inverse has no image to act on; both are counted, only the folded ones are left out.
    """

    field: DisplacementField
    errors: np.ndarray
    folded: int
    outside: int

    @property
    def points(self) -> int:
        """How many points were looked at."""
        return len(self.errors) + self.folded

    def summary(self) -> dict[str, float | int]:
        """mean, p95, max (mm; NaN where all is folded), folded, outside and points."""
        errors = self.errors if len(self.errors) else np.array([np.nan])
        return {
            "mean": float(errors.mean()),
            "p95": float(np.percentile(errors, 95)),
            "max": float(errors.max()),
            "folded": self.folded,
            "outside": self.outside,
            "points": self.points,
        }

    def sentence(self) -> str:
        """What the user should know of this inverse."""
        s = self.summary()
        said = "Every point lies in a fold: there is no inverse."
        if len(self.errors):
            said = (
                f"There and back the inverse misses {s['mean']:.3f} mm on average, "
                f"{s['p95']:.3f} mm at 95 % and {s['max']:.3f} mm at most of {s['points']} points."
            )
        if self.folded:
            share = 100 * self.folded / self.points
            said += f" Left out: {self.folded} points ({share:.2g} %) where the field is folded."
        if self.outside:
            said += f" {self.outside} points lead beyond the moving image."
        return said


def invert(
    field: DisplacementField,
    points: np.ndarray | None = None,
    moving: Grid | None = None,
) -> Inverse:
    """The inverse of a field, and its round-trip error at points (N, 3) of fixed, LPS mm.

    points: such as the voxels of the lungs; the field's own nodes where left out. moving: the
    moving image's grid, which tells the points that lead beyond it. The inverse covers everything
    that the field's grid is moved to; beyond, its edge value continues. Raises InputError for a
    field with a single node along an axis, or folded at many of the points.
    """
    grid, newton = field.grid, Newton(field)
    asked = points is not None
    if not asked:
        points = grid.points().reshape(-1, 3)
    x = grid.to_index(np.asarray(points, dtype=float)).astype(np.float32)
    y = newton.moved(x)
    folded = newton.folded(x)
    if folded.mean() > _MOST_FOLDED:
        raise InputError(
            f"The transform folds at {100 * folded.mean():.0f} % of the places: it has no inverse. "
            "Register again, or check that this is the right file."
        )
    finer = newton.nodes_a_voxel(x[~folded])
    lattice = _solved(field, newton, finer, y if asked else None, moving)
    errors = lattice.fitted(newton, grid, x[~folded], y[~folded])
    outside = 0 if moving is None else int((~moving.contains(grid.to_world(y))).sum())
    return Inverse(lattice.field(grid), errors, int(folded.sum()), outside)


def _solved(
    field: DisplacementField,
    newton: Newton,
    finer: np.ndarray,
    y: np.ndarray | None,
    moving: Grid | None,
) -> _Lattice:
    """The inverse on a lattice along the axes of the field's, `finer` nodes (x, y, z) a voxel.

    It covers what the field moves to, of that what the moving image shows, and the places y (N, 3),
    voxels of the field; only around these are the fine nodes solved exactly.
    """
    from scipy import ndimage  # slow to import, and Slicer imports this file when it starts

    first, last = _extent(field, y, moving)
    axes = [np.arange(a, b + 1, dtype=np.float32) for a, b in zip(first, last)]
    nodes = np.stack(np.meshgrid(*axes[::-1], indexing="ij")[::-1], axis=-1)
    coarse, solved = newton.solve(nodes.reshape(-1, 3))
    coarse = np.ascontiguousarray(coarse.T.reshape(3, *nodes.shape[:3]))

    active = _curved(coarse, _INTERPOLATED_MM / min(field.grid.spacing))
    active = ndimage.binary_dilation(active, np.ones((3, 3, 3)))
    if y is not None:
        near = np.zeros(active.shape, bool)
        index = np.rint(y - first).astype(int)
        near[tuple(np.clip(index, 0, np.array(active.shape[::-1]) - 1).T[::-1])] = True
        active &= ndimage.binary_dilation(near, np.ones((3, 3, 3)))
    active &= solved.reshape(active.shape)  # in a fold finer nodes have no inverse either
    lattice = _Lattice(coarse, first, finer)
    for axis, count in enumerate(finer[::-1]):
        active = np.repeat(active, count, axis=axis)
    inside = zip(finer[::-1] // 2, lattice.values.shape[1:])
    # A coarse node stands for the fine ones around it.
    active = active[tuple(slice(middle, middle + n) for middle, n in inside)]
    where = np.flatnonzero(active)
    if where.size:
        index = np.stack(np.unravel_index(where, active.shape)[::-1], axis=-1)
        flat = lattice.values.reshape(3, -1)
        finer, solved = newton.solve((first + index / finer).astype(np.float32), flat[:, where].T)
        flat[:, where[solved]] = finer[solved].T
    return lattice


def _extent(
    field: DisplacementField, y: np.ndarray | None, moving: Grid | None
) -> tuple[np.ndarray, np.ndarray]:
    """First and last node (x, y, z) of the coarse lattice, in steps of the field's grid."""

    def around(index: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.floor(index.min(axis=0)), np.ceil(index.max(axis=0))
        return low.astype(int) - margin, high.astype(int) + margin

    grid = field.grid
    first, last = around(grid.to_index((grid.points() + field.array).reshape(-1, 3)), 0)
    if moving is not None:
        low, high = around(grid.to_index(moving.corners()), 0)
        if (np.minimum(high, last) > np.maximum(low, first)).all():
            first, last = np.maximum(low, first), np.minimum(high, last)
    if y is not None and len(y):
        low, high = around(y, 1)
        first, last = np.minimum(low, first), np.maximum(high, last)
    # Where a fold throws a node far away, the lattice does not follow it.
    size = np.array(grid.size)
    return np.maximum(first, -size), np.minimum(np.maximum(last, first + 1), 2 * size)


class _Lattice:
    """The inverse v(y) on nodes `finer` (x, y, z) times as close as the field's, all in its voxels.

    coarse: (3, z, y, x), v at whole voxels, of which the first node is `first` (x, y, z); between
    them linear at first. values: (3, z, y, x), float32, to be improved in place.
    """

    def __init__(self, coarse: np.ndarray, first: np.ndarray, finer: np.ndarray):
        import torch  # takes seconds to import, and interpolates several times as fast as scipy

        size = [int(f * (n - 1) + 1) for f, n in zip(finer[::-1], coarse.shape[1:])]
        fine = torch.nn.functional.interpolate(
            torch.from_numpy(coarse)[None], size, mode="trilinear", align_corners=True
        )
        self.values = fine[0].numpy()
        self._first = first.astype(np.float32)
        self._finer = finer

    def missed(self, grid: Grid, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How far, mm, y (N, 3) is led from where it came from, x (N, 3); both in voxels."""
        off = interpolated(self.values, self._index(y)) + (y - x)
        off = off @ grid.matrix[:3, :3].T.astype(np.float32)
        return np.sqrt(np.einsum("nk,nk->n", off, off))  # numpy's norm takes three times as long

    def field(self, grid: Grid) -> DisplacementField:
        """The inverse in mm; grid: that of the field, whose voxels these are."""
        matrix = grid.matrix[:3, :3].astype(np.float32)
        array = np.empty((*self.values.shape[1:], 3), np.float32)
        for k in range(3):
            array[..., k] = sum(matrix[k, j] * self.values[j] for j in range(3) if matrix[k, j])
        spacing = tuple(s / f for s, f in zip(grid.spacing, self._finer))
        origin = tuple(grid.to_world(self._first))
        size = self.values.shape[:0:-1]
        return DisplacementField(array, Grid(size, spacing, origin, grid.direction))

    def fitted(self, newton: Newton, grid: Grid, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Improve the nodes around places x (N, 3), led to y (N, 3), that miss by over _CUT_MM.

        Between its nodes the inverse is linear and cuts the kinks of what it stands for. In the
        field's cells around such places nodes are shifted by what the places of these cells miss,
        and points between where these are few, on average and a few times. Voxels. Returns how
        far, mm, each place is missed afterwards, as `missed`.
        """
        from scipy import ndimage  # slow to import, and Slicer imports this file when it starts

        errors = self.missed(grid, x, y)
        bad = errors > _CUT_MM
        if not bad.any():
            return errors
        marked = np.zeros(grid.size, bool)
        cells = np.clip(np.floor(x[bad]).astype(int), 0, np.array(grid.size) - 2)
        marked[tuple(cells.T)] = True
        marked = ndimage.binary_dilation(marked, np.ones((3, 3, 3)))
        inner = np.stack(np.meshgrid(*[(np.arange(_DENSE) + 0.5) / _DENSE] * 3), -1).reshape(-1, 3)
        between = (np.argwhere(marked)[:, None] + inner).reshape(-1, 3).astype(np.float32)
        asked = x[marked[tuple(np.clip(np.floor(x).astype(int), 0, np.array(grid.size) - 2).T)]]
        # Voxels of an image lie densely enough by themselves.
        at = asked if len(asked) > len(between) / 2 else np.concatenate((between, asked))
        at = at[(at <= np.array(grid.size) - 1).all(axis=1) & ~newton.folded(at)]
        to = newton.moved(at)
        shifted = self._shift(at - to, self._index(to), _CUT_MM / min(grid.spacing))
        # What lies in none of the cells around a shifted node is missed as before.
        cells = shifted[:-1] | shifted[1:]
        cells = cells[:, :-1] | cells[:, 1:]
        cells = cells[..., :-1] | cells[..., 1:]
        cell = np.clip(self._index(y), 0, np.array(cells.shape[::-1]) - 1).astype(np.int32)
        again = cells[cell[:, 2], cell[:, 1], cell[:, 0]]
        errors[again] = self.missed(grid, x[again], y[again])
        return errors

    def _index(self, y: np.ndarray) -> np.ndarray:
        """Places (N, 3) in voxels of the field, in steps of this lattice."""
        return (y - self._first) * self._finer.astype(np.float32)

    def _shift(self, wanted: np.ndarray, index: np.ndarray, cut: float) -> np.ndarray:
        """Shift nodes towards wanted values (N, 3) at places (N, 3), in steps of this lattice.

        Returns which nodes (z, y, x) they are.
        """
        size = np.array(self.values.shape[:0:-1])
        cell = np.clip(np.floor(index).astype(int), 0, size - 2)
        weight = np.clip(index - cell, 0, 1)
        strides = np.array([1, size[0], size[0] * size[1]])
        corner, share = [], []
        for step in np.ndindex(2, 2, 2):
            corner.append((cell + step) @ strides)
            x, y, z = np.where(step, weight, 1 - weight).T
            share.append(x * y * z)
        corner, share = np.array(corner), np.array(share)  # (8, N)
        shifted = np.zeros(self.values[0].size, bool)
        shifted[corner.ravel()] = True
        nodes = np.flatnonzero(shifted)
        number = np.empty(shifted.size, np.int32)
        number[nodes] = np.arange(len(nodes))
        corner = number[corner]
        flat = self.values.reshape(3, -1)
        values = flat[:, nodes].T.astype(float)
        total = np.bincount(corner.ravel(), share.ravel(), len(nodes)) + 1e-3
        for _ in range(_FITS):
            miss = wanted - (values[corner] * share[..., None]).sum(axis=0)
            # Large misses count more: it is the largest one that matters.
            size = np.linalg.norm(miss, axis=1, keepdims=True)
            miss *= np.minimum(size / (2 * cut), 1) ** 2
            for k in range(3):
                shift = np.bincount(corner.ravel(), (share * miss[:, k]).ravel(), len(nodes))
                values[:, k] += shift / total
        flat[:, nodes] = values.T
        return shifted.reshape(self.values.shape[1:])


def _curved(v: np.ndarray, limit: float) -> np.ndarray:
    """Where interpolation between the nodes of v (3, z, y, x) errs by more than the limit.

    A second difference d along an axis makes an error of at most d / 8.
    """
    bend = np.zeros(v.shape[1:], np.float32)
    for axis in range(1, 4):
        second = np.zeros_like(bend)
        inner = np.abs(np.diff(v, 2, axis=axis)).max(axis=0)
        middle = [slice(None)] * 3
        middle[axis - 1] = slice(1, -1)
        second[tuple(middle)] = inner
        bend += second
    return bend > 8 * limit
