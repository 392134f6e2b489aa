"""The inverse of a displacement field, moving point -> fixed point, with its round-trip error.

The inverse v of x + u(x) satisfies v(y) = -u(y + v(y)). It is solved at the nodes of a lattice by
a Newton iteration whose Jacobian is taken from the nearest node of u, first on a lattice as coarse
as u, then on one three times as fine wherever linear interpolation between the coarse nodes would
be off. Source of the iteration: Chen et al., "A simple fixed-point approach to invert a deformation
field", Med. Phys. 35, 2008 (there without the Jacobian, which converges slowly on deep breaths).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid, Volume
from ..reporting.measures import jacobian_determinant

FINER = 3  # nodes of the inverse along an axis for each node of the field
CLOSE = 0.001  # voxels of the field: a node is solved when a step moves it less than this
_CUT_MM = 0.1  # corners of the inverse that its nodes cut by more are fitted
_FITS = 8
_DAMPING = 1.0  # in points: a node that few points touch is shifted less, against overfitting
_INTERPOLATED_MM = 0.02  # cells that interpolation misses by less are not solved on the fine nodes
_STEPS = 30  # of Newton at most; folded places never converge
_STEEPEST = 20.0  # largest entry of an inverse Jacobian that is used as a step


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
    field with a single node along an axis.
    """
    jacobian = jacobian_determinant(field)
    asked = points is not None
    if not asked:
        points = field.grid.points().reshape(-1, 3)
    points = np.asarray(points, dtype=float)
    folded = _folded(jacobian, points)
    moved = points + _sampled(field, points)
    inverse = _solved(field, moved if asked else None, moving)
    outside = 0 if moving is None else int((~moving.contains(moved)).sum())
    if folded.any():
        moved, points = moved[~folded], points[~folded]
    miss = _fitted(inverse, moved, points - moved)
    return Inverse(inverse, np.linalg.norm(miss, axis=1), int(folded.sum()), outside)


def as_field(transform: sitk.Transform, over: Grid | None = None) -> DisplacementField:
    """A transform as a field: on its own nodes where it has some, else on a grid `over` fixed.

    Raises InputError for a transform without nodes and without a grid to sample it on.
    """
    if transform.GetTransformEnum() == sitk.sitkComposite:
        composite = sitk.CompositeTransform(transform)
        if composite.GetNumberOfTransforms() == 1:
            transform = composite.GetNthTransform(0)
    if transform.GetTransformEnum() == sitk.sitkDisplacementField:
        image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
        return DisplacementField.of_image(image)
    if over is None:
        raise InputError(
            "This transform has no grid of its own: name the fixed image with --reference."
        )
    return DisplacementField.of_transform(transform, over)


def _solved(
    field: DisplacementField, moved: np.ndarray | None, moving: Grid | None
) -> DisplacementField:
    """The inverse on a lattice along the axes of the field's.

    It covers what the field moves to, of that what the moving image shows, and the moved points
    (N, 3), mm; only around these are the fine nodes solved exactly.
    """
    from scipy import ndimage  # slow to import, and Slicer imports this file when it starts

    grid = field.grid
    first, last = _extent(field, moved, moving)
    newton = _Newton(_in_voxels(field))
    axes = [np.arange(a, b + 1, dtype=np.float32) for a, b in zip(first, last)]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    coarse = newton.solve(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=-1))
    coarse = np.ascontiguousarray(coarse.T.reshape(3, *x.shape))

    active = _curved(coarse, _INTERPOLATED_MM / min(grid.spacing))
    active = ndimage.binary_dilation(active, np.ones((3, 3, 3)))
    if moved is not None:
        near = np.zeros(active.shape, bool)
        index = np.rint(grid.to_index(moved) - first).astype(int)
        near[tuple(np.clip(index, 0, np.array(active.shape[::-1]) - 1).T[::-1])] = True
        active &= ndimage.binary_dilation(near, np.ones((3, 3, 3)))
    fine = coarse
    for axis in range(1, 4):
        fine = _between(fine, axis)
        active = np.repeat(active, FINER, axis=axis - 1)
    middle = FINER // 2  # a coarse node stands for the fine ones around it
    active = active[tuple(slice(middle, middle + n) for n in fine.shape[1:])]
    where = np.flatnonzero(active)
    if where.size:
        index = np.unravel_index(where, active.shape)
        y = np.stack([first[k] + index[2 - k] / FINER for k in range(3)], axis=-1)
        fine = np.ascontiguousarray(fine)
        flat = fine.reshape(3, -1)
        flat[:, where] = newton.solve(y, flat[:, where].T).T
    matrix = grid.matrix[:3, :3].astype(np.float32)
    lattice = Grid(
        fine.shape[:0:-1],
        tuple(s / FINER for s in grid.spacing),
        tuple(grid.to_world(first)),
        grid.direction,
    )
    return DisplacementField(np.ascontiguousarray(np.moveaxis(fine, 0, -1) @ matrix.T), lattice)


def _extent(
    field: DisplacementField, moved: np.ndarray | None, moving: Grid | None
) -> tuple[np.ndarray, np.ndarray]:
    """First and last node (x, y, z) of the coarse lattice, in steps of the field's grid."""

    def around(points: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
        index = field.grid.to_index(points.reshape(-1, 3))
        low, high = np.floor(index.min(axis=0)), np.ceil(index.max(axis=0))
        return low.astype(int) - margin, high.astype(int) + margin

    first, last = around(field.grid.points() + field.array, 0)
    if moving is not None:
        low, high = around(moving.corners(), 0)
        if (np.minimum(high, last) > np.maximum(low, first)).all():
            first, last = np.maximum(low, first), np.minimum(high, last)
    if moved is not None and len(moved):
        low, high = around(moved, 1)
        first, last = np.minimum(low, first), np.maximum(high, last)
    # Where a fold throws a node far away, the lattice does not follow it.
    size = np.array(field.grid.size)
    return np.maximum(first, -size), np.minimum(np.maximum(last, first + 1), 2 * size)


def _fitted(field: DisplacementField, points: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Bring a field, in place, closer to wanted displacements (N, 3) at points (N, 3), all mm.

    Between its nodes a field is linear and cuts the kinks of what it stands for. Only around
    points that miss by more than _CUT_MM are the nodes shifted by what the points around them
    miss, on average and a few times. Returns what the points still miss, (N, 3).
    """
    from scipy import ndimage  # slow to import, and Slicer imports this file when it starts

    grid = field.grid
    size = np.array(grid.size)
    flat = field.array.reshape(-1, 3)
    index = grid.to_index(points)
    cell = np.clip(np.floor(index).astype(int), 0, size - 2)
    weight = np.clip(index - cell, 0, 1)
    strides = np.array([1, size[0], size[0] * size[1]])
    missed = wanted - _sampled(field, points)
    bad = np.linalg.norm(missed, axis=1) > _CUT_MM
    if not bad.any():
        return missed
    block = cell // FINER
    marked = np.zeros(tuple(size[::-1] // FINER + 1), bool)
    marked[tuple(block[bad].T[::-1])] = True
    marked = ndimage.binary_dilation(marked, np.ones((3, 3, 3)))
    chosen = marked[tuple(block.T[::-1])]
    cell, weight, wanted = cell[chosen], weight[chosen], wanted[chosen]
    corner, share = [], []
    for shift in np.ndindex(2, 2, 2):
        corner.append((cell + shift) @ strides)
        share.append(np.where(shift, weight, 1 - weight).prod(axis=1))
    corner, share = np.array(corner), np.array(share)  # (8, N)
    nodes, corner = np.unique(corner, return_inverse=True)
    corner = corner.reshape(share.shape)
    values = flat[nodes].astype(float)
    total = np.bincount(corner.ravel(), share.ravel(), len(nodes)) + _DAMPING
    for _ in range(_FITS):
        miss = wanted - (values[corner] * share[..., None]).sum(axis=0)
        # Large misses count more: it is the largest one that matters.
        miss *= np.minimum(np.linalg.norm(miss, axis=1, keepdims=True) / _CUT_MM, 2)
        for k in range(3):
            values[:, k] += np.bincount(corner.ravel(), (share * miss[:, k]).ravel()) / total
    flat[nodes] = values
    missed[chosen] = wanted - (values[corner] * share[..., None]).sum(axis=0)
    return missed


def _sampled(field: DisplacementField, points: np.ndarray) -> np.ndarray:
    """Displacements (N, 3) at points (N, 3), all mm; the edge value continues."""
    import torch  # takes seconds to import

    last = torch.tensor(field.grid.size) - 1
    index = torch.from_numpy(field.grid.to_index(points).astype(np.float32))
    u = torch.from_numpy(np.ascontiguousarray(np.moveaxis(field.array, -1, 0), dtype=np.float32))
    return _looked_up(u, index, last).numpy().astype(float)


def _looked_up(u, index, last):
    """u (3, z, y, x) at continuous indices (N, 3), (x, y, z); last: the highest ones. (N, 3)."""
    from torch.nn.functional import grid_sample

    where = (2 * index / last - 1)[None, None, None]
    values = grid_sample(u[None], where, "bilinear", padding_mode="border", align_corners=True)
    return values[0, :, 0, 0].T


class _Newton:
    """Solves v = -u(y + v) at points, everything in voxels of u (components first)."""

    def __init__(self, u: np.ndarray):
        import torch  # takes seconds to import, and looks up fields four times as fast as scipy

        self._torch = torch
        slopes = np.stack([np.gradient(u, axis=3 - k) for k in range(3)], axis=1)  # du_i / dx_k
        matrices = np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3, dtype=np.float32)
        flat = torch.from_numpy(np.ascontiguousarray(matrices.reshape(-1, 3, 3)))
        inverse, wrong = torch.linalg.inv_ex(flat)
        useless = (wrong != 0) | ~(inverse.abs().amax(dim=(1, 2)) < _STEEPEST)
        inverse[useless] = torch.eye(3)
        self._inverse = inverse.reshape(-1, 9)
        self._u = torch.from_numpy(u)
        self._last = torch.tensor(u.shape[:0:-1], dtype=torch.float32) - 1  # x, y, z
        self._steps = torch.tensor([1, u.shape[3], u.shape[3] * u.shape[2]])

    def solve(self, y: np.ndarray, v: np.ndarray | None = None) -> np.ndarray:
        """v (N, 3), float32, at y (N, 3), started from v or from -u(y)."""
        torch = self._torch
        y = torch.from_numpy(np.ascontiguousarray(y, dtype=np.float32))
        v = -self._at(y) if v is None else torch.from_numpy(np.array(v, dtype=np.float32))
        left, target, found = None, y, v  # those not yet solved; at first all
        for count in range(_STEPS):
            x = target + found
            miss = -found - self._at(x)  # what x + u(x) lacks to reach y
            matrix = self._inverse[self._nearest(x)].reshape(-1, 3, 3)
            step = (matrix @ miss[..., None])[..., 0]
            if count > 6:  # nearest Jacobians make some nodes jump to and fro
                step *= 0.5
            found = found + step
            if left is None:
                v = found
            else:
                v[left] = found
            far = step.abs().amax(dim=1) > CLOSE
            if not far.any():
                break
            left = far.nonzero()[:, 0] if left is None else left[far]
            target, found = y[left], v[left]
        return v.numpy()

    def _at(self, x):
        """u (N, 3) at x (N, 3), in voxels; the edge value beyond the grid."""
        return _looked_up(self._u, x, self._last)

    def _nearest(self, x):
        """The number of the nearest node of each x (N, 3)."""
        rounded = (x + 0.5).clamp(min=self._last * 0).minimum(self._last).long()
        return (rounded * self._steps).sum(dim=1)


def _in_voxels(field: DisplacementField) -> np.ndarray:
    """Displacements (3, z, y, x) in voxels of the field's grid, float32."""
    matrix = np.linalg.inv(field.grid.matrix[:3, :3]).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(field.array.astype(np.float32) @ matrix.T, -1, 0))


def _between(array: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation along an axis at FINER positions for each step."""
    array = np.moveaxis(array, axis, 0)
    out = np.empty(((len(array) - 1) * FINER + 1, *array.shape[1:]), np.float32)
    out[::FINER] = array
    for k in range(1, FINER):
        out[k::FINER] = array[:-1] + np.float32(k / FINER) * (array[1:] - array[:-1])
    return np.moveaxis(out, 0, axis)


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


def _folded(jacobian: Volume, points: np.ndarray) -> np.ndarray:
    """Which points (N, 3) lie in a cell with a node whose determinant is not positive."""
    from scipy import ndimage  # slow to import, and Slicer imports this file when it starts

    bad = jacobian.array <= 0
    if not bad.any():
        return np.zeros(len(points), bool)
    around = ndimage.binary_dilation(bad, np.ones((3, 3, 3)))
    return Volume(around.astype(np.uint8), jacobian.grid).sample(points, order=0) > 0
