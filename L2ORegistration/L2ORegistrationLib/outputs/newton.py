"""Where the inverse of a displacement field leads: solved point by point.

The inverse v of x + u(x) satisfies v(y) = -u(y + v(y)). It is solved by a Newton iteration whose
Jacobian is taken from the nearest node of u. Source of the iteration: Chen et al., "A simple
fixed-point approach to invert a deformation field", Med. Phys. 35, 2008 (there without the
Jacobian, which converges slowly on deep breaths).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import InputError
from ..core.geometry import DisplacementField

if TYPE_CHECKING:
    import torch

_FINER = 2  # nodes of the inverse along an axis for each node of the field, at least
_FINEST = 8  # the same along an axis where the field compresses much
_MOST_NODES = 36  # for each voxel of the field
_CLOSE = 0.02  # voxels of the field: a node is solved after a step of less, which leaves far less
_STEPS = 30  # of Newton at most; folded places never converge
_STEEPEST = 20.0  # largest entry of an inverse Jacobian that is used as a step


class Newton:
    """Solves v = -u(y + v) at points; points and displacements are in voxels of the field.

    Raises InputError for a field with a single node along an axis.
    """

    def __init__(self, field: DisplacementField):
        import torch  # takes seconds to import, and interpolates several times as fast as scipy

        if min(field.grid.size) < 2:
            raise InputError("An inverse needs a field of at least two nodes along each axis.")
        self._u = u = _in_voxels(field)
        slopes = np.stack([np.gradient(u, axis=3 - k) for k in range(3)], axis=1)  # du_i / dx_k
        matrices = np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3, dtype=np.float32)
        flat = torch.from_numpy(np.ascontiguousarray(matrices.reshape(-1, 3, 3)))
        self._determinant = torch.linalg.det(flat).reshape(u.shape[1:]).numpy()
        self._stretch = np.einsum("...kk->...k", matrices)  # of a step in x, y, z
        inverse, wrong = torch.linalg.inv_ex(flat)
        useless = (wrong != 0) | ~(inverse.abs().amax(dim=(1, 2)) < _STEEPEST)
        inverse[useless] = torch.eye(3)
        self._inverse = inverse
        self._last = torch.tensor(u.shape[:0:-1], dtype=torch.float32) - 1  # x, y, z
        self._zero = torch.zeros(3)

    def moved(self, x: np.ndarray) -> np.ndarray:
        """x + u(x), (N, 3); the edge value of u beyond the grid."""
        return x + interpolated(self._u, x)

    def nodes_a_voxel(self, x: np.ndarray) -> np.ndarray:
        """How many nodes of the inverse one voxel needs along x, y, z around places x (N, 3)."""
        import torch

        near = self._nearest(torch.from_numpy(np.asarray(x, np.float32))).numpy()
        least = np.percentile(self._stretch.reshape(-1, 3)[near], 0.01, axis=0)
        least = np.maximum(least, 0.01)
        count = np.clip(np.ceil(2 / least), _FINER, _FINEST).astype(int)
        while count.prod() > _MOST_NODES:
            # Where the nodes follow the field most closely, one of them is missed least.
            count[np.where(count > _FINER, count * least, 0).argmax()] -= 1
        return count

    def folded(self, x: np.ndarray) -> np.ndarray:
        """Which x (N, 3) lie in a cell with a node whose determinant is not positive."""
        import torch
        from scipy import ndimage  # slow to import, and Slicer imports this file when it starts

        bad = self._determinant <= 0
        if not bad.any():
            return np.zeros(len(x), bool)
        around = ndimage.binary_dilation(bad, np.ones((3, 3, 3)))
        inside = ((x > -0.5) & (x < self._last.numpy() + 0.5)).all(axis=1)
        nearest = self._nearest(torch.from_numpy(np.asarray(x, np.float32)))
        return around.ravel()[nearest.numpy()] & inside

    def solve(self, y: np.ndarray, v: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """v (N, 3), float32, at y (N, 3), from v or -u(y) on, and which are solved (N,)."""
        import torch

        u, y = torch.from_numpy(self._u), torch.from_numpy(np.ascontiguousarray(y, np.float32))
        v = -_sampled(u, y) if v is None else torch.from_numpy(np.array(v, np.float32))
        left = torch.arange(len(y))  # those not yet solved; at first all
        at = y
        for count in range(_STEPS):
            x = at + v[left]
            miss = at - x - _sampled(u, x)
            step = torch.bmm(self._inverse[self._nearest(x)], miss[..., None])[..., 0]
            if count > 6:  # nearest Jacobians make some nodes jump to and fro
                step *= 0.5
            v[left] += step
            far = step.abs().amax(dim=1) > _CLOSE
            left, at = left[far], at[far]
            if not len(left):
                break
        solved = np.ones(len(y), bool)
        solved[left.numpy()] = False
        return v.numpy(), solved

    def _nearest(self, x: torch.Tensor) -> torch.Tensor:
        """The number of the nearest node of each x (N, 3)."""
        x, y, z = x.round().clamp(self._zero, self._last).long().T
        _, height, width = self._determinant.shape
        return (z * height + y) * width + x


def interpolated(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """values (3, z, y, x), float32, at places (N, 3), linear, the edge value beyond: (N, 3)."""
    import torch

    places = torch.from_numpy(index.astype(np.float32, copy=False))
    return _sampled(torch.from_numpy(values), places).numpy()


def _sampled(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values (3, z, y, x) at places (N, 3), linear, the edge value beyond: (N, 3), float32."""
    import torch

    last = torch.tensor(values.shape[:0:-1]) - 1
    where = (index * (2 / last) - 1)[None, None, None]
    found = torch.nn.functional.grid_sample(
        values[None], where, mode="bilinear", padding_mode="border", align_corners=True
    )
    return found[0, :, 0, 0].T


def _in_voxels(field: DisplacementField) -> np.ndarray:
    """Displacements (3, z, y, x) in voxels of the field's grid, float32."""
    matrix = np.linalg.inv(field.grid.matrix[:3, :3]).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(field.array.astype(np.float32) @ matrix.T, -1, 0))
