"""What is done to fields as arrays: interpolate, sample, smooth, Laplacian; each says its units.

Fields are torch tensors (C, d, h, w) with components (x, y, z); where they lie in the world, no
function here needs to know.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def interpolated(values: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """values (C, ., ., .) on a nested grid of another size (d, h, w), linear; units stay."""
    size = tuple(size)
    return F.interpolate(values[None], size=size, mode="trilinear", align_corners=False)[0]


def sample(values: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """values (C, d, h, w) at each voxel + displacement (3, d, h, w), in voxels; edges repeat."""
    size = values.shape[1:]
    axes = [torch.arange(n, device=values.device, dtype=values.dtype) for n in size]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    where = torch.stack((x, y, z)) + displacement
    scale = values.new_tensor([2 / max(n - 1, 1) for n in size[::-1]]).view(3, 1, 1, 1)
    coordinates = (where * scale - 1).permute(1, 2, 3, 0)
    return F.grid_sample(
        values[None], coordinates[None], mode="bilinear", padding_mode="border", align_corners=True
    )[0]


def sample_points(field: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """field (C, d, h, w) at continuous voxel positions (N, 3), (x, y, z): (N, C); edges repeat."""
    scale = field.new_tensor([2 / max(n - 1, 1) for n in field.shape[:0:-1]])
    coordinates = (position * scale - 1).view(1, -1, 1, 1, 3)
    out = F.grid_sample(
        field[None], coordinates, mode="bilinear", padding_mode="border", align_corners=True
    )
    return out[0, :, :, 0, 0].T


def smooth(field: torch.Tensor) -> torch.Tensor:
    """field (N, C, D, H, W) blurred once by [1 2 1] / 4 along each axis; the edge repeats."""
    for axis in (2, 3, 4):
        size = field.shape[axis]
        first, last = field.narrow(axis, 0, 1), field.narrow(axis, size - 1, 1)
        padded = torch.cat((first, field, last), dim=axis)
        field = 0.25 * (padded.narrow(axis, 0, size) + padded.narrow(axis, 2, size)) + 0.5 * field
    return field


def laplacian(field: torch.Tensor) -> torch.Tensor:
    """Each value less its neighbours, summed over the six (C, d, h, w), none beyond the border.

    The unit is that of the field; divide by the squared spacing for a derivative per mm.
    """
    axes = [axis for axis in (1, 2, 3) if field.shape[axis] > 1]
    result = field * (2 * len(axes))
    for axis in axes:
        last = field.shape[axis] - 1
        result.narrow(axis, 1, last).sub_(field.narrow(axis, 0, last))
        result.narrow(axis, 0, last).sub_(field.narrow(axis, 1, last))
        for end in (0, last):
            result.select(axis, end).sub_(field.select(axis, end))
    return result


def weighted_laplacian(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`laplacian` in which the difference of two neighbours counts as the mean of their weights.

    values: (C, d, h, w); weight: (d, h, w). Symmetric, and without negative eigenvalues where no
    weight is negative.
    """
    result = torch.zeros_like(values)
    for axis in (1, 2, 3):
        last = values.shape[axis] - 1
        between = weight.narrow(axis - 1, 1, last) + weight.narrow(axis - 1, 0, last)
        steps = values.narrow(axis, 1, last) - values.narrow(axis, 0, last)
        steps = steps * between / 2
        result.narrow(axis, 1, last).add_(steps)
        result.narrow(axis, 0, last).sub_(steps)
    return result
