"""What a rollout of the paper's network starts from: a part of a prepared pair and a field."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..engine.field.levels import MindLevel
from ..engine.field.operations import interpolated, smooth
from ..engine.images.features import pool
from .config import TrainingConfig
from .prepared import PreparedPair


def falta2022_start(pair: PreparedPair, found: torch.Tensor, config: TrainingConfig, rng):
    """A crop of the paper's level and the field it starts from: the paper's augmentation.

    Nothing, the pre-registration, half of it, its mean with the truth, and the same with noise.
    found: (3, ., ., .), mm, of the pre-registration, on any lattice of the pair.
    """
    distance = pool(pair.distances[0].float()[None], 2 if config.coarse else 1)[0]
    crop = random_crop(distance < 0, config.crop, rng)
    level = pair.masked_mind_level(crop, config.coarse)
    whole = pair.level(1)
    found = whole.sample_field(found)
    truth = scattered(whole, pair.points, pair.targets)
    choice = int(rng.integers(5))
    start = (0 * found, found, 0.5 * found, (found + truth) / 2, (found + truth) / 2)[choice]
    start = interpolated(start, distance.shape)
    field = start[(slice(None), *crop)]
    return level, field + _smooth_noise(rng, level) if choice == 4 else field


def scattered(level: MindLevel, points: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Keypoint displacements spread over the level's field grid, (3, d, h, w) in mm."""
    index = ((points - points.new_tensor(level.origin)) / level.spacing).round().long()
    last = torch.tensor(level.shape[::-1]) - 1
    keep = ((index >= 0) & (index <= last)).all(dim=1)
    x, y, z = index[keep].unbind(1)
    flat = (z * level.shape[1] + y) * level.shape[2] + x
    dense = torch.zeros((level.distance.numel(), 4))
    rows = torch.cat((targets[keep], torch.ones((len(flat), 1))), dim=1)
    dense.index_add_(0, flat, rows)
    dense = dense.T.reshape(1, 4, *level.shape)
    blurred = dense
    for _ in range(12):
        blurred = smooth(blurred)
    near = smooth(dense)
    filled = near + 1e-3 * blurred + 1e-9 * blurred.mean(dim=(2, 3, 4), keepdim=True)
    return filled[0, :3] / filled[0, 3:].clamp(min=1e-12)


def _smooth_noise(rng, level: MindLevel) -> torch.Tensor:
    """A smooth random field (3, d, h, w) in mm, of an sd of one voxel, a few voxels wide."""
    coarse = [max(2, int(np.ceil(n / rng.uniform(3, 8)))) for n in level.shape]
    noise = torch.from_numpy(rng.standard_normal((1, 3, *coarse)).astype(np.float32))
    noise = F.interpolate(noise, size=level.shape, mode="trilinear", align_corners=False)[0]
    noise = smooth(noise[None])[0]
    return noise * (level.spacing / noise.std().clamp(min=1e-6))


def random_crop(mask: torch.Tensor, size: int, rng) -> tuple[slice, slice, slice]:
    """A box of at most size^3 voxels around a random voxel of the mask (z, y, x)."""
    index = mask.nonzero()
    centre = index[rng.integers(len(index))].tolist()
    crop = []
    for c, n in zip(centre, mask.shape):
        length = min(size, n)
        first = min(max(c - length // 2 + int(rng.integers(-4, 5)), 0), n - length)
        crop.append(slice(first, first + length))
    return tuple(crop)
