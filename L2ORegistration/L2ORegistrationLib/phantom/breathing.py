"""A breathing phantom in phases, as a 4DCT shows it: images and exact trajectories of landmarks.

Each phase is the same patient, deformed by a motion that goes round a loop: points go down another
way than they come up (hysteresis). Phase 0 is full inspiration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Volume
from .anatomy import make_anatomy
from .pair import _LATTICE, _draw_motion, _fine, _moved, _stretch, followed_back
from .scanner import noisy
from .splines import lattice_over

_HYSTERESIS = 0.25  # size of the motion across the breath, as a share of the one along it
_LEAST_STRETCH = 0.12  # Jacobian determinant below which the phases would nearly fold


@dataclass(frozen=True)
class Breathing:
    """One breath in phases; everything in LPS mm.

    phases: HU, float32; masks: uint8, 1 in the lungs; trajectories: (phases, N, 3), point i of each
    phase shows the same vessel branch.
    """

    phases: list[Volume]
    masks: list[Volume]
    trajectories: np.ndarray


def make_breathing(
    seed: int,
    *,
    phases: int = 10,
    spacing: float | tuple[float, float, float] = 2.5,
    amplitude_mm: float = 15.0,
    noise_hu: float = 15.0,
) -> Breathing:
    """A breath from inspiration to expiration and back; deterministic in the seed.

    spacing: mm, one number or (x, y, z); amplitude_mm: of the base of the lungs from phase 0 to the
    phase at half of the breath; noise_hu: sd of the noise, new in each phase.
    Raises InputError for fewer than two phases or a negative number.
    """
    if phases < 2:
        raise InputError(f"A breath needs at least two phases, got {phases}.")
    if min(amplitude_mm, noise_hu) < 0:
        raise InputError("The amplitude and noise of a phantom must be zero or more.")
    anatomy = make_anatomy(seed, spacing)
    still = anatomy.image.grid
    lattice = lattice_over(still, _LATTICE)
    rng = np.random.default_rng([seed, 23])
    along = _draw_motion(rng, lattice, anatomy.lungs, amplitude_mm)
    across = _HYSTERESIS * _draw_motion(rng, lattice, anatomy.lungs, amplitude_mm)
    angles = 2 * np.pi * np.arange(phases) / phases

    def motion(angle: float) -> np.ndarray:
        """Displacements from the phase to inspiration at the lattice's nodes."""
        return (1 - np.cos(angle)) / 2 * along + np.sin(angle) * across

    while min(_stretch(motion(angle), lattice).min() for angle in angles) < _LEAST_STRETCH:
        across = 0.8 * across

    images, masks, trajectories = [], [], []
    for number, angle in enumerate(angles):
        coarse = motion(angle)
        fine = _fine(coarse, lattice, still)
        density = np.random.default_rng([seed, 29])  # the same uneven filling in each phase
        image, mask = _moved(density, anatomy, fine, fine, _stretch(coarse, lattice), True)
        images.append(Volume(_scanned(image, seed, number, noise_hu), still))
        masks.append(Volume(mask.astype(np.uint8), still))
        trajectories.append(followed_back(anatomy.landmarks, DisplacementField(fine, still)))
    trajectories = np.array(trajectories)
    inside = still.contains(trajectories.reshape(-1, 3), margin=-1.0)
    kept = inside.reshape(trajectories.shape[:2]).all(axis=0)
    return Breathing(images, masks, trajectories[:, kept])


def _scanned(image: np.ndarray, seed: int, phase: int, noise_hu: float) -> np.ndarray:
    """The image (z, y, x) with one kernel for all phases, and with noise of its own."""
    blur, grain = np.random.default_rng([seed, 31]).uniform((0.3, 0.4), (0.8, 1.0))  # voxels
    scanned = ndimage.gaussian_filter(image, blur, truncate=3)
    return noisy(np.random.default_rng([seed, 37, phase]), scanned, grain, noise_hu)
