"""Prepared training pairs: features, start and keypoints of a pair, computed once and kept on disk.

What costs time and does not change between epochs (lung alignment, resampling, MIND, the discrete
search) is done here by the same code as in a registration; features are stored as bytes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from ..core.errors import InputError
from ..core.files import atomic
from ..core.geometry import Grid, Volume
from ..core.paths import existing
from ..engine.field.levels import MindLevel
from ..engine.field.pyramid import feature_map
from ..engine.images.features import pool
from ..engine.images.preprocessing import working_pair
from ..engine.start.alignment import affine, distance_map, lung_alignment, moved
from ..engine.start.search import discrete_search

MOST_POINTS = 30_000
FACTORS = (4, 2)  # feature spacing of the stored levels, in working voxels (6 and 3 mm)


@dataclass
class PreparedPair:
    """One pair, ready to train on.

    features: for each factor, fixed and moving MIND as bytes (12, D, H, W); distances: fixed
    and moving signed distance (mm) at 3 mm, float16; search: the discrete search's field
    (3, d, h, w) in mm on the coarsest field grid; points, targets: keypoints (N, 3) in LPS mm
    relative to the working grid's first voxel and their true displacement (mm) against the start;
    images: fixed and moving at 3 mm, float16, 1 is 1000 HU; None where one earlier version, which
    did without, prepared the pair.
    """

    features: list[tuple[torch.Tensor, torch.Tensor]]
    distances: tuple[torch.Tensor, torch.Tensor]
    search: torch.Tensor
    points: torch.Tensor
    targets: torch.Tensor
    spacing: float
    images: tuple[torch.Tensor, torch.Tensor] | None = None

    def save(self, path: str | Path) -> None:
        """Write to a .pt file that `load` reads."""
        save(self.__dict__, path)

    @classmethod
    def load(cls, path: str | Path) -> PreparedPair:
        """Read what `save` wrote; the arrays stay on disk until they are used.

        Entries that only earlier versions used are left out. Raises InputError for a file that is
        damaged or out of reach.
        """
        path = existing(path)
        try:
            stored = torch.load(path, weights_only=True, mmap=True)
            pair = cls(**{e.name: stored[e.name] for e in fields(cls) if e.name in stored})
        except Exception as error:
            raise InputError(f"{path} is damaged: delete it, and it is prepared again.") from error
        if pair.images and pair.images[0].shape != pair.distances[0].shape:  # once at 1.5 mm
            pair.images = tuple(pool(image.float()[None], 2)[0] for image in pair.images)
        return pair

    def level(self, index: int) -> MindLevel:
        """The stored level `index` (0: coarsest)."""
        factor = FACTORS[index]
        distance = pool(self.distances[0].float()[None], factor)[0]
        features = (unpacked(f) for f in self.features[index])
        return MindLevel.of(*features, distance, self._lattice(distance, 2 * factor, (0, 0, 0)))

    def masked_mind_level(
        self, crop: tuple[slice, slice, slice], coarse: bool = False
    ) -> MindLevel:
        """The paper's level (3 mm features and field; coarse: 6 mm) under `crop` voxels."""
        factor = FACTORS[0 if coarse else 1]
        distances = [pool(d.float()[None], factor // 2)[0][crop] for d in self.distances]
        maps = (unpacked(f[(slice(None), *crop)]) for f in self.features[0 if coarse else 1])
        masked = (m * (d < 0) for m, d in zip(maps, distances))
        return MindLevel.of(
            *masked, distances[0], self._lattice(distances[0], factor, [s.start for s in crop])
        )

    def _lattice(self, distance: torch.Tensor, factor: int, first) -> Grid:
        """The field grid of a distance map, `factor` working voxels, from its first index on."""
        spacing = self.spacing * factor
        origin = tuple((i + 0.5) * spacing - self.spacing / 2 for i in reversed(first))
        return Grid(distance.shape[::-1], (spacing,) * 3, origin)


def save(content: object, path: str | Path) -> None:
    """Write what torch can save, as a whole or not at all. Raises InputError where it fails.

    By way of the memory, because torch does not tell that a disk is full.
    """
    saved = io.BytesIO()
    torch.save(content, saved)
    with atomic(path) as temporary:
        temporary.write_bytes(saved.getbuffer())


def prepare(
    fixed: Volume,
    moving: Volume,
    fixed_mask: Volume,
    moving_mask: Volume,
    fixed_points: np.ndarray,
    moving_points: np.ndarray,
    *,
    jitter: np.random.Generator | None = None,
) -> PreparedPair:
    """Prepare a pair with corresponding points (N, 3), LPS mm, MOST_POINTS of them at most.

    jitter: where given, the lung alignment is disturbed (a few millimetres and per cent), so that
    the optimiser learns to correct bad starts as well.
    """
    distances = distance_map(fixed_mask), distance_map(moving_mask)
    start = lung_alignment(*distances, fixed.grid, moving.grid)
    if jitter is not None:
        start = _disturbed(start, fixed_points.mean(axis=0), jitter)
    pair = working_pair(fixed, moving, *distances, start)
    images = [torch.from_numpy(a) for a in (pair.fixed, pair.moving)]
    maps = [torch.from_numpy(a) for a in (pair.fixed_distance, pair.moving_distance)]
    features = [tuple(packed(feature_map(image, f)) for image in images) for f in FACTORS]
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(fixed_points))[:MOST_POINTS]
    points = fixed_points[chosen]
    targets = moved(start.GetInverse(), moving_points[chosen]) - points
    prepared = PreparedPair(
        features,
        _halved(maps),
        torch.empty(0),
        torch.from_numpy(points - np.asarray(pair.grid.origin)).float(),
        torch.from_numpy(targets).float(),
        pair.grid.spacing[0],
        _halved(images),
    )
    prepared.search = discrete_search(prepared.level(0))
    return prepared


def _halved(volumes: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Volumes (D, H, W) on voxels of twice the size, float16."""
    return tuple(pool(volume[None], 2)[0].half() for volume in volumes)


def packed(features: torch.Tensor) -> torch.Tensor:
    """MIND in (0, 1] as bytes."""
    return (features * 255).round_().to(torch.uint8)


def unpacked(features: torch.Tensor) -> torch.Tensor:
    """Bytes back to MIND in [0, 1], float32."""
    return features.float().div_(255)


def _disturbed(start: sitk.AffineTransform, centre, rng: np.random.Generator):
    matrix = np.reshape(start.GetMatrix(), (3, 3)) + rng.normal(0, 0.02, (3, 3))
    image = np.array(start.TransformPoint(centre.tolist())) + rng.normal(0, 3.0, 3)
    return affine(matrix, centre, image)
