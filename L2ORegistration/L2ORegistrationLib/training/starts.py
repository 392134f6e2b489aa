"""What a training rollout starts from: a part of a prepared pair and a field, good or bad."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..engine.field.levels import MindLevel
from ..engine.field.operations import interpolated, smooth
from ..engine.images.features import pool
from ..engine.optimise.l2o import L2OOptimiser
from ..engine.start.search import discrete_search
from .config import TrainingConfig
from .motion import moved_further
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
    return level, field + _smooth_noise(rng, level, 1.0) if choice == 4 else field


def l2o_start(network, pair: PreparedPair, kind: int, config: TrainingConfig, rng, device):
    """A level (0: whole and coarse, 1: a finer crop), the start field and the targets."""
    if kind == 0:
        level, targets, search = pair.level(0), pair.targets, pair.search
        if rng.random() < config.extra_motion:
            level, targets = moved_further(level, pair.points, targets, rng)
            search = discrete_search(level)
        return level, _coarse_start(pair.points, targets, search, level, rng), targets
    whole = pair.level(1)
    field = _fine_start(network, pair, whole, rng, device)
    crop = random_crop(whole.distance[0] < 0, config.crop, rng)
    return whole.cropped(crop), field[(slice(None), *crop)], pair.targets


def _coarse_start(points, targets, search, level: MindLevel, rng) -> torch.Tensor:
    """Zero, the search's result, or a noisy mixture with the truth; some with lost regions."""
    choice = rng.random()
    if choice < 0.1:
        return torch.zeros_like(search)
    field = search
    if choice < 0.3:
        truth = scattered(level, points, targets)
        a, b = rng.uniform(0, 1, 2)
        field = field * (a * (1 - b)) + truth * b
        field = field + _smooth_noise(rng, level, rng.uniform(0, 0.7))
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 3))):
            field = field + _lost_region(rng, level)
    return field


def _lost_region(rng, level: MindLevel) -> torch.Tensor:
    """A blob somewhere in the lungs (3, d, h, w) whose displacement is wrong by centimetres."""
    inside = (level.distance[0] < 0).nonzero()
    centre = inside[rng.integers(len(inside))]
    width = rng.uniform(1.5, 4.0)  # field voxels
    axes = [
        torch.exp(-(((torch.arange(n) - c) / width) ** 2) / 2) for n, c in zip(level.shape, centre)
    ]
    blob = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    wrong = torch.from_numpy(rng.normal(0, (5.0, 6.0, 12.0)).astype(np.float32))  # mm
    return wrong.view(3, 1, 1, 1) * blob


def _fine_start(network, pair: PreparedPair, level: MindLevel, rng, device) -> torch.Tensor:
    """The coarse level's result, the search's, or a mixture with the truth, and smooth noise."""
    choice = rng.random()
    if choice < 0.6:
        coarse = pair.level(0).to(device)
        start = (0 * pair.search if choice < 0.2 else pair.search).to(device)
        with torch.no_grad():
            for start, _ in L2OOptimiser(network).iterate(coarse, start, 6):  # noqa: B007, B020
                pass
        field = level.sample_field(start.cpu())
    elif choice < 0.75:
        field = level.sample_field(pair.search)
    else:
        truth = scattered(level, pair.points, pair.targets)
        a = rng.uniform(0, 1)
        field = level.sample_field(pair.search) * a + truth * (1 - a)
    if rng.random() < 0.4:
        field = field + _smooth_noise(rng, level, rng.uniform(0, 1.2))
    return field


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


def _smooth_noise(rng, level: MindLevel, sd_voxels: float) -> torch.Tensor:
    """A smooth random field (3, d, h, w) in mm, sd in field voxels, a few voxels wide."""
    coarse = [max(2, int(np.ceil(n / rng.uniform(3, 8)))) for n in level.shape]
    noise = torch.from_numpy(rng.standard_normal((1, 3, *coarse)).astype(np.float32))
    noise = F.interpolate(noise, size=level.shape, mode="trilinear", align_corners=False)[0]
    return smooth(noise[None])[0] * (sd_voxels * level.spacing)


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
