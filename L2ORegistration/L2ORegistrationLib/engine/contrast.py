"""Sampling of a scalar feature together with its gradient: the last refinement's view of a pair."""

from __future__ import annotations

import torch

from .dissimilarity import block_at, voxel_positions

_CHUNK = 1 << 16


def with_gradient(values: torch.Tensor) -> torch.Tensor:
    """values (1, D, H, W) with their central differences (x, y, z) per voxel: (D, H, W, 4)."""
    image = values[0]
    result = image.new_empty((*image.shape, 4))
    result[..., 0] = image
    for axis in range(3):  # one at a time: all of them beside the result would fill the memory
        result[..., 3 - axis] = torch.gradient(image, dim=axis)[0]
    return result


def sampled_system(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    displacement: torch.Tensor,
    voxels: torch.Tensor,
    weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared differences (N,) and Gauss-Newton systems (N, 9) at displaced voxels.

    fixed, moving: (D, H, W, 4) from `with_gradient`; displacement: (N, 3), (x, y, z) in voxels;
    voxels: (N,) flat indices; weight: (N,) of each voxel. The gradient is the mean of both
    images', which converges in fewer steps than either. Systems as in `sampled_dissimilarity`.
    """
    rows = fixed.flatten(0, 2), moving.flatten(0, 2)
    parts = [
        _chunk(*rows, moving.shape, displacement[part], voxels[part], weight[part])
        for part in (slice(i, i + _CHUNK) for i in range(0, len(voxels), _CHUNK))
    ]
    both = torch.cat(parts) if parts else displacement.new_zeros((0, 10))
    return both[:, 0], both[:, 1:]


def _chunk(fixed, moving, shape, displacement, voxels, weight):
    _, height, width = shape[:3]
    plane = height * width
    corner, (wx, wy, wz) = block_at(voxel_positions(voxels, shape) + displacement, shape, 2)

    def row(offset):
        return torch.lerp(moving[corner + offset], moving[corner + (offset + 1)], wx)

    def layer(offset):
        return torch.lerp(row(offset), row(offset + width), wy)

    sampled, own = torch.lerp(layer(0), layer(plane), wz), fixed[voxels]
    residual = sampled[:, 0] - own[:, 0]
    gx, gy, gz = ((sampled + own)[:, 1:] / 2).unbind(dim=1)
    products = (gx * gx, gy * gy, gz * gz, gx * gy, gx * gz, gy * gz)
    right = (-g * residual for g in (gx, gy, gz))
    return torch.stack((residual.square(), *products, *right), dim=1) * weight[:, None]
