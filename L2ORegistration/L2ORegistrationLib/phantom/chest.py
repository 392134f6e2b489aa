"""The shape of a chest: signed distances to lungs, ribs, heart, spine and skin.

Distances are in mm, negative inside. The patient stands upright in canonical coordinates: x to
the left, y to the back, z up, the origin in the middle of the chest. Shapes are computed on a
coarse lattice and brought to the fine grid by splines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..core.geometry import Grid
from .splines import interpolate, lattice_over, smooth_noise


@dataclass(frozen=True)
class Build:
    """What differs between patients; lengths in mm."""

    width: float  # half of the rib cage, from the middle to a side
    depth: float  # half of it, from the middle to the back
    height: float  # of the lungs
    roundness: float  # exponent of the rib cage's outline; 2: an ellipse
    dome: float  # where the diaphragm's top is, as a share of the height from above
    left_dome: float  # how much lower the left dome is
    recess_side: float  # how much lower than its domes the diaphragm is at the sides
    recess_back: float  # and at the back
    heart: np.ndarray  # (3,) its centre; z counts from where it rests on the diaphragm
    heart_radii: np.ndarray  # (3,)
    mediastinum: float  # half of its width
    muscle: float  # thickness on the ribs
    fat: float  # thickness over the muscles
    rib_pitch: float  # from rib to rib
    rib_slope: float  # rise of a rib towards the back, mm per mm
    blood: float  # HU, with contrast agent in some patients

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Build:
        """A patient by chance."""
        size = rng.uniform(0.86, 1.1)
        width = size * rng.uniform(122, 138)
        depth = size * rng.uniform(82, 104) + rng.choice([0, 10], p=[0.75, 0.25])
        height = size * rng.uniform(215, 275)
        dome = rng.uniform(0.68, 0.84)
        recess = (1 - dome) * height  # what is left between the dome and the lowest point
        return cls(
            width=width,
            depth=depth,
            height=height,
            roundness=rng.uniform(2.1, 2.7),
            dome=dome,
            left_dome=rng.uniform(-3, 14),
            recess_side=recess * rng.uniform(0.4, 0.75),
            recess_back=recess * rng.uniform(0.4, 0.75),
            heart=np.array([rng.uniform(10, 28), -depth * rng.uniform(0.3, 0.45), 0.0]),
            heart_radii=size * rng.uniform([48, 38, 46], [64, 50, 62]),
            mediastinum=rng.uniform(15, 24),
            muscle=rng.uniform(10, 24),
            fat=rng.uniform(4, 30),
            rib_pitch=size * rng.uniform(23, 28),
            rib_slope=rng.uniform(0.35, 0.7),
            blood=rng.choice([rng.uniform(35, 60), rng.uniform(100, 320)], p=[0.6, 0.4]),
        )


class Shapes:
    """Where everything is: float32 arrays (z, y, x) on the fine grid.

    canonical: the coordinates x, y and z of each voxel, mm. Signed distances in mm, negative
    inside: wall (the inner face of the rib cage), heart, aorta, middle (mediastinum and hila),
    spine, lung (both of them), torso (skin). below: negative above the diaphragm. side: negative
    on the patient's right. lattice: the coarse one, with world-aligned axes like the grid.
    """

    def __init__(self, rng, build: Build, grid: Grid, tilt: Rotation):
        """tilt: from canonical coordinates to LPS."""
        self.build, self.grid, self.tilt = build, grid, tilt
        self.lattice = lattice_over(grid, 4.0)
        self.canonical = tuple(self._fine_axis(k) for k in range(3))
        x, y, z = np.moveaxis(tilt.inv().apply(self.lattice.points().reshape(-1, 3)), 1, 0)
        x, y, z = (c.reshape(self.lattice.shape).astype(np.float32) for c in (x, y, z))
        # A smooth warp of space makes every patient crooked in their own way.
        for axis in (x, y, z):
            axis += 5.0 * smooth_noise(rng, self.lattice, 90)
            axis += 1.5 * smooth_noise(rng, self.lattice, 35)
        wall = self._chest(x, y, z)
        heart, aorta, middle, spine = self._middle(x, y, z)
        below = self._below(x, y, z)
        organs = np.minimum.reduce([heart, aorta, middle, spine - 4])
        lung = np.maximum.reduce([wall, -organs, below, 5 - np.abs(x - 3)])
        lung = self._normalised(ndimage.gaussian_filter(lung, 0.7, mode="nearest"))
        self.wall = self._fine(wall)
        self.heart = self._fine(heart)
        self.aorta = self._fine(aorta)
        self.middle = self._fine(middle)
        self.spine = self._fine(spine)
        self.below = self._fine(below)
        self.lung = self._fine(lung)
        self.torso = self._fine(self._torso(x, y, wall))
        self.side = self._fine(x - 3)
        # Ribs press a little on the lung, which gives its surface a texture.
        self.lung += 1.2 * np.exp(-((self.rib_height() / 7) ** 2)) * (np.abs(self.wall) < 6)

    def _fine(self, values: np.ndarray) -> np.ndarray:
        """Distances (mm) at the lattice's nodes, cut to 60 mm, on the fine grid."""
        return interpolate(np.clip(values, -60, 60), self.lattice, self.grid)

    def _fine_axis(self, k: int) -> np.ndarray:
        """Canonical coordinate k of every voxel (z, y, x)."""
        grid = self.grid
        row = self.tilt.inv().as_matrix()[k]
        axes = [
            o + s * np.arange(n)
            for o, s, n in zip(grid.origin, grid.spacing, grid.size, strict=True)
        ]
        values = row[2] * axes[2][:, None, None] + row[1] * axes[1][:, None] + row[0] * axes[0]
        return values.astype(np.float32)

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """LPS mm of canonical points (N, 3)."""
        return self.tilt.apply(points)

    def rib_height(self) -> np.ndarray:
        """Height in mm over the middle line of the nearest rib, on the fine grid."""
        _, y, z = self.canonical
        phase = (z - self.build.rib_slope * y) / self.build.rib_pitch
        return (phase - np.round(phase)) * self.build.rib_pitch

    def _level(self, z):
        """0 at the top of the lungs, 1 at their lowest point."""
        return 0.5 - z / self.build.height

    def _normalised(self, value):
        """An implicit function as a distance near its surface."""
        # Clipped where a function is flat (its middle) or steep (its seams), far from its surface.
        slope = np.sqrt(sum(g**2 for g in np.gradient(value, *self.lattice.spacing[::-1])))
        return value / np.clip(slope, 0.3, 3)

    def _chest(self, x, y, z):
        """The inner face of the rib cage: a rounded ring at each height, closed at the top."""
        build = self.build
        level = self._level(z)
        rise = np.clip(level, 0.002, 1)
        half_width = build.width * (1 - (1 - np.minimum(rise / 0.62, 1)) ** 2.3) ** 0.62
        half_depth = build.depth * (1 - (1 - np.minimum(rise / 0.55, 1)) ** 2.2) ** 0.55
        centre = 0.55 * (build.depth - half_depth)
        n = build.roundness
        ring = (np.abs(x / half_width) ** n + np.abs((y - centre) / half_depth) ** n) ** (1 / n)
        size = np.minimum(half_width, half_depth)
        above = -(level - 0.01) * build.height
        return np.maximum(self._normalised((ring - 1) * size), above)

    def _below(self, x, y, z):
        """The diaphragm: negative above its two domes."""
        build = self.build
        dome = build.height * (0.5 - build.dome)
        across = (np.abs(x) - 0.45 * build.width) / (0.55 * build.width)
        front = (y + 0.15 * build.depth) / build.depth
        drop = np.where(across > 0, build.recess_side, 12) * across**2
        drop = drop + np.where(front > 0, build.recess_back, 14) * front**2
        step = 1 / (1 + np.exp(-x / 10))
        top = dome - drop - build.left_dome * step
        return self._normalised(top - z)

    def _middle(self, x, y, z):
        """Heart, aorta with its arch, mediastinum with the hila, and spine."""
        build = self.build
        level = self._level(z)
        dome = build.height * (0.5 - build.dome)
        heart_centre = build.heart + [0, 0, dome + 0.62 * build.heart_radii[2]]
        r = build.heart_radii
        dx, dy, dz = x - heart_centre[0], y - heart_centre[1], z - heart_centre[2]
        dx = dx + 0.35 * dz  # the apex points down to the left
        heart = (np.sqrt((dx / r[0]) ** 2 + (dy / r[1]) ** 2 + (dz / r[2]) ** 2) - 1) * r.mean()
        heart = self._normalised(heart)
        aorta = np.hypot(x - 20, y - 0.42 * build.depth) - 12
        aorta = np.maximum(aorta, z - 0.22 * build.height)
        arch = (
            np.sqrt(
                (np.hypot(y - 0.12 * build.depth, z - 0.2 * build.height) - 26) ** 2
                + (x - 12 - 0.12 * (y - 0.1 * build.depth)) ** 2
            )
            - 12
        )
        aorta = np.minimum(aorta, np.maximum(arch, 0.2 * build.height - z))
        hollow = np.exp(-(((y - 0.1 * build.depth) / (0.55 * build.depth)) ** 2))
        half = 5 + build.mediastinum * hollow + 24 * np.exp(-np.maximum(level, 0) / 0.07)
        middle = np.abs(x - 4) - half
        hilum = (
            np.minimum(
                *(
                    np.sqrt(((x - s * 36) / 13) ** 2 + ((y - 12) / 16) ** 2 + ((z - 8) / 24) ** 2)
                    - 1
                    for s in (-1, 1)
                )
            )
            * 13
        )
        middle = np.minimum(middle, hilum)
        spine = np.hypot(x / 21, (y - 0.86 * build.depth) / 24) * 22 - 22
        return heart, aorta, middle, spine

    def _torso(self, x, y, wall):
        """The skin: a cylinder that holds the rib cage and the muscles beside the spine."""
        build = self.build
        a = build.width + build.muscle + build.fat
        b = build.depth + 0.6 * build.muscle + build.fat
        ring = ((np.abs(x) / a) ** 2.6 + (np.abs(y - 4) / b) ** 2.6) ** (1 / 2.6)
        around = np.hypot(x / 70, (y - 0.86 * build.depth - 18) / 50) * 50 - 50
        return np.minimum.reduce([self._normalised((ring - 1) * b), wall - 10, around])


def soft_share(distance: np.ndarray, grid: Grid, width: float | None = None) -> np.ndarray:
    """The share of a voxel inside a surface, from the signed distance of its centre in mm."""
    width = float(np.mean(grid.spacing)) if width is None else width
    return np.clip(0.5 - distance / width, 0, 1)
