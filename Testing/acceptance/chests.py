"""Two breaths of a chest so small that preparing, training and registering take seconds."""

import numpy as np
from L2ORegistrationLib.core.geometry import Grid, Volume
from scipy import ndimage

GRID = Grid((40, 40, 30), (3.0, 3.0, 3.0))
MOTION = np.array([2.0, -1.0, 4.0])  # of the lungs, from the first breath to the second
_MIDDLE = np.array([58.5, 58.5, 43.5])


def breath(motion=0.0):
    """CT (HU, whole numbers) of two lungs of blobs, moved by `motion`, in a still body."""
    blobs = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(GRID.shape), 1.0)
    blobs = Volume((blobs / blobs.std()).astype(np.float32), GRID)
    there = GRID.points() - _MIDDLE
    image = np.where(np.linalg.norm(there[..., :2] / (52, 45), axis=-1) < 1, 30.0, -1000.0)
    lung = -850 + 250 * np.maximum(blobs.sample(GRID.points() - motion), 0)
    for x in (-22, 22):
        ellipsoid = (there - motion - (x, 0, 0)) / (16, 26, 32)
        image = np.where(np.linalg.norm(ellipsoid, axis=-1) < 1, lung, image)
    return Volume(np.round(image).astype(np.int16), GRID)
