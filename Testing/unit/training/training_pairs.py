"""Small pairs to train on, and the settings of a training that takes seconds."""

import numpy as np
from L2ORegistrationLib.core.geometry import Grid, Volume
from L2ORegistrationLib.training.config import TrainingConfig
from L2ORegistrationLib.training.prepared import prepare
from scipy import ndimage

SHIFT = np.array([4.0, -3.0, 9.0])
CONFIG = TrainingConfig(
    variant="falta2022",
    steps=3,
    crop=6,
    keypoints=50,
    iterations=(2, 3),
    accumulate=2,
    warmup=1,
    checkpoint_every=1,
)


def patient(origin):
    """A ball of textured air in water, 60 mm across."""
    grid = Grid((44, 44, 44), (2.0, 2.0, 2.0), tuple(np.subtract(origin, 43.0)))
    texture = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(grid.shape), 1.5)
    radius = np.linalg.norm(grid.points() - origin, axis=-1)
    image = np.where(radius < 30, -800 + 800 * texture, 20).astype(np.float32)
    return Volume(image, grid), Volume(radius < 30, grid)


def prepared(jitter=None):
    """The same ball twice, the second time SHIFT further: displacements against the start."""
    (fixed, fixed_mask), (moving, moving_mask) = patient((0, 0, 0)), patient(SHIFT)
    points = np.random.default_rng(1).uniform(-16, 16, (400, 3))
    rng = None if jitter is None else np.random.default_rng(jitter)
    return prepare(fixed, moving, fixed_mask, moving_mask, points, points + SHIFT, jitter=rng)


def save_pairs(folder):
    """Two prepared pairs on disk, from disturbed starts."""
    paths = [folder / f"{k}.pt" for k in range(2)]
    for k, path in enumerate(paths):
        prepared(jitter=k).save(path)
    return paths
