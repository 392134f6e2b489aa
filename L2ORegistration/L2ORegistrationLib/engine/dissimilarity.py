"""How badly the images match at eight sub-voxel offsets around where a field points.

The dynamic sampling of the paper's section 2: what the optimiser network sees instead of a
gradient. The offsets are the corners of a cube of half-width 1/2 voxel, so all eight samples of a
voxel lie in one block of 3x3x3 moving voxels and share their interpolation weights:
27 reads and a few blends instead of 64 reads.
"""

from __future__ import annotations

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


def _chunk(fixed_rows, moving_rows, shape, displacement, voxels):
    depth, height, width = shape[:3]
    plane = height * width
    z = torch.div(voxels, plane, rounding_mode="floor")
    y = torch.div(voxels, width, rounding_mode="floor") % height
    position = torch.stack((voxels % width, y, z), dim=-1) + displacement
    size = torch.tensor((width, height, depth), device=position.device)
    # The block's first voxel is the one below the lower offset; clamp so that three fit.
    position = torch.minimum(position - 0.5, (size - 2.0001).to(position)).clamp_(min=0)
    base = position.floor()
    weight = (position - base).unsqueeze(-1)
    base = base.long()
    corner = base[:, 2] * plane + base[:, 1] * width + base[:, 0]
    wx, wy, wz = weight.unbind(dim=1)
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
