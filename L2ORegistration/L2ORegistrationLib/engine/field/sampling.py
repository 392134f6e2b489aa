"""What the images say about a field: the dissimilarity of voxels, and a Gauss-Newton system.

The system compares like with like: moving sampled at the point itself against the fixed voxel, so
that it vanishes where the images agree. A mean of samples around it would be a blurred image
against a sharp one: registered with itself, a scan would move by a millimetre.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..images.spline import weighed, weights_of_three

_CHUNK = {"cpu": 1 << 14, "cuda": 1 << 19, "mps": 1 << 18}


def channel_last(features: torch.Tensor) -> torch.Tensor:
    """Features (C, D, H, W) as (D, H, W, C) in memory, as the rows of voxels are read."""
    return features.permute(1, 2, 3, 0).contiguous()


def with_gradient(values: torch.Tensor) -> torch.Tensor:
    """values (D, H, W, C) and their central differences along x, y, z: (D, H, W, 4 C)."""
    result = values.new_empty((*values.shape[:3], 4, values.shape[-1]))
    result[..., 0, :] = values
    half = values / 2
    for axis in range(3):
        along, slope = half.movedim(axis, 0), result[..., 3 - axis, :].movedim(axis, 0)
        torch.sub(along[2:], along[:-2], out=slope[1:-1])
        for end, inner in ((0, 1), (-1, -2)):  # one-sided
            slope[end] = (along[inner] - along[end]) * (2 if end == 0 else -2)
    return result.flatten(3)


def sampled_system(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    displacement: torch.Tensor,
    voxels: torch.Tensor,
    spline: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared feature differences (N,) at displaced voxels and Gauss-Newton systems (N, 10).

    fixed: (N, 4 C) features and their gradients at the voxels; moving: (D, H, W, 4 C) from
    `with_gradient`; displacement: (N, 3), (x, y, z) in voxels; voxels: (N,) flat indices; spline:
    coefficients (D, H, W) of the quadratic spline through moving's only feature, which then gives
    its value. Linear interpolation blurs more the further a point is from the voxels around it; of
    gradients it takes noise, so they stay linear.

    A system is the matrix (xx, yy, zz, xy, xz, yz) and the right-hand side (x, y, z), so that
    matrix @ step = right-hand side, step in voxels. The gradient is the mean of both images'
    (efficient second-order minimisation): it reaches further than either. The last column is the
    product of both images' gradients, the part of the matrix's trace that both images share.
    """
    parts = (fixed, displacement, voxels)
    both = _in_chunks(_system, (moving.flatten(0, 2), moving.shape, spline), parts, 11)
    return both[:, 0], both[:, 1:]


def dissimilarity(
    fixed: torch.Tensor, moving: torch.Tensor, displacement: torch.Tensor, voxels: torch.Tensor
) -> torch.Tensor:
    """Mean squared feature differences (N,) at displaced voxels.

    fixed: features (N, C) at the voxels; moving: (D, H, W, C); the rest as for `sampled_system`.
    """
    parts = (fixed, displacement, voxels)
    return _in_chunks(_difference, (moving.flatten(0, 2), moving.shape), parts, 1)[:, 0]


def _in_chunks(function, whole: tuple, split: tuple, columns: int) -> torch.Tensor:
    """function(*whole, *part) for parts of the tensors in `split`, whose rows belong together."""
    with torch.no_grad():
        count, size = len(split[0]), _CHUNK.get(split[0].device.type, 1 << 16)
        parts = [function(*whole, *(s[i : i + size] for s in split)) for i in range(0, count, size)]
        return torch.cat(parts) if parts else split[0].new_zeros((0, columns))


def voxel_positions(voxels: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Positions (N, 3), integers (x, y, z), of flat indices (N,) into a lattice (D, H, W, ...)."""
    _, height, width = shape[:3]
    z = torch.div(voxels, height * width, rounding_mode="floor")
    y = torch.div(voxels, width, rounding_mode="floor") % height
    return torch.stack((voxels % width, y, z), dim=-1)


def block_at(
    position: torch.Tensor, shape: Sequence[int], width: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The block of `width` voxels a side whose first voxel is the one at or before a position.

    position: (N, 3), (x, y, z) in voxels of a lattice (D, H, W, ...); where the block would reach
    beyond the lattice, the position is moved inside. Returns the flat indices (N,) of the first
    voxels and the way from them to the position, a share (N, 1) of a voxel along x, y and z.
    """
    depth, height, across = shape[:3]
    size = torch.tensor((across, height, depth), device=position.device)
    last = (size - (width - 1 + 1e-4)).to(position)
    position = torch.minimum(position, last).clamp_(min=0)
    base = position.floor()
    share = (position - base).unsqueeze(-1).unbind(dim=1)
    base = base.long()
    return (base[:, 2] * height + base[:, 1]) * across + base[:, 0], share


def _system(rows, shape, spline, fixed, displacement, voxels):
    moving = _interpolated(rows, shape, displacement, voxels)
    if spline is not None:
        moving[:, 0] = _splined(spline, displacement, voxels)
    channels = fixed.shape[1] // 4
    residual = moving[:, :channels] - fixed[:, :channels]
    shared = (moving[:, channels:] * fixed[:, channels:]).sum(dim=1, keepdim=True) / channels
    gx, gy, gz = moving.add_(fixed)[:, channels:].mul_(0.5).view(-1, 3, channels).unbind(dim=1)
    products = ((gx, gx), (gy, gy), (gz, gz), (gx, gy), (gx, gz), (gy, gz))
    columns = [residual.square(), *(a * b for a, b in products)]
    columns += [-(g * residual) for g in (gx, gy, gz)]
    return torch.cat((*(column.mean(dim=1, keepdim=True) for column in columns), shared), dim=1)


def _difference(rows, shape, fixed, displacement, voxels):
    moving = _interpolated(rows, shape, displacement, voxels)
    return moving.sub_(fixed).square_().mean(dim=1, keepdim=True)


def _interpolated(rows, shape, displacement, voxels):
    """rows (D H W, C) of a lattice at displaced voxels, linear, edges repeated: (N, C)."""
    _, height, width = shape[:3]
    plane = height * width
    corner, (wx, wy, wz) = block_at(voxel_positions(voxels, shape) + displacement, shape, 2)

    def row(offset):
        return torch.lerp(rows[corner + offset], rows[corner + (offset + 1)], wx)

    def layer(offset):
        return torch.lerp(row(offset), row(offset + width), wy)

    return torch.lerp(layer(0), layer(plane), wz)


def _splined(coefficients, displacement, voxels):
    """The quadratic spline of coefficients (D, H, W) at displaced voxels: (N,)."""
    shape = coefficients.shape
    _, height, width = shape
    position = voxel_positions(voxels, shape) + displacement
    corner, shares = block_at(position - 0.5, shape, 3)
    weights = [weights_of_three(share[:, 0] - 0.5) for share in shares]
    return weighed(coefficients.flatten(), corner, (1, width, width * height), weights)
