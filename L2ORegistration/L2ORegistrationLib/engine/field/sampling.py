"""What the images say about a field: the dissimilarity of voxels, and a Gauss-Newton system.

The system compares like with like: moving sampled at the point itself against the fixed voxel, so
that it vanishes where the images agree. A mean of samples around it would be a blurred image
against a sharp one: registered with itself, a scan would move by a millimetre.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

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
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared feature differences (M,) of blocks of displaced voxels, systems (M, 10).

    fixed: (M, k, 4 C) features and their gradients at the voxels; moving: (D, H, W, 4 C) from
    `with_gradient`; displacement: (M, k, 3), (x, y, z) in voxels; voxels: (M, k) flat indices;
    spline: coefficients (D, H, W) of the quadratic spline through moving's only feature, which then
    gives its value. Linear interpolation blurs more the further a point is from the voxels around
    it; of gradients it takes noise, so they stay linear. weight: (M, k), how much each voxel counts
    in the sums, which are divided by k all the same.

    A system is the matrix (xx, yy, zz, xy, xz, yz) and the right-hand side (x, y, z), so that
    matrix @ step = right-hand side, step in voxels. The gradient is the mean of both images'
    (efficient second-order minimisation): it reaches further than either. The last column is the
    product of both images' gradients, the part of the matrix's trace that both images share.
    """
    parts = (fixed, displacement, voxels, *(() if weight is None else (weight,)))
    whole = partial(_system, moving.flatten(0, 2), moving.shape, spline)
    both = _in_chunks(whole, parts, voxels.shape[1], 11)
    return both[:, 0], both[:, 1:]


def dissimilarity(
    fixed: torch.Tensor, moving: torch.Tensor, displacement: torch.Tensor, voxels: torch.Tensor
) -> torch.Tensor:
    """Mean squared feature differences (N,) at displaced voxels.

    fixed: features (N, C) at the voxels; moving: (D, H, W, C); displacement: (N, 3), (x, y, z) in
    voxels; voxels: (N,) flat indices.
    """
    whole = partial(_difference, moving.flatten(0, 2), moving.shape)
    return _in_chunks(whole, (fixed, displacement, voxels), 1, 1)[:, 0]


def _in_chunks(function, split: tuple, width: int, columns: int) -> torch.Tensor:
    """function(*part) for parts of the tensors in `split`, whose rows, `width` voxels each, belong
    together."""
    with torch.no_grad():
        rows, device = len(split[0]), split[0].device.type
        size = max(1, _CHUNK.get(device, 1 << 16) // width)
        parts = [function(*(s[i : i + size] for s in split)) for i in range(0, rows, size)]
        return torch.cat(parts) if parts else split[0].new_zeros((0, columns))


def voxel_positions(voxels: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Positions (N, 3), integers (x, y, z), of flat indices (N,) into a lattice (D, H, W, ...)."""
    return torch.stack(_along_each(voxels, shape), dim=-1)


def _along_each(voxels: torch.Tensor, shape: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """x, y and z of flat indices into a lattice (D, H, W, ...)."""
    _, height, width = shape[:3]
    rows = torch.div(voxels, width, rounding_mode="floor")
    z = torch.div(rows, height, rounding_mode="floor")
    return voxels - rows * width, rows - z * height, z


def _block_at(
    position: Sequence[torch.Tensor], shape: Sequence[int], width: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The block of `width` voxels a side whose first voxel is the one at or before a position.

    position: x, y and z, (N,) each, in voxels of a lattice (D, H, W, ...); where the block would
    reach beyond the lattice, the position is moved inside. Returns the flat indices (N,) of the
    first voxels and the way from them to the position, shares (N,) of a voxel along x, y and z.
    """
    depth, height, across = shape[:3]
    base, shares = 0, []
    for along, size, stride in zip(position, (across, height, depth), (1, across, across * height)):
        along = along.clamp(0, size - (width - 1 + 1e-4))
        first = along.floor()
        shares.append(along.sub_(first))
        base = first.long().mul_(stride) + base
    return base, shares


def _displaced(voxels, displacement, shape) -> list[torch.Tensor]:
    """x, y and z (N,) of displaced voxels; displacement: (N, 3)."""
    return [d + i for i, d in zip(_along_each(voxels, shape), displacement.unbind(dim=1))]


# Where the entries of a system stand among the products of residual, x, y, z with each other. The
# gradient is there as the sum of both images', twice their mean.
_ENTRIES = (0, 5, 10, 15, 6, 7, 11, 1, 2, 3)
_SHARES = (1.0, *(0.25,) * 6, *(-0.5,) * 3)


def _system(rows, shape, spline, fixed, displacement, voxels, weight=None):
    (count, width), channels = voxels.shape, fixed.shape[2] // 4
    fixed = fixed.flatten(0, 1)
    position = _displaced(voxels.flatten(), displacement.flatten(0, 1), shape)
    moving = _interpolated(rows, shape, position)
    if spline is not None:
        moving[:, 0] = _splined(spline, position)
    gradients = moving.new_ones(4 * channels)
    gradients[:channels] = 0
    shared = ((moving * fixed) @ gradients).view(count, width)
    moving[:, :channels] -= fixed[:, :channels]
    moving[:, channels:] += fixed[:, channels:]
    moving = moving.view(count, width, 4, channels).transpose(1, 2)
    weighed = moving
    if weight is not None:
        shared, weighed = shared * weight, moving * weight[:, None, :, None]
    products = weighed.flatten(2) @ moving.flatten(2).transpose(1, 2)
    found = products.flatten(1)[:, _ENTRIES] * products.new_tensor(_SHARES)
    return torch.cat((found, shared.sum(dim=1, keepdim=True)), dim=1) / (channels * width)


def _difference(rows, shape, fixed, displacement, voxels):
    moving = _interpolated(rows, shape, _displaced(voxels, displacement, shape))
    return moving.sub_(fixed).square_().mean(dim=1, keepdim=True)


def _interpolated(rows, shape, position):
    """rows (D H W, C) of a lattice at x, y, z (N,), linear, edges repeated: (N, C)."""
    _, height, width = shape[:3]
    plane = height * width
    corner, shares = _block_at(position, shape, 2)
    wx, wy, wz = (share[:, None] for share in shares)

    def row(offset):
        # Not by [], which takes several times as long.
        ends = (rows.index_select(0, corner + (offset + step)) for step in (0, 1))
        return torch.lerp(*ends, wx)

    def layer(offset):
        return torch.lerp(row(offset), row(offset + width), wy)

    return torch.lerp(layer(0), layer(plane), wz)


def _splined(coefficients, position):
    """The quadratic spline of coefficients (D, H, W) at x, y, z (N,): (N,)."""
    _, height, width = coefficients.shape
    corner, shares = _block_at([along - 0.5 for along in position], coefficients.shape, 3)
    weights = [weights_of_three(share - 0.5) for share in shares]
    return weighed(coefficients.flatten(), corner, (1, width, width * height), weights)
