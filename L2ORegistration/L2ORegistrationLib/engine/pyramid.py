"""One level of the pyramid: features, lung surfaces and the lattice on which the field lives.

A level has features with spacing h (a multiple of the working spacing) and a field with spacing
r h: each field voxel sits over exactly r x r x r feature voxels (r = 2 for the networks). Fields here are torch tensors
(3, D, H, W), components (x, y, z) in LPS mm on the world-aligned field grid of the level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..geometry import Grid
from .dissimilarity import channel_last, sampled_dissimilarity
from .features import mind_ssc, pool

ACTIVE_MM = 6.0  # dissimilarities are read this far beyond the lung surface
NOISE_FLOOR = 1e-4  # MIND treats patch differences below 10 HU (root mean square) as flat
DISTANCE_RANGE_MM = (-30.0, 15.0)


@dataclass
class Level:
    """What an optimiser sees of a pair at one resolution, all on one device.

    fixed, moving: features (D, H, W, 12) on the feature grid; distance: signed distance to the
    fixed lungs (1, d, h, w) and surface: the same of moving with its gradient (4, d, h, w), mm, on
    the field grid; spacing: of the field grid, mm; origin: LPS mm of its first voxel; blocks: flat indices of the active field voxels;
    voxels: (M, r^3) flat feature indices of the voxels under each.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    distance: torch.Tensor
    surface: torch.Tensor
    spacing: float
    origin: tuple[float, float, float]
    blocks: torch.Tensor
    voxels: torch.Tensor

    @classmethod
    def of(cls, fixed, moving, fixed_distance, moving_distance, spacing, origin) -> Level:
        """From features (C, D, H, W) on the feature grid and distances on the field grid.

        fixed_distance, moving_distance: (d, h, w) mm; spacing, origin: of the field grid.
        """
        distance = fixed_distance.clamp(*DISTANCE_RANGE_MM)
        moved = moving_distance.clamp(*DISTANCE_RANGE_MM)
        gradient = torch.stack(torch.gradient(moved, spacing=spacing)[::-1])
        active = distance < ACTIVE_MM + spacing / 2
        blocks = active.flatten().nonzero().squeeze(1)
        voxels = torch.arange(fixed[0].numel(), device=fixed.device).view(1, *fixed.shape[1:])
        voxels = _blocks(voxels, fixed.shape[1] // distance.shape[0])[blocks, :, 0]
        return cls(
            channel_last(fixed),
            channel_last(moving),
            distance[None],
            torch.cat((moved[None], gradient)),
            spacing,
            tuple(origin),
            blocks,
            voxels,
        )

    def cropped(self, crop: tuple[slice, slice, slice]) -> Level:
        """The part under these field voxels (z, y, x); its field may still point beyond it."""
        number = torch.full((self.distance.numel(),), -1, device=self.blocks.device)
        number[self.blocks] = torch.arange(len(self.blocks), device=self.blocks.device)
        number = number.view(self.shape)[crop].flatten()
        blocks = (number >= 0).nonzero().squeeze(1)
        return Level(
            self.fixed,
            self.moving,
            self.distance[(slice(None), *crop)],
            self.surface[(slice(None), *crop)],
            self.spacing,
            tuple(o + s.start * self.spacing for o, s in zip(self.origin, crop[::-1])),
            blocks,
            self.voxels[number[blocks]],
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(d, h, w) of the field."""
        return tuple(self.distance.shape[1:])

    @property
    def ratio(self) -> int:
        """Feature voxels per field voxel along an axis."""
        return round(self.voxels.shape[1] ** (1 / 3))

    @property
    def grid(self) -> Grid:
        """The field grid."""
        return Grid(self.shape[::-1], (self.spacing,) * 3, self.origin)

    def look(self, field: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the images say about a field in mm.

        Returns the dissimilarities of the active blocks (M, r^3 voxels, 8 offsets), and their
        Gauss-Newton systems (M, 9) for a step in mm (see `sampled_dissimilarity`).
        """
        ratio = self.ratio
        fine = field[None]
        fine = F.interpolate(fine, scale_factor=ratio, mode="trilinear", align_corners=False)[0]
        spacing = self.spacing / ratio
        displacement = _blocks(fine, ratio)[self.blocks].flatten(0, 1) / spacing
        voxels = self.voxels.flatten()
        costs, system = sampled_dissimilarity(self.fixed, self.moving, displacement, voxels)
        system = system.view(-1, ratio**3, 9).mean(dim=1)
        system[:, :6] /= spacing**2
        system[:, 6:] /= spacing
        return costs.view(-1, ratio**3, 8), system

    def surface_pull(self, field: torch.Tensor) -> torch.Tensor:
        """(3, d, h, w): how the moving lung surface asks the field to move, in field voxels."""
        sampled = sample(self.surface, field / self.spacing)
        difference = ((self.distance - sampled[:1]) / self.spacing).clamp(-3, 3)
        return difference * sampled[1:]

    def sample_field(self, field: torch.Tensor) -> torch.Tensor:
        """A field of another level (3, ., ., .) in mm, nested with this one, on this field grid."""
        return F.interpolate(field[None], size=self.shape, mode="trilinear", align_corners=False)[0]


def build_levels(pair, factors, device) -> list[Level]:
    """The levels of a `preprocessing.Pair`, coarse to fine, feature spacing = factor x working.

    factors: even numbers; MIND is computed at half a level's feature spacing and averaged over
    2x2x2 voxels (as the paper does), on images averaged to that spacing.
    """
    images = [torch.from_numpy(a).to(device) for a in (pair.fixed, pair.moving)]
    distances = [torch.from_numpy(a).to(device) for a in (pair.fixed_distance, pair.moving_distance)]
    spacing = pair.grid.spacing[0]
    levels = []
    with torch.no_grad():
        for factor in factors:
            features = [feature_map(image, factor) for image in images]
            origin = np.asarray(pair.grid.origin) + (2 * factor - 1) / 2 * spacing
            levels.append(
                Level.of(
                    *features,
                    *(pool(d[None], 2 * factor)[0] for d in distances),
                    spacing * 2 * factor,
                    origin,
                )
            )
    return levels


def feature_map(image: torch.Tensor, factor: int) -> torch.Tensor:
    """MIND (12, D, H, W) of an image (D, H, W), at `factor` times its spacing."""
    if factor == 1:
        return mind_ssc(image, floor=NOISE_FLOOR)
    return pool(mind_ssc(pool(image[None], factor // 2)[0], floor=NOISE_FLOOR), 2)


def sample(values: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """values (C, d, h, w) at each voxel + displacement (3, d, h, w), (x, y, z) in voxels; edges repeat."""
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
    """field (3, d, h, w) at continuous voxel positions (N, 3), (x, y, z): (N, 3); edges repeat."""
    scale = field.new_tensor([2 / max(n - 1, 1) for n in field.shape[:0:-1]])
    coordinates = (position * scale - 1).view(1, -1, 1, 1, 3)
    out = F.grid_sample(
        field[None], coordinates, mode="bilinear", padding_mode="border", align_corners=True
    )
    return out[0, :, :, 0, 0].T


def _blocks(values: torch.Tensor, ratio: int) -> torch.Tensor:
    """(C, r d, r h, r w) -> (d*h*w, r^3, C): the voxels under each field voxel, order (z, y, x)."""
    channels, *size = values.shape
    depth, height, width = (n // ratio for n in size)
    values = values.view(channels, depth, ratio, height, ratio, width, ratio)
    return values.permute(1, 3, 5, 2, 4, 6, 0).reshape(-1, ratio**3, channels)
