"""Both images on a device, and the levels that are built from them one at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ..images.closer import CloserImages
from ..images.features import local_contrast, mind_ssc, pool, sharpened
from ..images.preprocessing import WorkingPair
from .levels import CONTRAST_MM, ContrastLevel, MindLevel, active_voxels
from .operations import interpolated, sample
from .sampling import channel_last, with_gradient

NOISE_FLOOR = 1e-4  # MIND treats patch differences below 10 HU (root mean square) as flat
REACH_MM = 6.0  # how far what is measured there may depend on what lies around, and move
INVERSION_STEPS = 8  # of the field that carries the fixed lungs along


class FeaturePyramid:
    """A `preprocessing.WorkingPair` on a device, from which levels are built one at a time.

    closer: the same images on a closer grid, where they are to be looked at so in the end.
    """

    def __init__(
        self,
        pair: WorkingPair,
        device: torch.device | str = "cpu",
        closer: CloserImages | None = None,
    ):
        self.grid, self.repeated, self.closer = pair.grid, pair.repeated, closer
        self.images = [torch.from_numpy(a).to(device) for a in (pair.fixed, pair.moving)]
        distances = (pair.fixed_distance, pair.moving_distance)
        self.distances = [torch.from_numpy(a).to(device) for a in distances]
        self.seen = None
        if pair.seen is not None:
            self.seen = torch.from_numpy(np.stack(pair.seen)).to(device)

    def mind_level(self, factor: int) -> MindLevel:
        """MIND at `factor` times the working spacing (even factors), field twice as coarse.

        MIND is computed at half that spacing and averaged over 2x2x2 voxels, as in the paper.
        """
        return self._level([feature_map(image, factor) for image in self.images], 2 * factor)

    def contrast_level(self, field: torch.Tensor, factor: int = 4) -> ContrastLevel:
        """Local contrast of the sharpened images, for a field `factor` times as coarse.

        field (3, d, h, w), mm, of any level: the motion so far. It carries the fixed lungs to where
        the contrast of moving is measured: two masks that are drawn differently would normalise the
        same tissue differently.
        """
        lungs = self.distances[0], self._carried(field, factor)
        near = [(distance < CONTRAST_MM).float() for distance in lungs]
        if self.seen is not None:
            near = [part * seen for part, seen in zip(near, self.seen)]
        return self._contrast_level(self.images, near, factor, self.repeated)

    def closer_contrast_level(self, field: torch.Tensor, factor: int = 4) -> ContrastLevel:
        """`contrast_level`, and that of the closer images where it is not looked at roughly."""
        level = self.contrast_level(field, factor)
        return replace(level, look_closer=self.closer and partial(self._closer_level, factor))

    def _closer_level(self, factor: int, field: torch.Tensor) -> ContrastLevel:
        """`contrast_level` of the closer images."""
        shape, device = self.closer.grid.shape, self.images[0].device
        distances = self.distances[0], self._carried(field, factor)
        distances = [interpolated(distance[None], shape)[0] for distance in distances]
        wanted = tuple((d < CONTRAST_MM + REACH_MM).cpu().numpy() for d in distances)
        images = [torch.from_numpy(image).to(device) for image in self.closer.on_grid(wanted)]
        # Soft, or rounding would let a voxel at just that distance count in one image only.
        near = [(CONTRAST_MM - distance + 0.5).clamp(0, 1) for distance in distances]
        if self.seen is not None:
            near = [part * seen for part, seen in zip(near, interpolated(self.seen.float(), shape))]
        return self._contrast_level(images, near, factor, self.closer.repeated)

    def _contrast_level(self, images, near, factor: int, repeated: float) -> ContrastLevel:
        """That of images on the working grid, or another one that covers the same.

        near: how much a voxel of either counts where contrast is measured, (D, H, W).
        """
        fixed, moving = (
            with_gradient(channel_last(local_contrast(sharpened(image), weight)))
            for image, weight in zip(images, near)
        )
        distance = pool(self.distances[0][None], factor)
        active_nodes, voxels = active_voxels(distance[0], fixed.shape[:3], CONTRAST_MM)
        weight = near[0].flatten()[voxels]
        lattice = self.grid.coarsened(factor)
        place = lattice.spacing[0], lattice.origin
        found = active_nodes, voxels, fixed, moving, weight, repeated
        return ContrastLevel(distance, *place, *found, seen=self._seen(factor))

    def _carried(self, field: torch.Tensor, factor: int) -> torch.Tensor:
        """The fixed lungs' distances (D, H, W) where a field (3, ., ., .), mm, takes them."""
        distance = self.distances[0]
        field = interpolated(field, [n // factor for n in distance.shape])
        field = field / (factor * self.grid.spacing[0])
        back = torch.zeros_like(field)
        for _ in range(INVERSION_STEPS):
            back = -sample(field, back)
        half = pool(distance[None], 2)
        back = interpolated(back, half.shape[1:]) * (factor / 2)
        # What the motion changes is added to the distances, so that no motion changes nothing.
        return distance + interpolated(sample(half, back) - half, distance.shape)[0]

    def masked_mind_level(self, factor: int = 2) -> MindLevel:
        """The paper's: masked MIND averaged over 2x2x2 voxels, field on the same grid.

        factor: working voxels in one of the grid, along an axis.
        """
        masks = ((pool(d[None], factor) < 0) for d in self.distances)
        features = [feature_map(i, factor) * m for i, m in zip(self.images, masks)]
        return self._level(features, factor)

    def _level(self, features, factor: int) -> MindLevel:
        distance = pool(self.distances[0][None], factor)[0]
        lattice = self.grid.coarsened(factor)
        return MindLevel.of(*features, distance, lattice, self._seen(factor))

    def _seen(self, factor: int) -> torch.Tensor | None:
        """`Level.seen` for field voxels of `factor` working voxels."""
        return None if self.seen is None else pool(self.seen.float(), factor)


def feature_map(image: torch.Tensor, factor: int) -> torch.Tensor:
    """MIND (12, D, H, W) of an image (D, H, W), at `factor` times its spacing; even factors."""
    return mind_ssc(pool(image[None], factor // 2)[0], floor=NOISE_FLOOR, factor=2)
