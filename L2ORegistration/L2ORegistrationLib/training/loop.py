"""The training loop: unrolled iterations on prepared pairs, resumable from its last checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..engine.learned import LearnedOptimiser
from ..engine.paper import PaperOptimiser
from ..engine.pyramid import Level
from ..engine.update_network import PaperNetwork, PyramidNetwork, smooth
from ..files import atomic
from .loss import inside, keypoint_loss
from .prepared import PreparedPair


@dataclass(frozen=True)
class TrainingConfig:
    """One experiment; rates: shares of the steps on each level (whole, crop, fine crop).

    variant: "pyramid" or "paper" (which has one level and no width).
    """

    variant: str = "pyramid"
    steps: int = 4000
    learning_rate: float = 1e-3
    warmup: int = 50
    width: int = 24
    seed: int = 0
    crop: int = 32
    keypoints: int = 3000
    iterations: tuple[int, int] = (4, 8)
    rates: tuple[float, float, float] = (0.3, 0.55, 0.15)
    accumulate: int = 2
    checkpoint_every: int = 50


@dataclass(frozen=True)
class Progress:
    """What one optimiser step did: losses are mean keypoint errors in mm before and after."""

    step: int
    level: int
    before: float
    after: float
    loss: float
    seconds: float


def train(
    pairs: list[Path], checkpoint: str | Path, config: TrainingConfig, device: str = "cpu"
) -> Iterator[Progress]:
    """Train the configured network; yields after every step. Continues where `checkpoint` stopped.

    pairs: files of `PreparedPair`s. The checkpoint holds network, optimiser, step and config.
    """
    torch.manual_seed(config.seed)
    network = new_network(config).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    checkpoint, step = Path(checkpoint), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    started = time.monotonic()
    while step < config.steps:
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        results = []
        for part in range(config.accumulate):
            # Each step draws from its own seed, so an interrupted run goes on exactly the same.
            rng = np.random.default_rng([config.seed, step, part])
            result = _rollout(network, pairs, config, rng, device)
            (result[0] / config.accumulate).backward()
            results.append([float(result[0].detach()), *result[1:]])
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if torch.isfinite(norm):
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        if step % config.checkpoint_every == 0 or step == config.steps:
            save_checkpoint(checkpoint, network, optimiser, step, config)
        for loss, level, before, after in results:
            yield Progress(step, level, before, after, loss, time.monotonic() - started)


def new_network(config: TrainingConfig) -> torch.nn.Module:
    """An untrained network of the configured variant."""
    return PaperNetwork() if config.variant == "paper" else PyramidNetwork(config.width)


def save_checkpoint(path: Path, network, optimiser, step: int, config: TrainingConfig) -> None:
    """Write network, optimiser, step and configuration; an interrupted write keeps the old file."""
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "config": asdict(config),
    }
    with atomic(path) as temporary:
        torch.save(state, temporary)


def _schedule(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    warm = min(1.0, (step + 1) / config.warmup)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))


def _rollout(network, pairs, config: TrainingConfig, rng, device):
    """Unroll the network once: (loss, level, mean error in mm before, after)."""
    pair = PreparedPair.load(pairs[rng.integers(len(pairs))])
    if config.variant == "paper":
        kind, optimiser = 0, PaperOptimiser(network)
        level, field = _paper_start(pair, config, rng)
    else:
        kind, optimiser = (
            int(rng.choice(3, p=config.rates)),
            LearnedOptimiser(network, safeguard=False),
        )
        level, field = _pyramid_start(network, pair, kind, config, rng)
    points, targets = pair.points, pair.targets
    keep = inside(level, points).nonzero().squeeze(1)
    keep = keep[torch.from_numpy(rng.permutation(len(keep))[: config.keypoints])]
    points, targets = points[keep].to(device), targets[keep].to(device)
    iterations = int(rng.integers(config.iterations[0], config.iterations[1] + 1))
    level, field = level.to(device), field.to(device)
    fields = [f for f, _ in optimiser.iterate(level, field, iterations)]
    loss = keypoint_loss(fields, level, points, targets)
    with torch.no_grad():
        before, after = (
            float(keypoint_loss([f], level, points, targets)) * level.spacing
            for f in (field, fields[-1])
        )
    return loss, kind, before, after


def _paper_start(pair: PreparedPair, config: TrainingConfig, rng):
    """A crop of the paper's level and the field it starts from: the paper's augmentation.

    Nothing, the pre-registration (here the search), half of it, its mean with the truth, and the
    same with noise.
    """
    crop = _random_crop_of(pair.distances[0].float() < 0, config.crop, rng)
    level = pair.paper_level(crop)
    whole = pair.level(1)
    search = whole.sample_field(pair.search)
    truth = scattered(whole, pair.points, pair.targets)
    choice = int(rng.integers(5))
    start = (0 * search, search, 0.5 * search, (search + truth) / 2, (search + truth) / 2)[choice]
    size = pair.distances[0].shape
    start = F.interpolate(start[None], size=size, mode="trilinear", align_corners=False)[0]
    field = start[(slice(None), *crop)]
    return level, field + _smooth_noise(rng, level, 1.0) if choice == 4 else field


def _pyramid_start(network, pair: PreparedPair, kind: int, config: TrainingConfig, rng):
    """A level (0: whole and coarse, 1: crop, 2: fine crop) and the field it starts from."""
    if kind == 0:
        level = pair.level(0)
        return level, _coarse_start(pair, level, rng)
    whole = pair.level(1)
    if kind == 1:
        field = _fine_start(network, pair, whole, rng)
        crop = _random_crop(whole, config.crop, rng)
        return whole.cropped(crop), field[(slice(None), *crop)]
    truth = scattered(whole, pair.points, pair.targets)
    size = pair.distances[0].shape
    truth = F.interpolate(truth[None], size=size, mode="trilinear", align_corners=False)[0]
    crop = _random_crop_of(pair.distances[0].float() < 0, config.crop, rng)
    level = pair.fine_level(crop)
    field = truth[(slice(None), *crop)]
    return level, field + _smooth_noise(rng, level, rng.uniform(0.2, 2.0))


def _coarse_start(pair: PreparedPair, level: Level, rng) -> torch.Tensor:
    """Zero, the search's result, or noisy mixtures of it with nothing and with the truth."""
    choice = rng.random()
    zero = torch.zeros_like(pair.search)
    if choice < 0.4:
        return zero
    if choice < 0.6:
        return pair.search
    truth = scattered(level, pair.points, pair.targets)
    a, b = rng.uniform(0, 1, 2)
    mixture = pair.search * (a * (1 - b)) + truth * b
    return mixture + _smooth_noise(rng, level, rng.uniform(0, 1.0))


def _fine_start(network, pair: PreparedPair, level: Level, rng) -> torch.Tensor:
    """The coarse level's result, the search's, or a mixture with the truth, and smooth noise."""
    choice = rng.random()
    if choice < 0.6:
        device = next(network.parameters()).device
        coarse = pair.level(0).to(device)
        start = (0 * pair.search if choice < 0.2 else pair.search).to(device)
        with torch.no_grad():
            for start, _ in LearnedOptimiser(network, safeguard=False).iterate(coarse, start, 6):  # noqa: B007, B020
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


def scattered(level: Level, points: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
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


def _smooth_noise(rng, level: Level, sd_voxels: float) -> torch.Tensor:
    """A smooth random field (3, d, h, w) in mm, sd in field voxels, a few voxels wide."""
    coarse = [max(2, int(np.ceil(n / rng.uniform(3, 8)))) for n in level.shape]
    noise = torch.from_numpy(rng.standard_normal((1, 3, *coarse)).astype(np.float32))
    noise = F.interpolate(noise, size=level.shape, mode="trilinear", align_corners=False)[0]
    return smooth(noise[None])[0] * (sd_voxels * level.spacing)


def _random_crop(level: Level, size: int, rng) -> tuple[slice, slice, slice]:
    return _random_crop_of(level.distance[0] < 0, size, rng)


def _random_crop_of(mask: torch.Tensor, size: int, rng) -> tuple[slice, slice, slice]:
    """A box of at most size^3 voxels around a random voxel of the mask (z, y, x)."""
    index = mask.nonzero()
    centre = index[rng.integers(len(index))].tolist()
    crop = []
    for c, n in zip(centre, mask.shape):
        length = min(size, n)
        first = min(max(c - length // 2 + int(rng.integers(-4, 5)), 0), n - length)
        crop.append(slice(first, first + length))
    return tuple(crop)
