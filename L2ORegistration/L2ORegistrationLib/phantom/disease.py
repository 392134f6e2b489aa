"""Findings in one scan only: what disease puts into lungs, so that nothing corresponds to it.

Each finding changes an image (z, y, x) in HU in place and returns where, as bool: lung that no
longer holds air and that a mask may or may not hold. Means and textures are those of chest CT.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Finding = Callable[[np.random.Generator, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def consolidation(rng, image, lungs, spacing) -> np.ndarray:
    """A ball of 12 to 35 mm radius with an uneven surface, filled; vessels show faintly."""
    centre = _somewhere(rng, lungs)
    distance = _distance_from(centre, image.shape, spacing)
    uneven = ndimage.gaussian_filter(rng.standard_normal(image.shape, np.float32), 6)
    region = lungs & (distance + 3 * uneven / uneven.std() < rng.uniform(12, 35))
    return _filled(rng, image, region, rng.uniform(0, 50), faint=0.15)


def collapse(rng, image, lungs, spacing) -> np.ndarray:
    """The lowest 20 to 60 mm of the back of one or both lungs without air."""
    z, y, x = np.nonzero(lungs)
    across = np.arange(image.shape[2])[None, None]
    side = rng.integers(3)  # right, left or both
    middle = np.median(x)
    chosen = (across < middle, across > middle, across >= 0)[side]
    low = np.percentile(z, 2) + rng.uniform(20, 60) / spacing[0]
    back = np.percentile(y, rng.uniform(45, 70))
    height = np.arange(image.shape[0])[:, None, None]
    depth = np.arange(image.shape[1])[None, :, None]
    region = lungs & chosen & (height < low) & (depth > back)
    return _filled(rng, image, region, rng.uniform(5, 40))


def effusion(rng, image, lungs, spacing) -> np.ndarray:
    """Fluid in the lower 15 to 70 % of one lung, as a patient who stands or lies has it."""
    x = np.nonzero(lungs)[2]
    across = np.arange(image.shape[2])[None, None]
    one = lungs & ((across < np.median(x)) if rng.random() < 0.5 else (across > np.median(x)))
    # The surface of the fluid is level: with the feet down, or leaning backwards.
    z, y, _ = np.nonzero(one)
    lean = rng.uniform(0, 1.2)
    height = spacing[0] * np.arange(image.shape[0])[:, None, None]
    depth = spacing[1] * np.arange(image.shape[1])[None, :, None]
    level = height - lean * depth
    region = one & (
        level < np.quantile(spacing[0] * z - lean * spacing[1] * y, rng.uniform(0.15, 0.7))
    )
    return _filled(rng, image, region, rng.uniform(0, 25))


def nodules(rng, image, lungs, spacing) -> np.ndarray:
    """3 to 12 solid nodules, 4 to 20 mm across."""
    region = np.zeros_like(lungs)
    for _ in range(rng.integers(3, 13)):
        radius = rng.uniform(2, 10)
        centre = _somewhere(rng, lungs)
        first = np.maximum(np.floor(centre - radius / spacing).astype(int), 0)
        last = np.minimum(np.ceil(centre + radius / spacing).astype(int) + 1, image.shape)
        part = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        near = _distance_from(centre - first, image[part].shape, spacing) < radius
        region[part] |= lungs[part] & near
    _filled(rng, image, region, rng.uniform(0, 60))
    return np.zeros_like(lungs)  # no mask leaves a nodule out


FINDINGS: dict[str, Finding] = {
    "consolidation": consolidation,
    "collapse": collapse,
    "effusion": effusion,
    "nodules": nodules,
}


def emphysema(rng: np.random.Generator, image: np.ndarray, lungs: np.ndarray, spacing) -> None:
    """Destroyed lung in a patient, and so in both scans: holes of -1000 to -950 HU, in place."""
    scale = rng.uniform(4, 12) / spacing
    holes = ndimage.gaussian_filter(rng.standard_normal(image.shape, np.float32), scale)
    depth = np.clip(holes / holes.std() - rng.uniform(0.8, 1.8), 0, 1)
    parenchyma = lungs & (image < -700)
    image[parenchyma] += (depth * (rng.uniform(-990, -955) - image))[parenchyma]


def _filled(rng, image, region, hu: float, faint: float = 0.0) -> np.ndarray:
    """Fill a region with tissue of this mean; faint: share of what was there that shows through."""
    texture = ndimage.gaussian_filter(rng.standard_normal(image.shape, np.float32), 0.8)
    texture *= rng.uniform(8, 25) / texture.std()
    image[region] = (hu + texture + faint * (image + 850))[region]
    return region


def _somewhere(rng, lungs: np.ndarray) -> np.ndarray:
    """The index (z, y, x) of one voxel of the lungs."""
    found = np.flatnonzero(lungs)
    return np.array(np.unravel_index(rng.choice(found), lungs.shape))


def _distance_from(centre, shape, spacing) -> np.ndarray:
    """mm from an index (z, y, x) to every voxel."""
    squares = (
        ((np.arange(n) - c) * s) ** 2 for n, c, s in zip(shape, centre, spacing, strict=True)
    )
    z, y, x = squares
    return np.sqrt(z[:, None, None] + y[:, None] + x)
