"""How badly the images match at eight sub-voxel offsets around where a field points.

The dynamic sampling of the paper's section 2: what the optimiser network sees instead of a
gradient. The offsets are the corners of a cube of half-width 1/2 voxel, so all eight samples of a
voxel lie in one block of 3x3x3 moving voxels and share their interpolation weights:
27 reads and a few blends instead of 64 reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Offsets in units of the half-width: (x, y, z), in the order in which costs are returned.
OFFSETS = tuple((x, y, z) for z in (-1, 1) for y in (-1, 1) for x in (-1, 1))
_CHUNK = {"cpu": 1 << 14, "cuda": 1 << 19, "mps": 1 << 18}


def channel_last(features: torch.Tensor) -> torch.Tensor:
    """Features (C, D, H, W) as (D, H, W, C) in memory, as `sampled_dissimilarity` reads them."""
    return features.permute(1, 2, 3, 0).contiguous()


def sampled_dissimilarity(
    fixed: torch.Tensor, moving: torch.Tensor, displacement: torch.Tensor, voxels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared feature difference at displacement + offset, for each offset, and its system.

    fixed, moving: features on the same lattice, (D, H, W, C); displacement: (N, 3), components
    (x, y, z) in voxels of that lattice, one row for each voxel; voxels: (N,) flat indices into
    (D, H, W). Offsets are half a voxel each way. A cube of samples that would reach beyond the
    lattice is moved inside as a whole, so that its corners stay one voxel apart.

    Returns the dissimilarities (N, 8) in the order of OFFSETS, and the Gauss-Newton system (N, 9)
    that the same samples give: the matrix (xx, yy, zz, xy, xz, yz) and the right-hand side
    (x, y, z), so that matrix @ step = right-hand side, step in voxels. No gradient flows through
    the samples (as the paper trains it).
    """
    with torch.no_grad():
        chunk = _CHUNK.get(fixed.device.type, 1 << 16)
        fixed_rows, moving_rows = fixed.flatten(0, 2), moving.flatten(0, 2)
        parts = [
            _chunk(fixed_rows, moving_rows, moving.shape, displacement[i : i + chunk], v)
            for i, v in ((i, voxels[i : i + chunk]) for i in range(0, len(voxels), chunk))
        ]
        both = torch.cat(parts) if parts else displacement.new_zeros((0, 17))
        return both[:, :8], both[:, 8:]


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


def _chunk(fixed_rows, moving_rows, shape, displacement, voxels):
    _, height, width = shape[:3]
    plane = height * width
    lowest = voxel_positions(voxels, shape) + displacement - 0.5
    corner, (wx, wy, wz) = block_at(lowest, shape, 3)
    planes = []
    for dz in range(3):
        rows = []
        for dy in range(3):
            start = corner + (dz * plane + dy * width)
            a, b, c = (moving_rows[start + dx] for dx in range(3))
            rows.append((torch.lerp(a, b, wx), torch.lerp(b, c, wx)))
        planes.append(
            [torch.lerp(rows[j][i], rows[j + 1][i], wy) for j in range(2) for i in range(2)]
        )
    own = fixed_rows[voxels]
    samples = [
        torch.lerp(planes[k][ji], planes[k + 1][ji], wz).sub_(own)
        for k in range(2)
        for ji in range(4)
    ]
    costs = [d.square().mean(dim=1) for d in samples]
    residual = sum(samples) / 8
    gx, gy, gz = (
        sum(d if o[axis] > 0 else -d for d, o in zip(samples, OFFSETS)) / 4 for axis in range(3)
    )
    products = ((gx, gx), (gy, gy), (gz, gz), (gx, gy), (gx, gz), (gy, gz))
    system = [(a * b).mean(dim=1) for a, b in products]
    system += [-(g * residual).mean(dim=1) for g in (gx, gy, gz)]
    return torch.stack(costs + system, dim=1)
