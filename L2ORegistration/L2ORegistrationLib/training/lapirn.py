"""A training step of LapIRN: one level after the other, by correlation and smoothness alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..engine.field.lung_images import padded
from ..engine.field.operations import sample_points
from ..engine.optimise.lapirn import LEVELS, MULTIPLE, halved
from .config import TrainingConfig
from .lung_images import keypoints, lung_images
from .prepared import PreparedPair
from .voxelmorph import disturbed

FROZEN = 1 / 15  # of a level's steps, in which those below it do not change
SMOOTHNESS, OF_VELOCITIES = 1.0, 3.5
FLAT = 1e-5  # windows with less variation say nothing
MEASURED = 3000  # keypoints at which the error is told


def rollout(network, pair: PreparedPair, config: TrainingConfig, step: int, rng, device):
    """(loss, level, mean error in mm before, after) of one pair on the level that is learning."""
    number, frozen = stage(step, config.steps, config.level_shares)
    for k, layers in enumerate(network.levels):
        layers.requires_grad_(k == number or (k < number and not frozen))
    level = lung_images(pair)
    images = [level.fixed, level.moving]
    points, targets = keypoints(pair, level, MEASURED, rng)
    if config.disturbance:
        # What moving shows at q is then found at q', where the affine takes it.
        images[1], ends = disturbed(
            images[1], points + targets, level.unit, config.disturbance, rng
        )
        targets = ends - points
    fixed, moving = (padded(image.clamp(0, 1), MULTIPLE).to(device) for image in images)
    motion, predicted = network(fixed, moving, number + 1)
    factor = 2 ** (LEVELS - 1 - number)
    warped = sample_finer(moving, motion, factor)
    weight = OF_VELOCITIES if network.diffeomorphic else SMOOTHNESS
    loss = weight * roughness(predicted)
    for k, width in enumerate(range(2 * number + 3, 1, -2)):
        pair_of = (halved(image, 2**k) for image in (halved(fixed, factor), warped))
        loss = loss - 0.5**k * correlation(*pair_of, width)
    points, targets = points.to(device), targets.to(device)
    with torch.no_grad():
        found = factor * sample_points(motion.float(), (points + 0.5) / factor - 0.5)
        before, after = (float(d.norm(dim=1).mean()) for d in (targets, found - targets))
    return loss, number, before * level.spacing, after * level.spacing


def stage(step: int, steps: int, shares: Sequence[float]) -> tuple[int, bool]:
    """The level that learns in a step, of so many in all, and whether those below it are frozen.

    shares: of the steps, those of each level.
    """
    ends = [sum(shares[: k + 1]) for k in range(LEVELS)]
    number = next((k for k, end in enumerate(ends) if step < end * steps), LEVELS - 1)
    begin = ends[number] - shares[number]
    return number, step < (begin + FROZEN * shares[number]) * steps


def sample_finer(image: torch.Tensor, motion: torch.Tensor, factor: int) -> torch.Tensor:
    """A fine image (D, H, W) where a coarse motion (3, d, h, w) takes coarse voxels: (d, h, w).

    motion: (x, y, z) in coarse voxels, each over factor^3 fine ones.
    """
    axes = [torch.arange(n, device=motion.device, dtype=torch.float32) for n in motion.shape[1:]]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    place = torch.stack((x, y, z)) + motion
    position = (place + 0.5) * factor - 0.5
    return sample_points(image[None], position.flatten(1).T).view(motion.shape[1:])


def correlation(fixed: torch.Tensor, moving: torch.Tensor, width: int) -> torch.Tensor:
    """The mean squared correlation, 0 to 1, of two images (d, h, w) in cubes of `width` voxels."""
    parts = torch.stack((fixed, moving, fixed * fixed, moving * moving, fixed * moving))
    means = F.avg_pool3d(F.pad(parts.float(), (width // 2,) * 6), width, stride=1)
    a, b, aa, bb, ab = means * width**3
    count = width**3
    covariance = ab - a * b / count
    spread = ((aa - a * a / count) * (bb - b * b / count)).clamp(min=0)
    return (covariance.square() / (spread + FLAT)).mean()


def roughness(field: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of a field's (3, d, h, w) neighbours, the mean over the axes."""
    return sum(torch.diff(field, dim=axis).square().mean() for axis in (1, 2, 3)) / 3
