"""The quadratic spline through an image, read on a lattice that a transform takes into it.

ITK's is the same, several times slower. Where the lattice runs along the image's axes, fit and
reading together are one small matrix an axis; otherwise each point weighs 27 coefficients, as where
the last level reads moving at displaced voxels (`field.sampling`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ...core.geometry import DisplacementField, Grid, Volume

_ASKEW = 0.005  # voxels by which a lattice may leave an axis, over its whole length
_ROWS, _NEGLIGIBLE = 32, 1e-7  # of a matrix that are multiplied at a time; a weight
_SLAB = 1 << 17  # points at once, so that what belongs to them stays in the cache


def spline(
    volume: Volume, grid: Grid, transform: sitk.Transform, wanted: np.ndarray | None = None
) -> np.ndarray:
    """volume at transform(x) for each x of grid, the edge value beyond it; (z, y, x) float32.

    Within the volume as ITK's: mirrored at the edges. wanted: bool (z, y, x), the voxels that are
    needed, where others may be anything.
    """
    values = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))
    if not transform.IsLinear():
        places = _bent(volume.grid, grid, transform)
        return _at_points(values, places, grid.shape, wanted).numpy()
    # Where the lattice's first voxel and the ends of its axes lie, in voxels of the volume.
    ends = grid.to_world(np.concatenate((np.zeros((1, 3)), np.diag(grid.size))))
    ends = volume.grid.to_index([transform.TransformPoint(p) for p in ends.tolist()])
    first, ways = ends[0], (ends[1:] - ends[0]).T  # ways: (volume's axes, lattice's axes)
    order = np.abs(ways).argmax(axis=1)
    across = ways.copy()
    across[range(3), order] = 0
    steps = ways / grid.size
    if len(set(order.tolist())) == 3 and np.abs(across).max() <= _ASKEW:
        lines = [first[k] + steps[k, a] * np.arange(grid.size[a]) for k, a in enumerate(order)]
        values = along_axes(values, [_weights(n, v) for n, v in zip(volume.grid.size, lines)])
        # Its axes are the volume's z, y, x; the lattice's axis order[k] runs along the k-th.
        back = [2 - order.tolist().index(2 - k) for k in range(3)]
        return values.permute(back).contiguous().numpy()
    return _at_points(values, _along(first, steps), grid.shape, wanted).numpy()


def coefficients(values: torch.Tensor) -> torch.Tensor:
    """Those (D, H, W) of the quadratic spline through values (D, H, W), mirrored at the edges."""
    sizes = values.shape[::-1]
    return along_axes(values, [np.linalg.inv(_splines(n, np.arange(n))) for n in sizes])


def weights_of_three(away: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the three nearest coefficients count at a distance (-1/2 to 1/2) from the middle one."""
    before, after = ((0.5 + side * away).square().div_(2) for side in (-1, 1))
    return before, 0.75 - away.square(), after


def weighed(
    coefficients: torch.Tensor,
    corner: torch.Tensor,
    strides: tuple[int, int, int],
    weights: list[tuple[torch.Tensor, ...]],
) -> torch.Tensor:
    """The sum of the 3x3x3 coefficients from each corner (N,), weighed along x, y and z: (N,).

    coefficients: flat; strides: from one to the next along x, y, z; weights: three (N,) an axis.
    """
    box = 0
    for dz, wz in enumerate(weights[2]):
        plane = 0
        for dy, wy in enumerate(weights[1]):
            row = 0
            for dx, wx in enumerate(weights[0]):
                # The same index into what begins further on, instead of another index.
                shifted = coefficients[dx + dy * strides[1] + dz * strides[2] :]
                row = shifted.index_select(0, corner).mul_(wx) + row
            plane = row.mul_(wy) + plane
        box = plane.mul_(wz) + box
    return box


def along_axes(values: torch.Tensor, matrices: Sequence[np.ndarray | None]) -> torch.Tensor:
    """values (D, H, W) times a matrix (n, W), (n, H), (n, D) along x, y and z; None: as they are.

    Meant for matrices of which all but a band around the diagonal is next to nothing.
    """
    for axis, matrix in zip((2, 1, 0), matrices):
        if matrix is None:
            continue
        size = list(values.shape)
        size[axis] = len(matrix)
        result = values.new_empty(size)
        for first in range(0, len(matrix), _ROWS):
            rows = matrix[first : first + _ROWS]
            near = np.flatnonzero((np.abs(rows) > _NEGLIGIBLE).any(axis=0))
            begin, count = int(near[0]), int(near[-1] - near[0]) + 1
            rows = rows[:, begin : begin + count].astype(np.float32)
            rows = torch.from_numpy(rows).to(values.device)
            here = values.narrow(axis, begin, count)
            if axis == 2:
                product = here @ rows.T
            elif axis == 1:
                product = rows @ here
            else:
                product = (rows @ here.flatten(1)).view(-1, *here.shape[1:])
            result.narrow(axis, first, len(rows)).copy_(product)
        values = result
    return values


def _along(first: np.ndarray, steps: np.ndarray):
    """`places` of `_at_points`: first + steps @ (x, y, z)."""

    def places(slices: range, here, shape) -> Iterator[torch.Tensor]:
        if here is None:
            z, y, x = (torch.arange(n, dtype=torch.float32) for n in shape)
            z, y = z[:, None, None], y[:, None]
        else:
            z, y, x = (place.float() for place in here)
        begin = (first + slices.start * steps[:, 2]).tolist()
        for axis, (across, down, through) in enumerate(steps.tolist()):
            yield ((through * z + down * y + begin[axis]) + across * x).flatten()

    return places


def _bent(image: Grid, lattice: Grid, transform: sitk.Transform):
    """`places` of `_at_points`: where a transform takes the voxels of a lattice in an image."""

    def places(slices: range, here, shape) -> Iterator[torch.Tensor]:
        origin = tuple(lattice.to_world(np.array((0.0, 0.0, slices.start))))
        part = Grid(shape[::-1], lattice.spacing, origin, lattice.direction)
        points = part.points() + DisplacementField.of_transform(transform, part).array
        index = image.to_index(points if here is None else points[tuple(here)]).reshape(-1, 3)
        yield from torch.from_numpy(index.astype(np.float32).T.copy())

    return places


def _at_points(
    values: torch.Tensor,
    places: Callable,
    shape: tuple[int, int, int],
    wanted: np.ndarray | None,
) -> torch.Tensor:
    """The spline through values (D, H, W) at the points of a lattice, `shape`.

    places(slices, here, shape): x, y and z (N,), in voxels of the values, of the points of some
    slices of the lattice, or of those `here` (z, y, x) alone. 0 at places that are not wanted.
    """
    sizes = values.shape[::-1]
    padded = F.pad(coefficients(values)[None, None], (1,) * 6, mode="reflect")[0, 0]
    _, height, width = padded.shape
    flat, strides = padded.flatten(), (1, width, width * height)
    result = torch.zeros(shape)
    slab = max(1, _SLAB // (shape[1] * shape[2]))
    for k, part in zip(range(0, shape[0], slab), result.split(slab)):
        slices, here = range(k, k + len(part)), None
        if wanted is not None:
            here = torch.from_numpy(wanted[k : k + slab]).nonzero(as_tuple=True)
        corner, weights = 0, []
        for axis, index in enumerate(places(slices, here, tuple(part.shape))):
            last = sizes[axis] - 1
            index.masked_fill_(index < -0.5, 0).masked_fill_(index > last + 0.5, last)
            nearest = index.round().clamp_(0, last)
            weights.append(weights_of_three(index.sub_(nearest)))
            corner = nearest.long().mul_(strides[axis]) + corner
        found = weighed(flat, corner, strides, weights)
        if here is None:
            part.copy_(found.view(part.shape))
        else:
            part[here] = found
    return result


def _weights(size: int, index: np.ndarray) -> np.ndarray:
    """What each of `size` values counts for in their spline at indices (n,): (n, size)."""
    outside = (index < -0.5) | (index > size - 0.5)
    index = np.where(outside, np.clip(index, 0, size - 1), index)
    return np.linalg.solve(_splines(size, np.arange(size)).T, _splines(size, index).T).T


def _splines(size: int, index: np.ndarray) -> np.ndarray:
    """The splines of `size` coefficients at indices (n,), mirrored at the edges: (n, size)."""
    nearest = np.rint(index).astype(int)
    away, rows = index - nearest, np.arange(len(index))
    weights = np.zeros((len(index), size))
    for step, share in (
        (-1, (0.5 - away) ** 2 / 2),
        (0, 0.75 - away**2),
        (1, (0.5 + away) ** 2 / 2),
    ):
        column = size - 1 - np.abs(size - 1 - np.abs(nearest + step))
        np.add.at(weights, (rows, column), share)
    return weights
