"""Lobes that slide along the oblique fissures: one goes one way, the other the other way.

The motion is the flow of a velocity that is tangential to all surfaces at the same distance from
the fissure: no point crosses it, and on either side nothing folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..core.geometry import DisplacementField, Volume
from .anatomy import Anatomy

_STEPS = 3  # of the fourth-order Runge-Kutta integration
_REACH_MM = 30.0  # from the fissure, over which the sliding dies away
_FREE_MM = 3.0, 15.0  # depth in the lung where it begins, and over which it grows
CLEAR_MM = 2.0  # landmarks this near to a fissure are left out: neither lobe owns what is around


@dataclass(frozen=True)
class LobeSliding:
    """distance: signed, mm, to the oblique fissure of either lung; velocity: of the upper lobe.

    The lower lobe goes the opposite way. Both on the grid of the anatomy.
    """

    distance: Volume
    velocity: DisplacementField

    @classmethod
    def draw(cls, rng: np.random.Generator, anatomy: Anatomy, most_mm: float) -> LobeSliding:
        """Lobes that slide past each other by a half to all of `most_mm`, mostly up and down."""
        grid = anatomy.image.grid
        distance = anatomy.fissure
        normal = np.stack(np.gradient(distance, *grid.spacing[::-1])[::-1], axis=-1)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        velocity = np.zeros((*grid.shape, 3), np.float32)
        for label in (1, 2):
            lung = anatomy.lungs.array == label
            depth = ndimage.distance_transform_edt(lung, sampling=grid.spacing[::-1])
            share = np.clip((depth - _FREE_MM[0]) / _FREE_MM[1], 0, 1)
            share = share**2 * (3 - 2 * share) * np.exp(-((distance / _REACH_MM) ** 2))
            way = rng.normal((0, 0, rng.choice([-1.0, 1.0])), (0.2, 0.3, 0.1))
            way *= most_mm / 2 * rng.uniform(0.5, 1) / np.linalg.norm(way)
            along = way - (normal @ way)[..., None] * normal
            velocity += (share[..., None] * along).astype(np.float32)
        return cls(Volume(distance, grid), DisplacementField(velocity, grid))

    def __call__(self, points: np.ndarray, back: bool = False) -> np.ndarray:
        """Where points (N, 3), LPS mm, of the patient slide to; back: where they came from."""
        side = np.where(self.distance.sample(points) > 0, 1.0, -1.0)[:, None]
        step = side / _STEPS * (-1 if back else 1)

        def moved(place):
            return step * self.velocity.sample(place)

        for _ in range(_STEPS):
            a = moved(points)
            b = moved(points + a / 2)
            c = moved(points + b / 2)
            points = points + (a + 2 * b + 2 * c + moved(points + c)) / 6
        return points
