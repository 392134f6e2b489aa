"""How scanners and readers spoil a scan: dose, kernel, slices, motion, metal, contrast, masks.

Each way takes a `Scan` and returns another one; the patient and the motion stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ..core.geometry import Grid, Volume

_LOOKS = 16  # at a scan, within each voxel that averages it, along an axis


@dataclass(frozen=True)
class Scan:
    """image: HU, float32; mask: uint8, 1 in the lungs, on the same upright grid."""

    image: Volume
    mask: Volume

    def with_image(self, array: np.ndarray) -> Scan:
        """The same mask and another image (z, y, x)."""
        return replace(self, image=Volume(array.astype(np.float32), self.image.grid))


def low_dose(rng: np.random.Generator, scan: Scan) -> Scan:
    """Noise of 60 to 160 HU, finer along z than across."""
    grain = (rng.uniform(0.3, 0.6), *[rng.uniform(0.5, 1.1)] * 2)
    return scan.with_image(noisy(rng, scan.image.array, grain, rng.uniform(60, 160)))


def sharp_kernel(rng: np.random.Generator, scan: Scan) -> Scan:
    """Edges overshoot, and the noise of 50 to 110 HU holds no low frequencies."""
    image = scan.image.array
    image = image + rng.uniform(0.7, 1.4) * (image - ndimage.gaussian_filter(image, 1.0))
    noise = rng.standard_normal(image.shape, np.float32)
    noise -= ndimage.gaussian_filter(noise, 1.5)
    return scan.with_image(image + noise * np.float32(rng.uniform(50, 110) / noise.std()))


def thick_slices(rng: np.random.Generator, scan: Scan) -> Scan:
    """Slices of 3 to 6 mm that average what lies in them, 15 to 60 HU of noise."""
    across, down, _ = scan.image.grid.spacing
    made = averaged(scan, (across, down, rng.uniform(3, 6)))
    return made.with_image(noisy(rng, made.image.array, (0.3, 0.8, 0.8), rng.uniform(15, 60)))


def wide_voxels(rng: np.random.Generator, scan: Scan) -> Scan:
    """Voxels of 2 to 5 mm within the slice and 2.5 to 6 mm across it, 10 to 60 HU of noise."""
    across = rng.uniform(2, 5)
    made = averaged(scan, (across, across, rng.uniform(2.5, 6)))
    return made.with_image(noisy(rng, made.image.array, (0.3, 0.5, 0.5), rng.uniform(10, 60)))


def averaged(scan: Scan, spacing: tuple[float, float, float]) -> Scan:
    """The scan on voxels of this spacing (x, y, z), mm, each the average of what lies in it.

    What is left at an end, too little for a voxel, is not in the scan.
    """
    grid, image = scan.image.grid, scan.image.array
    counts, first = [], []
    for axis, (own, width, count) in enumerate(zip(grid.spacing, spacing, grid.size)):
        if width == own:
            counts.append(count)
            first.append(0.0)
            continue
        voxels = max(8, int(count * own / width))
        # Linear between the scan's own voxels, so that an average lies where its voxel does.
        within = (np.arange(_LOOKS) + 0.5) / _LOOKS
        where = (np.arange(voxels)[:, None] + within) * width / own - 0.5
        where = where.clip(0, count - 1)[..., None]
        shares = (1 - np.abs(where - np.arange(count))).clip(min=0).mean(axis=1)
        image = np.moveaxis(
            np.tensordot(shares.astype(np.float32), image, axes=(1, 2 - axis)), 0, 2 - axis
        )
        counts.append(voxels)
        first.append((width / own - 1) / 2)
    coarse = Grid(tuple(counts), spacing, tuple(grid.to_world(np.array(first))), grid.direction)
    mask = (scan.mask.sample(coarse.points(), order=0) > 0).astype(np.uint8)
    return Scan(Volume(np.ascontiguousarray(image), coarse), Volume(mask, coarse))


def motion_bands(rng: np.random.Generator, scan: Scan) -> Scan:
    """Two to five bands of slices that show everything twice, up to 5 mm apart, as beats do."""
    image = scan.image.array.copy()
    for _ in range(rng.integers(2, 6)):
        first = rng.integers(image.shape[0])
        part = slice(first, first + max(1, int(rng.uniform(4, 20) / scan.image.grid.spacing[2])))
        shift = np.array([0, *rng.uniform(-1.8, 1.8, 2) / scan.image.grid.spacing[1::-1]])
        twice = [
            ndimage.shift(image[part], way * shift, order=1, mode="nearest") for way in (-1, 1)
        ]
        image[part] = (twice[0] + twice[1]) / 2
    return scan.with_image(image)


def metal(rng: np.random.Generator, scan: Scan) -> Scan:
    """A piece of metal with dark and bright streaks in its slices."""
    image = scan.image.array.copy()
    depth, height, width = image.shape
    z = rng.integers(depth // 4, 3 * depth // 4)
    y, x = rng.integers(height // 3, 2 * height // 3), rng.integers(width // 3, 2 * width // 3)
    part = slice(max(z - 2, 0), z + 3)
    down, across = np.arange(height)[:, None] - y, np.arange(width) - x
    angle, away = np.arctan2(down, across), np.hypot(down, across) + 4
    rays = np.cos(rng.integers(4, 10) * angle + rng.uniform(0, 6)) ** 3
    image[part] += (rng.uniform(1500, 4000) * rays / away).astype(np.float32)
    image[part][:, away < 6] = 3000
    return scan.with_image(np.clip(image, -1024, 3071))


def contrast_agent(rng: np.random.Generator, scan: Scan) -> Scan:
    """Vessels within the lungs and the heart are brighter by up to 250 HU."""
    image = scan.image.array
    lungs = scan.mask.array > 0
    near = ndimage.binary_dilation(lungs, iterations=int(15 / min(scan.image.grid.spacing)))
    share = np.clip((image + 300) / 300, 0, 1) * (lungs | (near & (image > 20)))
    return scan.with_image(image + share * rng.uniform(80, 250))


def partial(rng: np.random.Generator, scan: Scan) -> Scan:
    """The top or the base of the lungs, up to a quarter of them, is not in the scan."""
    found = np.flatnonzero(scan.mask.array.any(axis=(1, 2)))
    share = int(len(found) * rng.uniform(0.05, 0.25))
    size = scan.image.array.shape
    z = slice(found[0] + share, size[0]) if rng.random() < 0.5 else slice(0, found[-1] + 1 - share)
    whole = slice(0, size[1]), slice(0, size[2])
    return Scan(scan.image.part(z, *whole), scan.mask.part(z, *whole))


def shaky_mask(rng: np.random.Generator, scan: Scan) -> Scan:
    """The surface of the mask is off by up to three voxels, in or out."""
    soft = ndimage.gaussian_filter(scan.mask.array.astype(np.float32), 1.5)
    wobble = ndimage.gaussian_filter(rng.standard_normal(soft.shape, np.float32), 4)
    wobble *= 4 * soft * (1 - soft) * rng.uniform(0.1, 0.4) / wobble.std()
    mask = (soft + wobble + rng.uniform(-0.15, 0.15) > 0.5).astype(np.uint8)
    return replace(scan, mask=Volume(mask, scan.mask.grid)) if mask.any() else scan


WAYS: dict[str, Callable[[np.random.Generator, Scan], Scan]] = {
    "low dose": low_dose,
    "sharp kernel": sharp_kernel,
    "thick slices": thick_slices,
    "wide voxels": wide_voxels,
    "motion bands": motion_bands,
    "metal": metal,
    "contrast agent": contrast_agent,
    "partial": partial,
    "shaky mask": shaky_mask,
}


def noisy(rng: np.random.Generator, image: np.ndarray, grain, sd: float) -> np.ndarray:
    """The image (z, y, x) with noise of this standard deviation, HU.

    grain: the noise's width in voxels, one number or along z, y and x.
    """
    noise = rng.standard_normal(image.shape, np.float32)
    noise = ndimage.gaussian_filter(noise, grain, truncate=3)
    return image + noise * np.float32(sd / noise.std())
