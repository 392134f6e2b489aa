"""A training step of VoxelMorph++: an affine disturbs a pair, the error at keypoints is squared."""

from __future__ import annotations

import torch

from ..engine.field.operations import sample
from .config import TrainingConfig
from .lung_images import keypoints, lung_images
from .prepared import PreparedPair


def rollout(network, pair: PreparedPair, config: TrainingConfig, step: int, rng, device):
    """(loss, level, mean error in mm before, after) of one pair; the fixed image in even steps.

    Of the two images one is disturbed, and its keypoints follow.
    """
    level = lung_images(pair, config.coarse)
    points, targets = keypoints(pair, level, config.keypoints, rng)
    images, ends = [level.fixed, level.moving], [points, points + targets]
    side = step % 2
    images[side], ends[side] = disturbed(
        images[side], ends[side], level.unit, config.disturbance, rng
    )
    fixed, moving = (image.to(device) for image in images)
    points, targets = ends[0].to(device), (ends[1] - ends[0]).to(device)
    miss = network(fixed, moving, points, level.unit) - targets
    loss = (miss / level.unit).square().mean()
    before, after = (float(d.detach().norm(dim=1).mean()) for d in (targets, miss))
    return loss, 0, before * level.spacing, after * level.spacing


def disturbed(
    image: torch.Tensor, points: torch.Tensor, unit: float, disturbance: float, rng
) -> tuple[torch.Tensor, torch.Tensor]:
    """An image (d, h, w) seen through a random affine about its middle, and where its points are.

    points: (K, 3), (x, y, z) in voxels; unit: voxels in which the shift is drawn;
    disturbance: as in `TrainingConfig`.
    """
    numbers = torch.from_numpy(disturbance * rng.standard_normal((3, 4))).float()
    matrix, shift = torch.eye(3) + numbers[:, :3], numbers[:, 3] * unit
    middle = (torch.tensor(image.shape[::-1]) - 1) / 2
    axes = [torch.arange(n, dtype=torch.float32) for n in image.shape]
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
    seen = (voxels - middle) @ matrix.T + middle + shift
    image = sample(image[None], (seen - voxels).permute(3, 0, 1, 2))[0]
    return image, (points - middle - shift) @ torch.linalg.inv(matrix).T + middle
